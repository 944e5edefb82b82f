//! A copy of the books while they are in use.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;

use rusqlite::types::FromSqlError;
use rusqlite::{Connection, OpenFlags};

use super::schema;
use crate::file::OpenError;
use crate::{Error, ErrorKind};

/// Copies the books in one file to another, where nothing may be yet: as they are at one moment, with
/// everything that was acknowledged before. Nothing waits for it. The copy is opened as any other
/// file.
///
/// Reads and writes the whole file: call it where it may block.
///
/// # Errors
///
/// [`Conflict`](ErrorKind::Conflict) when there is something at the other path,
/// [`Invalid`](ErrorKind::Invalid) when the file holds no books, and
/// [`Unavailable`](ErrorKind::Unavailable) when one cannot be read or the other not be written. What
/// was written by then is not under the name given.
pub fn backup(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), Error> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let file = schema::open_ours(from)?;
    if fs::symlink_metadata(to).is_ok() {
        let message = "there is a file at the path of the backup already; give another";
        return Err(Error::new(ErrorKind::Conflict, message));
    }
    let mut part: OsString = to.as_os_str().to_owned();
    part.push("-part");
    let part = Path::new(&part);
    let copied = copy(&file, part, to);
    if copied.is_err() {
        // What went wrong is told; what is left of it is of no use.
        let _ = fs::remove_file(part);
    }
    Ok(copied?)
}

fn copy(file: &Connection, part: &Path, to: &Path) -> Result<(), OpenError> {
    let target = part.to_str().ok_or(rusqlite::Error::from(FromSqlError::InvalidType))?;
    file.execute("VACUUM INTO ?1", [target])?;
    let copy = Connection::open_with_flags(part, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    copy.execute("INSERT OR REPLACE INTO state (name, value) VALUES (?1, 1)", [schema::COPIED])?;
    drop(copy);
    // SQLite does not sync what it vacuums into.
    File::open(part).and_then(|copy| copy.sync_all()).map_err(OpenError::Io)?;
    fs::rename(part, to).map_err(OpenError::Io)
}
