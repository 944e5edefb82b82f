//! What stands behind the layer: the one trait, and one handle over every implementation.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use compact_str::CompactString;

use crate::policy::{Amount, CustomerId, Decision, EventId, IdError, Timestamp, Usage};
use crate::store::{BoxFuture, Place};
use crate::{Error, ErrorKind};

mod admin;
mod books;
mod delivery;
mod erased;
pub(crate) mod permit;

pub use admin::{
    Admin, Customer, EventQuery, MeterQuery, MeterReading, Page, PageRequest, Recorded,
    TransactionQuery,
};
pub use books::Books;
pub use delivery::{Delivery, Producer, Receipt};
pub use erased::{Erased, ErasedFinish};
pub use permit::{CheckError, Permit};

/// The type of an event when none is named.
pub const DEFAULT_EVENT_TYPE: &str = "request";

/// Decides and keeps the books, here or elsewhere.
///
/// [`check`](Self::check), [`settle`](Self::settle) and [`release`](Self::release) begin when they
/// are called, not when their future is first polled, and dropping the future does not undo them: a
/// settlement may be handed over from a destructor, outside of any runtime. An implementation that
/// has to wait for somebody keeps a place for the settlement of every check that it allows.
///
/// Named futures keep the request path free of boxes; [`Erased`] boxes them for a backend that is
/// chosen at run time.
///
/// Implement it to wrap another backend. To keep books of your own, implement
/// [`Store`](crate::store::Store) and build an [`Engine`](crate::Engine) on it.
pub trait Backend: Clone + fmt::Debug + Send + Sync + 'static {
    /// The answer to [`check`](Self::check).
    type Check: Future<Output = Result<Admission, Error>> + Send + Unpin + 'static;
    /// Resolves once a settlement or release is as durable as the backend promises.
    type Finish: Future<Output = Result<(), Error>> + Send + Unpin + 'static;

    /// Decides over all limits that apply and the balance, and sets the estimate aside, as one
    /// atomic step.
    ///
    /// Dropped before its answer, the future of an id that a caller gave releases what this check
    /// placed or will place, and nothing else: another request may hold under the same id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when it was not decided, [`ErrorKind::TimedOut`] when that is not
    /// known, [`ErrorKind::Invalid`] for a check that makes no sense, [`ErrorKind::Conflict`] for an
    /// id that is in use right now.
    fn check(&self, check: Check) -> Self::Check;

    /// Records what was used, charges the balance and drops the hold, as one atomic step. Counts
    /// once for each id, and never refuses.
    fn settle(&self, settlement: Settlement) -> Self::Finish;

    /// Settles what was kept in a queue: one answer for each, in their order, within that time or
    /// [`ErrorKind::TimedOut`].
    ///
    /// Those of one customer are taken in their order. Once one fails in a way that may pass
    /// ([`Error::is_transient`]), nothing later of that customer may be taken. One that fails for
    /// good is passed over.
    ///
    /// Unless implemented, each is [settled](Self::settle) by itself, and a repeat is known by its
    /// id alone. A target that takes many in one call, or knows repeats by [marks](Delivery),
    /// implements it.
    fn settle_many(
        &self,
        batch: Vec<Delivery>,
        within: Duration,
    ) -> BoxFuture<'static, Vec<Result<Receipt, Error>>> {
        Box::pin(delivery::settle_each(self.clone(), batch, within))
    }

    /// Drops the hold and records nothing. For an id whose check has not arrived, sees to it that it
    /// places nothing.
    fn release(&self, ticket: Ticket) -> Self::Finish;

    /// A new id for a check.
    fn make_id(&self) -> EventId;

    /// The time of the books.
    fn now(&self) -> Timestamp;

    /// Everything that is not on the path of a request.
    fn admin(&self) -> &dyn Admin;
}

/// A question: may this customer do this now?
///
/// ```
/// use tower_limitry::Check;
///
/// let check = Check::of("acct_42")
///     .event_type("llm.completion")
///     .dimension("model", "large-2")
///     .estimate("total_tokens", 500)
///     .charge("AI Credits", |usage| usage.value("total_tokens"));
/// # let _ = check;
/// ```
#[derive(Clone)]
#[must_use]
pub struct Check(pub(crate) Arc<Ask>);

#[derive(Clone)]
pub(crate) struct Ask {
    /// Made by the backend unless given.
    pub(crate) id: Option<Result<EventId, IdError>>,
    /// Whether a caller may send the same id again.
    pub(crate) given: bool,
    /// Tells apart the checks that are sent under one given id.
    pub(crate) attempt: u64,
    pub(crate) customer: Result<CustomerId, IdError>,
    pub(crate) event_type: Option<CompactString>,
    /// The dimensions, and the estimate if there are values.
    pub(crate) expected: Usage,
    pub(crate) charge: Option<Charge>,
    pub(crate) lifetime: Option<Duration>,
}

/// What a request costs a balance: a name, and a price as a function of usage.
#[derive(Clone)]
pub(crate) struct Charge {
    pub(crate) balance: CompactString,
    pub(crate) price: Arc<Price>,
}

pub(crate) type Price = dyn Fn(&Usage) -> Option<Amount> + Send + Sync;

impl Charge {
    /// The price of that usage. `None` where it cannot be told: a value is missing, the price is
    /// below zero, or the function panicked.
    pub(crate) fn price(&self, usage: &Usage) -> Option<Amount> {
        crate::hook::call(|| (self.price)(usage)).flatten().filter(|price| !price.is_negative())
    }
}

impl Check {
    /// A check for this customer: 1 to 256 bytes, or the check is answered
    /// [`ErrorKind::Invalid`].
    pub fn of<C>(customer: C) -> Self
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        Self(Arc::new(Ask {
            id: None,
            given: false,
            attempt: 0,
            customer: customer.try_into().map_err(Into::into),
            event_type: None,
            expected: Usage::new(),
            charge: None,
            lifetime: None,
        }))
    }

    /// What the request will be recorded as. Only limits whose meter such an event could move can
    /// refuse; without it every limit that matches can, and the event is recorded as
    /// [`DEFAULT_EVENT_TYPE`].
    pub fn event_type(mut self, event_type: impl AsRef<str>) -> Self {
        self.ask_mut().event_type = Some(CompactString::new(event_type.as_ref()));
        self
    }

    /// A dimension of the request. A limit that is narrowed to a dimension holds only for checks
    /// that name it.
    pub fn dimension(mut self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.ask_mut().expected.dimensions_mut().set(key.as_ref(), value.as_ref());
        self
    }

    /// What it is expected to use. Set aside while the request runs, so that no number of concurrent
    /// requests overspends; without an estimate they can, by what is in flight.
    pub fn estimate(self, name: impl AsRef<str>, amount: impl crate::policy::ToAmount) -> Self {
        let usage = Usage::of(name, amount);
        self.expect(usage)
    }

    /// What it is expected to use, with several values and dimensions.
    pub fn expect(mut self, usage: Usage) -> Self {
        self.ask_mut().expected.merge(usage);
        self
    }

    /// Charges this balance by what was used. The price is also applied to the estimate, for the
    /// check; without an estimate something must be left.
    pub fn charge<F>(mut self, balance: impl AsRef<str>, price: F) -> Self
    where
        F: Fn(&Usage) -> Option<Amount> + Send + Sync + 'static,
    {
        let balance = CompactString::new(balance.as_ref());
        self.ask_mut().charge = Some(Charge { balance, price: Arc::new(price) });
        self
    }

    /// An id of your own, under which the use counts once for as long as the store remembers it.
    pub fn id(mut self, id: impl AsRef<str>) -> Self {
        let ask = self.ask_mut();
        ask.id = Some(EventId::new(id));
        ask.given = true;
        self
    }

    /// Ends the hold by itself after this time unless it is renewed. In this process a hold needs no
    /// such end: it goes with its [`Permit`].
    pub fn hold_for(mut self, lifetime: Duration) -> Self {
        self.ask_mut().lifetime = Some(lifetime);
        self
    }

    pub(crate) fn with_id(mut self, id: EventId) -> Self {
        self.ask_mut().id = Some(Ok(id));
        self
    }

    /// Tells this check from others under the same given id.
    pub(crate) fn with_attempt(mut self, made: &EventId) -> Self {
        self.ask_mut().attempt = made.attempt();
        self
    }

    pub(crate) fn ask_mut(&mut self) -> &mut Ask {
        Arc::make_mut(&mut self.0)
    }

    /// The names of the hold, before it is known where it is.
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        match (&self.0.id, &self.0.customer) {
            (Some(Ok(id)), Ok(customer)) => {
                let (id, customer) = (id.clone(), customer.clone());
                Some(Ticket { id, customer, place: None, attempt: self.0.attempt })
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("customer", &self.0.customer)
            .field("event_type", &self.0.event_type)
            .field("expected", &self.0.expected)
            .field("balance", &self.0.charge.as_ref().map(|charge| &charge.balance))
            .finish_non_exhaustive()
    }
}

/// The answer to a [`Check`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Admission {
    /// What was decided, over which limits.
    pub decision: Decision,
    /// The hold to settle or release. `None` when it was refused, and when the id given was settled
    /// before, so that there is nothing to charge again.
    pub hold: Option<Hold>,
}

/// A hold, in the hands of whoever must settle or release it.
#[derive(Clone, Debug)]
pub struct Hold {
    pub(crate) ticket: Ticket,
    pub(crate) ask: Check,
    pub(crate) at: Timestamp,
}

/// Names a hold.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub(crate) id: EventId,
    pub(crate) customer: CustomerId,
    pub(crate) place: Option<Place>,
    /// Which of the checks that were sent under the id.
    pub(crate) attempt: u64,
}

impl Hold {
    /// The id: of the hold now, of the event once it is settled.
    pub fn id(&self) -> &EventId {
        &self.ticket.id
    }

    /// Whose it is.
    pub fn customer(&self) -> &CustomerId {
        &self.ticket.customer
    }

    /// When it was checked. The event is recorded at this time, in the windows of this time.
    pub fn at(&self) -> Timestamp {
        self.at
    }
}

/// What to record for a hold.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub(crate) hold: Hold,
    pub(crate) usage: Usage,
    pub(crate) charge: Option<Amount>,
    /// The usage is the estimate, as nothing was measured.
    pub(crate) estimated: bool,
    /// The answer to the check never came.
    pub(crate) unsure: bool,
}

impl Settlement {
    /// Measured usage. What it does not say about dimensions is taken from the check. `None` is
    /// missing usage: the estimate is charged if there is one, otherwise the event is recorded
    /// without values.
    pub(crate) fn new(hold: Hold, measured: Option<Usage>) -> (Self, bool) {
        let ask = &hold.ask.0;
        let measured = measured.filter(Usage::is_countable);
        let price = |usage: &Usage| ask.charge.as_ref().map(|charge| charge.price(usage));
        let estimated = measured.is_none();
        let (usage, charge, missing) = match measured {
            Some(measured) => {
                let usage = measured.with_dimensions_of(&ask.expected);
                match price(&usage) {
                    None => (usage, None, false),
                    Some(Some(price)) => (usage, Some(price), false),
                    // The record keeps what is known; the price falls back on the estimate.
                    Some(None) => (usage, price(&ask.expected).flatten(), true),
                }
            }
            None => (ask.expected.clone(), price(&ask.expected).flatten(), true),
        };
        (Self { hold, usage, charge, estimated, unsure: false }, missing)
    }
}

impl Settlement {
    /// Records what was measured, if anything, and charges nothing.
    pub(crate) fn record_only(&mut self) {
        self.charge = None;
        if self.estimated {
            let dimensions = self.usage.dimensions().clone();
            self.usage = Usage::new();
            *self.usage.dimensions_mut() = dimensions;
        }
    }

    pub(crate) fn into_ticket(self) -> Ticket {
        self.hold.ticket
    }
}

impl Error {
    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Unavailable, "the books are being closed; nothing new is taken")
    }
}
