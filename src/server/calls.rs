//! How often a key may call. Not counted by an engine: those are the customers' limits, and what they
//! settle is what metrics tell of.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::auth::Key;
use super::problem::Problem;
use crate::policy::Timestamp;

const MINUTE: i64 = 60;
const DAY: i64 = 24 * 60 * 60;

/// Counts calls by key, in minutes and days of UTC.
#[derive(Debug)]
pub(super) struct Calls {
    most: [(i64, u32); 2],
    /// Only keys that are accepted are here.
    counted: Mutex<HashMap<Key, [Window; 2]>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    number: i64,
    calls: u32,
}

impl Calls {
    pub(super) fn new(minute: u32, day: u32) -> Self {
        Self { most: [(MINUTE, minute), (DAY, day)], counted: Mutex::default() }
    }

    /// Counts one call of the key, unless it has called too often.
    pub(super) fn count(&self, key: Key, now: Timestamp) -> Result<(), Problem> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let windows = counted.entry(key).or_default();
        let mut wait = 0;
        for (window, (length, most)) in windows.iter_mut().zip(self.most) {
            // A clock that is set back opens no window again.
            let number = now.as_seconds().div_euclid(length).max(window.number);
            if number > window.number {
                *window = Window { number, calls: 0 };
            }
            if window.calls >= most {
                let ends = number.saturating_add(1).saturating_mul(length);
                wait = wait.max(ends.saturating_sub(now.as_seconds()));
            }
        }
        if let Ok(seconds @ 1..) = u64::try_from(wait) {
            return Err(Problem::too_many_calls(Duration::from_secs(seconds)));
        }
        windows.iter_mut().for_each(|window| window.calls += 1);
        Ok(())
    }
}
