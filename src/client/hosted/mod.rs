//! The books in Limitry's hosted service, by the calls that it documents.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use tower_limitry::Books;
//! use tower_limitry::client::{Client, Hosted};
//! use tower_limitry::outbox::Outbox;
//!
//! let client = Client::from_env()?; // LIMITRY_API_KEY
//! let hosted = Hosted::builder(&client).debts("usage.debts").open().await?;
//! let books = Books::new(Outbox::builder(hosted).open("usage.outbox").await?);
//! # let _ = books;
//! # Ok(())
//! # }
//! ```
//!
//! A check asks for the limits and for the balance, both at once, and adds what this process knows
//! besides: what its running requests set aside, and what was used and is still on its way. A
//! settlement is a debit, then an event; behind an [`Outbox`](crate::outbox::Outbox) the events of
//! up to 1,000 go in one call.
//!
//! For several processes that share one budget, a server of this crate with
//! [`Remote`](super::Remote) is the better choice: it has holds, and settles in one step.
//!
//! # What the API cannot do, and what becomes of it
//!
//! - **It has no holds**, so they are kept in this process. Requests of this process never overspend.
//!   Those of several can, by the estimates of what runs in the others and what is in their outboxes.
//! - **A settlement is two steps.** Debit comes first. A process that ends between the two goes on
//!   from its outbox, with the same ids: a service that knows `Idempotency-Key` takes the debit once.
//!   Of one that does not, [`Repeat`](super::Repeat) says what is the lesser evil; with
//!   [`AtMostOnce`](super::Repeat::AtMostOnce) what is not known to be done is set aside in the outbox:
//!   over a restart, too, with a file of [debts](HostedBuilder::debts), which then has what was sent.
//! - **A debit never goes under the minimum.** One that is refused because the work cost more than was
//!   left takes what is left. The rest is a debt, kept here (and in a file, [`HostedBuilder::debts`]):
//!   it counts against every next check, and is taken when there is something to take.
//! - **An id of your own is remembered while it is on its way, and not longer.** A check under an id that
//!   was settled before runs again; its event counts once where the service knows ids.
//! - **Meters are read for each limit when it is first seen**, and again every minute: a check that meets
//!   a limit for the first time takes one round trip more. A limit whose meter the API does not tell
//!   refuses when the API says so, and holds nothing.
//! - **A window's start is not told**, so it is computed from its end: that of a month may be some days off.
//! - **Time is this machine's**: an event has the time at which it was checked here. Keep its clock set.
//! - What waits in an outbox when a process starts counts from its first delivery on, some moments later.
//! - What ran or waited for longer than the service remembers ids may be refused as too old; the outbox
//!   sets it aside.
//! - **An event at which the service fails** would fail all that go with it. So fewer and fewer go in one
//!   call, until it is alone; it is set aside after some attempts ([`HostedBuilder::give_up_after`]). So is
//!   a settlement at whose debit the service fails, which holds up its customer until then: whether it was
//!   debited is not known, and its event is not recorded. Replayed from the outbox, it goes under the same ids.
//!
//! The key must be allowed to read limits, meters and balances besides.
//!
//! [`Books`](crate::Books) on it can do less than on a store:
//!
//! - **Events cannot be taken back**; record one that makes up for it.
//! - **New meters and limits are made by [`Client`]**, as the API gives them ids of its own. Those that
//!   it has can be changed. Private limits and units are not known.
//! - **Transactions are read by [`Client`]**, as the API does not tell what a balance was after each.
//! - **A repeat is answered as it was at first**: that an event or a credit was there before is not told.
//! - **Limits that are narrowed to dimensions** are told only to checks that name these, and not by
//!   [`usage`](crate::Books::usage).
//! - **An estimate that no meter reads** is no error, as the meters of a customer are not told.
//! - **A billing date comes back as a moment**: midnight in the customer's zone.
//!
//! With the feature `metrics`: the counters `limitry.debts` and `limitry.debts_paid`.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::Client;
use crate::Error;
use crate::backend::{Admin, Backend, Check, Delivery, Receipt, Settlement, Ticket};
use crate::clock::Clock;
use crate::policy::{EventId, Limit, Meter, Timestamp};
use crate::store::BoxFuture;

mod admin;
mod balances;
mod builder;
mod check;
mod debts;
mod deliver;
mod finish;
mod judge;
mod known;
mod ledger;
mod pay;
mod record;
mod sent;
mod suspects;
mod window;

pub use builder::HostedBuilder;
pub use check::HostedCheck;
pub use debts::Debt;
pub use finish::HostedFinish;

use debts::Debts;
use known::Known;
use ledger::Ledger;
use sent::Sent;
use suspects::Suspects;

/// A backend whose books are in Limitry's hosted service. Cheap to clone.
#[derive(Clone)]
pub struct Hosted(Arc<Inner>);

struct Inner {
    client: Client,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    terms: Terms,
    meters: Known<Meter>,
    limits: Known<Limit>,
    ledger: Mutex<Ledger>,
    debts: Debts,
    sent: Sent,
    /// Events at which the API fails.
    suspects: Suspects,
    /// Settlements at whose debits it does.
    undebited: Suspects,
    on_debt: Option<Arc<OnDebt>>,
    /// One pays debts at a time.
    paying: tokio::sync::Mutex<()>,
    closed: AtomicBool,
    /// How many settlements are tried that no outbox has.
    settling: AtomicUsize,
    /// A request has ended, or one of these.
    ended: Notify,
}

type OnDebt = dyn Fn(&Debt) + Send + Sync;

/// For how long, and how often.
#[derive(Clone, Copy, Debug)]
struct Terms {
    /// A check may take.
    check: Duration,
    /// A settlement without an outbox may take.
    settle: Duration,
    /// The API may take until its checks tell of what it has recorded.
    lag: Duration,
    /// Debts wait before they are tried again.
    debts: Duration,
    /// How often the API may fail at one event.
    failures: u32,
}

impl fmt::Debug for Hosted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosted")
            .field("client", &self.0.client)
            .field("terms", &self.0.terms)
            .finish_non_exhaustive()
    }
}

impl Hosted {
    /// Starts to put a backend together that speaks by this client.
    pub fn builder(client: &Client) -> HostedBuilder {
        HostedBuilder::new(client)
    }

    /// What is owed, the oldest first.
    pub fn debts(&self) -> Vec<Debt> {
        self.0.debts.all()
    }

    /// Takes what is owed from balances that have something by now, without waiting for the next
    /// time.
    pub async fn collect_debts(&self) {
        pay::collect(&self.0).await;
    }
}

impl Backend for Hosted {
    type Check = HostedCheck;
    type Finish = HostedFinish;

    fn check(&self, check: Check) -> Self::Check {
        check::send(&self.0, check)
    }

    fn settle(&self, settlement: Settlement) -> Self::Finish {
        finish::settle(&self.0, settlement)
    }

    fn settle_many(
        &self,
        batch: Vec<Delivery>,
        within: Duration,
    ) -> BoxFuture<'static, Vec<Result<Receipt, Error>>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let batch = batch.into_iter().map(|delivery| delivery.settlement).collect();
            let results = deliver::deliver(&inner, batch, within).await;
            results.into_iter().map(|result| result.map(|()| Receipt::Taken)).collect()
        })
    }

    fn queued(&self, settlement: &Settlement) {
        self.0.ledger().used(settlement);
        self.0.ended.notify_waiters();
    }

    fn release(&self, ticket: Ticket) -> Self::Finish {
        self.0.ledger().release(&ticket, self.0.clock.monotonic());
        self.0.ended.notify_waiters();
        HostedFinish::done(Ok(()))
    }

    fn make_id(&self, at: Timestamp) -> EventId {
        self.0.client.make_id(at)
    }

    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    fn admin(&self) -> &dyn Admin {
        self
    }
}

impl Inner {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests run, or are told to the API by nobody else.
    fn running(&self) -> usize {
        let settling = self.settling.load(Ordering::SeqCst);
        self.ledger().running(self.clock.monotonic()) + settling
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Until when the API may not yet tell of what it says now that it has.
    fn told_by(&self) -> Duration {
        self.clock.monotonic().saturating_add(self.terms.lag)
    }
}
