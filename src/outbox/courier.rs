//! Takes what is due to the target, again and again until the target has said yes or no.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{timeout, timeout_at};

use super::queue::Queue;
use super::rows::State;
use super::schedule::{Due, Fate, Load};
use crate::backend::{Backend, Delivery, Receipt};
use crate::observe;
use crate::policy::CustomerId;
use crate::{Error, ErrorKind};

#[derive(Debug)]
pub(super) struct Courier<B> {
    pub(super) queue: Arc<Queue>,
    pub(super) backend: B,
    pub(super) terms: Terms,
}

/// How to deliver.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The most entries of one batch.
    pub(super) batch: usize,
    /// How long a batch may take.
    pub(super) within: Duration,
    /// How long what was delivered is kept, and how many at most.
    pub(super) keep: Duration,
    pub(super) most_kept: usize,
}

impl<B: Backend> Courier<B> {
    pub(super) async fn run(self) {
        let Self { queue, .. } = &self;
        loop {
            let changed = queue.changed.notified();
            if queue.is_closing() {
                // The next one, too.
                queue.changed.notify_one();
                return;
            }
            let (loads, more) = {
                let mut schedule = queue.schedule();
                let loads = schedule.take(queue.now(), self.terms.batch);
                (loads, schedule.has_ready())
            };
            if more {
                queue.changed.notify_one();
            }
            if !loads.is_empty() {
                if self.deliver(loads).await.is_err() {
                    return;
                }
                continue;
            }
            if self.prune().await.is_err() {
                return;
            }
            observe::outbox(&queue.stats(self.backend.now()));
            match self.next_moment() {
                Some(at) => drop(timeout_at(at, changed).await),
                None => changed.await,
            }
        }
    }

    /// Delivers these entries and writes down what became of them.
    ///
    /// # Errors
    ///
    /// When the file is gone for good.
    async fn deliver(&self, loads: Vec<Load>) -> Result<(), Error> {
        let Deliveries { batch, mut answers } = self.read(&loads).await?;
        let sent: Vec<u64> = batch.iter().map(|delivery| delivery.sequence).collect();
        let (backend, within) = (self.backend.clone(), self.terms.within);
        // In a task of its own, whose panic is not this one's. The target keeps to the time by
        // itself; one that does not must not stop the others.
        let asked = tokio::spawn(timeout(within.saturating_mul(2), async move {
            if batch.is_empty() { Vec::new() } else { backend.settle_many(batch, within).await }
        }));
        let mut results = match asked.await {
            Ok(Ok(results)) => results.into_iter(),
            Ok(Err(_)) | Err(_) => Vec::new().into_iter(),
        };
        for sequence in sent {
            let unanswered = || Err(Error::new(ErrorKind::TimedOut, "the target did not answer"));
            answers.insert(sequence, results.next().unwrap_or_else(unanswered));
        }
        self.land(loads, answers).await
    }

    /// Reads the entries. What cannot be read is answered here.
    async fn read(&self, loads: &[Load]) -> Result<Deliveries, Error> {
        let all = loads.iter().flat_map(|load| &load.entries);
        let sequences: Vec<u64> = all.clone().map(|due| due.sequence).collect();
        let mut entries = self
            .queue
            .run(move |rows| {
                sequences.iter().map(|at| rows.read(*at)).collect::<Result<Vec<_>, _>>()
            })
            .await?
            .into_iter();
        let mut deliveries = Deliveries { batch: Vec::new(), answers: HashMap::new() };
        for &Due { sequence, previous } in all {
            // Somebody removed the row by hand: there is nothing left to deliver.
            let Some(entry) = entries.next().flatten() else {
                deliveries.answers.insert(sequence, Ok(Receipt::Taken));
                continue;
            };
            let producer = self.queue.producer;
            match entry.settlement() {
                Ok(settlement) => {
                    let delivery = Delivery { settlement, producer, sequence, previous };
                    deliveries.batch.push(delivery);
                }
                Err(unreadable) => {
                    let error = Error::new(ErrorKind::Invalid, unreadable.to_string());
                    deliveries.answers.insert(sequence, Err(error));
                }
            }
        }
        Ok(deliveries)
    }

    /// Writes down what became of entries, and then acts on it.
    async fn land(&self, loads: Vec<Load>, answers: Answers) -> Result<(), Error> {
        let queue = &self.queue;
        let at = self.backend.now();
        let keeps = !self.terms.keep.is_zero();
        let mut taken = Vec::new();
        let mut refused = Vec::new();
        let mut behind: Vec<CustomerId> = Vec::new();
        let mut landed = Vec::new();
        for Load { customer, entries } in loads {
            let fates = entries.into_iter().filter_map(|Due { sequence, .. }| {
                let fate = match answers.get(&sequence)? {
                    Ok(Receipt::Taken) => {
                        taken.push(sequence);
                        Fate::Taken
                    }
                    Ok(Receipt::Behind) => {
                        behind.push(customer.clone());
                        Fate::Failed
                    }
                    Err(error) if error.is_transient() => Fate::Failed,
                    Err(error) => {
                        observe::outbox_set_aside(error);
                        refused.push((sequence, error.to_string()));
                        Fate::SetAside
                    }
                };
                Some((sequence, fate))
            });
            let fates: Vec<_> = fates.collect();
            landed.push((customer, fates));
        }
        queue
            .run(move |rows| {
                for &sequence in &taken {
                    if keeps {
                        rows.delivered(sequence, at)?;
                    } else {
                        rows.remove(sequence, State::Waiting)?;
                    }
                }
                refused.iter().try_for_each(|(sequence, why)| rows.set_aside(*sequence, at, why))
            })
            .await?;
        behind.dedup();
        if !behind.is_empty() {
            let kept: Vec<_> = {
                let schedule = queue.schedule();
                let kept = behind.into_iter().flat_map(|customer| {
                    let kept = schedule.kept_of(&customer);
                    kept.into_iter().map(move |sequence| (customer.clone(), sequence))
                });
                kept.collect()
            };
            observe::outbox_behind(queue.deliver_again(kept).await?);
        }
        let delivered = keeps.then_some(at);
        for (customer, fates) in landed {
            let left = queue.schedule().land(&customer, &fates, queue.now(), delivered);
            queue.places.leave(left);
        }
        queue.landed.notify_waiters();
        self.prune().await?;
        observe::outbox(&queue.stats(at));
        Ok(())
    }

    /// Removes what was kept for long enough.
    async fn prune(&self) -> Result<(), Error> {
        let Terms { keep, most_kept, .. } = self.terms;
        let until = self.backend.now().saturating_sub(keep);
        let overdue = self.queue.schedule().overdue(until, most_kept);
        if overdue.is_empty() {
            return Ok(());
        }
        let removed = self
            .queue
            .run(move |rows| {
                let mut removed = Vec::new();
                for (customer, sequence) in &overdue {
                    if rows.remove(*sequence, State::Delivered)?.is_some() {
                        removed.push((customer.clone(), *sequence));
                    }
                }
                Ok(removed)
            })
            .await?;
        let mut schedule = self.queue.schedule();
        for (customer, sequence) in &removed {
            schedule.drop_kept(customer, *sequence);
        }
        Ok(())
    }

    /// When there is something to do again if nothing happens.
    fn next_moment(&self) -> Option<tokio::time::Instant> {
        let schedule = self.queue.schedule();
        let retry = schedule.next_retry().map(|at| self.queue.moment(at));
        let prune = schedule.oldest_kept().map(|delivered| {
            let due = delivered.saturating_add(self.terms.keep);
            // By wall time, which may stand still.
            let wait = due.duration_since(self.backend.now()).max(Duration::from_secs(1));
            tokio::time::Instant::now() + wait
        });
        retry.into_iter().chain(prune).min()
    }
}

type Answers = HashMap<u64, Result<Receipt, Error>>;

struct Deliveries {
    batch: Vec<Delivery>,
    answers: Answers,
}
