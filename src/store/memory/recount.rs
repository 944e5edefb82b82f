//! Counting kept events again, where definitions changed.

use std::collections::HashMap;
use std::sync::MutexGuard;

use super::account::{Account, Cell, Tag, minute_now};
use super::archive::Recounted;
use super::shard::Shard;
use super::{Memory, SHARDS, hash, locked};
use crate::Error;
use crate::policy::{Aggregation, Amount, CustomerId, RecordedEvent, Timestamp, Window};
use crate::store::{Line, Recount};

/// What kept events come to, counter by counter and window by window.
#[derive(Debug, Default)]
pub(crate) struct Tally(HashMap<(CustomerId, u32, Window), Sum>);

/// What some events give one counter.
#[derive(Debug)]
pub(crate) struct Sum {
    pub(crate) aggregation: Aggregation,
    pub(crate) amount: Amount,
    pub(crate) at: Timestamp,
}

impl Tally {
    /// Counts one more event, on all counters that are counted again.
    pub(crate) fn count(&mut self, change: &Recount<'_>, event: &RecordedEvent) {
        if change.customer.is_some_and(|customer| *customer != event.customer) {
            return;
        }
        for counter in change.counters {
            let Some((aggregation, amount)) = (change.counts)(event, *counter) else { continue };
            let window = (change.window)(&event.customer, *counter, event.at);
            let Some(window) = window.filter(|window| window.end() > change.now.wall()) else {
                continue;
            };
            let key = (event.customer.clone(), *counter, window);
            let fresh = || Sum { aggregation, amount, at: event.at };
            self.0.entry(key).and_modify(|sum| sum.add(amount, event.at)).or_insert_with(fresh);
        }
    }
}

#[cfg(feature = "redis")]
impl Tally {
    /// What all of them come to.
    pub(crate) fn into_sums(self) -> impl Iterator<Item = ((CustomerId, u32, Window), Sum)> {
        self.0.into_iter()
    }
}

impl Sum {
    pub(crate) fn add(&mut self, amount: Amount, at: Timestamp) {
        match self.aggregation {
            Aggregation::Sum | Aggregation::Count => {
                self.amount = self.amount.saturating_add(amount);
            }
            Aggregation::Max => self.amount = self.amount.max(amount),
            Aggregation::Latest if at < self.at => return,
            Aggregation::Latest => self.amount = amount,
        }
        self.at = self.at.max(at);
    }
}

impl Memory {
    pub(super) fn recount_now(&self, change: &Recount<'_>) -> Option<Timestamp> {
        let recounted = self.recount_from(change, |tally| {
            let journal = locked(&self.journal);
            journal.events().for_each(|event| tally.count(change, event));
            Ok(journal.forgotten())
        });
        recounted.unwrap_or_default()
    }

    /// Counts again as one step against all others of the customers concerned. `tally` is called
    /// within it, when no event of theirs can come any more.
    pub(crate) fn recount_from<T>(
        &self,
        change: &Recount<'_>,
        tally: impl FnOnce(&mut Tally) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let wanted = change.customer.map(|customer| (hash(customer) >> 40) as usize % SHARDS);
        let concerned = |at: &usize| wanted.is_none_or(|wanted| *at == wanted);
        let mut shards: Vec<(usize, MutexGuard<'_, Shard>)> =
            (0..SHARDS).filter(concerned).map(|at| (at, locked(&self.shards[at]))).collect();
        for (_, shard) in &mut shards {
            shard.epoch = shard.epoch.max(change.epoch);
        }
        let mut sums = Tally::default();
        let answer = tally(&mut sums)?;

        let now = minute_now(change.now.wall());
        let concerns = |id: &CustomerId| change.customer.is_none_or(|customer| customer == id);
        let mut recounted = Recounted::default();
        for (_, shard) in &mut shards {
            for slot in 0..shard.customers.reach() {
                let Some(account) = shard.customers.get_mut(slot) else { continue };
                if concerns(&account.id) {
                    reset(account, change, now, &mut recounted);
                }
            }
        }
        for ((customer, counter, window), sum) in sums.0 {
            let hash = hash(&customer);
            let at = (hash >> 40) as usize % SHARDS;
            let Some((_, shard)) = shards.iter_mut().find(|(known, _)| *known == at) else {
                continue;
            };
            let line = Line::new(counter, sum.aggregation, Amount::MAX, window);
            let counted = (&line, sum.amount);
            let state = shard.recount(&customer, counted, sum.at, change.now, self.around(hash));
            recounted.counters.extend(state.map(|state| (customer, state)));
        }
        if let Some(archive) = &self.archive {
            archive.recounted(recounted);
        }
        Ok(answer)
    }
}

/// Empties the counters that are counted again. A cell keeps its place, and with it what running
/// requests hold on it, but goes over to the window of now.
fn reset(account: &mut Account, change: &Recount<'_>, now: i32, recounted: &mut Recounted) {
    let id = account.id.clone();
    let again = |tag: Tag| {
        let counter = tag.number();
        let wanted = !tag.is_balance() && change.counters.contains(&counter);
        wanted.then(|| (change.window)(&id, counter, change.now.wall())).flatten()
    };
    let mut emptied = |tag: Tag| recounted.emptied.push((id.clone(), tag.number()));
    for cell in account.cells.iter_mut().filter(|cell| cell.end > now) {
        if let Some(window) = again(cell.tag) {
            emptied(cell.tag);
            *cell = Cell { tag: cell.tag.untouched(), end: window.last_minute(), value: 0 };
        }
    }
    if let Some(rare) = &mut account.rare {
        rare.ahead.retain(|cell| {
            let again = again(cell.tag).is_some();
            if again {
                emptied(cell.tag);
            }
            !again
        });
    }
}
