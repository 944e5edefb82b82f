//! The holds of requests that run in this process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::backend::Name;
use crate::policy::{CustomerId, EventId};

#[derive(Debug, Default)]
pub(super) struct Running {
    inner: Mutex<Inner>,
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// When each ends by itself, on the monotonic clock; `None` is renewed until its request ends.
    holds: HashMap<Name, Option<Duration>>,
    closed: bool,
}

impl Running {
    pub(super) fn begin(&self, name: Name, ends: Option<Duration>) {
        self.lock().holds.insert(name, ends);
        self.changed.notify_waiters();
    }

    pub(super) fn end(&self, name: &Name) {
        if self.lock().holds.remove(name).is_some() {
            self.changed.notify_waiters();
        }
    }

    /// A hold that ends by itself does so later than it was told.
    pub(super) fn extend(&self, customer: &CustomerId, id: &EventId, ends: Duration) {
        for (name, kept) in &mut self.lock().holds {
            if let Some(kept) = kept
                && (&name.customer, &name.id) == (customer, id)
            {
                *kept = ends;
            }
        }
    }

    /// Those that are to be renewed.
    pub(super) fn renewed(&self) -> Vec<Name> {
        let inner = self.lock();
        let renewed = inner.holds.iter().filter(|(_, ends)| ends.is_none());
        renewed.map(|(name, _)| name.clone()).collect()
    }

    /// How many there are that have not ended by themselves.
    pub(super) fn open(&self, now: Duration) -> usize {
        let inner = self.lock();
        inner.holds.values().filter(|ends| ends.is_none_or(|ends| ends > now)).count()
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_waiters();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
