use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;

use super::definition::{self, Note};
use super::queue::{Change, unavailable};
use super::read::Select;
use super::{Sqlite, read, schema};
use crate::file::OpenError;
use crate::policy::{
    Amount, Balance, Credited, CustomerId, Debited, EventId, NewBalance, RecordedEvent, Timestamp,
    Transaction, TransactionKind, Window,
};
use crate::store::memory::recount::Tally;
use crate::store::{
    BalanceChange, BalanceRef, BoxFuture, CheckOperation, Checked, Found, HoldKey, Keep, Kept,
    KeptAlert, Lanes, Moment, Origin, Recount, SettleOperation, SettleOutcome, Settled, Store,
    Wanted,
};
use crate::{Error, ErrorKind};

/// The answer to a settlement, once it is as durable as promised.
#[derive(Debug)]
pub struct Acknowledged {
    settled: Option<Result<Settled, Error>>,
    commit: Option<oneshot::Receiver<()>>,
}

impl Future for Acknowledged {
    type Output = Result<Settled, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(commit) = &mut self.commit
            && std::task::ready!(Pin::new(commit).poll(cx)).is_err()
        {
            self.settled = Some(Err(given_up()));
        }
        self.commit = None;
        Poll::Ready(self.settled.take().expect("Acknowledged polled after completion"))
    }
}

/// The writer ended before the commit.
fn given_up() -> Error {
    Error::new(ErrorKind::TimedOut, "the books were closed while their file could not be written")
}

impl Sqlite {
    /// Resolves with an answer of the memory, when what it says is in the file.
    async fn committed<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        if let Some(commit) = self.books.queue.committed() {
            commit.await.map_err(|_| given_up())?;
        }
        answer
    }

    /// Resolves when what was changed so far is in the file, or could not be written.
    async fn attempted(&self) -> Result<(), Error> {
        match self.books.queue.attempted() {
            Some(commit) => commit.await.map_err(|_| unavailable()),
            None => Ok(()),
        }
    }

    /// Changes something if the file can be written, and resolves when it is. `used` says how many
    /// of the places reserved for it are taken up.
    async fn change<T>(
        &self,
        places: usize,
        change: impl Future<Output = Result<T, Error>>,
        used: impl FnOnce(&T) -> usize,
    ) -> Result<T, Error> {
        self.reserve(places)?;
        let answer = change.await;
        self.books.queue.give_back(places.saturating_sub(answer.as_ref().map_or(0, used)));
        self.committed(answer).await
    }

    /// Reserves places for changes, if the file takes any.
    fn reserve(&self, places: usize) -> Result<(), Error> {
        self.books.queue.is_open()?;
        if !self.books.queue.reserve(places) {
            let message = "changes come faster than they are written; try again";
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        Ok(())
    }

    async fn visit(
        &self,
        wanted: Wanted<'_>,
        visit: &mut (dyn FnMut(&RecordedEvent) -> bool + Send),
    ) -> Result<(), Error> {
        let mut events = self.books.reader.stream(Select::newest_first(wanted))?;
        while let Some(chunk) = events.recv().await {
            for event in chunk.map_err(OpenError::from)? {
                if !visit(&event) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Counts what is in the file first, which may take its time, and then as one step what came
    /// meanwhile.
    async fn count_again(&self, change: Recount<'_>) -> Result<Option<Timestamp>, Error> {
        let reader = &self.books.reader;
        let mut tally = Tally::default();
        let mut counted = 0;
        if !change.counters.is_empty() {
            self.attempted().await?;
            counted = reader.newest().map_err(OpenError::from)?;
            let mut events = reader.stream(Select::UpTo(counted))?;
            while let Some(chunk) = events.recv().await {
                for event in chunk.map_err(OpenError::from)? {
                    tally.count(&change, &event);
                }
            }
        }
        self.memory.recount_from(&change, |sums| {
            if !change.counters.is_empty() {
                self.books.queue.flush()?;
                let meanwhile = reader.events_after(counted).map_err(OpenError::from)?;
                meanwhile.iter().for_each(|event| tally.count(&change, event));
                *sums = tally;
            }
            Ok(reader.forgotten().map_err(OpenError::from)?)
        })
    }
}

impl Store for Sqlite {
    type Check = Ready<Result<Checked, Error>>;
    type Settle = Acknowledged;
    type Release = Ready<Result<(), Error>>;

    const SETTLES_AT_CALL: bool = true;

    fn check(&self, operation: CheckOperation<'_>) -> Self::Check {
        if operation.hold.is_none() {
            return self.memory.check(operation);
        }
        let places = self.books.places_of_a_hold();
        if let Err(error) = self.reserve(places) {
            return ready(Err(error));
        }
        let checked = self.memory.check(operation).into_inner();
        if !checked.as_ref().is_ok_and(|checked| checked.place.is_some()) {
            self.books.queue.give_back(places);
        }
        ready(checked)
    }

    fn settle(&self, operation: SettleOperation<'_>) -> Self::Settle {
        self.books.queue.saw(operation.now.wall());
        let held = matches!(operation.origin, Origin::Held(_) | Origin::Unsure(_));
        if !held && let Err(unavailable) = self.reserve(1) {
            return Acknowledged { settled: Some(Err(unavailable)), commit: None };
        }
        let settled = self.memory.settle(operation).into_inner();
        if !held && !settled.as_ref().is_ok_and(is_new) {
            self.books.queue.give_back(1);
        }
        let nothing = |settled: &Settled| settled.outcome.may_change();
        let waits = !settled.as_ref().is_ok_and(nothing);
        let commit = if waits { self.books.queue.committed() } else { None };
        Acknowledged { settled: Some(settled), commit }
    }

    fn settle_many<'a>(
        &'a self,
        operations: Vec<SettleOperation<'a>>,
    ) -> BoxFuture<'a, Vec<Result<Settled, Error>>> {
        // Each is decided at the call, and one commit is waited for.
        let mut lanes = Lanes::default();
        let mut decided = Vec::with_capacity(operations.len());
        for operation in operations {
            let customer = operation.customer;
            decided.push(match lanes.stopped(customer) {
                Some(stopped) => Acknowledged { settled: Some(stopped), commit: None },
                None => {
                    let mut step = self.settle(operation);
                    step.settled = step.settled.take().map(|answer| lanes.note(customer, answer));
                    step
                }
            });
        }
        Box::pin(async move {
            let mut answers = Vec::with_capacity(decided.len());
            for step in decided {
                answers.push(step.await);
            }
            answers
        })
    }

    fn release(&self, key: HoldKey<'_>, now: Moment<'_>) -> Self::Release {
        self.memory.release(key, now)
    }

    fn record<'a>(
        &'a self,
        operations: Vec<SettleOperation<'a>>,
    ) -> BoxFuture<'a, Result<Vec<Settled>, Error>> {
        operations.iter().for_each(|operation| self.books.queue.saw(operation.now.wall()));
        let used =
            |settled: &Vec<Settled>| settled.iter().filter(|settled| is_new(settled)).count();
        Box::pin(self.change(
            operations.len(),
            async { self.memory.record(operations).await },
            used,
        ))
    }

    fn renew<'a>(
        &'a self,
        keys: Vec<HoldKey<'a>>,
        lifetime: Duration,
        now: Moment<'a>,
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        self.memory.renew(keys, lifetime, now)
    }

    fn create_balance<'a>(
        &'a self,
        customer: &'a CustomerId,
        terms: &'a NewBalance,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Balance, Error>> {
        let create = async move { self.memory.create_balance(customer, terms, at).await };
        Box::pin(self.change(1, create, |_| 1))
    }

    fn set_minimum<'a>(
        &'a self,
        customer: &'a CustomerId,
        name: &'a str,
        minimum: Amount,
    ) -> BoxFuture<'a, Result<Option<Balance>, Error>> {
        let set = async move { self.memory.set_minimum(customer, name, minimum).await };
        let used = |balance: &Option<Balance>| usize::from(balance.is_some());
        Box::pin(self.change(1, set, used))
    }

    fn credit<'a>(&'a self, change: BalanceChange<'a>) -> BoxFuture<'a, Result<Credited, Error>> {
        Box::pin(async move {
            let credit = async { self.memory.credit(change).await };
            let used = |credited: &Credited| usize::from(credited.applied);
            let mut credited = self.change(1, credit, used).await?;
            if let (None, Some(reference)) = (&credited.transaction, change.reference) {
                let earlier =
                    self.books.reader.credit(change.customer, change.balance.name, reference);
                credited.transaction = earlier.map_err(OpenError::from)?;
            }
            Ok(credited)
        })
    }

    fn debit<'a>(&'a self, change: BalanceChange<'a>) -> BoxFuture<'a, Result<Debited, Error>> {
        Box::pin(async move {
            let debit = async { self.memory.debit_now(change) };
            let (debited, _) = self.change(1, debit, |(_, is_new)| usize::from(*is_new)).await?;
            Ok(debited)
        })
    }

    fn balances<'a>(
        &'a self,
        customer: &'a CustomerId,
        defaults: &'a [NewBalance],
        now: Moment<'a>,
    ) -> BoxFuture<'a, Result<Vec<Balance>, Error>> {
        self.memory.balances(customer, defaults, now)
    }

    fn with_balances<'a>(
        &'a self,
        from: Option<&'a CustomerId>,
        most: usize,
        defaults: &'a [NewBalance],
    ) -> BoxFuture<'a, Result<Vec<CustomerId>, Error>> {
        self.memory.with_balances(from, most, defaults)
    }

    fn transactions<'a>(
        &'a self,
        customer: &'a CustomerId,
        balance: BalanceRef<'a>,
    ) -> BoxFuture<'a, Result<Vec<Transaction>, Error>> {
        Box::pin(async move {
            let untouched = self.memory.transactions(customer, balance).await?;
            self.committed(Ok(())).await?;
            let ledger = self.books.reader.ledger(customer, balance.name);
            match ledger.map_err(OpenError::from)? {
                Some((opening, rows)) if !rows.is_empty() => Ok(with_opening(opening, rows)),
                _ => Ok(untouched),
            }
        })
    }

    fn events<'a>(
        &'a self,
        visit: &'a mut (dyn FnMut(&RecordedEvent) -> bool + Send),
    ) -> BoxFuture<'a, Result<Option<Timestamp>, Error>> {
        Box::pin(async move {
            self.committed(Ok(())).await?;
            self.visit(Wanted::default(), visit).await?;
            Ok(self.books.reader.forgotten().map_err(OpenError::from)?)
        })
    }

    fn events_before<'a>(
        &'a self,
        wanted: Wanted<'a>,
        visit: &'a mut (dyn FnMut(&RecordedEvent) -> bool + Send),
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.committed(Ok(())).await?;
            self.visit(wanted, visit).await
        })
    }

    fn find<'a>(
        &'a self,
        customer: &'a CustomerId,
        id: &'a EventId,
    ) -> BoxFuture<'a, Result<Option<Found>, Error>> {
        Box::pin(async move {
            self.committed(Ok(())).await?;
            Ok(self.books.reader.find(customer, id).map_err(OpenError::from)?)
        })
    }

    fn read<'a>(
        &'a self,
        customer: &'a CustomerId,
        counter: u32,
        window: Window,
    ) -> BoxFuture<'a, Result<Amount, Error>> {
        self.memory.read(customer, counter, window)
    }

    fn recount<'a>(
        &'a self,
        change: Recount<'a>,
    ) -> BoxFuture<'a, Result<Option<Timestamp>, Error>> {
        Box::pin(self.count_again(change))
    }

    fn sweep<'a>(&'a self, now: Moment<'a>) -> BoxFuture<'a, Result<(), Error>> {
        self.books.queue.saw(now.wall());
        self.memory.sweep(now)
    }

    fn open_holds(&self) -> BoxFuture<'_, Result<usize, Error>> {
        self.memory.open_holds()
    }

    fn customers(&self) -> BoxFuture<'_, Result<usize, Error>> {
        self.memory.customers()
    }

    fn load(&self, now: Moment<'_>) -> Result<Option<Kept>, Error> {
        self.books.queue.saw(now.wall());
        let file = schema::open_to_read(&self.path).map_err(OpenError::from)?;
        read::fill(&file, &self.memory, now.wall()).map_err(OpenError::from)?;
        let mut kept = definition::load(&file).map_err(OpenError::from)?;
        kept.holds = read::holds(&file).map_err(OpenError::from)?;
        Ok(Some(kept))
    }

    fn alerts<'a>(&'a self, now: Moment<'a>) -> BoxFuture<'a, Result<Vec<KeptAlert>, Error>> {
        let alerts = self.books.reader.alerts(now.wall()).map_err(OpenError::from);
        Box::pin(ready(alerts.map_err(Error::from)))
    }

    fn keep<'a>(&'a self, changes: &[Keep<'_>]) -> BoxFuture<'a, Result<(), Error>> {
        let notes: Result<Vec<_>, _> =
            changes.iter().filter_map(|keep| Note::of(keep).transpose()).collect();
        let noted = match notes {
            // Only asks whether there could be any.
            Ok(notes) if notes.is_empty() => self.books.queue.is_open(),
            Ok(notes) => {
                self.books.queue.put_beyond(Change::Noted(notes));
                Ok(())
            }
            Err(error) => {
                let message = "a definition cannot be written as JSON";
                Err(Error::new(ErrorKind::Invalid, message).with_source(error))
            }
        };
        Box::pin(async {
            noted?;
            self.attempted().await
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.committed(Ok(())))
    }
}

fn is_new(settled: &Settled) -> bool {
    settled.outcome == SettleOutcome::Recorded
}

/// A ledger led by what the balance held before its first row, unless that was nothing.
fn with_opening(opening: Amount, rows: Vec<Transaction>) -> Vec<Transaction> {
    let first = rows.first().filter(|_| opening != Amount::ZERO);
    let leading = first.map(|first| Transaction {
        id: EventId::from_uuid(0),
        customer: first.customer.clone(),
        balance: first.balance.clone(),
        kind: TransactionKind::Opening,
        amount: opening,
        balance_after: opening,
        description: None,
        reference: None,
        at: first.at,
        sequence: first.sequence.saturating_sub(1),
    });
    leading.into_iter().chain(rows).collect()
}
