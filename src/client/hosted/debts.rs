//! What is owed to balances: what work cost beyond what was left.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use compact_str::CompactString;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, params};

use crate::client::call::key_of;
use crate::policy::{Amount, CustomerId, EventId, Timestamp};
use crate::{Error, ErrorKind};

/// What one request cost beyond what was left on a balance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Debt {
    /// Who owes it.
    pub customer: CustomerId,
    /// The balance that owes it, by its name.
    pub balance: CompactString,
    /// The event behind it.
    pub id: EventId,
    /// What is still owed.
    pub owed: Amount,
    /// The time of the event.
    pub since: Timestamp,
}

/// A debt, and how far taking it has come. A debit is written down before it is sent, so that it goes
/// again as it was, also after a crash. What is paid stays until its event is recorded: a delivery
/// that is repeated must not be charged anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owed {
    pub(super) debt: Debt,
    /// Counts the debits that were answered: each has an id of its own.
    pub(super) attempt: u32,
    /// What the debit on its way asks for.
    pub(super) asking: Option<Amount>,
    /// Its event is recorded, so that no delivery comes any more.
    pub(super) recorded: bool,
}

impl Owed {
    pub(super) fn new(debt: Debt) -> Self {
        Self { debt, attempt: 0, asking: None, recorded: false }
    }

    fn is_open(&self) -> bool {
        self.debt.owed.is_positive()
    }

    /// Whether there is nothing left to remember.
    fn is_over(&self) -> bool {
        self.recorded && !self.is_open()
    }

    /// The id of the debit that is next, or on its way.
    pub(super) fn debit_id(&self) -> String {
        format!("debt:{}:{}", self.attempt, key_of(&self.debt.customer, &self.debt.id))
    }
}

/// All of them, the oldest first, and the file that has them.
#[derive(Debug)]
pub(super) struct Debts {
    all: Arc<Mutex<Vec<Owed>>>,
    file: Option<Arc<Mutex<Connection>>>,
}

impl Debts {
    pub(super) async fn open(path: Option<PathBuf>, wait: Duration) -> Result<Self, Error> {
        let Some(path) = path else { return Ok(Self { all: Arc::default(), file: None }) };
        let opened = tokio::task::spawn_blocking(move || open(&path, wait));
        let (connection, all) = opened.await.map_err(|_| failed_task())??;
        Ok(Self { all: Arc::new(Mutex::new(all)), file: Some(Arc::new(Mutex::new(connection))) })
    }

    /// The file, for what else is kept in it.
    pub(super) fn file(&self) -> Option<Arc<Mutex<Connection>>> {
        self.file.clone()
    }

    pub(super) fn all(&self) -> Vec<Debt> {
        let all = self.lock();
        all.iter().filter(|owed| owed.is_open()).map(|owed| owed.debt.clone()).collect()
    }

    /// What a balance owes altogether.
    pub(super) fn of(&self, customer: &CustomerId, balance: &str) -> Amount {
        let all = self.lock();
        let of = all.iter().filter(|owed| is_of(owed, customer, balance));
        of.fold(Amount::ZERO, |sum, owed| sum.saturating_add(owed.debt.owed))
    }

    /// Whether an event's charge is a debt, or was one before it was recorded.
    pub(super) fn has(&self, customer: &CustomerId, id: &EventId) -> bool {
        self.lock().iter().any(|owed| owed.debt.customer == *customer && owed.debt.id == *id)
    }

    /// The balances that owe something, each once.
    pub(super) fn balances(&self) -> Vec<(CustomerId, CompactString)> {
        let all = self.lock();
        let open = all.iter().filter(|owed| owed.is_open());
        let mut balances: Vec<_> =
            open.map(|owed| (owed.debt.customer.clone(), owed.debt.balance.clone())).collect();
        balances.sort();
        balances.dedup();
        balances
    }

    /// The oldest debt of a balance.
    pub(super) fn first(&self, customer: &CustomerId, balance: &str) -> Option<Owed> {
        let all = self.lock();
        all.iter().find(|owed| owed.is_open() && is_of(owed, customer, balance)).cloned()
    }

    /// The event is recorded: from here on its debt is remembered no longer than it is owed.
    ///
    /// # Errors
    ///
    /// As [`keep`](Self::keep).
    pub(super) async fn recorded(&self, customer: &CustomerId, id: &EventId) -> Result<(), Error> {
        let is_it = |owed: &&Owed| owed.debt.customer == *customer && owed.debt.id == *id;
        let found = self.lock().iter().find(is_it).cloned();
        match found {
            Some(owed) if !owed.recorded => self.keep(Owed { recorded: true, ..owed }).await,
            _ => Ok(()),
        }
    }

    /// Writes down a debt as it stands. In the file first; begun, it is done in both, whoever still
    /// waits for it.
    ///
    /// # Errors
    ///
    /// When it cannot be written; nothing has changed then.
    pub(super) async fn keep(&self, owed: Owed) -> Result<(), Error> {
        let Some(file) = &self.file else {
            note(&mut self.lock(), owed);
            return Ok(());
        };
        let (file, all) = (Arc::clone(file), Arc::clone(&self.all));
        let written = tokio::task::spawn_blocking(move || {
            let file = file.lock().unwrap_or_else(PoisonError::into_inner);
            write(&file, &owed)?;
            note(&mut all.lock().unwrap_or_else(PoisonError::into_inner), owed);
            Ok(())
        });
        written.await.map_err(|_| failed_task())?.map_err(unwritten)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Owed>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note(all: &mut Vec<Owed>, owed: Owed) {
    let is_same = |known: &Owed| {
        (&known.debt.customer, &known.debt.id) == (&owed.debt.customer, &owed.debt.id)
    };
    match all.iter().position(is_same) {
        Some(at) if owed.is_over() => drop(all.remove(at)),
        Some(at) => all[at] = owed,
        None => all.push(owed),
    }
}

fn is_of(owed: &Owed, customer: &CustomerId, balance: &str) -> bool {
    owed.debt.customer == *customer && owed.debt.balance == balance
}

/// What a file says it is, in its header, and the form of its table.
const APPLICATION: i32 = 0x4C74_7964;
const VERSION: i32 = 1;

fn open(path: &Path, wait: Duration) -> Result<(Connection, Vec<Owed>), Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(unopened)?;
    const LONGEST: Duration = Duration::from_secs(24 * 3_600);
    connection.busy_timeout(wait.min(LONGEST)).map_err(unopened)?;
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    // In this order: the lock is taken by the first read, and stays.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(unopened)?;
    connection.execute_batch("BEGIN EXCLUSIVE").map_err(unopened)?;
    let kind =
        (number("application_id").map_err(unopened)?, number("user_version").map_err(unopened)?);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(unopened)?;
    match kind {
        (APPLICATION, VERSION) => {}
        (0, 0) if tables == 0 => make(&connection).map_err(unopened)?,
        _ => return Err(Error::invalid("debts", "is a file of another kind or a later version")),
    }
    connection.execute_batch("COMMIT; PRAGMA synchronous = FULL").map_err(unopened)?;
    let all = read(&connection).map_err(unopened)?;
    Ok((connection, all))
}

fn make(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", APPLICATION)?;
    connection.pragma_update(None, "user_version", VERSION)?;
    // Amounts in millionths, times in nanoseconds. `asking` is what the debit on its way asks for.
    connection.execute_batch(
        "CREATE TABLE debt (
            place INTEGER PRIMARY KEY AUTOINCREMENT,
            customer TEXT NOT NULL,
            id TEXT NOT NULL,
            balance TEXT NOT NULL,
            owed INTEGER NOT NULL,
            since INTEGER NOT NULL,
            attempt INTEGER NOT NULL,
            asking INTEGER,
            recorded INTEGER NOT NULL,
            UNIQUE (customer, id)
        ) STRICT",
    )
}

fn read(connection: &Connection) -> rusqlite::Result<Vec<Owed>> {
    let mut statement = connection.prepare(
        "SELECT customer, id, balance, owed, since, attempt, asking, recorded
         FROM debt ORDER BY place",
    )?;
    let rows = statement.query_map([], owed)?;
    rows.collect()
}

fn owed(row: &Row<'_>) -> rusqlite::Result<Owed> {
    let text = |at: usize| row.get::<_, String>(at);
    let unreadable = |at: usize| {
        move |error: crate::policy::IdError| {
            let kind = rusqlite::types::Type::Text;
            rusqlite::Error::FromSqlConversionFailure(at, kind, Box::new(error))
        }
    };
    Ok(Owed {
        debt: Debt {
            customer: CustomerId::new(text(0)?).map_err(unreadable(0))?,
            id: EventId::new(text(1)?).map_err(unreadable(1))?,
            balance: text(2)?.into(),
            owed: Amount::from_millionths(row.get(3)?),
            since: Timestamp::from_nanos(row.get(4)?),
        },
        attempt: row.get(5)?,
        asking: row.get::<_, Option<i64>>(6)?.map(Amount::from_millionths),
        recorded: row.get(7)?,
    })
}

fn write(connection: &Connection, owed: &Owed) -> rusqlite::Result<()> {
    let Owed { debt, attempt, asking, recorded } = owed;
    let (customer, id) = (debt.customer.as_str(), debt.id.to_string());
    if owed.is_over() {
        let delete = "DELETE FROM debt WHERE customer = ? AND id = ?";
        return connection.execute(delete, params![customer, id]).map(drop);
    }
    connection
        .execute(
            "INSERT INTO debt (customer, id, balance, owed, since, attempt, asking, recorded)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (customer, id) DO UPDATE SET
                owed = excluded.owed, attempt = excluded.attempt, asking = excluded.asking,
                recorded = excluded.recorded",
            params![
                customer,
                id,
                debt.balance.as_str(),
                debt.owed.as_millionths(),
                debt.since.as_nanos(),
                attempt,
                asking.map(Amount::as_millionths),
                recorded,
            ],
        )
        .map(drop)
}

pub(super) fn unopened(error: rusqlite::Error) -> Error {
    let (kind, message) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Conflict, "the file of debts is open in another process")
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            (ErrorKind::Invalid, "the file of debts is none, or damaged")
        }
        _ => (ErrorKind::Unavailable, "the file of debts cannot be opened"),
    };
    Error::new(kind, message).with_source(error)
}

pub(super) fn unwritten(error: rusqlite::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the file of debts cannot be written").with_source(error)
}

pub(super) fn failed_task() -> Error {
    Error::new(ErrorKind::Unavailable, "the runtime ended before the file of debts was written")
}
