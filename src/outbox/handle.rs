use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::queue::Queue;
use super::rows::State;
use super::schedule::Left;
use super::{OutboxBuilder, OutboxStats, SetAside, WhenFull};
use crate::backend::{Backend, Delivery};
use crate::policy::Timestamp;
use crate::{Error, ErrorKind};

/// A backend behind a queue in a local file. Cheap to clone; the file is closed with the last clone.
pub struct Outbox<B: Backend>(pub(super) Arc<Inner<B>>);

pub(super) struct Inner<B: Backend> {
    pub(super) backend: B,
    pub(super) queue: Arc<Queue>,
    pub(super) when_full: WhenFull,
    /// Nothing new is taken.
    pub(super) closed: AtomicBool,
}

impl<B: Backend> Clone for Outbox<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Backend> fmt::Debug for Outbox<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("backend", &self.0.backend)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Drop for Inner<B> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl<B: Backend> Outbox<B> {
    /// Starts to put an outbox before a backend.
    pub fn builder(backend: B) -> OutboxBuilder<B> {
        OutboxBuilder::new(backend)
    }

    /// The backend behind it.
    pub fn backend(&self) -> &B {
        &self.0.backend
    }

    /// How it stands.
    pub fn stats(&self) -> OutboxStats {
        self.0.queue.stats(self.0.backend.now())
    }

    /// Delivers what was settled until now, without waiting for the next retry. What is refused for
    /// good and set aside counts as delivered.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] when some of it is not delivered within that time. It stays in the
    /// file, and goes on being tried.
    pub async fn flush(&self, within: Duration) -> Result<(), Error> {
        /// How often to try again what has failed meanwhile.
        const AGAIN: Duration = Duration::from_secs(1);
        let queue = &self.0.queue;
        let end = after(within);
        let written = timeout_at(end, queue.run(|rows| Ok(rows.last()))).await;
        let Ok(last) = written else { return Err(self.undelivered(usize::MAX)) };
        let last = last?;
        let mut hurried = None;
        loop {
            let landed = queue.landed.notified();
            let left = {
                let mut schedule = queue.schedule();
                if hurried.is_none_or(|at: Instant| at.elapsed() >= AGAIN) {
                    schedule.hurry();
                    hurried = Some(Instant::now());
                }
                schedule.waiting_until(last)
            };
            queue.changed.notify_one();
            if left == 0 {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(self.undelivered(left));
            }
            let _ = timeout_at(end.min(Instant::now() + AGAIN), landed).await;
        }
    }

    fn undelivered(&self, left: usize) -> Error {
        let left = left.min(self.stats().depth);
        let message = format!(
            "{left} settlements are not delivered yet; they are when the backend can be reached"
        );
        Error::new(ErrorKind::TimedOut, message)
    }

    /// Takes no new checks, waits for running requests, delivers what they have settled, and shuts
    /// the backend down: the same as [`Books::shutdown`](crate::Books::shutdown).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] when requests still run at the deadline, or not everything is
    /// delivered. What was settled is in the file, and delivered when it is next opened.
    pub async fn shutdown(&self, within: Duration) -> Result<(), Error> {
        self.0.closed.store(true, Ordering::SeqCst);
        let end = after(within);
        let left = || end.saturating_duration_since(Instant::now());
        if timeout_at(end, self.0.queue.places.idle()).await.is_err() {
            let message = format!("{} requests still run at the deadline", self.stats().running);
            return Err(Error::new(ErrorKind::TimedOut, message));
        }
        self.flush(left()).await?;
        self.0.backend.admin().shutdown(left()).await
    }

    /// Settlements that were refused for good, at most `most`, those after a sequence (0 for the
    /// first).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] when the file is gone.
    pub async fn set_aside(&self, after: u64, most: usize) -> Result<Vec<SetAside>, Error> {
        let refused = self.0.queue.run(move |rows| rows.refused(after, most)).await?;
        let producer = self.0.queue.producer;
        let read = refused.into_iter().map(|refused| SetAside {
            sequence: refused.sequence,
            customer: refused.entry.customer.clone(),
            delivery: refused.entry.settlement().ok().map(|settlement| Delivery {
                settlement,
                producer,
                sequence: refused.sequence,
                previous: None,
            }),
            reason: refused.reason,
            since: refused.moved,
        });
        Ok(read.collect())
    }

    /// Delivers a settlement again that was set aside: under its id, behind everything that waits.
    /// Answers whether it was there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] when the file is gone.
    pub async fn replay(&self, sequence: u64) -> Result<bool, Error> {
        let queue = &self.0.queue;
        let line = queue.run(move |rows| rows.replay(sequence)).await?;
        let Some(line) = line else { return Ok(false) };
        {
            let mut schedule = queue.schedule();
            schedule.taken_up();
            schedule.add(line);
        }
        queue.changed.notify_one();
        Ok(true)
    }

    /// Delivers everything again that was set aside, in order. Answers how much that is.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] when the file is gone.
    pub async fn replay_all(&self) -> Result<usize, Error> {
        const PAGE: usize = 1_000;
        // What is refused again meanwhile gets a later sequence, and is left for the next time.
        let last = self.0.queue.run(|rows| Ok(rows.last())).await?;
        let (mut after, mut replayed) = (0, 0);
        loop {
            let page = self.0.queue.run(move |rows| rows.refused(after, PAGE)).await?;
            let page = page.into_iter().map(|refused| refused.sequence);
            let page: Vec<u64> = page.filter(|sequence| *sequence <= last).collect();
            let Some(end) = page.last() else { return Ok(replayed) };
            after = *end;
            for sequence in page {
                replayed += usize::from(self.replay(sequence).await?);
            }
        }
    }

    /// Gives up a settlement that was set aside, and its place with it. Answers whether it was there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] when the file is gone.
    pub async fn discard(&self, sequence: u64) -> Result<bool, Error> {
        let queue = &self.0.queue;
        let removed = queue.run(move |rows| rows.remove(sequence, State::SetAside)).await?;
        let Some(bytes) = removed else { return Ok(false) };
        queue.schedule().taken_up();
        queue.places.leave(Left { entries: 1, bytes });
        Ok(true)
    }

    /// Delivers again what was delivered at that time or later and is still
    /// [kept](OutboxBuilder::keep_delivered), each in its old place, so before anything of its
    /// customer that still waits. Answers how much that is.
    ///
    /// Only for a backend that knows repeats: by [marks](crate::backend::Delivery), or by ids that
    /// it remembers for longer. One that does not counts twice what it has not lost.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] when the file is gone.
    pub async fn replay_delivered(&self, since: Timestamp) -> Result<usize, Error> {
        let kept = self.0.queue.schedule().kept_since(since);
        self.0.queue.deliver_again(kept).await
    }
}

/// The moment after that time; far away where it is longer than clocks reach.
fn after(time: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(366 * 24 * 3_600);
    Instant::now() + time.min(YEAR)
}
