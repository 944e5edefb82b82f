//! What the memory store adds: its bounds, told where they are reached.

use tower_limitry::backend::{Customer, EventQuery, MeterQuery};
use tower_limitry::policy::{Credit, TransactionKind};
use tower_limitry::store::Memory;
use tower_limitry::{Amount, Books, Check, ErrorKind, Event, Limit, Meter, NewBalance};

use crate::support::*;

fn chat(customer: &str, tokens: u32) -> Event {
    Event::new(customer, "chat", total(tokens))
}

/// The newest changes of Ada's credits, and what they began at.
async fn newest_two(books: &Books) -> Vec<(TransactionKind, Amount, Amount)> {
    let all = ledger(books, "ada", "credits", 2).await;
    all.iter().map(|tx| (tx.kind(), tx.amount(), tx.balance_after())).collect()
}

#[tokio::test]
async fn a_limit_added_when_events_are_gone_says_it_is_incomplete() {
    let clock = noon();
    let books = tokens(&clock).memory(Memory::new().keep_events(2)).build().unwrap().erased();
    for tokens in [1, 10, 100] {
        books.record(chat("ada", tokens)).await.unwrap();
    }
    books.put_limit(Limit::per_day("daily", "tokens", 1_000)).await.unwrap();
    let seen = standing(&books, "ada", "daily").await;
    assert_eq!((seen.used, seen.complete), (amount(110), false));
    clock.advance(DAY);
    assert!(standing(&books, "ada", "daily").await.complete);
}

#[tokio::test]
async fn a_limit_that_returns_is_exact_though_events_are_gone() {
    let memory = Memory::new().keep_events(1);
    let books = hundred_a_day(&noon()).memory(memory).build().unwrap().erased();
    for tokens in [1, 10] {
        books.record(chat("ada", tokens)).await.unwrap();
    }
    assert!(books.remove_limit("daily").await.unwrap());
    books.record(chat("ada", 20)).await.unwrap();
    books.put_limit(Limit::per_day("daily", "tokens", 100)).await.unwrap();
    let seen = standing(&books, "ada", "daily").await;
    assert_eq!((seen.used, seen.complete), (amount(31), true));
    books.put_limit(Limit::per_day("ada-daily", "tokens", 50).for_customer("ada")).await.unwrap();
    let seen = standing(&books, "ada", "ada-daily").await;
    assert_eq!((seen.used, seen.complete), (amount(31), true));
}

async fn moved_with_events_gone() -> Books {
    let memory = Memory::new().keep_events(1);
    let books = hundred_a_day(&noon()).memory(memory).build().unwrap().erased();
    for tokens in [1, 10] {
        books.record(chat("ada", tokens)).await.unwrap();
    }
    books.put_customer(Customer::new("ada").zone("Europe/Vienna")).await.unwrap();
    books
}

#[tokio::test]
async fn a_zone_that_changes_when_events_are_gone_says_it_is_incomplete() {
    let books = moved_with_events_gone().await;
    let seen = standing(&books, "ada", "daily").await;
    assert_eq!((seen.used, seen.complete), (amount(10), false));
}

#[tokio::test]
async fn a_query_knows_that_a_window_was_moved_when_events_were_gone() {
    let books = moved_with_events_gone().await;
    let today = MeterQuery::new("tokens")
        .customer("ada")
        .from(time("2026-02-28T23:00:00Z"))
        .until(time("2026-03-01T23:00:00Z"));
    assert!(!books.query(today).await.unwrap().complete);
}

#[tokio::test]
async fn a_customer_who_is_forgotten_when_events_are_gone_is_incomplete() {
    let books = moved_with_events_gone().await;
    assert!(books.remove_customer("ada").await.unwrap());
    let seen = standing(&books, "ada", "daily").await;
    assert_eq!((seen.used, seen.complete), (amount(10), false));
}

#[tokio::test]
async fn a_query_over_events_that_are_gone_says_so() {
    let memory = Memory::new().keep_events(2);
    let books = hundred_a_day(&noon())
        .meter(Meter::count("calls"))
        .memory(memory)
        .build()
        .unwrap()
        .erased();
    for (tokens, at) in [(1, "2026-02-27T00:00:00Z"), (2, "2026-02-28T00:00:00Z"), (4, NOON)] {
        books.record(chat("ada", tokens).at(time(at))).await.unwrap();
    }
    let since = |at: &str| MeterQuery::new("tokens").customer("ada").from(time(at));
    let read = async |query: MeterQuery| {
        let reading = books.query(query).await.unwrap();
        (reading.value, reading.complete)
    };
    assert_eq!(read(since("2026-02-27T00:00:00Z")).await, (amount(6), false));
    assert_eq!(read(since("2026-02-27T00:00:00.000000001Z")).await, (amount(6), true));
    // A counter is exact however many events are gone.
    for _ in 0..5 {
        books.record(chat("ada", 10)).await.unwrap();
    }
    let today = since("2026-03-01T00:00:00Z").until(time("2026-03-02T00:00:00Z"));
    assert_eq!(read(today).await, (amount(54), true));
    assert_eq!(books.events(EventQuery::new()).await.unwrap().items.len(), 2);
}

#[tokio::test]
async fn an_opening_balance_stands_for_transactions_that_are_gone() {
    let books = tokens(&noon())
        .memory(Memory::new().keep_events(2))
        .default_balance(NewBalance::new("credits").initial(100))
        .build()
        .unwrap()
        .erased();
    for amount in [1, 2, 4, 8] {
        books
            .credit(Credit::new("ada", "credits", amount).reference(amount.to_string()))
            .await
            .unwrap();
    }
    let shown = newest_two(&books).await;
    use TransactionKind::{Credit as In, Opening};
    assert_eq!(
        shown,
        [
            (In, amount(8), amount(115)),
            (In, amount(4), amount(107)),
            (Opening, amount(103), amount(103))
        ]
    );
    // A reference is known for ever, its transaction as long as it is kept.
    let again = books.credit(Credit::new("ada", "credits", 1).reference("1")).await.unwrap();
    assert_eq!((again.applied, again.transaction), (false, None));
    assert_eq!(current(&books, "ada", "credits").await, amount(115));
}

#[tokio::test]
async fn more_customers_than_there_is_place_for_are_unavailable() {
    let memory = Memory::new().max_customers(3);
    let books = hundred_a_day(&noon())
        .memory(memory)
        .default_balance(NewBalance::new("credits").initial(5))
        .build()
        .unwrap()
        .erased();
    for name in ["a", "b", "c"] {
        spend(&books, name, 1).await;
    }
    let error = failed(&books, Check::of("d")).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_names(&error, &["no place for another customer", "max_customers"]);
    assert_eq!(books.record(chat("d", 1)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let credit = books.credit(Credit::new("d", "credits", 1)).await.unwrap_err();
    assert_eq!(credit.kind(), ErrorKind::Unavailable);
    let mixed = books.record_many([chat("a", 50), chat("d", 1)]).await.unwrap_err();
    assert_eq!(mixed.kind(), ErrorKind::Unavailable);
    for name in ["a", "b", "c"] {
        assert_eq!(used(&books, name, "daily").await, amount(1));
        spend(&books, name, 1).await;
    }
    // Looking takes no place.
    assert!(books.preview(Check::of("d")).await.unwrap().is_allowed());
}

#[tokio::test]
async fn an_own_id_on_an_event_older_than_ids_are_remembered_is_too_old() {
    let books = hundred_a_day(&noon()).build().unwrap().erased();
    let old = || chat("ada", 1).id("row-1").at(time("2026-01-01T00:00:00Z"));
    let error = books.record(old()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooOld);
    assert_names(&error, &["older than ids are remembered", "without an id"]);
    // Those that come with it are not recorded either.
    let error = books.record_many([chat("ada", 5), old(), chat("bob", 6)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooOld);
    assert_names(&error, &["events[1]: "]);
    assert_eq!(used(&books, "ada", "daily").await, amount(0));
    assert_eq!(books.events(EventQuery::new()).await.unwrap().items.len(), 0);
}

/// It was admitted, so its settlement has a place, whoever came meanwhile.
#[tokio::test]
async fn a_late_settlement_counts_though_there_is_no_place_for_another_customer() {
    let clock = noon();
    let memory = Memory::new().max_customers(1);
    let books = hundred_a_day(&clock).memory(memory).build().unwrap().erased();
    let permit = admitted(&books, ask("ada", 10).hold_for(MINUTE)).await;
    clock.advance(MINUTE);
    assert_eq!(books.open_holds().await.unwrap(), 0);
    spend(&books, "bob", 1).await;
    permit.settle(total(10)).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(10));
    assert_eq!(failed(&books, Check::of("eve")).await.kind(), ErrorKind::Unavailable);
}

#[test]
fn a_url_chooses_the_store() {
    let books = hundred_a_day(&noon()).open("memory:").unwrap();
    assert!(format!("{books:?}").contains("Books"));
    let error = hundred_a_day(&noon()).open("mongo://user:secret@host").unwrap_err();
    assert_names(&error, &["backend URL", "mongo", "memory:"]);
    assert!(!error.to_string().contains("secret"));
}

#[test]
fn definitions_that_make_no_sense_are_told_when_building() {
    let build = |builder: tower_limitry::engine::EngineBuilder| builder.build().unwrap_err();
    let clock = noon();
    let error = build(tokens(&clock).meter(Meter::count("tokens")));
    assert_names(&error, &[r#"meter "tokens": id"#, "twice", "an id of its own"]);
    let error = build(hundred_a_day(&clock).limit(Limit::per_hour("daily", "tokens", 5)));
    assert_names(&error, &[r#"limit "daily": id"#, "twice", "an id of its own"]);
    let error = build(tokens(&clock).limit(Limit::per_hour("x", "nothing", 5)));
    assert_names(&error, &[r#"limit "x": meter"#, r#""nothing" is not defined"#]);
    let error = build(tokens(&clock).limit(Limit::per_hour("x", "tokens", 0)));
    assert_names(&error, &[r#"limit "x": cap"#, "give an amount above 0"]);
    let error = build(tokens(&clock).zone("Mars/Olympus"));
    assert_eq!(error.field(), "zone");
    assert_names(&error, &[r#"zone "Mars/Olympus":"#, "IANA name"]);
    let twice = || NewBalance::new("credits");
    let error = build(tokens(&clock).default_balance(twice()).default_balance(twice()));
    assert_names(&error, &[r#"balance "credits""#, "twice", "a name of its own"]);
}

/// The first of them made the store let go of an id, and the second then came too late: the first
/// alone was counted.
#[tokio::test]
async fn many_are_recorded_together_or_not_at_all_though_ids_are_let_go() {
    let books = hundred_a_day(&noon()).build().unwrap().erased();
    let event = |id: usize, at: &str| chat("ada", 1).id(format!("row-{id}")).at(time(at));
    for first in (0..16_384).step_by(1_000) {
        let ids = first..16_384.min(first + 1_000);
        books.record_many(ids.map(|id| event(id, NOON))).await.unwrap();
    }
    let both = [event(20_000, NOON), event(20_001, "2026-03-01T11:59:00Z")];
    let error = books.record_many(both).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooOld);
    assert_eq!(used(&books, "ada", "daily").await, amount(16_384));
}

/// Found by looking through the events when it is asked for, however many have come and gone by then.
#[tokio::test]
async fn the_id_of_a_settled_request_is_known_as_long_as_its_event_is_kept() {
    let books = tokens(&noon()).memory(Memory::new().keep_events(3)).build().unwrap().erased();
    let mut settled = Vec::new();
    for number in 0..20 {
        let permit = admitted(&books, Check::of("ada")).await;
        let id = permit.id().unwrap().to_string();
        permit.settle(total(1)).await.unwrap();
        settled.push(id);
        if number % 5 < 3 {
            for id in settled.iter().rev().take(3) {
                let event = chat("ada", 1).id(id).at(time(NOON));
                assert!(!books.record(event).await.unwrap().recorded, "{number}");
            }
        }
        if number == 19 {
            let of_another = chat("bob", 1).id(settled.last().unwrap()).at(time(NOON));
            assert!(books.record(of_another).await.unwrap().recorded);
        }
    }
}

/// Else only half of it would be taken back.
#[tokio::test]
async fn an_event_is_taken_back_with_its_charge_however_many_credits_came_since() {
    let books = hundred_a_day(&noon())
        .memory(Memory::new().keep_events(2))
        .default_balance(NewBalance::new("credits").initial(50))
        .build()
        .unwrap()
        .erased();
    let charged = Check::of("ada").charge("credits", |usage| usage.value("total_tokens"));
    let permit = admitted(&books, charged).await;
    let id = permit.id().unwrap().clone();
    permit.settle(total(30)).await.unwrap();
    for _ in 0..5 {
        books.credit(Credit::new("bob", "credits", 1)).await.unwrap();
    }
    books.void("ada", &id).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(0));
    assert_eq!(current(&books, "ada", "credits").await, amount(50));
}

/// Charges go with their events, and other transactions by themselves: one that is still kept may be
/// older than one that is gone.
#[tokio::test]
async fn a_list_of_transactions_begins_behind_the_newest_that_is_gone() {
    let books = hundred_a_day(&noon())
        .memory(Memory::new().keep_events(2))
        .default_balance(NewBalance::new("credits").initial(50))
        .build()
        .unwrap()
        .erased();
    books.credit(Credit::new("ada", "credits", 5)).await.unwrap();
    for tokens in [1, 2, 4] {
        let charged = Check::of("ada").charge("credits", |usage| usage.value("total_tokens"));
        admitted(&books, charged).await.settle(total(tokens)).await.unwrap();
    }
    let shown = newest_two(&books).await;
    use TransactionKind::{Debit as Out, Opening};
    assert_eq!(
        shown,
        [
            (Out, amount(4), amount(48)),
            (Out, amount(2), amount(52)),
            (Opening, amount(54), amount(54))
        ]
    );
}

/// What took an event back came later, and is kept longer.
#[tokio::test]
async fn what_takes_an_event_back_gives_nothing_once_the_event_is_gone() {
    let memory = Memory::new().keep_events(2);
    let books = tokens(&noon()).meter(Meter::count("calls")).memory(memory);
    let books = books.build().unwrap().erased();
    let wrong = books.record(chat("ada", 100)).await.unwrap().id;
    books.void("ada", &wrong).await.unwrap();
    books.record(chat("ada", 10)).await.unwrap();
    let read = async |meter: &str| {
        let query = MeterQuery::new(meter).customer("ada");
        let reading = books.query(query).await.unwrap();
        (reading.value, reading.complete)
    };
    assert_eq!(read("tokens").await, (amount(10), false));
    assert_eq!(read("calls").await, (amount(1), false));
    books.put_limit(Limit::per_day("daily", "tokens", 1_000)).await.unwrap();
    books.put_limit(Limit::per_day("calls", "calls", 1_000)).await.unwrap();
    let seen = standing(&books, "ada", "daily").await;
    assert_eq!((seen.used, seen.complete), (amount(10), false));
    assert_eq!(used(&books, "ada", "calls").await, amount(1));
}
