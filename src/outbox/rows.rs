//! The entries of the file, as one transaction sees and changes them.

use rusqlite::types::{Type, Value};
use rusqlite::{Connection, Error, OptionalExtension, Result, Row, params_from_iter};

use super::entry::Entry;
use crate::policy::{CustomerId, Timestamp};

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting = 0,
    Delivered = 1,
    SetAside = 2,
}

/// An entry without its body.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) sequence: u64,
    pub(super) customer: CustomerId,
    pub(super) state: State,
    pub(super) bytes: u64,
    pub(super) appended: Timestamp,
    /// When it was delivered or set aside.
    pub(super) moved: Timestamp,
}

/// An entry that was set aside, as it is written.
pub(super) struct Refused {
    pub(super) sequence: u64,
    pub(super) entry: Entry,
    pub(super) reason: String,
    pub(super) moved: Timestamp,
}

/// A statement that changed something. Made again on what was there before, it comes to the same.
#[derive(Debug)]
pub(super) struct Change {
    sql: &'static str,
    values: Vec<Value>,
}

impl Change {
    pub(super) fn make_again(&self, connection: &Connection) -> Result<()> {
        let mut statement = connection.prepare_cached(self.sql)?;
        let mut rows = statement.query(params_from_iter(&self.values))?;
        while rows.next()?.is_some() {}
        Ok(())
    }
}

/// The entries, within a transaction.
pub(super) struct Rows<'a> {
    connection: &'a Connection,
    /// The last number that was given.
    last: u64,
    changed: bool,
    /// What was changed, where that is to be remembered.
    changes: Option<Vec<Change>>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(connection: &'a Connection, last: u64, remembers: bool) -> Self {
        Self { connection, last, changed: false, changes: remembers.then(Vec::new) }
    }

    /// The last number that was given: no entry has a larger sequence.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// What was changed, if it was to be remembered.
    pub(super) fn into_changes(self) -> Vec<Change> {
        self.changes.unwrap_or_default()
    }

    /// Numbers what was changed, if anything was; each time larger than before.
    pub(super) fn number(&mut self, before: u64) -> Result<bool> {
        if self.changed {
            self.last = self.last.max(before + 1);
            self.change("UPDATE state SET last = ?", [integer(self.last)])?;
        }
        Ok(self.changed)
    }

    /// Every entry, in order.
    pub(super) fn lines(&self) -> Result<Vec<Line>> {
        let mut statement = self.connection.prepare(
            "SELECT sequence, customer, state, octet_length(body), appended, moved
             FROM entry ORDER BY sequence",
        )?;
        let lines = statement.query_map([], line)?;
        lines.collect()
    }

    /// Appends an entry. Answers its sequence.
    pub(super) fn append(&mut self, entry: &Entry, at: Timestamp) -> Result<u64> {
        self.last += 1;
        self.change(
            "INSERT INTO entry (sequence, customer, state, unsure, appended, body)
             VALUES (?, ?, 0, ?, ?, ?)",
            [
                integer(self.last),
                entry.customer.as_str().to_owned().into(),
                entry.unsure.into(),
                at.as_nanos().into(),
                entry.body.clone().into(),
            ],
        )?;
        Ok(self.last)
    }

    /// The entry, unless it is gone.
    pub(super) fn read(&self, sequence: u64) -> Result<Option<Entry>> {
        self.connection
            .prepare_cached("SELECT customer, unsure, body FROM entry WHERE sequence = ?")?
            .query_row([sequence.cast_signed()], |row| entry(row, 0))
            .optional()
    }

    pub(super) fn delivered(&mut self, sequence: u64, at: Timestamp) -> Result<()> {
        self.move_to(sequence, State::Delivered, at, Value::Null)
    }

    pub(super) fn set_aside(&mut self, sequence: u64, at: Timestamp, reason: &str) -> Result<()> {
        self.move_to(sequence, State::SetAside, at, reason.to_owned().into())
    }

    fn move_to(&mut self, sequence: u64, to: State, at: Timestamp, reason: Value) -> Result<()> {
        self.change(
            "UPDATE entry SET state = ?, moved = ?, reason = ? WHERE sequence = ?",
            [(to as i64).into(), at.as_nanos().into(), reason, integer(sequence)],
        )?;
        Ok(())
    }

    /// Lets an entry that was delivered wait again, in its old place. Answers whether it was there.
    pub(super) fn deliver_again(&mut self, sequence: u64) -> Result<bool> {
        self.change(
            "UPDATE entry SET state = 0, unsure = 1, moved = NULL WHERE sequence = ? AND state = 1",
            [integer(sequence)],
        )
    }

    /// Lets an entry that was set aside wait again, behind all others: its target may have taken
    /// later ones. Answers it under its new sequence, unless there is none.
    pub(super) fn replay(&mut self, sequence: u64) -> Result<Option<Line>> {
        let next = self.last + 1;
        let renewed = self.change_one(
            "UPDATE entry SET state = 0, sequence = ?2, moved = NULL, reason = NULL
             WHERE sequence = ?1 AND state = 2
             RETURNING sequence, customer, state, octet_length(body), appended, moved",
            [integer(sequence), integer(next)],
            line,
        )?;
        if renewed.is_some() {
            self.last = next;
        }
        Ok(renewed)
    }

    /// Removes an entry. Answers the length of its body, unless there is none in that state.
    pub(super) fn remove(&mut self, sequence: u64, state: State) -> Result<Option<u64>> {
        self.change_one(
            "DELETE FROM entry WHERE sequence = ? AND state = ? RETURNING octet_length(body)",
            [integer(sequence), (state as i64).into()],
            |row| row.get(0).map(i64::cast_unsigned),
        )
    }

    /// Entries that were set aside, in order, those after a sequence.
    pub(super) fn refused(&self, after: u64, most: usize) -> Result<Vec<Refused>> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let mut statement = self.connection.prepare_cached(
            "SELECT sequence, coalesce(reason, ''), coalesce(moved, appended), customer, unsure, body
             FROM entry WHERE state = 2 AND sequence > ? ORDER BY sequence LIMIT ?",
        )?;
        let refused = statement.query_map([after.cast_signed(), most], |row| {
            Ok(Refused {
                sequence: sequence(row)?,
                reason: row.get(1)?,
                moved: Timestamp::from_nanos(row.get(2)?),
                entry: entry(row, 3)?,
            })
        })?;
        refused.collect()
    }

    fn change<const N: usize>(&mut self, sql: &'static str, values: [Value; N]) -> Result<bool> {
        let rows = self.connection.prepare_cached(sql)?.execute(params_from_iter(&values))?;
        self.remember(rows > 0, sql, values);
        Ok(rows > 0)
    }

    /// Changes one row, and answers it if it is there.
    fn change_one<T, const N: usize>(
        &mut self,
        sql: &'static str,
        values: [Value; N],
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let row = statement.query_row(params_from_iter(&values), read).optional()?;
        drop(statement);
        self.remember(row.is_some(), sql, values);
        Ok(row)
    }

    fn remember<const N: usize>(&mut self, changed: bool, sql: &'static str, values: [Value; N]) {
        self.changed |= changed;
        if let Some(changes) = self.changes.as_mut().filter(|_| changed) {
            changes.push(Change { sql, values: values.into() });
        }
    }
}

fn integer(number: u64) -> Value {
    number.cast_signed().into()
}

fn line(row: &Row<'_>) -> Result<Line> {
    let appended = Timestamp::from_nanos(row.get(4)?);
    let moved = row.get::<_, Option<i64>>(5)?.map_or(appended, Timestamp::from_nanos);
    let state = match row.get(2)? {
        0 => State::Waiting,
        1 => State::Delivered,
        2 => State::SetAside,
        other => return Err(Error::IntegralValueOutOfRange(2, other)),
    };
    let (customer, bytes) = (customer(row, 1)?, row.get::<_, i64>(3)?.cast_unsigned());
    Ok(Line { sequence: sequence(row)?, customer, state, bytes, appended, moved })
}

fn sequence(row: &Row<'_>) -> Result<u64> {
    row.get(0).map(i64::cast_unsigned)
}

fn entry(row: &Row<'_>, first: usize) -> Result<Entry> {
    let customer = customer(row, first)?;
    Ok(Entry { customer, unsure: row.get(first + 1)?, body: row.get(first + 2)? })
}

fn customer(row: &Row<'_>, column: usize) -> Result<CustomerId> {
    let text: String = row.get(column)?;
    CustomerId::new(text)
        .map_err(|error| Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}
