//! Limits, meters and customers that change while requests run.

use std::collections::BTreeMap;

use tower_limitry::backend::DenialKind;
use tower_limitry::backend::{Customer, MeterQuery, PageRequest};
use tower_limitry::{Check, ErrorKind, Event, Limit, Meter, Usage};

use crate::support::*;

fn daily(cap: u32) -> Limit {
    Limit::per_day("daily", "tokens", cap)
}

fn deal(customer: &str, cap: u32) -> Limit {
    Limit::per_day(format!("{customer}-daily"), "tokens", cap).for_customer(customer)
}

pub(crate) async fn an_own_limit_replaces_the_default(open: Open) {
    let books = open(
        hundred_a_day(&noon())
            .limit(Limit::per_month("monthly", "tokens", 5_000))
            .limit(deal("ada", 1_000)),
    );
    admitted(&books, ask("ada", 1_000)).await.release().await.unwrap();
    assert_eq!(denied(&books, ask("bob", 101)).await.kind(), DenialKind::TooLarge);
    let seen = books.usage("ada").await.unwrap();
    let mut ids: Vec<_> = seen.limits().map(|limit| limit.id().to_owned()).collect();
    ids.sort();
    assert_eq!(ids, ["ada-daily", "monthly"]);
}

pub(crate) async fn an_own_limit_may_be_lower(open: Open) {
    let books = open(hundred_a_day(&noon()).limit(deal("ada", 10)));
    denied(&books, ask("ada", 11)).await;
    admitted(&books, ask("bob", 11)).await.release().await.unwrap();
}

pub(crate) async fn raising_a_limit_keeps_its_usage(open: Open) {
    let books = open(hundred_a_day(&noon()));
    spend(&books, "ada", 100).await;
    let running = admitted(&books, ask("bob", 60)).await;
    denied(&books, Check::of("ada")).await;

    books.put_limit(daily(150)).await.unwrap();
    let seen = standing(&books, "ada", "daily").await;
    assert_eq!((seen.cap, seen.used, seen.remaining), (amount(150), amount(100), amount(50)));
    assert!(seen.complete);
    assert_eq!(used_held(&books, "bob", "daily").await, (amount(0), amount(60)));
    running.settle(total(60)).await.unwrap();

    books.put_limit(deal("ada", 120)).await.unwrap();
    let seen = standing(&books, "ada", "ada-daily").await;
    assert_eq!((seen.used, seen.remaining), (amount(100), amount(20)));
    assert!(seen.complete);
    assert!(books.remove_limit("ada-daily").await.unwrap());
    let seen = standing(&books, "ada", "daily").await;
    assert_eq!((seen.used, seen.remaining), (amount(100), amount(50)));
    assert!(seen.complete);
    assert_eq!(used_held(&books, "bob", "daily").await, (amount(60), amount(0)));
}

pub(crate) async fn a_limit_added_later_counts_the_events_that_are_kept(open: Open) {
    let books = open(tokens(&noon()));
    let chat = |customer: &str, tokens: u32| Event::new(customer, "chat", total(tokens));
    books.record(chat("ada", 30)).await.unwrap();
    books.record(chat("ada", 5).at(time("2026-02-28T12:00:00Z"))).await.unwrap();
    books.record(chat("bob", 7)).await.unwrap();
    books.record(chat("ada", 9).at(time("2026-03-02T01:00:00Z"))).await.unwrap();
    books.put_limit(daily(40)).await.unwrap();
    let seen = standing(&books, "ada", "daily").await;
    assert_eq!((seen.used, seen.complete), (amount(30), true));
    assert_eq!(used(&books, "bob", "daily").await, amount(7));
    denied(&books, ask("ada", 11)).await;
    admitted(&books, ask("ada", 10)).await.settle(total(10)).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(40));
}

pub(crate) async fn an_early_event_is_there_for_a_limit_added_later(open: Open) {
    let clock = noon();
    let books = open(tokens(&clock));
    let early = Event::new("ada", "chat", total(9)).at(time("2026-03-02T01:00:00Z"));
    books.record(early).await.unwrap();
    books.put_limit(daily(40)).await.unwrap();
    clock.advance(DAY);
    assert_eq!(used(&books, "ada", "daily").await, amount(9));
}

pub(crate) async fn an_own_limit_on_something_new_counts_the_events_that_are_kept(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let large = |customer: &str, tokens: u32| {
        Event::new(customer, "chat", total(tokens).dimension("model", "large"))
    };
    books.record(large("ada", 30)).await.unwrap();
    books.record(large("bob", 20)).await.unwrap();
    let narrowed = Limit::per_day("ada-large", "tokens", 50).dimension("model", "large");
    books.put_limit(narrowed.for_customer("ada")).await.unwrap();
    let seen = standing(&books, "ada", "ada-large").await;
    assert_eq!((seen.used, seen.complete), (amount(30), true));
    assert_eq!(books.usage("bob").await.unwrap().limits().count(), 1);
    // Given to everybody, it counts everybody's.
    let narrowed = Limit::per_day("large", "tokens", 70).dimension("model", "large");
    books.put_limit(narrowed).await.unwrap();
    assert_eq!(used(&books, "bob", "large").await, amount(20));
    assert_eq!(used(&books, "ada", "ada-large").await, amount(30));
}

pub(crate) async fn a_limit_that_is_removed_no_longer_refuses_and_is_exact_when_it_returns(
    open: Open,
) {
    let books = open(hundred_a_day(&noon()));
    spend(&books, "ada", 100).await;
    assert!(books.remove_limit("daily").await.unwrap());
    assert!(!books.remove_limit("daily").await.unwrap());
    assert_eq!(books.limits().await.unwrap(), []);
    spend(&books, "ada", 50).await;
    assert_eq!(books.usage("ada").await.unwrap().limits().count(), 0);
    // Another id and another cap, but the same counter.
    books.put_limit(Limit::per_day("per-day", "tokens", 200)).await.unwrap();
    let seen = standing(&books, "ada", "per-day").await;
    assert_eq!((seen.used, seen.complete), (amount(150), true));
}

pub(crate) async fn a_limit_that_changes_its_period_counts_anew(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let chat = |tokens: u32, at: &str| Event::new("ada", "chat", total(tokens)).at(time(at));
    books.record(chat(30, NOON)).await.unwrap();
    books.record(chat(40, "2026-02-28T12:00:00Z")).await.unwrap();
    books.put_limit(Limit::per_week("daily", "tokens", 100)).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(70));
    books.put_limit(daily(100)).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(30));
}

pub(crate) async fn a_meter_that_is_replaced_counts_by_its_new_definition(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let event = |kind: &str| Event::new("ada", kind, Usage::of("total_tokens", 10).and("n", 1));
    for kind in ["chat", "chat", "image"] {
        books.record(event(kind)).await.unwrap();
    }
    assert_eq!(used(&books, "ada", "daily").await, amount(30));
    books.put_meter(Meter::sum("tokens", "total_tokens").event_type("chat")).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(20));
    books.put_meter(Meter::sum("tokens", "n")).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(3));
    books.record(event("image")).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(4));
    books.put_meter(Meter::max("tokens", "total_tokens")).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(10));
    books.put_meter(Meter::sum("tokens", "total_tokens")).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(40));
    let reading = books.query(MeterQuery::new("tokens").customer("ada")).await.unwrap();
    assert_eq!(reading.value, amount(40));
}

pub(crate) async fn a_meter_can_be_added_and_removed(open: Open) {
    let books = open(hundred_a_day(&noon()));
    books.put_meter(Meter::count("calls")).await.unwrap();
    books.put_limit(Limit::per_day("calls", "calls", 2)).await.unwrap();
    let ids: Vec<_> = books.meters().await.unwrap();
    let ids: Vec<_> = ids.iter().map(|meter| meter.id()).collect();
    assert_eq!(ids, ["calls", "tokens"]);
    let error = books.remove_meter("calls").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_names(&error, &["calls", "remove that first"]);
    assert!(books.remove_limit("calls").await.unwrap());
    assert!(books.remove_meter("calls").await.unwrap());
    assert!(!books.remove_meter("calls").await.unwrap());
    let error = books.put_limit(Limit::per_day("calls", "calls", 2)).await.unwrap_err();
    assert_invalid(&error, &["calls", "is not defined"]);
}

pub(crate) async fn a_change_that_makes_no_sense_changes_nothing(open: Open) {
    let books = open(hundred_a_day(&noon()));
    spend(&books, "ada", 40).await;
    assert_invalid(&books.put_limit(daily(0)).await.unwrap_err(), &["daily", "cap"]);
    assert_invalid(&books.put_meter(Meter::sum("tokens", "")).await.unwrap_err(), &["field"]);
    let seen = standing(&books, "ada", "daily").await;
    assert_eq!((seen.cap, seen.used), (amount(100), amount(40)));
}

pub(crate) async fn requests_that_run_through_a_change_settle_by_the_new_rules(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let permit = admitted(&books, ask("ada", 60)).await;
    books.put_limit(Limit::per_hour("hourly", "tokens", 500)).await.unwrap();
    books.remove_limit("daily").await.unwrap();
    permit.settle(total(70)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "hourly").await, (amount(70), amount(0)));
    books.put_limit(daily(100)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(70), amount(0)));
}

/// More customers than counters go on being counted had a deal, and theirs ended. They are like
/// everybody else then, also when the default changes.
pub(crate) async fn customers_whose_own_limits_ended_follow_the_default(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let names: Vec<_> = (0..70).map(|number| format!("acct_{number}")).collect();
    for name in &names {
        books.put_limit(deal(name, 1_000)).await.unwrap();
    }
    for name in &names {
        books.remove_limit(format!("{name}-daily")).await.unwrap();
    }
    books.put_limit(daily(10)).await.unwrap();
    for name in &names {
        assert_eq!(denied(&books, ask(name, 11)).await.kind(), DenialKind::TooLarge, "{name}");
        assert_eq!(standing(&books, name, "daily").await.cap, amount(10), "{name}");
    }
}

pub(crate) async fn a_customer_is_kept_with_what_is_attached(open: Open) {
    let books = open(hundred_a_day(&noon()));
    assert_eq!(books.customer("ada").await.unwrap(), None);
    let ada = Customer::new("ada")
        .zone("Europe/Vienna")
        .billing_anchor("2026-01-31")
        .metadata("plan", "pro");
    books.put_customer(ada.clone()).await.unwrap();
    assert_eq!(books.customer("ada").await.unwrap(), Some(ada));
    let attached = BTreeMap::from([("plan".to_owned(), "free".to_owned())]);
    books.put_customer(Customer::new("ada").metadata("plan", "free")).await.unwrap();
    let ada = books.customer("ada").await.unwrap().unwrap();
    assert_eq!((ada.time_zone(), ada.anchor(), ada.attached()), (None, None, &attached));
    assert!(books.remove_customer("ada").await.unwrap());
    assert!(!books.remove_customer("ada").await.unwrap());
    assert_eq!(books.customer("ada").await.unwrap(), None);
}

pub(crate) async fn customers_are_paged_by_id(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let mut names: Vec<_> = (0..25).map(|number| format!("acct_{}", number * 7 % 25)).collect();
    for name in &names {
        books.put_customer(Customer::new(name)).await.unwrap();
    }
    spend(&books, "somebody-else", 1).await;
    names.sort();
    for length in [1, 7, 25, 100] {
        let mut found = Vec::new();
        let mut page = PageRequest::first().limit(length);
        loop {
            let answer = books.customers(page).await.unwrap();
            found.extend(answer.items.iter().map(|customer| customer.id().unwrap().to_string()));
            match answer.next {
                Some(next) => page = PageRequest::first().limit(length).after(next),
                None => break,
            }
        }
        assert_eq!(found, names, "pages of {length}");
    }
}

pub(crate) async fn a_zone_moves_the_days_of_a_customer(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    books.put_customer(Customer::new("ada").zone("America/New_York")).await.unwrap();
    let seen = standing(&books, "ada", "daily").await;
    assert_eq!(seen.reset, Some(time("2026-03-02T05:00:00Z").as_seconds()));
    spend(&books, "ada", 100).await;
    clock.set(time("2026-03-02T04:59:59Z"));
    assert_eq!(denied(&books, Check::of("ada")).await.retry_after(), Some(SECOND));
    clock.advance(SECOND);
    admitted(&books, Check::of("ada")).await.release().await.unwrap();
}

pub(crate) async fn an_anchor_moves_the_months_of_a_customer(open: Open) {
    let clock = clock_at("2026-02-10T12:00:00Z");
    let books = open(tokens(&clock).limit(Limit::per_month("monthly", "tokens", 100)));
    books.put_customer(Customer::new("ada").billing_anchor("2026-01-31")).await.unwrap();
    let reset = async || standing(&books, "ada", "monthly").await.reset;
    assert_eq!(reset().await, Some(time("2026-02-28T00:00:00Z").as_seconds()));
    clock.set(time("2026-02-28T00:00:00Z"));
    assert_eq!(reset().await, Some(time("2026-03-31T00:00:00Z").as_seconds()));
    clock.set(time("2026-03-31T00:00:00Z"));
    assert_eq!(reset().await, Some(time("2026-04-30T00:00:00Z").as_seconds()));
}

pub(crate) async fn a_zone_that_changes_counts_the_kept_events_again(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    let chat = |tokens: u32, at: &str| Event::new("ada", "chat", total(tokens)).at(time(at));
    books.record(chat(1, "2026-02-28T23:30:00Z")).await.unwrap();
    books.record(chat(10, "2026-03-01T04:30:00Z")).await.unwrap();
    books.record(chat(40, "2026-03-01T11:00:00Z")).await.unwrap();
    books.record(chat(20, "2026-03-02T01:00:00Z")).await.unwrap();
    let running = admitted(&books, ask("ada", 5)).await;
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(50), amount(5)));

    // Its day goes from 05:00 to 05:00.
    books.put_customer(Customer::new("ada").zone("America/New_York")).await.unwrap();
    let seen = standing(&books, "ada", "daily").await;
    assert_eq!((seen.used, seen.held, seen.complete), (amount(60), amount(5), true));
    running.settle(total(5)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(65), amount(0)));

    // And from 23:00 to 23:00.
    books.put_customer(Customer::new("ada").zone("Europe/Vienna")).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(56), amount(0)));
    assert!(books.remove_customer("ada").await.unwrap());
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(55), amount(0)));
    clock.advance(DAY);
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(20), amount(0)));
}

pub(crate) async fn a_limit_that_is_away_moves_with_its_customer(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let chat = |tokens: u32, at: &str| Event::new("ada", "chat", total(tokens)).at(time(at));
    books.record(chat(1, "2026-02-28T23:30:00Z")).await.unwrap();
    books.record(chat(10, NOON)).await.unwrap();
    assert!(books.remove_limit("daily").await.unwrap());
    books.put_customer(Customer::new("ada").zone("Europe/Vienna")).await.unwrap();
    books.record(chat(20, NOON)).await.unwrap();
    books.put_limit(daily(100)).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(31));
}

/// Two zones may agree on today and not on tomorrow, when one of them changes its clocks. An early
/// event waits for tomorrow.
pub(crate) async fn an_early_event_follows_its_customer_into_another_zone(open: Open) {
    let clock = clock_at("2026-03-28T12:00:00Z");
    let books = open(hundred_a_day(&clock));
    let early = Event::new("ada", "chat", total(9)).at(time("2026-03-29T10:00:00Z"));
    books.record(early).await.unwrap();
    books.put_customer(Customer::new("ada").zone("Europe/London")).await.unwrap();
    clock.set(time("2026-03-29T11:00:00Z"));
    assert_eq!(used(&books, "ada", "daily").await, amount(9));
}

fn clock_at(text: &str) -> tower_limitry::engine::ManualClock {
    tower_limitry::engine::ManualClock::at(text)
}
