//! The check: judges the lines and the balance, and places the hold.

use super::account::{Account, Cell, FOREVER, Held, Hold, Tag, minute_now};
use super::balance::{Numbered, read_balance};
use super::full;
use super::holds::place_of;
use super::ids::Fate;
use super::shard::{Around, Shard};
use crate::Error;
use crate::policy::{Amount, Verdict, judge_balance, judge_limit};
use crate::store::{CheckOperation, Checked, Judged, JudgedBalance, Line, Outcome, SettleOutcome};

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

    fn met_before(
        &self,
        operation: &CheckOperation<'_>,
        slot: Option<u32>,
        around: Around<'_>,
    ) -> Result<Option<Outcome>, Error> {
        // Who only looks has no id.
        let Some(terms) = operation.hold else { return Ok(None) };
        let (customer, id) = (operation.customer, operation.id);
        if self.finished.knows(customer, id, Fate::Finished) {
            return Ok(Some(Outcome::Finished));
        }
        if self.finished.knows(customer, id, Fate::Released(operation.attempt)) {
            return Ok(Some(Outcome::Released));
        }
        // Only an id that a caller gave can come twice.
        if !terms.remember {
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
