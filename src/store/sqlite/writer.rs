//! The thread that writes: takes all that waits, commits it as one, and tells who waits for it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::lock::Lock;
use super::queue::{Group, Queue};
use super::retain::Retention;
use super::write::{self, Names};
use super::{Durability, OpenError, SqliteOptions, row, schema};
use crate::{Error, observe};

/// How long a commit that failed waits to be tried again, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    lock: Arc<Lock>,
    durability: Durability,
    keeps_holds: bool,
    queue: Arc<Queue>,
    /// `None` after something failed.
    file: Option<Connection>,
    names: Names,
    /// Of the group that is written now, or was last.
    number: i64,
    /// The last that was noted to be on the disk.
    noted: i64,
    /// What is let go, and when to look again.
    retention: Option<Retention>,
    /// When the oldest commit that may not be on the disk was made.
    unsynced: Option<Instant>,
}

impl Writer {
    pub(super) fn start(
        path: PathBuf,
        SqliteOptions { durability, keep_events_for, ownerless_holds, .. }: &SqliteOptions,
        queue: Arc<Queue>,
        file: Connection,
        lock: Arc<Lock>,
    ) -> Result<thread::JoinHandle<()>, OpenError> {
        let number = row::state(&file, "group")?.unwrap_or_default();
        let names = Names::default();
        let file = Some(file);
        let retention = keep_events_for.map(Retention::new);
        let (durability, keeps_holds) = (*durability, ownerless_holds.are_kept());
        let unsynced = None;
        let noted = number;
        let mut writer = Self {
            path,
            lock,
            durability,
            keeps_holds,
            queue,
            file,
            names,
            number,
            noted,
            retention,
            unsynced,
        };
        let thread = thread::Builder::new().name("limitry-sqlite".into());
        thread.spawn(move || writer.run()).map_err(OpenError::Io)
    }

    fn run(&mut self) {
        let _ending = Ending(Arc::clone(&self.queue));
        let mut group = Group::default();
        while self.queue.next_group(&mut group, self.due()).is_some() {
            self.number += i64::from(!group.is_empty());
            let mut pause = PAUSE.0;
            while let Err(error) = self.commit(&group) {
                observe::not_written(&Error::from(error));
                self.file = None;
                self.names = Names::default();
                if !self.queue.fail(pause) {
                    return;
                }
                pause = (pause * 2).min(PAUSE.1);
            }
            self.note();
            self.queue.acknowledge(&mut group);
            self.let_go();
        }
        if self.unsynced.is_some()
            && let Err(error) = sync(&self.path)
        {
            observe::not_written(&OpenError::Io(error).into());
        }
        if let Some(file) = &self.file {
            // So that the books are one file again. What is in the log is safe there, too.
            let _ = schema::checkpoint(file, "TRUNCATE");
        }
    }

    fn commit(&mut self, group: &Group) -> Result<(), OpenError> {
        let file = match &mut self.file {
            Some(file) => file,
            closed => {
                let file = reopen(&self.path, self.durability)?;
                let number = row::state(&file, "group")?.unwrap_or_default();
                let file = closed.insert(file);
                // Somebody has put another in its place.
                if number < self.number - 1 {
                    self.file = None;
                    return Err(OpenError::Foreign);
                }
                // It failed only after it was written.
                if number >= self.number {
                    self.unsynced = None;
                    return Ok(());
                }
                file
            }
        };
        if !group.is_empty() {
            write::write(file, &mut self.names, group, self.number, self.keeps_holds)?;
        }
        if let Durability::Relaxed { .. } = self.durability {
            let since = *self.unsynced.get_or_insert_with(Instant::now);
            if self.durability.due(since).is_some_and(|due| due <= Instant::now()) {
                self.unsynced = None;
                sync(&self.path).map_err(OpenError::Io)?;
            }
        }
        Ok(())
    }

    /// Leaves word of how far the disk has come.
    fn note(&mut self) {
        if self.unsynced.is_none() && self.noted < self.number {
            self.noted = self.number;
            // It protects from others; a disk that fails is told by the file itself.
            let _ = self.lock.note(self.number);
        }
    }

    /// Drops some of what need not be kept, between two groups.
    fn let_go(&mut self) {
        let (Some(file), Some(retention)) = (&mut self.file, &mut self.retention) else { return };
        if let Err(error) = retention.let_go(file, self.queue.now()) {
            observe::not_written(&OpenError::from(error).into());
            self.file = None;
        }
    }

    /// When there is something to do though nothing has changed.
    fn due(&self) -> Option<Instant> {
        let sync = self.unsynced.and_then(|since| self.durability.due(since));
        let retention = self.retention.as_ref().map(|retention| retention.due);
        sync.into_iter().chain(retention).min()
    }
}

/// However the writer ends, nobody waits for it in vain.
struct Ending(Arc<Queue>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Opens the file anew after a failure. What the log holds may be in memory alone by then, though it
/// reads well: a sync that failed is not repeated by the operating system. So it is all written once
/// more, into the file itself.
fn reopen(path: &Path, durability: Durability) -> Result<Connection, OpenError> {
    // It is not made anew where somebody has moved it away.
    std::fs::metadata(path).map_err(OpenError::Io)?;
    let file = schema::open(path, durability)?;
    if schema::checkpoint(&file, "TRUNCATE")? { Ok(file) } else { Err(OpenError::InUse) }
}

/// Brings the log to the disk.
fn sync(path: &Path) -> std::io::Result<()> {
    File::open(schema::log_of(path))?.sync_data()
}
