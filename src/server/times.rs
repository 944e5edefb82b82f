use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::policy::{EventId, Timestamp};

/// When resources were made and last changed, as far as this process knows.
pub(super) struct Times {
    started: Timestamp,
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) created: Timestamp,
    pub(super) updated: Timestamp,
}

impl Times {
    pub(super) fn new(started: Timestamp) -> Self {
        Self { started, known: Mutex::default() }
    }

    pub(super) fn of(&self, id: &str) -> Known {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(id).copied().unwrap_or_else(|| self.unknown(id))
    }

    pub(super) fn created(&self, id: &str, now: Timestamp) {
        self.put(id, Known { created: now, updated: now });
    }

    pub(super) fn updated(&self, id: &str, now: Timestamp) {
        self.put(id, Known { updated: now, ..self.of(id) });
    }

    pub(super) fn removed(&self, id: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn put(&self, id: &str, times: Known) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), times);
    }

    /// An id that was made here carries its time.
    fn unknown(&self, id: &str) -> Known {
        let made = id.split_once('_').and_then(|(_, id)| EventId::new(id).ok()?.made_at());
        let created = made.unwrap_or(self.started);
        Known { created, updated: created }
    }
}
