use rusqlite::ErrorCode;

use crate::{Error, ErrorKind};

/// Why a file is not opened or cannot be read or written.
#[derive(Debug)]
pub(crate) enum OpenError {
    InUse,
    Foreign { wanted: &'static str },
    Newer { version: i32 },
    Gone,
    Emptied,
    LogAlone,
    Behind,
    Io(std::io::Error),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::InUse => Self::new(
                ErrorKind::Conflict,
                "the file is in use by another process; let that end, or wait for it (open_wait)",
            ),
            OpenError::Foreign { wanted } => Self::new(
                ErrorKind::Invalid,
                format!("the file is there but holds no {wanted} of this crate; give another path"),
            ),
            OpenError::Newer { version } => Self::new(
                ErrorKind::Invalid,
                format!(
                    "the file has format {version}, which is newer than this release; upgrade, or \
                     restore a backup"
                ),
            ),
            OpenError::Gone => Self::new(
                ErrorKind::Unavailable,
                "the file is gone, and so is what was acknowledged in it; put it back, or remove the \
                 file of its lock (-lock) as well to begin anew",
            ),
            OpenError::Emptied => Self::new(
                ErrorKind::Unavailable,
                "the file is damaged: it is empty, and was not; restore a backup, or remove the file \
                 and that of its lock (-lock) to begin anew",
            ),
            OpenError::LogAlone => Self::new(
                ErrorKind::Unavailable,
                "the file is gone or empty, and its log (-wal) is still there; put the file back, or \
                 remove the log as well to begin anew",
            ),
            OpenError::Behind => Self::new(
                ErrorKind::Unavailable,
                "the file lacks what was acknowledged last: its log (-wal) was lost, or an older copy \
                 is in its place; put back what is missing, or remove the file of its lock (-lock) to \
                 go on with what is there",
            ),
            OpenError::Io(error) => unavailable().with_source(error),
            OpenError::Sqlite(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) =>
            {
                let message = "the file is damaged; restore a backup";
                Self::new(ErrorKind::Unavailable, message).with_source(error)
            }
            OpenError::Sqlite(error) => unavailable().with_source(error),
        }
    }
}

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "the file cannot be read or written")
}
