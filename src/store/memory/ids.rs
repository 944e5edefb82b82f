//! Ids that outlive their hold: given by callers, released before they were checked, expired.

use std::collections::VecDeque;
use std::time::Duration;

use foldhash::HashMap;

use crate::policy::{CustomerId, EventId, Timestamp};

/// How long ids given by callers, and releases that overtook their check, are remembered.
pub(super) const HORIZON: Duration = Duration::from_secs(600);

/// How long a hold that expired may still be settled.
pub(super) const LATE: Duration = Duration::from_secs(7 * 24 * 3600);

/// How many ids one shard remembers at most.
const MOST: usize = 16_384;

#[derive(Debug)]
pub(super) struct Ids {
    horizon: Duration,
    known: HashMap<(CustomerId, EventId), Fate>,
    order: VecDeque<(Duration, Option<Timestamp>, (CustomerId, EventId))>,
    /// The time of the newest finished id that was let go early, for want of room.
    floor: Option<Timestamp>,
}

/// What became of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Given by a caller, and settled.
    Finished,
    /// Released before its check arrived, or its hold expired.
    Released,
}

impl Ids {
    pub(super) fn for_time(horizon: Duration) -> Self {
        Self { horizon, known: HashMap::default(), order: VecDeque::new(), floor: None }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) fn fate(&self, customer: &CustomerId, id: &EventId) -> Option<Fate> {
        if self.is_empty() {
            return None;
        }
        self.known.get(&(customer.clone(), id.clone())).copied()
    }

    /// Whether a repeat of an event of that time might have been let go already.
    pub(super) fn may_have_forgotten(&self, at: Timestamp, now: Timestamp) -> bool {
        now.duration_since(at) > self.horizon || self.floor.is_some_and(|floor| at <= floor)
    }

    pub(super) fn remember(
        &mut self,
        customer: &CustomerId,
        id: &EventId,
        fate: Fate,
        event: Option<Timestamp>,
        now: Duration,
    ) {
        self.forget(now);
        let key = (customer.clone(), id.clone());
        if self.known.insert(key.clone(), fate).is_none() {
            self.order.push_back((now, event, key));
        }
    }

    /// Forgets an id, and says whether it was known.
    pub(super) fn take(&mut self, customer: &CustomerId, id: &EventId) -> bool {
        !self.is_empty() && self.known.remove(&(customer.clone(), id.clone())).is_some()
    }

    fn forget(&mut self, now: Duration) {
        while let Some((since, event, _)) = self.order.front() {
            let early = self.order.len() >= MOST;
            if now.saturating_sub(*since) <= self.horizon && !early {
                break;
            }
            if early {
                self.floor = self.floor.max(*event);
            }
            if let Some((_, _, key)) = self.order.pop_front() {
                self.known.remove(&key);
            }
        }
    }
}
