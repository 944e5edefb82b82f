//! The memory store behind a handle that the test keeps.

use std::sync::Arc;
use std::time::Duration;

use tower_limitry::Error;
use tower_limitry::policy::{
    Amount, Balance, Credited, CustomerId, Debited, NewBalance, RecordedEvent, Timestamp,
    Transaction, Window,
};
use tower_limitry::store::{
    BalanceChange, BalanceRef, BoxFuture, CheckOperation, HoldKey, Memory, Moment, Recount,
    SettleOperation, Settled, Store,
};

#[derive(Clone, Debug)]
pub(crate) struct Shared(pub(crate) Arc<Memory>);

impl Shared {
    pub(crate) fn new(memory: Memory) -> Self {
        Self(Arc::new(memory))
    }
}

impl Store for Shared {
    type Check = <Memory as Store>::Check;
    type Settle = <Memory as Store>::Settle;
    type Release = <Memory as Store>::Release;

    fn check(&self, operation: CheckOperation<'_>) -> Self::Check {
        self.0.check(operation)
    }

    fn settle(&self, operation: SettleOperation<'_>) -> Self::Settle {
        self.0.settle(operation)
    }

    fn release(&self, key: HoldKey<'_>, now: Moment<'_>) -> Self::Release {
        self.0.release(key, now)
    }

    fn record<'a>(
        &'a self,
        operations: Vec<SettleOperation<'a>>,
    ) -> BoxFuture<'a, Result<Vec<Settled>, Error>> {
        self.0.record(operations)
    }

    fn renew<'a>(
        &'a self,
        keys: Vec<HoldKey<'a>>,
        lifetime: Duration,
        now: Moment<'a>,
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        self.0.renew(keys, lifetime, now)
    }

    fn create_balance<'a>(
        &'a self,
        customer: &'a CustomerId,
        terms: &'a NewBalance,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Balance, Error>> {
        self.0.create_balance(customer, terms, at)
    }

    fn credit<'a>(&'a self, change: BalanceChange<'a>) -> BoxFuture<'a, Result<Credited, Error>> {
        self.0.credit(change)
    }

    fn debit<'a>(&'a self, change: BalanceChange<'a>) -> BoxFuture<'a, Result<Debited, Error>> {
        self.0.debit(change)
    }

    fn balances<'a>(
        &'a self,
        customer: &'a CustomerId,
        defaults: &'a [NewBalance],
        now: Moment<'a>,
    ) -> BoxFuture<'a, Result<Vec<Balance>, Error>> {
        self.0.balances(customer, defaults, now)
    }

    fn transactions<'a>(
        &'a self,
        customer: &'a CustomerId,
        balance: BalanceRef<'a>,
    ) -> BoxFuture<'a, Result<Vec<Transaction>, Error>> {
        self.0.transactions(customer, balance)
    }

    fn events<'a>(
        &'a self,
        visit: &'a mut (dyn FnMut(&RecordedEvent) -> bool + Send),
    ) -> BoxFuture<'a, Result<Option<Timestamp>, Error>> {
        self.0.events(visit)
    }

    fn read<'a>(
        &'a self,
        customer: &'a CustomerId,
        counter: u32,
        window: Window,
    ) -> BoxFuture<'a, Result<Amount, Error>> {
        self.0.read(customer, counter, window)
    }

    fn recount<'a>(
        &'a self,
        change: Recount<'a>,
    ) -> BoxFuture<'a, Result<Option<Timestamp>, Error>> {
        self.0.recount(change)
    }

    fn sweep<'a>(&'a self, now: Moment<'a>) -> BoxFuture<'a, Result<(), Error>> {
        self.0.sweep(now)
    }

    fn open_holds(&self) -> BoxFuture<'_, Result<usize, Error>> {
        self.0.open_holds()
    }

    fn customers(&self) -> BoxFuture<'_, Result<usize, Error>> {
        self.0.customers()
    }
}
