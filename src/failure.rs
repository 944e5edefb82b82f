//! What happens while the backend cannot answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What happens to requests while the backend cannot answer in time. Counted in the metric
/// `limitry.failures`, by what was done.
///
/// It is never answered 429, and no `RateLimit` headers are sent, as nothing was enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailurePolicy {
    /// Requests run unchecked. Their usage is still handed to the backend at the end.
    Open,
    /// Requests are answered 503 with `Retry-After`.
    Closed,
    /// Requests run unchecked for so long after the first that met the failure, then 503. Any check
    /// that is answered ends the failure.
    OpenFor(Duration),
    /// So many requests run unchecked, then 503. Any check that is answered ends the failure, and
    /// the count begins anew.
    OpenUpTo(u64),
}

/// Since when, and for how many requests, the backend has not answered.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    /// Whether there is one, to be asked for each request.
    lasts: AtomicBool,
    so_far: Mutex<Option<(Instant, u64)>>,
}

impl Outage {
    /// A request met the failure: whether it may run unchecked.
    pub(crate) fn passes(&self, policy: FailurePolicy) -> bool {
        let mut outage = self.so_far.lock().unwrap_or_else(PoisonError::into_inner);
        self.lasts.store(true, Ordering::Relaxed);
        let (since, passed) = outage.get_or_insert_with(|| (Instant::now(), 0));
        let passes = match policy {
            FailurePolicy::Open => true,
            FailurePolicy::Closed => false,
            FailurePolicy::OpenFor(longest) => since.elapsed() < longest,
            FailurePolicy::OpenUpTo(most) => *passed < most,
        };
        *passed += u64::from(passes);
        passes
    }

    /// The backend answered.
    pub(crate) fn is_over(&self) {
        if self.lasts.load(Ordering::Relaxed) {
            let mut outage = self.so_far.lock().unwrap_or_else(PoisonError::into_inner);
            self.lasts.store(false, Ordering::Relaxed);
            *outage = None;
        }
    }
}
