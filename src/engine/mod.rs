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
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use smallvec::{SmallVec, smallvec};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify};

use crate::backend::{
    Admin, Admission, Answer, Ask, Backend, BalanceState, Check, Decision, Delivery, Hold,
    Judgements, Receipt, Settlement, Ticket,
};
use crate::clock::Steady;
use crate::ids::Ids;
use crate::policy::catalog::{Amounts, Catalog, Plan, PlanLine};
use crate::policy::frame::Frame;
use crate::policy::{
    Calendar, CustomerId, EventId, NewBalance, RecordedEvent, Timestamp, Usage, Window,
};
use crate::store::{
    BalanceAsk, BalanceRef, BoxFuture, CheckOperation, Checked, HoldKey, HoldTerms, Judged, Memory,
    Moment, Origin, Outcome, SettleOperation, SettleOutcome, Settled, Store,
};
use crate::{Error, ErrorKind, hook, observe};

mod accounts;
mod admin;
mod builder;
mod definitions;
mod deliver;
mod finish;
mod frames;
mod kept;
mod query;
mod redefine;
mod reload;
mod void;
mod windows;

#[cfg(feature = "test-util")]
pub use crate::clock::ManualClock;
pub use crate::clock::{Clock, SystemClock};
pub use builder::EngineBuilder;
pub use finish::FinishFuture;

use accounts::{Accounts, Known};
use builder::{OnAlert, OnEvent};
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
            let mut future = self.0.ask(&mut resolved, true);
            match now(&mut future) {
                Poll::Ready(Ok(checked)) if checked.outcome == Outcome::Stale => {}
                Poll::Ready(answer) => {
                    drop(check);
                    return CheckFuture::answered(
                        answer.and_then(|checked| resolved.admit(checked)),
                    );
                }
                Poll::Pending => {
                    let (engine, resolved) = (self.clone(), Some(resolved));
                    let sent =
                        Box::new(Sent { engine, resolved, future, reload: None, patience: None });
                    return CheckFuture(CheckState::Sent(sent));
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

/// A check that was resolved, while its store answers.
struct Resolved {
    check: Check,
    epoch: u64,
    at: Timestamp,
    frame: Arc<Frame>,
    scope: Scope,
    /// What each line of the frame said, once the store has answered.
    judged: Judgements,
}

impl Resolved {
    /// What the store's answer means.
    fn decide(self, checked: &mut Checked) -> Decision {
        let Self { check, epoch, at, frame, mut judged, .. } = self;
        for (judged, told) in judged.iter_mut().zip(&checked.judged) {
            *judged = *told;
        }
        let name = check.ask().charge.as_ref().map(|charge| &charge.balance);
        let balance = checked.balance.take().zip(name).map(|(judged, name)| BalanceState {
            name: name.clone(),
            balance: judged.balance,
            verdict: judged.verdict,
        });
        check.answered(Answer::new(frame, epoch, at, judged, balance))
    }

    fn admit(mut self, mut checked: Checked) -> Result<Admission, Error> {
        let conflict = |message| Err(Error::new(ErrorKind::Conflict, message));
        match checked.outcome {
            // Nothing was looked at.
            Outcome::Finished => self.judged.clear(),
            Outcome::Open => {
                return conflict("a request with the same id is running; wait for its answer");
            }
            Outcome::Released => {
                return conflict("the id was released before it was checked; use a new one");
            }
            _ => {}
        }
        let at = self.at;
        let decision = self.decide(&mut checked);
        let hold = checked.place.map(|place| Hold {
            ticket: Ticket { check: decision.check(), place: Some(place) },
            at,
        });
        Ok(Admission { decision, hold })
    }
}

/// Which limits an ask is held against.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Those that such an event could move.
    Matching,
    /// Every one, to show where a customer stands.
    All,
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

    /// The frame that such a check is held against.
    #[inline]
    fn frame_for_check(&self, ask: &Ask, scope: Scope, now: Timestamp) -> Arc<Frame> {
        let known = self.accounts.get(&ask.customer);
        let known = known.as_deref();
        let catalog = self.catalog.load();
        let plan = Self::plan(known, &catalog, ask.event_type.as_deref());
        let newest = self.newest(known, plan);
        let which: Option<SmallVec<[u16; 8]>> = plan.narrows.then(|| match scope {
            Scope::All => plan.limited().collect(),
            Scope::Matching => plan.looked_at(ask.expected.dimensions()).collect(),
        });
        let frame = newest.get(plan, which.as_deref(), now);
        frame.unwrap_or_else(|| newest.put(self.frame(known, plan, now), which.as_deref()))
    }

    /// The frame that an event of any time moves.
    fn frame_for_event(
        &self,
        customer: &CustomerId,
        event_type: &str,
        usage: &Usage,
        at: Timestamp,
    ) -> Arc<Frame> {
        let known = self.accounts.get(customer);
        let known = known.as_deref();
        let catalog = self.catalog.load();
        let plan = Self::plan(known, &catalog, Some(event_type));
        let which: Option<SmallVec<[u16; 8]>> =
            plan.narrows.then(|| plan.moved_by(usage.dimensions()).collect());
        let newest = self.newest(known, plan).get(plan, which.as_deref(), at);
        newest.unwrap_or_else(|| {
            let whole = self.frame(known, plan, at);
            Arc::new(match which {
                Some(which) => whole.narrowed(&which),
                None => whole,
            })
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

    /// The check, if it makes sense, with its id.
    fn validate(&self, check: Check) -> Result<Check, Error> {
        let ask = check.ask();
        ask.validate()?;
        if !ask.expected.is_empty() && ask.charge.is_none() {
            let catalog = self.catalog.load();
            if !catalog.reads_any(ask.expected.values()) {
                let problem = format_args!(
                    "no meter reads {:?}; meters read: {}",
                    ask.expected.values(),
                    catalog.values()
                );
                return Err(Error::invalid("estimate", problem));
            }
        }
        let has_id = ask.has_id();
        Ok(if has_id { check } else { check.stamped(self.ids.make(self.now())) })
    }

    /// Works out what a check asks by the definitions of now.
    fn resolve(&self, check: &Check, epoch: u64, scope: Scope) -> Resolved {
        let at = check.ask().at.unwrap_or_else(|| self.now());
        let frame = self.frame_for_check(check.ask(), scope, at);
        let judged = smallvec![Judged::default(); frame.lines.len()];
        Resolved { check: check.clone(), epoch, at, frame, scope, judged }
    }

    /// Sends a check to the store.
    fn ask(&self, resolved: &mut Resolved, hold: bool) -> S::Check {
        let Resolved { check, epoch, at, frame, scope, judged } = resolved;
        let ask = check.ask();
        let asked = match scope {
            Scope::Matching => frame.plan.amounts(&ask.expected),
            Scope::All => Amounts::new(),
        };
        let balance = ask.charge.as_ref().map(|charge| {
            let expected = &ask.expected;
            let asked = if expected.is_empty() { None } else { charge.price(expected) };
            BalanceAsk { balance: self.balance(&charge.balance), asked }
        });
        let terms = HoldTerms { lifetime: ask.lifetime, remember: ask.given };
        self.store.check(CheckOperation {
            epoch: *epoch,
            now: Moment::now(*at, &*self.clock),
            id: &ask.id,
            attempt: ask.attempt,
            customer: &ask.customer,
            lines: &frame.lines,
            asked: &asked,
            judged,
            balance,
            hold: hold.then_some(terms),
            event_type: ask.recorded_as(),
            expected: &ask.expected,
        })
    }

    /// Sends a settlement, resolved by the definitions of now.
    fn settle(&self, settlement: &mut Settlement) -> S::Settle {
        let hold = &settlement.hold;
        let check = hold.check();
        let ask = check.ask();
        let origin = match (settlement.unsure, hold.ticket.place) {
            (true, _) => Origin::Unsure(ask.attempt),
            (false, place) => Origin::Held(place),
        };
        let charge = ask.charge.as_ref().zip(settlement.charge);
        let epoch = self.epoch.load(Ordering::Acquire);
        // The store may take what it is given, and the hook wants it, too.
        let mut copy = self.on_event.as_ref().map(|_| settlement.usage.clone());
        let mut operation = SettleOperation {
            epoch,
            now: self.moment(),
            id: &ask.id,
            customer: &ask.customer,
            origin,
            event_type: ask.recorded_as(),
            usage: copy.as_mut().unwrap_or(&mut settlement.usage),
            at: hold.at,
            lines: &[],
            given: &[],
            charge: charge.map(|(charge, amount)| (self.balance(&charge.balance), amount)),
            reverses: false,
            mark: None,
        };
        let answer = check.answer().filter(|answer| answer.epoch == epoch);
        let same = answer.filter(|answer| {
            let plan = &answer.frame.plan;
            // Else it was checked against what is not counted, or counts what was not checked.
            let is_same = || answer.frame.lines.iter().map(|line| line.index);
            let moved = || plan.moved_by(operation.usage.dimensions());
            ask.event_type.is_some() && (!plan.narrows || is_same().eq(moved()))
        });
        let made;
        let frame = match same {
            // By the definitions of its check, as they are still those of now, and in its windows.
            Some(answer) => &answer.frame,
            None => {
                let event_type = ask.recorded_as();
                made = self.frame_for_event(&ask.customer, event_type, operation.usage, hold.at);
                &made
            }
        };
        let given = frame.plan.amounts(operation.usage);
        operation.lines = &frame.lines;
        operation.given = &given;
        self.store.settle(operation)
    }

    /// What the store's answer to a settlement means.
    fn finish(&self, settlement: &Settlement, answer: Result<Settled, Error>) -> Result<(), Error> {
        let hold = &settlement.hold;
        let settled = answer?;
        let ask = hold.check().ask();
        self.tell(&settled, || RecordedEvent {
            id: ask.id.clone(),
            customer: ask.customer.clone(),
            event_type: ask.recorded_as().into(),
            usage: settlement.usage.clone(),
            at: hold.at,
            sequence: 0,
            reverses: false,
        });
        self.settled(&ask.customer, ask.recorded_as(), hold.at, &settled);
        match settled.outcome {
            SettleOutcome::Recorded | SettleOutcome::Repeat | SettleOutcome::Stale => Ok(()),
            SettleOutcome::TooOld
            | SettleOutcome::Full
            | SettleOutcome::Unavailable
            | SettleOutcome::Behind => Err(settled.outcome.into()),
        }
    }

    /// Tells of an event that was recorded.
    #[inline]
    fn tell(&self, settled: &Settled, event: impl FnOnce() -> RecordedEvent) {
        if let Some(on_event) = &self.on_event
            && settled.outcome == SettleOutcome::Recorded
        {
            let event = event();
            hook::call(|| on_event(&event));
        }
    }

    /// Tells about what a settlement caused.
    fn settled(&self, customer: &CustomerId, event_type: &str, at: Timestamp, settled: &Settled) {
        observe::settlement(match settled.outcome {
            SettleOutcome::Recorded if settled.saturated => "saturated",
            SettleOutcome::Recorded => "recorded",
            SettleOutcome::Repeat => "repeat",
            SettleOutcome::Stale => "stale",
            SettleOutcome::TooOld => "too_old",
            SettleOutcome::Full => "full",
            SettleOutcome::Unavailable => "unavailable",
            SettleOutcome::Behind => "behind",
        });
        if !settled.alerts.is_empty() {
            self.alert(customer, event_type, at, settled);
        }
        self.one_ended();
    }

    #[cold]
    fn alert(&self, customer: &CustomerId, event_type: &str, at: Timestamp, settled: &Settled) {
        let Some(on_alert) = &self.on_alert else { return };
        let known = self.accounts.get(customer);
        let catalog = self.catalog.load();
        let plan = Self::plan(known.as_deref(), &catalog, Some(event_type));
        for (limit, percent, used) in &settled.alerts {
            let Some(line) = plan.lines.iter().find(|line| line.id() == &**limit) else { continue };
            let window = self.window(known.as_deref(), line, at);
            let crossing = line.crossing(customer.clone(), *percent, *used, window);
            hook::call(|| on_alert(&crossing));
        }
    }

    /// Wakes whoever waits for running requests.
    #[inline]
    fn one_ended(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.ended.notify_waiters();
        }
    }
}

impl From<SettleOutcome> for Error {
    fn from(outcome: SettleOutcome) -> Self {
        match outcome {
            SettleOutcome::TooOld => Self::new(
                ErrorKind::TooOld,
                "the event is older than ids are remembered, so a repeat could not be told; \
                 if it was not counted before, record it without an id of its own",
            ),
            SettleOutcome::Unavailable => Self::new(
                ErrorKind::Unavailable,
                "the store cannot take the use now; try again under the same id",
            ),
            SettleOutcome::Behind => Self::new(
                ErrorKind::Unavailable,
                "the store has forgotten what it had taken before; deliver that again first",
            ),
            _ => Self::new(
                ErrorKind::Unavailable,
                "the store has no place for another customer; raise max_customers",
            ),
        }
    }
}

/// The answer of an [`Engine`] to a check.
pub struct CheckFuture<S: Store>(CheckState<S>);

enum CheckState<S: Store> {
    Answered(Option<Result<Admission, Error>>),
    Sent(Box<Sent<S>>),
}

/// A check that its store did not answer at once.
struct Sent<S: Store> {
    engine: Engine<S>,
    resolved: Option<Resolved>,
    future: S::Check,
    /// The definitions have changed, and are looked up.
    reload: Option<BoxFuture<'static, Result<(), Error>>>,
    /// How long that may take, from the first time on.
    patience: Option<BoxFuture<'static, ()>>,
}

impl<S: Store> CheckFuture<S> {
    fn answered(answer: Result<Admission, Error>) -> Self {
        Self(CheckState::Answered(Some(answer)))
    }
}

impl<S: Store> fmt::Debug for CheckFuture<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckFuture").finish_non_exhaustive()
    }
}

impl<S: Store> Future for CheckFuture<S> {
    type Output = Result<Admission, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let sent = match &mut self.get_mut().0 {
            CheckState::Answered(answer) => {
                return Poll::Ready(answer.take().expect("CheckFuture polled after completion"));
            }
            CheckState::Sent(sent) => sent,
        };
        loop {
            if let Some(reload) = &mut sent.reload {
                if let Poll::Ready(reloaded) = reload.as_mut().poll(cx) {
                    reloaded?;
                } else {
                    let patience =
                        sent.patience.as_mut().map(|patience| patience.as_mut().poll(cx));
                    ready!(patience.unwrap_or(Poll::Pending));
                    let message = "another process is changing definitions; try again";
                    return Poll::Ready(Err(Error::new(ErrorKind::Unavailable, message)));
                }
                sent.reload = None;
                let resolved = sent.resolved.take().expect("CheckFuture polled after completion");
                let epoch = sent.engine.0.open()?;
                let resolved = sent.engine.0.resolve(&resolved.check, epoch, Scope::Matching);
                let resolved = sent.resolved.insert(resolved);
                sent.future = sent.engine.0.ask(resolved, true);
            }
            let checked = ready!(Pin::new(&mut sent.future).poll(cx))?;
            let resolved = sent.resolved.take().expect("CheckFuture polled after completion");
            if checked.outcome != Outcome::Stale {
                return Poll::Ready(resolved.admit(checked));
            }
            let (engine, epoch) = (sent.engine.clone(), resolved.epoch);
            sent.resolved = Some(resolved);
            if sent.patience.is_none() {
                sent.patience = engine.0.store.patience();
            }
            sent.reload = Some(Box::pin(async move { engine.0.reload(epoch).await }));
        }
    }
}
