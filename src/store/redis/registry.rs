//! The holds of this process: those that it renews, and those it has to end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use compact_str::CompactString;
use foldhash::HashMap;
use smallvec::SmallVec;

use super::keys::Place;
use crate::policy::{Amount, CustomerId, EventId};

const PARTS: usize = 16;

/// The holds of this process.
#[derive(Debug, Default)]
pub(super) struct Registry {
    parts: [Mutex<Part>; PARTS],
    ending: AtomicUsize,
}

type Part = HashMap<EventId, SmallVec<[Entry; 1]>>;

#[derive(Debug)]
struct Entry {
    attempt: u64,
    customer: CustomerId,
    /// When it ends by itself; one that does not is renewed.
    ends: Option<Duration>,
    held: Held,
}

/// What a hold sets aside.
#[derive(Debug)]
pub(super) struct Held {
    /// As the books have it. Where they have another, the rest of this is not of it.
    pub(super) text: Box<[u8]>,
    pub(super) lines: SmallVec<[(Place, Amount); 4]>,
    pub(super) balance: Option<(CompactString, Amount)>,
}

impl Registry {
    fn part(&self, id: &EventId) -> MutexGuard<'_, Part> {
        use std::hash::BuildHasher;
        let hash = foldhash::fast::FixedState::default().hash_one(id);
        let part = &self.parts[hash as usize % PARTS];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up a hold that is about to be placed. It is let go with the guard unless that is told to
    /// leave it.
    pub(super) fn open(
        self: &Arc<Self>,
        id: &EventId,
        attempt: u64,
        customer: &CustomerId,
        ends: Option<Duration>,
        held: Held,
    ) -> Opening {
        let entry = Entry { attempt, customer: customer.clone(), ends, held };
        self.part(id).entry(id.clone()).or_default().push(entry);
        Opening { registry: Arc::clone(self), id: id.clone(), attempt, placed: false }
    }

    /// Lets go of holds under an id: of one attempt, or of all. Says what one of them set aside.
    pub(super) fn close(&self, id: &EventId, attempt: Option<u64>) -> Option<Held> {
        let mut part = self.part(id);
        let entries = part.get_mut(id)?;
        let own = |entry: &Entry| attempt.is_none_or(|attempt| attempt == entry.attempt);
        let mut held = None;
        while let Some(place) = entries.iter().position(own) {
            held = Some(entries.swap_remove(place).held);
        }
        if entries.is_empty() {
            part.remove(id);
        }
        held
    }

    /// Lets go of one that was not placed, as far as is known.
    fn forget(&self, id: &EventId, attempt: u64) {
        let mut part = self.part(id);
        let Some(entries) = part.get_mut(id) else { return };
        if let Some(place) = entries.iter().position(|entry| entry.attempt == attempt) {
            entries.swap_remove(place);
        }
        if entries.is_empty() {
            part.remove(id);
        }
    }

    /// Counts a hold as open until the guard goes.
    pub(super) fn ending(self: &Arc<Self>) -> Ending {
        self.ending.fetch_add(1, Ordering::AcqRel);
        Ending(Arc::clone(self))
    }

    /// Somebody renewed a hold until then.
    pub(super) fn renewed(&self, id: &EventId, until: Duration) {
        let mut part = self.part(id);
        for entry in part.get_mut(id).into_iter().flatten() {
            entry.ends = entry.ends.map(|_| until);
        }
    }

    /// Lets go of holds that have ended by themselves.
    pub(super) fn sweep(&self, now: Duration) {
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.retain(|_, entries| {
                entries.retain(|entry| entry.ends.is_none_or(|ends| ends > now));
                !entries.is_empty()
            });
        }
    }

    pub(super) fn count(&self) -> usize {
        let count = |part: &Mutex<Part>| -> usize {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.values().map(SmallVec::len).sum()
        };
        self.parts.iter().map(count).sum::<usize>() + self.ending.load(Ordering::Acquire)
    }

    /// The holds to renew, by customer.
    pub(super) fn to_renew(&self) -> HashMap<CustomerId, Vec<EventId>> {
        let mut all: HashMap<CustomerId, Vec<EventId>> = HashMap::default();
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, entries) in part.iter() {
                for entry in entries.iter().filter(|entry| entry.ends.is_none()) {
                    all.entry(entry.customer.clone()).or_default().push(id.clone());
                }
            }
        }
        all
    }
}

/// A hold that is about to be placed.
#[derive(Debug)]
pub(super) struct Opening {
    registry: Arc<Registry>,
    id: EventId,
    attempt: u64,
    placed: bool,
}

impl Opening {
    /// It is there, and somebody else ends it.
    pub(super) fn leave(mut self) {
        self.placed = true;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.placed {
            self.registry.forget(&self.id, self.attempt);
        }
    }
}

/// A hold that is about to end.
#[derive(Debug)]
pub(super) struct Ending(Arc<Registry>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.ending.fetch_sub(1, Ordering::AcqRel);
    }
}
