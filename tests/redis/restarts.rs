//! What a process that comes later finds: alerts that were told, and outboxes that are long gone.

use std::sync::{Arc, Mutex};

use tower_limitry::engine::{EngineBuilder, ManualClock};
use tower_limitry::outbox::Outbox;
use tower_limitry::{Books, Event, Limit};

use crate::redis::{Server, fresh};
use crate::support::*;
use crate::{STUCK, options};

type Told = Arc<Mutex<Vec<(String, String, u8)>>>;

fn alerting(clock: &ManualClock, told: &Told) -> EngineBuilder {
    let told = Arc::clone(told);
    tokens(clock)
        .limit(Limit::per_day("daily", "tokens", 100).alert_at([50, 90]))
        .limit(Limit::all_time("ever", "tokens", 1_000).alert_at([5]))
        .on_alert(move |crossing| {
            let customer = crossing.customer.to_string();
            told.lock().unwrap().push((customer, crossing.limit.to_string(), crossing.percent));
        })
}

fn told_of(told: &Told) -> Vec<(String, String, u8)> {
    let mut all = std::mem::take(&mut *told.lock().unwrap());
    all.sort();
    all
}

fn those(alerts: &[(&str, &str, u8)]) -> Vec<(String, String, u8)> {
    let own = |(customer, limit, percent): &(&str, &str, u8)| {
        ((*customer).to_owned(), (*limit).to_owned(), *percent)
    };
    alerts.iter().map(own).collect()
}

fn open(builder: EngineBuilder, (url, prefix): &(String, String)) -> Books {
    let store = options(prefix).danger_time_of_the_engine().open(url).unwrap();
    builder.build_on(store).unwrap().erased()
}

#[tokio::test]
async fn an_alert_that_was_told_is_told_by_no_process_that_comes_later() {
    let (clock, told, place) = (noon(), Told::default(), fresh());
    let chat = |tokens: u32| Event::new("ada b", "chat", total(tokens));
    let books = open(alerting(&clock, &told), &place);
    books.record(chat(60)).await.unwrap();
    drop(books);
    assert_eq!(told_of(&told), those(&[("ada b", "daily", 50), ("ada b", "ever", 5)]));
    let books = open(alerting(&clock, &told), &place);
    books.record(chat(35)).await.unwrap();
    assert_eq!(told_of(&told), those(&[("ada b", "daily", 90)]));
}

#[tokio::test]
async fn alerts_of_windows_that_run_are_told_again_after_a_restart_where_that_is_wanted() {
    let (clock, told, place) = (noon(), Told::default(), fresh());
    let again = || open(alerting(&clock, &told).alert_again_after_restart(), &place);
    let books = again();
    for (customer, tokens) in [("ada b", 95), ("bob", 50), ("eve", 10)] {
        books.record(Event::new(customer, "chat", total(tokens))).await.unwrap();
    }
    let all = those(&[
        ("ada b", "daily", 50),
        ("ada b", "daily", 90),
        ("ada b", "ever", 5),
        ("bob", "daily", 50),
        ("bob", "ever", 5),
    ]);
    assert_eq!(told_of(&told), all);
    drop(books);
    let books = again();
    assert_eq!(told_of(&told), all);
    clock.advance(DAY);
    drop((books, again()));
    assert_eq!(told_of(&told), those(&[("ada b", "ever", 5), ("bob", "ever", 5)]));
}

#[tokio::test]
async fn marks_of_outboxes_that_are_long_gone_go_with_the_next_one() {
    let server = Server::start();
    let clock = noon();
    let store = options("p").danger_time_of_the_engine().open(&server.url()).unwrap();
    let engine = tokens(&clock).build_on(store).unwrap().backend().clone();
    for (days, kept) in [(0, 1), (399, 2), (2, 2), (1, 3)] {
        clock.advance(days * DAY);
        let outbox = Outbox::builder(engine.clone()).open(crate::loss::file()).await.unwrap();
        let books = Books::new(outbox.clone());
        books.check(ask("ada", 1)).await.unwrap().settle(total(1)).await.unwrap();
        outbox.flush(STUCK).await.unwrap();
        let keys = server.keys();
        let marks = keys.iter().find(|key| key.contains(":marks:")).unwrap();
        assert_eq!(server.ask(&["HLEN", marks]), format!(":{kept}"), "after {days} days");
    }
}
