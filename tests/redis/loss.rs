//! A server that forgets: what was lost is told, and with an outbox it is made whole again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tower_limitry::outbox::Outbox;
use tower_limitry::policy::Timestamp;
use tower_limitry::store::Redis;
use tower_limitry::{Books, Check, Engine, Limit, NewBalance};

use crate::redis::{Server, until};
use crate::support::*;
use crate::{STUCK, ever, open, tokens};

const MILLISECOND: Duration = Duration::from_millis(1);

pub(crate) fn file() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("redis-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder.join("usage.outbox")
}

fn engine(server: &Server) -> Engine<Redis> {
    let builder = tokens().limit(ever(1_000_000));
    let builder = builder.default_balance(NewBalance::new("credits").initial(100_000));
    let store = Redis::options().timeout(Duration::from_millis(500)).open(&server.url()).unwrap();
    builder.build_on(store).unwrap().backend().clone()
}

async fn behind_an_outbox(engine: &Engine<Redis>) -> Outbox<Engine<Redis>> {
    let outbox = Outbox::builder(engine.clone()).backoff(MILLISECOND, 20 * MILLISECOND);
    let outbox = outbox.delivery_timeout(Duration::from_secs(2)).keep_delivered(HOUR);
    outbox.open(file()).await.unwrap()
}

fn charged(customer: &str) -> Check {
    ask(customer, 1).charge("credits", |usage| usage.value("total_tokens"))
}

/// Tries until it is admitted: a server that is away is no refusal.
async fn runs(books: &Books<Outbox<Engine<Redis>>>, customer: &str) {
    let end = Instant::now() + STUCK;
    loop {
        match books.check(charged(customer)).await {
            Ok(permit) => return permit.settle(total(1)).await.unwrap(),
            Err(error) => assert!(Instant::now() < end, "{error:?}"),
        }
        tokio::task::yield_now().await;
    }
}

/// The books are what `counts` requests of each customer come to.
async fn assert_whole(books: &Books<Engine<Redis>>, counts: &[(&str, i64)]) {
    for (customer, count) in counts {
        let usage = books.usage(*customer).await.unwrap();
        assert_eq!(of(usage.limits(), "ever").used.floor(), *count, "{customer}");
        let balance = books.balance(*customer, "credits").await.unwrap().unwrap();
        assert_eq!(balance.current().floor(), 100_000 - count, "{customer}");
    }
}

/// Runs requests of three customers, does something to the server meanwhile, and looks whether the
/// books are whole.
async fn whole_after(server: &Server, what: impl FnOnce(&Server)) {
    let engine = engine(server);
    let outbox = behind_an_outbox(&engine).await;
    let books = Books::new(outbox.clone());
    let customers = ["ada", "bob", "eve"];
    for customer in customers {
        for _ in 0..10 {
            runs(&books, customer).await;
        }
    }
    outbox.flush(STUCK).await.unwrap();
    let running: Vec<_> = {
        let mut running = Vec::new();
        for customer in customers {
            running.push(books.check(charged(customer)).await.unwrap());
        }
        running
    };
    what(server);
    for permit in running {
        permit.settle(total(1)).await.unwrap();
    }
    for customer in customers {
        for _ in 0..10 {
            runs(&books, customer).await;
        }
    }
    outbox.flush(STUCK).await.unwrap();
    assert_whole(&Books::new(engine), &customers.map(|customer| (customer, 21))).await;
    assert_eq!(outbox.stats().set_aside, 0);
}

#[tokio::test]
async fn a_server_that_was_emptied_is_told_everything_again() {
    let server = Server::start();
    whole_after(&server, |server| drop(server.ask(&["FLUSHALL"]))).await;
}

#[tokio::test]
async fn a_server_that_comes_back_empty_is_told_everything_again() {
    let server = Server::start();
    whole_after(&server, |server| {
        server.kill();
        server.run();
    })
    .await;
}

#[tokio::test]
async fn a_server_that_comes_back_as_it_was_counts_nothing_twice() {
    let server =
        Server::start_with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    whole_after(&server, |server| {
        server.kill();
        server.run();
    })
    .await;
}

#[tokio::test]
async fn a_server_that_forgets_its_scripts_is_taught_them() {
    let server = Server::start();
    whole_after(&server, |server| drop(server.ask(&["SCRIPT", "FLUSH"]))).await;
}

/// Killed again and again while requests run: what succeeded is recorded, once.
#[tokio::test]
async fn a_server_that_is_killed_under_load_ends_with_whole_books() {
    for options in
        [&["--save", "", "--appendonly", "no"][..], &["--save", "", "--appendonly", "yes"]]
    {
        let server = Server::start_with(options);
        let engine = engine(&server);
        let outbox = behind_an_outbox(&engine).await;
        let books = Books::new(outbox.clone());
        let rounds = times(3, 100);
        let tasks: Vec<_> = ["ada", "bob", "eve"]
            .into_iter()
            .map(|customer| {
                let books = books.clone();
                tokio::spawn(async move {
                    for _ in 0..rounds * 40 {
                        runs(&books, customer).await;
                    }
                })
            })
            .collect();
        let (killing, mut kills) = (&server, 0);
        while !tasks.iter().all(tokio::task::JoinHandle::is_finished) && kills < rounds {
            // Once some more have been taken.
            let seen = outbox.stats().kept;
            let end = Instant::now() + STUCK;
            while outbox.stats().kept < seen + 10
                && !tasks.iter().all(tokio::task::JoinHandle::is_finished)
            {
                assert!(Instant::now() < end, "nothing is taken any more");
                tokio::task::yield_now().await;
            }
            killing.kill();
            killing.run();
            kills += 1;
        }
        for task in tasks {
            task.await.unwrap();
        }
        outbox.flush(STUCK).await.unwrap();
        // Who has had no request since the last kill is made whole by hand.
        outbox.replay_delivered(Timestamp::UNIX_EPOCH).await.unwrap();
        outbox.flush(STUCK).await.unwrap();
        let count = rounds as i64 * 40;
        let counts = ["ada", "bob", "eve"].map(|customer| (customer, count));
        assert_whole(&Books::new(engine), &counts).await;
    }
}

#[tokio::test]
async fn definitions_survive_a_server_that_was_emptied() {
    let server = Server::start();
    let books = open(tokens(), &server.url(), "limitry");
    let other = open(tokens(), &server.url(), "limitry");
    books.put_limit(ever(10)).await.unwrap();
    spend(&other, "ada", 10).await;
    server.ask(&["FLUSHALL"]);
    // Counters are lost, and start again; the limit is not.
    assert_eq!(used(&other, "ada", "ever").await, amount(0));
    spend(&other, "ada", 10).await;
    denied(&books, Check::of("ada")).await;
    let third = open(tokens(), &server.url(), "limitry");
    denied(&third, Check::of("ada")).await;
}

#[tokio::test]
async fn a_limit_added_after_a_loss_says_that_events_are_missing() {
    let server = Server::start();
    let books = open(tokens(), &server.url(), "limitry");
    spend(&books, "ada", 10).await;
    server.ask(&["FLUSHALL"]);
    spend(&books, "ada", 5).await;
    books.put_limit(Limit::per_month("monthly", "tokens", 1_000)).await.unwrap();
    let seen = standing(&books, "ada", "monthly").await;
    assert_eq!((seen.used, seen.complete), (amount(5), false));
}

/// A request that was admitted before the server lost everything has succeeded all the same.
#[tokio::test]
async fn a_request_whose_hold_was_lost_is_recorded_once() {
    let server = Server::start();
    let books = open(tokens().limit(ever(100)), &server.url(), "limitry");
    let running = admitted(&books, ask("ada", 40)).await;
    server.ask(&["FLUSHALL"]);
    running.settle(total(30)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "ever").await, (amount(30), amount(0)));
}

/// With eviction accepted, a server that is short of memory drops what it likes; the outbox makes up
/// for what its marks tell.
#[tokio::test]
async fn keys_that_are_evicted_are_never_silently_unlimited_behind_an_outbox() {
    let server = Server::start_with(&["--save", "", "--maxmemory-policy", "allkeys-random"]);
    let builder = tokens().limit(ever(30));
    let store = Redis::options().danger_accept_eviction().open(&server.url()).unwrap();
    let engine = builder.build_on(store).unwrap().backend().clone();
    let outbox = behind_an_outbox(&engine).await;
    let books = Books::new(outbox.clone());
    for _ in 0..30 {
        books.check(ask("ada", 1)).await.unwrap().settle(total(1)).await.unwrap();
    }
    outbox.flush(STUCK).await.unwrap();
    assert!(books.check(ask("ada", 1)).await.is_err());
    // All at once, as if memory had run out.
    until("it is empty", || {
        server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
        server.ask(&["SET", "x", "y"]);
        let left = server.ask(&["DBSIZE"]) != ":0";
        server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
        !left
    });
    books.check(ask("ada", 1)).await.unwrap().settle(total(1)).await.unwrap();
    outbox.flush(STUCK).await.unwrap();
    let books = Books::new(engine);
    let usage = books.usage("ada").await.unwrap();
    assert_eq!(of(usage.limits(), "ever").used, amount(31));
    assert!(books.check(ask("ada", 1)).await.is_err());
}
