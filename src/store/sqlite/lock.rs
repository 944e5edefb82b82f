//! One process writes a file at a time.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::OpenError;

/// How often a process that waits its turn looks.
const AGAIN: Duration = Duration::from_millis(20);

/// The right to write, until dropped. The operating system takes it back when the process ends,
/// however it ends.
///
/// The lock is on a file beside the books: closing any handle of the books' own file would drop the
/// locks that SQLite has on it.
#[derive(Debug)]
pub(super) struct Lock(File);

/// Closing it is not enough: a process that is just being started has it for a moment, too.
impl Drop for Lock {
    fn drop(&mut self) {
        // It is closed in any case.
        let _ = self.0.unlock();
    }
}

impl Lock {
    /// Takes the lock, waiting up to `wait` for the process that has it.
    pub(super) fn take(path: &Path, wait: Duration) -> Result<Self, OpenError> {
        let mut beside = path.as_os_str().to_owned();
        beside.push("-lock");
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(beside)
            .map_err(OpenError::Io)?;
        let since = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) if since.elapsed() < wait => thread::sleep(AGAIN),
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse),
                Err(TryLockError::Error(error)) => return Err(OpenError::Io(error)),
            }
        }
    }
}
