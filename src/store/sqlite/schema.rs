//! The file's format: made when it is new, brought up to date when it is old, left alone when it is
//! newer than this program.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::lock::Lock;
use super::{Durability, OpenError, row};

/// Marks a file as ours: "Lmtr".
const APPLICATION: i32 = 0x4C6D_7472;

/// The state of a copy that was not opened since it was made.
pub(super) const COPIED: &str = "copied";

/// What brings a file from one version to the next, from nothing on.
const STEPS: [&str; 2] = [include_str!("schema.sql"), include_str!("marks.sql")];

/// Refuses a file that is not ours to write, before anything could be written to it.
///
/// Reads SQLite's own header (<https://sqlite.org/fileformat2.html>, section 1.3): the version at
/// offset 60, the application at 68. Only for a file that this process does not have open: closing
/// any handle of it would drop the locks that SQLite has on it.
///
/// A file that is not there begins anew; one that was emptied does not, nor does one whose log is
/// still there, which SQLite would remove.
pub(super) fn look(path: &Path, lock: &Lock) -> Result<(), OpenError> {
    let mut header = [0; 100];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    let about = path.metadata();
    if read.is_err() && about.as_ref().map_or(0, Metadata::len) == 0 {
        if has_log(path) {
            // What a start left that the disk failed: SQLite removes the log, and begins anew.
            let only_begun = about.is_ok() && lock.is_only_begun().map_err(OpenError::Io)?;
            return if only_begun { Ok(()) } else { Err(OpenError::LogAlone) };
        }
        if about.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            lock.forget().map_err(OpenError::Io)?;
        }
        return match lock.noted().map_err(OpenError::Io)? {
            Some(_) => Err(OpenError::Emptied),
            None => lock.begin().map_err(OpenError::Io),
        };
    }
    read.map_err(|_| OpenError::Foreign)?;
    // Where the disk lost it while the log was brought in, the log still has it.
    if header == [0; 100] && has_log(path) {
        return Ok(());
    }
    let number = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&header[at..at + 4]);
        i32::from_be_bytes(bytes)
    };
    if !header.starts_with(b"SQLite format 3\0") {
        return Err(OpenError::Foreign);
    }
    judge(number(68), number(60))
}

fn judge(application: i32, version: i32) -> Result<(), OpenError> {
    if application != APPLICATION && (application, version) != (0, 0) {
        return Err(OpenError::Foreign);
    }
    match usize::try_from(version) {
        Ok(version) if version <= STEPS.len() => Ok(()),
        _ => Err(OpenError::Newer { version }),
    }
}

fn has_log(path: &Path) -> bool {
    log_of(path).metadata().is_ok_and(|log| log.len() > 0)
}

/// The log beside the file.
pub(super) fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Compares the file with what was noted of it, and leaves word that it is there.
///
/// A backup is older than what was noted, by right: it says that it is one, until that is noted anew.
/// Its groups are numbered after those, so that what it was put in the place of is older from then on.
pub(super) fn compare(file: &mut Connection, lock: &Lock) -> Result<(), OpenError> {
    let group = row::state(file, "group")?.unwrap_or_default();
    let is_copy = row::state(file, COPIED)?.is_some();
    let noted = lock.noted().map_err(OpenError::Io)?;
    if noted.is_some_and(|noted| group < noted) && !is_copy {
        return Err(OpenError::Behind);
    }
    if is_copy {
        let next = group.max(noted.unwrap_or_default()).saturating_add(1);
        lock.note(next).map_err(OpenError::Io)?;
        let step = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
        step.execute("DELETE FROM state WHERE name = ?1", [COPIED])?;
        step.execute("INSERT OR REPLACE INTO state (name, value) VALUES ('group', ?1)", [next])?;
        step.commit()?;
    } else if noted.is_none() && checkpoint(file, "PASSIVE")? {
        // Not before the file is one without its log.
        lock.note(group).map_err(OpenError::Io)?;
    }
    Ok(())
}

/// Brings what is in the log into the file, and says whether that was all.
pub(super) fn checkpoint(file: &Connection, how: &str) -> rusqlite::Result<bool> {
    file.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |row| {
        let (busy, log, done): (bool, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(!busy && log == done)
    })
}

/// Whether closing the file leaves its log alone. After a sync that failed, the disk may have lost
/// some of a log that was not synced before, and that must not go into the file.
pub(super) fn leave_log(file: &Connection, leave: bool) -> rusqlite::Result<()> {
    file.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, leave).map(|_| ())
}

/// Opens the file for writing and brings it up to date.
pub(super) fn open(path: &Path, durability: Durability) -> Result<Connection, OpenError> {
    let mut file =
        connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    let (application, tables) = (number(&file, "application_id")?, tables(&file)?);
    if application != APPLICATION && tables > 0 {
        return Err(OpenError::Foreign);
    }
    leave_log(&file, durability != Durability::Full)?;
    // Before the first page is written, and before the log is.
    file.pragma_update(None, "page_size", 8_192)?;
    file.pragma_update(None, "journal_mode", "WAL")?;
    file.pragma_update(None, "synchronous", durability.synchronous())?;
    // On macOS a plain sync stops at the drive's own memory.
    file.pragma_update(None, "fullfsync", durability == Durability::Full)?;
    file.pragma_update(None, "wal_autocheckpoint", 4_000)?;
    file.pragma_update(None, "cache_size", -65_536)?;
    file.set_prepared_statement_cache_capacity(64);
    migrate(&mut file)?;
    Ok(file)
}

/// Opens a file for reading, in use or not, if it is ours.
pub(super) fn open_ours(path: &Path) -> Result<Connection, OpenError> {
    let file = open_to_read(path)?;
    let application =
        number(&file, "application_id").map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => OpenError::Foreign,
            _ => error.into(),
        })?;
    judge(application, number(&file, "user_version")?)?;
    Ok(file)
}

/// Opens the file for reading beside the writer.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

pub(super) fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let file = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // Others may look into the file, and hold it for a moment.
    file.busy_timeout(Duration::from_secs(5))?;
    Ok(file)
}

fn number(file: &Connection, name: &str) -> rusqlite::Result<i32> {
    file.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
}

fn tables(file: &Connection) -> rusqlite::Result<u32> {
    file.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
}

fn migrate(file: &mut Connection) -> Result<(), OpenError> {
    let step = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version = number(&step, "user_version")?;
    judge(number(&step, "application_id")?, version)?;
    let done = usize::try_from(version).unwrap_or_default();
    if done == STEPS.len() {
        return Ok(());
    }
    for change in &STEPS[done..] {
        step.execute_batch(change)?;
    }
    step.pragma_update(None, "application_id", APPLICATION)?;
    step.pragma_update(None, "user_version", STEPS.len() as i32)?;
    step.commit()?;
    Ok(())
}
