//! One process writes a file at a time, and leaves word of how far it has come.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::OpenError;

/// How often a process that waits its turn looks.
const AGAIN: Duration = Duration::from_millis(5);

/// What comes before the number in the file.
const SAYS: &str = "synced up to group ";

/// What is in the file while there is no other yet: shorter than the above.
const BEGUN: &str = "not made yet\n";

/// The right to write, until dropped. The operating system takes it back when the process ends,
/// however it ends.
///
/// The lock is on a file beside the one that is written: closing any handle of that would drop the
/// locks that SQLite has on it.
///
/// It says that the other is to be made, and once that is there the number of a group of changes that
/// was synced: what lacks it is not what was there. It need not be synced itself, for it never says
/// more than the disk has.
#[derive(Debug)]
pub(crate) struct Lock(File);

/// Closing it is not enough: a process that is just being started has it for a moment, too.
impl Drop for Lock {
    fn drop(&mut self) {
        // It is closed in any case.
        let _ = self.0.unlock();
    }
}

impl Lock {
    /// Takes the lock, waiting up to `wait` for the process that has it.
    pub(crate) fn take(path: &Path, wait: Duration) -> Result<Self, OpenError> {
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

    /// The group that was noted last, if a file was made here.
    pub(crate) fn noted(&self) -> io::Result<Option<i64>> {
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

    /// Notes that a file is about to be made where there is none.
    pub(crate) fn begin(&self) -> io::Result<()> {
        let mut file = &self.0;
        file.rewind()?;
        file.write_all(BEGUN.as_bytes())
    }

    /// A file was about to be made, and nothing of it was ever synced.
    pub(crate) fn is_only_begun(&self) -> io::Result<bool> {
        Ok(self.said()? == BEGUN)
    }

    /// There is a file, and all groups up to that one are on the disk.
    pub(crate) fn note(&self, group: i64) -> io::Result<()> {
        let mut file = &self.0;
        file.rewind()?;
        file.write_all(format!("{SAYS}{group:020}\n").as_bytes())
    }

    /// There is no file any more.
    #[cfg(feature = "sqlite")]
    pub(crate) fn forget(&self) -> io::Result<()> {
        if self.0.metadata()?.len() > 0 {
            self.0.set_len(0)?;
            self.0.sync_all()?;
        }
        Ok(())
    }
}
