use super::Check;
use crate::policy::{Amount, CustomerId, EventId, Timestamp, Usage};
use crate::store::Place;

/// A hold, in the hands of whoever must settle or release it.
#[derive(Clone, Debug)]
pub struct Hold {
    pub(crate) ticket: Ticket,
    pub(crate) at: Timestamp,
}

/// Names a hold.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub(crate) check: Check,
    pub(crate) place: Option<Place>,
}

impl Ticket {
    /// The id of the hold.
    pub fn id(&self) -> &EventId {
        &self.check.ask().id
    }

    /// Whose it is.
    pub fn customer(&self) -> &CustomerId {
        &self.check.ask().customer
    }
}

/// One request: an id may be sent twice by its caller, and each has its number.
#[cfg(any(feature = "client", feature = "server"))]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    pub(crate) customer: CustomerId,
    pub(crate) id: EventId,
    pub(crate) attempt: u64,
}

#[cfg(any(feature = "client", feature = "server"))]
impl From<&Ticket> for Name {
    fn from(ticket: &Ticket) -> Self {
        let ask = ticket.check.ask();
        Self { customer: ask.customer.clone(), id: ask.id.clone(), attempt: ask.attempt }
    }
}

impl Hold {
    /// The id: of the hold now, of the event once it is settled.
    pub fn id(&self) -> &EventId {
        self.ticket.id()
    }

    /// Whose it is.
    pub fn customer(&self) -> &CustomerId {
        self.ticket.customer()
    }

    /// When it was checked. The event is recorded at this time, in the windows of this time.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// What was asked.
    pub(crate) fn check(&self) -> &Check {
        &self.ticket.check
    }
}

/// What to record for a hold.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub(crate) hold: Hold,
    pub(crate) usage: Usage,
    pub(crate) charge: Option<Amount>,
    /// The answer to the check never came.
    pub(crate) unsure: bool,
}

impl Settlement {
    /// Measured usage, at its own price. What it does not say about dimensions is taken from the check.
    /// With it, what is missing, if anything: all of it, a value that was estimated, or the price.
    pub(crate) fn new(hold: Hold, measured: Option<Usage>) -> (Self, Option<&'static str>) {
        let ask = hold.check().ask();
        let measured = measured.filter(Usage::is_countable);
        let price = |usage: &Usage| ask.charge.as_ref().map(|charge| charge.price(usage));
        let charge = measured.as_ref().and_then(price);
        let missing = match (&measured, charge) {
            (None, _) => Some("holds no number"),
            (_, Some(None)) => Some("cannot be priced; give every value that the price needs"),
            (Some(usage), _) if usage.lacks_a_value_of(&ask.expected) => {
                Some("lacks a value that was estimated")
            }
            _ => None,
        };
        let mut usage = measured.unwrap_or_default();
        usage.add_dimensions_of(&ask.expected);
        (Self { hold, usage, charge: charge.flatten(), unsure: false }, missing)
    }

    /// Charges the estimate for what is missing: each value of it that was not measured, and the
    /// price, where that cannot be told even so.
    pub(crate) fn charge_estimate(&mut self) {
        let ask = self.hold.ticket.check.ask();
        self.usage.add_values_of(&ask.expected);
        let price = |usage| ask.charge.as_ref().and_then(|charge| charge.price(usage));
        self.charge = price(&self.usage).or(self.charge).or_else(|| price(&ask.expected));
    }

    pub(crate) fn into_ticket(self) -> Ticket {
        self.hold.ticket
    }
}
