//! The contract between the engine and what keeps its books.
//!
//! The engine works out which limits apply, which window each is in and how much is asked. A store
//! is handed an *operation* and runs it as one atomic step: a lock in memory, a transaction in a
//! file, one script call on a server. It knows counters, balances and holds, and no rules beyond
//! [`judge_limit`] and [`judge_balance`].
//!
//! # What every store promises
//!
//! - A [`check`](Store::check) that refuses changes nothing. One that allows places its whole hold.
//! - A hold ends once: by [`settle`](Store::settle), [`release`](Store::release) or expiry.
//!   Repeating one of them, in any order, changes nothing more.
//! - The effect of an operation and the memory of its id become visible in the same step.
//! - An operation resolved before the definitions changed is answered [`Outcome::Stale`] and has no
//!   effect; the engine resolves it again.
//!
//! [`judge_limit`]: crate::policy::judge_limit
//! [`judge_balance`]: crate::policy::judge_balance

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

use compact_str::CompactString;

use crate::policy::{
    Aggregation, Amount, Balance, CounterKey, Credited, Customer, CustomerId, Debited, EventId,
    Limit, Meter, NewBalance, Period, Producer, RecordedEvent, Timestamp, Transaction, Usage,
    Verdict, Window,
};
use crate::{Error, ErrorKind};

#[cfg(any(feature = "redis", feature = "sqlite"))]
mod definition;
#[cfg(feature = "embedded")]
mod memory;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;

#[cfg(feature = "embedded")]
pub use memory::Memory;
#[cfg(feature = "redis")]
pub use redis::Redis;
#[cfg(feature = "sqlite")]
pub use sqlite::Sqlite;

pub use crate::clock::Moment;
pub use crate::policy::frame::Line;

/// A boxed future, for what is not on the path of a request.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Keeps counters, balances, holds and events.
///
/// The futures of `check`, `settle` and `release` own what they need: an implementation encodes the
/// operation before it returns. Dropping such a future does not stop the step.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// The answer to [`check`](Self::check).
    type Check: Future<Output = Result<Checked, Error>> + Send + Unpin + 'static;
    /// The answer to [`settle`](Self::settle).
    type Settle: Future<Output = Result<Settled, Error>> + Send + Unpin + 'static;
    /// The answer to [`release`](Self::release).
    type Release: Future<Output = Result<(), Error>> + Send + Unpin + 'static;

    /// Whether a settlement is made, and will be kept, by the time that [`settle`](Self::settle)
    /// returns: its future only waits, and need not be polled.
    const SETTLES_AT_CALL: bool = false;

    /// Judges every line and the balance together and, if all have room and a hold is asked for,
    /// places it. A store that answers at once writes each judgement where the operation says.
    ///
    /// Atomic. Keeps nothing when it refuses. An id that was released before places nothing
    /// ([`Outcome::Released`]); one that is open or settled is told ([`Outcome::Open`],
    /// [`Outcome::Finished`]).
    fn check(&self, operation: CheckOperation<'_>) -> Self::Check;

    /// Drops the hold if it is still there, counts the event, charges the balance and keeps the
    /// event.
    ///
    /// Atomic, and once for each id. Never refuses what has a hold: counters go over their caps and
    /// balances under their minimum. Sums that do not fit are held at the largest amount and reported.
    fn settle(&self, operation: SettleOperation<'_>) -> Self::Settle;

    /// Settles many: one answer for each, in their order.
    ///
    /// Each is an atomic step by itself, as [`settle`](Self::settle) is. Those of one customer are
    /// taken in their order, and once one is answered with an error that may pass, or with an outcome
    /// that [may change](SettleOutcome::may_change), nothing later of that customer is taken: it is
    /// answered likewise. So a [`Mark`] never passes over a settlement that is still to come.
    fn settle_many<'a>(
        &'a self,
        operations: Vec<SettleOperation<'a>>,
    ) -> BoxFuture<'a, Vec<Result<Settled, Error>>> {
        Box::pin(async move {
            let mut lanes = Lanes::default();
            let mut answers = Vec::with_capacity(operations.len());
            for operation in operations {
                let customer = operation.customer;
                let answer = match lanes.stopped(customer) {
                    Some(stopped) => stopped,
                    None => lanes.note(customer, self.settle(operation).await),
                };
                answers.push(answer);
            }
            answers
        })
    }

    /// Drops the hold if it is there. For an id that is not known, and for one that may come again
    /// ([`HoldTerms::remember`]), remembers that this check was released: one that arrives after its
    /// release places nothing.
    fn release(&self, key: HoldKey<'_>, now: Moment<'_>) -> Self::Release;

    /// Counts events that had no hold: all of them, or none when one cannot be taken. The answers
    /// then end with that one's.
    fn record<'a>(
        &'a self,
        operations: Vec<SettleOperation<'a>>,
    ) -> BoxFuture<'a, Result<Vec<Settled>, Error>>;

    /// Lets the hold of each id live until `lifetime` from now. Answers which still live.
    fn renew<'a>(
        &'a self,
        keys: Vec<HoldKey<'a>>,
        lifetime: Duration,
        now: Moment<'a>,
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>>;

    /// Creates a balance for one customer, in place of a default that was never touched.
    fn create_balance<'a>(
        &'a self,
        customer: &'a CustomerId,
        terms: &'a NewBalance,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Balance, Error>>;

    /// Changes the minimum of a balance of the customer's own; `None` when there is none of that
    /// name.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) from a store that cannot.
    fn set_minimum<'a>(
        &'a self,
        customer: &'a CustomerId,
        name: &'a str,
        minimum: Amount,
    ) -> BoxFuture<'a, Result<Option<Balance>, Error>> {
        let _ = (customer, name, minimum);
        let message = "the store cannot change the minimum of a balance";
        Box::pin(std::future::ready(Err(Error::new(ErrorKind::Invalid, message))))
    }

    /// Adds to a balance; once for each reference, for ever, and of what is to be done
    /// [once](BalanceChange::once) once for that id.
    fn credit<'a>(&'a self, change: BalanceChange<'a>) -> BoxFuture<'a, Result<Credited, Error>>;

    /// Takes from a balance if it covers the amount above its holds: judged and taken in one step. Of what
    /// is to be done [once](BalanceChange::once) and was, answers what was taken then.
    fn debit<'a>(&'a self, change: BalanceChange<'a>) -> BoxFuture<'a, Result<Debited, Error>>;

    /// Every balance of a customer, untouched defaults included, in the order of their names.
    fn balances<'a>(
        &'a self,
        customer: &'a CustomerId,
        defaults: &'a [NewBalance],
        now: Moment<'a>,
    ) -> BoxFuture<'a, Result<Vec<Balance>, Error>>;

    /// Customers who have a balance of their own, or one that has changed: the first so many from an
    /// id on, in the order of their ids. Cost may grow with all customers.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) from a store that cannot list them.
    fn with_balances<'a>(
        &'a self,
        from: Option<&'a CustomerId>,
        most: usize,
        defaults: &'a [NewBalance],
    ) -> BoxFuture<'a, Result<Vec<CustomerId>, Error>> {
        let _ = (from, most, defaults);
        let message = "the store cannot list balances over all customers; name one";
        Box::pin(std::future::ready(Err(Error::new(ErrorKind::Invalid, message))))
    }

    /// The kept transactions of one balance, oldest first, led by an opening balance where older
    /// ones are no longer kept.
    fn transactions<'a>(
        &'a self,
        customer: &'a CustomerId,
        balance: BalanceRef<'a>,
    ) -> BoxFuture<'a, Result<Vec<Transaction>, Error>>;

    /// Calls `visit` for the kept events, newest first, until it answers `false`. Answers the time of
    /// the newest event that is no longer kept: from there on the history is whole.
    fn events<'a>(
        &'a self,
        visit: &'a mut (dyn FnMut(&RecordedEvent) -> bool + Send),
    ) -> BoxFuture<'a, Result<Option<Timestamp>, Error>>;

    /// The time of the newest event that is no longer kept, of one customer as far as that can be
    /// told.
    fn forgotten<'a>(
        &'a self,
        customer: Option<&'a CustomerId>,
    ) -> BoxFuture<'a, Result<Option<Timestamp>, Error>> {
        let _ = customer;
        Box::pin(async move { self.events(&mut |_| false).await })
    }

    /// What the store has summed up of a meter as it counted, whatever became of the events. `None`
    /// from a store that has nothing of this meter.
    fn rolled_up<'a>(
        &'a self,
        wanted: Rollups<'a>,
    ) -> BoxFuture<'a, Result<Option<RolledUp>, Error>> {
        let _ = wanted;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Calls `visit` for the kept events that came before some place, newest first, until it answers
    /// `false`: for one page of a list. At least those that are wanted; a store that cannot find them
    /// without the others visits those, too.
    fn events_before<'a>(
        &'a self,
        wanted: Wanted<'a>,
        visit: &'a mut (dyn FnMut(&RecordedEvent) -> bool + Send),
    ) -> BoxFuture<'a, Result<(), Error>> {
        let _ = wanted;
        Box::pin(async move { self.events(visit).await.map(|_forgotten| ()) })
    }

    /// A kept event by its id, and what it was charged.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) from a store that cannot look one up.
    fn find<'a>(
        &'a self,
        customer: &'a CustomerId,
        id: &'a EventId,
    ) -> BoxFuture<'a, Result<Option<Found>, Error>> {
        let _ = (customer, id);
        let message = "the store cannot look up events by their ids";
        Box::pin(std::future::ready(Err(Error::new(ErrorKind::Invalid, message))))
    }

    /// Settled usage of one counter in a window that has not ended.
    fn read<'a>(
        &'a self,
        customer: &'a CustomerId,
        counter: u32,
        window: Window,
    ) -> BoxFuture<'a, Result<Amount, Error>>;

    /// Counts kept events again where definitions changed, and refuses older operations as
    /// [`Outcome::Stale`] from then on. One step against all others of the customers concerned.
    fn recount<'a>(
        &'a self,
        change: Recount<'a>,
    ) -> BoxFuture<'a, Result<Option<Timestamp>, Error>>;

    /// Drops windows that ended before `now`. Stores also do so by and by while they are used.
    fn sweep<'a>(&'a self, now: Moment<'a>) -> BoxFuture<'a, Result<(), Error>>;

    /// How many holds are open.
    fn open_holds(&self) -> BoxFuture<'_, Result<usize, Error>>;

    /// How many customers take up space.
    fn customers(&self) -> BoxFuture<'_, Result<usize, Error>>;

    /// Takes up the books where an earlier process left them, and tells what was kept besides
    /// counters, balances and events. `None` for a store that keeps nothing of it. Called once,
    /// before anything else.
    ///
    /// # Errors
    ///
    /// When what was kept cannot be read.
    fn load(&self, now: Moment<'_>) -> Result<Option<Kept>, Error> {
        let _ = now;
        Ok(None)
    }

    /// Alerts that fell due in windows that have not ended, for a process that tells them again.
    /// Nothing from a store that does not keep them.
    fn alerts<'a>(&'a self, now: Moment<'a>) -> BoxFuture<'a, Result<Vec<KeptAlert>, Error>> {
        let _ = now;
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Keeps definitions for the next process: all of these in one step, before any step that is
    /// called later. Resolves when they are as durable as the store promises.
    fn keep<'a>(&'a self, changes: &[Keep<'_>]) -> BoxFuture<'a, Result<(), Error>> {
        let _ = changes;
        Box::pin(std::future::ready(Ok(())))
    }

    /// For books that other processes share: tells what they have changed since it was loaded, or reloaded,
    /// last. `None` when that is nothing. What was resolved before `epoch` is answered
    /// [`Outcome::Stale`] from then on, whatever was changed.
    fn reload<'a>(&'a self, epoch: u64) -> BoxFuture<'a, Result<Option<Kept>, Error>> {
        let _ = epoch;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Resolves once a check that has to wait for [`reload`](Self::reload) has waited long enough: it is
    /// then answered as unavailable. Settlements wait on. `None` for a store whose reload is brief.
    fn patience(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// Resolves when everything that was accepted is as durable as the store promises.
    fn flush(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Which kept events are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Only those that came before the event at this place in the order of arrival.
    pub before: Option<u64>,
    /// Only this customer's.
    pub customer: Option<&'a CustomerId>,
    /// Only this type.
    pub event_type: Option<&'a str>,
}

/// Which sums are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Rollups<'a> {
    /// Of this meter.
    pub meter: &'a Meter,
    /// Only this customer's.
    pub customer: Option<&'a CustomerId>,
    /// Of events of this time or later.
    pub start: Timestamp,
    /// Of events before this time.
    pub end: Timestamp,
    /// Now, for what is no longer kept.
    pub now: Timestamp,
}

/// What a meter comes to over a range.
#[derive(Debug)]
pub struct RolledUp {
    /// The parts that are summed up.
    pub rollups: Vec<Rollup>,
    /// The parts that are left to be counted from the kept events.
    pub left: Vec<Range<Timestamp>>,
    /// Whether nothing is missing in the sums.
    pub complete: bool,
}

/// What some events give a meter together.
#[derive(Clone, Copy, Debug)]
pub struct Rollup {
    /// Their sum, their number, the highest or the latest value.
    pub amount: Amount,
    /// When the latest was, for a meter that keeps it.
    pub at: Timestamp,
    /// Its place in the order of arrival.
    pub sequence: u64,
}

/// A kept event, and what it was charged.
#[derive(Clone, Debug)]
pub struct Found {
    /// The event.
    pub event: RecordedEvent,
    /// The charge, if there was one.
    pub charge: Option<Transaction>,
}

/// A hold that was kept: what to record when nobody is left to settle it.
#[derive(Clone, Debug)]
pub struct KeptHold {
    /// The event as estimated, under the id of the hold.
    pub event: RecordedEvent,
    /// The balance and the price of the estimate.
    pub charge: Option<(CompactString, Amount)>,
}

/// What a store kept of earlier processes.
#[derive(Debug, Default)]
pub struct Kept {
    /// The definition of every counter, in the order of their numbers: the first has number 0.
    pub counters: Vec<Box<str>>,
    /// Which counters count every event, for everybody (`None`) or for one customer who differs.
    pub counted: HashMap<Option<CustomerId>, Vec<u32>>,
    /// Counters whose history before that time is not whole.
    pub since: Vec<(u32, Timestamp)>,
    /// The time zone in which that was, for customers who have none of their own.
    pub zone: Option<Box<str>>,
    /// Meters that were added while the program ran.
    pub meters: Vec<Meter>,
    /// Limits that were added while the program ran.
    pub limits: Vec<Limit>,
    /// Customers of whom something is known beyond usage.
    pub customers: Vec<Customer>,
    /// Customers whose counters of some periods are not whole before some time, since their windows
    /// moved.
    pub customers_since: Vec<(CustomerId, Vec<(Period, Timestamp)>)>,
    /// Holds of earlier processes, to be settled as they were estimated. A store that keeps them
    /// forgets each in the step that counts its event.
    pub holds: Vec<KeptHold>,
    /// Other processes share the books: what is kept holds for all of them, and wins over what a program
    /// defines under the same id.
    pub shared: bool,
    /// Meters that were removed while a program ran that defines them.
    pub removed_meters: Vec<Box<str>>,
    /// Limits that were removed while a program ran that defines them.
    pub removed_limits: Vec<Box<str>>,
}

/// An alert that fell due, whether or not somebody heard of it.
#[derive(Clone, Debug)]
pub struct KeptAlert {
    /// Whose usage.
    pub customer: CustomerId,
    /// The id of the limit.
    pub limit: Box<str>,
    /// The end of its window; `None` for one that never ends.
    pub ends: Option<Timestamp>,
    /// The percentage.
    pub percent: u8,
}

/// Something to keep for the next process.
#[derive(Clone, Copy, Debug)]
pub enum Keep<'a> {
    /// A counter got its number.
    Counter(u32, &'a CounterKey),
    /// From here on these counters count every event, for everybody (`None`) or for one customer;
    /// `None` for a customer who is like everybody.
    Counted(Option<&'a CustomerId>, Option<&'a [u32]>),
    /// The history of a counter before that time is not whole.
    Since(u32, Timestamp),
    /// The time zone of customers who have none of their own.
    Zone(&'a str),
    /// A program defines a meter, as of that time: for a store that sums up meters as it counts.
    Rollup(&'a Meter, Timestamp),
    /// A meter was added.
    Meter(&'a Meter),
    /// A meter was removed.
    NoMeter(&'a str),
    /// A limit was added.
    Limit(&'a Limit),
    /// A limit was removed.
    NoLimit(&'a str),
    /// Something is known of a customer.
    Customer(&'a Customer),
    /// Nothing is known of a customer any more.
    NoCustomer(&'a CustomerId),
    /// The history of a customer's counters of these periods before those times is not whole, that
    /// of all others is: in place of what was kept of it before.
    CustomerSince(&'a CustomerId, &'a [(Period, Timestamp)]),
}

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
/// it took, moved in the same step as what it counts. At or below it is a repeat; above it is new, and counts
/// whether or not there is a hold, unless its id is remembered. So a queue that waits for longer than
/// ids are remembered still counts once.
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
    /// A check, this attempt, was sent under the id and its answer never came. Counts whether or not the hold is
    /// there; a check that arrives later places nothing.
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
