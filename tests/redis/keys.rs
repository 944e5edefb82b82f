//! Where things are on the server, and how long.

use std::time::Duration;

use tower_limitry::policy::Credit;
use tower_limitry::{Check, Event, Limit, NewBalance, Usage};

use crate::redis::Server;
use crate::support::*;
use crate::{open, options, tokens};

const ODD: [&str; 9] = ["ada", "{", "}", "{}", "a{b}c", "}{", "{17}", "a\u{fe0f}ü", "a:b c*?["];

#[tokio::test]
async fn all_of_a_customer_is_in_one_slot_whatever_they_are_called() {
    let server = Server::start();
    let builder = tokens().limit(Limit::per_day("daily", "tokens", 100));
    let books =
        open(builder.default_balance(NewBalance::new("credits").initial(50)), &server.url(), "p");
    for odd in ODD {
        let check = ask(odd, 3).charge("credits", |usage| usage.value("total_tokens"));
        std::mem::forget(admitted(&books, check.clone()).await);
        admitted(&books, check).await.settle(total(1)).await.unwrap();
        books.credit(Credit::new(odd, "credits", 1).reference("pay")).await.unwrap();
        drop(admitted(&books, ask(odd, 1).hold_for(Duration::from_micros(1))).await);
    }
    for odd in ODD {
        let own: Vec<_> =
            server.keys().into_iter().filter(|key| key.ends_with(&format!(":{odd}"))).collect();
        assert!(own.len() >= 6, "{odd:?}: {own:?}");
        let slots: Vec<String> =
            own.iter().map(|key| server.ask(&["CLUSTER", "KEYSLOT", key])).collect();
        // A server that is no cluster does not tell slots; the tag is what decides.
        let tag = |key: &str| key.split_once('{').unwrap().1.split_once('}').unwrap().0.to_owned();
        assert!(own.iter().all(|key| tag(key) == tag(&own[0])), "{own:?} {slots:?}");
    }
}

#[tokio::test]
async fn every_key_expires_except_balances_counters_without_windows_and_definitions() {
    let server = Server::start();
    let builder = tokens()
        .limit(Limit::per_day("daily", "tokens", 100))
        .limit(Limit::per_minute("minute", "tokens", 50).dimension("model", "x"));
    let builder = builder.default_balance(NewBalance::new("credits").initial(50));
    let books = open(builder, &server.url(), "p");
    books.put_limit(Limit::all_time("ever", "tokens", 1_000).for_customer("eve")).await.unwrap();
    for customer in ["ada", "bob"] {
        admitted(&books, ask(customer, 3)).await.settle(total(1)).await.unwrap();
        admitted(&books, ask(customer, 3)).await.release().await.unwrap();
        std::mem::forget(admitted(&books, ask(customer, 3)).await);
        let brief = admitted(&books, ask(customer, 3).hold_for(Duration::from_micros(1))).await;
        books.usage(customer).await.unwrap();
        brief.settle(total(2)).await.unwrap();
    }
    books.record(Event::new("eve", "chat", total(1))).await.unwrap();
    books.credit(Credit::new("bob", "credits", 1).reference("pay")).await.unwrap();
    let mut for_ever = Vec::new();
    for key in server.keys() {
        assert!(key.starts_with("p:1:"), "{key:?} is not ours");
        if server.ask(&["TTL", &key]) == ":-1" {
            let name = key.rsplit(':').take(2).collect::<Vec<_>>();
            for_ever.push(if key.ends_with("shard") {
                "shard".into()
            } else {
                format!("{}:{}", name[1], name[0])
            });
        }
    }
    for_ever.sort();
    for_ever.dedup();
    let expected =
        ["1:definitions", "books:bob", "books:eve", "references:bob", "shard", "transactions:bob"];
    assert_eq!(for_ever, expected);
}

#[tokio::test]
async fn books_in_which_nothing_was_counted_expire_too() {
    let (server, clock) = (Server::start(), noon());
    let store = options("p").danger_time_of_the_engine().open(&server.url()).unwrap();
    let builder = tokens().clock(clock.clone()).limit(Limit::per_minute("minute", "tokens", 100));
    let books = builder.build_on(store).unwrap().erased();
    // Of no value that is counted, and when its window has ended.
    admitted(&books, Check::of("ada")).await.settle(Usage::of("pages", 1)).await.unwrap();
    let late = admitted(&books, ask("bob", 3)).await;
    clock.advance(HOUR);
    late.settle(total(3)).await.unwrap();
    for key in server.keys().iter().filter(|key| key.ends_with("ada") || key.ends_with("bob")) {
        assert_ne!(server.ask(&["TTL", key]), ":-1", "{key}");
    }
}

#[tokio::test]
async fn events_that_begin_anew_expire_too() {
    let server = Server::start();
    let builder = || tokens().limit(Limit::per_day("daily", "tokens", 100));
    let books = open(builder(), &server.url(), "p");
    // Another process, which keeps none.
    let store = options("p").keep_events(0).open(&server.url()).unwrap();
    let keeps_none = builder().build_on(store).unwrap().erased();
    let begins = async |customer: &str| {
        admitted(&books, ask(customer, 3)).await.settle(total(1)).await.unwrap();
        let mut keys = server.keys().into_iter();
        let events = keys.find(|key| key.ends_with(":events")).unwrap();
        assert_ne!(server.ask(&["TTL", &events]), ":-1");
        events
    };
    admitted(&keeps_none, ask("ada", 3)).await.settle(total(1)).await.unwrap();
    // And a server that drops them.
    let events = begins("ada").await;
    assert_eq!(server.ask(&["DEL", &events]), ":1");
    begins("ada").await;
}

#[tokio::test]
async fn a_check_alone_leaves_no_books() {
    let server = Server::start();
    let builder = tokens().limit(Limit::per_day("daily", "tokens", 100));
    let books =
        open(builder.default_balance(NewBalance::new("credits").initial(50)), &server.url(), "p");
    for number in 0..50 {
        let customer = format!("stranger_{number}");
        let check = ask(&customer, 3).charge("credits", |usage| usage.value("total_tokens"));
        books.preview(check.clone()).await.unwrap();
        denied(&books, ask(&customer, 101)).await;
        admitted(&books, check).await.release().await.unwrap();
    }
    let books_of: Vec<_> =
        server.keys().into_iter().filter(|key| key.contains(":books:")).collect();
    assert_eq!(books_of, [""; 0]);
}

#[tokio::test]
async fn books_of_different_prefixes_do_not_know_each_other() {
    let server = Server::start();
    let builder = || tokens().limit(Limit::all_time("ever", "tokens", 10));
    let (one, other) = (open(builder(), &server.url(), "a"), open(builder(), &server.url(), "ab"));
    spend(&one, "ada", 10).await;
    denied(&one, Check::of("ada")).await;
    assert_eq!(used(&other, "ada", "ever").await, amount(0));
    let error = crate::options("a{b}").open(&server.url()).unwrap_err();
    assert_invalid(&error, &["prefix", "braces"]);
}

#[tokio::test]
async fn a_server_that_evicts_is_not_accepted_unawares() {
    let server = Server::start_with(&["--save", "", "--maxmemory-policy", "allkeys-lru"]);
    let error = crate::options("p").open(&server.url()).unwrap_err();
    assert_invalid(&error, &["allkeys-lru", "noeviction"]);
    crate::options("p").danger_accept_eviction().open(&server.url()).unwrap();
}
