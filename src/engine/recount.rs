//! After a change of definitions: what everybody is looked at by, and counters from kept events.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Inner;
use super::accounts::Known;
use super::definitions::Definitions;
use super::kept::counters;
use crate::Error;
use crate::policy::catalog::Rule;
use crate::policy::{CustomerId, RecordedEvent, Timestamp, Voided};
use crate::store::{Recount, Store};

impl<S: Store> Inner<S> {
    /// `owners` are in order.
    pub(super) fn publish(
        &self,
        definitions: &mut Definitions,
        only: Option<&CustomerId>,
        owners: &[CustomerId],
    ) {
        if only.is_none() {
            self.catalog.store(Arc::new(definitions.catalog()));
            // Those of whom nothing of their own is left are like everybody again.
            for former in self.accounts.with_plans() {
                if owners.binary_search(&former).is_err()
                    && let Some(known) = self.accounts.get(&former)
                {
                    self.accounts.put(&former, Known { plans: None, ..Known::clone(&known) });
                }
            }
        }
        for owner in owners {
            let known = self.accounts.get(owner);
            let known = known.map(|known| Known::clone(&known)).unwrap_or_default();
            let plans = Some(Arc::new(definitions.plans_for(owner)));
            self.accounts.put(owner, Known { plans, ..known });
        }
    }

    /// Counts kept events on these rules' counters again, and refuses operations that were resolved
    /// before. `known` tells who counts on them already.
    pub(super) async fn recount(
        &self,
        customer: Option<&CustomerId>,
        rules: &[Rule],
        known: &(dyn Fn(&CustomerId, u32) -> bool + Send + Sync),
    ) -> Result<Option<Timestamp>, Error> {
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        let voided = if rules.is_empty() { Voided::default() } else { self.voided(rules).await? };
        let counters: Vec<u32> = counters(rules).into_iter().collect();
        let rule = |counter: u32| rules.iter().find(|rule| rule.counter == counter);
        let window = |customer: &CustomerId, counter: u32, at: Timestamp| {
            if known(customer, counter) {
                return None;
            }
            let of = self.accounts.get(customer);
            Some(self.window_of(of.as_deref(), rule(counter)?.period, at))
        };
        let counts = |event: &RecordedEvent, counter: u32| {
            let rule = rule(counter)?;
            let usage = &event.usage;
            let amount = rule.counts(&event.event_type, usage.values(), usage.dimensions())?;
            let aggregation = rule.meter.aggregation();
            if voided.has(event) {
                return None;
            }
            Some((aggregation, event.gives(aggregation, amount)?))
        };
        let change = Recount {
            epoch,
            customer,
            counters: &counters,
            now: self.moment(),
            window: &window,
            counts: &counts,
        };
        self.store.recount(change).await
    }

    /// The events that were taken back, where that makes a difference: while none is gone, they add up
    /// to nothing.
    async fn voided(&self, rules: &[Rule]) -> Result<Voided, Error> {
        // Reading waits for the store as long as it fails; nobody waits for that under a lock. And what
        // others take back from here on, they do by the change.
        self.store.keep(&[]).await?;
        let mut voided = Voided::default();
        let adds = rules.iter().all(|rule| rule.meter.aggregation().adds());
        if !adds || self.store.events(&mut |_| false).await?.is_some() {
            let mut note = |event: &RecordedEvent| {
                voided.note(event);
                true
            };
            self.store.events(&mut note).await?;
        }
        Ok(voided)
    }
}
