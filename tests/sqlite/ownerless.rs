//! What the requests of a process that was killed cost: their estimate or nothing, as it is set.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use tower_limitry::backend::EventQuery;
use tower_limitry::store::Sqlite;
use tower_limitry::store::sqlite::OwnerlessHolds;
use tower_limitry::{Books, Check, Event, Limit, NewBalance};

use crate::support::*;
use crate::{asked, assert_sound_at, file};

const FILE: &str = "LIMITRY_KILLED_FILE";

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
    let (_, books) = open(path.as_ref(), OwnerlessHolds::CostTheirEstimate);
    let _first = admitted(&books, charged("first", 5)).await;
    let _second = admitted(&books, Check::of("bob").id("second")).await;
    drop(admitted(&books, charged("released", 20)).await);
    drop(admitted(&books, charged("expired", 20).hold_for(std::time::Duration::ZERO)).await);
    admitted(&books, charged("settled", 9)).await.settle(total(3)).await.unwrap();
    eprint!("!");
    std::future::pending::<()>().await;
}

fn killed(path: &Path) {
    let mut work = Command::new(std::env::current_exe().unwrap())
        .args(["ownerless::work", "--exact", "--ignored", "--nocapture"])
        .env(FILE, path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    work.stderr.take().unwrap().read_exact(&mut [0]).unwrap();
    work.kill().unwrap();
    work.wait().unwrap();
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
    let path = file::fresh();
    let (_, books) = open(&path, OwnerlessHolds::CostTheirEstimate);
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
