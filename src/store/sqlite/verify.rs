//! Works out counters from events and balances from the ledger, and tells where the file says
//! something else.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use rusqlite::types::FromSqlError;
use rusqlite::{Connection, Row};
use serde::Deserialize;

use super::read::{Select, each_event};
use super::schema;
use crate::Error;
use crate::file::OpenError;
use crate::policy::{Amount, CustomerId, Dimensions, Meter, RecordedEvent, Timestamp, Voided};
use crate::store::memory::archive::WindowEnd;
use crate::store::memory::recount::Sum;

/// What is wrong with a file: empty when nothing is.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Differences {
    /// Each place at which the file differs from what it should say.
    pub found: Vec<Difference>,
    /// How many counters and balances were worked out.
    pub checked: usize,
}

/// One place at which a file differs from what it should say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// Where: a counter of a customer, a balance, or a page of the file.
    pub place: String,
    /// What the file says.
    pub said: String,
    /// What its events or its ledger come to.
    pub right: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: says {}, should say {}", self.place, self.said, self.right)
    }
}

/// Reads the whole file and compares. It may be in use meanwhile: what is compared is the file at
/// one moment.
///
/// Compared are the windows that have not ended at `now` and whose events are all there, of counters that count every event, in the
/// customers' own time zones as the file has them; and every balance.
///
/// # Errors
///
/// [`Unavailable`](crate::ErrorKind::Unavailable) when the file cannot be read.
pub fn verify(path: impl AsRef<Path>, now: Timestamp) -> Result<Differences, Error> {
    Ok(compare(path.as_ref(), now)?)
}

fn compare(path: &Path, now: Timestamp) -> Result<Differences, OpenError> {
    let mut file = schema::open_ours(path)?;
    let moment = file.transaction()?;
    let mut differences = Differences::default();
    pages(&moment, &mut differences)?;
    balances(&moment, &mut differences)?;
    counters(&moment, now, &mut differences)?;
    Ok(differences)
}

fn pages(file: &Connection, differences: &mut Differences) -> rusqlite::Result<()> {
    let mut check = file.prepare("PRAGMA integrity_check")?;
    let mut rows = check.query([])?;
    while let Some(row) = rows.next()? {
        let said: String = row.get(0)?;
        if said != "ok" {
            let place = "the file itself".to_owned();
            differences.found.push(Difference { place, said, right: "ok".to_owned() });
        }
    }
    Ok(())
}

/// A balance is its opening and what its ledger adds, one after the other: what does not fit is held at
/// the largest amount, as the books do.
fn balances(file: &Connection, differences: &mut Differences) -> rusqlite::Result<()> {
    let mut all = file.prepare(
        "SELECT c.name, b.name, b.current, b.opening, b.id \
         FROM balance b JOIN customer c ON c.id = b.customer",
    )?;
    let mut ledger =
        file.prepare("SELECT amount FROM ledger WHERE balance = ?1 ORDER BY sequence")?;
    let mut rows = all.query([])?;
    while let Some(row) = rows.next()? {
        let (said, mut right): (Amount, Amount) = (row.get(2)?, row.get(3)?);
        let mut changes = ledger.query([row.get::<_, i64>(4)?])?;
        while let Some(change) = changes.next()? {
            right = right.saturating_add(change.get(0)?);
        }
        differences.checked += 1;
        if said != right {
            let (customer, name): (String, String) = (row.get(0)?, row.get(1)?);
            let place = format!("balance {name:?} of customer {customer:?}");
            let (said, right) = (said.to_string(), right.to_string());
            differences.found.push(Difference { place, said, right });
        }
    }
    Ok(())
}

/// A row of the table of usage, and what it should say.
struct Counter {
    customer: CustomerId,
    definition: String,
    said: Amount,
    window: (i64, WindowEnd),
    rule: Rule,
    sum: Option<Sum>,
}

impl Counter {
    fn count(&mut self, event: &RecordedEvent, voided: &Voided) {
        if !self.rule.meter.aggregation.adds() && voided.has(event) {
            return;
        }
        let (starts, ends) = self.window;
        let within = event.at >= Timestamp::from_seconds(starts) && ends.is_after(event.at);
        let Some(amount) = self.rule.counts(event).filter(|_| within) else { return };
        match &mut self.sum {
            Some(sum) => sum.add(amount, event.at),
            None => {
                let aggregation = self.rule.meter.aggregation;
                self.sum = Some(Sum { aggregation, amount, at: event.at });
            }
        }
    }
}

/// What a counter reads, from its definition.
struct Rule {
    meter: Meter,
    narrowed: Dimensions,
}

/// As `CounterKey` writes it.
#[derive(Deserialize)]
struct Definition {
    aggregation: String,
    field: Option<String>,
    event_type: Option<String>,
    dimensions: BTreeMap<String, String>,
    narrowed: BTreeMap<String, String>,
}

impl Rule {
    fn parse(definition: &str) -> rusqlite::Result<Self> {
        let definition: Definition =
            serde_json::from_str(definition).map_err(FromSqlError::other)?;
        let field = definition.field.unwrap_or_default();
        let mut meter = match definition.aggregation.as_str() {
            "sum" => Meter::sum("", field),
            "count" if field.is_empty() => Meter::count(""),
            "count" => Meter::count_of("", field),
            "max" => Meter::max("", field),
            "latest" => Meter::latest("", field),
            _ => return Err(FromSqlError::InvalidType.into()),
        };
        meter.event_type = definition.event_type.map(Into::into);
        let dimensions = |pairs: BTreeMap<String, String>| {
            let mut dimensions = Dimensions::new();
            pairs.iter().for_each(|(key, text)| dimensions.set(key, text));
            dimensions
        };
        meter.dimensions = dimensions(definition.dimensions);
        Ok(Self { meter, narrowed: dimensions(definition.narrowed) })
    }

    fn counts(&self, event: &RecordedEvent) -> Option<Amount> {
        let dimensions = event.usage.dimensions();
        let reads = self.meter.accepts(&event.event_type, dimensions)
            && dimensions.contain(self.narrowed.pairs());
        let amount = reads.then(|| self.meter.reads(event.usage.values())).flatten()?;
        event.gives(self.meter.aggregation, amount)
    }
}

fn counters(
    file: &Connection,
    now: Timestamp,
    differences: &mut Differences,
) -> rusqlite::Result<()> {
    let mut all = file.prepare(
        "SELECT c.name, n.definition, u.value, u.starts, u.ends FROM usage u \
         JOIN customer c ON c.id = u.customer JOIN counter n ON n.number = u.counter \
         LEFT JOIN counted own ON own.customer = c.name \
         JOIN counted everybody ON everybody.customer = '' \
         WHERE u.ends > ?1 AND u.starts * 1000000000.0 > coalesce(\
         (SELECT value FROM state WHERE name = 'forgotten'), -9.3e18) AND u.counter IN \
         (SELECT value FROM json_each(coalesce(own.counters, everybody.counters)))",
    )?;
    let counter = |row: &Row<'_>| {
        let definition: String = row.get(1)?;
        Ok(Counter {
            customer: row.get(0)?,
            said: row.get(2)?,
            window: (row.get(3)?, row.get(4)?),
            rule: Rule::parse(&definition)?,
            definition,
            sum: None,
        })
    };
    let mut counters: HashMap<CustomerId, Vec<Counter>> = HashMap::new();
    for counter in all.query_map([now.as_seconds()], counter)? {
        let counter = counter?;
        counters.entry(counter.customer.clone()).or_default().push(counter);
    }
    let mut voided = Voided::default();
    let all = Select::After(0);
    each_event(file, &all, |event| {
        voided.note(&event);
        true
    })?;
    each_event(file, &all, |event| {
        let counted = counters.get_mut(&event.customer).into_iter().flatten();
        counted.for_each(|counter| counter.count(&event, &voided));
        true
    })?;
    for counter in counters.into_values().flatten() {
        differences.checked += 1;
        let right = counter.sum.as_ref().map_or(Amount::ZERO, |sum| sum.amount);
        if counter.said != right {
            let Counter { customer, definition, said, .. } = counter;
            let place = format!("counter {definition:?} of customer {:?}", customer.as_str());
            let (said, right) = (said.to_string(), right.to_string());
            differences.found.push(Difference { place, said, right });
        }
    }
    Ok(())
}
