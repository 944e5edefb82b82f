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
        let ask = hold.check().ask();
        let price = |usage: &Usage| ask.charge.as_ref().map(|charge| charge.price(usage));
        let estimated = !measured.as_ref().is_some_and(Usage::is_countable);
        let mut usage = measured.unwrap_or_default();
        if estimated {
            usage = ask.expected.clone();
        } else {
            usage.add_dimensions_of(&ask.expected);
        }
        let (charge, unpriced) = match price(&usage) {
            None => (None, false),
            Some(Some(price)) => (Some(price), false),
            // The record keeps what is known; the price falls back on the estimate.
            Some(None) => (price(&ask.expected).flatten(), true),
        };
        let missing = estimated || unpriced;
        (Self { hold, usage, charge, estimated, unsure: false }, missing)
    }

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
