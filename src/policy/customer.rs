use std::collections::BTreeMap;

use super::{CustomerId, IdError};

/// What is known of a customer: a time zone, a billing date, and whatever you attach.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Customer {
    pub(crate) id: Result<CustomerId, IdError>,
    pub(crate) zone: Option<Box<str>>,
    pub(crate) anchor: Option<Box<str>>,
    pub(crate) metadata: BTreeMap<String, String>,
}

impl Customer {
    /// A customer in UTC, whose months begin on the 1st.
    pub fn new<C>(id: C) -> Self
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        Self {
            id: id.try_into().map_err(Into::into),
            zone: None,
            anchor: None,
            metadata: BTreeMap::new(),
        }
    }

    /// The IANA time zone in which days, weeks, months and years begin, such as `Europe/Vienna`.
    pub fn zone(mut self, zone: impl Into<Box<str>>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// The start of the billing cycle, from which months and years count: a date (`2026-01-31`) or a
    /// date and time (`2026-01-31T00:00:00Z`), of which the date in the customer's zone counts.
    pub fn billing_anchor(mut self, date: impl Into<Box<str>>) -> Self {
        self.anchor = Some(date.into());
        self
    }

    /// Attaches a text of your own.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// The id, unless it was not one.
    pub fn id(&self) -> Option<&CustomerId> {
        self.id.as_ref().ok()
    }

    /// The time zone's name, if set.
    pub fn time_zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The billing anchor, if set.
    pub fn anchor(&self) -> Option<&str> {
        self.anchor.as_deref()
    }

    /// What was attached.
    pub fn attached(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}
