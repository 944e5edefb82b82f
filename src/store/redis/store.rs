use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use redis::cmd;
use tokio::runtime::Handle;

use super::check::Asked;
use super::link::{Begun, CallError};
use super::settle::Sent;
use super::{Inner, Redis, keys, reply};
use crate::policy::{
    Amount, Balance, Credited, CustomerId, Debited, EventId, NewBalance, RecordedEvent, Timestamp,
    Transaction, Window,
};
use crate::store::{
    Alone, BalanceChange, BalanceRef, BoxFuture, CheckOperation, Checked, CountedBy, Found,
    HoldKey, Keep, Kept, KeptAlert, Lanes, Moment, Origin, Outcome, Recount, RolledUp, Rollups,
    SettleOperation, SettleOutcome, Settled, Store, Wanted,
};
use crate::{Error, ErrorKind};

/// The answer of the server, once it has come.
pub struct Answered<T>(Begun<Result<T, Error>>);

impl<T> Answered<T> {
    fn to(work: impl Future<Output = Result<T, Error>> + Send + 'static) -> Self {
        Self(Begun::new(work))
    }
}

impl<T: Unpin> Future for Answered<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> fmt::Debug for Answered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answered").finish_non_exhaustive()
    }
}

/// Tells that an operation is out of date. Not at once: whoever asks would resolve it again before
/// the definitions are there.
async fn stale() {
    let mut left = 2;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Inner {
    fn send(self: &Arc<Self>, operation: &SettleOperation<'_>) -> Answered<Settled> {
        let renewal = self.renew_when_due(operation.now);
        let sent = Sent::of(self, operation);
        let charges = operation.charge.is_some();
        let store = Arc::clone(self);
        Answered::to(async move {
            if let Some(renewal) = renewal {
                renewal.await?;
            }
            let Some(sent) = sent else {
                stale().await;
                return Ok(Settled::nothing(SettleOutcome::Stale));
            };
            let settled = sent.answer().await?;
            if charges && settled.outcome == SettleOutcome::Recorded {
                store.wait_for_replicas().await;
            }
            Ok(settled)
        })
    }

    /// Gives replicas time to follow, where that is wanted.
    async fn wait_for_replicas(&self) {
        let Some((replicas, at_most)) = self.wait else { return };
        let mut wait = cmd("WAIT");
        wait.arg(replicas).arg(at_most.as_millis() as u64);
        let end = self.caller.deadline() + at_most;
        // It is done, whether they have it or not.
        let _ = self.caller.call(&wait, end).await;
    }

    /// Whether an event would be refused; asked before several are recorded, so that it is all or
    /// none of them.
    async fn would_refuse(
        &self,
        operations: &[SettleOperation<'_>],
    ) -> Result<Option<(usize, SettleOutcome)>, Error> {
        let mut asked = Vec::new();
        for (at, operation) in operations.iter().enumerate() {
            let SettleOperation { epoch, now, customer, .. } = *operation;
            let Some(mut call) = self.begin(&self.scripts.look, customer, &[], epoch, now) else {
                stale().await;
                return Ok(Some((at, SettleOutcome::Stale)));
            };
            if operation.origin == Origin::Given {
                let at = operation.at.as_nanos().div_euclid(1_000);
                call.pieces(&[keys::HOLD, operation.id.write(&mut [0; 36])]).arg(at);
            }
            let caller = self.caller.clone();
            let look = async move { call.run(&caller, caller.deadline()).await };
            asked.push((at, Begun::new(look)));
        }
        for (at, look) in asked {
            let mut answer = reply::Reply::of(look.await?)?;
            if answer.text()? != "n" {
                return Ok(Some((at, SettleOutcome::Stale)));
            }
            if answer.next() == Some(redis::Value::Int(1)) {
                return Ok(Some((at, SettleOutcome::TooOld)));
            }
        }
        Ok(None)
    }

    /// Sends many: each customer's one after the other, customers beside each other.
    async fn send_many(
        self: &Arc<Self>,
        operations: Vec<SettleOperation<'_>>,
    ) -> Vec<Result<Settled, Error>> {
        let mut lanes: HashMap<&CustomerId, Vec<(usize, &SettleOperation<'_>)>> = HashMap::new();
        for (at, operation) in operations.iter().enumerate() {
            lanes.entry(operation.customer).or_default().push((at, operation));
        }
        let mut answers: Vec<Option<Result<Settled, Error>>> =
            operations.iter().map(|_| None).collect();
        let mut order = Lanes::default();
        let mut round = 0;
        loop {
            let next = lanes.values().filter_map(|lane| lane.get(round).copied());
            let mut next: Vec<_> = next.collect();
            next.sort_unstable_by_key(|(at, _)| *at);
            let begun: Vec<_> = next
                .into_iter()
                .map(|(at, operation)| {
                    let stopped = order.stopped(operation.customer);
                    (at, operation.customer, stopped.map_or_else(|| Ok(self.send(operation)), Err))
                })
                .collect();
            if begun.is_empty() {
                break;
            }
            for (at, customer, sent) in begun {
                answers[at] = Some(match sent {
                    Ok(sent) => order.note(customer, sent.await),
                    Err(stopped) => stopped,
                });
            }
            round += 1;
        }
        let left_out = || Error::new(ErrorKind::Unavailable, "the store left out a settlement");
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(left_out()))).collect()
    }

    async fn record(
        self: &Arc<Self>,
        operations: Vec<SettleOperation<'_>>,
    ) -> Result<Vec<Settled>, Error> {
        if operations.len() > 1
            && let Some((at, outcome)) = self.would_refuse(&operations).await?
        {
            let refused = if outcome == SettleOutcome::Stale { operations.len() } else { at + 1 };
            return Ok(vec![Settled::nothing(outcome); refused]);
        }
        if !self.caller.is_cluster() {
            return self.send_many(operations).await.into_iter().collect();
        }
        // Nodes do not wait for each other; what is listed is in the order of arrival.
        let mut answers = Vec::with_capacity(operations.len());
        for operation in &operations {
            answers.push(self.send(operation).await?);
        }
        Ok(answers)
    }

    async fn used(
        &self,
        customer: &CustomerId,
        counter: u32,
        window: Window,
    ) -> Result<Amount, CallError> {
        let names = self.shared.names();
        let Some(name) = names.get(counter as usize) else { return Ok(Amount::ZERO) };
        let field = format!("u{}.{name}", keys::end(&window));
        let key = self.shared.keys.of(keys::BOOKS, customer);
        let get = super::shared::hget(&key, &field);
        let value = self.caller.call(&get, self.caller.deadline()).await?;
        Ok(reply::amount(&value)?.unwrap_or(Amount::ZERO))
    }
}

impl Store for Redis {
    type Check = Answered<Checked>;
    type Settle = Answered<Settled>;
    type Release = Answered<()>;

    const SETTLES_AT_CALL: bool = true;

    fn check(&self, operation: CheckOperation<'_>) -> Self::Check {
        let renewal = self.inner.renew_when_due(operation.now);
        let asked = Asked::of(&self.inner, &operation);
        Answered::to(async move {
            if let Some(renewal) = renewal {
                renewal.await?;
            }
            match asked {
                Some(asked) => asked.answer().await,
                None => {
                    stale().await;
                    let (outcome, judged) = (Outcome::Stale, Vec::new());
                    Ok(Checked { outcome, place: None, judged, balance: None })
                }
            }
        })
    }

    fn settle(&self, operation: SettleOperation<'_>) -> Self::Settle {
        self.inner.send(&operation)
    }

    fn settle_many<'a>(
        &'a self,
        operations: Vec<SettleOperation<'a>>,
    ) -> BoxFuture<'a, Vec<Result<Settled, Error>>> {
        Box::pin(self.inner.send_many(operations))
    }

    fn release(&self, key: HoldKey<'_>, now: Moment<'_>) -> Self::Release {
        let inner = &self.inner;
        let renewal = inner.renew_when_due(now);
        let mut call = inner.begin_any(&inner.scripts.release, key.customer, &[], now);
        call.pieces(&[keys::HOLD, key.id.write(&mut [0; 36])]);
        match key.attempt {
            Some(attempt) => call.arg(attempt),
            None => call.arg(""),
        };
        let ending = inner.registry.ending();
        inner.registry.close(key.id, key.attempt);
        let caller = inner.caller.clone();
        Answered::to(async move {
            if let Some(renewal) = renewal {
                renewal.await?;
            }
            call.run(&caller, caller.deadline()).await?;
            drop(ending);
            Ok(())
        })
    }

    fn record<'a>(
        &'a self,
        operations: Vec<SettleOperation<'a>>,
    ) -> BoxFuture<'a, Result<Vec<Settled>, Error>> {
        Box::pin(self.inner.record(operations))
    }

    fn renew<'a>(
        &'a self,
        keys: Vec<HoldKey<'a>>,
        lifetime: Duration,
        now: Moment<'a>,
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        Box::pin(self.inner.renew(keys, lifetime, now))
    }

    fn create_balance<'a>(
        &'a self,
        customer: &'a CustomerId,
        terms: &'a NewBalance,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Balance, Error>> {
        Box::pin(async move {
            let opened = self.inner.open_balance(customer, terms, at).await?;
            self.inner.wait_for_replicas().await;
            Ok(opened)
        })
    }

    fn set_minimum<'a>(
        &'a self,
        customer: &'a CustomerId,
        name: &'a str,
        minimum: Amount,
    ) -> BoxFuture<'a, Result<Option<Balance>, Error>> {
        Box::pin(self.inner.set_minimum(customer, name, minimum))
    }

    fn with_balances<'a>(
        &'a self,
        from: Option<&'a CustomerId>,
        most: usize,
        defaults: &'a [NewBalance],
    ) -> BoxFuture<'a, Result<Vec<CustomerId>, Error>> {
        Box::pin(async move {
            let mut found = Vec::new();
            for customer in self.inner.all_customers().await? {
                if found.len() == most {
                    break;
                }
                if from.is_none_or(|from| customer >= *from)
                    && self.inner.has_balance(&customer, defaults).await?
                {
                    found.push(customer);
                }
            }
            Ok(found)
        })
    }

    fn credit<'a>(&'a self, change: BalanceChange<'a>) -> BoxFuture<'a, Result<Credited, Error>> {
        Box::pin(async move {
            let credited = self.inner.credit(change).await?;
            self.inner.wait_for_replicas().await;
            Ok(credited)
        })
    }

    fn debit<'a>(&'a self, change: BalanceChange<'a>) -> BoxFuture<'a, Result<Debited, Error>> {
        Box::pin(async move {
            if let Some(renewal) = self.inner.renew_when_due(change.now) {
                renewal.await?;
            }
            let debited = self.inner.debit(change).await?;
            self.inner.wait_for_replicas().await;
            Ok(debited)
        })
    }

    fn balances<'a>(
        &'a self,
        customer: &'a CustomerId,
        defaults: &'a [NewBalance],
        now: Moment<'a>,
    ) -> BoxFuture<'a, Result<Vec<Balance>, Error>> {
        Box::pin(async move {
            if let Some(renewal) = self.inner.renew_when_due(now) {
                renewal.await?;
            }
            self.inner.balances(customer, defaults, now).await
        })
    }

    fn transactions<'a>(
        &'a self,
        customer: &'a CustomerId,
        balance: BalanceRef<'a>,
    ) -> BoxFuture<'a, Result<Vec<Transaction>, Error>> {
        Box::pin(self.inner.transactions(customer, balance))
    }

    fn events<'a>(
        &'a self,
        visit: &'a mut (dyn FnMut(&RecordedEvent) -> bool + Send),
    ) -> BoxFuture<'a, Result<Option<Timestamp>, Error>> {
        Box::pin(async move {
            self.inner.visit(Wanted::default(), visit).await?;
            self.inner.forgotten(0..keys::SHARDS).await
        })
    }

    fn events_before<'a>(
        &'a self,
        wanted: Wanted<'a>,
        visit: &'a mut (dyn FnMut(&RecordedEvent) -> bool + Send),
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.inner.visit(wanted, visit))
    }

    fn forgotten<'a>(
        &'a self,
        customer: Option<&'a CustomerId>,
    ) -> BoxFuture<'a, Result<Option<Timestamp>, Error>> {
        let shard = customer.map(|customer| keys::shard_of(customer.as_str()));
        Box::pin(self.inner.forgotten(shard.map_or(0..keys::SHARDS, |shard| shard..shard + 1)))
    }

    fn rolled_up<'a>(
        &'a self,
        wanted: Rollups<'a>,
    ) -> BoxFuture<'a, Result<Option<RolledUp>, Error>> {
        Box::pin(self.inner.rolled_up(wanted))
    }

    fn find<'a>(
        &'a self,
        customer: &'a CustomerId,
        id: &'a EventId,
    ) -> BoxFuture<'a, Result<Option<Found>, Error>> {
        Box::pin(self.inner.find(customer, id))
    }

    fn read<'a>(
        &'a self,
        customer: &'a CustomerId,
        counter: u32,
        window: Window,
    ) -> BoxFuture<'a, Result<Amount, Error>> {
        Box::pin(async move { Ok(self.inner.used(customer, counter, window).await?) })
    }

    fn recount<'a>(
        &'a self,
        change: Recount<'a>,
    ) -> BoxFuture<'a, Result<Option<Timestamp>, Error>> {
        Box::pin(async move { self.inner.count_again(&change).await })
    }

    fn sweep<'a>(&'a self, now: Moment<'a>) -> BoxFuture<'a, Result<(), Error>> {
        self.inner.registry.sweep(now.monotonic());
        Box::pin(std::future::ready(Ok(())))
    }

    /// Those of this process.
    fn open_holds(&self) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(std::future::ready(Ok(self.inner.registry.count())))
    }

    fn customers(&self) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(async { Ok(self.inner.all_customers().await?.len()) })
    }

    fn load(&self, now: Moment<'_>) -> Result<Option<Kept>, Error> {
        let (inner, wall) = (Arc::clone(&self.inner), now.wall());
        self.link.block_on(async move {
            let fetched = inner.shared.fetch(&inner.caller, wall).await?;
            inner.shared.take(fetched, 0)?;
            inner.shared.loaded().map(Some)
        })
    }

    fn alerts<'a>(&'a self, now: Moment<'a>) -> BoxFuture<'a, Result<Vec<KeptAlert>, Error>> {
        Box::pin(self.inner.alerts(now.wall()))
    }

    fn alone(&self) -> BoxFuture<'_, Result<Alone, Error>> {
        let alone = self.link.spawn(Arc::clone(&self.inner).alone());
        Box::pin(async move { alone.await.map_err(|_| Error::from(CallError::Closed))? })
    }

    fn keep<'a>(&'a self, changes: &[Keep<'_>]) -> BoxFuture<'a, Result<(), Error>> {
        let mut note = match self.inner.shared.note(changes) {
            Ok(note) => note,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let inner = Arc::clone(&self.inner);
        // Who keeps nothing waits for what is being written.
        let begun = match changes {
            [] => None,
            _ => Arc::clone(&inner.writing).try_read_owned().ok(),
        };
        let writing = self.link.spawn(async move {
            if begun.is_none() {
                drop(inner.writing.write().await);
            }
            let rolled = std::mem::take(&mut note.rolled);
            inner.shared.write(&inner.caller, note).await?;
            inner.rolled_since_now(rolled).await?;
            drop(begun);
            Ok(())
        });
        Box::pin(async move { writing.await.map_err(|_| Error::from(CallError::Closed))? })
    }

    fn reload<'a>(&'a self, epoch: u64) -> BoxFuture<'a, Result<Option<Kept>, Error>> {
        Box::pin(async move {
            let now = Timestamp::from(std::time::SystemTime::now());
            let fetched = self.inner.shared.fetch(&self.inner.caller, now).await?;
            self.inner.shared.take(fetched, epoch)
        })
    }

    fn counted(&self) -> Result<Option<CountedBy>, Error> {
        self.inner.shared.counted().map(Some)
    }

    fn runtime(&self) -> Option<Handle> {
        Some(self.link.runtime().clone())
    }

    fn patience(&self) -> Option<BoxFuture<'static, ()>> {
        let caller = &self.inner.caller;
        Some(Box::pin(caller.sleep_until(caller.deadline())))
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
