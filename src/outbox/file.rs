//! The file: one SQLite connection, owned by one thread, locked against every other.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rusqlite::config::DbConfig;
use rusqlite::types::FromSql;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Result, Row, params};

use super::Durability;
use super::entry::Entry;
use crate::backend::Producer;
use crate::policy::{CustomerId, Timestamp};
use crate::{Error, ErrorKind};

/// What a file says it is, in its header.
const APPLICATION: i32 = 0x4C74_7962;
/// The form of the tables.
const VERSION: i32 = 1;

pub(super) struct File {
    connection: Connection,
    producer: Producer,
    /// The sequence of the next entry.
    next: u64,
    durability: Durability,
    log: PathBuf,
    /// When the oldest commit that may not be on the disk was made.
    unsynced: Option<Instant>,
}

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

impl File {
    /// Opens the file, or makes a new one. No sequence that was used before `now` is used again,
    /// even if the file has forgotten some (a power cut under [`Durability::Relaxed`], a backup put
    /// back): they go on from the microseconds of `now`.
    pub(super) fn open(path: &Path, durability: Durability, now: Timestamp) -> Result<Self, Error> {
        let log = log_of(path);
        let has_log = log.exists();
        // A path is a path, also one that looks like a URI.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(unopened)?;
        check_kind(&connection, has_log)?;
        prepare(&mut connection, durability).map_err(unopened)?;
        let producer = read_producer(&connection)?;
        let last: Option<i64> = connection
            .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'entry'", [], |row| row.get(0))
            .optional()
            .map_err(unopened)?;
        let micros = u64::try_from(now.as_nanos() / 1_000).unwrap_or(0);
        let next = micros.max(last.map_or(0, i64::cast_unsigned) + 1);
        Ok(Self { connection, producer, next, durability, log, unsynced: None })
    }

    pub(super) fn producer(&self) -> Producer {
        self.producer
    }

    /// The last sequence that was given.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
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

    /// Runs all steps in one transaction; they all happen, durably, or none does.
    pub(super) fn commit(&mut self, steps: &mut [Box<dyn Work>]) -> Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        let next = self.next;
        let result = self.run(steps);
        if result.is_err() {
            self.next = next;
            if !self.connection.is_autocommit() {
                // Where that fails, too, the next transaction cannot begin and says so.
                let _ = self.connection.execute_batch("ROLLBACK");
            }
        } else if self.durability != Durability::Full {
            self.unsynced.get_or_insert_with(Instant::now);
        }
        result
    }

    fn run(&mut self, steps: &mut [Box<dyn Work>]) -> Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        for step in steps {
            step.run(self)?;
        }
        self.connection.execute_batch("COMMIT")
    }

    /// After a failure: copies all that was committed out of the log, and begins the log anew.
    ///
    /// A sync that failed must not be asked again about the same pages: the kernel may have dropped
    /// what it could not write, and then says that all is well. What failed is rolled back and written
    /// anew, at the start of an empty log, and what was committed is synced in a second place. It
    /// also gives back the room that the log took, for the case that the disk is full.
    pub(super) fn recover(&mut self) -> Result<()> {
        let busy: i64 = run_to_end(&self.connection, "PRAGMA wal_checkpoint(TRUNCATE)")?;
        if busy != 0 {
            return Err(failure(ErrorCode::DatabaseBusy));
        }
        self.unsynced = None;
        Ok(())
    }

    /// When what was committed is to be on the disk, if it may not be there.
    pub(super) fn due(&self) -> Option<Instant> {
        self.unsynced.and_then(|since| self.durability.due(since))
    }

    /// Brings what was committed to the disk.
    pub(super) fn sync(&mut self) -> Result<()> {
        if self.unsynced.take().is_some() {
            let synced = std::fs::File::open(&self.log).and_then(|log| log.sync_data());
            synced.map_err(|_| failure(ErrorCode::SystemIoFailure))?;
        }
        Ok(())
    }

    /// Appends an entry. Answers its sequence.
    pub(super) fn append(&mut self, entry: &Entry, at: Timestamp) -> Result<u64> {
        let sequence = self.next;
        self.next += 1;
        self.connection
            .prepare_cached(
                "INSERT INTO entry (sequence, customer, state, unsure, appended, body)
                 VALUES (?, ?, 0, ?, ?, ?)",
            )?
            .execute(params![
                sequence.cast_signed(),
                entry.customer.as_str(),
                entry.unsure,
                at.as_nanos(),
                entry.body
            ])?;
        Ok(sequence)
    }

    /// The entry, unless it is gone.
    pub(super) fn read(&self, sequence: u64) -> Result<Option<Entry>> {
        self.connection
            .prepare_cached("SELECT customer, unsure, body FROM entry WHERE sequence = ?")?
            .query_row([sequence.cast_signed()], |row| entry(row, 0))
            .optional()
    }

    pub(super) fn delivered(&self, sequence: u64, at: Timestamp) -> Result<()> {
        self.move_to(sequence, State::Delivered, at, None)
    }

    pub(super) fn set_aside(&self, sequence: u64, at: Timestamp, reason: &str) -> Result<()> {
        self.move_to(sequence, State::SetAside, at, Some(reason))
    }

    fn move_to(
        &self,
        sequence: u64,
        state: State,
        at: Timestamp,
        reason: Option<&str>,
    ) -> Result<()> {
        self.connection
            .prepare_cached("UPDATE entry SET state = ?, moved = ?, reason = ? WHERE sequence = ?")?
            .execute(params![state as i64, at.as_nanos(), reason, sequence.cast_signed()])?;
        Ok(())
    }

    /// Lets an entry that was delivered wait again, in its old place. Answers whether it was there.
    pub(super) fn deliver_again(&self, sequence: u64) -> Result<bool> {
        let changed = self
            .connection
            .prepare_cached(
                "UPDATE entry SET state = 0, unsure = 1, moved = NULL
                 WHERE sequence = ? AND state = 1",
            )?
            .execute([sequence.cast_signed()])?;
        Ok(changed > 0)
    }

    /// Lets an entry that was set aside wait again, behind all others: its target may have taken
    /// later ones. Answers it under its new sequence, unless there is none.
    pub(super) fn replay(&mut self, sequence: u64) -> Result<Option<Line>> {
        let renewed = self
            .connection
            .prepare_cached(
                "UPDATE entry SET state = 0, sequence = ?2, moved = NULL, reason = NULL
                 WHERE sequence = ?1 AND state = 2
                 RETURNING sequence, customer, state, octet_length(body), appended, moved",
            )?
            .query_row([sequence.cast_signed(), self.next.cast_signed()], line)
            .optional()?;
        if renewed.is_some() {
            // SQLite notes the largest sequence at an INSERT only.
            self.connection
                .prepare_cached("UPDATE sqlite_sequence SET seq = ? WHERE name = 'entry'")?
                .execute([self.next.cast_signed()])?;
            self.next += 1;
        }
        Ok(renewed)
    }

    /// Removes an entry. Answers the length of its body, unless there is none in that state.
    pub(super) fn remove(&self, sequence: u64, state: State) -> Result<Option<u64>> {
        self.connection
            .prepare_cached(
                "DELETE FROM entry WHERE sequence = ? AND state = ? RETURNING octet_length(body)",
            )?
            .query_row(params![sequence.cast_signed(), state as i64], |row| {
                row.get(0).map(i64::cast_unsigned)
            })
            .optional()
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
}

/// A step of a transaction.
pub(super) trait Work: Send {
    /// May run more than once, until its transaction succeeds.
    fn run(&mut self, file: &mut File) -> Result<()>;

    /// The transaction has succeeded, and is as durable as declared.
    fn committed(self: Box<Self>);

    /// Whether it makes the file larger.
    fn is_append(&self) -> bool;
}

fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Refuses what is not ours, and what a later version wrote, before anything is changed.
fn check_kind(connection: &Connection, has_log: bool) -> Result<(), Error> {
    connection
        .execute_batch("PRAGMA busy_timeout = 0; PRAGMA locking_mode = EXCLUSIVE")
        .map_err(unopened)?;
    // Closing would copy a log that was left behind into the file.
    let keeps_log = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection.set_db_config(keeps_log, has_log).map_err(unopened)?;
    let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i32>(0)).map_err(unopened);
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    let application = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    let is_new = tables == 0 && application == 0 && version == 0;
    if !is_new && application != APPLICATION {
        return Err(Error::invalid("path", "is a database of something else; give a new file"));
    }
    if version > VERSION {
        let problem = format_args!("was written by a later version, in form {version}; update");
        return Err(Error::invalid("path", problem));
    }
    connection.set_db_config(keeps_log, false).map_err(unopened)?;
    Ok(())
}

fn prepare(connection: &mut Connection, durability: Durability) -> Result<()> {
    let synchronous = durability.synchronous();
    let mode: String = run_to_end(connection, "PRAGMA journal_mode = WAL")?;
    if mode != "wal" {
        return Err(failure(ErrorCode::CannotOpen));
    }
    // Fewer checkpoints than by default, as each syncs twice more.
    connection.execute_batch(&format!(
        "PRAGMA synchronous = {synchronous};
         PRAGMA fullfsync = ON;
         PRAGMA wal_autocheckpoint = 4000;"
    ))?;
    let transaction = connection.transaction()?;
    let version: i32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version == 0 {
        transaction.execute_batch(include_str!("schema.sql"))?;
        let producer = Producer(random());
        transaction.execute("INSERT INTO producer VALUES (?)", [producer.to_string()])?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

/// The first value of a statement that changes the file as it ends: its errors come after its row.
fn run_to_end<T: FromSql>(connection: &Connection, sql: &str) -> Result<T> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let value = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?.get(0)?;
    while rows.next()?.is_some() {}
    Ok(value)
}

fn read_producer(connection: &Connection) -> Result<Producer, Error> {
    let sql = "SELECT id FROM producer";
    let text: String = connection.query_row(sql, [], |row| row.get(0)).map_err(unopened)?;
    let id = uuid::Uuid::try_parse(&text);
    id.map(|id| Producer(id.as_u128())).map_err(|error| Error::invalid("producer", error))
}

fn random() -> u128 {
    // The standard library seeds its hasher from the operating system.
    let half = || u128::from(RandomState::new().hash_one(0_u8));
    half() << 64 | half()
}

fn line(row: &Row<'_>) -> Result<Line> {
    let appended = Timestamp::from_nanos(row.get(4)?);
    let moved = row.get::<_, Option<i64>>(5)?.map_or(appended, Timestamp::from_nanos);
    let state = match row.get(2)? {
        0 => State::Waiting,
        1 => State::Delivered,
        2 => State::SetAside,
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(2, other)),
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
    CustomerId::new(text).map_err(|error| {
        let kind = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
    })
}

fn failure(code: ErrorCode) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error { code, extended_code: 0 }, None)
}

fn unopened(error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::new(
            ErrorKind::Conflict,
            "the outbox file is open already; give every process a file of its own",
        ),
        Some(ErrorCode::NotADatabase) => {
            Error::invalid("path", "is not an outbox; give a new file")
        }
        _ => Error::new(ErrorKind::Unavailable, "the outbox file cannot be opened")
            .with_source(error),
    }
}
