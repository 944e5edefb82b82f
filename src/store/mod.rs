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

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::policy::{
    Amount, Balance, Credited, CustomerId, Debited, EventId, NewBalance, RecordedEvent, Timestamp,
    Transaction, Window,
};
use crate::{Error, ErrorKind};

mod alone;
#[cfg(any(feature = "redis", feature = "sqlite"))]
mod definition;
mod kept;
#[cfg(feature = "embedded")]
mod memory;
mod operation;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use alone::{Alone, Together};
pub use kept::{
    CountedBy, Found, Keep, Kept, KeptAlert, KeptHold, RolledUp, Rollup, Rollups, Wanted,
};
#[cfg(feature = "embedded")]
pub use memory::Memory;
pub(crate) use operation::Lanes;
#[cfg(feature = "embedded")]
pub(crate) use operation::ONCE_FOR;
pub use operation::{
    BalanceAsk, BalanceChange, BalanceRef, CheckOperation, Checked, Counts, HoldKey, HoldTerms,
    Judged, JudgedBalance, Mark, Origin, Outcome, Place, Recount, SettleOperation, SettleOutcome,
    Settled,
};
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

    /// Whether a settlement is made, or on its way, by the time that [`settle`](Self::settle) returns:
    /// who waits for it polls its future then, and a task only does once they have dropped it.
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

    /// Begins a change of definitions. In books that other processes share, none of them begins one until what
    /// is answered has ended: a change goes by the definitions that there are, and counts by them.
    ///
    /// # Errors
    ///
    /// When the store cannot be reached, or another process has been at it for minutes.
    fn alone(&self) -> BoxFuture<'_, Result<Alone, Error>> {
        Box::pin(std::future::ready(Ok(Alone::default())))
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

    /// For books that other processes share: who counts on which counters, everybody or one customer, as it
    /// was there when they were reloaded last.
    ///
    /// # Errors
    ///
    /// When what the store has cannot be read.
    fn counted(&self) -> Result<Option<CountedBy>, Error> {
        Ok(None)
    }

    /// Where changes of definitions run, so that they end whatever becomes of who asked for them; `None` for
    /// a store without a runtime of its own.
    fn runtime(&self) -> Option<Handle> {
        None
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
