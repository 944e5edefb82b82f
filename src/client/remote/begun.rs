//! What was begun and is not answered yet.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct Begun {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: BTreeSet<u64>,
}

/// Something that was begun, until it is dropped.
#[derive(Debug)]
pub(super) struct Open {
    begun: Arc<Begun>,
    number: u64,
}

impl Begun {
    pub(super) fn begin(self: &Arc<Self>) -> Open {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.open.insert(number);
        Open { begun: Arc::clone(self), number }
    }

    /// Resolves when what was begun by now has ended, whatever is begun meanwhile.
    pub(super) async fn quiet(&self) {
        let before = self.lock().next;
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Listening begins before looking, so that no end is missed.
            ended.as_mut().enable();
            if self.lock().open.first().is_none_or(|first| *first >= before) {
                return;
            }
            ended.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.begun.lock().open.remove(&self.number);
        self.begun.ended.notify_waiters();
    }
}
