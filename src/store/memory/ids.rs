//! Ids that outlive their hold: given by callers, released before they were checked, expired.

use std::time::Duration;

use foldhash::HashMap;

use super::soonest::Soonest;
use crate::policy::{CustomerId, EventId, Timestamp};
use crate::store::Moment;

/// How long ids given by callers, and releases that overtook their check, are remembered.
pub(super) const HORIZON: Duration = Duration::from_secs(600);

/// How long a hold that expired may still be settled. A settlement that comes later, and under an id
/// of which nothing is known, may be a repeat or not: it is told to be too old.
pub(super) const LATE: Duration = Duration::from_secs(7 * 24 * 3600);

/// How far the clock of who checked may be ahead of the books'.
pub(super) const AHEAD: Duration = Duration::from_secs(24 * 3600);

/// How many ids one shard remembers at most.
const MOST: usize = 16_384;

#[derive(Debug)]
pub(super) struct Ids {
    horizon: Duration,
    /// Since when.
    known: HashMap<Key, Duration>,
    order: Soonest<Remembered>,
    /// The time of the newest finished id that was let go early, for want of room.
    floor: Option<Timestamp>,
}

/// Several things may have become of one id: checks sent under it are released each for itself.
type Key = (CustomerId, EventId, Fate);

/// What became of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Fate {
    /// It was settled.
    Finished,
    /// This check was released before it arrived.
    Released(u64),
    /// Its hold expired.
    Expired,
}

/// Until when an id is remembered. By both clocks: an event is too old by wall time, which may go
/// slowly, and what was remembered just now is not forgotten because wall time jumps.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Remembered {
    until: Timestamp,
    since: Duration,
    event: Option<Timestamp>,
    key: Key,
}

impl Ids {
    pub(super) fn for_time(horizon: Duration) -> Self {
        Self { horizon, known: HashMap::default(), order: Soonest::default(), floor: None }
    }

    #[inline]
    pub(super) fn knows(&self, customer: &CustomerId, id: &EventId, fate: Fate) -> bool {
        !self.known.is_empty() && self.known.contains_key(&(customer.clone(), id.clone(), fate))
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
        now: Moment<'_>,
    ) {
        self.make_room(1, now);
        let key = (customer.clone(), id.clone(), fate);
        // An event that comes early is not too old before its time plus the horizon.
        let wall = now.wall();
        let until = event.map_or(wall, |at| at.max(wall)).saturating_add(self.horizon);
        let since = now.monotonic();
        self.known.insert(key.clone(), since);
        self.order.push(Remembered { until, since, event, key });
    }

    /// Forgets an id, and says whether it was known.
    pub(super) fn take(&mut self, customer: &CustomerId, id: &EventId, fate: Fate) -> bool {
        !self.known.is_empty() && self.known.remove(&(customer.clone(), id.clone(), fate)).is_some()
    }

    /// Forgets what is over, and for want of room for so many more the oldest.
    pub(super) fn make_room(&mut self, more: usize, now: Moment<'_>) {
        while let Some(next) = self.order.peek() {
            let over = now.wall() > next.until
                && now.monotonic().saturating_sub(next.since) > self.horizon;
            if !over && self.order.len() + more <= MOST {
                break;
            }
            if !over {
                self.floor = self.floor.max(next.event);
            }
            let Some(Remembered { key, since, .. }) = self.order.pop() else { return };
            // Remembered anew since, it has another place in the order.
            if self.known.get(&key).is_some_and(|known| *known == since) {
                self.known.remove(&key);
            }
        }
    }
}
