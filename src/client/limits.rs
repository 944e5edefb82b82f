use std::time::Duration;

use serde::Deserialize;

use super::answer::{Answered, Defined, customer, dimensions, given, senseless, texts};
use super::{Call, Client, Pages};
use crate::Error;
use crate::policy::{Amount, CustomerId, IdError, Limit, Period, Timestamp, ToAmount};
use crate::wire::{self, Number, Texts};

/// Limits, and where customers stand on them.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a>(pub(super) &'a Client);

impl Limits<'_> {
    /// Where somebody stands on every limit that matches. Reserves nothing, so requests that run
    /// beside each other can all be told that there is room.
    ///
    /// # Errors
    ///
    /// What went wrong with the call; that a limit has no room is an answer.
    pub async fn check(self, query: StandingQuery) -> Result<Standing, Error> {
        self.check_within(query, None).await
    }

    /// The same within that time, if one is given.
    pub(crate) async fn check_within(
        self,
        query: StandingQuery,
        within: Option<Duration>,
    ) -> Result<Standing, Error> {
        let StandingQuery { customer: id, dimensions } = query;
        let body = wire::LimitsCheck { customer_id: given(id)?, dimensions };
        let mut call = Call::post(&["limits", "check"]).safe().json(&body)?;
        call.within = within;
        self.0.ask::<StandingAnswer>(call).await
    }

    /// Makes a limit. The API gives it an id of its own; the one of `limit` is its name, where none
    /// is set. The API does not know [private](Limit::private) limits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown meter,
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a limit that makes no sense,
    /// [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut) when it may have been made: look before
    /// making it again.
    pub async fn create(self, limit: &Limit) -> Result<Defined<Limit>, Error> {
        let cap = limit.cap.map_err(|error| Error::invalid("cap", error))?;
        let body = wire::NewLimit {
            name: limit.name().to_owned(),
            meter_id: limit.meter().to_owned(),
            limit_value: Number(cap),
            period: limit.period().as_str().to_owned(),
            customer_id: limit.customer().map(ToOwned::to_owned),
            dimension_filters: texts(limit.dimensions()),
            alert_thresholds: Some(limit.alerts.clone()).filter(|alerts| !alerts.is_empty()),
        };
        self.0.ask::<LimitAnswer>(Call::post(&["limits"]).json(&body)?).await
    }

    /// All limits.
    pub fn list(self) -> Pages<Defined<Limit>> {
        Pages::of::<LimitAnswer>(self.0, Call::get(&["limits"]))
    }

    /// Limits that are for this customer alone.
    pub fn list_of<C>(self, id: C) -> Pages<Defined<Limit>>
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        match customer(id) {
            Ok(id) => {
                let call = Call::get(&["limits"]).query("customerId", Some(id));
                Pages::of::<LimitAnswer>(self.0, call)
            }
            Err(error) => Pages::failed(error),
        }
    }

    /// One limit.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown id.
    pub async fn get(self, id: &str) -> Result<Defined<Limit>, Error> {
        self.0.ask::<LimitAnswer>(Call::get(&["limits", id])).await
    }

    /// Changes a limit and keeps its usage.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown id,
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a change that makes no sense.
    pub async fn update(self, id: &str, change: LimitChange) -> Result<Defined<Limit>, Error> {
        let LimitChange { body, problem } = change;
        problem.map_or(Ok(()), Err)?;
        self.0.ask::<LimitAnswer>(Call::put(&["limits", id]).json(&body)?).await
    }

    /// Removes a limit.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown id.
    pub async fn delete(self, id: &str) -> Result<(), Error> {
        self.0.http().send(Call::delete(&["limits", id])).await
    }
}

/// Whose standing, and on which limits.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct StandingQuery {
    pub(crate) customer: Option<Result<CustomerId, IdError>>,
    pub(crate) dimensions: Texts,
}

impl StandingQuery {
    /// One customer's.
    pub fn of<C>(customer: C) -> Self
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        let customer = Some(customer.try_into().map_err(Into::into));
        Self { customer, dimensions: Texts::new() }
    }

    /// That of all customers together, on the limits for everybody.
    pub fn of_all() -> Self {
        Self::default()
    }

    /// A dimension of the request. A limit that is narrowed to a dimension matches only those who
    /// name it.
    pub fn dimension(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.dimensions.insert(key.into(), value.into());
        self
    }
}

/// Where somebody stands.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Standing {
    /// Whether every limit that matches has room.
    pub allowed: bool,
    /// Each of them.
    pub limits: Vec<LimitStanding>,
}

/// Where somebody stands on one limit.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LimitStanding {
    /// The limit's id.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// The id of the meter it caps.
    pub meter: String,
    /// Its period.
    pub period: Period,
    /// The cap.
    pub limit: Amount,
    /// What was used in this window: the truth, also above the cap.
    pub used: Amount,
    /// What is left, never below 0.
    pub remaining: Amount,
    /// Whether this limit refuses.
    pub exceeded: bool,
    /// When the window ends, in Unix seconds; `None` for one that does not.
    pub reset: Option<i64>,
}

/// What of a limit to change. What is not named stays as it is.
#[derive(Debug, Default)]
#[must_use]
pub struct LimitChange {
    body: wire::LimitChange,
    problem: Option<Error>,
}

impl LimitChange {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.body.name = Some(name.into());
        self
    }

    /// Another meter, by its id.
    pub fn meter(mut self, id: impl Into<String>) -> Self {
        self.body.meter_id = Some(id.into());
        self
    }

    /// Another cap.
    pub fn cap(mut self, cap: impl ToAmount) -> Self {
        match cap.to_amount() {
            Ok(cap) => self.body.limit_value = Some(Number(cap)),
            Err(error) => self.problem = Some(Error::invalid("cap", error)),
        }
        self
    }

    /// Another period.
    pub fn period(mut self, period: Period) -> Self {
        self.body.period = Some(period.as_str().to_owned());
        self
    }

    /// For this customer alone.
    pub fn for_customer(mut self, customer: impl Into<String>) -> Self {
        self.body.customer_id = Some(Some(customer.into()));
        self
    }

    /// For everybody.
    pub fn for_everybody(mut self) -> Self {
        self.body.customer_id = Some(None);
        self
    }

    /// Narrowed to these dimensions, in place of those it had.
    pub fn dimensions<K, V>(mut self, dimensions: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        let pairs = dimensions.into_iter().map(|(key, text)| (key.into(), text.into()));
        self.body.dimension_filters = Some(pairs.collect());
        self
    }

    /// Tells when usage reaches these percentages of the cap, in place of those it had.
    pub fn alert_at(mut self, percentages: impl IntoIterator<Item = u8>) -> Self {
        let percentages: Vec<u8> = percentages.into_iter().collect();
        self.body.alert_thresholds = Some(Some(percentages).filter(|all| !all.is_empty()));
        self
    }
}

#[derive(Deserialize)]
struct StandingAnswer {
    allowed: bool,
    limits: Vec<LimitStandingAnswer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LimitStandingAnswer {
    id: String,
    name: Option<String>,
    meter_id: Option<String>,
    period: String,
    limit: Number,
    used: Number,
    remaining: Option<Number>,
    exceeded: Option<bool>,
    reset: Option<i64>,
}

impl Answered for StandingAnswer {
    type Item = Standing;

    fn item(self) -> Result<Standing, Error> {
        let limits = self.limits.into_iter().map(LimitStandingAnswer::item);
        Ok(Standing { allowed: self.allowed, limits: limits.collect::<Result<_, _>>()? })
    }
}

impl LimitStandingAnswer {
    fn item(self) -> Result<LimitStanding, Error> {
        let (Number(limit), Number(used)) = (self.limit, self.used);
        let left = || limit.saturating_sub(used).max(Amount::ZERO);
        Ok(LimitStanding {
            name: self.name.unwrap_or_else(|| self.id.clone()),
            id: self.id,
            meter: self.meter_id.unwrap_or_default(),
            period: self.period.parse().map_err(|error| senseless("period", error))?,
            limit,
            used,
            remaining: self.remaining.map_or_else(left, |Number(remaining)| remaining),
            exceeded: self.exceeded.unwrap_or(used >= limit),
            reset: self.reset,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LimitAnswer {
    id: String,
    project_id: Option<String>,
    name: Option<String>,
    meter_id: String,
    limit_value: Number,
    period: String,
    customer_id: Option<String>,
    dimension_filters: Option<Texts>,
    alert_thresholds: Option<Vec<u8>>,
    created_at: Option<Timestamp>,
    updated_at: Option<Timestamp>,
}

impl Answered for LimitAnswer {
    type Item = Defined<Limit>;

    fn item(self) -> Result<Defined<Limit>, Error> {
        let period = self.period.parse().map_err(|error| senseless("period", error))?;
        let mut limit = Limit::new(&self.id, &self.meter_id, period, self.limit_value.0)
            .alert_at(self.alert_thresholds.unwrap_or_default());
        limit.name = self.name.map(Into::into);
        limit.customer = self.customer_id.map(Into::into);
        limit.dimensions = dimensions(self.dimension_filters);
        Ok(Defined {
            item: limit,
            project: self.project_id,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}
