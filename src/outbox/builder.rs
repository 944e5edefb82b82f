use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::runtime::Handle;

use super::backoff::Backoff;
use super::courier::{Courier, Terms};
use super::handle::Inner;
use super::places::Places;
use super::queue::Queue;
use super::schedule::Schedule;
use super::{Durability, Outbox, WhenFull};
use crate::Error;
use crate::backend::Backend;

/// How many batches may be on their way at once.
const COURIERS: usize = 4;

/// Puts an [`Outbox`] together.
#[derive(Clone, Debug)]
#[must_use]
pub struct OutboxBuilder<B> {
    backend: B,
    durability: Durability,
    open_wait: Duration,
    when_full: WhenFull,
    most_entries: usize,
    most_bytes: u64,
    first_wait: Duration,
    longest_wait: Duration,
    terms: Terms,
}

impl<B: Backend> OutboxBuilder<B> {
    pub(super) fn new(backend: B) -> Self {
        Self {
            backend,
            durability: Durability::default(),
            open_wait: Duration::ZERO,
            when_full: WhenFull::default(),
            most_entries: 100_000,
            most_bytes: 64 * 1024 * 1024,
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_secs(60),
            terms: Terms {
                batch: 1_000,
                within: Duration::from_secs(10),
                keep: Duration::ZERO,
                most_kept: 0,
            },
        }
    }

    /// What an acknowledged settlement survives. Unless set, a power cut.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Waits so long for another process that has the file open, as in a deployment where the new
    /// process starts before the old one has ended, or for an outbox that was dropped just now and is
    /// still closing it. Not at all unless set.
    pub fn open_wait(mut self, wait: Duration) -> Self {
        self.open_wait = wait;
        self
    }

    /// What happens to checks while there is no place. Unless set, they are refused.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// How many settlements, those of running requests and those set aside included, and how many
    /// bytes of them. Unless set, 100,000 and 64 MiB: at a hundred requests a second, a target may
    /// be away for a quarter of an hour.
    pub fn capacity(mut self, entries: usize, bytes: u64) -> Self {
        self.most_entries = entries;
        self.most_bytes = bytes;
        self
    }

    /// The most settlements that are delivered in one call. Unless set, 1,000: as many as the hosted
    /// API takes.
    pub fn batch(mut self, most: usize) -> Self {
        self.terms.batch = most.max(1);
        self
    }

    /// How long the delivery of one batch may take before its outcome counts as unknown, at most an
    /// hour. Unless set, 10 seconds.
    pub fn delivery_timeout(mut self, within: Duration) -> Self {
        self.terms.within = within.min(Duration::from_secs(3_600));
        self
    }

    /// How long to wait after the first failure, and at most. The wait doubles from failure to
    /// failure, and up to half of it is random. Unless set, 100 milliseconds and a minute.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.first_wait = first;
        self.longest_wait = longest;
        self
    }

    /// Keeps what was delivered for so long, in the file, to deliver it again to a backend that has
    /// lost it; no more than the [capacity](Self::capacity) in entries. Unless set, not at all.
    pub fn keep_delivered(mut self, time: Duration) -> Self {
        self.terms.keep = time;
        self
    }

    /// Opens the file, or makes a new one, and delivers what waits there. Deliveries run on the
    /// runtime that this is called in.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] while another process has the file open, [`ErrorKind::Invalid`] for a
    /// file that is none of ours or was written by a later version (it is left as it is) and outside
    /// of a tokio runtime, [`ErrorKind::Unavailable`] when it cannot be read or written, or lacks
    /// [some of what was in it](super#the-file).
    ///
    /// [`ErrorKind::Conflict`]: crate::ErrorKind::Conflict
    /// [`ErrorKind::Invalid`]: crate::ErrorKind::Invalid
    /// [`ErrorKind::Unavailable`]: crate::ErrorKind::Unavailable
    pub async fn open(self, path: impl Into<PathBuf>) -> Result<Outbox<B>, Error> {
        let runtime = Handle::try_current()
            .map_err(|_| Error::invalid("runtime", "is missing; open the outbox inside tokio"))?;
        let Self { backend, durability, open_wait, when_full, .. } = self;
        let Self { most_entries, most_bytes, mut terms, .. } = self;
        terms.most_kept = if terms.keep.is_zero() { 0 } else { most_entries };
        let schedule = Schedule::new(Backoff::new(self.first_wait, self.longest_wait));
        let places = Places::new(most_entries, most_bytes);
        let queue =
            Queue::open(path.into(), durability, open_wait, backend.now(), schedule, places)
                .await?;
        for _ in 0..COURIERS {
            let (queue, backend) = (Arc::clone(&queue), backend.clone());
            runtime.spawn(Courier { queue, backend, terms }.run());
        }
        let closed = AtomicBool::new(false);
        Ok(Outbox(Arc::new(Inner { backend, queue, when_full, closed })))
    }
}
