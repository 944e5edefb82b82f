//! What this process knows and the API does not yet: what running requests set aside, and what was
//! used and is on its way. No I/O and no clock; time is passed in.

use std::collections::HashMap;
use std::time::Duration;

use crate::backend::{Settlement, Ticket};
use crate::policy::{
    Aggregation, Amount, CustomerId, Dimensions, EventId, Meter, Timestamp, Window,
};

#[cfg(test)]
mod tests;
mod uses;

pub(super) use uses::{Asked, Known, Local, Tick, Use};
use uses::{Certainty, Seen, Stage};

#[derive(Debug, Default)]
pub(super) struct Ledger {
    customers: HashMap<CustomerId, Account>,
    /// Counts checks and deliveries, so that each can be told to be before or after another.
    tick: u64,
}

#[derive(Debug, Default)]
struct Account {
    uses: Vec<Use>,
    /// Checks that wait for their answers, by when they began.
    asking: Vec<Tick>,
}

impl Ledger {
    /// A check is sent.
    pub(super) fn begin(&mut self, customer: &CustomerId) -> Tick {
        let tick = self.next_tick();
        self.customers.entry(customer.clone()).or_default().asking.push(tick);
        tick
    }

    /// It was answered, or nobody waits for it any more.
    pub(super) fn end(&mut self, customer: &CustomerId, began: Tick, now: Duration) {
        if let Some(account) = self.customers.get_mut(customer) {
            account.asking.retain(|tick| *tick != began);
        }
        self.tidy(customer, now);
    }

    /// What to add to what the API tells of a limit.
    pub(super) fn on_limit(
        &self,
        customer: &CustomerId,
        asked: Asked,
        (meter, narrowed, window): (&Meter, &Dimensions, &Window),
        told: Amount,
    ) -> Local {
        let mut local = Local::default();
        let mut latest: Option<(Timestamp, Amount)> = None;
        for each in self.uses(customer) {
            let Some(certainty) = each.certainty(asked) else { continue };
            let Some(amount) = each.gives(meter, narrowed, window) else { continue };
            let is_used = !matches!(each.stage, Stage::Running { .. });
            match meter.aggregation() {
                Aggregation::Sum | Aggregation::Count => local.add(certainty, amount),
                // Counting one twice makes no difference.
                Aggregation::Max if is_used => {
                    local.used = local.used.max(amount.saturating_sub(told));
                }
                Aggregation::Latest if is_used && latest.is_none_or(|(at, _)| at <= each.at) => {
                    latest = Some((each.at, amount));
                }
                Aggregation::Max | Aggregation::Latest => {}
            }
        }
        if let Some((_, amount)) = latest {
            local.used = amount.saturating_sub(told);
        }
        local
    }

    /// What to take from what the API tells of a balance.
    pub(super) fn on_balance(&self, customer: &CustomerId, asked: Asked, balance: &str) -> Local {
        let mut local = Local::default();
        for each in self.uses(customer) {
            let Some(charged) = each.charge.as_ref().filter(|charged| charged.balance == balance)
            else {
                continue;
            };
            let certainty = match charged.taken {
                Some(seen) => seen.is_new_to(asked).then_some(Certainty::Held),
                None => each.certainty(asked),
            };
            if let Some(certainty) = certainty {
                local.add(certainty, charged.amount);
            }
        }
        local
    }

    /// Whether a request of that id runs now, or has used something that is on its way.
    pub(super) fn known(
        &self,
        customer: &CustomerId,
        id: &EventId,
        now: Duration,
    ) -> Option<Known> {
        let found = self.uses(customer).iter().filter(|each| each.id == *id);
        let mut known = found.filter_map(|each| match each.stage {
            Stage::Running { ends } => ends.is_none_or(|ends| now < ends).then_some(Known::Running),
            _ => Some(Known::Used),
        });
        known.next_back()
    }

    pub(super) fn place(&mut self, customer: &CustomerId, hold: Use) {
        self.customers.entry(customer.clone()).or_default().uses.push(hold);
    }

    pub(super) fn release(&mut self, ticket: &Ticket, now: Duration) {
        self.change(ticket, |each| !matches!(each.stage, Stage::Running { .. }));
        self.tidy(ticket.customer(), now);
    }

    /// A request has used this: from here on that counts, and not its estimate.
    pub(super) fn used(&mut self, settlement: &Settlement) {
        self.enter(settlement, Stage::Waiting);
    }

    /// It is being delivered.
    pub(super) fn going(&mut self, settlement: &Settlement) {
        self.enter(settlement, Stage::Going);
    }

    fn enter(&mut self, settlement: &Settlement, stage: Stage) {
        let ticket = &settlement.hold.ticket;
        let account = self.customers.entry(ticket.customer().clone()).or_default();
        match account.uses.iter_mut().find(|each| each.is(ticket)) {
            Some(each) if matches!(each.stage, Stage::Running { .. }) => {
                *each = Use::of_settlement(settlement, stage);
            }
            Some(each) => each.stage = stage,
            None => account.uses.push(Use::of_settlement(settlement, stage)),
        }
    }

    /// Its delivery has failed, and will be tried again.
    pub(super) fn failed(&mut self, ticket: &Ticket) {
        self.change(ticket, |each| {
            each.stage = Stage::Waiting;
            true
        });
    }

    /// Its charge was taken, or is a debt from here on.
    pub(super) fn charged(&mut self, ticket: &Ticket, until: Duration) {
        let tick = self.next_tick();
        self.change(ticket, |each| {
            if let Some(charged) = &mut each.charge {
                charged.taken = Some(Seen { tick, until });
            }
            true
        });
    }

    pub(super) fn is_charged(&self, ticket: &Ticket) -> bool {
        let found = self.uses(ticket.customer()).iter().find(|each| each.is(ticket));
        found.is_some_and(|each| each.charge.as_ref().is_some_and(|charge| charge.taken.is_some()))
    }

    /// The API has recorded it.
    pub(super) fn delivered(&mut self, ticket: &Ticket, until: Duration, now: Duration) {
        let tick = self.next_tick();
        self.change(ticket, |each| {
            each.stage = Stage::Delivered(Seen { tick, until });
            true
        });
        self.tidy(ticket.customer(), now);
    }

    /// Nobody will deliver it.
    pub(super) fn forget(&mut self, ticket: &Ticket, now: Duration) {
        self.change(ticket, |_| false);
        self.tidy(ticket.customer(), now);
    }

    /// So much of a debt was just paid from a balance: checks on their way may not see it yet.
    pub(super) fn paid(
        &mut self,
        customer: &CustomerId,
        (balance, amount): (&str, Amount),
        (until, now): (Duration, Duration),
    ) {
        let tick = self.next_tick();
        let seen = Stage::Delivered(Seen { tick, until });
        self.place(customer, Use::of_balance(tick, balance, amount, seen));
        self.tidy(customer, now);
    }

    /// So much of a balance is about to be debited by hand. Answers what to tell
    /// [`debited`](Self::debited).
    pub(super) fn debiting(
        &mut self,
        customer: &CustomerId,
        balance: &str,
        amount: Amount,
    ) -> Tick {
        let tick = self.next_tick();
        self.place(customer, Use::of_balance(tick, balance, amount, Stage::Going));
        tick
    }

    /// It was answered; `taken` tells until when checks may not see it.
    pub(super) fn debited(
        &mut self,
        customer: &CustomerId,
        debit: Tick,
        taken: Option<Duration>,
        now: Duration,
    ) {
        let tick = self.next_tick();
        if let Some(account) = self.customers.get_mut(customer) {
            account.uses.retain_mut(|each| {
                if !each.is_debit(debit) {
                    return true;
                }
                if let Some(until) = taken {
                    each.stage = Stage::Delivered(Seen { tick, until });
                }
                taken.is_some()
            });
        }
        self.tidy(customer, now);
    }

    /// Lets a hold live on; answers whether it still lived.
    pub(super) fn renew(
        &mut self,
        customer: &CustomerId,
        id: &EventId,
        now: Duration,
        until: Duration,
    ) -> bool {
        let uses = self.customers.get_mut(customer).map(|account| &mut account.uses);
        let mut lived = false;
        for each in uses.into_iter().flatten().filter(|each| each.id == *id) {
            if let Stage::Running { ends } = &mut each.stage {
                lived |= ends.is_none_or(|ends| now < ends);
                if let Some(ends) = ends.as_mut().filter(|ends| now < **ends) {
                    *ends = until;
                }
            }
        }
        lived
    }

    /// How many requests run.
    pub(super) fn running(&self, now: Duration) -> usize {
        let uses = self.customers.values().flat_map(|account| &account.uses);
        let runs = |each: &&Use| match each.stage {
            Stage::Running { ends } => ends.is_none_or(|ends| now < ends),
            _ => false,
        };
        uses.filter(runs).count()
    }

    /// Drops what has ended by itself, or is told by the API by now.
    pub(super) fn sweep(&mut self, now: Duration) {
        let customers: Vec<_> = self.customers.keys().cloned().collect();
        customers.iter().for_each(|customer| self.tidy(customer, now));
    }

    fn uses(&self, customer: &CustomerId) -> &[Use] {
        self.customers.get(customer).map_or(&[], |account| &account.uses)
    }

    fn next_tick(&mut self) -> Tick {
        self.tick += 1;
        Tick(self.tick)
    }

    /// Changes the use of that name; it goes when the change says `false`.
    fn change(&mut self, ticket: &Ticket, mut change: impl FnMut(&mut Use) -> bool) {
        if let Some(account) = self.customers.get_mut(ticket.customer()) {
            account.uses.retain_mut(|each| !each.is(ticket) || change(each));
        }
    }

    fn tidy(&mut self, customer: &CustomerId, now: Duration) {
        let Some(account) = self.customers.get_mut(customer) else { return };
        // What every check on its way, and any that comes, is told by the API.
        let began = account.asking.iter().min().copied().unwrap_or(Tick(u64::MAX));
        let asked = Asked { began, now };
        account.uses.retain(|each| match each.stage {
            Stage::Running { ends } => ends.is_none_or(|ends| now < ends),
            Stage::Waiting | Stage::Going => true,
            Stage::Delivered(seen) => {
                let charge = each.charge.as_ref().and_then(|charge| charge.taken);
                seen.is_new_to(asked) || charge.is_some_and(|seen| seen.is_new_to(asked))
            }
        });
        if account.uses.is_empty() && account.asking.is_empty() {
            self.customers.remove(customer);
        }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.customers.is_empty()
    }
}
