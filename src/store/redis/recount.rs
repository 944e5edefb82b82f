//! Counting kept events again, where definitions changed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use redis::{Value, cmd};

use super::check::kind;
use super::keys::{SHARDS, shard_of};
use super::link::CallError;
use super::reply;
use super::shared::{locked_version, new_version};
use super::{Inner, keys};
use crate::policy::{CustomerId, RecordedEvent, Timestamp, Window};
use crate::store::Recount;
use crate::store::memory::recount::{Sum, Tally};
use crate::{Error, ErrorKind};

/// How often a recount is begun again when another process changes definitions meanwhile.
const ATTEMPTS: usize = 8;

type Sums = HashMap<CustomerId, Vec<(u32, Window, Sum)>>;

impl Inner {
    /// Counts what is there first, which may take its time. Then the shards concerned are kept for
    /// this alone while it counts what came meanwhile and writes the counters: steps of others wait.
    pub(super) async fn count_again(
        &self,
        change: &Recount<'_>,
    ) -> Result<Option<Timestamp>, Error> {
        if change.counters.is_empty() {
            self.shared.outdate(change.epoch);
            return Ok(None);
        }
        let shards = match change.customer {
            Some(customer) => {
                let shard = shard_of(customer.as_str());
                shard..shard + 1
            }
            None => 0..SHARDS,
        };
        // Whoever looks again after this finds what it is for.
        drop(self.writing.write().await);
        for _ in 0..ATTEMPTS {
            let lock: Arc<str> = locked_version().into();
            let counted = self.count_locked(change, shards.clone(), &lock).await;
            // What comes after this comes with a version of its own.
            let knows_all = self.shared.knows_all(&self.caller).await;
            let version: Arc<str> = new_version().into();
            for shard in shards.clone() {
                let freed = self.shared.set_version(&self.caller, shard, Some(&lock), &version);
                freed.await?;
            }
            if counted? {
                if knows_all? {
                    let numbers: Vec<u16> = shards.clone().collect();
                    self.shared.adopt(change.epoch, &numbers, &version);
                } else {
                    // Of what others have changed the next step is told.
                    self.shared.outdate(change.epoch);
                }
                return self.forgotten(shards).await;
            }
        }
        let message = "other processes change definitions all the time; try again";
        Err(Error::new(ErrorKind::Unavailable, message))
    }

    /// Answers whether nobody else has taken over.
    async fn count_locked(
        &self,
        change: &Recount<'_>,
        shards: std::ops::Range<u16>,
        lock: &Arc<str>,
    ) -> Result<bool, Error> {
        let mut tally = Tally::default();
        let mut ends = Vec::new();
        for shard in shards.clone() {
            let mut count = |event: &RecordedEvent| tally.count(change, event);
            ends.push(self.events_of(shard, "-".to_owned(), &mut count).await?);
        }
        let mut customers: BTreeSet<CustomerId> = match change.customer {
            Some(customer) => [customer.clone()].into(),
            None if self.shared.were_new(change.counters) => BTreeSet::new(),
            None => self.all_customers().await?,
        };
        for shard in shards.clone() {
            self.shared.set_version(&self.caller, shard, None, lock).await?;
        }
        for (shard, end) in shards.zip(ends) {
            let mut count = |event: &RecordedEvent| tally.count(change, event);
            self.events_of(shard, end, &mut count).await?;
        }
        let mut sums: Sums = HashMap::new();
        for ((customer, counter, window), sum) in tally.into_sums() {
            sums.entry(customer).or_default().push((counter, window, sum));
        }
        customers.extend(sums.keys().cloned());
        for customer in &customers {
            let own = sums.remove(customer).unwrap_or_default();
            if !self.put_counters(change, customer, &own, lock).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn put_counters(
        &self,
        change: &Recount<'_>,
        customer: &CustomerId,
        sums: &[(u32, Window, Sum)],
        lock: &Arc<str>,
    ) -> Result<bool, Error> {
        let names = self.shared.names();
        let name = |counter: u32| {
            let name = names.get(counter as usize);
            name.ok_or_else(|| Error::new(ErrorKind::Invalid, "a counter has no name"))
        };
        let mut again = Vec::new();
        for counter in change.counters {
            if let Some(window) = (change.window)(customer, *counter, change.now.wall()) {
                again.push((name(*counter)?, keys::end(&window)));
            }
        }
        if again.is_empty() {
            return Ok(true);
        }
        let mut call = {
            let owner = (customer, shard_of(customer.as_str()));
            self.begin_under(&self.scripts.recount, owner, &[], lock, change.now)
        };
        call.arg(again.len());
        for (name, end) in again {
            call.arg(&**name).arg(end);
        }
        for (counter, window, sum) in sums {
            let end = keys::end(window);
            call.arg(kind(sum.aggregation)).arg(format!("{end}.{}", name(*counter)?)).arg(end);
            call.arg(sum.amount.as_millionths()).arg(sum.at.as_nanos());
        }
        let value = call.run(&self.caller, self.caller.deadline()).await?;
        let mut reply = reply::Reply::of(value)?;
        Ok(reply.text()? == "n")
    }

    /// Every customer of whom there are books.
    pub(super) async fn all_customers(&self) -> Result<BTreeSet<CustomerId>, Error> {
        let mut found = BTreeSet::new();
        let pattern = self.shared.keys.all_books();
        for node in self.caller.nodes().await? {
            let mut cursor = "0".to_owned();
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1_000);
                let answer = self.caller.call_node(&node, &scan, self.caller.deadline()).await?;
                let Value::Array(parts) = answer else {
                    return Err(CallError::Nonsense("no list").into());
                };
                let mut parts = parts.into_iter();
                cursor = reply::text(parts.next().unwrap_or_default())?.unwrap_or_default();
                let mut keys = reply::Reply::of(parts.next().unwrap_or_default())?;
                while let Some(key) = keys.next() {
                    let key = reply::text(key)?.unwrap_or_default();
                    let customer = self.shared.keys.customer_of(&key);
                    found.extend(customer.and_then(|customer| CustomerId::new(customer).ok()));
                }
                if cursor == "0" || cursor.is_empty() {
                    break;
                }
            }
        }
        Ok(found)
    }
}
