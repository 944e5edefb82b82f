use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::policy::{EventId, Made, Timestamp};

/// When resources were made and last changed.
pub(super) struct Times {
    started: Timestamp,
    /// Balances that were made or changed in this process.
    balances: Mutex<HashMap<String, Known>>,
}

#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) created: Timestamp,
    pub(super) updated: Timestamp,
}

/// Of how many balances that is known.
const MOST: usize = 100_000;

impl Times {
    pub(super) fn new(started: Timestamp) -> Self {
        Self { started, balances: Mutex::default() }
    }

    /// Of a meter or limit. One that was defined by the program was made, as far as anybody knows,
    /// when it began.
    pub(super) fn of_definition(&self, id: &str, made: &Made) -> Known {
        // An id that was made here carries its time.
        let told = || id.split_once('_').and_then(|(_, id)| EventId::new(id).ok()?.made_at());
        let created = made.created.or_else(told).unwrap_or(self.started);
        Known { created, updated: made.updated.unwrap_or(created) }
    }

    pub(super) fn of_balance(&self, id: &str) -> Known {
        let unknown = Known { created: self.started, updated: self.started };
        let balances = self.balances.lock().unwrap_or_else(PoisonError::into_inner);
        balances.get(id).copied().unwrap_or(unknown)
    }

    pub(super) fn made_balance(&self, id: String, now: Timestamp) {
        self.put(id, Known { created: now, updated: now });
    }

    pub(super) fn changed_balance(&self, id: String, now: Timestamp) {
        let before = self.of_balance(&id);
        self.put(id, Known { updated: now, ..before });
    }

    fn put(&self, id: String, known: Known) {
        let mut balances = self.balances.lock().unwrap_or_else(PoisonError::into_inner);
        if balances.len() >= MOST {
            balances.clear();
        }
        balances.insert(id, known);
    }
}
