//! One use, and how it counts for a check.

use std::time::Duration;

use compact_str::CompactString;

use crate::backend::{Check, Settlement, Ticket};
use crate::client::hosted::window::may_hold;
use crate::policy::{Amount, Dimensions, EventId, Meter, Timestamp, Usage, Window};

/// A moment among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::client::hosted) struct Tick(pub(super) u64);

/// One use, from its check until the API surely tells of it.
#[derive(Clone, Debug)]
pub(in crate::client::hosted) struct Use {
    pub(super) id: EventId,
    pub(super) attempt: u64,
    /// `None` for a request that did not say.
    event_type: Option<CompactString>,
    /// `None` for what moves a balance and is no event.
    usage: Option<Usage>,
    pub(super) at: Timestamp,
    pub(super) charge: Option<Charged>,
    pub(super) stage: Stage,
}

#[derive(Clone, Debug)]
pub(super) struct Charged {
    pub(super) balance: CompactString,
    pub(super) amount: Amount,
    /// When the API said that it was taken.
    pub(super) taken: Option<Seen>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
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
pub(super) struct Seen {
    pub(super) tick: Tick,
    pub(super) until: Duration,
}

/// What is to be added to an answer of the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::client::hosted) struct Local {
    /// Used, and surely not in the answer.
    pub(in crate::client::hosted) used: Amount,
    /// Set aside, or used and perhaps in the answer.
    pub(in crate::client::hosted) held: Amount,
}

impl Local {
    pub(super) fn add(&mut self, certainty: Certainty, amount: Amount) {
        let sum = match certainty {
            Certainty::Used => &mut self.used,
            Certainty::Held => &mut self.held,
        };
        *sum = sum.saturating_add(amount);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Certainty {
    Used,
    Held,
}

/// When a check was asked, for what was on its way meanwhile, and when its answer is judged.
#[derive(Clone, Copy, Debug)]
pub(in crate::client::hosted) struct Asked {
    pub(in crate::client::hosted) began: Tick,
    pub(in crate::client::hosted) now: Duration,
}

impl Use {
    /// The estimate of a check, as a hold.
    pub(in crate::client::hosted) fn of_check(
        check: &Check,
        at: Timestamp,
        ends: Option<Duration>,
    ) -> Self {
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
            usage: Some(ask.expected.clone()),
            at,
            charge: charge.map(|(balance, amount)| Charged { balance, amount, taken: None }),
            stage: Stage::Running { ends },
        }
    }

    pub(super) fn of_settlement(settlement: &Settlement, stage: Stage) -> Self {
        let Settlement { hold, usage, charge, .. } = settlement;
        let ask = hold.check().ask();
        let balance = ask.charge.as_ref().map(|charge| charge.balance.clone());
        let charge = balance.zip(*charge);
        Self {
            id: ask.id.clone(),
            attempt: ask.attempt,
            event_type: Some(ask.recorded_as().into()),
            usage: Some(usage.clone()),
            at: hold.at,
            charge: charge.map(|(balance, amount)| Charged { balance, amount, taken: None }),
            stage,
        }
    }

    /// What is taken from a balance by hand, or for what is owed.
    pub(super) fn of_balance(tick: Tick, balance: &str, amount: Amount, stage: Stage) -> Self {
        let taken = match stage {
            Stage::Delivered(seen) => Some(seen),
            _ => None,
        };
        Self {
            id: EventId::NIL,
            attempt: tick.0,
            event_type: None,
            usage: None,
            at: Timestamp::MIN,
            charge: Some(Charged { balance: balance.into(), amount, taken }),
            stage,
        }
    }

    /// What it gives a limit on this meter, narrowed to these dimensions, in this window.
    pub(super) fn gives(
        &self,
        meter: &Meter,
        narrowed: &Dimensions,
        window: &Window,
    ) -> Option<Amount> {
        let usage = self.usage.as_ref()?;
        let event_type = self.event_type.as_deref().or(meter.event_type.as_deref());
        let counts = meter.accepts(event_type.unwrap_or_default(), usage.dimensions())
            && usage.dimensions().contain(narrowed.pairs())
            && may_hold(window, self.at);
        if counts { meter.reads(usage.values()) } else { None }
    }

    pub(super) fn is(&self, ticket: &Ticket) -> bool {
        let ask = ticket.check.ask();
        (&self.id, self.attempt) == (&ask.id, ask.attempt)
    }

    /// Whether it is the debit by hand of that name.
    pub(super) fn is_debit(&self, debit: Tick) -> bool {
        self.id == EventId::NIL && self.attempt == debit.0
    }

    /// How it counts for a check; `None` when the answer tells of it.
    pub(super) fn certainty(&self, asked: Asked) -> Option<Certainty> {
        match self.stage {
            Stage::Running { ends } if ends.is_some_and(|ends| ends <= asked.now) => None,
            Stage::Running { .. } | Stage::Going => Some(Certainty::Held),
            Stage::Waiting => Some(Certainty::Used),
            Stage::Delivered(seen) => seen.is_new_to(asked).then_some(Certainty::Held),
        }
    }
}

impl Seen {
    pub(super) fn is_new_to(self, asked: Asked) -> bool {
        asked.began < self.tick || asked.now < self.until
    }
}

/// What is known here of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client::hosted) enum Known {
    Running,
    Used,
}
