//! The engine over a store that answers later: what is on its way is never lost and never doubled.
//!
//! The store takes every step when the test lets it, and answers when it has. As with a server, a
//! step that was sent happens, whether or not somebody waits for it.

#![cfg(feature = "test-util")]
#![allow(clippy::unwrap_used)]

mod support;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use support::*;
use tokio::sync::{Semaphore, oneshot};
use tower_limitry::policy::{
    Amount, Balance, Credited, CustomerId, Debited, NewBalance, RecordedEvent, Timestamp,
    Transaction, Window,
};
use tower_limitry::store::{
    BalanceAsk, BalanceChange, BalanceRef, BoxFuture, CheckOperation, Checked, HoldKey, Memory,
    Moment, Recount, SettleOperation, Settled, Store,
};
use tower_limitry::{Books, Error, ErrorKind, Limit};

/// How many steps of one kind may be taken, and how many were.
#[derive(Debug)]
struct Gate {
    open: Semaphore,
    sent: AtomicUsize,
    taken: AtomicUsize,
}

impl Gate {
    fn new() -> Self {
        Self { open: Semaphore::new(0), sent: AtomicUsize::new(0), taken: AtomicUsize::new(0) }
    }

    fn open(&self) {
        self.open.add_permits(1_000_000);
    }

    async fn pass(&self) {
        self.open.acquire().await.unwrap().forget();
    }

    /// Until so many steps were taken.
    async fn until_taken(&self, count: usize) {
        while self.taken.load(SeqCst) < count {
            tokio::task::yield_now().await;
        }
    }
}

#[derive(Clone, Debug)]
struct Waiting(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    memory: Memory,
    checks: Gate,
    settles: Gate,
    releases: Gate,
}

impl Waiting {
    fn new() -> Self {
        Self(Arc::new(Inner {
            memory: Memory::new(),
            checks: Gate::new(),
            settles: Gate::new(),
            releases: Gate::new(),
        }))
    }

    /// Sends a step: it happens when its gate is open, whoever still waits for the answer.
    fn send<T: Send + 'static>(
        &self,
        gate: fn(&Inner) -> &Gate,
        step: impl FnOnce(&Memory) -> T + Send + 'static,
    ) -> BoxFuture<'static, T> {
        let inner = Arc::clone(&self.0);
        let (sender, answer) = oneshot::channel();
        gate(&inner).sent.fetch_add(1, SeqCst);
        tokio::spawn(async move {
            gate(&inner).pass().await;
            let _nobody_waits = sender.send(step(&inner.memory));
            gate(&inner).taken.fetch_add(1, SeqCst);
        });
        Box::pin(async move { answer.await.unwrap() })
    }
}

/// What the memory store answers at once.
fn at_once<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("the memory store answers at once"),
    }
}

impl Store for Waiting {
    type Check = BoxFuture<'static, Result<Checked, Error>>;
    type Settle = BoxFuture<'static, Result<Settled, Error>>;
    type Release = BoxFuture<'static, Result<(), Error>>;

    fn check(&self, operation: CheckOperation<'_>) -> Self::Check {
        let (epoch, now, hold) = (operation.epoch, operation.now.read(), operation.hold);
        let (id, customer) = (operation.id.clone(), operation.customer.clone());
        let attempt = operation.attempt;
        let (event_type, expected) = (operation.event_type.to_owned(), operation.expected.clone());
        let (lines, asked) = (operation.lines.to_vec(), operation.asked.to_vec());
        let mut judged = operation.judged.to_vec();
        let balance = operation
            .balance
            .map(|ask| (ask.balance.name.to_owned(), ask.balance.default.cloned(), ask.asked));
        self.send(
            |inner| &inner.checks,
            move |memory| {
                let balance = balance.as_ref().map(|(name, default, asked)| BalanceAsk {
                    balance: BalanceRef { name, default: default.as_ref() },
                    asked: *asked,
                });
                let mut checked = at_once(memory.check(CheckOperation {
                    epoch,
                    now,
                    id: &id,
                    attempt,
                    customer: &customer,
                    lines: &lines,
                    asked: &asked,
                    judged: &mut judged,
                    balance,
                    hold,
                    event_type: &event_type,
                    expected: &expected,
                }))?;
                checked.judged = judged;
                Ok(checked)
            },
        )
    }

    fn settle(&self, operation: SettleOperation<'_>) -> Self::Settle {
        let (epoch, now, origin, at) =
            (operation.epoch, operation.now.read(), operation.origin, operation.at);
        let (id, customer) = (operation.id.clone(), operation.customer.clone());
        let (event_type, mut usage) = (operation.event_type.to_owned(), operation.usage.clone());
        let (lines, given) = (operation.lines.to_vec(), operation.given.to_vec());
        assert!(operation.charge.is_none(), "not needed here");
        self.send(
            |inner| &inner.settles,
            move |memory| {
                at_once(memory.settle(SettleOperation {
                    epoch,
                    now,
                    id: &id,
                    customer: &customer,
                    origin,
                    event_type: &event_type,
                    usage: &mut usage,
                    at,
                    lines: &lines,
                    given: &given,
                    charge: None,
                    reverses: false,
                    mark: None,
                }))
            },
        )
    }

    fn release(&self, key: HoldKey<'_>, now: Moment<'_>) -> Self::Release {
        let (id, customer, place) = (key.id.clone(), key.customer.clone(), key.place);
        let (attempt, now) = (key.attempt, now.read());
        self.send(
            |inner| &inner.releases,
            move |memory| {
                let key = HoldKey { id: &id, customer: &customer, place, attempt };
                at_once(memory.release(key, now))
            },
        )
    }

    fn record<'a>(
        &'a self,
        operations: Vec<SettleOperation<'a>>,
    ) -> BoxFuture<'a, Result<Vec<Settled>, Error>> {
        self.0.memory.record(operations)
    }

    fn renew<'a>(
        &'a self,
        keys: Vec<HoldKey<'a>>,
        lifetime: Duration,
        now: Moment<'a>,
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        self.0.memory.renew(keys, lifetime, now)
    }

    fn create_balance<'a>(
        &'a self,
        customer: &'a CustomerId,
        terms: &'a NewBalance,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Balance, Error>> {
        self.0.memory.create_balance(customer, terms, at)
    }

    fn credit<'a>(&'a self, change: BalanceChange<'a>) -> BoxFuture<'a, Result<Credited, Error>> {
        self.0.memory.credit(change)
    }

    fn debit<'a>(&'a self, change: BalanceChange<'a>) -> BoxFuture<'a, Result<Debited, Error>> {
        self.0.memory.debit(change)
    }

    fn balances<'a>(
        &'a self,
        customer: &'a CustomerId,
        defaults: &'a [NewBalance],
        now: Moment<'a>,
    ) -> BoxFuture<'a, Result<Vec<Balance>, Error>> {
        self.0.memory.balances(customer, defaults, now)
    }

    fn transactions<'a>(
        &'a self,
        customer: &'a CustomerId,
        balance: BalanceRef<'a>,
    ) -> BoxFuture<'a, Result<Vec<Transaction>, Error>> {
        self.0.memory.transactions(customer, balance)
    }

    fn events<'a>(
        &'a self,
        visit: &'a mut (dyn FnMut(&RecordedEvent) -> bool + Send),
    ) -> BoxFuture<'a, Result<Option<Timestamp>, Error>> {
        self.0.memory.events(visit)
    }

    fn read<'a>(
        &'a self,
        customer: &'a CustomerId,
        counter: u32,
        window: Window,
    ) -> BoxFuture<'a, Result<Amount, Error>> {
        self.0.memory.read(customer, counter, window)
    }

    fn recount<'a>(
        &'a self,
        change: Recount<'a>,
    ) -> BoxFuture<'a, Result<Option<Timestamp>, Error>> {
        self.0.memory.recount(change)
    }

    fn sweep<'a>(&'a self, now: Moment<'a>) -> BoxFuture<'a, Result<(), Error>> {
        self.0.memory.sweep(now)
    }

    fn open_holds(&self) -> BoxFuture<'_, Result<usize, Error>> {
        self.0.memory.open_holds()
    }

    fn customers(&self) -> BoxFuture<'_, Result<usize, Error>> {
        self.0.memory.customers()
    }
}

fn opened() -> (Books, Waiting) {
    let store = Waiting::new();
    (hundred_a_day(&noon()).build_on(store.clone()).unwrap().erased(), store)
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

async fn settled_tokens(books: &Books) -> Amount {
    let events = books.events(Default::default()).await.unwrap().items;
    let tokens = events.iter().filter_map(|event| event.usage().value("total_tokens"));
    tokens.fold(Amount::ZERO, Amount::saturating_add)
}

#[tokio::test]
async fn a_check_is_answered_when_its_store_is() {
    let (books, store) = opened();
    let mut check = Box::pin(books.check(ask("ada", 60)));
    assert!(poll(check.as_mut()).is_pending());
    store.0.checks.open();
    let permit = check.await.unwrap();
    assert_eq!(of(permit.decision().limits(), "daily").held, amount(60));
    store.0.settles.open();
    permit.settle(total(50)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(50), amount(0)));
}

/// The client goes away while its check is on the way, and the release arrives first.
#[tokio::test]
async fn a_release_that_overtakes_its_check_leaves_it_nothing_to_place() {
    let (books, store) = opened();
    let check = books.check(ask("ada", 60));
    drop(check);
    store.0.releases.open();
    store.0.releases.until_taken(1).await;
    assert_eq!(store.0.checks.taken.load(SeqCst), 0);
    store.0.checks.open();
    store.0.checks.until_taken(1).await;
    assert_eq!(books.open_holds().await.unwrap(), 0);
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(0)));
}

#[tokio::test]
async fn a_release_that_follows_its_check_takes_what_it_placed() {
    let (books, store) = opened();
    let mut check = Box::pin(books.check(ask("ada", 60)));
    assert!(poll(check.as_mut()).is_pending());
    drop(check);
    store.0.checks.open();
    store.0.checks.until_taken(1).await;
    assert_eq!(books.open_holds().await.unwrap(), 1);
    store.0.releases.open();
    books.settled().await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(0)));
}

#[tokio::test]
async fn a_settlement_that_nobody_waits_for_is_recorded() {
    let (books, store) = opened();
    store.0.checks.open();
    let permit = admitted(&books, ask("ada", 60)).await;
    drop(permit.settle(total(50)));
    assert_eq!(settled_tokens(&books).await, amount(0));
    store.0.settles.open();
    books.settled().await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(50), amount(0)));
}

#[tokio::test]
async fn a_permit_that_is_dropped_on_another_thread_releases() {
    let (books, store) = opened();
    store.0.checks.open();
    store.0.releases.open();
    let permit = admitted(&books, ask("ada", 60)).await;
    let handle = tokio::runtime::Handle::current();
    let dropping = std::thread::spawn(move || {
        // The store itself needs the runtime; the engine would find it without.
        let _inside = handle.enter();
        drop(permit);
    });
    dropping.join().unwrap();
    books.settled().await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(0)));
}

#[tokio::test]
async fn definitions_that_change_meanwhile_are_what_counts() {
    for event_type in [None, Some("chat")] {
        definitions_change(event_type).await;
    }
}

async fn definitions_change(event_type: Option<&str>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = Arc::clone(&told);
    let store = Waiting::new();
    let books = hundred_a_day(&noon())
        .on_event(move |event| telling.lock().unwrap().push(event.usage().clone()))
        .build_on(store.clone())
        .unwrap()
        .erased();
    let ask = |tokens: u32| match event_type {
        Some(named) => ask("ada", tokens).event_type(named),
        None => ask("ada", tokens),
    };
    let mut check = Box::pin(books.check(ask(60)));
    assert!(poll(check.as_mut()).is_pending());
    let hourly = |cap: u32| Limit::per_hour("hourly", "tokens", cap);
    books.put_limit(hourly(70)).await.unwrap();
    store.0.checks.open();
    let permit = check.await.unwrap();
    assert_eq!(store.0.checks.sent.load(SeqCst), 2);
    assert_eq!(of(permit.decision().limits(), "hourly").held, amount(60));

    let settling = permit.settle(total(65));
    books.put_limit(Limit::per_week("weekly", "tokens", 500)).await.unwrap();
    store.0.settles.open();
    settling.await.unwrap();
    assert_eq!(store.0.settles.sent.load(SeqCst), 2);
    for id in ["daily", "hourly", "weekly"] {
        assert_eq!(used_held(&books, "ada", id).await, (amount(65), amount(0)), "{id}");
    }
    assert_eq!(settled_tokens(&books).await, amount(65));
    assert_eq!(*told.lock().unwrap(), [total(65)]);
}

#[tokio::test]
async fn a_check_on_its_way_while_the_books_are_closed_places_nothing() {
    let (books, store) = opened();
    let mut check = Box::pin(books.check(ask("ada", 60)));
    assert!(poll(check.as_mut()).is_pending());
    books.shutdown(MINUTE).await.unwrap();
    store.0.checks.open();
    let error = match check.await {
        Err(tower_limitry::CheckError::Failed(error)) => error,
        answer => panic!("{answer:?}"),
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(books.open_holds().await.unwrap(), 0);
}

#[tokio::test]
async fn shutdown_waits_for_settlements_on_their_way() {
    let (books, store) = opened();
    store.0.checks.open();
    let permit = admitted(&books, ask("ada", 60)).await;
    drop(permit.settle(total(50)));
    let mut shutdown = Box::pin(books.shutdown(MINUTE));
    assert!(poll(shutdown.as_mut()).is_pending());
    store.0.settles.open();
    shutdown.await.unwrap();
    assert_eq!(settled_tokens(&books).await, amount(50));
}

/// Two requests of one id, the second of which goes away before it hears that the first is running.
#[tokio::test]
async fn an_attempt_that_goes_away_leaves_the_running_one_alone() {
    let (books, store) = opened();
    store.0.checks.open();
    store.0.releases.open();
    store.0.settles.open();
    let permit = admitted(&books, ask("ada", 10).id("order-1")).await;
    drop(books.check(ask("ada", 10).id("order-1")));
    store.0.checks.until_taken(2).await;
    while store.0.releases.taken.load(SeqCst) < store.0.releases.sent.load(SeqCst) {
        tokio::task::yield_now().await;
    }
    permit.settle(total(10)).await.unwrap();
    assert_eq!(settled_tokens(&books).await, amount(10));
}

/// The second of one id goes away, and its release arrives before its check: it took the first for its
/// own, whose use was lost.
#[tokio::test]
async fn an_attempt_that_goes_away_leaves_alone_one_that_outlived_its_hold() {
    let clock = noon();
    let store = Waiting::new();
    let books = hundred_a_day(&clock).build_on(store.clone()).unwrap().erased();
    let check = || ask("ada", 10).id("order-1").hold_for(MINUTE);
    store.0.checks.open.add_permits(1);
    let permit = admitted(&books, check()).await;
    clock.advance(2 * MINUTE);
    assert_eq!(books.open_holds().await.unwrap(), 0);
    drop(books.check(check()));
    store.0.releases.open();
    store.0.releases.until_taken(1).await;
    store.0.checks.open();
    store.0.checks.until_taken(2).await;
    assert_eq!(books.open_holds().await.unwrap(), 0);
    store.0.settles.open();
    permit.settle(total(10)).await.unwrap();
    assert_eq!(settled_tokens(&books).await, amount(10));
}
