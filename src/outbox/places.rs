//! Room for settlements: taken before a request runs, and filled when it has succeeded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::entry::RequestKey;
use super::schedule::Left;

/// What a place counts until it is known how large its entry is.
const PLACE_BYTES: u64 = 512;

#[derive(Debug)]
pub(super) struct Places {
    most: Left,
    inner: Mutex<Inner>,
    /// A request has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Entries that wait or were set aside, and places that are reserved for others.
    taken: Left,
    /// Checks that are not answered yet, and requests that end.
    between: usize,
    /// Requests that run, and whether they have a place.
    running: HashMap<RequestKey, bool>,
}

/// A check that is not answered yet. Dropped, it gives back its place.
#[derive(Debug)]
pub(super) struct Asked {
    places: Arc<Places>,
    has_place: bool,
}

/// A request that ends: until dropped, so that nobody takes it for ended before its entry is there.
#[derive(Debug)]
pub(super) struct Ending {
    places: Arc<Places>,
    had_place: bool,
}

impl Places {
    pub(super) fn new(entries: usize, bytes: u64) -> Self {
        Self { most: Left { entries, bytes }, inner: Mutex::default(), ended: Notify::new() }
    }

    /// A check begins, with a place if there is one.
    pub(super) fn ask(self: &Arc<Self>) -> Asked {
        let mut inner = self.inner();
        inner.between += 1;
        let has_place = inner.take(self.most);
        Asked { places: Arc::clone(self), has_place }
    }

    /// The request ends. `None` when it is not known.
    pub(super) fn end(self: &Arc<Self>, request: &RequestKey) -> Option<Ending> {
        let mut inner = self.inner();
        let had_place = inner.running.remove(request)?;
        inner.between += 1;
        drop(inner);
        Some(Ending { places: Arc::clone(self), had_place })
    }

    /// Takes a place, if there is one.
    pub(super) fn take(&self) -> bool {
        self.inner().take(self.most)
    }

    /// An entry of that size takes up the place that was kept for it.
    pub(super) fn fill(&self, bytes: u64) {
        let taken = &mut self.inner().taken;
        taken.bytes = (taken.bytes + bytes).saturating_sub(PLACE_BYTES);
    }

    /// Nothing will take up the place.
    pub(super) fn give_back(&self) {
        self.leave(Left { entries: 1, bytes: PLACE_BYTES });
    }

    /// Entries that take up places whether or not there are any.
    pub(super) fn enter(&self, entered: Left) {
        let taken = &mut self.inner().taken;
        taken.entries += entered.entries;
        taken.bytes += entered.bytes;
    }

    /// Entries that are gone.
    pub(super) fn leave(&self, left: Left) {
        let taken = &mut self.inner().taken;
        taken.entries = taken.entries.saturating_sub(left.entries);
        taken.bytes = taken.bytes.saturating_sub(left.bytes);
    }

    /// How many requests run, or are about to.
    pub(super) fn running(&self) -> usize {
        let inner = self.inner();
        inner.running.len() + inner.between
    }

    /// Resolves when no request runs, and none is about to.
    pub(super) async fn idle(&self) {
        loop {
            let ended = self.ended.notified();
            if self.inner().is_idle() {
                return;
            }
            ended.await;
        }
    }

    /// One check was answered, or one request has ended.
    fn done(&self) {
        let mut inner = self.inner();
        inner.between -= 1;
        let is_idle = inner.is_idle();
        drop(inner);
        if is_idle {
            self.ended.notify_waiters();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self, most: Left) -> bool {
        let taken = &mut self.taken;
        let has_room =
            taken.entries < most.entries && taken.bytes.saturating_add(PLACE_BYTES) <= most.bytes;
        if has_room {
            taken.entries += 1;
            taken.bytes += PLACE_BYTES;
        }
        has_room
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.between == 0
    }
}

impl Asked {
    pub(super) fn has_place(&self) -> bool {
        self.has_place
    }

    /// The request was admitted, and runs, with its place or without one.
    pub(super) fn begin(mut self, request: RequestKey) {
        let has_place = std::mem::take(&mut self.has_place);
        let before = self.places.inner().running.insert(request, has_place);
        if before == Some(true) {
            self.places.give_back();
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.has_place {
            self.places.give_back();
        }
        self.places.done();
    }
}

impl Ending {
    pub(super) fn had_place(&self) -> bool {
        self.had_place
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.places.done();
    }
}
