//! How ids, amounts, windows and events are written in rows, and read back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::policy::{
    Amount, CustomerId, EventId, RecordedEvent, Timestamp, Transaction, TransactionKind, Usage,
};
use crate::store::memory::archive::WindowEnd;

impl ToSql for EventId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(match self.as_uuid() {
            Some(bits) => Value::Blob(bits.to_be_bytes().into()),
            None => Value::Text(self.to_string()),
        }))
    }
}

impl FromSql for EventId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        if let ValueRef::Blob(bytes) = value {
            let bits = bytes.try_into().map_err(|_| FromSqlError::InvalidType)?;
            return Ok(Self::from_uuid(u128::from_be_bytes(bits)));
        }
        Self::new(value.as_str()?).map_err(FromSqlError::other)
    }
}

impl ToSql for CustomerId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for CustomerId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::new(value.as_str()?).map_err(FromSqlError::other)
    }
}

impl ToSql for Amount {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_millionths().into())
    }
}

impl FromSql for Amount {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(Self::from_millionths)
    }
}

impl ToSql for Timestamp {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_nanos().into())
    }
}

impl FromSql for Timestamp {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(Self::from_nanos)
    }
}

/// The end of a window that has none: the last second that SQLite's date functions know.
const NEVER: i64 = 253_402_300_799;

impl ToSql for WindowEnd {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let seconds = if *self == Self::NEVER { NEVER } else { i64::from(self.0) * 60 };
        Ok(seconds.into())
    }
}

impl FromSql for WindowEnd {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_i64()? {
            NEVER => Ok(Self::NEVER),
            seconds => {
                i32::try_from(seconds / 60).map(Self).map_err(|_| FromSqlError::OutOfRange(seconds))
            }
        }
    }
}

/// What events of one kind have in common, as text that tells kinds apart and as what rows hold.
#[derive(Debug, Default)]
pub(super) struct KindText {
    pub(super) key: String,
    names: usize,
    dimensions: usize,
    pub(super) reverses: bool,
}

impl KindText {
    /// Writes the kind of an event, in place of the one before.
    pub(super) fn set(&mut self, event: &RecordedEvent) -> Result<(), serde_json::Error> {
        self.key.clear();
        write_list(&mut self.key, event.usage.values().iter().map(|(name, _)| name))?;
        self.names = self.key.len();
        write_list(&mut self.key, event.usage.dimensions().iter().map(|(name, _)| name))?;
        self.dimensions = self.key.len();
        self.reverses = event.reverses;
        self.key.extend([if event.reverses { "-" } else { "+" }, &event.event_type]);
        Ok(())
    }

    pub(super) fn names(&self) -> &str {
        &self.key[..self.names]
    }

    pub(super) fn dimensions(&self) -> &str {
        &self.key[self.names..self.dimensions]
    }

    pub(super) fn event_type(&self) -> &str {
        &self.key[self.dimensions + 1..]
    }
}

/// Writes texts as a JSON array.
pub(super) fn write_list<'a>(
    to: &mut String,
    texts: impl Iterator<Item = &'a str>,
) -> Result<(), serde_json::Error> {
    to.push('[');
    for (at, text) in texts.enumerate() {
        if at > 0 {
            to.push(',');
        }
        if text.bytes().all(|byte| !matches!(byte, b'"' | b'\\' | ..0x20)) {
            to.extend(["\"", text, "\""]);
        } else {
            to.push_str(&serde_json::to_string(text)?);
        }
    }
    to.push(']');
    Ok(())
}

/// Writes amounts as a JSON array of exact decimals.
pub(super) fn write_amounts(to: &mut String, amounts: impl Iterator<Item = Amount>) {
    to.push('[');
    for (at, amount) in amounts.enumerate() {
        if at > 0 {
            to.push(',');
        }
        to.push_str(amount.write(&mut [0; 24]));
    }
    to.push(']');
}

/// What kinds of events there are, as far as they were met.
#[derive(Debug, Default)]
pub(super) struct Kinds(HashMap<i64, Kind>);

#[derive(Debug)]
struct Kind {
    event_type: String,
    names: Vec<String>,
    dimensions: Vec<String>,
    reverses: bool,
}

/// Reads [`event`]: put `WHERE` and `ORDER BY` behind it.
pub(super) const EVENTS: &str = "SELECT e.sequence, e.id, c.name, e.kind, e.at, e.amounts, e.texts \
                                 FROM event e JOIN customer c ON c.id = e.customer";

/// Reads a row that begins as those of [`EVENTS`].
pub(super) fn event(
    file: &Connection,
    kinds: &mut Kinds,
    row: &Row<'_>,
) -> rusqlite::Result<RecordedEvent> {
    let kind = match kinds.0.entry(row.get(3)?) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => {
            let kind = read_kind(file, *new.key())?;
            new.insert(kind)
        }
    };
    let amounts: Vec<Amount> = list(row.get_ref(5)?)?;
    let texts: Vec<String> = list(row.get_ref(6)?)?;
    let mut usage = Usage::new();
    for (name, amount) in kind.names.iter().zip(amounts) {
        usage = usage.and(name, amount);
    }
    for (name, text) in kind.dimensions.iter().zip(texts) {
        usage = usage.dimension(name, text);
    }
    Ok(RecordedEvent {
        id: row.get(1)?,
        customer: row.get(2)?,
        event_type: kind.event_type.as_str().into(),
        usage,
        at: row.get(4)?,
        reverses: kind.reverses,
        sequence: row.get(0)?,
    })
}

fn read_kind(file: &Connection, number: i64) -> rusqlite::Result<Kind> {
    let sql = "SELECT event_type, names, dimensions, reverses FROM kind WHERE id = ?1";
    file.query_row(sql, [number], |row| {
        let (names, dimensions) = (list(row.get_ref(1)?)?, list(row.get_ref(2)?)?);
        Ok(Kind { event_type: row.get(0)?, names, dimensions, reverses: row.get(3)? })
    })
}

/// Reads a JSON array.
pub(super) fn list<'a, T: serde::Deserialize<'a>>(value: ValueRef<'a>) -> rusqlite::Result<Vec<T>> {
    Ok(serde_json::from_str(value.as_str()?).map_err(FromSqlError::other)?)
}

/// Reads [`transaction`]: put `WHERE` and `ORDER BY` behind it.
pub(super) const LEDGER: &str = "SELECT l.sequence, l.id, c.name, b.name, l.amount, l.balance_after, \
                                 l.at, l.description, l.reference FROM ledger l \
                                 JOIN balance b ON b.id = l.balance \
                                 JOIN customer c ON c.id = b.customer";

/// Reads a row of [`LEDGER`].
pub(super) fn transaction(row: &Row<'_>) -> rusqlite::Result<Transaction> {
    let amount: Amount = row.get(4)?;
    let kind = match amount.is_positive() {
        true => TransactionKind::Credit,
        false => TransactionKind::Debit,
    };
    let text = |at: usize| row.get::<_, Option<String>>(at).map(|text| text.map(String::into));
    Ok(Transaction {
        id: row.get(1)?,
        customer: row.get(2)?,
        balance: row.get::<_, String>(3)?.into(),
        kind,
        amount: Amount::ZERO.saturating_add(amount).max(Amount::ZERO.saturating_sub(amount)),
        balance_after: row.get(5)?,
        description: text(7)?,
        reference: text(8)?,
        at: row.get(6)?,
        sequence: row.get(0)?,
    })
}

/// Reads one number of the state.
pub(super) fn state(file: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    let mut state = file.prepare_cached("SELECT value FROM state WHERE name = ?1")?;
    state.query_row(params![name], |row| row.get(0)).optional()
}

/// The place of the newest event or transaction; 0 when there is none.
pub(super) fn place(file: &Connection, name: &str) -> rusqlite::Result<u64> {
    let place = state(file, name)?.unwrap_or_default();
    u64::try_from(place).map_err(|_| FromSqlError::OutOfRange(place).into())
}

/// A list of numbers as JSON.
pub(super) fn numbers(numbers: &[u32]) -> String {
    let mut text = String::from("[");
    for (at, number) in numbers.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{}{number}", if at > 0 { "," } else { "" });
    }
    text.push(']');
    text
}
