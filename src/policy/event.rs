use std::collections::HashSet;

use compact_str::CompactString;

use super::{Aggregation, Amount, CustomerId, EventId, IdError, Period, Timestamp, Usage, Window};

/// One use to record: who, what, how much, when.
///
/// ```
/// use tower_limitry::{Event, Usage};
///
/// let event = Event::new("acct_42", "seat.count", Usage::of("seats", 4));
/// # let _ = event;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Event {
    pub(crate) customer: Result<CustomerId, IdError>,
    pub(crate) event_type: CompactString,
    pub(crate) usage: Usage,
    pub(crate) id: Option<Result<EventId, IdError>>,
    pub(crate) at: Option<Timestamp>,
}

impl Event {
    /// A use of now, with an id made for it.
    pub fn new<C>(customer: C, event_type: impl AsRef<str>, usage: Usage) -> Self
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        Self {
            customer: customer.try_into().map_err(Into::into),
            event_type: CompactString::new(event_type.as_ref()),
            usage,
            id: None,
            at: None,
        }
    }

    /// An id of your own: recording it again counts nothing.
    ///
    /// A store remembers such ids for a declared time (in memory ten minutes), and refuses an event
    /// that is older than that instead of counting it twice. So the event must tell its time: by
    /// [`at`](Self::at), the same on every attempt, or in the id, if that is a UUID of version 7.
    ///
    /// Under the id of a request that was settled it is a repeat, too: in memory as long as the
    /// request's event is kept (`Memory::keep_events`).
    pub fn id(mut self, id: impl AsRef<str>) -> Self {
        self.id = Some(EventId::given(id));
        self
    }

    /// When it happened, at most 24 hours ahead; it counts in the windows of that time.
    pub fn at(mut self, at: Timestamp) -> Self {
        self.at = Some(at);
        self
    }
}

/// An event as it was recorded.
#[derive(Clone, Debug)]
pub struct RecordedEvent {
    pub(crate) id: EventId,
    pub(crate) customer: CustomerId,
    pub(crate) event_type: CompactString,
    pub(crate) usage: Usage,
    pub(crate) at: Timestamp,
    /// It takes another event back: its amounts are those of that event, below zero.
    pub(crate) reverses: bool,
    /// Its place in the order of arrival.
    pub(crate) sequence: u64,
}

impl RecordedEvent {
    /// Its id.
    pub fn id(&self) -> &EventId {
        &self.id
    }

    /// Who used it.
    pub fn customer(&self) -> &CustomerId {
        &self.customer
    }

    /// What kind of use it was.
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// Amounts and dimensions.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// When it happened.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Whether it takes another event back. Its amounts are those of that event, below zero.
    pub fn is_reversal(&self) -> bool {
        self.reverses
    }

    /// What it gives a meter that reads `amount` from it.
    pub(crate) fn gives(&self, aggregation: Aggregation, amount: Amount) -> Option<Amount> {
        aggregation.given(amount, self.reverses)
    }

    /// The event that takes this one back, at the same time so that it counts in the same windows.
    pub(crate) fn reversal(&self) -> Result<Self, IdError> {
        Ok(Self {
            id: EventId::new(format!("{}{}", EventId::VOID, self.id))?,
            usage: self.usage.negated(),
            reverses: true,
            ..self.clone()
        })
    }
}

/// Events that were taken back. Where some events are gone, and what takes them back is not, what is
/// left is found without both, as are the highest and the latest.
#[derive(Debug, Default)]
pub(crate) struct Voided(HashSet<(CustomerId, String)>);

impl Voided {
    /// Notes what this event takes back, if anything.
    pub(crate) fn note(&mut self, event: &RecordedEvent) {
        let id = event.reverses.then(|| event.id.to_string());
        if let Some(id) = id.as_deref().and_then(|id| id.strip_prefix(EventId::VOID)) {
            self.0.insert((event.customer.clone(), id.to_owned()));
        }
    }

    /// Whether the event was taken back, or takes one of these back.
    pub(crate) fn has(&self, event: &RecordedEvent) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let id = event.id.to_string();
        let prefix = if event.reverses { EventId::VOID } else { "" };
        let of = id.strip_prefix(prefix).map(ToOwned::to_owned);
        of.is_some_and(|of| self.0.contains(&(event.customer.clone(), of)))
    }
}

/// Usage reached a percentage of a limit.
///
/// Told once for each limit, customer, window and percentage.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Crossing {
    /// Whose usage.
    pub customer: CustomerId,
    /// The limit's id.
    pub limit: Box<str>,
    /// The limit's name, for people.
    pub limit_name: Box<str>,
    /// The percentage that was reached.
    pub percent: u8,
    /// The cap.
    pub cap: Amount,
    /// Usage after the event.
    pub used: Amount,
    /// The period.
    pub period: Period,
    /// The window.
    pub window: Window,
}
