//! What this process knows and the API does not yet: what running requests set aside, and what was
//! used and is on its way. No I/O and no clock; time is passed in.

use std::collections::HashMap;
use std::time::Duration;

use compact_str::CompactString;

use super::window::may_hold;
use crate::backend::{Check, Settlement, Ticket};
use crate::policy::{
    Aggregation, Amount, CustomerId, Dimensions, EventId, Meter, Timestamp, Usage, Window,
};

#[cfg(test)]
mod tests;

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

/// A moment among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(u64);

/// One use, from its check until the API surely tells of it.
#[derive(Clone, Debug)]
pub(super) struct Use {
    id: EventId,
    attempt: u64,
    /// `None` for a request that did not say.
    event_type: Option<CompactString>,
    usage: Usage,
    at: Timestamp,
    charge: Option<Charged>,
    stage: Stage,
}

#[derive(Clone, Debug)]
struct Charged {
    balance: CompactString,
    amount: Amount,
    /// When the API said that it was taken.
    taken: Option<Seen>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The estimate of a request that runs, which may end by itself.
    Running {
        ends: Option<Duration>,
    },
    /// It was used, and waits for its delivery.
    Waiting,
    /// It is being delivered: the API may tell of it or not.
    Going,
    Delivered(Seen),
}

/// Since when the API tells of something: surely to checks that begin later than both.
#[derive(Clone, Copy, Debug)]
struct Seen {
    tick: Tick,
    until: Duration,
}

/// What is to be added to an answer of the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Local {
    /// Used, and surely not in the answer.
    pub(super) used: Amount,
    /// Set aside, or used and perhaps in the answer.
    pub(super) held: Amount,
}

impl Local {
    fn add(&mut self, certainty: Certainty, amount: Amount) {
        let sum = match certainty {
            Certainty::Used => &mut self.used,
            Certainty::Held => &mut self.held,
        };
        *sum = sum.saturating_add(amount);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certainty {
    Used,
    Held,
}

/// When a check was asked, for what was on its way meanwhile, and when its answer is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) began: Tick,
    pub(super) now: Duration,
}

impl Use {
    /// The estimate of a check, as a hold.
    pub(super) fn of_check(check: &Check, at: Timestamp, ends: Option<Duration>) -> Self {
        let ask = check.ask();
        let price = |charge: &crate::backend::Charge| match ask.expected.is_empty() {
            true => Amount::ZERO,
            false => charge.price(&ask.expected).unwrap_or(Amount::ZERO),
        };
        let charge = ask.charge.as_ref().map(|charge| (charge.balance.clone(), price(charge)));
        Self {
            id: ask.id.clone(),
            attempt: ask.attempt,
            event_type: ask.event_type.clone(),
            usage: ask.expected.clone(),
            at,
            charge: charge.map(|(balance, amount)| Charged { balance, amount, taken: None }),
            stage: Stage::Running { ends },
        }
    }

    fn of_settlement(settlement: &Settlement) -> Self {
        let Settlement { hold, usage, charge, .. } = settlement;
        let ask = hold.check().ask();
        let balance = ask.charge.as_ref().map(|charge| charge.balance.clone());
        let charge = balance.zip(*charge);
        Self {
            id: ask.id.clone(),
            attempt: ask.attempt,
            event_type: Some(ask.recorded_as().into()),
            usage: usage.clone(),
            at: hold.at,
            charge: charge.map(|(balance, amount)| Charged { balance, amount, taken: None }),
            stage: Stage::Waiting,
        }
    }

    /// What it gives a limit on this meter, narrowed to these dimensions, in this window.
    fn gives(&self, meter: &Meter, narrowed: &Dimensions, window: &Window) -> Option<Amount> {
        let event_type = self.event_type.as_deref().or(meter.event_type.as_deref());
        let counts = meter.accepts(event_type.unwrap_or_default(), self.usage.dimensions())
            && self.usage.dimensions().contain(narrowed.pairs())
            && may_hold(window, self.at);
        if counts { meter.reads(self.usage.values()) } else { None }
    }

    fn is(&self, ticket: &Ticket) -> bool {
        let ask = ticket.check.ask();
        (&self.id, self.attempt) == (&ask.id, ask.attempt)
    }

    /// How it counts for a check; `None` when the answer tells of it.
    fn certainty(&self, asked: Asked) -> Option<Certainty> {
        match self.stage {
            Stage::Running { ends } if ends.is_some_and(|ends| ends <= asked.now) => None,
            Stage::Running { .. } | Stage::Going => Some(Certainty::Held),
            Stage::Waiting => Some(Certainty::Used),
            Stage::Delivered(seen) => seen.is_new_to(asked).then_some(Certainty::Held),
        }
    }
}

impl Seen {
    fn is_new_to(self, asked: Asked) -> bool {
        asked.began < self.tick || asked.now < self.until
    }
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
                *each = Use { stage, ..Use::of_settlement(settlement) };
            }
            Some(each) => each.stage = stage,
            None => account.uses.push(Use { stage, ..Use::of_settlement(settlement) }),
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
        let seen = Seen { tick: self.next_tick(), until };
        let charge = Charged { balance: balance.into(), amount, taken: Some(seen) };
        let payment = Use {
            id: EventId::NIL,
            attempt: seen.tick.0,
            event_type: None,
            usage: Usage::new(),
            at: Timestamp::MIN,
            charge: Some(charge),
            stage: Stage::Delivered(seen),
        };
        self.place(customer, payment);
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

/// What is known here of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Running,
    Used,
}
