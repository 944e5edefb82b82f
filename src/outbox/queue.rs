//! The queue as others see it: appends, changes, and what is to be delivered.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::entry::Entry;
use super::file::{File, Work};
use super::places::Places;
use super::rows::{Line, Rows, State};
use super::schedule::{Left, Schedule};
use super::writer::{self, Health};
use super::{Durability, OutboxStats};
use crate::backend::Producer;
use crate::file::OpenError;
use crate::observe;
use crate::policy::{CustomerId, Timestamp};
use crate::{Error, ErrorKind};

#[derive(Debug)]
pub(super) struct Queue {
    steps: Sender<Box<dyn Work>>,
    schedule: Mutex<Schedule>,
    pub(super) places: Arc<Places>,
    pub(super) producer: Producer,
    health: Arc<Health>,
    started: Instant,
    dropped: AtomicU64,
    /// There is something to deliver, or nobody wants it any more.
    pub(super) changed: Notify,
    /// Something has left the queue.
    pub(super) landed: Notify,
}

impl Queue {
    /// Opens the file and starts the thread that has it.
    pub(super) async fn open(
        path: PathBuf,
        durability: Durability,
        wait: Duration,
        now: Timestamp,
        mut schedule: Schedule,
        places: Places,
    ) -> Result<Arc<Self>, Error> {
        let (steps, received) = channel();
        let (reply, opened) = oneshot::channel();
        let health = Arc::new(Health::default());
        let work = {
            let health = Arc::clone(&health);
            move || match File::open(path, durability, wait, now).and_then(load) {
                Ok((file, lines)) => {
                    if reply.send(Ok((file.producer(), lines))).is_ok() {
                        writer::serve(file, &received, &health);
                    }
                }
                Err(error) => drop(reply.send(Err(Error::from(error)))),
            }
        };
        let thread = thread::Builder::new().name("limitry-outbox".to_owned());
        thread.spawn(work).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the outbox has no thread").with_source(error)
        })?;
        let (producer, lines): (_, Vec<Line>) = opened.await.map_err(|_| gone())??;
        for line in lines {
            if line.state != State::Delivered {
                places.enter(Left { entries: 1, bytes: line.bytes });
            }
            schedule.add(line);
        }
        Ok(Arc::new(Self {
            steps,
            schedule: Mutex::new(schedule),
            places: Arc::new(places),
            producer,
            health,
            started: Instant::now(),
            dropped: AtomicU64::new(0),
            changed: Notify::new(),
            landed: Notify::new(),
        }))
    }

    /// Appends an entry, for which a place was taken. Resolves once it is durable; dropped before, it is appended
    /// all the same.
    pub(super) fn append(self: &Arc<Self>, entry: Entry, at: Timestamp) -> oneshot::Receiver<()> {
        self.places.fill(entry.body.len() as u64);
        let (reply, appended) = oneshot::channel();
        let queue = Arc::clone(self);
        let step = Box::new(Append { queue, entry, at, sequence: 0, reply });
        // Without the thread there is nobody to answer, and the reply is dropped.
        drop(self.steps.send(step));
        appended
    }

    /// Runs a step in a transaction, and answers once that is durable.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        step: impl FnMut(&mut Rows<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        drop(self.steps.send(Box::new(Change { step, answer: None, reply })));
        answer.await.map_err(|_| gone())
    }

    pub(super) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time as the schedule counts it.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The moment of a time that the schedule told.
    pub(super) fn moment(&self, at: Duration) -> Instant {
        self.started + at
    }

    pub(super) fn is_failing(&self) -> bool {
        self.health.is_failing()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.health.is_closing()
    }

    /// Nobody is left who could ask for anything.
    pub(super) fn close(&self) {
        self.health.close();
        self.changed.notify_one();
    }

    /// Entries that were delivered wait again.
    pub(super) async fn deliver_again(
        &self,
        entries: Vec<(CustomerId, u64)>,
    ) -> Result<usize, Error> {
        let entries = self
            .run(move |rows| {
                let mut again = Vec::new();
                for (customer, sequence) in &entries {
                    if rows.deliver_again(*sequence)? {
                        again.push((customer.clone(), *sequence));
                    }
                }
                Ok(again)
            })
            .await?;
        let mut schedule = self.schedule();
        let mut again = Left::default();
        for (customer, sequence) in &entries {
            let entered = schedule.deliver_again(customer, *sequence);
            again.entries += entered.entries;
            again.bytes += entered.bytes;
        }
        drop(schedule);
        self.places.enter(again);
        self.changed.notify_one();
        Ok(again.entries)
    }

    /// A settlement found no place, and is lost.
    pub(super) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        observe::outbox_dropped();
    }

    pub(super) fn stats(&self, now: Timestamp) -> OutboxStats {
        let schedule = self.schedule();
        OutboxStats {
            depth: schedule.depth(),
            oldest: schedule.oldest().map(|(_, appended)| now.duration_since(appended)),
            set_aside: schedule.refused(),
            kept: schedule.kept(),
            running: self.places.running(),
            dropped: self.dropped.load(Ordering::Relaxed),
            is_failing: self.is_failing(),
        }
    }
}

fn load(file: File) -> Result<(File, Vec<Line>), OpenError> {
    let lines = file.lines()?;
    Ok((file, lines))
}

/// The thread has ended: it failed, or the file did while nobody wanted it any more.
pub(super) fn gone() -> Error {
    Error::new(ErrorKind::TimedOut, "the outbox ended before its file was written")
}

struct Append {
    queue: Arc<Queue>,
    entry: Entry,
    at: Timestamp,
    sequence: u64,
    reply: oneshot::Sender<()>,
}

impl Work for Append {
    fn run(&mut self, rows: &mut Rows<'_>) -> rusqlite::Result<()> {
        self.sequence = rows.append(&self.entry, self.at)?;
        Ok(())
    }

    fn committed(self: Box<Self>) {
        let Self { queue, entry, at, sequence, reply } = *self;
        queue.schedule().add(Line {
            sequence,
            customer: entry.customer,
            state: State::Waiting,
            bytes: entry.body.len() as u64,
            appended: at,
            moved: at,
        });
        queue.changed.notify_one();
        // Whether somebody waits for it is their choice.
        let _ = reply.send(());
    }

    fn is_append(&self) -> bool {
        true
    }
}

struct Change<T, F> {
    step: F,
    answer: Option<T>,
    reply: oneshot::Sender<T>,
}

impl<T, F> Work for Change<T, F>
where
    T: Send,
    F: FnMut(&mut Rows<'_>) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, rows: &mut Rows<'_>) -> rusqlite::Result<()> {
        self.answer = Some((self.step)(rows)?);
        Ok(())
    }

    fn committed(self: Box<Self>) {
        if let Some(answer) = self.answer {
            let _ = self.reply.send(answer);
        }
    }

    fn is_append(&self) -> bool {
        false
    }
}
