//! What a restart leaves of the books: everything.

use futures_util::FutureExt;
use tower_limitry::backend::{Customer, EventQuery};
use tower_limitry::engine::{EngineBuilder, ManualClock};
use tower_limitry::policy::{Credit, Period, TransactionKind};
use tower_limitry::store::Sqlite;
use tower_limitry::{Books, Check, Engine, Event, Limit, Meter, NewBalance, Usage};

use crate::file;
use crate::support::*;

fn open(builder: EngineBuilder, path: &std::path::Path) -> Books {
    builder.build_on(Sqlite::open(path).unwrap()).unwrap().erased()
}

fn chat(customer: &str, tokens: u32) -> Event {
    Event::new(customer, "chat", total(tokens))
}

/// A meter of every kind, with a limit over every period.
fn everything(clock: &ManualClock) -> EngineBuilder {
    let meters = [
        Meter::sum("sum", "total_tokens"),
        Meter::count("count"),
        Meter::max("max", "total_tokens"),
        Meter::latest("latest", "total_tokens"),
    ];
    let mut builder = Engine::builder().clock(clock.clone());
    for meter in meters {
        for period in Period::ALL {
            let id = format!("{}-{}", meter.id(), period.as_str());
            builder = builder.limit(Limit::new(id, meter.id(), period, 1_000));
        }
        builder = builder.meter(meter);
    }
    builder.default_balance(NewBalance::new("credits").initial(500))
}

async fn seen(books: &Books, customer: &str) -> Vec<Seen> {
    books.usage(customer).await.unwrap().limits().map(Seen::from).collect()
}

#[tokio::test]
async fn every_counter_and_balance_is_there_again() {
    let (clock, path) = (noon(), file::fresh());
    let books = open(everything(&clock), &path);
    books.put_customer(Customer::new("ada").zone("Asia/Kathmandu")).await.unwrap();
    for (tokens, at) in [(7, NOON), (3, "2026-03-01T11:58:00Z"), (40, "2026-03-02T09:00:00Z")] {
        books.record(chat("ada", tokens).at(time(at))).await.unwrap();
    }
    let charged = Check::of("ada").charge("credits", |usage| usage.value("total_tokens"));
    admitted(&books, charged).await.settle(total("0.5")).await.unwrap();
    books.credit(Credit::new("ada", "credits", 20).reference("pay_1")).await.unwrap();
    books.create_balance("ada", NewBalance::new("Gold").initial(5).minimum(-1)).await.unwrap();
    let said = async |books: &Books| {
        let balances = books.balances("ada").await.unwrap();
        let ledger = ledger(books, "ada", "credits", 50).await;
        (seen(books, "ada").await, balances, ledger)
    };
    let before = said(&books).await;
    drop(books);
    crate::assert_sound_at(&path, time(NOON));
    let books = open(everything(&clock), &path);
    assert_eq!(said(&books).await, before);
    let credit = Credit::new("ada", "credits", 20).reference("pay_1");
    assert!(!books.credit(credit).await.unwrap().applied);

    // What began early, and what follows, find each other.
    clock.set(time("2026-03-02T09:00:30Z"));
    books.record(chat("ada", 2)).await.unwrap();
    let there = |id: &'static str| used(&books, "ada", id);
    assert_eq!(there("sum-minute").await, amount(42));
    assert_eq!(there("latest-hour").await, amount(2));
    assert_eq!(there("sum-all_time").await, amount("52.5"));
    let kinds: Vec<_> =
        ledger(&books, "ada", "credits", 50).await.iter().map(|row| row.kind()).collect();
    use TransactionKind::{Credit as In, Debit as Out, Opening};
    assert_eq!(kinds, [In, Out, Opening]);
}

/// Each commit is synced, and whoever opens the books would wait for it.
#[tokio::test]
async fn books_that_are_opened_as_they_were_left_commit_nothing() {
    let (clock, path) = (noon(), file::fresh());
    let commits = || crate::asked::<i64>(&path, "SELECT value FROM state WHERE name = 'group'");
    let nothing = |clock: &ManualClock| Engine::builder().clock(clock.clone());
    for builder in [nothing, everything] {
        let books = open(builder(&clock), &path);
        let own = Limit::per_day("own", "own", 5).for_customer("ada");
        books.put_meter(Meter::count("own")).await.unwrap();
        books.put_limit(own).await.unwrap();
        books.record(chat("ada", 1)).await.unwrap();
        drop(books);
        let before = commits();
        for _ in 0..2 {
            drop(open(builder(&clock), &path));
            assert_eq!(commits(), before);
        }
    }
    // What is another is written.
    let before = commits();
    drop(open(nothing(&clock), &path));
    assert!(commits() > before);
}

#[tokio::test]
async fn an_id_is_known_as_long_as_its_event() {
    let (clock, path) = (noon(), file::fresh());
    let books = open(hundred_a_day(&clock), &path);
    let event = || chat("ada", 5).id("row-1").at(time(NOON));
    assert!(books.record(event()).await.unwrap().recorded);
    admitted(&books, ask("ada", 9).id("order-1")).await.settle(total(9)).await.unwrap();
    drop(books);
    clock.advance(400 * DAY);
    let books = open(hundred_a_day(&clock).limit(Limit::all_time("ever", "tokens", 100)), &path);
    assert!(!books.record(event()).await.unwrap().recorded);
    let again = admitted(&books, ask("ada", 9).id("order-1")).await;
    assert!(again.was_settled());
    again.settle(total(9)).await.unwrap();
    assert_eq!(used(&books, "ada", "ever").await, amount(14));
    // Another customer's is another use.
    assert!(books.record(chat("bob", 5).id("row-1").at(time(NOON))).await.unwrap().recorded);
    assert_eq!(books.events(EventQuery::new()).await.unwrap().items.len(), 3);
}

/// The hold of a request outlives the ten minutes for which memory knows an id.
#[tokio::test]
async fn an_attempt_that_runs_for_long_counts_nothing_that_was_settled_meanwhile() {
    let (clock, path) = (noon(), file::fresh());
    let books = open(hundred_a_day(&clock), &path);
    let first = admitted(&books, ask("ada", 10).id("order-1").hold_for(MINUTE)).await;
    clock.advance(2 * MINUTE);
    let second = admitted(&books, ask("ada", 10).id("order-1")).await;
    first.settle(total(10)).await.unwrap();
    clock.advance(HOUR);
    books.record(chat("ada", 0).id("other").at(time("2026-03-01T13:00:00Z"))).await.unwrap();
    second.settle(total(10)).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(10));
}

#[tokio::test]
async fn holds_end_with_the_process() {
    let (clock, path) = (noon(), file::fresh());
    let books = open(hundred_a_day(&clock), &path);
    let permit = admitted(&books, ask("ada", 100)).await;
    std::mem::forget(permit);
    denied(&books, ask("ada", 1)).await;
    // The books live as long as the permit does; the file is what another process would see.
    let copy = file::fresh();
    std::fs::copy(&path, &copy).unwrap();
    let books = open(hundred_a_day(&clock), &copy);
    admitted(&books, ask("ada", 100)).await.release().await.unwrap();
}

#[tokio::test]
async fn what_was_added_at_run_time_is_there_again() {
    let (clock, path) = (noon(), file::fresh());
    let books = open(hundred_a_day(&clock), &path);
    let image = Meter::max("image", "pixels").event_type("image").dimension("kind", "photo");
    books.put_meter(image.named("Pixels").unit("px")).await.unwrap();
    books.put_meter(Meter::count("gone")).await.unwrap();
    assert!(books.remove_meter("gone").await.unwrap());
    let weekly = Limit::per_week("weekly", "image", "70.5").named("Weekly").alert_at([50, 100]);
    books.put_limit(weekly.dimension("model", "large").private()).await.unwrap();
    books.put_limit(Limit::per_day("deal", "tokens", 900).for_customer("ada")).await.unwrap();
    books.put_limit(Limit::per_hour("daily", "tokens", 7)).await.unwrap();
    let ada = Customer::new("ada").zone("Europe/Vienna").billing_anchor("2026-01-31");
    books.put_customer(ada.metadata("plan", "gold")).await.unwrap();
    books.put_customer(Customer::new("bob")).await.unwrap();
    assert!(books.remove_customer("bob").await.unwrap());
    let said = async |books: &Books| {
        let page = books.customers(Default::default()).await.unwrap();
        (books.meters().await.unwrap(), books.limits().await.unwrap(), page.items)
    };
    let before = said(&books).await;
    drop(books);

    let books = open(hundred_a_day(&clock), &path);
    let (meters, limits, customers) = said(&books).await;
    assert_eq!((&meters, &customers), (&before.0, &before.2));
    // What the program itself defines wins over what was stored under its id.
    let daily = limits.iter().find(|limit| limit.id() == "daily").unwrap();
    assert_eq!(daily, &Limit::per_day("daily", "tokens", 100));
    let others = |limits: &[Limit]| -> Vec<Limit> {
        limits.iter().filter(|limit| limit.id() != "daily").cloned().collect()
    };
    assert_eq!(others(&limits), others(&before.1));
    // Her days begin in Vienna: an hour before midnight of London is tomorrow.
    books.record(chat("ada", 30).at(time("2026-02-28T23:30:00Z"))).await.unwrap();
    assert_eq!(used(&books, "ada", "deal").await, amount(30));
}

/// A limit that a new release of the program brings along.
#[tokio::test]
async fn a_limit_that_is_new_in_the_program_counts_what_the_file_has() {
    let (clock, path) = (noon(), file::fresh());
    let books = open(tokens(&clock), &path);
    for (customer, tokens) in [("ada", 30), ("bob", 7), ("ada", 5)] {
        books.record(chat(customer, tokens)).await.unwrap();
    }
    drop(books);
    for _ in 0..2 {
        let books = open(hundred_a_day(&clock), &path);
        let seen = standing(&books, "ada", "daily").await;
        assert_eq!((seen.used, seen.complete), (amount(35), true));
        assert_eq!(used(&books, "bob", "daily").await, amount(7));
    }
    // Away for a while, in which nothing is counted on it.
    let books = open(tokens(&clock), &path);
    books.record(chat("ada", 20)).await.unwrap();
    drop(books);
    let books = open(hundred_a_day(&clock), &path);
    assert_eq!(used(&books, "ada", "daily").await, amount(55));
}

#[tokio::test]
async fn another_zone_for_everybody_counts_the_days_anew() {
    let (clock, path) = (noon(), file::fresh());
    let books = open(hundred_a_day(&clock), &path);
    books.record(chat("ada", 30).at(time("2026-02-28T23:30:00Z"))).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(0));
    drop(books);
    let books = open(hundred_a_day(&clock).zone("Europe/Vienna"), &path);
    assert_eq!(used(&books, "ada", "daily").await, amount(30));
}

#[tokio::test]
async fn an_alert_that_was_told_is_not_told_again() {
    use std::sync::{Arc, Mutex};
    let (clock, path) = (noon(), file::fresh());
    let told = Arc::new(Mutex::new(Vec::new()));
    let alerting = || {
        let told = Arc::clone(&told);
        let limit = Limit::per_day("daily", "tokens", 100).alert_at([50, 90]);
        tokens(&clock).limit(limit).on_alert(move |crossing| {
            told.lock().unwrap().push(crossing.percent);
        })
    };
    let books = open(alerting(), &path);
    books.record(chat("ada", 60)).await.unwrap();
    drop(books);
    let books = open(alerting(), &path);
    books.record(chat("ada", 35)).await.unwrap();
    assert_eq!(*told.lock().unwrap(), [50, 90]);
}

#[tokio::test]
async fn text_of_any_kind_comes_back_as_it_was() {
    let (clock, path) = (noon(), file::fresh());
    let usage = Usage::of("größe \"x\"", "-0.000001")
        .and("b", i64::MAX / 1_000_000)
        .dimension("zitat", "a \"b\" \\ \u{1} \u{7f} ü 🦀 \n")
        .dimension("leer", "");
    let books = open(tokens(&clock), &path);
    books.record(Event::new("o'hara \0 {x}", "type \"t\"", usage.clone())).await.unwrap();
    drop(books);
    let books = open(tokens(&clock), &path);
    let event = books.events(EventQuery::new()).await.unwrap().items.remove(0);
    assert_eq!(event.customer().as_str(), "o'hara \0 {x}");
    assert_eq!((event.event_type(), event.usage()), ("type \"t\"", &usage));
}

#[tokio::test]
async fn a_task_that_has_used_up_its_turn_opens_them_all_the_same() {
    let path = file::fresh();
    drop(open(everything(&noon()), &path));
    let turns = tokio::sync::Semaphore::new(1);
    while turns.acquire().now_or_never().is_some() {}
    drop(open(everything(&noon()), &path));
}

/// Its caller may hang up: a limit that counted only what comes from now on would let everything in.
#[tokio::test]
async fn a_limit_is_counted_to_the_end_though_nobody_waits_for_it() {
    let (clock, path) = (noon(), file::fresh());
    let books = open(tokens(&clock), &path);
    books.record(chat("ada", 30)).await.unwrap();
    let limit = || Limit::per_day("daily", "tokens", 100);
    assert!(books.put_limit(limit()).now_or_never().is_none());
    books.put_limit(limit()).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(30));
    let vienna = || Customer::new("ada").zone("Europe/Vienna");
    books.record(chat("ada", 7).at(time("2026-02-28T23:30:00Z"))).await.unwrap();
    assert!(books.put_customer(vienna()).now_or_never().is_none());
    books.put_customer(vienna()).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(37));
}
