use serde::Deserialize;

use super::answer::{Answered, Defined, dimensions, given, senseless, texts};
use super::{Call, Client, Pages};
use crate::Error;
use crate::backend::{MeterQuery, MeterReading};
use crate::policy::{Aggregation, Dimensions, Meter, Timestamp};
use crate::wire::{self, EventFilter, Number};

/// Meters, and what they read.
#[derive(Clone, Copy, Debug)]
pub struct Meters<'a>(pub(super) &'a Client);

impl Meters<'_> {
    /// Makes a meter. The API gives it an id of its own; the one of `meter` is its name, where none is
    /// set. The API knows no [unit](Meter::unit).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a meter that makes no sense,
    /// [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut) when it may have been made: look before
    /// making it again.
    pub async fn create(self, meter: &Meter) -> Result<Defined<Meter>, Error> {
        let body = wire::NewMeter {
            name: meter.name().to_owned(),
            aggregation: meter.aggregation().as_str().to_owned(),
            field: field_text(meter.field()),
            description: meter.description.as_deref().map(ToOwned::to_owned),
            event_filter: filter(meter.event_type.as_deref(), &meter.dimensions),
        };
        self.0.ask::<MeterAnswer>(Call::post(&["meters"]).json(&body)?).await
    }

    /// All meters.
    pub fn list(self) -> Pages<Defined<Meter>> {
        Pages::of::<MeterAnswer>(self.0, Call::get(&["meters"]))
    }

    /// One meter.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown id.
    pub async fn get(self, id: &str) -> Result<Defined<Meter>, Error> {
        self.0.ask::<MeterAnswer>(Call::get(&["meters", id])).await
    }

    /// Changes a meter.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown id,
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a change that makes no sense.
    pub async fn update(self, id: &str, change: MeterChange) -> Result<Defined<Meter>, Error> {
        self.0.ask::<MeterAnswer>(Call::put(&["meters", id]).json(&change.0)?).await
    }

    /// Removes a meter that no limit reads.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown id,
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) while a limit reads it.
    pub async fn delete(self, id: &str) -> Result<(), Error> {
        self.0.http().send(Call::delete(&["meters", id])).await
    }

    /// What a meter reads over a range.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown id.
    pub async fn query(self, query: MeterQuery) -> Result<MeterReading, Error> {
        let body = wire::MeterReadingQuery {
            customer_id: given(query.customer)?,
            dimensions: texts(&query.dimensions),
            start_date: query.start,
            end_date: query.end,
        };
        let call = Call::post(&["meters", &query.meter, "query"]).safe().json(&body)?;
        self.0.ask::<ReadingAnswer>(call).await
    }
}

/// What of a meter to change. What is not named stays as it is.
#[derive(Debug, Default)]
#[must_use]
pub struct MeterChange(wire::MeterChange);

impl MeterChange {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.0.name = Some(name.into());
        self
    }

    /// Another description, or none.
    pub fn description(mut self, description: Option<String>) -> Self {
        self.0.description = Some(description);
        self
    }

    /// Everything that this meter counts by: its aggregation, the value it reads, and its filter.
    pub fn counting(mut self, meter: &Meter) -> Self {
        self.0.aggregation = Some(meter.aggregation().as_str().to_owned());
        self.0.field = Some(field_text(meter.field()));
        let filter = filter(meter.event_type.as_deref(), &meter.dimensions);
        self.0.event_filter = Some(filter.unwrap_or_default());
        self
    }
}

fn field_text(field: Option<&str>) -> String {
    field.map_or_else(|| "*".into(), |name| format!("values.{name}"))
}

fn filter(event_type: Option<&str>, dimensions: &Dimensions) -> Option<EventFilter> {
    let filter = EventFilter {
        event_type: event_type.map(ToOwned::to_owned),
        dimensions: Some(texts(dimensions)).filter(|texts| !texts.is_empty()),
    };
    (filter.event_type.is_some() || filter.dimensions.is_some()).then_some(filter)
}

fn aggregation(text: &str) -> Result<Aggregation, Error> {
    let all = [Aggregation::Sum, Aggregation::Count, Aggregation::Max, Aggregation::Latest];
    let named = all.into_iter().find(|aggregation| aggregation.as_str() == text);
    named.ok_or_else(|| senseless("aggregation", "is none of sum, count, max, latest"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MeterAnswer {
    id: String,
    project_id: Option<String>,
    name: Option<String>,
    description: Option<String>,
    aggregation: String,
    field: String,
    event_filter: Option<EventFilter>,
    created_at: Option<Timestamp>,
    updated_at: Option<Timestamp>,
}

impl Answered for MeterAnswer {
    type Item = Defined<Meter>;

    fn item(self) -> Result<Defined<Meter>, Error> {
        let mut meter = Meter::count(&self.id);
        meter.aggregation = aggregation(&self.aggregation)?;
        meter.field = match &*self.field {
            "*" => None,
            field => Some(field.strip_prefix("values.").unwrap_or(field).into()),
        };
        if meter.field.is_none() && meter.aggregation != Aggregation::Count {
            return Err(senseless("field", "is * for a meter that does not count"));
        }
        let filter = self.event_filter.unwrap_or_default();
        meter.name = self.name.map(Into::into);
        meter.description = self.description.map(Into::into);
        meter.event_type = filter.event_type.map(Into::into);
        meter.dimensions = dimensions(filter.dimensions);
        Ok(Defined {
            item: meter,
            project: self.project_id,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

#[derive(Deserialize)]
struct ReadingAnswer {
    value: Number,
    aggregation: String,
    /// Only servers of this crate tell.
    complete: Option<bool>,
}

impl Answered for ReadingAnswer {
    type Item = MeterReading;

    fn item(self) -> Result<MeterReading, Error> {
        Ok(MeterReading {
            value: self.value.0,
            aggregation: aggregation(&self.aggregation)?,
            complete: self.complete.unwrap_or(true),
        })
    }
}
