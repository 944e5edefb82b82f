//! Taking an event back.

use std::sync::Arc;

use super::Inner;
use super::accounts::Known;
use super::definitions::Definitions;
use super::kept::counters;
use crate::backend::Recorded;
use crate::policy::catalog::Rule;
use crate::policy::{Amount, CustomerId, EventId, RecordedEvent, TransactionKind};
use crate::store::{Alone, Found, Keep, Line, Origin, SettleOperation, SettleOutcome, Store};
use crate::{Error, ErrorKind};

impl<S: Store> Inner<S> {
    /// Records what takes an event back, once: one void at a time.
    pub(super) async fn void(
        &self,
        customer: &CustomerId,
        id: &EventId,
    ) -> Result<Recorded, Error> {
        loop {
            let found = self.store.find(customer, id).await?;
            let found = found.filter(|found| !found.event.reverses).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "no event of the customer is kept under this id")
            })?;
            let seeks = {
                let mut definitions = self.definitions.lock().await;
                !self.sought(&mut definitions, &found.event).await?.is_empty()
            };
            // Others do not change meanwhile what the highest is looked for by.
            let alone = if seeks { self.store.alone().await? } else { Alone::default() };
            let voided = self.void_found(found, seeks).await;
            alone.end().await;
            if let Some(recorded) = voided? {
                return Ok(recorded);
            }
        }
    }

    /// `None` when another process has changed meanwhile what it went by.
    async fn void_found(&self, found: Found, seeks: bool) -> Result<Option<Recorded>, Error> {
        let mut definitions = self.definitions.lock().await;
        if seeks {
            self.catch_up(&mut definitions).await?;
        }
        let customer = &found.event.customer;
        let reversal = found.event.reversal().map_err(|error| Error::invalid("id", error))?;
        let sought = self.sought(&mut definitions, &found.event).await?;
        if self.store.find(customer, &reversal.id).await?.is_some() {
            // Perhaps it failed at the first time.
            self.seek(&mut definitions, customer, &sought).await?;
            return Ok(Some(Recorded { id: reversal.id, recorded: false }));
        }
        // Should the process end before they are found, the next one counts them.
        if !sought.is_empty() {
            self.keep_counted(&mut definitions, customer, &sought).await?;
        }
        let charged = found.charge.filter(|charge| charge.kind == TransactionKind::Debit);
        let epoch = self.epoch.load(std::sync::atomic::Ordering::Acquire);
        let event_type = &reversal.event_type;
        let frame = self.frame_for_event(customer, event_type, &found.event.usage, reversal.at);
        let lines: Vec<_> = frame.lines.iter().filter_map(reversed).collect();
        let mut given = frame.plan.amounts(&found.event.usage);
        for amount in given.iter_mut().flatten() {
            *amount = Amount::ZERO.saturating_sub(*amount);
        }
        let mut usage = reversal.usage.clone();
        let operation = SettleOperation {
            epoch,
            now: self.moment(),
            id: &reversal.id,
            customer,
            origin: Origin::Fresh,
            event_type,
            usage: &mut usage,
            at: reversal.at,
            lines: &lines,
            given: &given,
            charge: charged.as_ref().map(|charge| {
                (self.balance(&charge.balance), Amount::ZERO.saturating_sub(charge.amount))
            }),
            reverses: true,
            mark: None,
        };
        let settled = self.store.record(vec![operation]).await?;
        let Some(settled) = settled.first() else { return Err(SettleOutcome::Full.into()) };
        match settled.outcome {
            SettleOutcome::Stale => {
                self.reload_under(&mut definitions, epoch).await?;
                Ok(None)
            }
            // Another process that shares the books was faster.
            SettleOutcome::Repeat => Ok(Some(Recorded { id: reversal.id, recorded: false })),
            SettleOutcome::Recorded => {
                self.tell(settled, || reversal.clone());
                self.seek(&mut definitions, customer, &sought).await?;
                Ok(Some(Recorded { id: reversal.id, recorded: true }))
            }
            outcome => Err(outcome.into()),
        }
    }

    /// The counters of which an event may be the highest or the latest, in a window that runs and of
    /// which all events are kept.
    async fn sought(
        &self,
        definitions: &mut Definitions,
        event: &RecordedEvent,
    ) -> Result<Vec<Rule>, Error> {
        let known = self.accounts.get(&event.customer);
        let window = |rule: &Rule, at| self.window_of(known.as_deref(), rule.period, at);
        let now = self.now();
        let mut rules = definitions.rules_for(&event.customer);
        rules.retain(|rule| {
            let usage = &event.usage;
            !rule.meter.aggregation().adds()
                && rule.counts(&event.event_type, usage.values(), usage.dimensions()).is_some()
                && window(rule, event.at).end() > now
        });
        if !rules.is_empty() {
            let forgotten = self.store.forgotten(Some(&event.customer)).await?;
            rules.retain(|rule| forgotten < Some(window(rule, now).start()));
        }
        Ok(rules)
    }

    /// Finds the highest and the latest anew.
    async fn seek(
        &self,
        definitions: &mut Definitions,
        customer: &CustomerId,
        sought: &[Rule],
    ) -> Result<(), Error> {
        if sought.is_empty() {
            return Ok(());
        }
        let forgotten = self.recount(Some(customer), sought, &|_, _| false).await?;
        let known = self.accounts.get(customer);
        let mut known = known.map(|known| Known::clone(&known)).unwrap_or_default();
        // Some of their events may have gone meanwhile.
        for rule in sought {
            if forgotten >= Some(self.window_of(Some(&known), rule.period, self.now()).start()) {
                known.since[rule.period.index()] = forgotten;
            }
        }
        let since = known.since_when();
        self.accounts.put(customer, known);
        self.store.keep(&[Keep::CustomerSince(customer, &since)]).await?;
        self.keep_counted(definitions, customer, &[]).await
    }

    /// Keeps which counters count every event of the customer: all but those.
    async fn keep_counted(
        &self,
        definitions: &mut Definitions,
        customer: &CustomerId,
        but: &[Rule],
    ) -> Result<(), Error> {
        let own = self.accounts.get(customer).is_some_and(|known| known.plans.is_some());
        let mut counted = counters(&definitions.rules_for(customer));
        for rule in but {
            counted.remove(&rule.counter);
        }
        let counted: Vec<u32> = counted.into_iter().collect();
        let counted = (own || !but.is_empty()).then_some(&*counted);
        self.store.keep(&[Keep::Counted(Some(customer), counted)]).await
    }
}

/// The line for what takes back what an event gave, without alerts; `None` where that cannot be.
fn reversed(line: &Line) -> Option<Line> {
    line.aggregation.adds().then(|| Line { alerts: Arc::default(), ..line.clone() })
}
