use std::fmt;
use std::time::Duration;

use compact_str::CompactString;

use super::{Check, Decision};
use crate::policy::{
    Aggregation, Amount, Balance, Credit, Credited, Customer, CustomerId, Debit, Debited,
    Dimensions, Event, EventId, IdError, Limit, Meter, NewBalance, RecordedEvent, Timestamp,
    Transaction,
};
use crate::store::BoxFuture;
use crate::{Error, ErrorKind};

/// What a backend does besides deciding requests. [`Books`](super::Books) offers it in a form that
/// is pleasant to call.
pub trait Admin: fmt::Debug + Send + Sync {
    /// Decides as a check does, and keeps nothing.
    fn preview(&self, check: Check) -> BoxFuture<'_, Result<Decision, Error>>;

    /// Where a customer stands on every limit.
    fn usage(&self, customer: CustomerId) -> BoxFuture<'_, Result<Decision, Error>>;

    /// Records up to 1,000 events: all of them, or none.
    fn record(&self, events: Vec<Event>) -> BoxFuture<'_, Result<Vec<Recorded>, Error>>;

    /// Takes an event back, once. Answers the id of the event that does.
    fn void(&self, customer: CustomerId, id: EventId) -> BoxFuture<'_, Result<Recorded, Error>> {
        let _ = (customer, id);
        let message = "the backend cannot take events back";
        Box::pin(std::future::ready(Err(Error::new(ErrorKind::Invalid, message))))
    }

    /// Kept events, newest first.
    fn events(&self, query: EventQuery) -> BoxFuture<'_, Result<Page<RecordedEvent>, Error>>;

    /// What a meter reads over a range.
    fn query(&self, query: MeterQuery) -> BoxFuture<'_, Result<MeterReading, Error>>;

    /// All meters, by id.
    fn meters(&self) -> BoxFuture<'_, Result<Vec<Meter>, Error>>;

    /// Adds a meter, or replaces the one of its id.
    fn put_meter(&self, meter: Meter) -> BoxFuture<'_, Result<(), Error>>;

    /// Removes a meter that no limit reads. Answers whether it was there.
    fn remove_meter(&self, id: String) -> BoxFuture<'_, Result<bool, Error>>;

    /// All limits, by id.
    fn limits(&self) -> BoxFuture<'_, Result<Vec<Limit>, Error>>;

    /// Adds a limit, or replaces the one of its id.
    fn put_limit(&self, limit: Limit) -> BoxFuture<'_, Result<(), Error>>;

    /// Removes a limit. Answers whether it was there.
    fn remove_limit(&self, id: String) -> BoxFuture<'_, Result<bool, Error>>;

    /// What is known of a customer beyond usage.
    fn customer(&self, id: CustomerId) -> BoxFuture<'_, Result<Option<Customer>, Error>>;

    /// Customers of whom something is known beyond usage, by id.
    fn customers(&self, page: PageRequest) -> BoxFuture<'_, Result<Page<Customer>, Error>>;

    /// Adds or replaces what is known of a customer.
    fn put_customer(&self, customer: Customer) -> BoxFuture<'_, Result<(), Error>>;

    /// Forgets what is known of a customer; usage and balances stay. Answers whether it was there.
    fn remove_customer(&self, id: CustomerId) -> BoxFuture<'_, Result<bool, Error>>;

    /// Every balance of a customer, by name.
    fn balances(&self, customer: CustomerId) -> BoxFuture<'_, Result<Vec<Balance>, Error>>;

    /// Balances of all customers, by customer and name.
    fn all_balances(
        &self,
        page: PageRequest,
    ) -> BoxFuture<'_, Result<Page<(CustomerId, Balance)>, Error>> {
        let _ = page;
        let message = "the backend cannot list balances over all customers; name one";
        Box::pin(std::future::ready(Err(Error::new(ErrorKind::Invalid, message))))
    }

    /// Creates a balance.
    fn create_balance(
        &self,
        customer: CustomerId,
        terms: NewBalance,
    ) -> BoxFuture<'_, Result<Balance, Error>>;

    /// Changes what must remain of a balance.
    fn set_minimum(
        &self,
        customer: CustomerId,
        name: String,
        minimum: Amount,
    ) -> BoxFuture<'_, Result<Balance, Error>> {
        let _ = (customer, name, minimum);
        let message = "the backend cannot change the minimum of a balance";
        Box::pin(std::future::ready(Err(Error::new(ErrorKind::Invalid, message))))
    }

    /// Adds to a balance, once for each reference.
    fn credit(&self, credit: Credit) -> BoxFuture<'_, Result<Credited, Error>>;

    /// Takes from a balance, if it covers the amount.
    fn debit(&self, debit: Debit) -> BoxFuture<'_, Result<Debited, Error>>;

    /// Kept transactions of a balance, newest first.
    fn transactions(
        &self,
        query: TransactionQuery,
    ) -> BoxFuture<'_, Result<Page<Transaction>, Error>>;

    /// Lets the holds of these ids live on; answers which still do.
    fn renew(
        &self,
        holds: Vec<(CustomerId, EventId)>,
        lifetime: Duration,
    ) -> BoxFuture<'_, Result<Vec<bool>, Error>>;

    /// How many holds are open.
    fn open_holds(&self) -> BoxFuture<'_, Result<usize, Error>>;

    /// Resolves when no hold is open.
    fn settled(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// Takes no new checks, waits for running requests, and brings everything accepted to where it
    /// is kept.
    fn shutdown(&self, deadline: Duration) -> BoxFuture<'_, Result<(), Error>>;
}

/// The answer to one recorded event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recorded {
    /// The event's id.
    pub id: EventId,
    /// Whether this call counted it; `false` for an id that was recorded before.
    pub recorded: bool,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page starts; `None` when nothing follows.
    pub next: Option<String>,
}

/// How much of a list is wanted, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct PageRequest {
    pub(crate) limit: Option<usize>,
    pub(crate) cursor: Option<String>,
}

impl PageRequest {
    /// The first 50 items.
    pub fn first() -> Self {
        Self::default()
    }

    /// So many items, 1 to 100.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// From where [`Page::next`] points.
    pub fn after(mut self, cursor: impl Into<String>) -> Self {
        self.cursor = Some(cursor.into());
        self
    }

    /// The length asked for.
    pub(crate) fn length(&self) -> Result<usize, Error> {
        match self.limit {
            None => Ok(50),
            Some(limit @ 1..=100) => Ok(limit),
            Some(limit) => Err(Error::invalid("limit", format_args!("is {limit}; give 1 to 100"))),
        }
    }

    /// The number in the cursor, for lists that are ordered by one.
    pub(crate) fn number(&self) -> Result<Option<u64>, Error> {
        let number = self.cursor.as_ref().map(|cursor| cursor.parse()).transpose();
        number.map_err(|_| Error::invalid("cursor", "is none that a page gave"))
    }
}

/// Which events to list.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct EventQuery {
    pub(crate) customer: Option<Result<CustomerId, IdError>>,
    pub(crate) event_type: Option<CompactString>,
    pub(crate) page: PageRequest,
}

impl EventQuery {
    /// All events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only this customer's.
    pub fn customer<C>(mut self, customer: C) -> Self
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        self.customer = Some(customer.try_into().map_err(Into::into));
        self
    }

    /// Only this type.
    pub fn event_type(mut self, event_type: impl AsRef<str>) -> Self {
        self.event_type = Some(CompactString::new(event_type.as_ref()));
        self
    }

    /// This page.
    pub fn page(mut self, page: PageRequest) -> Self {
        self.page = page;
        self
    }
}

/// Which transactions to list.
#[derive(Clone, Debug)]
#[must_use]
pub struct TransactionQuery {
    pub(crate) customer: Result<CustomerId, IdError>,
    pub(crate) balance: CompactString,
    pub(crate) page: PageRequest,
}

impl TransactionQuery {
    /// Those of one balance.
    pub fn new<C>(customer: C, balance: impl AsRef<str>) -> Self
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        Self {
            customer: customer.try_into().map_err(Into::into),
            balance: CompactString::new(balance.as_ref()),
            page: PageRequest::first(),
        }
    }

    /// This page.
    pub fn page(mut self, page: PageRequest) -> Self {
        self.page = page;
        self
    }
}

/// What to read from a meter.
#[derive(Clone, Debug)]
#[must_use]
pub struct MeterQuery {
    pub(crate) meter: CompactString,
    pub(crate) customer: Option<Result<CustomerId, IdError>>,
    pub(crate) dimensions: Dimensions,
    pub(crate) start: Option<Timestamp>,
    pub(crate) end: Option<Timestamp>,
}

impl MeterQuery {
    /// A meter over all customers and all time.
    pub fn new(meter: impl AsRef<str>) -> Self {
        Self {
            meter: CompactString::new(meter.as_ref()),
            customer: None,
            dimensions: Dimensions::new(),
            start: None,
            end: None,
        }
    }

    /// Only this customer's events.
    pub fn customer<C>(mut self, customer: C) -> Self
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        self.customer = Some(customer.try_into().map_err(Into::into));
        self
    }

    /// Only events with this dimension; several must all match.
    pub fn dimension(mut self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.dimensions.set(key.as_ref(), value.as_ref());
        self
    }

    /// Only events of this time or later.
    pub fn from(mut self, start: Timestamp) -> Self {
        self.start = Some(start);
        self
    }

    /// Only events before this time.
    pub fn until(mut self, end: Timestamp) -> Self {
        self.end = Some(end);
        self
    }
}

/// What a meter reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MeterReading {
    /// The number.
    pub value: Amount,
    /// How it came about.
    pub aggregation: Aggregation,
    /// Whether every event of the range was still known.
    pub complete: bool,
}

/// Whose event it is and under which id, if it makes sense as far as that can be told without a
/// clock. `at` is its place among those recorded together.
pub(crate) fn sound_event(
    at: usize,
    event: &Event,
) -> Result<(CustomerId, Option<EventId>), Error> {
    let field = |name: &str| format!("events[{at}].{name}");
    let customer =
        event.customer.clone().map_err(|error| Error::invalid(&field("customer"), error))?;
    if !(1..=256).contains(&event.event_type.len()) {
        let problem = "is empty or too long; give 1 to 256 bytes";
        return Err(Error::invalid(&field("event_type"), problem));
    }
    if let Some(problem) = event.usage.problem() {
        return Err(Error::invalid(&field("usage"), problem));
    }
    let id = event.id.clone().transpose();
    let id = id.map_err(|error| Error::invalid(&field("id"), error))?;
    if id.as_ref().is_some_and(|id| event.at.or(id.made_at()).is_none()) {
        let problem = "is missing; with an id of your own tell the time of the event, the same on \
                       every attempt, so that a late repeat is not counted again";
        return Err(Error::invalid(&field("at"), problem));
    }
    Ok((customer, id))
}
