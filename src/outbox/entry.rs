//! How a settlement is kept: what of it is written, and how it is made whole again.

use serde::{Deserialize, Serialize};

use crate::Check;
use crate::backend::{Hold, Settlement, Ticket};
use crate::policy::{Amount, CustomerId, EventId, Timestamp, Usage};
use crate::store::Place;

/// A settlement as the file keeps it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) customer: CustomerId,
    /// See [`Settlement::unsure`].
    pub(super) unsure: bool,
    pub(super) body: String,
}

/// The rest of it, as JSON. Members may be added; one that is missing has its default.
#[derive(Debug, Serialize, Deserialize)]
struct Body {
    id: String,
    /// Nanoseconds since the Unix epoch.
    at: i64,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    /// Amounts in millionths.
    #[serde(default)]
    values: Vec<(String, i64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dimensions: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    balance: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    charge: Option<i64>,
    /// The id is a caller's.
    #[serde(default)]
    given: bool,
    #[serde(default)]
    attempt: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<u64>,
}

/// Why a kept entry cannot be made whole again: the file was damaged.
#[derive(Debug)]
pub(super) struct Unreadable(String);

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the entry cannot be read: {}", self.0)
    }
}

impl Entry {
    pub(super) fn new(settlement: &Settlement) -> Result<Self, serde_json::Error> {
        let Settlement { hold, usage, charge, unsure } = settlement;
        let ask = hold.check().ask();
        let values = usage.values().iter();
        let dimensions = usage.dimensions().iter();
        let body = Body {
            id: ask.id.to_string(),
            at: hold.at.as_nanos(),
            event_type: ask.event_type.as_ref().map(ToString::to_string),
            values: values.map(|(name, amount)| (name.into(), amount.as_millionths())).collect(),
            dimensions: dimensions.map(|(key, value)| (key.into(), value.into())).collect(),
            balance: ask.charge.as_ref().map(|charge| charge.balance.to_string()),
            charge: charge.map(Amount::as_millionths),
            given: ask.given,
            attempt: ask.attempt,
            place: hold.ticket.place.map(|place| place.0),
        };
        Ok(Self {
            customer: ask.customer.clone(),
            unsure: *unsure,
            body: serde_json::to_string(&body)?,
        })
    }

    pub(super) fn settlement(&self) -> Result<Settlement, Unreadable> {
        let body = self.read()?;
        let id = EventId::new(&body.id).map_err(|error| Unreadable(error.to_string()))?;
        let mut check = Check::of(&self.customer);
        if let Some(event_type) = &body.event_type {
            check = check.event_type(event_type);
        }
        if let Some(balance) = &body.balance {
            // The price was told when it was settled.
            check = check.charge(balance, |_| None);
        }
        let ask = check.ask_mut();
        ask.id = id;
        ask.given = body.given;
        ask.attempt = body.attempt;
        let usage = body.usage();
        let ticket = Ticket { check, place: body.place.map(Place) };
        Ok(Settlement {
            hold: Hold { ticket, at: Timestamp::from_nanos(body.at) },
            usage,
            charge: body.charge.map(Amount::from_millionths),
            unsure: self.unsure,
        })
    }

    fn read(&self) -> Result<Body, Unreadable> {
        serde_json::from_str(&self.body).map_err(|error| Unreadable(error.to_string()))
    }
}

impl Body {
    fn usage(&self) -> Usage {
        let mut usage = Usage::new();
        for (name, millionths) in &self.values {
            usage = usage.and(name, Amount::from_millionths(*millionths));
        }
        for (key, value) in &self.dimensions {
            usage = usage.dimension(key, value);
        }
        usage
    }
}

/// Names a request that runs: an id may be sent twice by its caller, and each has its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RequestKey(CustomerId, EventId, u64);

impl From<&Ticket> for RequestKey {
    fn from(ticket: &Ticket) -> Self {
        let attempt = ticket.check.ask().attempt;
        Self(ticket.customer().clone(), ticket.id().clone(), attempt)
    }
}

pub(super) fn ticket_of(hold: &Hold) -> &Ticket {
    &hold.ticket
}

/// Whether the check of a settlement was never answered, so that its request had no place.
pub(super) fn is_unsure(settlement: &Settlement) -> bool {
    settlement.unsure
}

pub(super) fn ticket(settlement: &Settlement) -> &Ticket {
    &settlement.hold.ticket
}
