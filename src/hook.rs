//! Calls what users supplied. A panic in it is theirs; it must not cost a customer or a hold.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What the hook answers, or `None` when it panics.
#[inline]
pub(crate) fn call<T>(hook: impl FnOnce() -> T) -> Option<T> {
    let answer = catch_unwind(AssertUnwindSafe(hook));
    if answer.is_err() {
        crate::observe::hook_panicked();
    }
    answer.ok()
}
