use serde::Deserialize;
use serde_json::{Map, Value};

use super::answer::{Answered, answered_customer, customer};
use super::pages::{asked, page};
use super::{Call, Client, Pages};
use crate::Error;
use crate::backend::{Page, PageRequest};
use crate::policy::{CustomerId, IdError, Timestamp};
use crate::wire;

/// Customers of whom something is known beyond usage. Nobody has to be made before they are metered.
#[derive(Clone, Copy, Debug)]
pub struct Customers<'a>(pub(super) &'a Client);

impl Customers<'_> {
    /// Makes a customer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) when there is one of that id,
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an unknown zone or a date that is none,
    /// [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut) when it may have been made.
    pub async fn create<C>(self, id: C, terms: CustomerTerms) -> Result<CustomerRecord, Error>
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        let CustomerTerms(terms) = terms;
        let body = wire::NewCustomer {
            external_id: customer(id)?.to_string(),
            name: terms.name.flatten(),
            email: terms.email.flatten(),
            billing_cycle_start: terms.billing_cycle_start,
            timezone: terms.timezone.flatten(),
            metadata: terms.metadata.unwrap_or_default(),
        };
        self.0.ask::<CustomerAnswer>(Call::post(&["customers"]).json(&body)?).await
    }

    /// All of them.
    pub fn list(self) -> Pages<CustomerRecord> {
        Pages::of::<CustomerAnswer>(self.0, Call::get(&["customers"]))
    }

    /// One page of them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a page that is none.
    pub async fn page(self, request: PageRequest) -> Result<Page<CustomerRecord>, Error> {
        page::<CustomerAnswer>(self.0, asked(Call::get(&["customers"]), &request)?).await
    }

    /// One of them, by your id or the API's.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for one of whom nothing is known.
    pub async fn get(self, id: &str) -> Result<CustomerRecord, Error> {
        self.0.ask::<CustomerAnswer>(Call::get(&["customers", id])).await
    }

    /// Changes what is known. What the terms do not name stays as it is.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), and [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an unknown
    /// zone or a date that is none.
    pub async fn update(self, id: &str, terms: CustomerTerms) -> Result<CustomerRecord, Error> {
        let call = Call::put(&["customers", id]).json(&terms.0)?;
        self.0.ask::<CustomerAnswer>(call).await
    }

    /// Forgets what is known of a customer. Usage and balances stay.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn delete(self, id: &str) -> Result<(), Error> {
        self.0.http().send(Call::delete(&["customers", id])).await
    }
}

/// What is known of a customer, or is to change.
#[derive(Debug, Default)]
#[must_use]
pub struct CustomerTerms(wire::CustomerChange);

impl CustomerTerms {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name, or none any more.
    pub fn name(mut self, name: impl Into<Option<String>>) -> Self {
        self.0.name = Some(name.into());
        self
    }

    /// The email address, or none any more.
    pub fn email(mut self, email: impl Into<Option<String>>) -> Self {
        self.0.email = Some(email.into());
        self
    }

    /// From when months and years count: a date-time such as `2026-01-31T00:00:00Z`, or a date,
    /// which is midnight in the customer's zone.
    pub fn billing_cycle_start(mut self, date: impl Into<String>) -> Self {
        self.0.billing_cycle_start = Some(date.into());
        self
    }

    /// The IANA time zone such as `Europe/Vienna`, or the project's.
    pub fn timezone(mut self, zone: impl Into<Option<String>>) -> Self {
        self.0.timezone = Some(zone.into());
        self
    }

    /// All that is attached, in place of what was.
    pub fn metadata(mut self, metadata: Map<String, Value>) -> Self {
        self.0.metadata = Some(metadata);
        self
    }
}

/// A customer as the API knows them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CustomerRecord {
    /// The API's id.
    pub id: String,
    /// Yours.
    pub external_id: CustomerId,
    /// The project they belong to, if the API tells.
    pub project: Option<String>,
    /// The name.
    pub name: Option<String>,
    /// The email address.
    pub email: Option<String>,
    /// From when months and years count.
    pub billing_cycle_start: Option<Timestamp>,
    /// The IANA time zone; without one, the project's.
    pub timezone: Option<String>,
    /// What was attached.
    pub metadata: Map<String, Value>,
    /// When they were made, if the API tells.
    pub created_at: Option<Timestamp>,
    /// When that last changed, if the API tells.
    pub updated_at: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CustomerAnswer {
    id: String,
    project_id: Option<String>,
    external_id: String,
    name: Option<String>,
    email: Option<String>,
    billing_cycle_start: Option<Timestamp>,
    timezone: Option<String>,
    metadata: Option<Map<String, Value>>,
    created_at: Option<Timestamp>,
    updated_at: Option<Timestamp>,
}

impl Answered for CustomerAnswer {
    type Item = CustomerRecord;

    fn item(self) -> Result<CustomerRecord, Error> {
        Ok(CustomerRecord {
            id: self.id,
            external_id: answered_customer(&self.external_id)?,
            project: self.project_id,
            name: self.name,
            email: self.email,
            billing_cycle_start: self.billing_cycle_start,
            timezone: self.timezone,
            metadata: self.metadata.unwrap_or_default(),
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}
