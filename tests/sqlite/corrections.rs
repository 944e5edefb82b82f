//! What is taken back when its event or its balance is gone, and what a balance is explained by.

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::Empty;
use tower::{Layer, ServiceExt, service_fn};
use tower_limitry::backend::EventQuery;
use tower_limitry::policy::Period;
use tower_limitry::store::Sqlite;
use tower_limitry::{
    Check, ErrorKind, Event, Limit, LimitryLayer, Meter, NewBalance, Usage, customer,
};

use crate::support::*;
use crate::{asked, assert_sound_at, file};

const LATER: &str = "2026-03-09T12:00:00Z";

#[tokio::test]
async fn an_event_that_was_let_go_cannot_be_taken_back() {
    let (clock, path) = (noon(), file::fresh());
    let open = || {
        let store = Sqlite::options().keep_events_for(7 * DAY).open(&path).unwrap();
        let builder = hundred_a_day(&clock).limit(Limit::all_time("ever", "tokens", 1_000));
        builder
            .default_balance(NewBalance::new("credits").initial(50))
            .build_on(store)
            .unwrap()
            .erased()
    };
    let books = open();
    let charged = || Check::of("ada").charge("credits", |usage| usage.value("total_tokens"));
    let (kept, void) = (admitted(&books, charged()).await, admitted(&books, charged()).await);
    let ids = [kept.id().unwrap().clone(), void.id().unwrap().clone()];
    kept.settle(total(5)).await.unwrap();
    void.settle(total(7)).await.unwrap();
    clock.advance(8 * DAY);
    // One is taken back in time; the other, and this one again, when both are gone.
    assert!(books.void("ada", &ids[1]).await.unwrap().recorded);
    drop(books);
    let books = open();
    books.record(Event::new("ada", "chat", total(1)).at(time(LATER))).await.unwrap();
    let since = std::time::Instant::now();
    while asked::<u32>(&path, "SELECT count(*) FROM event") > 1 {
        assert!(since.elapsed() < MINUTE, "events are not let go");
        tokio::task::yield_now().await;
    }
    for id in &ids {
        let error = books.void("ada", id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    assert_eq!(used(&books, "ada", "ever").await, amount(6));
    assert_eq!(current(&books, "ada", "credits").await, amount(45));
    assert_sound_at(&path, time(LATER));
}

/// It is told among the events that are kept, and not where some are gone: it stays as it was seen.
#[tokio::test]
async fn the_highest_stays_as_it_was_seen_where_events_are_gone() {
    let (clock, path) = (noon(), file::fresh());
    let open = || {
        let store = Sqlite::options().keep_events_for(7 * DAY).open(&path).unwrap();
        let peak = |period, id: &str| Limit::new(id, "peak", period, 1_000);
        let builder = tokens(&clock)
            .meter(Meter::max("peak", "total_tokens"))
            .limit(peak(Period::AllTime, "ever"))
            .limit(peak(Period::Day, "daily"));
        builder.build_on(store).unwrap().erased()
    };
    let books = open();
    let event = |tokens: u32, at| Event::new("ada", "chat", total(tokens)).at(time(at));
    books.record(event(50, NOON)).await.unwrap();
    clock.advance(8 * DAY);
    drop(books);
    let books = open();
    books.record(event(20, LATER)).await.unwrap();
    let wrong = books.record(event(90, LATER)).await.unwrap().id;
    crate::keeping::until_kept(&books, 2).await;
    books.void("ada", &wrong).await.unwrap();
    assert_eq!(used(&books, "ada", "ever").await, amount(90));
    assert_eq!(used(&books, "ada", "daily").await, amount(20));
    drop(books);
    assert_sound_at(&path, time(LATER));
    let books = open();
    assert_eq!(used(&books, "ada", "ever").await, amount(90));
    assert_eq!(used(&books, "ada", "daily").await, amount(20));
}

/// A balance that is no longer defined is still the customer's: what was charged goes back there.
#[tokio::test]
async fn an_event_is_taken_back_though_its_balance_is_no_longer_defined() {
    let (clock, path) = (noon(), file::fresh());
    let open = |credits: bool| {
        let mut builder = hundred_a_day(&clock);
        if credits {
            builder = builder.default_balance(NewBalance::new("credits").initial(50));
        }
        builder.build_on(Sqlite::open(&path).unwrap()).unwrap().erased()
    };
    let books = open(true);
    let charged = Check::of("ada").charge("credits", |usage| usage.value("total_tokens"));
    let permit = admitted(&books, charged).await;
    let id = permit.id().unwrap().clone();
    permit.settle(total(7)).await.unwrap();
    let free = books.record(Event::new("ada", "chat", total(3)).at(time(NOON))).await.unwrap().id;
    drop(books);
    let books = open(false);
    for id in [&id, &free] {
        assert!(books.void("ada", id).await.unwrap().recorded);
        assert!(!books.void("ada", id).await.unwrap().recorded);
    }
    assert_eq!(used(&books, "ada", "daily").await, amount(0));
    assert_eq!(books.events(EventQuery::new()).await.unwrap().items.len(), 4);
    drop(books);
    assert_sound_at(&path, time(NOON));
    assert_eq!(asked::<i64>(&path, "SELECT sum(amount) FROM ledger"), 0);
    assert_eq!(current(&open(true), "ada", "credits").await, amount(50));
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// One request through the layer.
async fn request(path: &std::path::Path, ids: &[&str], estimate: Usage) {
    let builder = hundred_a_day(&noon()).default_balance(NewBalance::new("credits").initial(50));
    let books = builder.build_on(Sqlite::open(path).unwrap()).unwrap();
    let handler = service_fn(|_: Request<Empty<Bytes>>| {
        std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new())))
    });
    let layer =
        LimitryLayer::new(books, customer::trusted_header("x-customer"), |_: &_| Some(total(3)))
            .estimate(move |_| estimate.clone())
            .charge("credits", |usage| usage.value("total_tokens"))
            .request_id(REQUEST_ID);
    for id in ids {
        let request = Request::get("/").header("x-customer", "ada").header(REQUEST_ID, *id);
        let request = request.body(Empty::new()).unwrap();
        let response = layer.clone().layer(handler).oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
    }
}

/// A balance is explained to the customer by the ids that are in their own logs.
#[tokio::test]
async fn the_audit_names_the_request_of_each_charge() {
    let path = file::fresh();
    request(&path, &["req-7", "", "req-\"8\"", "h\u{e4}h"], total(1)).await;
    request(&path, &["req-9"], total(1).dimension("request_id", "their own")).await;
    let explained: String = asked(
        &path,
        "SELECT group_concat(concat(amount, ' of ', balance_after + amount, ' ', id <> '', ' ', \
         coalesce(request_id, 'none')), ', ') FROM (SELECT * FROM audit ORDER BY sequence)",
    );
    assert_eq!(
        explained,
        "3.0 of 50.0 1 req-7, 3.0 of 47.0 1 none, 3.0 of 44.0 1 req-\"8\", 3.0 of 41.0 1 none, \
         3.0 of 38.0 1 their own"
    );
}

/// The largest balance has no room above it for a sum on the way.
#[tokio::test]
async fn what_must_remain_of_the_largest_balance_can_be_changed() {
    let path = file::fresh();
    let open = || hundred_a_day(&noon()).build_on(Sqlite::open(&path).unwrap()).unwrap().erased();
    let books = open();
    let most = tower_limitry::policy::Amount::MAX;
    books.create_balance("ada", NewBalance::new("credits").initial(most)).await.unwrap();
    let set = books.set_minimum("ada", "credits", 5);
    let balance = tokio::time::timeout(MINUTE / 6, set).await.expect("it is written").unwrap();
    assert_eq!((balance.current(), balance.minimum()), (most, amount(5)));
    assert_sound_at(&path, time(NOON));
    drop(books);
    assert_eq!(current(&open(), "ada", "credits").await, most);
}
