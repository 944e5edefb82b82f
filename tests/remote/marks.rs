//! A queue delivers what it does not know to have arrived, however late, and to a server that has
//! lost its memory.

use std::time::Duration;

use tower_limitry::store::Sqlite;
use tower_limitry::{Books, NewBalance};

use crate::host::*;
use crate::proxy::{Mode, Proxy};
use crate::support::*;

const MONTH: Duration = Duration::from_secs(31 * 86_400);

/// It took the delivery and its answer was lost; then nobody could reach it for longer than it
/// remembers ids.
async fn answer_lost_for_a_month(books: Books, clock: tower_limitry::engine::ManualClock) {
    let host = Host::over(books).await;
    let proxy = Proxy::before(host.address).await;
    let process = remote(client(proxy.address).retries(0));
    let soon = outbox(&process).delivery_timeout(Duration::from_millis(200));
    let outbox = opened(soon, &crate::file::fresh()).await;
    let queue = Books::new(outbox.clone());
    queue.check(one("ada")).await.unwrap().settle(total(1)).await.unwrap();
    outbox.flush(STUCK).await.unwrap();

    let permit = queue.check(one("ada")).await.unwrap();
    proxy.set(Mode::BlackHole);
    permit.settle(total(1)).await.unwrap();
    eventually(async || (events(&host.books).await.len() == 2).then_some(())).await;
    // Something of every kind lets go of what is old.
    clock.advance(MONTH);
    for number in 0..20 {
        spend(&host.books, &format!("acct_{number}"), 1).await;
    }
    assert_eq!(outbox.stats().depth, 1);
    proxy.set(Mode::Refuse);
    proxy.set(Mode::Pass);
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(events(&host.books).await.len(), 22);
    assert_eq!(current(&host.books, "ada", "credits").await, amount(998));
}

#[tokio::test]
async fn a_repeat_that_comes_a_month_later_is_known_in_memory() {
    let clock = noon();
    let engine = hundred_a_day(&clock).default_balance(NewBalance::new("credits").initial(1_000));
    answer_lost_for_a_month(engine.build().unwrap().erased(), clock).await;
}

#[tokio::test]
async fn a_repeat_that_comes_a_month_later_is_known_to_a_file_that_let_its_event_go() {
    let clock = noon();
    let engine = hundred_a_day(&clock).default_balance(NewBalance::new("credits").initial(1_000));
    let store = Sqlite::open(crate::file::fresh()).unwrap();
    answer_lost_for_a_month(engine.build_on(store).unwrap().erased(), clock).await;
}

/// What was accepted waits for longer than a hold that nobody renewed is remembered.
#[tokio::test]
async fn what_waited_for_a_month_is_counted() {
    let clock = noon();
    let host = Host::over(hundred_a_day(&clock).build().unwrap().erased()).await;
    let proxy = Proxy::before(host.address).await;
    let process = remote(client(proxy.address));
    let outbox = opened(outbox(&process), &crate::file::fresh()).await;
    let queue = Books::new(outbox.clone());
    let permit = queue.check(ask("ada", 5)).await.unwrap();
    proxy.set(Mode::Refuse);
    permit.settle(total(5)).await.unwrap();
    clock.advance(MONTH);
    for number in 0..20 {
        spend(&host.books, &format!("acct_{number}"), 1).await;
    }
    proxy.set(Mode::Pass);
    outbox.flush(STUCK).await.unwrap();
    let query = tower_limitry::backend::EventQuery::new().customer("ada");
    assert_eq!(host.books.events(query).await.unwrap().items.len(), 1);
}

/// The file remembers how far it is beyond its process.
#[tokio::test]
async fn a_server_that_was_restarted_over_its_file_goes_on_where_it_was() {
    let file = crate::file::fresh();
    let open = || {
        let engine = hundred_a_day(&noon());
        engine.build_on(Sqlite::open(&file).unwrap()).unwrap().erased()
    };
    let host = Host::over(open()).await;
    let proxy = Proxy::before(host.address).await;
    let process = remote(client(proxy.address).retries(0));
    let soon = outbox(&process).delivery_timeout(Duration::from_millis(200));
    let outbox = opened(soon.keep_delivered(HOUR), &crate::file::fresh()).await;
    let queue = Books::new(outbox.clone());
    let (first, second) = (queue.check(ask("ada", 1)).await, queue.check(ask("ada", 1)).await);
    first.unwrap().settle(total(1)).await.unwrap();
    outbox.flush(STUCK).await.unwrap();
    proxy.set(Mode::BlackHole);
    second.unwrap().settle(total(1)).await.unwrap();
    eventually(async || (events(&host.books).await.len() == 2).then_some(())).await;
    host.books.shutdown(STUCK).await.unwrap();
    let address = host.stop().await;
    let books = eventually(async || {
        let store = Sqlite::open(&file).ok()?;
        Some(hundred_a_day(&noon()).build_on(store).unwrap().erased())
    });
    let host = Host::at(address, books.await).await;
    proxy.set(Mode::Refuse);
    proxy.set(Mode::Pass);
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(used(&host.books, "ada", "daily").await, amount(2));
    assert_eq!(events(&host.books).await.len(), 2);
    queue.check(ask("ada", 1)).await.unwrap().settle(total(1)).await.unwrap();
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(used(&host.books, "ada", "daily").await, amount(3));
}

/// It says that it is behind, and is made whole before anything new.
#[tokio::test]
async fn a_server_that_lost_everything_gets_it_again() {
    let host = Host::start().await;
    let process = remote(client(host.address));
    let builder = outbox(&process).keep_delivered(HOUR);
    let outbox = opened(builder, &crate::file::fresh()).await;
    let queue = Books::new(outbox.clone());
    for customer in ["ada", "bob", "ada"] {
        queue.check(one(customer)).await.unwrap().settle(total(1)).await.unwrap();
        outbox.flush(STUCK).await.unwrap();
    }
    let address = host.stop().await;
    let host = Host::at(address, books()).await;
    assert_eq!(used(&host.books, "ada", "daily").await, amount(0));
    queue.check(one("ada")).await.unwrap().settle(total(1)).await.unwrap();
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(used(&host.books, "ada", "daily").await, amount(3));
    assert_eq!(current(&host.books, "ada", "credits").await, amount(997));
    // Of whom nothing new comes, it is asked for by hand.
    assert_eq!(used(&host.books, "bob", "daily").await, amount(0));
    outbox.replay_delivered(Default::default()).await.unwrap();
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(used(&host.books, "bob", "daily").await, amount(1));
    assert_eq!(used(&host.books, "ada", "daily").await, amount(3), "nothing twice");
    assert_eq!(events(&host.books).await.len(), 4);
}

/// One that makes no sense to the server is set aside, and costs the others nothing.
#[tokio::test]
async fn one_that_is_refused_does_not_hold_up_the_others() {
    let host = Host::start().await;
    let process = remote(client(host.address));
    let outbox = opened(outbox(&process), &crate::file::fresh()).await;
    let queue = Books::new(outbox.clone());
    let mut permits = Vec::new();
    for _ in 0..3 {
        permits.push(queue.check(ask("ada", 1)).await.unwrap());
    }
    let mut used_once = total(1);
    for number in 0..200 {
        used_once = used_once.and(format!("value_{number}"), 1);
    }
    let [first, second, third] = <[_; 3]>::try_from(permits).unwrap();
    first.settle(total(1)).await.unwrap();
    second.settle(used_once).await.unwrap();
    third.settle(total(1)).await.unwrap();
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(used(&host.books, "ada", "daily").await, amount(2));
    let aside = outbox.set_aside(0, 10).await.unwrap();
    assert_eq!(aside.len(), 1);
    assert_names(&aside[0].reason, &["usage", "more than 100"]);
}
