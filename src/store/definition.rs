//! Meters, limits and customers as the JSON that stores keep.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::policy::{
    Aggregation, Amount, Customer, CustomerId, Dimensions, Limit, Made, Meter, Period, Timestamp,
};
use crate::{Error, ErrorKind};

/// Reads a meter.
pub(super) fn meter(json: &str) -> Result<Meter, Error> {
    parse::<MeterRow>(json)?.meter()
}

/// Reads a limit.
pub(super) fn limit(json: &str) -> Result<Limit, Error> {
    parse::<LimitRow>(json)?.limit()
}

/// Reads what is known of a customer.
pub(super) fn customer(id: CustomerId, json: &str) -> Result<Customer, Error> {
    let about: CustomerRow = parse(json)?;
    Ok(Customer {
        id: Ok(id),
        zone: about.zone.map(Into::into),
        anchor: about.anchor.map(Into::into),
        metadata: about.metadata,
    })
}

/// What a meter reads, whatever it is called: the same text in every process and release.
#[cfg(feature = "redis")]
pub(super) fn measured_text(meter: &Meter) -> Result<String, serde_json::Error> {
    let mut dimensions = pairs(&meter.dimensions);
    dimensions.sort();
    serde_json::to_string(&MeasuredRow {
        aggregation: meter.aggregation.as_str().to_owned(),
        field: meter.field.as_deref().map(Into::into),
        event_type: meter.event_type.as_deref().map(Into::into),
        dimensions,
    })
}

/// Reads that, as a meter without a name.
#[cfg(feature = "redis")]
pub(super) fn measured(json: &str) -> Result<Meter, Error> {
    let MeasuredRow { aggregation, field, event_type, dimensions } = parse(json)?;
    MeterRow {
        id: String::new(),
        name: None,
        aggregation,
        field,
        event_type,
        dimensions,
        unit: None,
        description: None,
        made: MadeRow::default(),
    }
    .meter()
}

/// Since when a customer's windows are whole, by period; nothing where they all are.
pub(super) fn since_text(periods: &[(Period, Timestamp)]) -> Option<String> {
    let since: BTreeMap<&str, i64> =
        periods.iter().map(|(period, at)| (period.as_str(), at.as_nanos())).collect();
    if since.is_empty() { None } else { serde_json::to_string(&since).ok() }
}

/// Reads that.
pub(super) fn since(json: &str) -> Result<Vec<(Period, Timestamp)>, Error> {
    let since: BTreeMap<String, i64> = parse(json)?;
    let period = |(period, at): (&String, &i64)| {
        let period = Period::from_str(period).map_err(|_| unreadable("period"))?;
        Ok((period, Timestamp::from_nanos(*at)))
    };
    since.iter().map(period).collect()
}

fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Error> {
    serde_json::from_str(json).map_err(|error| {
        Error::new(ErrorKind::Invalid, "a definition that was kept cannot be read")
            .with_source(error)
    })
}

fn unreadable(field: &str) -> Error {
    Error::invalid(field, "of a definition that was kept cannot be read")
}

type Pairs = Vec<(String, String)>;

fn pairs(dimensions: &Dimensions) -> Pairs {
    dimensions.iter().map(|(key, text)| (key.to_owned(), text.to_owned())).collect()
}

fn dimensions(pairs: Pairs) -> Dimensions {
    let mut dimensions = Dimensions::new();
    pairs.iter().for_each(|(key, text)| dimensions.set(key, text));
    dimensions
}

#[derive(Deserialize, Serialize)]
pub(super) struct MeterRow {
    id: String,
    name: Option<String>,
    aggregation: String,
    field: Option<String>,
    event_type: Option<String>,
    dimensions: Pairs,
    unit: Option<String>,
    description: Option<String>,
    #[serde(default, flatten)]
    made: MadeRow,
}

impl MeterRow {
    pub(super) fn of(meter: &Meter) -> Self {
        Self {
            id: meter.id.to_string(),
            name: meter.name.as_deref().map(Into::into),
            aggregation: meter.aggregation.as_str().to_owned(),
            field: meter.field.as_deref().map(Into::into),
            event_type: meter.event_type.as_deref().map(Into::into),
            dimensions: pairs(&meter.dimensions),
            unit: meter.unit.as_deref().map(Into::into),
            description: meter.description.as_deref().map(Into::into),
            made: MadeRow::of(&meter.made),
        }
    }

    fn meter(self) -> Result<Meter, Error> {
        let kinds = [Aggregation::Sum, Aggregation::Count, Aggregation::Max, Aggregation::Latest];
        let kind = kinds.into_iter().find(|kind| kind.as_str() == self.aggregation);
        Ok(Meter {
            id: self.id.into(),
            name: self.name.map(Into::into),
            aggregation: kind.ok_or_else(|| unreadable("aggregation"))?,
            field: self.field.map(Into::into),
            event_type: self.event_type.map(Into::into),
            dimensions: dimensions(self.dimensions),
            unit: self.unit.map(Into::into),
            description: self.description.map(Into::into),
            made: self.made.made(),
        })
    }
}

#[cfg(feature = "redis")]
#[derive(Deserialize, Serialize)]
struct MeasuredRow {
    aggregation: String,
    field: Option<String>,
    event_type: Option<String>,
    dimensions: Pairs,
}

#[derive(Deserialize, Serialize)]
pub(super) struct LimitRow {
    id: String,
    name: Option<String>,
    meter: String,
    period: String,
    cap: String,
    customer: Option<String>,
    dimensions: Pairs,
    alerts: Vec<u8>,
    private: bool,
    #[serde(default, flatten)]
    made: MadeRow,
}

impl LimitRow {
    pub(super) fn of(limit: &Limit) -> Self {
        Self {
            id: limit.id.to_string(),
            name: limit.name.as_deref().map(Into::into),
            meter: limit.meter.to_string(),
            period: limit.period.as_str().to_owned(),
            cap: limit.cap.map(|cap| cap.to_string()).unwrap_or_default(),
            customer: limit.customer.as_deref().map(Into::into),
            dimensions: pairs(&limit.dimensions),
            alerts: limit.alerts.clone(),
            private: limit.private,
            made: MadeRow::of(&limit.made),
        }
    }

    fn limit(self) -> Result<Limit, Error> {
        let cap: Amount = self.cap.parse().map_err(|_| unreadable("cap"))?;
        let period = Period::from_str(&self.period).map_err(|_| unreadable("period"))?;
        Ok(Limit {
            id: self.id.into(),
            name: self.name.map(Into::into),
            meter: self.meter.into(),
            period,
            cap: Ok(cap),
            customer: self.customer.map(Into::into),
            dimensions: dimensions(self.dimensions),
            alerts: self.alerts,
            private: self.private,
            made: self.made.made(),
        })
    }
}

/// In nanoseconds since 1970, where it is known.
#[derive(Default, Deserialize, Serialize)]
struct MadeRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    updated: Option<i64>,
}

impl MadeRow {
    fn of(made: &Made) -> Self {
        let nanos = |at: Timestamp| at.as_nanos();
        Self { created: made.created.map(nanos), updated: made.updated.map(nanos) }
    }

    fn made(self) -> Made {
        let time = Timestamp::from_nanos;
        Made { created: self.created.map(time), updated: self.updated.map(time) }
    }
}

#[derive(Deserialize, Serialize)]
pub(super) struct CustomerRow {
    zone: Option<String>,
    anchor: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl CustomerRow {
    pub(super) fn of(customer: &Customer) -> Self {
        Self {
            zone: customer.zone.as_deref().map(Into::into),
            anchor: customer.anchor.as_deref().map(Into::into),
            metadata: customer.metadata.clone(),
        }
    }
}
