//! Changing definitions, and what is known of customers, while requests run: all of a change, or
//! none.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::MutexGuard;

use super::Inner;
use super::accounts::Known;
use super::definitions::Definitions;
use super::kept::{Counted, counters};
use super::record::MOST_AHEAD;
use super::windows::Windows;
use crate::Error;
use crate::backend::Customer;
use crate::policy::catalog::Rule;
use crate::policy::{CustomerId, Period};
use crate::store::{Keep, Store};

/// How often it is tried to count a customer's windows that are not whole, when the store works again.
const ATTEMPTS: usize = 3;

impl<S: Store> Inner<S> {
    /// Changes definitions: the rules, then the plans, then the counters that are new in them.
    /// `only` tells the customer whom the change concerns, if it is one alone; `change` changes
    /// nothing when it fails. When something later fails, all is as it was.
    ///
    /// The store keeps the change, and which counters count everything, such that a process that
    /// ends anywhere in between leaves nothing that is believed to be whole and is not.
    pub(super) async fn redefine<T>(
        &self,
        only: impl FnOnce(&Definitions) -> Option<CustomerId> + Send,
        change: impl FnOnce(&mut Definitions) -> Result<T, Error> + Send,
        keep: Keep<'_>,
    ) -> Result<T, Error> {
        // Ahead of the definitions, which requests may need meanwhile.
        let alone = self.store.alone().await?;
        let redefined = self.redefine_alone(only, change, keep).await;
        alone.end().await;
        redefined
    }

    async fn redefine_alone<T>(
        &self,
        only: impl FnOnce(&Definitions) -> Option<CustomerId> + Send,
        change: impl FnOnce(&mut Definitions) -> Result<T, Error> + Send,
        keep: Keep<'_>,
    ) -> Result<T, Error> {
        let mut definitions = self.definitions.lock().await;
        // A store that cannot keep it says so before anything has changed.
        self.store.keep(&[]).await?;
        self.catch_up(&mut definitions).await?;
        let only = only(&definitions);
        let mut former = definitions.clone();
        let former_owners = concerned(only.as_ref(), &definitions);
        let before = Counted::by(&mut definitions, &former_owners);
        let before = before.kept_by(&self.store, only.as_ref())?;
        let answer = change(&mut definitions)?;
        let counted =
            self.count_new(&mut definitions, &mut former, only.as_ref(), &before, keep).await;
        if let Err(error) = counted {
            let undo = former.undo(keep);
            let owners = concerned(only.as_ref(), &definitions);
            let after = Counted::by(&mut definitions, &owners);
            definitions.go_back_to(&former);
            self.publish(&mut definitions, only.as_ref(), &former_owners);
            // What was resolved meanwhile settles by the old rules again.
            self.epoch.fetch_add(1, Ordering::AcqRel);
            // Meanwhile, others that share the books counted by the change alone.
            let whole = if definitions.is_shared() { before.and(&after) } else { before };
            let mut changes = whole.changes(&after, only.as_ref());
            changes.extend(undo);
            changes.extend(undo.and_then(|undo| self.rollup(undo)));
            // That the store fails is told already; it writes this after the change itself, or
            // neither.
            let _ = self.store.keep(&changes).await;
            return Err(error);
        }
        Ok(answer)
    }

    /// Keeps a change that was made, publishes it, and counts what is new in it.
    async fn count_new(
        &self,
        definitions: &mut Definitions,
        former: &mut Definitions,
        only: Option<&CustomerId>,
        before: &Counted,
        keep: Keep<'_>,
    ) -> Result<(), Error> {
        let owners = concerned(only, definitions);
        let after = Counted::by(definitions, &owners);
        let new_counters = definitions.new_counters();
        let both = before.and(&after);
        let mut changes: Vec<Keep<'_>> =
            new_counters.iter().map(|(number, key)| Keep::Counter(*number, key)).collect();
        changes.extend(both.changes(before, only));
        changes.push(keep);
        changes.extend(self.rollup(keep));
        let kept = self.store.keep(&changes);
        let mut rules = if only.is_none() { definitions.rules() } else { Vec::new() };
        for owner in &owners {
            rules.extend(definitions.rules_for(owner));
        }
        let new: Vec<Rule> =
            rules.into_iter().filter(|rule| !before.all_count(rule.counter)).collect();
        // Until it is done, all that was counted goes on being counted, so that it can be undone.
        let lasting = definitions.go_on_counting(former);
        let meanwhile = concerned(only, definitions);
        self.publish(definitions, only, &meanwhile);
        let mut since = Vec::new();
        if new.is_empty() {
            // Nothing is counted anew, but what was resolved before settles by the new rules.
            self.epoch.fetch_add(1, Ordering::AcqRel);
        } else {
            let known = |customer: &CustomerId, counter| before.counts(customer, counter);
            let forgotten = self.recount(only, &new, &known).await?;
            if let Some(forgotten) = forgotten {
                for rule in &new {
                    definitions.incomplete_until(rule.counter, forgotten);
                    since.push(Keep::Since(rule.counter, forgotten));
                }
            }
        }
        kept.await?;
        since.extend(after.changes(&both, only));
        self.store.keep(&since).await?;
        definitions.set_dormant(lasting);
        self.publish(definitions, only, &owners);
        Ok(())
    }

    /// A store that sums up meters sums up the one that is kept.
    fn rollup<'a>(&self, keep: Keep<'a>) -> Option<Keep<'a>> {
        match keep {
            Keep::Meter(meter) => Some(Keep::Rollup(meter, self.now())),
            _ => None,
        }
    }

    /// Replaces what is known of a customer, and counts again where that moves their windows. Answers
    /// whether anything was known. When that fails, all is known as before, and what was counted meanwhile
    /// in windows that are not theirs is counted once more as soon as the store works again; until then
    /// those that run are said not to be complete.
    pub(super) async fn describe(
        self: &Arc<Self>,
        id: &CustomerId,
        customer: Option<Customer>,
        windows: Option<Arc<Windows>>,
    ) -> Result<bool, Error> {
        let alone = self.store.alone().await?;
        let described = self.describe_alone(id, customer, windows).await;
        alone.end().await;
        described
    }

    async fn describe_alone(
        self: &Arc<Self>,
        id: &CustomerId,
        customer: Option<Customer>,
        windows: Option<Arc<Windows>>,
    ) -> Result<bool, Error> {
        let mut definitions = self.definitions.lock().await;
        self.store.keep(&[]).await?;
        self.catch_up(&mut definitions).await?;
        let before = self.accounts.get(id);
        let mut former = before.as_deref().cloned().unwrap_or_default();
        let was_there = former.customer.is_some();
        if customer.is_none() && !was_there {
            return Ok(false);
        }
        let mut known = former.clone();
        let moves = known.windows.as_deref().unwrap_or(&self.windows).calendar()
            != windows.as_deref().unwrap_or(&self.windows).calendar();
        known.customer = customer;
        known.windows = windows;
        let keep = described(id, known.customer.as_ref());
        if !moves {
            self.accounts.put(id, known.clone());
            self.store.keep(&[keep]).await?;
            return Ok(was_there);
        }
        // Until they are counted again, none of their counters is known to be whole.
        let kept = self.store.keep(&[Keep::Counted(Some(id), Some(&[])), keep]);
        self.accounts.put(id, known.clone());
        // Calendars may agree on today and not on tomorrow, where early events may wait.
        let now = self.now();
        let moments = [now, now.saturating_add(MOST_AHEAD)];
        let moved: Vec<Period> = Period::ALL
            .into_iter()
            .filter(|period| {
                moments.into_iter().any(|at| {
                    self.window_of(before.as_deref(), *period, at)
                        != self.window_of(Some(&known), *period, at)
                })
            })
            .collect();
        let counted = self.count_moved(&mut definitions, id, &moved).await;
        let Err(error) = (match counted {
            Ok(()) => kept.await,
            failed => failed,
        }) else {
            return Ok(was_there);
        };
        for period in &moved {
            former.since[period.index()] = Some(now);
        }
        self.accounts.put(id, former.clone());
        // As above: after the change itself, or neither.
        let uncounted = Keep::Counted(Some(id), Some(&[]));
        let _ = self.store.keep(&[uncounted, described(id, former.customer.as_ref())]).await;
        if let Some(runtime) = self.store.runtime().or_else(|| self.runtime()) {
            let (inner, id) = (Arc::clone(self), id.clone());
            runtime.spawn(async move { inner.count_later(&id, &moved).await });
        }
        Err(error)
    }

    /// Counts a customer's windows of these periods again, as they are now.
    async fn count_moved(
        &self,
        definitions: &mut MutexGuard<'_, Definitions>,
        id: &CustomerId,
        moved: &[Period],
    ) -> Result<(), Error> {
        let mut rules = definitions.rules_for(id);
        rules.retain(|rule| moved.contains(&rule.period));
        let forgotten = self.recount(Some(id), &rules, &|_, _| false).await?;
        let known = self.accounts.get(id);
        let mut known = known.map(|known| Known::clone(&known)).unwrap_or_default();
        for period in moved {
            known.since[period.index()] = forgotten;
        }
        let counted = known.plans.is_some().then(|| counters(&definitions.rules_for(id)));
        let counted: Option<Vec<u32>> = counted.map(|counters| counters.into_iter().collect());
        let since = known.since_when();
        self.accounts.put(id, known);
        let counted = Keep::Counted(Some(id), counted.as_deref());
        self.store.keep(&[counted, Keep::CustomerSince(id, &since)]).await
    }

    /// Counts windows that are not whole, once the store works again.
    async fn count_later(&self, id: &CustomerId, moved: &[Period]) {
        for _ in 0..ATTEMPTS {
            if self.store.flush().await.is_err() {
                return;
            }
            let Ok(alone) = self.store.alone().await else { continue };
            let mut definitions = self.definitions.lock().await;
            let counted = match self.catch_up(&mut definitions).await {
                Ok(()) => self.count_moved(&mut definitions, id, moved).await,
                failed => failed,
            };
            drop(definitions);
            alone.end().await;
            if counted.is_ok() {
                return;
            }
        }
    }
}

/// Whose plans a change concerns.
fn concerned(only: Option<&CustomerId>, definitions: &Definitions) -> Vec<CustomerId> {
    match only {
        Some(customer) => vec![customer.clone()],
        None => definitions.owners(),
    }
}

fn described<'a>(id: &'a CustomerId, customer: Option<&'a Customer>) -> Keep<'a> {
    match customer {
        Some(customer) => Keep::Customer(customer),
        None => Keep::NoCustomer(id),
    }
}
