//! What outlives the process besides the books: counters and their numbers, meters, limits and
//! customers that were added while the program ran.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use rusqlite::types::FromSqlError;
use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};

use super::row;
use crate::policy::{
    Aggregation, Amount, Customer, CustomerId, Dimensions, Limit, Made, Meter, Period, Timestamp,
};
use crate::store::{Keep, Kept};

/// One row to write or to remove.
#[derive(Debug)]
pub(super) enum Note {
    Counter { number: u32, definition: String },
    Since { number: u32, time: Timestamp },
    Counted { customer: String, counters: Option<String> },
    Definition { kind: &'static str, id: String, body: Option<String> },
    Customer { id: CustomerId, about: Option<String> },
    CustomerSince { id: CustomerId, since: Option<String> },
}

const METER: &str = "meter";
const LIMIT: &str = "limit";
const ZONE: &str = "zone";

impl Note {
    pub(super) fn of(keep: &Keep<'_>) -> Result<Option<Self>, serde_json::Error> {
        let definition = |kind, id: &str, body: Option<String>| {
            Ok(Some(Self::Definition { kind, id: id.to_owned(), body }))
        };
        match keep {
            Keep::Counter(number, key) => {
                Ok(Some(Self::Counter { number: *number, definition: key.as_str().to_owned() }))
            }
            Keep::Counted(customer, counters) => Ok(Some(Self::Counted {
                customer: customer.map(ToString::to_string).unwrap_or_default(),
                counters: counters.map(row::numbers),
            })),
            Keep::Since(number, time) => Ok(Some(Self::Since { number: *number, time: *time })),
            Keep::Zone(zone) => definition(ZONE, "", Some((*zone).to_owned())),
            Keep::Meter(meter) => {
                definition(METER, meter.id(), Some(serde_json::to_string(&MeterRow::of(meter))?))
            }
            Keep::NoMeter(id) => definition(METER, id, None),
            Keep::Limit(limit) => {
                definition(LIMIT, limit.id(), Some(serde_json::to_string(&LimitRow::of(limit))?))
            }
            Keep::NoLimit(id) => definition(LIMIT, id, None),
            Keep::Customer(customer) => {
                let Some(id) = customer.id().cloned() else { return Ok(None) };
                let about = CustomerRow {
                    zone: customer.zone.as_deref().map(Into::into),
                    anchor: customer.anchor.as_deref().map(Into::into),
                    metadata: customer.metadata.clone(),
                };
                Ok(Some(Self::Customer { id, about: Some(serde_json::to_string(&about)?) }))
            }
            Keep::NoCustomer(id) => Ok(Some(Self::Customer { id: (*id).clone(), about: None })),
            Keep::CustomerSince(id, periods) => {
                let since: BTreeMap<&str, i64> =
                    periods.iter().map(|(period, at)| (period.as_str(), at.as_nanos())).collect();
                let since =
                    (!since.is_empty()).then(|| serde_json::to_string(&since)).transpose()?;
                Ok(Some(Self::CustomerSince { id: (*id).clone(), since }))
            }
        }
    }
}

/// Reads everything that was kept.
pub(super) fn load(file: &Connection) -> rusqlite::Result<Kept> {
    let mut kept = Kept::default();
    let text = |row: &Row<'_>| row.get::<_, String>(0).map(String::into_boxed_str);
    let mut counters = file.prepare("SELECT definition FROM counter ORDER BY number")?;
    kept.counters = counters.query_map([], text)?.collect::<Result<_, _>>()?;
    let mut since = file.prepare("SELECT number, since FROM counter WHERE since IS NOT NULL")?;
    let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    kept.since = since.query_map([], row)?.collect::<Result<_, _>>()?;
    kept.counted = counted(file)?;

    let mut definitions = file.prepare("SELECT body, kind FROM definition ORDER BY kind, id")?;
    let mut rows = definitions.query([])?;
    while let Some(row) = rows.next()? {
        let body = row.get_ref(0)?.as_str()?;
        match row.get_ref(1)?.as_str()? {
            METER => kept.meters.push(parse::<MeterRow>(body)?.meter()?),
            LIMIT => kept.limits.push(parse::<LimitRow>(body)?.limit()?),
            ZONE => kept.zone = Some(body.into()),
            _ => {}
        }
    }
    let mut customers = file.prepare("SELECT about, name FROM customer WHERE about IS NOT NULL")?;
    let mut rows = customers.query([])?;
    while let Some(row) = rows.next()? {
        let about: CustomerRow = parse(row.get_ref(0)?.as_str()?)?;
        kept.customers.push(Customer {
            id: Ok(row.get(1)?),
            zone: about.zone.map(Into::into),
            anchor: about.anchor.map(Into::into),
            metadata: about.metadata,
        });
    }
    kept.customers_since = customers_since(file)?;
    Ok(kept)
}

type Since = Vec<(CustomerId, Vec<(Period, Timestamp)>)>;

fn customers_since(file: &Connection) -> rusqlite::Result<Since> {
    let mut customers = file.prepare("SELECT name, since FROM customer WHERE since IS NOT NULL")?;
    let row = |row: &Row<'_>| {
        let since: BTreeMap<String, i64> = parse(row.get_ref(1)?.as_str()?)?;
        let periods = since.iter().map(|(period, at)| {
            let period = Period::from_str(period).map_err(FromSqlError::other)?;
            Ok((period, Timestamp::from_nanos(*at)))
        });
        Ok((row.get(0)?, periods.collect::<rusqlite::Result<_>>()?))
    };
    customers.query_map([], row)?.collect()
}

fn counted(file: &Connection) -> rusqlite::Result<HashMap<Option<CustomerId>, Vec<u32>>> {
    let mut counted = file.prepare("SELECT customer, counters FROM counted")?;
    let row = |row: &Row<'_>| {
        let everybody = row.get_ref(0)?.as_str()?.is_empty();
        let customer = if everybody { None } else { Some(row.get(0)?) };
        Ok((customer, row::list(row.get_ref(1)?)?))
    };
    counted.query_map([], row)?.collect()
}

fn parse<'a, T: Deserialize<'a>>(body: &'a str) -> rusqlite::Result<T> {
    Ok(serde_json::from_str(body).map_err(FromSqlError::other)?)
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
struct MeterRow {
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
    fn of(meter: &Meter) -> Self {
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

    fn meter(self) -> rusqlite::Result<Meter> {
        let kinds = [Aggregation::Sum, Aggregation::Count, Aggregation::Max, Aggregation::Latest];
        let kind = kinds.into_iter().find(|kind| kind.as_str() == self.aggregation);
        Ok(Meter {
            id: self.id.into(),
            name: self.name.map(Into::into),
            aggregation: kind.ok_or(FromSqlError::InvalidType)?,
            field: self.field.map(Into::into),
            event_type: self.event_type.map(Into::into),
            dimensions: dimensions(self.dimensions),
            unit: self.unit.map(Into::into),
            description: self.description.map(Into::into),
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
struct LimitRow {
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
    fn of(limit: &Limit) -> Self {
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

    fn limit(self) -> rusqlite::Result<Limit> {
        let cap: Amount = self.cap.parse().map_err(FromSqlError::other)?;
        let period = Period::from_str(&self.period).map_err(FromSqlError::other)?;
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

#[derive(Deserialize, Serialize)]
struct CustomerRow {
    zone: Option<String>,
    anchor: Option<String>,
    metadata: BTreeMap<String, String>,
}
