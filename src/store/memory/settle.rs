//! The settlement: counts a use once, charges it and keeps its event.

use std::mem;

use compact_str::CompactString;

use super::account::{Account, FOREVER, Tag, is_ahead, minute_now};
use super::archive::{Counted, CounterState, counters, ends_of};
use super::balance::{Numbered, take};
use super::ids::Fate;
use super::journal::Charged;
use super::locked;
use super::shard::{Around, Shard};
use crate::policy::{Aggregation, Amount, CustomerId, EventId, RecordedEvent, Timestamp};
use crate::store::{Line, Moment, Origin, SettleOperation, SettleOutcome, Settled};

impl Shard {
    /// Counts a use, and takes its usage.
    pub(super) fn settle(
        &mut self,
        operation: &mut SettleOperation<'_>,
        charge: Option<(Numbered<'_>, Amount)>,
        around: Around<'_>,
    ) -> Settled {
        let mut settled =
            Settled { outcome: SettleOutcome::Recorded, saturated: false, alerts: Vec::new() };
        if operation.epoch < self.epoch {
            settled.outcome = SettleOutcome::Stale;
            return settled;
        }
        let is_new = match self.is_above_its_mark(operation, around) {
            Ok(is_new) => is_new,
            Err(outcome) => {
                settled.outcome = outcome;
                return settled;
            }
        };
        let (slot, remember) = match self.claim_id(operation, is_new, around) {
            Ok(found) => found,
            Err(outcome) => {
                if outcome == SettleOutcome::Repeat {
                    self.pass(operation, around);
                }
                settled.outcome = outcome;
                return settled;
            }
        };
        let mark = operation.mark.map(|mark| (mark.producer, mark.sequence));
        if let Some((producer, sequence)) = mark {
            self.marks.set(operation.customer, producer, sequence);
        }
        if remember {
            self.finished.remember(
                operation.customer,
                operation.id,
                Fate::Finished,
                Some(operation.at),
                operation.now,
            );
        }
        let Some(account) = self.customers.get_mut(slot) else {
            settled.outcome = SettleOutcome::Full;
            return settled;
        };
        let now = minute_now(operation.now.wall());
        let mut hint = 0;
        let mut first_end = FOREVER;
        // The counter's value, if the event moved it: for the lines that share it, too.
        let mut after = None;
        for line in operation.lines {
            let Some(amount) = line.own(operation.given) else { continue };
            if !line.shares {
                first_end = first_end.min(line.end);
                let tag = Tag::counter(line.counter);
                let counted = match account.cells.get_mut(hint) {
                    // Nearly always, the counter is where the one before lets expect it.
                    Some(cell) if cell.is(tag, line.end) && line.aggregation.adds() => {
                        hint += 1;
                        Some(cell.add(line.aggregation, amount))
                    }
                    _ => {
                        let wall = operation.now.wall();
                        count(account, (line, amount), operation.at, wall, &mut hint)
                    }
                };
                settled.saturated |= counted.is_some_and(|(_, saturated)| saturated);
                after = counted.map(|(value, _)| value);
            }
            if let Some(after) = after.filter(|_| !line.alerts.is_empty()) {
                alert(account, line, after, &mut settled);
            }
        }
        let charge = charge.map(|(numbered, amount)| {
            let (before, balance_after) = take(account, numbered, amount, now, hint);
            settled.saturated |= before.checked_sub(amount).is_none();
            Charged { balance: numbered.name(), amount, balance_after, sequence: 0 }
        });
        let event = RecordedEvent {
            id: operation.id.clone(),
            customer: operation.customer.clone(),
            event_type: CompactString::new(operation.event_type),
            usage: mem::take(operation.usage),
            at: operation.at,
            reverses: operation.reverses,
            sequence: 0,
        };
        if let Some(archive) = around.archive {
            let transaction = charge.map(|charge| charge.transaction(&event));
            let counters = counters(account, operation.lines, operation.given);
            let alerts = ends_of(&settled.alerts, operation.lines);
            archive.counted(Counted { event, counters, transaction, alerts, mark });
        } else {
            locked(around.journal).record(event, charge);
        }
        account.tidy(now, &mut self.spare);
        if account.is_empty() {
            self.dismiss(slot, around);
        }
        self.expect(first_end);
        // Books that only record have to drop what ended, too.
        self.walk(now, around);
        settled
    }

    /// Why a settlement without a hold would not be counted, if the id does not say it is a repeat.
    pub(super) fn would_refuse(
        &self,
        operation: &SettleOperation<'_>,
        around: Around<'_>,
    ) -> Option<SettleOutcome> {
        if operation.epoch < self.epoch {
            return Some(SettleOutcome::Stale);
        }
        if operation.origin != Origin::Given {
            return None;
        }
        match self.is_finished(operation.customer, operation.id, around) {
            None => Some(SettleOutcome::Unavailable),
            Some(false) if self.may_have_forgotten(operation, around) => {
                Some(SettleOutcome::TooOld)
            }
            Some(_) => None,
        }
    }

    /// So that no id is let go while so many are recorded together: one of them could then be too old.
    pub(super) fn make_room(&mut self, more: usize, now: Moment<'_>) {
        self.finished.make_room(more, now);
    }

    /// Counts kept events once more, on a counter that was emptied.
    pub(super) fn recount(
        &mut self,
        customer: &CustomerId,
        (line, amount): (&Line, Amount),
        at: Timestamp,
        now: Moment<'_>,
        around: Around<'_>,
    ) -> Option<CounterState> {
        let account = self.account(customer, around)?;
        count(account, (line, amount), at, now.wall(), &mut 0);
        let state = counters(account, std::slice::from_ref(line), &[Some(amount)]).pop();
        self.expect(line.end);
        state
    }

    /// Whether a settlement is known under the id, here or where it is archived; `None` when that
    /// cannot be told.
    pub(super) fn is_finished(
        &self,
        customer: &CustomerId,
        id: &EventId,
        around: Around<'_>,
    ) -> Option<bool> {
        match around.archive {
            _ if self.finished.knows(customer, id, Fate::Finished) => Some(true),
            Some(archive) => archive.is_settled(customer, id),
            // Those that are made are not remembered when they are settled.
            None => Some(id.made_at().is_some() && locked(around.journal).has_event(customer, id)),
        }
    }

    /// Whether a repeat might not be told from a new event. An archive forgets no id before its
    /// event.
    fn may_have_forgotten(&self, operation: &SettleOperation<'_>, around: Around<'_>) -> bool {
        match around.archive {
            Some(archive) => archive.may_have_forgotten(operation.at),
            None => self.finished.may_have_forgotten(operation.at, operation.now.wall()),
        }
    }

    /// Whether the mark of its queue says that a settlement is new; `false` when it says nothing.
    fn is_above_its_mark(
        &self,
        operation: &SettleOperation<'_>,
        around: Around<'_>,
    ) -> Result<bool, SettleOutcome> {
        let Some(mark) = operation.mark else { return Ok(false) };
        let known = match (self.marks.get(operation.customer, mark.producer), around.archive) {
            (Some(known), _) => Some(known),
            (None, Some(archive)) => {
                let kept = archive.mark(operation.customer, mark.producer);
                kept.ok_or(SettleOutcome::Unavailable)?
            }
            (None, None) if self.marks.forgot() => return Ok(false),
            (None, None) => None,
        };
        if known.is_some_and(|known| mark.sequence <= known) {
            return Err(SettleOutcome::Repeat);
        }
        if mark.previous > known {
            return Err(SettleOutcome::Behind);
        }
        Ok(true)
    }

    /// Moves the mark past a settlement that was counted before.
    fn pass(&mut self, operation: &SettleOperation<'_>, around: Around<'_>) {
        let Some(mark) = operation.mark else { return };
        self.marks.set(operation.customer, mark.producer, mark.sequence);
        if let Some(archive) = around.archive {
            archive.marked(operation.customer, mark.producer, mark.sequence);
        }
    }

    /// Decides whether a settlement counts, and takes its hold. Says where its customer is, and
    /// whether the id is to be remembered. One that is known to be new needs no hold.
    fn claim_id(
        &mut self,
        operation: &SettleOperation<'_>,
        is_new: bool,
        around: Around<'_>,
    ) -> Result<(u32, bool), SettleOutcome> {
        let (customer, id) = (operation.customer, operation.id);
        let hold = match operation.origin {
            Origin::Fresh | Origin::Given => None,
            Origin::Held(place) => self.end_hold(customer, id, place, None, around),
            Origin::Unsure(attempt) => self.end_hold(customer, id, None, Some(attempt), around),
        };
        if let Some((slot, remember)) = hold {
            // Of an id that a caller gave, an earlier attempt may have been settled after its own
            // hold had expired.
            if remember && self.is_finished(customer, id, around) == Some(true) {
                around.released(customer, id);
                self.close(slot, operation.now, around);
                return Err(SettleOutcome::Repeat);
            }
            let unsure = matches!(operation.origin, Origin::Unsure(_));
            return Ok((slot, remember || unsure));
        }
        if operation.origin != Origin::Fresh {
            match self.is_finished(customer, id, around) {
                None => return Err(SettleOutcome::Unavailable),
                Some(true) => return Err(SettleOutcome::Repeat),
                Some(false) => {}
            }
        }
        match operation.origin {
            Origin::Fresh => {}
            Origin::Held(_) if !is_new && !self.expired.knows(customer, id, Fate::Expired) => {
                let too_old = self.expired.may_have_forgotten(operation.at, operation.now.wall());
                return Err(if too_old { SettleOutcome::TooOld } else { SettleOutcome::Repeat });
            }
            Origin::Held(_) | Origin::Unsure(_) if !around.reserve() => {
                return Err(SettleOutcome::Unavailable);
            }
            Origin::Held(_) => {
                self.expired.take(customer, id, Fate::Expired);
            }
            Origin::Unsure(_) => {}
            Origin::Given => {
                if self.may_have_forgotten(operation, around) {
                    return Err(SettleOutcome::TooOld);
                }
            }
        }
        let slot = self.customers.find(around.hash, customer);
        if let (Origin::Given, Some(slot)) = (operation.origin, slot) {
            self.expect_repeat(slot, id);
        }
        // Who had a hold was admitted: the settlement has its place, whoever came meanwhile.
        let most = match operation.origin {
            Origin::Held(_) => usize::MAX,
            _ => around.most,
        };
        match slot.or_else(|| self.admit(customer, Around { most, ..around })) {
            // The id of an expired hold may be a caller's, who may send it again.
            Some(slot) => Ok((slot, operation.origin != Origin::Fresh)),
            None => {
                if matches!(operation.origin, Origin::Unsure(_)) {
                    around.released(customer, id);
                }
                Err(SettleOutcome::Full)
            }
        }
    }

    /// A caller records a use under the id of a request that runs: the id, though made here, comes
    /// twice, and the request's own settlement is the repeat.
    fn expect_repeat(&mut self, slot: u32, id: &EventId) {
        let open = self.customers.get_mut(slot).and_then(|account| account.open.as_mut());
        let holds = open.into_iter().flat_map(|open| open.holds.iter_mut().flatten());
        holds.filter(|hold| hold.id == *id).for_each(|hold| hold.remember = true);
    }
}

/// Moves one counter. Answers its value, and whether it did not fit; `None` for a window that has
/// ended and of which nothing is kept, as nobody will ask for it again.
fn count(
    account: &mut Account,
    (line, amount): (&Line, Amount),
    at: Timestamp,
    wall: Timestamp,
    hint: &mut usize,
) -> Option<(Amount, bool)> {
    let (now, end) = (minute_now(wall), line.end);
    let tag = Tag::counter(line.counter);
    if is_ahead(&line.window, wall) {
        if line.aggregation == Aggregation::Latest {
            let time = account.claim_ahead(tag.time(), end);
            if !time.tag.is_untouched() && time.value > at.as_nanos() {
                return None;
            }
            time.tag = time.tag.touched();
            time.value = at.as_nanos();
        }
        return Some(account.claim_ahead(tag, end).add(line.aggregation, amount));
    }
    if end <= now && account.place(tag, end, *hint).is_none() {
        return None;
    }
    let place = account.claim(tag, end, now, 0, *hint);
    *hint = place + 1;
    if line.aggregation == Aggregation::Latest {
        let time = account.claim(tag.time(), end, now, i64::MIN, *hint);
        *hint = time + 1;
        let time = &mut account.cells[time];
        if !time.tag.is_untouched() && time.value > at.as_nanos() {
            return None;
        }
        time.tag = time.tag.touched();
        time.value = at.as_nanos();
    }
    Some(account.cells[place].add(line.aggregation, amount))
}

fn alert(account: &mut Account, line: &Line, used: Amount, settled: &mut Settled) {
    if line.alerts.first().is_none_or(|(_, due)| used < *due) {
        return;
    }
    let end = line.end;
    let alerts = &mut account.rare.get_or_insert_default().alerts;
    let told = alerts.iter().position(|(limit, at, _)| *at == end && *limit == line.limit);
    let told = told.unwrap_or_else(|| {
        alerts.push((line.limit.clone(), end, 0));
        alerts.len() - 1
    });
    let told = &mut alerts[told].2;
    for (percent, due) in &*line.alerts {
        if used >= *due && *told & (1 << percent) == 0 {
            *told |= 1 << percent;
            settled.alerts.push((line.limit.clone(), *percent, used));
        }
    }
}
