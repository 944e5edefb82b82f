//! What a meter comes to over any range.

use super::Inner;
use super::admin::required;
use crate::backend::{MeterQuery, MeterReading};
use crate::policy::catalog::Rule;
use crate::policy::{Aggregation, Amount, CustomerId, RecordedEvent, Timestamp, Voided};
use crate::store::{RolledUp, Rollup, Rollups, Store, Wanted};
use crate::{Error, ErrorKind};

impl<S: Store> Inner<S> {
    pub(super) async fn query(&self, query: MeterQuery) -> Result<MeterReading, Error> {
        let customer = query.customer.map(required).transpose()?;
        let start = query.start.unwrap_or(Timestamp::MIN);
        let end = query.end.unwrap_or(Timestamp::MAX);
        if start > end {
            return Err(Error::invalid("from", "is after the end of the range"));
        }
        let catalog = self.catalog.load_full();
        let meter = catalog.meter(&query.meter).ok_or_else(|| {
            let message = format!("meter {:?} is not defined", query.meter);
            Error::new(ErrorKind::NotFound, message)
        })?;
        let aggregation = meter.aggregation();
        // A counter of just this window is exact, however old its events.
        if let Some(customer) = &customer {
            let mut rules = self.definitions.lock().await.rules_for(customer);
            rules.retain(|rule| {
                rule.meter.id == query.meter && rule.is_narrowed_to(&query.dimensions)
            });
            for rule in rules {
                let at = query.start.unwrap_or_else(|| self.now());
                if let Some(value) = self.read_window(customer, &rule, at, (start, end)).await? {
                    return Ok(MeterReading { value, aggregation, complete: true });
                }
            }
        }
        let mut count = Count::of(aggregation);
        let rolled_up = if query.dimensions.is_empty() {
            let customer = customer.as_ref();
            let rollups = Rollups { meter, customer, start, end, now: self.now() };
            self.store.rolled_up(rollups).await?
        } else {
            None
        };
        let whole = rolled_up.is_none();
        let RolledUp { rollups, left, complete } = rolled_up.unwrap_or_else(|| RolledUp {
            rollups: Vec::new(),
            left: vec![start..end],
            complete: true,
        });
        for Rollup { amount, at, sequence } in rollups {
            count.add(amount, at, sequence);
        }
        // What takes an event back comes after it, and so is seen before.
        let mut voided = Voided::default();
        let mut visit = |event: &RecordedEvent| {
            let wanted = left.iter().any(|range| range.contains(&event.at))
                && customer.as_ref().is_none_or(|customer| event.customer == *customer)
                && meter.accepts(&event.event_type, event.usage.dimensions())
                && event.usage.dimensions().contain(query.dimensions.pairs());
            let amount = wanted.then(|| meter.reads(event.usage.values())).flatten();
            voided.note(event);
            if voided.has(event) {
                return true;
            }
            if let Some(amount) = amount.and_then(|amount| event.gives(aggregation, amount)) {
                count.add(amount, event.at, event.sequence);
            }
            true
        };
        let mut forgotten = None;
        if whole {
            forgotten = self.store.events(&mut visit).await?;
        } else if !left.is_empty() {
            let wanted = Wanted { customer: customer.as_ref(), ..Wanted::default() };
            self.store.events_before(wanted, &mut visit).await?;
            forgotten = self.store.forgotten(customer.as_ref()).await?;
        }
        if count.overflow {
            let message = "the sum is beyond the largest amount; ask for a shorter range";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let is_kept = |from: Timestamp| forgotten.is_none_or(|forgotten| forgotten < from);
        let complete = complete && left.iter().all(|range| is_kept(range.start));
        Ok(MeterReading { value: count.value, aggregation, complete })
    }

    /// A counter, if it is one of just this range, of now, and whole.
    async fn read_window(
        &self,
        customer: &CustomerId,
        rule: &Rule,
        at: Timestamp,
        range: (Timestamp, Timestamp),
    ) -> Result<Option<Amount>, Error> {
        let known = self.accounts.get(customer);
        let window = self.window_of(known.as_deref(), rule.period, at);
        let since = {
            let catalog = self.catalog.load();
            let plan = Self::plan(known.as_deref(), &catalog, None);
            let line = plan.lines.iter().find(|line| line.counter == rule.counter);
            line.and_then(|line| line.since)
        };
        let moved = known.as_deref().and_then(|known| known.since[rule.period.index()]);
        let complete = since.max(moved).is_none_or(|since| window.start() > since);
        let runs = window.end() > self.now() && window.start() <= self.now();
        if !(complete && runs && (window.start(), window.end()) == range) {
            return Ok(None);
        }
        self.store.read(customer, rule.counter, window).await.map(Some)
    }
}

/// What was counted so far, in any order.
struct Count {
    aggregation: Aggregation,
    value: Amount,
    /// When the newest was, and its place in the order of arrival.
    newest: Option<(Timestamp, u64)>,
    overflow: bool,
}

impl Count {
    fn of(aggregation: Aggregation) -> Self {
        Self { aggregation, value: Amount::ZERO, newest: None, overflow: false }
    }

    fn add(&mut self, amount: Amount, at: Timestamp, sequence: u64) {
        let is_newest = self.newest.is_none_or(|newest| (at, sequence) > newest);
        match self.aggregation {
            Aggregation::Sum | Aggregation::Count => {
                self.overflow |= self.value.checked_add(amount).is_none();
                self.value = self.value.saturating_add(amount);
            }
            Aggregation::Max if self.newest.is_some() => self.value = self.value.max(amount),
            Aggregation::Latest if !is_newest => {}
            Aggregation::Max | Aggregation::Latest => self.value = amount,
        }
        if is_newest {
            self.newest = Some((at, sequence));
        }
    }
}
