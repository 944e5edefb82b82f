//! The file's format: made when it is new, brought up to date when it is old, left alone when it is
//! newer than this program.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{Durability, position, row};
use crate::file::{Format, Lock, OpenError, checkpoint, leave_log};

/// Marks a file as ours: "Lmtr".
pub(super) const FORMAT: Format =
    Format { holds: "books", application: 0x4C6D_7472, version: STEPS.len() as i32 };

/// The state of a copy that was not opened since it was made.
pub(super) const COPIED: &str = "copied";

/// What brings a file from one version to the next, from nothing on.
const STEPS: [&str; 3] =
    [include_str!("schema.sql"), include_str!("marks.sql"), include_str!("once.sql")];

/// Compares the file with what was noted of it, and leaves word that it is there.
///
/// A backup is older than what was noted, by right: it says that it is one, until that is noted anew.
/// Its groups are numbered after those, so that what it was put in the place of is older from then on.
pub(super) fn compare(file: &mut Connection, lock: &Lock) -> Result<(), OpenError> {
    let group = position::group(file)?;
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
        position::note(&step, next)?;
        step.commit()?;
    } else if noted.is_none() && checkpoint(file, "PASSIVE")? {
        // Not before the file is one without its log.
        lock.note(group).map_err(OpenError::Io)?;
    }
    Ok(())
}

/// Opens the file for writing and brings it up to date.
pub(super) fn open(path: &Path, durability: Durability) -> Result<Connection, OpenError> {
    let mut file =
        connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    FORMAT.version_of(&file)?;
    leave_log(&file, durability != Durability::Full)?;
    // Before the first page is written, and before the log is.
    file.pragma_update(None, "page_size", 8_192)?;
    file.pragma_update(None, "journal_mode", "WAL")?;
    file.pragma_update(None, "synchronous", durability.synchronous())?;
    // On macOS a plain sync stops at the drive's own memory.
    file.pragma_update(None, "fullfsync", durability == Durability::Full)?;
    // That is seen to by the writer.
    file.pragma_update(None, "wal_autocheckpoint", 0)?;
    file.pragma_update(None, "cache_size", -65_536)?;
    file.set_prepared_statement_cache_capacity(64);
    migrate(&mut file)?;
    Ok(file)
}

/// Opens a file for reading, in use or not, if it is ours.
pub(super) fn open_ours(path: &Path) -> Result<Connection, OpenError> {
    let file = open_to_read(path)?;
    match FORMAT.version_of(&file) {
        Err(OpenError::Sqlite(error))
            if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) =>
        {
            Err(OpenError::Foreign { wanted: FORMAT.holds })
        }
        version => version.map(|_| file),
    }
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

fn migrate(file: &mut Connection) -> Result<(), OpenError> {
    let step = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = usize::try_from(FORMAT.version_of(&step)?).unwrap_or_default();
    if done == STEPS.len() {
        return Ok(());
    }
    for change in &STEPS[done..] {
        step.execute_batch(change)?;
    }
    FORMAT.mark(&step)?;
    step.commit()?;
    Ok(())
}
