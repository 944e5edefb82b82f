//! Events that are taken back: the record stays, and what it did is undone.

use tower_limitry::backend::{EventQuery, MeterQuery};
use tower_limitry::policy::{EventId, TransactionKind};
use tower_limitry::{Check, ErrorKind, Event, Limit, Meter, NewBalance};

use crate::support::*;

fn chat(customer: &str, tokens: u32) -> Event {
    Event::new(customer, "chat", total(tokens).dimension("model", "large"))
}

pub(crate) async fn an_event_is_taken_back_once(open: Open) {
    let clock = noon();
    let builder = hundred_a_day(&clock).meter(Meter::count("calls"));
    let books = open(builder.limit(Limit::all_time("calls", "calls", 10)));
    let wrong = books.record(chat("ada", 30)).await.unwrap().id;
    books.record(chat("ada", 5)).await.unwrap();
    books.record(chat("bob", 30)).await.unwrap();
    let first = books.void("ada", &wrong).await.unwrap();
    assert!(first.recorded);
    assert_eq!(first.id.to_string(), format!("void:{wrong}"));
    for days in [0, 400] {
        clock.advance(days * DAY);
        let again = books.void("ada", &wrong).await.unwrap();
        assert_eq!((again.id, again.recorded), (first.id.clone(), false));
    }
    assert_eq!(used(&books, "ada", "calls").await, amount(1));
    assert_eq!(used(&books, "bob", "calls").await, amount(1));
    let tokens = books.query(MeterQuery::new("tokens").customer("ada")).await.unwrap().value;
    let calls = books.query(MeterQuery::new("calls").customer("ada")).await.unwrap().value;
    assert_eq!((tokens, calls), (amount(5), amount(1)));

    let events = books.events(EventQuery::new().customer("ada")).await.unwrap().items;
    let said: Vec<_> = events
        .iter()
        .map(|event| (event.usage().value("total_tokens").unwrap(), event.is_reversal()))
        .collect();
    assert_eq!(said, [(amount(-30), true), (amount(5), false), (amount(30), false)]);
    assert_eq!((events[0].id(), events[0].at()), (&first.id, events[2].at()));
    assert_eq!(events[0].usage().dimensions(), events[2].usage().dimensions());
    // What takes back cannot be taken back.
    let error = books.void("ada", &first.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

pub(crate) async fn what_was_charged_is_given_back(open: Open) {
    let builder = hundred_a_day(&noon()).default_balance(NewBalance::new("credits").initial(50));
    let books = open(builder);
    let charged = Check::of("ada").charge("credits", |usage| usage.value("total_tokens"));
    let permit = admitted(&books, charged).await;
    let id = permit.id().unwrap().clone();
    permit.settle(total(80)).await.unwrap();
    assert_eq!(current(&books, "ada", "credits").await, amount(-30));
    for _ in 0..2 {
        books.void("ada", &id).await.unwrap();
    }
    assert_eq!(current(&books, "ada", "credits").await, amount(50));
    assert_eq!(used(&books, "ada", "daily").await, amount(0));
    let ledger: Vec<_> = ledger(&books, "ada", "credits", 50)
        .await
        .iter()
        .map(|row| (row.kind(), row.amount(), row.balance_after()))
        .collect();
    use TransactionKind::{Credit, Debit, Opening};
    let (full, debt) = (amount(50), amount(-30));
    assert_eq!(
        ledger,
        [(Credit, amount(80), full), (Debit, amount(80), debt), (Opening, full, full)],
    );
}

pub(crate) async fn an_event_of_an_earlier_window_leaves_this_one_alone(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock).limit(Limit::all_time("ever", "tokens", 100)));
    let wrong = books.record(chat("ada", 30)).await.unwrap().id;
    clock.advance(DAY);
    books.record(chat("ada", 7)).await.unwrap();
    assert!(books.void("ada", &wrong).await.unwrap().recorded);
    assert_eq!(used(&books, "ada", "daily").await, amount(7));
    assert_eq!(used(&books, "ada", "ever").await, amount(7));
}

pub(crate) async fn a_limit_added_later_does_not_count_what_was_taken_back(open: Open) {
    let books = open(tokens(&noon()).meter(Meter::count("calls")));
    let wrong = books.record(chat("ada", 30)).await.unwrap().id;
    books.record(chat("ada", 5)).await.unwrap();
    books.void("ada", &wrong).await.unwrap();
    books.put_limit(Limit::per_day("daily", "tokens", 100)).await.unwrap();
    books.put_limit(Limit::per_day("calls", "calls", 100)).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(5));
    assert_eq!(used(&books, "ada", "calls").await, amount(1));
}

/// A meter for the highest and one for the latest, and limits on both.
fn peaks(clock: &tower_limitry::engine::ManualClock) -> tower_limitry::engine::EngineBuilder {
    tokens(clock)
        .meter(Meter::max("peak", "total_tokens"))
        .meter(Meter::latest("last", "total_tokens"))
        .limit(Limit::all_time("max", "peak", 100))
        .limit(Limit::per_day("latest", "last", 100))
}

pub(crate) async fn the_highest_and_the_latest_are_found_without_it(open: Open) {
    let books = open(peaks(&noon()));
    let mut ids = Vec::new();
    for (tokens, at) in
        [(20, "2026-03-01T10:00:00Z"), (50, "2026-03-01T11:00:00Z"), (30, "2026-03-01T11:30:00Z")]
    {
        let event = chat("ada", tokens).at(time(at));
        ids.push(books.record(event).await.unwrap().id);
    }
    let said = async |books: &tower_limitry::Books| {
        let (max, latest) = (used(books, "ada", "max").await, used(books, "ada", "latest").await);
        for (meter, value) in [("peak", max), ("last", latest)] {
            let query = MeterQuery::new(meter).customer("ada");
            let at = time("2026-02-28T00:00:00Z");
            assert_eq!(books.query(query.clone()).await.unwrap().value, value);
            assert_eq!(books.query(query.from(at)).await.unwrap().value, value);
        }
        (max, latest)
    };
    assert_eq!(said(&books).await, (amount(50), amount(30)));
    // One that neither was leaves both; each of the others leaves what is left.
    let expected = [(1, (30, 30)), (2, (20, 20)), (0, (0, 0))];
    for (wrong, (max, latest)) in expected {
        for recorded in [true, false] {
            assert_eq!(books.void("ada", &ids[wrong]).await.unwrap().recorded, recorded);
            assert_eq!(said(&books).await, (amount(max), amount(latest)));
        }
        // A limit that is added now finds the same.
        books.put_limit(Limit::per_month("monthly", "peak", 100)).await.unwrap();
        assert_eq!(used(&books, "ada", "monthly").await, amount(max));
        books.remove_limit("monthly").await.unwrap();
    }
    // What comes then counts as ever.
    books.record(chat("ada", 7)).await.unwrap();
    assert_eq!(said(&books).await, (amount(7), amount(7)));
}

pub(crate) async fn a_highest_that_is_found_anew_is_the_customers_own_and_of_its_window(
    open: Open,
) {
    let clock = noon();
    let books = open(peaks(&clock));
    books.put_limit(Limit::per_day("bobs", "peak", 100).for_customer("bob")).await.unwrap();
    let yesterday = books.record(chat("bob", 60)).await.unwrap().id;
    clock.advance(DAY);
    let mut wrong = Vec::new();
    for (customer, tokens) in [("bob", 10), ("bob", 40), ("ada", 90)] {
        wrong.push(books.record(chat(customer, tokens)).await.unwrap().id);
    }
    books.void("bob", &yesterday).await.unwrap();
    assert_eq!(used(&books, "bob", "max").await, amount(40));
    books.void("bob", &wrong[1]).await.unwrap();
    for limit in ["max", "latest", "bobs"] {
        assert_eq!(used(&books, "bob", limit).await, amount(10), "{limit}");
    }
    assert_eq!(used(&books, "ada", "max").await, amount(90));
}

pub(crate) async fn an_event_that_is_not_there_is_not_found(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let id = books.record(chat("ada", 30)).await.unwrap().id;
    for (customer, id) in [("bob", id), ("ada", EventId::new("another").unwrap())] {
        let error = books.void(customer, &id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_names(&error, &["no event of the customer"]);
    }
    assert_eq!(used(&books, "ada", "daily").await, amount(30));
}

pub(crate) async fn what_takes_an_event_back_is_told(open: Open) {
    use std::sync::{Arc, Mutex};
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let books = open(hundred_a_day(&noon()).on_event(move |event| {
        let value = event.usage().value("total_tokens").unwrap();
        heard.lock().unwrap().push((event.id().to_string(), value, event.is_reversal()));
    }));
    let id = books.record(chat("ada", 30).id("wrong").at(time(NOON))).await.unwrap().id;
    for _ in 0..2 {
        books.void("ada", &id).await.unwrap();
    }
    let void = ("void:wrong".to_owned(), amount(-30), true);
    assert_eq!(*told.lock().unwrap(), [("wrong".to_owned(), amount(30), false), void]);
}
