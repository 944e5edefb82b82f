//! Customers of whom more is known than their usage: a zone, a billing date, limits of their own.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::Inner;
use super::frames::Newest;
use super::windows::Windows;
use crate::Error;
use crate::backend::Customer;
use crate::policy::catalog::Plans;
use crate::policy::{Calendar, CustomerId, Period, Timestamp, Window};
use crate::store::Store;

#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) customer: Option<Customer>,
    /// Their calendar, unless it is everybody's.
    pub(super) windows: Option<Arc<Windows>>,
    /// Their plans, unless they are everybody's.
    pub(super) plans: Option<Arc<Plans>>,
    /// For each period, the time from which on its counters are whole, when the calendar changed.
    pub(super) since: [Option<Timestamp>; Period::ALL.len()],
    /// What they were looked at by last.
    pub(super) frame: Newest,
}

impl Known {
    pub(super) fn is_nothing(&self) -> bool {
        self.customer.is_none() && self.plans.is_none() && self.since.iter().all(Option::is_none)
    }

    /// The periods whose counters are not whole before some time.
    pub(super) fn since_when(&self) -> Vec<(Period, Timestamp)> {
        let periods = Period::ALL.into_iter();
        periods.filter_map(|period| Some((period, self.since[period.index()]?))).collect()
    }

    pub(super) fn window(&self, everybody: &Windows, period: Period, at: Timestamp) -> Window {
        self.windows.as_deref().unwrap_or(everybody).window(period, at)
    }
}

/// A map in shards. While nothing is known of anybody, looking costs one load.
#[derive(Debug)]
pub(super) struct Accounts {
    shards: Box<[RwLock<Shard>]>,
    count: AtomicUsize,
    hasher: RandomState,
}

type Shard = HashMap<CustomerId, Arc<Known>>;

const SHARDS: usize = 64;

impl Default for Accounts {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            count: AtomicUsize::new(0),
            hasher: RandomState::new(),
        }
    }
}

impl Accounts {
    #[inline]
    pub(super) fn get(&self, customer: &CustomerId) -> Option<Arc<Known>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let shard = self.shard(customer).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(customer).cloned()
    }

    /// Replaces what is known. Callers take turns.
    pub(super) fn put(&self, customer: &CustomerId, known: Known) {
        let mut shard = self.shard(customer).write().unwrap_or_else(PoisonError::into_inner);
        if known.is_nothing() {
            if shard.remove(customer).is_some() {
                self.count.fetch_sub(1, Ordering::Release);
            }
        } else if shard.insert(customer.clone(), Arc::new(known)).is_none() {
            self.count.fetch_add(1, Ordering::Release);
        }
    }

    /// Who has plans of their own.
    pub(super) fn with_plans(&self) -> Vec<CustomerId> {
        let shards = self.shards.iter();
        let known = shards.map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner));
        let owners = |shard: &Shard| -> Vec<CustomerId> {
            let planned = shard.iter().filter(|(_, known)| known.plans.is_some());
            planned.map(|(id, _)| id.clone()).collect()
        };
        known.flat_map(|shard| owners(&shard)).collect()
    }

    /// All customers that `wanted` takes, by id.
    pub(super) fn list(&self, wanted: impl Fn(&CustomerId) -> bool) -> Vec<Customer> {
        let mut all: Vec<(CustomerId, Customer)> = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let described = shard.iter().filter(|(id, _)| wanted(id));
            all.extend(
                described.filter_map(|(id, known)| Some((id.clone(), known.customer.clone()?))),
            );
        }
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all.into_iter().map(|(_, customer)| customer).collect()
    }

    fn shard(&self, customer: &CustomerId) -> &RwLock<Shard> {
        &self.shards[self.hasher.hash_one(customer) as usize % SHARDS]
    }
}

impl<S: Store> Inner<S> {
    pub(super) fn window_of(&self, known: Option<&Known>, period: Period, at: Timestamp) -> Window {
        match known {
            Some(known) => known.window(&self.windows, period, at),
            None => self.windows.window(period, at),
        }
    }

    pub(super) async fn put_customer(self: &Arc<Self>, customer: Customer) -> Result<(), Error> {
        let id = customer.id.clone().map_err(|error| Error::invalid("id", error))?;
        let own = self.windows_of(&customer)?;
        self.describe(&id, Some(customer), own).await.map(|_| ())
    }

    /// A customer's own calendar, where it is not everybody's.
    pub(super) fn windows_of(&self, customer: &Customer) -> Result<Option<Arc<Windows>>, Error> {
        let everybody = self.windows.calendar();
        let zone = customer.zone.as_deref().unwrap_or(everybody.zone());
        let calendar = match &customer.anchor {
            Some(anchor) => Calendar::parse(Some(zone), anchor),
            None => Calendar::new(Some(zone), None),
        };
        let calendar = calendar.map_err(|error| Error::invalid("customer", error))?;
        Ok((calendar != *everybody).then(|| Arc::new(Windows::new(calendar))))
    }
}
