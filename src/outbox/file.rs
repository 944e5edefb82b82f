//! The file: one SQLite connection, owned by one thread, locked against every other.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::types::Type;
use rusqlite::{Connection, Error, ErrorCode, OpenFlags, Row};
use uuid::Uuid;

use super::Durability;
use super::rows::{Change, Line, Rows};
use crate::backend::Producer;
use crate::file::{self, Format, Lock, OpenError, checkpoint, leave_log};
use crate::policy::Timestamp;

const FORMAT: Format = Format { holds: "outbox", application: 0x4C74_7962, version: 1 };

pub(super) struct File {
    path: PathBuf,
    durability: Durability,
    /// `None` after something failed.
    connection: Option<Connection>,
    producer: Producer,
    /// The last number that was given: as its sequence to an entry, or to a commit.
    last: u64,
    /// That of the last commit in the file.
    committed: u64,
    /// What has failed: its number, and how many steps it was.
    tried: Option<(u64, usize)>,
    /// When the oldest commit that may not be on the disk was made.
    unsynced: Option<Instant>,
    /// The commits since, by their numbers, should the disk lose them.
    doubtful: Vec<(u64, Vec<Change>)>,
    /// Given back when the connection is closed.
    lock: Lock,
}

/// A step of a transaction.
pub(super) trait Work: Send {
    /// May run more than once, until its transaction succeeds.
    fn run(&mut self, rows: &mut Rows<'_>) -> rusqlite::Result<()>;

    /// The transaction has succeeded, and is as durable as declared.
    fn committed(self: Box<Self>);

    /// Whether it makes the file larger.
    fn is_append(&self) -> bool;
}

impl File {
    /// Opens the file, or makes a new one, waiting so long for others who have it. No sequence that
    /// was used before `now` is used again, even if the file has forgotten some (a power cut under
    /// [`Durability::Relaxed`], an older copy put back): they go on from the microseconds of `now`.
    pub(super) fn open(
        path: PathBuf,
        durability: Durability,
        wait: Duration,
        now: Timestamp,
    ) -> Result<Self, OpenError> {
        // Opened anew after a failure, it must be the same wherever the process has gone meanwhile.
        let path = std::path::absolute(path).map_err(OpenError::Io)?;
        let lock = Lock::take(&path, wait)?;
        file::look(&path, &lock, &FORMAT)?;
        let mut connection = connect(&path, durability, OpenFlags::SQLITE_OPEN_CREATE, wait)?;
        if FORMAT.version_of(&connection)? == 0 {
            make(&mut connection)?;
        }
        let (producer, committed) = state(&connection)?;
        let noted = lock.noted().map_err(OpenError::Io)?;
        if noted.is_some_and(|noted| committed < noted.cast_unsigned()) {
            return Err(OpenError::Behind);
        }
        // What an earlier process left in the log may not be on the disk.
        truncate_log(&connection)?;
        let before_now = u64::try_from(now.as_nanos() / 1_000).unwrap_or(0).saturating_sub(1);
        let file = Self {
            path,
            durability,
            connection: Some(connection),
            producer,
            last: committed.max(before_now),
            committed,
            tried: None,
            unsynced: None,
            doubtful: Vec::new(),
            lock,
        };
        file.note();
        Ok(file)
    }

    pub(super) fn producer(&self) -> Producer {
        self.producer
    }

    /// Every entry, in order.
    pub(super) fn lines(&self) -> Result<Vec<Line>, OpenError> {
        Ok(Rows::new(self.opened()?, self.last, false).lines()?)
    }

    /// Runs all steps in one transaction; they all happen, durably, or none does. What has failed is to
    /// be [recovered](Self::recover) before it is tried again.
    pub(super) fn commit(&mut self, steps: &mut [Box<dyn Work>]) -> Result<(), OpenError> {
        if steps.is_empty() {
            return Ok(());
        }
        let may_be_lost = self.durability != Durability::Full;
        let mut rows = Rows::new(self.opened()?, self.last, may_be_lost);
        let changed = run(self.opened()?, steps, &mut rows, self.last);
        let (last, changes) = (rows.last(), rows.into_changes());
        match changed {
            Ok(false) => {}
            Ok(true) => {
                (self.last, self.committed) = (last, last);
                if may_be_lost {
                    self.unsynced.get_or_insert_with(Instant::now);
                    self.doubtful.push((last, changes));
                } else {
                    self.note();
                }
            }
            Err(error) => {
                self.tried = Some((last, steps.len()));
                self.connection = None;
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// When what was committed is to be on the disk, if it may not be there.
    pub(super) fn due(&self) -> Option<Instant> {
        self.unsynced.and_then(|since| self.durability.due(since))
    }

    /// Brings to the disk what is due, and a log that has become long into the file.
    pub(super) fn keep_up(&mut self) -> Result<(), OpenError> {
        let is_due = self.due().is_some_and(|due| due <= Instant::now());
        let kept = self.bring_in(is_due);
        if kept.is_err() {
            self.connection = None;
        }
        kept
    }

    fn bring_in(&mut self, is_due: bool) -> Result<(), OpenError> {
        let is_long = file::has_long_log(self.opened()?)?;
        if is_due || is_long {
            self.sync()?;
        }
        if is_long {
            checkpoint(self.opened()?, "PASSIVE")?;
        }
        Ok(())
    }

    /// Brings what was committed to the disk.
    fn sync(&mut self) -> Result<(), OpenError> {
        if self.unsynced.is_some() {
            file::sync(&self.path).map_err(OpenError::Io)?;
            self.is_synced();
        }
        Ok(())
    }

    fn is_synced(&mut self) {
        self.unsynced = None;
        self.doubtful.clear();
        self.note();
    }

    /// Leaves word of how far the disk has come.
    fn note(&self) {
        // It protects from others; a disk that fails is told by the file itself.
        let _ = self.lock.note(self.committed.cast_signed());
    }

    /// After a failure: opens the file anew, with what is whole in its log by its own sums. Answers how
    /// many of the steps that had failed are in it all the same.
    ///
    /// A sync that failed must not be asked again about the same pages: the kernel may have dropped
    /// what it could not write, and then says that all is well. So what was committed is synced in a
    /// second place, the file itself, and what was lost is made again, at the start of an empty log.
    /// That also gives back the room that the log took, for the case that the disk is full.
    pub(super) fn recover(&mut self) -> Result<usize, OpenError> {
        self.connection = None;
        // It is not made anew where somebody has moved it away.
        let none = OpenFlags::empty();
        let mut connection = connect(&self.path, self.durability, none, Duration::ZERO)?;
        let (producer, mut there) = state(&connection)?;
        truncate_log(&connection)?;
        let lost: Vec<_> = self.doubtful.iter().filter(|(number, _)| *number > there).collect();
        if let Some((newest, _)) = lost.last() {
            let step = connection.transaction()?;
            for change in lost.iter().flat_map(|(_, changes)| changes) {
                change.make_again(&step)?;
            }
            step.commit()?;
            truncate_log(&connection)?;
            there = *newest;
        }
        // Somebody has put another in its place.
        if producer != self.producer || there < self.committed {
            return Err(OpenError::Behind);
        }
        let tried =
            self.tried.take().filter(|(number, _)| self.committed < there && *number == there);
        self.connection = Some(connection);
        self.committed = there;
        self.last = self.last.max(there);
        self.is_synced();
        Ok(tried.map_or(0, |(_, steps)| steps))
    }

    /// Makes the file one again, without its log, for closing it. The disk may have lost what was not
    /// synced.
    pub(super) fn finish(&mut self) -> Result<(), OpenError> {
        if self.sync().is_err() || self.connection.is_none() {
            self.recover()?;
        }
        truncate_log(self.opened()?)?;
        leave_log(self.opened()?, false)?;
        Ok(())
    }

    fn opened(&self) -> Result<&Connection, OpenError> {
        let closed = || OpenError::Io(std::io::ErrorKind::NotConnected.into());
        self.connection.as_ref().ok_or_else(closed)
    }
}

/// Runs all steps in one transaction, and says whether anything was changed.
fn run(
    connection: &Connection,
    steps: &mut [Box<dyn Work>],
    rows: &mut Rows<'_>,
    before: u64,
) -> rusqlite::Result<bool> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    for step in steps {
        step.run(rows)?;
    }
    let changed = rows.number(before)?;
    connection.execute_batch("COMMIT")?;
    Ok(changed)
}

fn connect(
    path: &Path,
    durability: Durability,
    flags: OpenFlags,
    wait: Duration,
) -> Result<Connection, OpenError> {
    let opened = || {
        // A path is a path, also one that looks like a URI.
        let flags = flags | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        // Others may look into the file, and hold it for a moment.
        connection.busy_timeout(wait)?;
        leave_log(&connection, true)?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        FORMAT.version_of(&connection)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        if mode != "wal" {
            return Err(OpenError::Io(std::io::ErrorKind::Unsupported.into()));
        }
        connection.pragma_update(None, "synchronous", durability.synchronous())?;
        // On macOS a plain sync stops at the drive's own memory.
        connection.pragma_update(None, "fullfsync", true)?;
        // That is seen to by the writer.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        Ok(connection)
    };
    opened().map_err(|error| match error {
        OpenError::Sqlite(error) if is_busy(&error) => OpenError::InUse,
        error => error,
    })
}

fn is_busy(error: &Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn make(connection: &mut Connection) -> rusqlite::Result<()> {
    let step = connection.transaction()?;
    step.execute_batch(include_str!("schema.sql"))?;
    let producer = Producer(random()).to_string();
    step.execute("INSERT INTO state (producer, last) VALUES (?, 0)", [producer])?;
    FORMAT.mark(&step)?;
    step.commit()
}

/// What the file is called by its target, and the number of its last commit.
fn state(connection: &Connection) -> Result<(Producer, u64), OpenError> {
    let sql = "SELECT producer, last FROM state";
    let row = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
    let (producer, last) = connection.query_row(sql, [], row)?;
    let id = Uuid::try_parse(&producer)
        .map_err(|error| Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))?;
    Ok((Producer(id.as_u128()), last.cast_unsigned()))
}

fn truncate_log(connection: &Connection) -> Result<(), OpenError> {
    if checkpoint(connection, "TRUNCATE")? { Ok(()) } else { Err(OpenError::InUse) }
}

fn random() -> u128 {
    // The standard library seeds its hasher from the operating system.
    let half = || u128::from(RandomState::new().hash_one(0_u8));
    half() << 64 | half()
}
