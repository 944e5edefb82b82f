//! Definitions that another process has changed.

use std::sync::atomic::Ordering;

use super::Inner;
use super::accounts::Known;
use super::definitions::Definitions;
use crate::Error;
use crate::store::{Kept, Store};

impl<S: Store> Inner<S> {
    /// Takes up what has changed since that epoch in books that are shared, so that what was answered
    /// as stale can be resolved again.
    pub(super) async fn reload(&self, epoch: u64) -> Result<(), Error> {
        let mut definitions = self.definitions.lock().await;
        self.reload_under(&mut definitions, epoch).await
    }

    pub(super) async fn reload_under(
        &self,
        definitions: &mut Definitions,
        epoch: u64,
    ) -> Result<(), Error> {
        let now = self.epoch.load(Ordering::Acquire);
        // Somebody else was told the same, and has done it.
        if now > epoch {
            return Ok(());
        }
        if let Some(kept) = self.store.reload(now + 1).await? {
            self.take_over(definitions, kept)?;
            let new = definitions.new_counters();
            let new: Vec<_> =
                new.iter().map(|(number, key)| crate::store::Keep::Counter(*number, key)).collect();
            if !new.is_empty() {
                self.store.keep(&new).await?;
            }
        }
        self.epoch.fetch_max(now + 1, Ordering::AcqRel);
        Ok(())
    }

    /// Takes up what others have changed, to change something else.
    pub(super) async fn catch_up(&self, definitions: &mut Definitions) -> Result<(), Error> {
        self.reload_under(definitions, self.epoch.load(Ordering::Acquire)).await
    }

    fn take_over(&self, definitions: &mut Definitions, kept: Kept) -> Result<(), Error> {
        definitions.number(kept.counters);
        for (counter, since) in kept.since {
            definitions.incomplete_until(counter, since);
        }
        definitions.take_over(
            kept.meters,
            kept.limits,
            &kept.removed_meters,
            &kept.removed_limits,
        )?;
        let mut described = Vec::with_capacity(kept.customers.len());
        for customer in kept.customers {
            let Some(id) = customer.id().cloned() else { continue };
            let windows = self.windows_of(&customer)?;
            let known = self.accounts.get(&id);
            let known = known.map(|known| Known::clone(&known)).unwrap_or_default();
            self.accounts.put(&id, Known { customer: Some(customer), windows, ..known });
            described.push(id);
        }
        described.sort();
        for former in self.accounts.list(|id| described.binary_search(id).is_err()) {
            if let Some(id) = former.id()
                && let Some(known) = self.accounts.get(id)
            {
                let known = Known { customer: None, windows: None, ..Known::clone(&known) };
                self.accounts.put(id, known);
            }
        }
        for (id, periods) in kept.customers_since {
            let known = self.accounts.get(&id);
            let mut known = known.map(|known| Known::clone(&known)).unwrap_or_default();
            known.since = Known::default().since;
            for (period, since) in periods {
                known.since[period.index()] = Some(since);
            }
            self.accounts.put(&id, known);
        }
        let owners = definitions.owners();
        self.publish(definitions, None, &owners);
        Ok(())
    }
}
