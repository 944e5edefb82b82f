//! Windows that have ended are dropped, a few customers at a time.

use super::account::{FOREVER, minute_now};
use super::shard::{Around, Shard};
use crate::store::Moment;

#[derive(Debug)]
pub(super) struct Walk {
    pub(super) slot: u32,
    pub(super) due: i32,
    pub(super) next: i32,
}

impl Shard {
    /// Drops every ended window and expired hold at once.
    pub(super) fn sweep(&mut self, now: Moment<'_>, around: Around<'_>) {
        self.expire(now, around);
        for slot in 0..self.customers.reach() {
            self.tidy(slot, minute_now(now.wall()), around);
        }
        self.customers.shrink();
    }

    /// Drops ended windows of a few customers, once some are due.
    #[inline]
    pub(super) fn walk(&mut self, now: i32, around: Around<'_>) {
        if now >= self.walk.due {
            self.walk_on(now, around);
        }
    }

    /// There is a window that ends then.
    pub(super) fn expect(&mut self, end: i32) {
        self.walk.due = self.walk.due.min(end);
        self.walk.next = self.walk.next.min(end);
    }

    fn walk_on(&mut self, now: i32, around: Around<'_>) {
        const STEP: u32 = 8;
        if self.walk.slot == 0 {
            self.walk.next = FOREVER;
        }
        let until = (self.walk.slot + STEP).min(self.customers.reach());
        for slot in self.walk.slot..until {
            let first_end = self.tidy(slot, now, around);
            self.walk.next = self.walk.next.min(first_end);
        }
        self.walk.slot = until;
        if until >= self.customers.reach() {
            self.walk = Walk { slot: 0, due: self.walk.next, next: FOREVER };
            self.customers.shrink();
        }
    }

    fn tidy(&mut self, slot: u32, now: i32, around: Around<'_>) -> i32 {
        let Some(account) = self.customers.get_mut(slot) else { return FOREVER };
        account.tidy(now, &mut self.spare);
        if account.is_empty() {
            let hash = super::hash_in_shard(&account.id);
            self.dismiss(slot, Around { hash, ..around });
            return FOREVER;
        }
        account.first_end()
    }
}
