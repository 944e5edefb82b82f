//! What every file of ours is: an SQLite database with its log and its lock beside it, written by one
//! process at a time.
//!
//! Its changes come in groups, each with a number that is larger than the one before. The file has the
//! number of its last, and the lock that of one that is on the disk.

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

mod error;
mod lock;

pub(crate) use error::OpenError;
pub(crate) use lock::Lock;

/// How long a log gets, in pages, before it is brought into its file.
const LONG: i64 = 4_000;

/// What a file says it is, in its header.
#[derive(Debug)]
pub(crate) struct Format {
    /// What it holds, in a word.
    pub(crate) holds: &'static str,
    pub(crate) application: i32,
    /// The newest that this release knows.
    pub(crate) version: i32,
}

impl Format {
    /// Refuses what is something else, or of a later release.
    pub(crate) fn judge(&self, application: i32, version: i32) -> Result<(), OpenError> {
        if application != self.application && (application, version) != (0, 0) {
            return Err(OpenError::Foreign { wanted: self.holds });
        }
        if (0..=self.version).contains(&version) {
            Ok(())
        } else {
            Err(OpenError::Newer { version })
        }
    }

    /// The version of a file that is open, log included: 0 where nothing was made yet.
    pub(crate) fn version_of(&self, file: &Connection) -> Result<i32, OpenError> {
        let number = |sql| file.query_row(sql, [], |row| row.get::<_, i32>(0));
        let application = number("PRAGMA application_id")?;
        if application != self.application && number("SELECT count(*) FROM sqlite_schema")? > 0 {
            return Err(OpenError::Foreign { wanted: self.holds });
        }
        let version = number("PRAGMA user_version")?;
        self.judge(application, version)?;
        Ok(version)
    }

    /// Marks a file as ours.
    pub(crate) fn mark(&self, file: &Connection) -> rusqlite::Result<()> {
        file.pragma_update(None, "application_id", self.application)?;
        file.pragma_update(None, "user_version", self.version)
    }
}

/// Refuses a file that is not ours to write, before anything could be written to it.
///
/// Reads SQLite's own header (<https://sqlite.org/fileformat2.html>, section 1.3): the version at
/// offset 60, the application at 68. Only for a file that this process does not have open: closing
/// any handle of it would drop the locks that SQLite has on it.
///
/// Where none was ever made one begins; one that is gone or was emptied is missed, and one whose log
/// is still there, too: SQLite would remove that.
pub(crate) fn look(path: &Path, lock: &Lock, format: &Format) -> Result<(), OpenError> {
    let mut header = [0; 100];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut header));
    let about = path.metadata();
    if read.is_err() && about.as_ref().map_or(0, Metadata::len) == 0 {
        if has_log(path) {
            // What a start left that the disk failed: SQLite removes the log, and begins anew.
            let only_begun = about.is_ok() && lock.is_only_begun().map_err(OpenError::Io)?;
            return if only_begun { Ok(()) } else { Err(OpenError::LogAlone) };
        }
        let is_gone = about.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        return match lock.noted().map_err(OpenError::Io)? {
            Some(_) if is_gone => Err(OpenError::Gone),
            Some(_) => Err(OpenError::Emptied),
            None => lock.begin().map_err(OpenError::Io),
        };
    }
    read.map_err(|_| OpenError::Foreign { wanted: format.holds })?;
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
        return Err(OpenError::Foreign { wanted: format.holds });
    }
    format.judge(number(68), number(60))
}

fn has_log(path: &Path) -> bool {
    log_of(path).metadata().is_ok_and(|log| log.len() > 0)
}

/// The log beside a file.
fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Brings the log to the disk.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    fs::File::open(log_of(path))?.sync_data()
}

/// Brings what is in the log into the file, and says whether that was all.
pub(crate) fn checkpoint(file: &Connection, how: &str) -> rusqlite::Result<bool> {
    let Progress { busy, log, done } = wal_checkpoint(file, how)?;
    Ok(!busy && log == done)
}

/// Whether the log is so long that it is to be brought into the file.
///
/// SQLite would do that by itself, and ignore it where that fails. Of a log that is not synced by
/// every commit, the disk may have lost some then, and the next attempt would bring that in.
pub(crate) fn has_long_log(file: &Connection) -> rusqlite::Result<bool> {
    Ok(wal_checkpoint(file, "NOOP")?.log >= LONG)
}

struct Progress {
    /// Somebody was in the way.
    busy: bool,
    /// How many pages there are in the log, and how many of them in the file.
    log: i64,
    done: i64,
}

fn wal_checkpoint(file: &Connection, how: &str) -> rusqlite::Result<Progress> {
    let mut statement = file.prepare_cached(&format!("PRAGMA wal_checkpoint({how})"))?;
    let mut rows = statement.query([])?;
    let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    let progress = Progress { busy: row.get(0)?, log: row.get(1)?, done: row.get(2)? };
    // Some errors come after the row.
    while rows.next()?.is_some() {}
    Ok(progress)
}

/// Whether closing the file leaves its log alone. After a sync that failed, the disk may have lost
/// some of a log that was not synced before, which must not go into the file, or some of the file that
/// the log still has.
pub(crate) fn leave_log(file: &Connection, leave: bool) -> rusqlite::Result<()> {
    file.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, leave).map(|_| ())
}
