//! The thread that writes: takes all that waits, commits it as one, and tells who waits for it.

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::archive::Books;
use super::queue::{Group, PLACES, Queue};
use super::retain::Retention;
use super::write::{self, Names};
use super::{Durability, SqliteOptions, position, schema};
use crate::file::{self, Lock, OpenError, checkpoint, leave_log};
use crate::{Error, observe};

/// How long a commit that failed waits to be tried again, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    lock: Arc<Lock>,
    durability: Durability,
    keeps_holds: bool,
    books: Arc<Books>,
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
    /// The groups since, by their numbers, should the disk lose them.
    doubtful: Vec<(i64, Group)>,
    /// How much that is. More than there are places for is synced early.
    doubtful_changes: usize,
}

impl Writer {
    pub(super) fn start(
        path: PathBuf,
        SqliteOptions { durability, keep_events_for, ownerless_holds, .. }: &SqliteOptions,
        books: Arc<Books>,
        file: Connection,
        lock: Arc<Lock>,
    ) -> Result<thread::JoinHandle<()>, OpenError> {
        let number = position::group(&file)?;
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
            books,
            file,
            names,
            number,
            noted,
            retention,
            unsynced,
            doubtful: Vec::new(),
            doubtful_changes: 0,
        };
        let thread = thread::Builder::new().name("limitry-sqlite".into());
        thread.spawn(move || writer.run()).map_err(OpenError::Io)
    }

    fn run(&mut self) {
        let books = Arc::clone(&self.books);
        let queue = &books.queue;
        let _ending = Ending(Arc::clone(queue));
        let mut group = Group::default();
        while queue.next_group(&mut group, self.due()).is_some() {
            self.number += group.moves();
            let mut pause = PAUSE.0;
            while let Err(error) = self.commit(&group) {
                observe::not_written(&Error::from(error));
                self.close();
                if !queue.fail(pause) {
                    return;
                }
                pause = (pause * 2).min(PAUSE.1);
            }
            self.note();
            queue.acknowledge(&group);
            self.keep(&mut group);
            self.let_go();
        }
        if self.unsynced.is_some()
            && let Err(error) = file::sync(&self.path)
        {
            observe::not_written(&OpenError::Io(error).into());
            self.close();
            // What the disk has lost is written again.
            if let Err(error) = self.commit(&Group::default()) {
                observe::not_written(&Error::from(error));
                self.close();
            }
        }
        if let Some(file) = &self.file {
            // So that the books are one file again. What is in the log is safe there, too.
            let checkpointed = checkpoint(file, "TRUNCATE");
            if checkpointed.is_ok() {
                let _ = leave_log(file, false);
            }
            if let Ok(true) = checkpointed {
                // That has synced all of it.
                let _ = self.lock.note(self.number);
            }
        }
    }

    fn commit(&mut self, group: &Group) -> Result<(), OpenError> {
        let (number, keeps_holds) = (self.number, self.keeps_holds);
        let file = match &mut self.file {
            Some(file) => file,
            closed => {
                let file = reopen(&self.path, self.durability, &self.books)?;
                let mut there = position::group(&file)?;
                let file = closed.insert(file);
                // It failed only after it was written.
                if there >= number {
                    self.unsynced = None;
                    return Ok(());
                }
                for (lost, group) in self.doubtful.iter().filter(|(lost, _)| *lost > there) {
                    write::write(file, &mut self.names, group, *lost, keeps_holds)?;
                }
                there = self.doubtful.last().map_or(there, |(last, _)| there.max(*last));
                // Somebody has put another in its place.
                if there < number - group.moves() {
                    self.file = None;
                    return Err(OpenError::Behind);
                }
                file
            }
        };
        if !group.is_empty() {
            write::write(file, &mut self.names, group, number, keeps_holds)?;
        }
        let is_long = file::has_long_log(file)?;
        if let Durability::Relaxed { .. } = self.durability {
            let since = *self.unsynced.get_or_insert_with(Instant::now);
            let is_due = self.durability.due(since).is_some_and(|due| due <= Instant::now());
            if is_due || is_long || self.doubtful_changes >= PLACES {
                file::sync(&self.path).map_err(OpenError::Io)?;
                self.unsynced = None;
            }
        }
        if is_long {
            checkpoint(file, "PASSIVE")?;
        }
        Ok(())
    }

    /// Remembers a group until it is synced.
    fn keep(&mut self, group: &mut Group) {
        if self.unsynced.is_none() {
            self.doubtful.clear();
            self.doubtful_changes = 0;
            group.changes.clear();
            group.running = None;
        } else if self.doubtful.last().is_none_or(|(last, _)| *last < self.number) {
            self.doubtful_changes += 1 + group.changes.len();
            self.doubtful.push((self.number, mem::take(group)));
        }
    }

    /// Closes the file after a failure.
    fn close(&mut self) {
        self.file = None;
        self.names = Names::default();
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
        if let Err(error) = retention.let_go(file, self.books.queue.now()) {
            observe::not_written(&OpenError::from(error).into());
            self.close();
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
/// reads well, and so may what was brought from it into the file: a sync that failed is not repeated
/// by the operating system. So it is all written once more, into the file itself.
fn reopen(path: &Path, durability: Durability, books: &Books) -> Result<Connection, OpenError> {
    // It is not made anew where somebody has moved it away.
    std::fs::metadata(path).map_err(OpenError::Io)?;
    books.reader.close();
    recover(path)?;
    let file = schema::open(path, durability)?;
    leave_log(&file, true)?;
    Ok(file)
}

/// Brings into the file what is whole in the log by its own sums, and not what was whole once: who
/// has the file alone remembers nothing of that. Fails as long as somebody else has it open.
fn recover(path: &Path) -> Result<(), OpenError> {
    let file = schema::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    leave_log(&file, true)?;
    file.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    if checkpoint(&file, "TRUNCATE")? { Ok(()) } else { Err(OpenError::InUse) }
}
