//! Events at which the API fails, again and again. One such event would fail all that are sent with
//! it: fewer and fewer go in one call, until it is alone. From then on it goes by itself, after all
//! others. Debits at which it fails are counted likewise; they always go alone. No I/O and no clock; time
//! is passed in.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::backend::Hold;
use crate::client::Events;
use crate::policy::{CustomerId, EventId};

/// For how long an event is tried that is alone with its failures: as long as ids are remembered.
const DAY: Duration = Duration::from_secs(86_400);

/// How many are remembered. Beyond that they are found anew.
const MOST: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Suspects(Mutex<State>);

#[derive(Debug)]
struct State {
    /// How many events go in one call at most.
    together: usize,
    alone: HashMap<(CustomerId, EventId), Suspect>,
    /// Counts calls that were taken, and those that failed for one event.
    taken: u64,
    tried: u64,
}

#[derive(Clone, Copy, Debug)]
struct Suspect {
    since: Duration,
    /// How often the API failed at it while it took others.
    failures: u32,
    /// What was counted when it was sent last.
    taken: u64,
    tried: u64,
}

impl Default for State {
    fn default() -> Self {
        Self { together: Events::MOST, alone: HashMap::new(), taken: 0, tried: 0 }
    }
}

impl Suspects {
    /// How many events may go in one call.
    pub(super) fn together(&self) -> usize {
        self.lock().together
    }

    /// Where an event stands among those that go alone; the smallest is next. `None` for the others.
    pub(super) fn turn(&self, hold: &Hold) -> Option<u64> {
        self.lock().alone.get(&key(hold)).map(|suspect| suspect.tried)
    }

    /// A call with these was taken.
    pub(super) fn taken<'h>(&self, holds: impl ExactSizeIterator<Item = &'h Hold>) {
        let mut state = self.lock();
        state.taken += 1;
        if holds.len() >= state.together {
            state.together = state.together.saturating_mul(2).min(Events::MOST);
        }
        if !state.alone.is_empty() {
            for hold in holds {
                state.alone.remove(&key(hold));
            }
        }
    }

    /// The API failed at so many together.
    pub(super) fn failed_together(&self, count: usize) {
        let mut state = self.lock();
        state.together = state.together.min(count / 2).max(1);
    }

    /// The API failed at one event alone. Answers how often it did while it took others, once that
    /// is `enough`, or has gone on for a day. That it takes others shows by those that went before in
    /// the same delivery, or since the last time.
    pub(super) fn failed_alone(
        &self,
        hold: &Hold,
        others: bool,
        enough: u32,
        now: Duration,
    ) -> Option<u32> {
        let mut state = self.lock();
        state.tried += 1;
        if state.alone.len() >= MOST {
            state.alone.clear();
        }
        let (taken, tried) = (state.taken, state.tried);
        let new = Suspect { since: now, failures: 0, taken, tried };
        let suspect = state.alone.entry(key(hold)).or_insert(new);
        suspect.failures += u32::from(others || suspect.taken < taken);
        (suspect.taken, suspect.tried) = (taken, tried);
        let Suspect { failures, since, .. } = *suspect;
        if failures < enough.max(1) && now.saturating_sub(since) < DAY {
            return None;
        }
        state.alone.remove(&key(hold));
        Some(failures)
    }

    /// Nobody sends it any more.
    pub(super) fn forget(&self, hold: &Hold) {
        self.lock().alone.remove(&key(hold));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(hold: &Hold) -> (CustomerId, EventId) {
    (hold.customer().clone(), hold.id().clone())
}
