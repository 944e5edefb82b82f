//! What outlives the process besides the books: counters and their numbers, meters, limits and
//! customers that were added while the program ran.

use std::collections::HashMap;

use rusqlite::types::FromSqlError;
use rusqlite::{Connection, Row};

use super::row;
use crate::policy::{CustomerId, Period, Timestamp};
use crate::store::definition::{self, CustomerRow, LimitRow, MeterRow};
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
            // What events come to is summed up as they are let go, whatever meters there are.
            Keep::Rollup(..) => Ok(None),
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
                let about = serde_json::to_string(&CustomerRow::of(customer))?;
                Ok(Some(Self::Customer { id, about: Some(about) }))
            }
            Keep::NoCustomer(id) => Ok(Some(Self::Customer { id: (*id).clone(), about: None })),
            Keep::CustomerSince(id, periods) => {
                let since = definition::since_text(periods);
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
            METER => kept.meters.push(read(definition::meter(body))?),
            LIMIT => kept.limits.push(read(definition::limit(body))?),
            ZONE => kept.zone = Some(body.into()),
            _ => {}
        }
    }
    let mut customers = file.prepare("SELECT about, name FROM customer WHERE about IS NOT NULL")?;
    let mut rows = customers.query([])?;
    while let Some(row) = rows.next()? {
        let about = row.get_ref(0)?.as_str()?;
        kept.customers.push(read(definition::customer(row.get(1)?, about))?);
    }
    kept.customers_since = customers_since(file)?;
    Ok(kept)
}

type Since = Vec<(CustomerId, Vec<(Period, Timestamp)>)>;

fn customers_since(file: &Connection) -> rusqlite::Result<Since> {
    let mut customers = file.prepare("SELECT name, since FROM customer WHERE since IS NOT NULL")?;
    let row =
        |row: &Row<'_>| Ok((row.get(0)?, read(definition::since(row.get_ref(1)?.as_str()?))?));
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

fn read<T>(row: Result<T, crate::Error>) -> rusqlite::Result<T> {
    Ok(row.map_err(FromSqlError::other)?)
}
