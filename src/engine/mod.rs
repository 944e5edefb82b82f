//! The rules at work in this process: resolves a check into an operation and runs it on a store.
//!
//! ```
//! use tower_limitry::{Engine, Limit, Meter, NewBalance};
//!
//! let books = Engine::builder()
//!     .meter(Meter::sum("tokens", "total_tokens").event_type("llm.completion"))
//!     .limit(Limit::per_day("daily-tokens", "tokens", 100_000).named("Daily token limit"))
//!     .default_balance(NewBalance::new("AI Credits").initial(500))
//!     .build()?;
//! # let _ = books;
//! # Ok::<_, tower_limitry::policy::ConfigError>(())
//! ```

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify};

use crate::Error;
use crate::backend::{Admin, Backend, Check, Delivery, Receipt, Settlement, Ticket};
use crate::clock::Steady;
use crate::ids::Ids;
use crate::policy::catalog::{Catalog, Plan, PlanLine};
use crate::policy::frame::Frame;
use crate::policy::{Calendar, EventId, NewBalance, Timestamp, Window};
use crate::store::{BalanceRef, BoxFuture, HoldKey, Memory, Moment, Outcome, SettleOutcome, Store};

mod accounts;
mod admin;
mod balances;
mod builder;
mod check;
mod definitions;
mod deliver;
mod finish;
mod frames;
mod kept;
mod query;
mod record;
mod recount;
mod redefine;
mod reload;
mod settle;
mod void;
mod windows;

#[cfg(feature = "test-util")]
pub use crate::clock::ManualClock;
pub use crate::clock::{Clock, SystemClock};
pub use builder::EngineBuilder;
pub use check::CheckFuture;
pub use finish::FinishFuture;

use accounts::{Accounts, Known};
use builder::{OnAlert, OnEvent};
use check::Scope;
use definitions::Definitions;
use frames::{Frames, Newest};
use windows::Windows;

/// Decides in this process, and keeps its books in a [`Store`].
pub struct Engine<S = Memory>(Arc<Inner<S>>);

struct Inner<S> {
    store: S,
    clock: Arc<dyn Clock>,
    steady: Steady,
    ids: Ids,
    /// Counts changes of definitions, once they are made. Read before anything is resolved by them.
    epoch: AtomicU64,
    catalog: ArcSwap<Catalog>,
    accounts: Accounts,
    windows: Windows,
    frames: Frames,
    balances: Vec<NewBalance>,
    definitions: Mutex<Definitions>,
    on_event: Option<Arc<OnEvent>>,
    on_alert: Option<Arc<OnAlert>>,
    closed: AtomicBool,
    /// How many wait for running requests to end.
    waiting: AtomicUsize,
    ended: Notify,
    runtime: Option<Handle>,
}

impl Engine {
    /// Starts to put an engine together.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::new()
    }
}

impl<S> Clone for Engine<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: fmt::Debug> fmt::Debug for Engine<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("clock", &self.0.clock).finish_non_exhaustive()
    }
}

impl<S: Store> Engine<S> {
    fn new(
        store: S,
        mut definitions: Definitions,
        balances: Vec<NewBalance>,
        calendar: Calendar,
        (clock, steady): (Arc<dyn Clock>, Steady),
        on_event: Option<Arc<OnEvent>>,
        on_alert: Option<Arc<OnAlert>>,
    ) -> Self {
        let accounts = Accounts::default();
        for owner in definitions.owners() {
            let plans = Some(Arc::new(definitions.plans_for(&owner)));
            accounts.put(&owner, Known { plans, ..Known::default() });
        }
        Self(Arc::new(Inner {
            store,
            clock,
            steady,
            ids: Ids::default(),
            epoch: AtomicU64::new(0),
            catalog: ArcSwap::from_pointee(definitions.catalog()),
            accounts,
            windows: Windows::new(calendar),
            frames: Frames::default(),
            balances,
            definitions: Mutex::new(definitions),
            on_event,
            on_alert,
            closed: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            ended: Notify::new(),
            runtime: Handle::try_current().ok(),
        }))
    }
}

/// What a future says right now. One that waits is polled again by whoever it is handed to.
fn now<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

impl<S: Store> Backend for Engine<S> {
    type Check = CheckFuture<S>;
    type Finish = FinishFuture;

    fn check(&self, check: Check) -> Self::Check {
        let opened = self.0.open().and_then(|epoch| Ok((epoch, self.0.validate(check)?)));
        let (mut epoch, check) = match opened {
            Ok(opened) => opened,
            Err(error) => return CheckFuture::answered(Err(error)),
        };
        loop {
            let mut resolved = self.0.resolve(&check, epoch, Scope::Matching);
            let mut future = self.0.ask(&check, &mut resolved, true);
            match now(&mut future) {
                Poll::Ready(Ok(checked)) if checked.outcome == Outcome::Stale => {}
                Poll::Ready(Ok(mut checked)) => {
                    return CheckFuture::answered(resolved.admit(check, &mut checked));
                }
                Poll::Ready(Err(error)) => return CheckFuture::answered(Err(error)),
                Poll::Pending => {
                    return CheckFuture::sent(self.clone(), check, resolved, future);
                }
            }
            epoch = match self.0.open() {
                Ok(epoch) => epoch,
                Err(closed) => return CheckFuture::answered(Err(closed)),
            };
        }
    }

    fn settle(&self, mut settlement: Settlement) -> Self::Finish {
        loop {
            let mut future = self.0.settle(&mut settlement);
            match now(&mut future) {
                Poll::Ready(Ok(settled)) if settled.outcome == SettleOutcome::Stale => {}
                Poll::Ready(answer) => {
                    return FinishFuture::done(self.0.finish(&settlement, answer));
                }
                Poll::Pending if S::SETTLES_AT_CALL => return self.wait(settlement, future),
                Poll::Pending => return self.hand_over(settlement, future),
            }
        }
    }

    fn settle_many(
        &self,
        batch: Vec<Delivery>,
        within: Duration,
    ) -> BoxFuture<'static, Vec<Result<Receipt, Error>>> {
        Box::pin(self.clone().deliver(batch, within))
    }

    fn release(&self, ticket: Ticket) -> Self::Finish {
        let key = HoldKey {
            id: ticket.id(),
            customer: ticket.customer(),
            place: ticket.place,
            attempt: Some(ticket.check.ask().attempt),
        };
        let mut future = self.0.store.release(key, self.0.moment());
        match now(&mut future) {
            Poll::Ready(answer) => {
                self.0.one_ended();
                FinishFuture::done(answer)
            }
            Poll::Pending => {
                let engine = self.clone();
                self.spawn(async move {
                    let answer = future.await;
                    engine.0.one_ended();
                    answer
                })
            }
        }
    }

    fn make_id(&self, at: Timestamp) -> EventId {
        self.0.ids.make(at)
    }

    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn admin(&self) -> &dyn Admin {
        self
    }
}

impl<S: Store> Inner<S> {
    fn runtime(&self) -> Option<Handle> {
        Handle::try_current().ok().or_else(|| self.runtime.clone())
    }

    #[inline]
    fn now(&self) -> Timestamp {
        self.steady.steady(&*self.clock)
    }

    fn moment(&self) -> Moment<'_> {
        Moment::now(self.now(), &*self.clock)
    }

    fn balance<'a>(&'a self, name: &'a str) -> BalanceRef<'a> {
        let default = self.balances.iter().find(|terms| terms.name == name);
        BalanceRef { name, default }
    }

    #[inline]
    fn plan<'a>(
        known: Option<&'a Known>,
        catalog: &'a Catalog,
        event_type: Option<&str>,
    ) -> &'a Arc<Plan> {
        let own = known.and_then(|known| known.plans.as_deref());
        own.unwrap_or_else(|| catalog.plans()).plan(event_type)
    }

    fn window(&self, known: Option<&Known>, line: &PlanLine, at: Timestamp) -> Window {
        match known {
            Some(known) => known.window(&self.windows, line.period, at),
            None => self.windows.window(line.period, at),
        }
    }

    /// The plan in the windows of that time.
    fn frame(&self, known: Option<&Known>, plan: &Arc<Plan>, at: Timestamp) -> Frame {
        Frame::of(plan, |line| {
            let window = self.window(known, line, at);
            let since = line.since.max(known.and_then(|known| known.since[line.period.index()]));
            (window, since.is_none_or(|since| window.start() > since))
        })
    }

    /// The frame that was made last for such a customer.
    #[inline]
    fn newest<'a>(&'a self, known: Option<&'a Known>, plan: &Plan) -> &'a Newest {
        known.map_or_else(|| self.frames.of(plan), |known| &known.frame)
    }

    /// The definitions to resolve a new request by, unless nothing new is taken.
    ///
    /// Read before looking whether the books are being closed: closing makes what was resolved
    /// before it stale, so no request slips in between the look and its hold.
    fn open(&self) -> Result<u64, Error> {
        let epoch = self.epoch.load(Ordering::Acquire);
        if self.closed.load(Ordering::Relaxed) { Err(Error::closed()) } else { Ok(epoch) }
    }

    /// Wakes whoever waits for running requests.
    #[inline]
    fn one_ended(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.ended.notify_waiters();
        }
    }
}
