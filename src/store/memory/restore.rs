//! Filling books from where they were kept.

use std::sync::Arc;

use super::account::{Cell, FOREVER, Tag, Terms, minute_now};
use super::archive::{Archive, CounterState, WindowEnd};
use super::shard::Shard;
use super::{Memory, hash, locked};
use crate::policy::{Amount, CustomerId, Timestamp};
use crate::store::BalanceRef;
use compact_str::CompactString;

impl Memory {
    /// Tells `archive` of every change from now on, instead of keeping a journal.
    pub(crate) fn archived(self, archive: Arc<dyn Archive>) -> Self {
        Self { archive: Some(archive), ..self }.keep_events(0)
    }

    pub(crate) fn restore_counter(
        &self,
        customer: &CustomerId,
        state: &CounterState,
        now: Timestamp,
    ) {
        let tag = Tag::counter(state.counter);
        let cell = Cell { tag, end: state.end.0, value: state.value };
        let time =
            state.latest.map(|time| Cell { tag: tag.time(), value: time.as_nanos(), ..cell });
        let is_ahead = Timestamp::from_seconds(state.start) > now;
        self.restore(customer, |shard, slot| {
            shard.expect(state.end.0);
            let Some(account) = shard.customers.get_mut(slot) else { return };
            let cells = match is_ahead {
                true => &mut account.rare.get_or_insert_default().ahead,
                false => &mut account.cells,
            };
            cells.extend([Some(cell), time].into_iter().flatten());
        });
    }

    /// A balance: its terms where it is the customer's own.
    pub(crate) fn restore_balance(
        &self,
        customer: &CustomerId,
        name: &str,
        current: Amount,
        terms: Option<(CompactString, Amount)>,
    ) {
        let balance = BalanceRef { name, default: None };
        let number = self.numbered(balance).unwrap_or_else(|| self.name(balance)).number;
        let cell = Cell { tag: Tag::balance(number), end: FOREVER, value: current.as_millionths() };
        self.restore(customer, |shard, slot| {
            let Some(account) = shard.customers.get_mut(slot) else { return };
            account.cells.push(cell);
            if let Some((unit, minimum)) = terms {
                account.rare.get_or_insert_default().terms.push(Terms { number, unit, minimum });
            }
        });
    }

    /// An alert that was told.
    pub(crate) fn restore_alert(
        &self,
        customer: &CustomerId,
        limit: &str,
        end: WindowEnd,
        percent: u8,
    ) {
        self.restore(customer, |shard, slot| {
            let Some(account) = shard.customers.get_mut(slot) else { return };
            let alerts = &mut account.rare.get_or_insert_default().alerts;
            match alerts.iter_mut().find(|(known, at, _)| known == limit && *at == end.0) {
                Some((.., told)) => *told |= 1 << percent,
                None => alerts.push((CompactString::new(limit), end.0, 1 << percent)),
            }
        });
    }

    /// Books that were kept have their place, however many customers there may be.
    fn restore(&self, customer: &CustomerId, put: impl FnOnce(&mut Shard, u32)) {
        let hash = hash(customer);
        let around = super::Around { most: usize::MAX, ..self.around(hash) };
        let mut shard = locked(self.shard(hash));
        let known = shard.customers.find(around.hash, customer);
        if let Some(slot) = known.or_else(|| shard.admit(customer, around)) {
            put(&mut shard, slot);
        }
    }
}

impl WindowEnd {
    /// Whether a window that ends then has not ended by `now`.
    pub(crate) fn is_after(self, now: Timestamp) -> bool {
        self.0 > minute_now(now)
    }
}
