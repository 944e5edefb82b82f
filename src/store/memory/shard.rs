//! The atomic steps, on the customers of one shard, under its lock.

use std::mem;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use compact_str::CompactString;
use foldhash::HashSet;

use super::account::{
    Account, Cell, FOREVER, Held, Hold, Spare, Spot, Tag, Terms, is_ahead, minute_now,
};
use super::archive::{Archive, Counted, CounterState, counters, ends_of};
use super::customers::Customers;
use super::ids::{AHEAD, Fate, HORIZON, Ids, LATE};
use super::journal::Journal;
use super::marks::Marks;
use super::soonest::Soonest;
use super::{full, locked};
use crate::Error;
use crate::policy::{
    Aggregation, Amount, Balance, CustomerId, EventId, NewBalance, RecordedEvent, Timestamp,
    Transaction, TransactionKind, Verdict, judge_balance, judge_limit,
};
use crate::store::{
    BalanceRef, CheckOperation, Checked, HoldKey, Judged, JudgedBalance, Line, Moment, Origin,
    Outcome, Place, SettleOperation, SettleOutcome, Settled,
};

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) epoch: u64,
    pub(super) customers: Customers,
    /// Ids given by callers that are settled, and checks whose release overtook them.
    finished: Ids,
    /// Holds that expired and may still be settled.
    expired: Ids,
    marks: Marks,
    expiring: Soonest<(Duration, u32, EventId)>,
    /// How many of those there may be before it is looked which have ended already.
    crowded: usize,
    /// Numbers holds.
    serial: u16,
    spare: Spare,
    /// References that were credited, for ever.
    pub(super) references: HashSet<(CustomerId, u32, Box<str>)>,
    /// Where the walk that drops ended windows stands, and the next minute at which one is due.
    walk: Walk,
}

#[derive(Debug)]
struct Walk {
    slot: u32,
    due: i32,
    next: i32,
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
    fn reserve(&self) -> bool {
        self.archive.is_none_or(|archive| archive.reserve())
    }

    fn released(&self, customer: &CustomerId, id: &EventId) {
        if let Some(archive) = self.archive {
            archive.released(customer, id);
        }
    }
}

/// A balance's number, and its terms where the customer has none of their own.
#[derive(Clone, Copy)]
pub(super) struct Numbered<'a> {
    pub(super) number: u32,
    pub(super) balance: BalanceRef<'a>,
}

impl Numbered<'_> {
    fn name(&self) -> CompactString {
        let default = self.balance.default.map(|terms| terms.name.clone());
        default.unwrap_or_else(|| CompactString::new(self.balance.name))
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
    /// Judges, and places the hold.
    pub(super) fn check(
        &mut self,
        operation: CheckOperation<'_>,
        numbered: Option<Numbered<'_>>,
        around: Around<'_>,
    ) -> Result<Checked, Error> {
        let mut checked =
            Checked { outcome: Outcome::Stale, place: None, judged: Vec::new(), balance: None };
        if operation.epoch < self.epoch {
            return Ok(checked);
        }
        self.expire(operation.now, around);
        let now = minute_now(operation.now.wall());
        self.walk(now, around);
        let slot = self.customers.find(around.hash, operation.customer);
        if let Some(outcome) = self.met_before(&operation, slot, around)? {
            checked.outcome = outcome;
            return Ok(checked);
        }

        let account = slot.and_then(|slot| self.customers.get(slot));
        checked.outcome = Outcome::Allowed;
        let mut looking = Looking::at(account);
        for (line, judged) in operation.lines.iter().zip(&mut *operation.judged) {
            *judged = looking.judge(line, line.own(operation.asked));
            if judged.verdict.refuses() {
                checked.outcome = Outcome::Refused;
            }
        }
        let Looking { next: hint, amounts, finds_all, .. } = looking;
        if let Some(ask) = operation.balance {
            let balance = numbered.and_then(|numbered| read_balance(account, numbered, hint));
            let verdict = balance.as_ref().map_or(Verdict::Exceeded, |balance| {
                let above = balance.current.saturating_sub(balance.minimum);
                judge_balance(above, balance.held, ask.asked)
            });
            if verdict.refuses() {
                checked.outcome = Outcome::Refused;
            }
            checked.balance = Some(JudgedBalance { verdict, balance });
        }
        let Some(terms) = operation.hold.filter(|_| checked.outcome == Outcome::Allowed) else {
            return Ok(checked);
        };

        let slot = match slot {
            Some(slot) => slot,
            None => self.admit(operation.customer, around).ok_or_else(full)?,
        };
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let account = self.customers.get_mut(slot).ok_or_else(full)?;
        let mut hold = Hold {
            id: operation.id.clone(),
            serial,
            attempt: operation.attempt,
            amounts,
            expires: terms
                .lifetime
                .map(|lifetime| operation.now.monotonic().saturating_add(lifetime)),
            remember: terms.remember,
        };
        if !finds_all {
            hold.amounts = claim_cells(account, &operation, now);
        }
        for (line, judged) in operation.lines.iter().zip(&mut *operation.judged) {
            judged.held = judged.held.saturating_add(line.holds(line.own(operation.asked)));
        }
        if let (Some(ask), Some(numbered), Some(judged)) =
            (operation.balance, numbered, &mut checked.balance)
            && let (Some(asked), Some(balance)) =
                (ask.asked.filter(|asked| asked.is_positive()), &mut judged.balance)
        {
            let fresh = balance.current.as_millionths();
            let place = account.claim(Tag::balance(numbered.number), FOREVER, now, fresh, hint);
            balance.held = balance.held.saturating_add(asked);
            hold.amounts.push(place as u32, asked);
        }
        let expires = hold.expires;
        let at = account.put_hold(hold, &mut self.spare);
        if let Some(expires) = expires {
            self.expire_at(expires, slot, operation.id);
        }
        if let Some(archive) = around.archive {
            archive.held(&operation);
        }
        checked.place = Some(place_of(slot, at, serial));
        Ok(checked)
    }

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
        let transaction = charge.map(|(numbered, amount)| {
            let (before, after) = take(account, numbered, amount, now, hint);
            settled.saturated |= before.checked_sub(amount).is_none();
            Transaction {
                id: operation.id.clone(),
                customer: operation.customer.clone(),
                balance: numbered.name(),
                kind: match amount.is_negative() {
                    true => TransactionKind::Credit,
                    false => TransactionKind::Debit,
                },
                amount: amount.max(Amount::ZERO.saturating_sub(amount)),
                balance_after: after,
                description: None,
                reference: None,
                at: operation.at,
                sequence: 0,
            }
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
            let counters = counters(account, operation.lines, operation.given);
            let alerts = ends_of(&settled.alerts, operation.lines);
            archive.counted(Counted { event, counters, transaction, alerts, mark });
        } else {
            let mut journal = locked(around.journal);
            journal.record(event);
            if let Some(transaction) = transaction {
                journal.transact(transaction, false);
            }
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
    fn is_finished(&self, customer: &CustomerId, id: &EventId, around: Around<'_>) -> Option<bool> {
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

    pub(super) fn release(&mut self, key: HoldKey<'_>, now: Moment<'_>, around: Around<'_>) {
        // No caller gave the id, so nobody sends another check under it.
        let is_only = key.attempt.is_none_or(|attempt| attempt == 0);
        match self.end_hold(key.customer, key.id, key.place, key.attempt, around) {
            Some((slot, remember)) => {
                around.released(key.customer, key.id);
                self.close(slot, now, around);
                // The check may be sent again, and arrive after this.
                if remember {
                    let fate = Fate::Released(key.attempt.unwrap_or_default());
                    self.finished.remember(key.customer, key.id, fate, None, now);
                }
            }
            // It had a hold, which has ended already. Of an id that a caller gave, one that expired may
            // be another check's, which is still to be settled; and the check may arrive again.
            _ if is_only && self.expired.take(key.customer, key.id, Fate::Expired) => {}
            _ if is_only && key.place.is_some()
                || self.is_finished(key.customer, key.id, around) == Some(true) => {}
            _ => {
                let fate = Fate::Released(key.attempt.unwrap_or_default());
                self.finished.remember(key.customer, key.id, fate, None, now);
            }
        }
    }

    pub(super) fn renew(
        &mut self,
        key: HoldKey<'_>,
        until: Duration,
        now: Moment<'_>,
        around: Around<'_>,
    ) -> bool {
        self.expire(now, around);
        let slot = self.customers.find(around.hash, key.customer);
        let open = slot.and_then(|slot| self.customers.get_mut(slot)?.open.as_mut());
        let hold =
            open.and_then(|open| open.holds.iter_mut().flatten().find(|hold| hold.id == *key.id));
        let (Some(slot), Some(hold)) = (slot, hold) else {
            return false;
        };
        hold.expires = Some(until);
        self.expire_at(until, slot, key.id);
        true
    }

    /// Drops every ended window and expired hold at once.
    pub(super) fn sweep(&mut self, now: Moment<'_>, around: Around<'_>) {
        self.expire(now, around);
        for slot in 0..self.customers.reach() {
            self.tidy(slot, minute_now(now.wall()), around);
        }
        self.customers.shrink();
    }

    pub(super) fn open_holds(&self) -> usize {
        (0..self.customers.reach())
            .filter_map(|slot| self.customers.get(slot)?.open.as_ref())
            .map(|open| open.live)
            .sum()
    }

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

    fn met_before(
        &self,
        operation: &CheckOperation<'_>,
        slot: Option<u32>,
        around: Around<'_>,
    ) -> Result<Option<Outcome>, Error> {
        let (customer, id) = (operation.customer, operation.id);
        if self.finished.knows(customer, id, Fate::Finished) {
            return Ok(Some(Outcome::Finished));
        }
        if self.finished.knows(customer, id, Fate::Released(operation.attempt)) {
            return Ok(Some(Outcome::Released));
        }
        // Only an id that a caller gave can come twice.
        if !operation.hold.is_some_and(|hold| hold.remember) {
            return Ok(None);
        }
        match self.is_finished(operation.customer, operation.id, around) {
            None => return Err(SettleOutcome::Unavailable.into()),
            Some(true) => return Ok(Some(Outcome::Finished)),
            Some(false) => {}
        }
        let open = slot.and_then(|slot| self.customers.get(slot)?.open.as_ref());
        let mut holds = open.iter().flat_map(|open| open.holds.iter().flatten());
        Ok(holds.any(|hold| hold.id == *id).then_some(Outcome::Open))
    }

    /// Ends a hold. Says where its customer is, and whether the id is to be remembered.
    #[inline]
    fn end_hold(
        &mut self,
        customer: &CustomerId,
        id: &EventId,
        place: Option<Place>,
        attempt: Option<u64>,
        around: Around<'_>,
    ) -> Option<(u32, bool)> {
        let (slot, spot) = match place {
            Some(place) => (slot_of(place), Some(spot_of(place))),
            None => (self.customers.find(around.hash, customer)?, None),
        };
        // Where a hold was that has expired, another customer may be by now, with the same id.
        let account = self.customers.get_mut(slot).filter(|account| account.id == *customer)?;
        Some((slot, account.end_hold(id, spot, attempt)?))
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

    pub(super) fn admit(&mut self, customer: &CustomerId, around: Around<'_>) -> Option<u32> {
        if around.count.fetch_add(1, Ordering::Relaxed) >= around.most {
            around.count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(self.customers.insert(around.hash, Account::new(customer.clone())))
    }

    fn dismiss(&mut self, slot: u32, around: Around<'_>) {
        self.customers.remove(around.hash, slot);
        around.count.fetch_sub(1, Ordering::Relaxed);
    }

    fn close(&mut self, slot: u32, now: Moment<'_>, around: Around<'_>) {
        let Some(account) = self.customers.get_mut(slot) else { return };
        account.tidy(minute_now(now.wall()), &mut self.spare);
        if account.is_empty() {
            self.dismiss(slot, around);
        }
    }

    /// Notes when a hold will expire. Most holds end long before, and some never expire.
    fn expire_at(&mut self, due: Duration, slot: u32, id: &EventId) {
        const FEW: usize = 64;
        if self.expiring.len() >= self.crowded {
            let customers = &self.customers;
            self.expiring.retain(|(due, slot, id)| {
                let open = customers.get(*slot).and_then(|account| account.open.as_ref());
                let mut holds = open.into_iter().flat_map(|open| open.holds.iter().flatten());
                holds.any(|hold| hold.id == *id && hold.expires == Some(*due))
            });
            self.crowded = FEW.max(2 * self.expiring.len());
        }
        self.expiring.push((due, slot, id.clone()));
    }

    /// Ends the holds that nobody renewed. They cost nothing; a settlement that comes later counts.
    pub(super) fn expire(&mut self, now: Moment<'_>, around: Around<'_>) {
        if !self.expiring.is_empty() {
            self.expire_until(now.monotonic(), now, around);
        }
    }

    fn expire_until(&mut self, until: Duration, now: Moment<'_>, around: Around<'_>) {
        while let Some((due, ..)) = self.expiring.peek()
            && *due <= until
        {
            let Some((due, slot, id)) = self.expiring.pop() else { return };
            let Some(account) = self.customers.get_mut(slot) else { continue };
            let open = account.open.as_ref();
            let still_due = open.is_some_and(|open| {
                let hold = open.holds.iter().flatten().find(|hold| hold.id == id);
                hold.is_some_and(|hold| hold.expires.is_some_and(|expires| expires <= due))
            });
            if still_due && account.end_hold(&id, None, None).is_some() {
                let customer = account.id.clone();
                around.released(&customer, &id);
                // It was checked before that, by whatever clock.
                let checked = now.wall().saturating_add(AHEAD);
                self.expired.remember(&customer, &id, Fate::Expired, Some(checked), now);
                let hash = super::hash_in_shard(&customer);
                self.close(slot, now, Around { hash, ..around });
            }
        }
    }

    /// Drops ended windows of a few customers, once some are due.
    #[inline]
    fn walk(&mut self, now: i32, around: Around<'_>) {
        if now >= self.walk.due {
            self.walk_on(now, around);
        }
    }

    /// There is a window that ends then.
    pub(super) fn expect(&mut self, end: i32) {
        self.walk.due = self.walk.due.min(end);
        self.walk.next = self.walk.next.min(end);
    }

    fn walk_on(&mut self, now: i32, around: Around<'_>) {
        const STEP: u32 = 8;
        if self.walk.slot == 0 {
            self.walk.next = FOREVER;
        }
        let until = (self.walk.slot + STEP).min(self.customers.reach());
        for slot in self.walk.slot..until {
            let first_end = self.tidy(slot, now, around);
            self.walk.next = self.walk.next.min(first_end);
        }
        self.walk.slot = until;
        if until >= self.customers.reach() {
            self.walk = Walk { slot: 0, due: self.walk.next, next: FOREVER };
            self.customers.shrink();
        }
    }

    fn tidy(&mut self, slot: u32, now: i32, around: Around<'_>) -> i32 {
        let Some(account) = self.customers.get_mut(slot) else { return FOREVER };
        account.tidy(now, &mut self.spare);
        if account.is_empty() {
            let hash = super::hash_in_shard(&account.id);
            self.dismiss(slot, Around { hash, ..around });
            return FOREVER;
        }
        account.first_end()
    }
}

/// Looks at what is kept of a customer in the order of the lines, which is mostly that of the cells.
struct Looking<'a> {
    account: Option<&'a Account>,
    cells: &'a [Cell],
    held: &'a [Amount],
    /// Where the next counter should be.
    next: usize,
    /// What a hold sets aside on the counters that there are.
    amounts: Held,
    /// Whether it has met them all so far.
    finds_all: bool,
}

impl<'a> Looking<'a> {
    fn at(account: Option<&'a Account>) -> Self {
        let cells = account.map_or(&[][..], |account| &account.cells);
        let held = account.map_or(&[][..], Account::all_held);
        Self { account, cells, held, next: 0, amounts: Held::default(), finds_all: true }
    }

    /// Judges one limit.
    #[inline]
    fn judge(&mut self, line: &Line, asked: Option<Amount>) -> Judged {
        let tag = Tag::counter(line.counter);
        // A line that shares the counter of the one before finds it just before.
        let at = self.next.saturating_sub(usize::from(line.shares));
        let (place, cell) = match self.cells.get(at) {
            Some(cell) if cell.is(tag, line.end) => (at, cell),
            _ => match self.cells.iter().position(|cell| cell.is(tag, line.end)) {
                Some(place) => (place, &self.cells[place]),
                None => return self.judge_new(line, asked),
            },
        };
        self.next = place + 1;
        let used = Amount::from_millionths(cell.value);
        let held = self.held.get(place).copied().unwrap_or(Amount::ZERO);
        let holds = line.holds(asked);
        if holds != Amount::ZERO && !line.shares {
            self.amounts.push(place as u32, holds);
        }
        let verdict = judge_limit(line.aggregation, line.cap, used, held, asked);
        Judged { verdict, used, held }
    }

    /// Judges a limit on a counter of which nothing is kept in this window, or only ahead of it.
    #[cold]
    fn judge_new(&mut self, line: &Line, asked: Option<Amount>) -> Judged {
        self.finds_all = false;
        let tag = Tag::counter(line.counter);
        let ahead = self.account.and_then(|account| account.value(tag, line.end));
        let (used, held) = (ahead.unwrap_or(Amount::ZERO), Amount::ZERO);
        let verdict = judge_limit(line.aggregation, line.cap, used, held, asked);
        Judged { verdict, used, held }
    }
}

/// Makes the cells that a hold needs. Answers what it sets aside on all of them.
#[cold]
fn claim_cells(account: &mut Account, operation: &CheckOperation<'_>, now: i32) -> Held {
    if account.cells.is_empty() {
        let balance = usize::from(operation.balance.is_some());
        account.cells.reserve_exact(operation.lines.len() + balance);
    }
    let mut amounts = Held::default();
    let mut hint = 0;
    for line in operation.lines {
        let amount = line.holds(line.own(operation.asked));
        if amount == Amount::ZERO || line.shares {
            continue;
        }
        let place = account.claim(Tag::counter(line.counter), line.end, now, 0, hint);
        hint = place + 1;
        amounts.push(place as u32, amount);
    }
    amounts
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

impl Cell {
    #[inline]
    pub(super) fn add(&mut self, aggregation: Aggregation, amount: Amount) -> (Amount, bool) {
        let before = Amount::from_millionths(self.value);
        let first = self.tag.is_untouched();
        self.tag = self.tag.touched();
        let (after, saturated) = match aggregation {
            Aggregation::Sum | Aggregation::Count => {
                (before.saturating_add(amount), before.checked_add(amount).is_none())
            }
            Aggregation::Max if !first => (before.max(amount), false),
            Aggregation::Max | Aggregation::Latest => (amount, false),
        };
        self.value = after.as_millionths();
        (after, saturated)
    }
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

/// Takes from a balance, whatever is left there. Answers what it held before and holds after.
#[inline]
fn take(
    account: &mut Account,
    numbered: Numbered<'_>,
    amount: Amount,
    now: i32,
    hint: usize,
) -> (Amount, Amount) {
    let tag = Tag::balance(numbered.number);
    let place = account.place(tag, FOREVER, hint).unwrap_or_else(|| {
        let untouched = read_balance(Some(account), numbered, hint);
        let fresh = untouched.map_or(Amount::ZERO, |balance| balance.current);
        account.claim(tag, FOREVER, now, fresh.as_millionths(), hint)
    });
    let cell = &mut account.cells[place];
    let before = Amount::from_millionths(cell.value);
    let after = before.saturating_sub(amount);
    cell.tag = cell.tag.touched();
    cell.value = after.as_millionths();
    (before, after)
}

/// A customer's balance: as kept, or the default that was never touched.
pub(super) fn read_balance(
    account: Option<&Account>,
    numbered: Numbered<'_>,
    hint: usize,
) -> Option<Balance> {
    let tag = Tag::balance(numbered.number);
    let terms = account.and_then(|account| terms(account, numbered.number));
    let (unit, minimum, initial) = match (terms, numbered.balance.default) {
        (Some(terms), _) => (&terms.unit, terms.minimum, Amount::ZERO),
        (None, Some(default)) => (
            &default.unit,
            default.minimum.unwrap_or(Amount::ZERO),
            default.initial.unwrap_or(Amount::ZERO),
        ),
        (None, None) => return None,
    };
    let place = account.and_then(|account| account.place(tag, FOREVER, hint));
    let (current, held) = match (account, place) {
        (Some(account), Some(place)) => {
            (Amount::from_millionths(account.cells[place].value), account.held(place))
        }
        _ => (initial, Amount::ZERO),
    };
    Some(Balance { name: numbered.name(), unit: unit.clone(), current, minimum, held })
}

fn terms(account: &Account, number: u32) -> Option<&Terms> {
    account.rare.as_ref()?.terms.iter().find(|terms| terms.number == number)
}

/// Whether the customer has a balance of their own of that number, or one that everybody has and that
/// has changed. A charge of a balance that there is not makes none.
pub(super) fn has_balance(account: &Account, (number, is_default): (u32, bool)) -> bool {
    terms(account, number).is_some()
        || is_default && account.place(Tag::balance(number), FOREVER, 0).is_some()
}

/// Opens a balance of the customer's own.
pub(super) fn open_balance(account: &mut Account, number: u32, terms: &NewBalance, now: i32) {
    let place = account.claim(Tag::balance(number), FOREVER, now, 0, usize::MAX);
    // A charge may have come before the balance did; it is not forgiven.
    account.cells[place].add(Aggregation::Sum, terms.initial.unwrap_or(Amount::ZERO));
    account.rare.get_or_insert_default().terms.push(Terms {
        number,
        unit: terms.unit.clone(),
        minimum: terms.minimum.unwrap_or(Amount::ZERO),
    });
}

/// A place among the holds that is too far out is left to be looked for.
fn place_of(slot: u32, at: usize, serial: u16) -> Place {
    let at = u16::try_from(at).unwrap_or(u16::MAX);
    Place(u64::from(slot) << 32 | u64::from(at) << 16 | u64::from(serial))
}

fn slot_of(place: Place) -> u32 {
    (place.0 >> 32) as u32
}

fn spot_of(place: Place) -> Spot {
    Spot { at: (place.0 >> 16) as u16, serial: place.0 as u16 }
}
