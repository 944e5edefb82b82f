use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde_json::{Map, Value};

use super::problem::Problem;
use super::{customers, limits, meters};
use crate::backend::Backend;
use crate::policy::{Customer, Limit, Made, Meter, NewBalance};
use crate::wire::{EventFilter, Number};
use crate::{Books, Error, ErrorKind};

/// Meters, limits, customers and default balances as a TOML file gives them: by id or name, with the
/// members of the API.
///
/// ```
/// use tower_limitry::Engine;
/// use tower_limitry::server::Definitions;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let definitions: Definitions = r#"
///     [meters.tokens]
///     name = "Tokens"
///     aggregation = "sum"
///     field = "values.total_tokens"
///
///     [limits.daily-tokens]
///     name = "Daily tokens"
///     meterId = "tokens"
///     limitValue = 100_000
///     period = "day"
///
///     [balances."AI Credits"]
///     initialBalance = 500
///
///     [customers.acct_42]
///     timezone = "Europe/Vienna"
///     billingCycleStart = "2026-01-31"
/// "#.parse()?;
/// let engine = Engine::builder();
/// let engine = definitions.balances().iter().cloned().fold(engine, |e, terms| e.default_balance(terms));
/// let books = engine.open("memory:")?;
/// definitions.apply(&books).await?;
/// assert_eq!(books.limits().await?[0].name(), "Daily tokens");
/// assert_eq!(books.balances("acct_42").await?[0].current(), 500.into());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Definitions {
    meters: Vec<Meter>,
    limits: Vec<Limit>,
    customers: Vec<Customer>,
    balances: Vec<NewBalance>,
}

/// A default balance, by its name.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BalanceTerms {
    unit: Option<String>,
    initial_balance: Option<Number>,
    minimum_balance: Option<Number>,
}

fn default_balance(name: &str, terms: BalanceTerms) -> Result<NewBalance, Problem> {
    let mut balance = NewBalance::new(name);
    if let Some(unit) = terms.unit {
        balance = balance.unit(unit);
    }
    if let Some(Number(initial)) = terms.initial_balance {
        balance = balance.initial(initial);
    }
    if let Some(Number(minimum)) = terms.minimum_balance {
        balance = balance.minimum(minimum);
    }
    Ok(balance)
}

impl std::str::FromStr for Definitions {
    type Err = Error;

    /// Reads the text of a file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is no TOML, has a member that is not known, or holds what makes no
    /// sense; it names the table.
    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |error: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Invalid, format!("the definitions are no TOML: {error}"))
        };
        let file: toml::Table = text.parse().map_err(|error| invalid(&error))?;
        let mut file: Map<String, Value> =
            file.into_iter().map(|(kind, tables)| (kind, json(tables))).collect();
        let mut take =
            |kind: &str| file.remove(kind).unwrap_or_else(|| Value::Object(Default::default()));
        let meters = read("meters", take("meters"), meters::defined)?;
        let limits = read("limits", take("limits"), limits::defined)?;
        let customers = read("customers", take("customers"), customers::defined)?;
        let balances = read("balances", take("balances"), default_balance)?;
        match file.keys().next() {
            Some(other) => {
                Err(Error::invalid(other, "is none of meters, limits, customers, balances"))
            }
            None => Ok(Self { meters, limits, customers, balances }),
        }
    }
}

/// As JSON has it, where a date is text.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(at) => at.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(json).collect(),
        toml::Value::Table(table) => {
            table.into_iter().map(|(name, value)| (name, json(value))).collect()
        }
    }
}

fn read<New: DeserializeOwned, T>(
    kind: &str,
    tables: Value,
    make: impl Fn(&str, New) -> Result<T, Problem>,
) -> Result<Vec<T>, Error> {
    // By way of text, as exact numbers are read from text alone.
    let tables = tables.to_string();
    let tables: BTreeMap<String, Box<serde_json::value::RawValue>> =
        serde_json::from_str(&tables).map_err(|error| Error::invalid(kind, error))?;
    let made = tables.into_iter().map(|(id, table)| {
        let field = format!("{kind}.{id}");
        known::<New>(&field, table.get())?;
        let new =
            serde_json::from_str(table.get()).map_err(|error| Error::invalid(&field, error))?;
        make(&id, new).map_err(|problem| Error::invalid(&field, problem.detail().message))
    });
    made.collect()
}

/// Refuses a member that the form does not have: in a file it is a slip of the pen, and a limit
/// without the filters that were meant would refuse others.
fn known<Form: DeserializeOwned>(field: &str, table: &str) -> Result<(), Error> {
    // What is no table is told of by who reads it.
    let members: BTreeMap<String, Value> = serde_json::from_str(table).unwrap_or_default();
    let of_filter = members.get("eventFilter").and_then(Value::as_object);
    let of_filter = of_filter.into_iter().flat_map(|filter| filter.keys());
    let strange = members.keys().find(|name| !members_of::<Form>().contains(&name.as_str()));
    let strange = strange.or_else(|| {
        of_filter.into_iter().find(|name| !members_of::<EventFilter>().contains(&name.as_str()))
    });
    match strange {
        None => Ok(()),
        Some(name) => {
            let members = members_of::<Form>().join(", ");
            Err(Error::invalid(field, format!("has no member {name:?}; it has {members}")))
        }
    }
}

/// The names of a form's members.
fn members_of<Form: DeserializeOwned>() -> &'static [&'static str] {
    let mut members: &'static [&'static str] = &[];
    // Fails at once, as there is nothing to read.
    let _ = Form::deserialize(Members(&mut members));
    members
}

struct Members<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Members<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("there is nothing to read"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        members: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = members;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl Definitions {
    /// What every customer has by default. Books are given it when they are built
    /// ([`default_balance`](crate::engine::EngineBuilder::default_balance)); [`apply`](Self::apply)
    /// leaves it alone.
    pub fn balances(&self) -> &[NewBalance] {
        &self.balances
    }

    /// Puts what differs into the books: what was there under the same id is replaced, its usage is
    /// kept, and what the file does not name stays.
    ///
    /// # Errors
    ///
    /// What the books say of the first that they do not take; those before it are in place.
    pub async fn apply(&self, books: &Books) -> Result<(), Error> {
        let known = books.meters().await?;
        let now = books.backend().now();
        for meter in self.meters.iter().filter(|meter| !known.contains(meter)) {
            let before = known.iter().find(|known| known.id() == meter.id());
            let made = Made::now(before.map(|before| &before.made), now);
            books.put_meter(Meter { made, ..meter.clone() }).await?;
        }
        let known = books.limits().await?;
        for limit in self.limits.iter().filter(|limit| !known.contains(limit)) {
            let before = known.iter().find(|known| known.id() == limit.id());
            let made = Made::now(before.map(|before| &before.made), now);
            books.put_limit(Limit { made, ..limit.clone() }).await?;
        }
        for customer in &self.customers {
            let Some(id) = customer.id() else { continue };
            let known = books.customer(id).await?;
            if let Some(customer) = customers::changed(customer, known, now) {
                books.put_customer(customer).await?;
            }
        }
        Ok(())
    }
}
