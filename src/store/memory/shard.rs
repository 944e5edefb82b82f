//! The customers of one shard, on whom each step runs under its lock.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::HashSet;

use super::account::{Account, FOREVER, Spare, minute_now};
use super::archive::Archive;
use super::customers::Customers;
use super::ids::{HORIZON, Ids, LATE};
use super::journal::Journal;
use super::marks::Marks;
use super::soonest::Soonest;
use super::sweep::Walk;
use crate::policy::{CustomerId, EventId};
use crate::store::Moment;

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) epoch: u64,
    pub(super) customers: Customers,
    /// Ids given by callers that are settled, and checks whose release overtook them.
    pub(super) finished: Ids,
    /// Holds that expired and may still be settled.
    pub(super) expired: Ids,
    pub(super) marks: Marks,
    pub(super) expiring: Soonest<(Duration, u32, EventId)>,
    /// How many of those there may be before it is looked which have ended already.
    pub(super) crowded: usize,
    /// Numbers holds.
    pub(super) serial: u16,
    pub(super) spare: Spare,
    /// References that were credited, for ever.
    pub(super) references: HashSet<(CustomerId, u32, Box<str>)>,
    /// Where the walk that drops ended windows stands, and the next minute at which one is due.
    pub(super) walk: Walk,
}

/// What a step needs besides its shard.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// The customer's hash within the shard.
    pub(super) hash: u64,
    /// How many customers there are in all shards, and may be.
    pub(super) count: &'a AtomicUsize,
    pub(super) most: usize,
    pub(super) journal: &'a Mutex<Journal>,
    pub(super) archive: Option<&'a dyn Archive>,
}

impl Around<'_> {
    /// Reserves a place for a settlement where it is to be kept.
    pub(super) fn reserve(&self) -> bool {
        self.archive.is_none_or(|archive| archive.reserve())
    }

    pub(super) fn released(&self, customer: &CustomerId, id: &EventId) {
        if let Some(archive) = self.archive {
            archive.released(customer, id);
        }
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            epoch: 0,
            customers: Customers::default(),
            finished: Ids::for_time(HORIZON),
            expired: Ids::for_time(LATE),
            marks: Marks::default(),
            expiring: Soonest::default(),
            crowded: 0,
            serial: 0,
            spare: Spare::default(),
            references: HashSet::default(),
            walk: Walk { slot: 0, due: FOREVER, next: FOREVER },
        }
    }
}

impl Shard {
    /// The account of a customer who may be new. `None` when there is no place for another.
    pub(super) fn account(
        &mut self,
        customer: &CustomerId,
        around: Around<'_>,
    ) -> Option<&mut Account> {
        let slot = match self.customers.find(around.hash, customer) {
            Some(slot) => slot,
            None => self.admit(customer, around)?,
        };
        self.customers.get_mut(slot)
    }

    pub(super) fn known(&self, customer: &CustomerId, around: Around<'_>) -> Option<&Account> {
        self.customers.get(self.customers.find(around.hash, customer)?)
    }

    pub(super) fn admit(&mut self, customer: &CustomerId, around: Around<'_>) -> Option<u32> {
        if around.count.fetch_add(1, Ordering::Relaxed) >= around.most {
            around.count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(self.customers.insert(around.hash, Account::new(customer.clone())))
    }

    pub(super) fn dismiss(&mut self, slot: u32, around: Around<'_>) {
        self.customers.remove(around.hash, slot);
        around.count.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn close(&mut self, slot: u32, now: Moment<'_>, around: Around<'_>) {
        let Some(account) = self.customers.get_mut(slot) else { return };
        account.tidy(minute_now(now.wall()), &mut self.spare);
        if account.is_empty() {
            self.dismiss(slot, around);
        }
    }
}
