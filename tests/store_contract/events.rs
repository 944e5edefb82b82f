//! Events: recorded once, listed, and read through meters.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tower_limitry::backend::{EventQuery, MeterQuery, PageRequest};
use tower_limitry::policy::{Aggregation, Amount, RecordedEvent};
use tower_limitry::{Books, Check, Engine, ErrorKind, Event, Limit, Meter, Usage};

use crate::support::*;

fn used_tokens(customer: &str, tokens: u32) -> Event {
    Event::new(customer, "chat", total(tokens))
}

pub(crate) async fn an_event_counts_without_a_check_and_is_never_refused(open: Open) {
    let books = open(hundred_a_day(&noon()));
    for expected in [80, 160] {
        let recorded = books.record(used_tokens("ada", 80)).await.unwrap();
        assert!(recorded.recorded);
        assert_eq!(recorded.id.made_at(), Some(time(NOON)));
        assert_eq!(used(&books, "ada", "daily").await, amount(expected));
    }
}

pub(crate) async fn many_are_recorded_together_or_not_at_all(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let answer = books
        .record_many([used_tokens("ada", 1), used_tokens("bob", 2), used_tokens("ada", 3)])
        .await
        .unwrap();
    assert!(answer.iter().all(|recorded| recorded.recorded));
    assert_eq!(answer.len(), 3);
    assert_eq!(used(&books, "ada", "daily").await, amount(4));
    assert_eq!(used(&books, "bob", "daily").await, amount(2));

    let bad = [
        (used_tokens("", 1), "events[1].customer"),
        (Event::new("ada", "", total(1)), "events[1].event_type"),
        (Event::new("ada", "chat", total(f64::NAN)), "events[1].usage"),
        (used_tokens("ada", 1).id(""), "events[1].id"),
        (used_tokens("ada", 1).id("mine"), "events[1].at"),
        (used_tokens("ada", 1).at(time("2026-03-02T12:00:00.000000001Z")), "events[1].at"),
    ];
    for (event, field) in bad {
        let events = [used_tokens("ada", 5), event, used_tokens("bob", 6)];
        assert_invalid(&books.record_many(events).await.unwrap_err(), &[field]);
    }
    assert_eq!(used(&books, "ada", "daily").await, amount(4));
    assert_eq!(used(&books, "bob", "daily").await, amount(2));
    assert_eq!(books.events(EventQuery::new()).await.unwrap().items.len(), 3);
}

pub(crate) async fn every_recorded_event_is_told_once_as_it_was_recorded(open: Open) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let hearing = Arc::clone(&told);
    let books = open(
        hundred_a_day(&noon()).on_event(move |event| hearing.lock().unwrap().push(event.clone())),
    );
    let usage = total("40.5").dimension("model", "small-1");
    admitted(&books, ask("ada", 60)).await.settle(usage).await.unwrap();
    drop(admitted(&books, ask("ada", 10)).await);
    denied(&books, ask("ada", 101)).await;
    let given = || used_tokens("ada", 1).id("mine").at(time(NOON));
    for recorded in [true, false] {
        assert_eq!(books.record(given()).await.unwrap().recorded, recorded);
    }
    books.record_many([used_tokens("bob", 2), used_tokens("ada", 3)]).await.unwrap();

    let told = std::mem::take(&mut *told.lock().unwrap());
    let mut listed = books.events(EventQuery::new()).await.unwrap().items;
    listed.reverse();
    assert_eq!(told.len(), 4);
    let form = |event: &RecordedEvent| serde_json::to_value(event).unwrap();
    assert_eq!(
        told.iter().map(form).collect::<Vec<_>>(),
        listed.iter().map(form).collect::<Vec<_>>()
    );
    assert_eq!(
        form(&told[0]),
        serde_json::json!({
            "id": told[0].id().to_string(),
            "customerId": "ada",
            "eventType": "request",
            "values": { "total_tokens": 40.5 },
            "dimensions": { "model": "small-1" },
            "timestamp": NOON,
        })
    );
}

pub(crate) async fn a_hook_for_events_that_panics_costs_nothing(open: Open) {
    let books = open(hundred_a_day(&noon()).on_event(|_| panic!("the hook's own fault")));
    spend(&books, "ada", 40).await;
    books.record(used_tokens("ada", 2)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(42), amount(0)));
}

pub(crate) async fn a_thousand_are_taken_and_not_one_more(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let events = |count: usize| (0..count).map(|_| used_tokens("ada", 1));
    let error = books.record_many(events(1_001)).await.unwrap_err();
    assert_invalid(&error, &["events", "1001", "at most 1000"]);
    assert_eq!(used(&books, "ada", "daily").await, amount(0));
    assert_eq!(books.record_many(events(1_000)).await.unwrap().len(), 1_000);
    assert_eq!(used(&books, "ada", "daily").await, amount(1_000));
    assert_eq!(books.record_many([]).await.unwrap(), []);
}

pub(crate) async fn an_own_id_counts_once(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    let event = |tokens: u32| used_tokens("ada", tokens).id("row-1").at(time(NOON));
    let recorded = books.record(event(5)).await.unwrap();
    assert!(recorded.recorded);
    assert_eq!(recorded.id.to_string(), "row-1");
    clock.advance(9 * MINUTE);
    assert!(!books.record(event(5)).await.unwrap().recorded);
    assert!(books.record(used_tokens("bob", 5).id("row-1").at(time(NOON))).await.unwrap().recorded);
    assert_eq!(used(&books, "ada", "daily").await, amount(5));

    let twice = || used_tokens("ada", 7).id("row-2").at(time(NOON));
    let answer = books.record_many([twice(), event(5), twice()]).await.unwrap();
    let counted: Vec<_> = answer.iter().map(|recorded| recorded.recorded).collect();
    assert_eq!(counted, [true, false, false]);
    assert_eq!(used(&books, "ada", "daily").await, amount(12));
}

pub(crate) async fn an_own_id_may_tell_its_time_itself(open: Open) {
    let books = open(hundred_a_day(&noon()));
    // Version 7, made at 2026-03-01T11:59:00Z.
    let millis = time("2026-03-01T11:59:00Z").as_millis() as u128;
    let id = tower_limitry::policy::EventId::from_uuid(millis << 80 | 0x7 << 76 | 0b10 << 62 | 9);
    let event = || used_tokens("ada", 5).id(id.to_string());
    assert!(books.record(event()).await.unwrap().recorded);
    assert!(!books.record(event()).await.unwrap().recorded);
    let kept = books.events(EventQuery::new()).await.unwrap().items;
    assert_eq!((kept.len(), kept[0].at()), (1, time("2026-03-01T11:59:00Z")));
}

/// Whoever settles a request and tells of the same use under its id has told it twice.
pub(crate) async fn an_event_under_the_id_of_a_settled_request_is_a_repeat(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let ids = [None, Some("order-1"), Some("0195517c-2500-7000-8000-000000000009")];
    for (number, given) in (1..).zip(ids) {
        let event = used_tokens("ada", 5).at(time(NOON));
        let check = Check::of("ada").event_type("chat");
        let check = given.into_iter().fold(check, |check, id| check.id(id));
        let permit = admitted(&books, check).await;
        let id = permit.id().unwrap().to_string();
        permit.settle(total(5)).await.unwrap();
        assert!(!books.record(event.id(&id)).await.unwrap().recorded, "{id}");
        assert_eq!(books.events(EventQuery::new()).await.unwrap().items.len(), number);
        assert_eq!(used(&books, "ada", "daily").await, amount(5 * number as u32));
    }
}

/// A repeat that comes when its id may be forgotten must be told, not counted.
pub(crate) async fn a_repeat_is_never_counted_however_late(open: Open) {
    let clock = noon();
    let books = open(tokens(&clock).limit(Limit::all_time("ever", "tokens", 100)));
    let event = || used_tokens("ada", 5).id("row-1").at(time(NOON));
    books.record(event()).await.unwrap();
    for step in 0..40 {
        clock.advance(37 * SECOND);
        let other = used_tokens("ada", 0).id(format!("other-{step}"));
        let now = time(NOON).saturating_add((step + 1) * 37 * SECOND);
        books.record(other.at(now)).await.unwrap();
        match books.record(event()).await {
            Ok(recorded) => assert!(!recorded.recorded, "step {step}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::TooOld, "step {step}"),
        }
        assert_eq!(used(&books, "ada", "ever").await, amount(5), "step {step}");
    }
}

/// An event of tomorrow is not old for a day; its id must be known as long.
pub(crate) async fn a_repeat_of_an_early_event_is_never_counted(open: Open) {
    let clock = noon();
    let books = open(tokens(&clock).limit(Limit::all_time("ever", "tokens", 100)));
    let early = time("2026-03-02T11:00:00Z");
    let event = || used_tokens("ada", 5).id("row-1").at(early);
    books.record(event()).await.unwrap();
    for hour in 1..30 {
        clock.advance(HOUR);
        let now = time(NOON).saturating_add(hour * HOUR);
        let other = used_tokens("ada", 0).id(format!("other-{hour}")).at(now);
        assert!(books.record(other).await.unwrap().recorded, "hour {hour}");
        match books.record(event()).await {
            Ok(recorded) => assert!(!recorded.recorded, "hour {hour}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::TooOld, "hour {hour}"),
        }
        assert_eq!(used(&books, "ada", "ever").await, amount(5), "hour {hour}");
    }
}

/// While a clock that was set back is waited for, time goes at half speed: ids must be remembered
/// by the same time that says what is old.
pub(crate) async fn a_repeat_is_never_counted_though_the_clock_was_set_back(open: Open) {
    let clock = noon();
    let books = open(tokens(&clock).limit(Limit::all_time("ever", "tokens", 100)));
    let event = || used_tokens("ada", 5).id("row-1").at(time(NOON));
    books.record(event()).await.unwrap();
    clock.set(time("2026-03-01T11:00:00Z"));
    for step in 0..30 {
        clock.advance(MINUTE);
        let other = used_tokens("ada", 0).id(format!("other-{step}"));
        books.record(other.at(time(NOON).saturating_add(step * MINUTE / 2))).await.unwrap();
        match books.record(event()).await {
            Ok(recorded) => assert!(!recorded.recorded, "minute {step}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::TooOld, "minute {step}"),
        }
        assert_eq!(used(&books, "ada", "ever").await, amount(5), "minute {step}");
    }
}

pub(crate) async fn an_own_id_without_a_time_is_an_error(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let error = books.record(used_tokens("ada", 5).id("row-1")).await.unwrap_err();
    assert_invalid(&error, &["events[0].at", "missing", "tell the time of the event"]);
    assert_eq!(used(&books, "ada", "daily").await, amount(0));
}

pub(crate) async fn events_are_listed_by_customer_and_type_newest_first(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    for (number, (customer, event_type)) in
        [("ada", "chat"), ("bob", "chat"), ("ada", "image"), ("ada", "chat"), ("bob", "image")]
            .into_iter()
            .enumerate()
    {
        clock.advance(SECOND);
        books.record(Event::new(customer, event_type, total(number as u32))).await.unwrap();
    }
    for length in [1, 2, 50] {
        let list = async |query: EventQuery| {
            let mut found = Vec::new();
            let mut page = PageRequest::first().limit(length);
            loop {
                let answer = books.events(query.clone().page(page)).await.unwrap();
                assert!(answer.items.len() <= length);
                let tokens = answer
                    .items
                    .iter()
                    .map(|event| event.usage().value("total_tokens").unwrap().floor());
                found.extend(tokens);
                match answer.next {
                    Some(next) => page = PageRequest::first().limit(length).after(next),
                    None => return found,
                }
            }
        };
        assert_eq!(list(EventQuery::new()).await, [4, 3, 2, 1, 0]);
        assert_eq!(list(EventQuery::new().customer("ada")).await, [3, 2, 0]);
        assert_eq!(list(EventQuery::new().event_type("chat")).await, [3, 1, 0]);
        assert_eq!(list(EventQuery::new().customer("bob").event_type("image")).await, [4]);
        assert_eq!(list(EventQuery::new().customer("eve")).await, [0; 0]);
    }
    for (page, field) in [
        (PageRequest::first().limit(0), "limit"),
        (PageRequest::first().limit(101), "limit"),
        (PageRequest::first().after("nonsense"), "cursor"),
    ] {
        let error = books.events(EventQuery::new().page(page)).await.unwrap_err();
        assert_invalid(&error, &[field]);
    }
    assert_invalid(&books.events(EventQuery::new().customer("")).await.unwrap_err(), &["customer"]);
}

pub(crate) async fn a_late_event_counts_in_its_own_window_alone(open: Open) {
    let books = open(
        tokens(&noon())
            .limit(Limit::per_hour("hour", "tokens", 100))
            .limit(Limit::per_day("day", "tokens", 100))
            .limit(Limit::all_time("ever", "tokens", 100)),
    );
    books.record(used_tokens("ada", 1).at(time("2026-03-01T11:59:59Z"))).await.unwrap();
    books.record(used_tokens("ada", 10).at(time("2026-02-28T23:59:59Z"))).await.unwrap();
    books.record(used_tokens("ada", 100).at(time("1999-12-31T00:00:00Z"))).await.unwrap();
    assert_eq!(used(&books, "ada", "hour").await, amount(0));
    assert_eq!(used(&books, "ada", "day").await, amount(1));
    assert_eq!(used(&books, "ada", "ever").await, amount(111));
}

pub(crate) async fn an_early_event_counts_when_its_window_begins(open: Open) {
    let clock = noon();
    let books = open(
        Engine::builder()
            .clock(clock.clone())
            .meter(Meter::sum("tokens", "total_tokens"))
            .meter(Meter::count("calls"))
            .meter(Meter::max("peak", "total_tokens"))
            .meter(Meter::latest("last", "total_tokens"))
            .limit(Limit::per_hour("sum", "tokens", 100))
            .limit(Limit::per_hour("count", "calls", 100))
            .limit(Limit::per_hour("max", "peak", 100))
            .limit(Limit::per_hour("latest", "last", 100)),
    );
    let at = |minute: u64| time("2026-03-02T11:00:00Z").saturating_add(minute as u32 * MINUTE);
    for (tokens, minute) in [(5, 30), (9, 10), (7, 20)] {
        books.record(used_tokens("ada", tokens).at(at(minute))).await.unwrap();
    }
    books.record(used_tokens("ada", 50)).await.unwrap();
    for id in ["sum", "max", "latest"] {
        assert_eq!(used(&books, "ada", id).await, amount(50), "{id}");
    }
    clock.set(time("2026-03-02T10:59:59Z"));
    assert_eq!(used(&books, "ada", "sum").await, amount(0));
    // A hold, and events on both sides of the early ones, find the same window.
    clock.set(time("2026-03-02T11:00:00Z"));
    let seen = |id: &'static str| used_held(&books, "ada", id);
    assert_eq!(seen("sum").await, (amount(21), amount(0)));
    assert_eq!(seen("latest").await, (amount(5), amount(0)));
    let permit = admitted(&books, ask("ada", 8)).await;
    assert_eq!(seen("sum").await, (amount(21), amount(8)));
    assert_eq!(seen("count").await, (amount(3), amount(1)));
    permit.settle(total(8)).await.unwrap();
    books.record(used_tokens("ada", 2).at(at(40))).await.unwrap();
    assert_eq!(seen("sum").await, (amount(31), amount(0)));
    assert_eq!(seen("count").await, (amount(5), amount(0)));
    assert_eq!(seen("max").await, (amount(9), amount(0)));
    assert_eq!(seen("latest").await, (amount(2), amount(0)));
}

pub(crate) async fn an_event_may_come_a_day_early_and_not_more(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let day = time("2026-03-02T12:00:00Z");
    books.record(used_tokens("ada", 1).at(day)).await.unwrap();
    let error =
        books.record(used_tokens("ada", 1).at(day.saturating_add(Duration::from_nanos(1)))).await;
    assert_invalid(&error.unwrap_err(), &["events[0].at", "24 hours", "time at which it happened"]);
}

pub(crate) async fn an_event_at_either_end_of_time_is_no_trouble(open: Open) {
    use tower_limitry::policy::{Period, Timestamp};
    let mut builder = tokens(&noon());
    for period in Period::ALL {
        builder = builder.limit(Limit::new(period.as_str(), "tokens", period, 100));
    }
    let books = open(builder);
    books.record(used_tokens("ada", 1).at(Timestamp::MIN)).await.unwrap();
    books.record(used_tokens("ada", 2).at(Timestamp::UNIX_EPOCH)).await.unwrap();
    let error = books.record(used_tokens("ada", 1).at(Timestamp::MAX)).await.unwrap_err();
    assert_invalid(&error, &["events[0].at"]);
    assert_eq!(used(&books, "ada", "all_time").await, amount(3));
    assert_eq!(used(&books, "ada", "annual").await, amount(0));
}

fn metered(open: Open) -> Books {
    open(
        Engine::builder()
            .clock(noon())
            .meter(Meter::sum("sum", "n").event_type("chat"))
            .meter(Meter::count("count").event_type("chat"))
            .meter(Meter::max("max", "n").event_type("chat"))
            .meter(Meter::latest("latest", "n").event_type("chat"))
            .limit(Limit::per_day("day", "sum", 100)),
    )
}

pub(crate) async fn a_meter_reads_any_range(open: Open) {
    let books = metered(open);
    for (customer, n, at) in [
        ("ada", 5, "2026-02-01T00:00:00Z"),
        ("ada", 3, "2026-02-02T00:00:00Z"),
        ("ada", 4, "2026-02-02T00:00:00Z"),
        ("bob", 9, "2026-02-03T00:00:00Z"),
        ("ada", 2, "2026-01-31T00:00:00Z"),
    ] {
        let usage = Usage::of("n", n).dimension("model", if n > 3 { "large" } else { "small" });
        books.record(Event::new(customer, "chat", usage).at(time(at))).await.unwrap();
        books
            .record(Event::new(customer, "other", Usage::of("n", 100)).at(time(at)))
            .await
            .unwrap();
    }
    let read = async |query: MeterQuery| {
        let reading = books.query(query).await.unwrap();
        assert!(reading.complete);
        (reading.value, reading.aggregation)
    };
    use Aggregation::{Count, Latest, Max, Sum};
    assert_eq!(read(MeterQuery::new("sum")).await, (amount(23), Sum));
    assert_eq!(read(MeterQuery::new("count")).await, (amount(5), Count));
    assert_eq!(read(MeterQuery::new("max")).await, (amount(9), Max));
    assert_eq!(read(MeterQuery::new("latest").customer("ada")).await, (amount(4), Latest));
    let ada = |meter: &str| {
        let query = MeterQuery::new(meter).customer("ada");
        query.from(time("2026-02-01T00:00:00Z")).until(time("2026-02-02T00:00:00Z"))
    };
    assert_eq!(read(ada("sum")).await, (amount(5), Sum));
    assert_eq!(read(ada("count")).await, (amount(1), Count));
    let large = MeterQuery::new("sum").dimension("model", "large");
    assert_eq!(read(large).await, (amount(18), Sum));
    let none = MeterQuery::new("max").from(time("2026-02-04T00:00:00Z"));
    assert_eq!(read(none).await, (amount(0), Max));
}

pub(crate) async fn the_window_of_a_limit_is_read_from_its_counter(open: Open) {
    let books = metered(open);
    let chat = |n: u32| Event::new("ada", "chat", Usage::of("n", n));
    books.record(chat(5)).await.unwrap();
    books.record(chat(7).at(time("2026-02-28T12:00:00Z"))).await.unwrap();
    let today = MeterQuery::new("sum")
        .customer("ada")
        .from(time("2026-03-01T00:00:00Z"))
        .until(time("2026-03-02T00:00:00Z"));
    let reading = books.query(today).await.unwrap();
    assert_eq!((reading.value, reading.complete), (amount(5), true));
}

pub(crate) async fn a_query_that_makes_no_sense_is_an_error(open: Open) {
    let books = metered(open);
    let error = books.query(MeterQuery::new("nothing")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_names(&error, &["nothing"]);
    let backwards = MeterQuery::new("sum").from(time(NOON)).until(time("2026-01-01T00:00:00Z"));
    assert_invalid(&books.query(backwards).await.unwrap_err(), &["from"]);
    let nobody = MeterQuery::new("sum").customer("");
    assert_invalid(&books.query(nobody).await.unwrap_err(), &["customer"]);
    for _ in 0..2 {
        let most = Event::new("ada", "chat", Usage::of("n", Amount::MAX));
        books.record(most.at(time("2026-02-01T00:00:00Z"))).await.unwrap();
    }
    let error = books.query(MeterQuery::new("sum")).await.unwrap_err();
    assert_invalid(&error, &["largest amount", "shorter range"]);
}

pub(crate) async fn a_check_without_a_type_is_recorded_as_a_request(open: Open) {
    let books = open(hundred_a_day(&noon()));
    admitted(&books, Check::of("ada")).await.settle(total(1)).await.unwrap();
    let event = books.events(EventQuery::new()).await.unwrap().items.remove(0);
    assert_eq!(event.event_type(), tower_limitry::backend::DEFAULT_EVENT_TYPE);
}
