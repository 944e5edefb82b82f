//! The file: one SQLite connection, locked against every other process.
//!
//! Each step is a transaction that outlives the process once it returns; the log is synced only now
//! and then, so a power cut may take the last.

use std::path::Path;
use std::time::Duration;

use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Result, TransactionBehavior, params,
};

use super::payload::Message;
use crate::policy::Timestamp;
use crate::{Error, ErrorKind};

/// What a file says it is, in its header.
const APPLICATION: i32 = 0x4C74_7977;
/// The form of the tables.
const VERSION: i32 = 1;

/// Empties what nobody is to hear of any more.
const EMPTY: &str = "UPDATE crossing SET body = '' WHERE body <> ''
    AND NOT EXISTS (SELECT 1 FROM delivery WHERE crossing = crossing.number)";

#[derive(Debug)]
pub(super) struct File(Connection);

/// A delivery whose time has come.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) crossing: i64,
    pub(super) id: String,
    pub(super) body: String,
    pub(super) failures: u32,
}

impl File {
    /// Opens the file, or makes a new one that calls itself `producer`. Waits so long for who has it open.
    pub(super) fn open(path: &Path, producer: &str, wait: Duration) -> Result<Self, Error> {
        const LONGEST: Duration = Duration::from_secs(24 * 3_600);
        // A path is a path, also one that looks like a URI.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut file = Connection::open_with_flags(path, flags).map_err(unopened)?;
        file.busy_timeout(wait.min(LONGEST)).map_err(unopened)?;
        file.execute_batch("PRAGMA locking_mode = EXCLUSIVE").map_err(unopened)?;
        let number = |sql| file.query_row(sql, [], |row| row.get::<_, i32>(0)).map_err(unopened);
        let tables = number("SELECT count(*) FROM sqlite_schema")?;
        let application = number("PRAGMA application_id")?;
        let version = number("PRAGMA user_version")?;
        if application != APPLICATION && (tables, application, version) != (0, 0, 0) {
            return Err(Error::invalid("path", "is a database of something else; give a new file"));
        }
        if version > VERSION {
            let problem = format_args!("was written by a later version, in form {version}; update");
            return Err(Error::invalid("path", problem));
        }
        prepare(&mut file, producer).map_err(unopened)?;
        Ok(Self(file))
    }

    /// What the ids of this file are made with.
    pub(super) fn producer(&self) -> Result<String> {
        self.0.query_row("SELECT id FROM producer", [], |row| row.get(0))
    }

    /// The number of the endpoint with this hash of its URL, and whether it is disabled.
    pub(super) fn endpoint(&self, url: &[u8]) -> Result<(i64, bool)> {
        self.0.execute("INSERT OR IGNORE INTO endpoint (url) VALUES (?)", [url])?;
        let sql = "SELECT number, disabled FROM endpoint WHERE url = ?";
        self.0.query_row(sql, [url], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Keeps a message, to be delivered to these endpoints at once; one that is known already is left
    /// alone. Answers how many deliveries that makes.
    pub(super) fn enter(
        &mut self,
        message: &Message,
        endpoints: &[i64],
        now: Timestamp,
    ) -> Result<usize> {
        let step = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Nobody is to hear of it, and it is known all the same.
        let body = if endpoints.is_empty() { "" } else { &message.body };
        let entered = step
            .prepare_cached("INSERT OR IGNORE INTO crossing (id, body, ends) VALUES (?, ?, ?)")?
            .execute(params![message.id, body, message.ends.as_nanos()])?;
        if entered == 0 {
            return Ok(0);
        }
        let crossing = step.last_insert_rowid();
        for endpoint in endpoints {
            step.prepare_cached("INSERT INTO delivery (crossing, endpoint, due) VALUES (?, ?, ?)")?
                .execute([crossing, *endpoint, now.as_nanos()])?;
        }
        step.commit()?;
        Ok(endpoints.len())
    }

    /// The first of the deliveries to an endpoint that wait, in the order in which they are due, and
    /// is not among those taken.
    pub(super) fn first(&self, endpoint: i64, taken: &[i64]) -> Result<Option<(i64, Timestamp)>> {
        let mut statement = self.0.prepare_cached(
            "SELECT crossing, due FROM delivery WHERE endpoint = ? AND due IS NOT NULL
             ORDER BY due LIMIT ?",
        )?;
        let most = i64::try_from(taken.len()).unwrap_or(i64::MAX).saturating_add(1);
        let mut rows = statement.query([endpoint, most])?;
        while let Some(row) = rows.next()? {
            let crossing = row.get(0)?;
            if !taken.contains(&crossing) {
                return Ok(Some((crossing, Timestamp::from_nanos(row.get(1)?))));
            }
        }
        Ok(None)
    }

    pub(super) fn read(&self, endpoint: i64, crossing: i64) -> Result<Option<Due>> {
        self.0
            .prepare_cached(
                "SELECT c.id, c.body, d.attempts
                 FROM delivery d JOIN crossing c ON c.number = d.crossing
                 WHERE d.endpoint = ? AND d.crossing = ?",
            )?
            .query_row([endpoint, crossing], |row| {
                let (id, body, failures) = (row.get(0)?, row.get(1)?, row.get(2)?);
                Ok(Due { crossing, id, body, failures })
            })
            .optional()
    }

    /// The delivery is over.
    pub(super) fn delivered(&mut self, endpoint: i64, crossing: i64) -> Result<()> {
        let step = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        end(&step, endpoint, crossing)?;
        step.commit()
    }

    /// The delivery has failed so often, and is tried again then; never when `None`.
    pub(super) fn failed(
        &self,
        endpoint: i64,
        crossing: i64,
        failures: u32,
        due: Option<Timestamp>,
    ) -> Result<()> {
        let due = due.map(Timestamp::as_nanos);
        self.0
            .prepare_cached(
                "UPDATE delivery SET attempts = ?, due = ? WHERE endpoint = ? AND crossing = ?",
            )?
            .execute(params![failures, due, endpoint, crossing])?;
        Ok(())
    }

    /// Nothing is sent to the endpoint any more.
    pub(super) fn disable(&mut self, endpoint: i64) -> Result<()> {
        let step = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        step.execute("UPDATE endpoint SET disabled = 1 WHERE number = ?", [endpoint])?;
        step.execute("DELETE FROM delivery WHERE endpoint = ?", [endpoint])?;
        step.execute(EMPTY, [])?;
        step.commit()
    }

    pub(super) fn enable(&self, endpoint: i64) -> Result<()> {
        self.0.execute("UPDATE endpoint SET disabled = 0 WHERE number = ?", [endpoint])?;
        Ok(())
    }

    /// What was given up is due again. Answers how many those are.
    pub(super) fn try_again(&self, endpoint: i64, now: Timestamp) -> Result<usize> {
        self.0.execute(
            "UPDATE delivery SET attempts = 0, due = ? WHERE endpoint = ? AND due IS NULL",
            [now.as_nanos(), endpoint],
        )
    }

    /// Forgets so many of those that were given up, the oldest crossings first. Answers how many those
    /// were.
    pub(super) fn forget(&mut self, many: usize) -> Result<usize> {
        let step = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let oldest: Vec<(i64, i64)> = step
            .prepare_cached(
                "SELECT endpoint, crossing FROM delivery WHERE due IS NULL
                 ORDER BY crossing LIMIT ?",
            )?
            .query_map([many], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_>>()?;
        for (endpoint, crossing) in &oldest {
            end(&step, *endpoint, *crossing)?;
        }
        step.commit()?;
        Ok(oldest.len())
    }

    /// How many deliveries wait, and how many were given up.
    pub(super) fn counts(&self) -> Result<(usize, usize)> {
        let sql = "SELECT count(due), count(*) - count(due) FROM delivery";
        self.0.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Forgets what was to be told long ago to endpoints that are no longer given, and crossings whose
    /// window has ended and of which nobody is to hear any more.
    pub(super) fn prune(&mut self, given: &[i64], now: Timestamp, old: Timestamp) -> Result<()> {
        let step = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let known: Vec<i64> = step
            .prepare_cached("SELECT number FROM endpoint")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_>>()?;
        let mut forgotten = 0;
        for former in known.into_iter().filter(|number| !given.contains(number)) {
            forgotten += step.execute(
                "DELETE FROM delivery WHERE endpoint = ? AND coalesce(due, 0) < ?",
                [former, old.as_nanos()],
            )?;
        }
        if forgotten > 0 {
            step.execute(EMPTY, [])?;
        }
        step.execute(
            "DELETE FROM crossing WHERE ends <= ?
             AND NOT EXISTS (SELECT 1 FROM delivery WHERE crossing = crossing.number)",
            [now.as_nanos()],
        )?;
        step.commit()
    }
}

#[cfg(test)]
impl File {
    /// Refuses all writes, as a full disk does.
    pub(super) fn fail(&self, fails: bool) -> Result<()> {
        self.0.pragma_update(None, "query_only", fails)
    }
}

/// Removes a delivery, and what it says once nobody else is to hear of it.
fn end(step: &Connection, endpoint: i64, crossing: i64) -> Result<()> {
    step.prepare_cached("DELETE FROM delivery WHERE endpoint = ? AND crossing = ?")?
        .execute([endpoint, crossing])?;
    step.prepare_cached(
        "UPDATE crossing SET body = '' WHERE number = ?1
         AND NOT EXISTS (SELECT 1 FROM delivery WHERE crossing = ?1)",
    )?
    .execute([crossing])?;
    Ok(())
}

fn prepare(file: &mut Connection, producer: &str) -> Result<()> {
    file.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    file.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA fullfsync = ON")?;
    let step = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if step.query_row("PRAGMA user_version", [], |row| row.get::<_, i32>(0))? == 0 {
        step.execute_batch(include_str!("schema.sql"))?;
        step.execute("INSERT INTO producer VALUES (?)", [producer])?;
        step.pragma_update(None, "application_id", APPLICATION)?;
        step.pragma_update(None, "user_version", VERSION)?;
    }
    step.commit()
}

pub(super) fn unopened(error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::new(
            ErrorKind::Conflict,
            "the webhooks file is open already; give every process a file of its own",
        ),
        Some(ErrorCode::NotADatabase) => {
            Error::invalid("path", "is not a webhooks file; give a new file")
        }
        _ => Error::new(ErrorKind::Unavailable, "the webhooks file cannot be opened")
            .with_source(error),
    }
}
