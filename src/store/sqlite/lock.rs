//! One process writes a file at a time, and leaves word of how far it has come.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::OpenError;

/// How often a process that waits its turn looks.
const AGAIN: Duration = Duration::from_millis(20);

/// What comes before the number in the file.
const SAYS: &str = "books, synced up to group ";

/// What is in the file while there are no books yet: shorter than the above.
const BEGUN: &str = "books, not made yet\n";

/// The right to write, until dropped. The operating system takes it back when the process ends,
/// however it ends.
///
/// The lock is on a file beside the books: closing any handle of the books' own file would drop the
/// locks that SQLite has on it.
///
/// That file says that books are to be made, and once they are the number of a group that was
/// synced: what lacks it is not what was there. It need not be synced itself, for it never says more
/// than the disk has.
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
            .read(true)
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

    /// The group that was noted last, if books were made here.
    pub(super) fn noted(&self) -> io::Result<Option<i64>> {
        let said = self.said()?;
        let number = said.strip_prefix(SAYS).and_then(|number| number.trim().parse().ok());
        Ok((!said.is_empty() && said != BEGUN).then_some(number.unwrap_or_default()))
    }

    fn said(&self) -> io::Result<String> {
        let mut said = String::new();
        let mut file = &self.0;
        file.rewind()?;
        file.take(64).read_to_string(&mut said)?;
        Ok(said)
    }

    /// Notes that books are about to be made where there are none.
    pub(super) fn begin(&self) -> io::Result<()> {
        let mut file = &self.0;
        file.rewind()?;
        file.write_all(BEGUN.as_bytes())
    }

    /// Books were about to be made, and nothing of them was ever synced.
    pub(super) fn is_only_begun(&self) -> io::Result<bool> {
        Ok(self.said()? == BEGUN)
    }

    /// There are books, and all groups up to that one are on the disk.
    pub(super) fn note(&self, group: i64) -> io::Result<()> {
        let mut file = &self.0;
        file.rewind()?;
        file.write_all(format!("{SAYS}{group:020}\n").as_bytes())
    }

    /// There are no books any more.
    pub(super) fn forget(&self) -> io::Result<()> {
        if self.0.metadata()?.len() > 0 {
            self.0.set_len(0)?;
            self.0.sync_all()?;
        }
        Ok(())
    }
}
