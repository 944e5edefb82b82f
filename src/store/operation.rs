//! What a store is handed, and what it answers: resolved by the engine, run as one step.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use compact_str::CompactString;

use super::Moment;
use crate::policy::frame::Line;
use crate::policy::{
    Aggregation, Amount, Balance, CustomerId, EventId, NewBalance, Producer, RecordedEvent,
    Timestamp, Usage, Verdict, Window,
};
use crate::{Error, ErrorKind};

/// Names a hold: the id, the customer it is for, and where the store said it is.
#[derive(Clone, Copy, Debug)]
pub struct HoldKey<'a> {
    /// The id.
    pub id: &'a EventId,
    /// The customer.
    pub customer: &'a CustomerId,
    /// Where it is, if known; saves the store a look-up.
    pub place: Option<Place>,
    /// Which of the checks that were sent under the id; `None` is any.
    pub attempt: Option<u64>,
}

/// Where a store put a hold; means something to that store alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub u64);

/// A check to judge, and its hold to place.
#[derive(Debug)]
pub struct CheckOperation<'a> {
    /// The definitions it was resolved under.
    pub epoch: u64,
    /// Now, for what expires and ends.
    pub now: Moment<'a>,
    /// The id of the hold.
    pub id: &'a EventId,
    /// Which of the checks that were sent under the id: one that a caller gave may come twice, and
    /// letting go of one check leaves the others alone.
    pub attempt: u64,
    /// Who asks.
    pub customer: &'a CustomerId,
    /// The limits to judge. Lines on one counter are neighbours.
    pub lines: &'a [Line],
    /// What is asked: each line has [its own](Line::own). `None` asks only that something is left.
    pub asked: &'a [Option<Amount>],
    /// Where a store that answers at once writes what each line says.
    pub judged: &'a mut [Judged],
    /// The balance to judge.
    pub balance: Option<BalanceAsk<'a>>,
    /// Whether to place a hold; `None` only looks.
    pub hold: Option<HoldTerms>,
    /// The type of the event that is expected, for a store that keeps holds for the next process.
    pub event_type: &'a str,
    /// Its amounts and dimensions as estimated.
    pub expected: &'a Usage,
}

/// How long a hold lives, and whether its id is one that a caller may send again.
#[derive(Clone, Copy, Debug, Default)]
pub struct HoldTerms {
    /// Ends by itself after this time unless renewed; `None` lives until settled or released.
    pub lifetime: Option<Duration>,
    /// The id was given by a caller: remember it once it is settled.
    pub remember: bool,
}

/// Names a balance of the customer at hand.
#[derive(Clone, Copy, Debug)]
pub struct BalanceRef<'a> {
    /// Its name.
    pub name: &'a str,
    /// The terms that every customer has by default under this name.
    pub default: Option<&'a NewBalance>,
}

/// A balance to judge.
#[derive(Clone, Copy, Debug)]
pub struct BalanceAsk<'a> {
    /// Which.
    pub balance: BalanceRef<'a>,
    /// What is asked; `None` asks only that something is left.
    pub asked: Option<Amount>,
}

/// The answer to a check.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What came of it.
    pub outcome: Outcome,
    /// Where the hold is, if one was placed.
    pub place: Option<Place>,
    /// Each line, in order, from a store that answers later; empty where the lines were judged in
    /// place.
    pub judged: Vec<Judged>,
    /// The balance, if one was asked.
    pub balance: Option<JudgedBalance>,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is room, and the hold is placed if one was asked for.
    Allowed,
    /// There is no room; nothing changed.
    Refused,
    /// Resolved under definitions that have changed; nothing was judged.
    Stale,
    /// The id has a hold already.
    Open,
    /// The id was settled.
    Finished,
    /// The id was released before it was checked.
    Released,
}

/// What a line said.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    /// Whether there is room.
    pub verdict: Verdict,
    /// Settled usage in the window.
    pub used: Amount,
    /// What running requests hold, with this hold if it was placed.
    pub held: Amount,
}

impl Judged {
    /// What is left under this cap, never below 0.
    #[inline]
    pub(crate) fn remaining(&self, cap: Amount) -> Amount {
        cap.saturating_sub(self.used).saturating_sub(self.held).max(Amount::ZERO)
    }
}

impl Default for Judged {
    fn default() -> Self {
        Self { verdict: Verdict::Within, used: Amount::ZERO, held: Amount::ZERO }
    }
}

/// The balance as judged.
#[derive(Clone, Debug)]
pub struct JudgedBalance {
    /// What it said.
    pub verdict: Verdict,
    /// The balance, with this hold if it was placed; `None` when there is none of that name.
    pub balance: Option<Balance>,
}

/// A use to count.
#[derive(Debug)]
pub struct SettleOperation<'a> {
    /// The definitions it was resolved under.
    pub epoch: u64,
    /// Now, for what expires and ends.
    pub now: Moment<'a>,
    /// The id of hold and event.
    pub id: &'a EventId,
    /// Whose use.
    pub customer: &'a CustomerId,
    /// How the id is told from a repeat.
    pub origin: Origin,
    /// The type of the event.
    pub event_type: &'a str,
    /// Amounts and dimensions, kept with the event. A store in this process may take them once it
    /// counts the event.
    pub usage: &'a mut Usage,
    /// When it happened.
    pub at: Timestamp,
    /// The counters to move. Lines on one counter are neighbours.
    pub lines: &'a [Line],
    /// What the event gives: each line has [its own](Line::own). `None` moves nothing.
    pub given: &'a [Option<Amount>],
    /// The balance to charge, whatever is left there; below zero it is given back.
    pub charge: Option<(BalanceRef<'a>, Amount)>,
    /// It takes another event back.
    pub reverses: bool,
    /// Its place in the queue that it comes from.
    pub mark: Option<Mark>,
}

/// A settlement's place in a queue of settlements.
///
/// A store keeps one mark for each customer and producer: the sequence of the last settlement that
/// it took, moved in the same step as what it counts. At or below it is a repeat; above it is new, and
/// counts whether or not there is a hold, unless its id is remembered. So a queue that waits for longer
/// than ids are remembered still counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The queue.
    pub producer: Producer,
    /// The place. Grows from settlement to settlement of one customer, with gaps; at most 2^53.
    pub sequence: u64,
    /// A place before it that the store has taken, as far as the queue knows. A mark below it tells
    /// that the store has forgotten: [`SettleOutcome::Behind`].
    pub previous: Option<u64>,
}

/// Keeps to the order of each customer while many are settled.
#[derive(Debug, Default)]
pub(crate) struct Lanes<'a>(HashMap<&'a CustomerId, Option<SettleOutcome>>);

impl<'a> Lanes<'a> {
    /// What is answered for a customer of whom nothing more may be taken.
    pub(crate) fn stopped(&self, customer: &CustomerId) -> Option<Result<Settled, Error>> {
        let message = "an earlier settlement of the customer has to go first";
        Some(match self.0.get(customer)? {
            Some(outcome) => Ok(Settled::nothing(*outcome)),
            None => Err(Error::new(ErrorKind::Unavailable, message)),
        })
    }

    /// Looks whether anything more of the customer may be taken after this answer.
    pub(crate) fn note(
        &mut self,
        customer: &'a CustomerId,
        answer: Result<Settled, Error>,
    ) -> Result<Settled, Error> {
        match &answer {
            Ok(settled) if settled.outcome.may_change() => {
                self.0.insert(customer, Some(settled.outcome));
            }
            Err(error) if error.is_transient() => drop(self.0.insert(customer, None)),
            _ => {}
        }
        answer
    }
}

/// How a settlement's id is told from a repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A hold was placed under the id, at that place if it is known. Counts if the hold is open, or
    /// expired and not yet settled: within a week for certain. When the check is older and nothing is
    /// known of the id, that is [`SettleOutcome::TooOld`].
    Held(Option<Place>),
    /// A check, this attempt, was sent under the id and its answer never came. Counts whether or not
    /// the hold is there; a check that arrives later places nothing.
    Unsure(u64),
    /// The id was just made and nobody else knows it.
    Fresh,
    /// A caller gave the id: counts unless it is remembered, and is remembered.
    Given,
}

/// The answer to a settlement.
#[derive(Clone, Debug)]
pub struct Settled {
    /// What came of it.
    pub outcome: SettleOutcome,
    /// An amount did not fit and was held at the largest.
    pub saturated: bool,
    /// Alerts that fell due: which limit, which percentage, and usage afterwards.
    pub alerts: Vec<(CompactString, u8, Amount)>,
}

impl Settled {
    /// Nothing was counted.
    pub(crate) fn nothing(outcome: SettleOutcome) -> Self {
        Self { outcome, saturated: false, alerts: Vec::new() }
    }
}

impl SettleOutcome {
    /// Whether it is counted, now or before.
    pub fn is_counted(self) -> bool {
        matches!(self, Self::Recorded | Self::Repeat)
    }

    /// Whether nothing was counted now, and it may be later.
    pub fn may_change(self) -> bool {
        matches!(self, Self::Stale | Self::Full | Self::Unavailable | Self::Behind)
    }
}

/// What came of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleOutcome {
    /// It was counted.
    Recorded,
    /// The id was finished before; nothing changed.
    Repeat,
    /// Resolved under definitions that have changed; nothing was counted.
    Stale,
    /// The event is older than the time for which ids are remembered, and nothing is known of it;
    /// nothing was counted.
    TooOld,
    /// There is no place for another customer; nothing was counted.
    Full,
    /// The store cannot take it now, or cannot tell whether it is a repeat; nothing was counted.
    Unavailable,
    /// The store has forgotten what it had taken before; nothing was counted. See [`Mark::previous`].
    Behind,
}

/// How long a change is known that is done [once](BalanceChange::once).
pub(crate) const ONCE_FOR: Duration = Duration::from_secs(24 * 3_600);

/// A change of a balance.
#[derive(Clone, Copy, Debug)]
pub struct BalanceChange<'a> {
    /// The id of the transaction.
    pub id: &'a EventId,
    /// The change may come again under this id, one for each customer: within a day it is done once, as
    /// far as the transaction is kept. A repeat is answered with what was done then.
    pub once: Option<&'a EventId>,
    /// Whose balance.
    pub customer: &'a CustomerId,
    /// Which.
    pub balance: BalanceRef<'a>,
    /// How much; above zero.
    pub amount: Amount,
    /// For people.
    pub description: Option<&'a str>,
    /// The payment behind a credit, which it is taken for once.
    pub reference: Option<&'a str>,
    /// When, also for what expires.
    pub now: Moment<'a>,
}

/// Which counters to count again from the kept events.
pub struct Recount<'a> {
    /// Operations resolved before this are stale from now on.
    pub epoch: u64,
    /// Only this customer; everybody when `None`.
    pub customer: Option<&'a CustomerId>,
    /// The counters that are counted again; others are left alone.
    pub counters: &'a [u32],
    /// The moment whose windows are wanted.
    pub now: Moment<'a>,
    /// The window of a counter in which a moment of a customer lies; `None` where the counter is to
    /// be left alone.
    pub window: &'a (dyn Fn(&CustomerId, u32, Timestamp) -> Option<Window> + Send + Sync),
    /// What an event gives a counter, if anything.
    pub counts: &'a Counts<'a>,
}

/// What an event gives a counter.
pub type Counts<'a> =
    dyn Fn(&RecordedEvent, u32) -> Option<(Aggregation, Amount)> + Send + Sync + 'a;

impl fmt::Debug for Recount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recount")
            .field("epoch", &self.epoch)
            .field("customer", &self.customer)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
