//! What the requests of a process that was killed cost: their estimate or nothing, as it is set.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use tower_limitry::backend::EventQuery;
use tower_limitry::store::Sqlite;
use tower_limitry::store::sqlite::OwnerlessHolds;
use tower_limitry::{Books, Check, Event, Limit, NewBalance};

use crate::support::*;
use crate::{asked, assert_sound_at, file};

const FILE: &str = "LIMITRY_KILLED_FILE";
const COST: &str = "LIMITRY_KILLED_COST";

fn open(path: &Path, cost: OwnerlessHolds) -> (usize, Books) {
    let store = Sqlite::options().ownerless_holds(cost).open(path).unwrap();
    let ownerless = store.ownerless();
    let builder = hundred_a_day(&noon()).default_balance(NewBalance::new("credits").initial(1_000));
    (ownerless, builder.build_on(store).unwrap().erased())
}

fn charged(id: &str, tokens: u32) -> Check {
    ask("ada", tokens).id(id).event_type("chat").dimension("model", "large").charge(
        "credits",
        |usage| {
            let tokens = usage.value("total_tokens")?;
            tokens.checked_add(tokens)
        },
    )
}

/// What the killed process does: two requests that run, one that was released, one that expired, one
/// that is settled. What is acknowledged was written after the holds.
#[tokio::test]
#[ignore = "is no test of its own"]
async fn work() {
    let path = std::env::var_os(FILE).unwrap();
    let (_, books) = open(path.as_ref(), cost(&std::env::var(COST).unwrap()));
    let _first = admitted(&books, charged("first", 5)).await;
    let _second = admitted(&books, Check::of("bob").id("second")).await;
    drop(admitted(&books, charged("released", 20)).await);
    drop(admitted(&books, charged("expired", 20).hold_for(std::time::Duration::ZERO)).await);
    admitted(&books, charged("settled", 9)).await.settle(total(3)).await.unwrap();
    eprint!("!");
    std::future::pending::<()>().await;
}

/// What a killed process does that settles nothing: three requests, of which one fails.
#[tokio::test]
#[ignore = "is no test of its own"]
async fn only_begin() {
    let path = std::env::var_os(FILE).unwrap();
    let (_, books) = open(path.as_ref(), cost(&std::env::var(COST).unwrap()));
    let _first = admitted(&books, charged("first", 5)).await;
    let failed = admitted(&books, charged("failed", 5)).await;
    let _second = admitted(&books, Check::of("bob").id("second")).await;
    eprint!("!");
    drop(failed);
    std::future::pending::<()>().await;
}

const NOTHING: &str = "nothing";
const ESTIMATE: &str = "estimate";

fn cost(name: &str) -> OwnerlessHolds {
    match name {
        NOTHING => OwnerlessHolds::CostNothing,
        _ => OwnerlessHolds::CostTheirEstimate,
    }
}

/// Runs one of the functions above as a process of its own, until it says that it is done and
/// `until` it is so.
fn killed_at(work: &str, path: &Path, cost: &str, until: impl Fn() -> bool) {
    let mut work = Command::new(std::env::current_exe().unwrap())
        .args([&format!("ownerless::{work}"), "--exact", "--ignored", "--nocapture"])
        .env(FILE, path)
        .env(COST, cost)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    work.stderr.take().unwrap().read_exact(&mut [0]).unwrap();
    let end = Instant::now() + MINUTE;
    while !until() {
        assert!(Instant::now() < end, "it never came to this");
        std::thread::yield_now();
    }
    work.kill().unwrap();
    work.wait().unwrap();
}

/// How many requests run, as the file has it.
fn noted(path: &Path) -> u32 {
    asked(path, "SELECT coalesce(max(value), 0) FROM state WHERE name = 'running'")
}

fn killed(path: &Path) {
    killed_at("work", path, ESTIMATE, || true);
}

/// What was acknowledged is never counted among what was left, nor is what failed before it.
#[tokio::test]
async fn requests_of_a_killed_process_are_counted_though_their_holds_are_not_written() {
    let path = file::fresh();
    killed_at("work", &path, NOTHING, || true);
    assert_eq!(asked::<u32>(&path, "SELECT count(*) FROM hold"), 0);
    let (ownerless, books) = open(&path, OwnerlessHolds::CostNothing);
    assert_eq!(ownerless, 2);
    assert_eq!(used(&books, "ada", "daily").await, amount(3));
    drop(books);
    // Once, whatever they cost from then on. This time nothing is new but what only begins.
    killed_at("work", &path, NOTHING, || noted(&path) == 2);
    assert_eq!(open(&path, OwnerlessHolds::CostTheirEstimate).0, 2);
    assert_eq!(open(&path, OwnerlessHolds::CostNothing).0, 0);
}

/// Nothing but the number is to be written.
#[test]
fn requests_are_counted_though_nothing_was_ever_settled() {
    let path = file::fresh();
    killed_at("only_begin", &path, NOTHING, || noted(&path) == 2);
    assert_eq!(open(&path, OwnerlessHolds::CostNothing).0, 2);
    assert_eq!(open(&path, OwnerlessHolds::CostNothing).0, 0);
}

#[tokio::test]
async fn ownerless_holds_cost_their_estimate_once_where_that_is_set() {
    let path = file::fresh();
    killed(&path);
    let (ownerless, books) = open(&path, OwnerlessHolds::CostTheirEstimate);
    assert_eq!(ownerless, 2);
    assert_eq!(used(&books, "ada", "daily").await, amount(8));
    assert_eq!(current(&books, "ada", "credits").await, amount(1_000 - 2 * 8));
    let events = books.events(EventQuery::new()).await.unwrap().items;
    let first = events.iter().find(|event| event.id().to_string() == "first").unwrap();
    assert_eq!(first.event_type(), "chat");
    assert_eq!(first.at(), time(NOON));
    assert_eq!(first.usage(), &total(5).dimension("model", "large"));
    assert_eq!(events.len(), 3);
    assert_sound_at(&path, time(NOON));

    // Who settles it after all is told that it is a repeat.
    let late = Event::new("ada", "chat", total(1)).id("first").at(time(NOON));
    assert!(!books.record(late).await.unwrap().recorded);
    assert!(admitted(&books, Check::of("bob").id("second")).await.was_settled());
    drop(books);
    let (ownerless, books) = open(&path, OwnerlessHolds::CostTheirEstimate);
    assert_eq!(ownerless, 0);
    assert_eq!(used(&books, "ada", "daily").await, amount(8));
}

#[tokio::test]
async fn ownerless_holds_cost_nothing_unless_set_and_are_counted() {
    let path = file::fresh();
    killed(&path);
    let (ownerless, books) = open(&path, OwnerlessHolds::CostNothing);
    assert_eq!(ownerless, 2);
    assert_eq!(used(&books, "ada", "daily").await, amount(3));
    assert_eq!(current(&books, "ada", "credits").await, amount(1_000 - 2 * 3));
    drop(books);
    let (ownerless, books) = open(&path, OwnerlessHolds::CostTheirEstimate);
    assert_eq!((ownerless, used(&books, "ada", "daily").await), (0, amount(3)));
    assert_eq!(asked::<u32>(&path, "SELECT count(*) FROM event"), 1);
}

/// A process that ends in order leaves none, whatever its requests did.
#[tokio::test]
async fn what_ended_in_order_leaves_no_hold() {
    for cost in [OwnerlessHolds::CostNothing, OwnerlessHolds::CostTheirEstimate] {
        ended_in_order(cost).await;
    }
}

async fn ended_in_order(cost: OwnerlessHolds) {
    let path = file::fresh();
    let (_, books) = open(&path, cost);
    let checks = (0..10).map(|number| charged(&number.to_string(), 1));
    for (number, check) in checks.enumerate() {
        let permit = admitted(&books, check).await;
        if number % 2 == 0 {
            permit.settle(total(1)).await.unwrap();
        }
    }
    drop(books);
    assert_eq!(asked::<u32>(&path, "SELECT count(*) FROM hold"), 0);
    assert_eq!(asked::<u32>(&path, "SELECT count(*) FROM event"), 5);
    assert_eq!(open(&path, cost).0, 0);
}

/// Limits of now, not those of the check: what was added meanwhile counts them, too.
#[tokio::test]
async fn ownerless_holds_count_on_limits_that_are_new() {
    let path = file::fresh();
    killed(&path);
    let store = Sqlite::options().ownerless_holds(OwnerlessHolds::CostTheirEstimate);
    let builder = tokens(&noon()).limit(Limit::per_week("weekly", "tokens", 100));
    let books = builder.build_on(store.open(&path).unwrap()).unwrap().erased();
    assert_eq!(used(&books, "ada", "weekly").await, amount(8));
}
