//! Which entries go next: each customer's in order, the oldest customer first, none behind an entry
//! of its own that is being retried.
//!
//! Plain values: the file is asked elsewhere, and time is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::backoff::Backoff;
use super::rows::{Line, State};
use crate::policy::{CustomerId, Timestamp};

#[derive(Debug)]
pub(super) struct Schedule {
    backoff: Backoff,
    lanes: HashMap<CustomerId, Lane>,
    /// Customers to be served, by their first entry.
    ready: BTreeSet<(u64, CustomerId)>,
    /// Customers whose first entry has failed, by when it is tried again.
    resting: BTreeSet<(Duration, CustomerId)>,
    /// When each entry that waits was appended.
    waiting: BTreeMap<u64, Timestamp>,
    /// What was delivered and is kept, by when that was.
    kept: BTreeMap<(Timestamp, u64), CustomerId>,
    set_aside: usize,
}

/// The entries of one customer.
#[derive(Debug, Default)]
struct Lane {
    waiting: BTreeMap<u64, Size>,
    kept: BTreeMap<u64, (Size, Timestamp)>,
    stage: Stage,
    /// How often the first entry has failed in a row.
    failures: u32,
}

#[derive(Clone, Copy, Debug)]
struct Size {
    bytes: u64,
    appended: Timestamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// To be served, if anything waits.
    #[default]
    Ready,
    /// On its way to the target.
    Away,
    Resting(Duration),
}

/// Entries of one customer, to be delivered in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) customer: CustomerId,
    pub(super) entries: Vec<Due>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) sequence: u64,
    /// The last before it that the target has taken and that is still kept. Among replayed entries
    /// it differs from one to the next.
    pub(super) previous: Option<u64>,
}

/// What became of an entry that was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Taken,
    SetAside,
    Failed,
}

/// What leaves the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) entries: usize,
    pub(super) bytes: u64,
}

impl Schedule {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            lanes: HashMap::new(),
            ready: BTreeSet::new(),
            resting: BTreeSet::new(),
            waiting: BTreeMap::new(),
            kept: BTreeMap::new(),
            set_aside: 0,
        }
    }

    /// An entry of the file.
    pub(super) fn add(&mut self, line: Line) {
        let Line { sequence, customer, bytes, appended, moved, .. } = line;
        let size = Size { bytes, appended };
        match line.state {
            State::Waiting => self.wait(sequence, customer, size),
            State::Delivered => self.keep(sequence, customer, size, moved),
            State::SetAside => self.set_aside += 1,
        }
    }

    /// An entry that was set aside left that state.
    pub(super) fn taken_up(&mut self) {
        self.set_aside -= 1;
    }

    /// The next entries, at most so many. Their customers have to [`land`](Self::land).
    pub(super) fn take(&mut self, now: Duration, most: usize) -> Vec<Load> {
        while let Some((until, customer)) = self.resting.pop_first() {
            if until > now {
                self.resting.insert((until, customer));
                break;
            }
            self.make_ready(customer);
        }
        let mut loads = Vec::new();
        let mut left = most;
        while left > 0
            && let Some((_, customer)) = self.ready.pop_first()
        {
            let Some(lane) = self.lanes.get_mut(&customer) else { continue };
            lane.stage = Stage::Away;
            let due = |sequence: &u64| {
                let previous = lane.kept.range(..sequence).next_back();
                Due { sequence: *sequence, previous: previous.map(|(sequence, _)| *sequence) }
            };
            let entries: Vec<Due> = lane.waiting.keys().take(left).map(due).collect();
            left -= entries.len();
            loads.push(Load { customer, entries });
        }
        loads
    }

    /// A load is back, with what became of its entries. `delivered` is when those were that are
    /// kept, if any are.
    pub(super) fn land(
        &mut self,
        customer: &CustomerId,
        fates: &[(u64, Fate)],
        now: Duration,
        delivered: Option<Timestamp>,
    ) -> Left {
        let mut left = Left::default();
        let mut failed = false;
        let mut went_on = false;
        for (sequence, fate) in fates {
            if *fate == Fate::Failed {
                failed = true;
                continue;
            }
            let Some(size) = self.forget(customer, *sequence) else { continue };
            went_on = true;
            match (fate, delivered) {
                (Fate::SetAside, _) => self.set_aside += 1,
                (_, delivered) => {
                    left.entries += 1;
                    left.bytes += size.bytes;
                    if let Some(at) = delivered {
                        self.keep(*sequence, customer.clone(), size, at);
                    }
                }
            }
        }
        let Some(lane) = self.lanes.get_mut(customer) else { return left };
        if failed {
            lane.failures = if went_on { 1 } else { lane.failures.saturating_add(1) };
            let until = self.backoff.until(now, lane.failures);
            lane.stage = Stage::Resting(until);
            self.resting.insert((until, customer.clone()));
        } else {
            lane.failures = 0;
            self.make_ready(customer.clone());
        }
        left
    }

    /// What is kept of a customer.
    pub(super) fn kept_of(&self, customer: &CustomerId) -> Vec<u64> {
        self.lanes.get(customer).map_or(Vec::new(), |lane| lane.kept.keys().copied().collect())
    }

    /// What was delivered at that time or later, and is kept.
    pub(super) fn kept_since(&self, since: Timestamp) -> Vec<(CustomerId, u64)> {
        let kept = self.kept.range((since, 0)..);
        kept.map(|((_, sequence), customer)| (customer.clone(), *sequence)).collect()
    }

    /// Lets what is kept wait again, in its old place. Answers what that takes.
    pub(super) fn deliver_again(&mut self, customer: &CustomerId, sequence: u64) -> Left {
        let lane = self.lanes.get_mut(customer);
        let Some((size, at)) = lane.and_then(|lane| lane.kept.remove(&sequence)) else {
            return Left::default();
        };
        self.kept.remove(&(at, sequence));
        self.wait(sequence, customer.clone(), size);
        Left { entries: 1, bytes: size.bytes }
    }

    /// What is kept longer than it should be: since before `until`, or beyond the `most` newest.
    pub(super) fn overdue(&self, until: Timestamp, most: usize) -> Vec<(CustomerId, u64)> {
        let spare = self.kept.len().saturating_sub(most);
        let kept = self.kept.iter().enumerate();
        kept.take_while(|(at, ((delivered, _), _))| *at < spare || *delivered < until)
            .map(|(_, ((_, sequence), customer))| (customer.clone(), *sequence))
            .collect()
    }

    /// Keeps an entry that was delivered no longer.
    pub(super) fn drop_kept(&mut self, customer: &CustomerId, sequence: u64) {
        let Some(lane) = self.lanes.get_mut(customer) else { return };
        if let Some((_, at)) = lane.kept.remove(&sequence) {
            self.kept.remove(&(at, sequence));
        }
        self.dismiss(customer);
    }

    /// Tries what has failed again at once.
    pub(super) fn hurry(&mut self) {
        while let Some((_, customer)) = self.resting.pop_first() {
            self.make_ready(customer);
        }
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When the next retry is due.
    pub(super) fn next_retry(&self) -> Option<Duration> {
        self.resting.first().map(|(until, _)| *until)
    }

    /// When the oldest entry that is kept was delivered.
    pub(super) fn oldest_kept(&self) -> Option<Timestamp> {
        self.kept.first_key_value().map(|((delivered, _), _)| *delivered)
    }

    /// How many entries wait, those on their way included.
    pub(super) fn depth(&self) -> usize {
        self.waiting.len()
    }

    /// The sequence of the first entry that waits, and when it was appended.
    pub(super) fn oldest(&self) -> Option<(u64, Timestamp)> {
        self.waiting.first_key_value().map(|(sequence, appended)| (*sequence, *appended))
    }

    /// How many of the entries that wait are at or before this one.
    pub(super) fn waiting_until(&self, sequence: u64) -> usize {
        self.waiting.range(..=sequence).count()
    }

    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn refused(&self) -> usize {
        self.set_aside
    }

    fn wait(&mut self, sequence: u64, customer: CustomerId, size: Size) {
        self.waiting.insert(sequence, size.appended);
        let lane = self.lanes.entry(customer.clone()).or_default();
        let first = lane.waiting.first_key_value().map(|(first, _)| *first);
        lane.waiting.insert(sequence, size);
        if lane.stage == Stage::Ready && first.is_none_or(|first| sequence < first) {
            if let Some(first) = first {
                self.ready.remove(&(first, customer.clone()));
            }
            self.ready.insert((sequence, customer));
        }
    }

    fn keep(&mut self, sequence: u64, customer: CustomerId, size: Size, at: Timestamp) {
        self.kept.insert((at, sequence), customer.clone());
        self.lanes.entry(customer).or_default().kept.insert(sequence, (size, at));
    }

    /// Takes an entry out of those that wait.
    fn forget(&mut self, customer: &CustomerId, sequence: u64) -> Option<Size> {
        self.waiting.remove(&sequence);
        self.lanes.get_mut(customer)?.waiting.remove(&sequence)
    }

    fn make_ready(&mut self, customer: CustomerId) {
        let Some(lane) = self.lanes.get_mut(&customer) else { return };
        lane.stage = Stage::Ready;
        match lane.waiting.first_key_value() {
            Some((first, _)) => drop(self.ready.insert((*first, customer))),
            None => self.dismiss(&customer),
        }
    }

    /// Forgets a customer of whom nothing is left.
    fn dismiss(&mut self, customer: &CustomerId) {
        let is_over = |lane: &Lane| {
            lane.stage == Stage::Ready && lane.waiting.is_empty() && lane.kept.is_empty()
        };
        if self.lanes.get(customer).is_some_and(is_over) {
            self.lanes.remove(customer);
        }
    }
}

#[cfg(test)]
mod tests;
