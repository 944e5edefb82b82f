use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::{EventId, Timestamp};

/// Makes UUIDs of version 7: the time in milliseconds, then a counter that starts anywhere.
///
/// RFC 9562, section 6.2, method 1 with the counter in `rand_b` (62 bits). Two processes would have
/// to draw the same 12 bits and start within reach of each other's counter to meet.
#[derive(Debug)]
pub(crate) struct Ids {
    salt: u64,
    next: AtomicU64,
}

impl Default for Ids {
    fn default() -> Self {
        // The standard library seeds its hasher from the operating system.
        let random = || RandomState::new().hash_one(0_u8);
        Self { salt: random() & 0xFFF, next: AtomicU64::new(random()) }
    }
}

impl Ids {
    #[inline]
    pub(crate) fn make(&self, now: Timestamp) -> EventId {
        let millis = (now.as_nanos() / 1_000_000) as u64 & 0xFFFF_FFFF_FFFF;
        let high = millis << 16 | 0x7 << 12 | self.salt;
        let low = 0b10 << 62 | self.next.fetch_add(1, Ordering::Relaxed) & (u64::MAX >> 2);
        EventId::from_uuid(u128::from(high) << 64 | u128::from(low))
    }
}
