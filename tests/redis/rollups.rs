//! What meters come to in every quarter of an hour, long after the events are gone.

use std::time::Duration;

use tower_limitry::backend::{MeterQuery, MeterReading};
use tower_limitry::engine::{Clock, EngineBuilder, ManualClock};
use tower_limitry::outbox::Outbox;
use tower_limitry::policy::{Amount, EventId, Timestamp};
use tower_limitry::{Books, Engine, ErrorKind, Event, Meter, Usage};

use crate::redis::{Server, fresh};
use crate::support::*;
use crate::{STUCK, options};

const QUARTER: Duration = Duration::from_secs(15 * 60);
const METERS: [&str; 6] = ["sum", "count", "max", "latest", "large", "other"];
const CUSTOMERS: [&str; 4] = ["ada", "bob", "eve", "{1}"];

fn metered(clock: &ManualClock) -> EngineBuilder {
    Engine::builder()
        .clock(clock.clone())
        .meter(Meter::sum("sum", "n").event_type("chat"))
        .meter(Meter::count("count"))
        .meter(Meter::max("max", "n").event_type("chat"))
        .meter(Meter::latest("latest", "n"))
        .meter(Meter::sum("large", "n").dimension("model", "large"))
        .meter(Meter::count_of("other", "m").event_type("other"))
}

/// Books of one program, by a clock that is moved by hand, with room for so many events.
fn open(builder: EngineBuilder, (url, prefix): &(String, String), events: usize) -> Books {
    let options = options(prefix).keep_events(events).danger_time_of_the_engine();
    builder.build_on(options.open(url).unwrap()).unwrap().erased()
}

fn some_event(random: &mut Random, customer: &str, now: Timestamp) -> Event {
    let kind = if random.below(3) == 0 { "other" } else { "chat" };
    let value = Amount::from_millionths(random.below(200_000_000) as i64 - 50_000_000);
    let mut usage = Usage::of("n", value);
    if random.below(3) == 0 {
        usage = usage.dimension("model", "large");
    }
    if random.below(2) == 0 {
        usage = usage.and("m", 1);
    }
    let event = Event::new(customer, kind, usage);
    match random.below(6) {
        0 => event.at(now.saturating_sub(MINUTE * random.below(4_000) as u32)),
        1 => event.at(now.saturating_add(MINUTE * random.below(1_440) as u32)),
        _ => event,
    }
}

/// A moment near those of the events, often on the quarter.
fn some_moment(random: &mut Random, from: Timestamp) -> Timestamp {
    let at = from.saturating_add(MINUTE * random.below(12_000) as u32);
    let at = at.saturating_sub(MINUTE * 5_000);
    if random.below(2) == 0 { on_the_quarter(at) } else { at }
}

fn on_the_quarter(at: Timestamp) -> Timestamp {
    Timestamp::from_seconds(at.as_seconds().div_euclid(900) * 900)
}

fn some_query(random: &mut Random, from: Timestamp) -> MeterQuery {
    let mut query = MeterQuery::new(METERS[random.below(6) as usize]);
    if random.below(4) > 0 {
        query = query.customer(CUSTOMERS[random.below(4) as usize]);
    }
    let (one, other) = (some_moment(random, from), some_moment(random, from));
    if random.below(4) > 0 {
        query = query.from(one.min(other));
    }
    if random.below(4) > 0 {
        query = query.until(one.max(other));
    }
    query
}

#[tokio::test]
async fn queries_are_answered_as_in_memory_whatever_came_late_early_or_was_taken_back() {
    let mut random = Random(seed());
    for round in 0..times(4, 40) {
        let clock = noon();
        let began = clock.now();
        let place = fresh();
        // Two programs share the books, and on every other round forget events.
        let kept = if round % 2 == 0 { 100_000 } else { 640 };
        let programs = [(); 2].map(|()| open(metered(&clock), &place, kept));
        let memory = metered(&clock).build().unwrap().erased();
        let mut ids: Vec<(&str, EventId, EventId)> = Vec::new();
        let mut answered = 0;
        for _ in 0..400 {
            clock.advance(MINUTE * [0, 0, 1, 7, 40][random.below(5) as usize]);
            let program = &programs[random.below(2) as usize];
            if random.below(12) == 0 && !ids.is_empty() {
                let (customer, id, there) = &ids[random.below(ids.len() as u64) as usize];
                match program.void(*customer, id).await {
                    Ok(_) => drop(memory.void(*customer, there).await.unwrap()),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
                }
                continue;
            }
            let customer = CUSTOMERS[random.below(4) as usize];
            let event = some_event(&mut random, customer, clock.now());
            let id = program.record(event.clone()).await.unwrap().id;
            ids.push((customer, id, memory.record(event).await.unwrap().id));
        }
        for _ in 0..300 {
            let query = some_query(&mut random, began);
            let found = programs[random.below(2) as usize].query(query.clone()).await.unwrap();
            let expected = memory.query(query.clone()).await.unwrap();
            assert!(expected.complete);
            assert!(found.complete || kept < 1_000, "round {round}: {query:?}");
            if found.complete {
                assert_eq!(found.value, expected.value, "round {round}: {query:?}");
                answered += 1;
            }
        }
        assert!(answered > 50, "round {round}: {answered}");
    }
}

/// Reads a part of a day; only of one customer, if one is named.
async fn read(
    books: &Books,
    meter: &str,
    customer: Option<&str>,
    (from, to): (&str, &str),
) -> MeterReading {
    let day = |clock: &str| time(&format!("2026-03-01T{clock}Z"));
    let query = MeterQuery::new(meter).from(day(from)).until(day(to));
    let query = match customer {
        Some(customer) => query.customer(customer),
        None => query,
    };
    books.query(query).await.unwrap()
}

fn chat(customer: &str, n: i64, clock: &str) -> Event {
    let at = time(&format!("2026-03-01T{clock}Z"));
    Event::new(customer, "chat", Usage::of("n", n)).at(at)
}

#[tokio::test]
async fn whole_quarters_are_exact_though_their_events_are_gone_and_edges_say_so() {
    let clock = noon();
    clock.set(time("2026-03-01T08:00:00Z"));
    let books = open(metered(&clock), &fresh(), 64);
    for (n, at) in [(1, "08:00:00"), (20, "08:14:59"), (300, "08:15:00"), (4_000, "09:29:00")] {
        for customer in ["ada", "bob"] {
            books.record(chat(customer, n, at)).await.unwrap();
        }
    }
    // Of each shard the last event is kept.
    for (range, sum, count, max) in [
        (("08:00:00", "08:15:00"), 21, 2, 20),
        (("08:15:00", "09:15:00"), 300, 1, 300),
        (("08:00:00", "09:30:00"), 4_321, 4, 4_000),
        (("07:00:00", "23:00:00"), 4_321, 4, 4_000),
    ] {
        for (meter, expected) in [("sum", sum), ("count", count), ("max", max), ("latest", max)] {
            let own = read(&books, meter, Some("ada"), range).await;
            assert_eq!((own.value, own.complete), (amount(expected), true), "{meter} {range:?}");
            let all = read(&books, meter, None, range).await;
            let expected = if ["sum", "count"].contains(&meter) { 2 * expected } else { expected };
            assert_eq!((all.value, all.complete), (amount(expected), true), "{meter} {range:?}");
        }
    }
    let all_time = books.query(MeterQuery::new("sum").customer("ada")).await.unwrap();
    assert_eq!((all_time.value, all_time.complete), (amount(4_321), true));
    // The part of a quarter is counted from what is kept: not all of it.
    let cut = read(&books, "sum", Some("ada"), ("08:00:01", "09:30:00")).await;
    assert_eq!((cut.value, cut.complete), (amount(4_300), false));
    let cut = read(&books, "sum", Some("ada"), ("08:00:00", "08:16:00")).await;
    assert_eq!((cut.value, cut.complete), (amount(21), false));
    let kept = read(&books, "sum", Some("ada"), ("08:30:00", "09:29:30")).await;
    assert_eq!((kept.value, kept.complete), (amount(4_000), true));
}

#[tokio::test]
async fn without_events_all_but_whole_quarters_is_said_to_be_incomplete() {
    let books = open(metered(&noon()), &fresh(), 0);
    books.record(chat("ada", 5, "11:31:00")).await.unwrap();
    let whole = read(&books, "sum", Some("ada"), ("11:30:00", "12:00:00")).await;
    assert_eq!((whole.value, whole.complete), (amount(5), true));
    assert!(!read(&books, "sum", Some("ada"), ("11:31:00", "12:00:00")).await.complete);
    let large = MeterQuery::new("sum").dimension("model", "large");
    assert!(!books.query(large).await.unwrap().complete);
}

#[tokio::test]
async fn what_is_taken_back_corrects_its_quarter_or_leaves_it_to_the_events() {
    let clock = noon();
    let place = fresh();
    let books = open(metered(&clock), &place, 100_000);
    let whole = ("11:30:00", "12:15:00");
    books.record(chat("ada", 5, "11:31:00")).await.unwrap();
    let wrong = books.record(chat("ada", 700, "11:32:00")).await.unwrap().id;
    books.record(chat("ada", 6, "11:50:00")).await.unwrap();
    books.void("ada", &wrong).await.unwrap();
    for (meter, expected) in [("sum", 11), ("count", 2), ("max", 6), ("latest", 6)] {
        let reading = read(&books, meter, Some("ada"), whole).await;
        assert_eq!((reading.value, reading.complete), (amount(expected), true), "{meter}");
    }
    // Once the events are gone, the highest of that quarter is not known, and the sum is.
    let books = open(metered(&clock), &place, 64);
    for _ in 0..5 {
        books.record(chat("ada", 1, "12:00:00")).await.unwrap();
    }
    let sum = read(&books, "sum", Some("ada"), whole).await;
    assert_eq!((sum.value, sum.complete), (amount(16), true));
    assert!(!read(&books, "max", Some("ada"), whole).await.complete);
    let later = read(&books, "max", Some("ada"), ("11:45:00", "12:15:00")).await;
    assert_eq!((later.value, later.complete), (amount(6), true));
}

#[tokio::test]
async fn a_meter_that_is_added_is_summed_up_from_then_on_by_every_program() {
    let clock = noon();
    let place = fresh();
    let one = open(metered(&clock), &place, 64);
    for _ in 0..5 {
        one.record(chat("ada", 10, "12:00:00")).await.unwrap();
    }
    let two = open(metered(&clock).meter(Meter::max("top", "n").unit("n")), &place, 64);
    two.put_meter(Meter::sum("again", "n")).await.unwrap();
    clock.advance(HOUR);
    // By the program that was there before, which knows of one of them only what all know.
    for n in [7, 8, 9] {
        one.record(chat("ada", n, "13:00:00")).await.unwrap();
    }
    let after = ("12:15:00", "13:15:00");
    let before = ("11:00:00", "13:15:00");
    for (meter, expected) in [("top", 9), ("again", 24)] {
        let reading = read(&two, meter, Some("ada"), after).await;
        assert_eq!((reading.value, reading.complete), (amount(expected), true), "{meter}");
        let reading = read(&two, meter, Some("ada"), before).await;
        assert!(!reading.complete, "{meter}");
    }
    let reading = read(&two, "sum", Some("ada"), before).await;
    assert_eq!((reading.value, reading.complete), (amount(74), true));
    // What reads something else begins anew, and what is gone is summed up no longer.
    two.put_meter(Meter::sum("again", "m")).await.unwrap();
    assert!(!read(&two, "again", Some("ada"), before).await.complete);
    assert!(two.remove_meter("again").await.unwrap());
    one.put_meter(Meter::sum("again", "n")).await.unwrap();
    assert!(!read(&one, "again", Some("ada"), after).await.complete);
}

#[tokio::test]
async fn sums_are_exact_over_64_bits_and_those_beyond_are_said_to_be() {
    let clock = noon();
    let books = open(metered(&clock), &fresh(), 100_000);
    let large = Amount::from_millionths(i64::MAX - 1);
    let record = async |amount: Amount, at: &str| {
        let at = time(&format!("2026-03-01T{at}Z"));
        let event = Event::new("ada", "chat", Usage::of("n", amount)).at(at);
        books.record(event).await.unwrap();
    };
    record(large, "11:00:00").await;
    record(Amount::from_millionths(1), "11:00:00").await;
    record(Amount::from_millionths(i64::MIN), "11:15:00").await;
    record(Amount::from_millionths(1 << 60), "11:15:00").await;
    for (range, expected) in [
        (("11:00:00", "11:15:00"), i64::MAX),
        (("11:15:00", "11:30:00"), i64::MIN + (1 << 60)),
        (("11:00:00", "11:30:00"), (1 << 60) - 1),
    ] {
        let reading = read(&books, "sum", Some("ada"), range).await;
        assert_eq!((reading.value.as_millionths(), reading.complete), (expected, true));
    }
    record(Amount::from_millionths(1), "11:00:00").await;
    let day = |clock: &str| time(&format!("2026-03-01T{clock}Z"));
    let beyond = MeterQuery::new("sum").from(day("11:00:00")).until(day("11:15:00"));
    let error = books.query(beyond).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn sums_are_kept_for_as_long_as_was_said_and_what_is_older_is_said_to_be_gone() {
    let clock = noon();
    let (url, prefix) = fresh();
    let open = |days: u32| {
        let options = options(&prefix).keep_events(64).keep_rollups_for(days * DAY);
        let store = options.danger_time_of_the_engine().open(&url).unwrap();
        metered(&clock).build_on(store).unwrap().erased()
    };
    let books = open(10);
    let since = |days: u32| {
        MeterQuery::new("sum").customer("ada").from(clock.now().saturating_sub(days * DAY))
    };
    for _ in 0..30 {
        books.record(Event::new("ada", "chat", Usage::of("n", 1))).await.unwrap();
        clock.advance(DAY);
    }
    for (days, complete) in [(1, true), (9, true), (12, false), (40, false)] {
        let reading = books.query(since(days)).await.unwrap();
        assert_eq!(reading.complete, complete, "{days} days");
        assert!(!complete || reading.value == amount(days), "{days} days");
    }
    let books = open(20);
    for _ in 0..5 {
        books.record(Event::new("ada", "chat", Usage::of("n", 1))).await.unwrap();
        clock.advance(DAY);
    }
    for (days, complete) in [(5, true), (14, true), (18, false)] {
        let reading = books.query(since(days)).await.unwrap();
        assert_eq!(reading.complete, complete, "{days} days of 20");
        assert!(!complete || reading.value == amount(days), "{days} days of 20");
    }
}

#[tokio::test]
async fn every_sum_goes_by_itself() {
    let server = Server::start();
    let clock = noon();
    let place = (server.url(), "p".to_owned());
    let books = open(metered(&clock), &place, 100_000);
    books.record(chat("ada", 1, "11:00:00")).await.unwrap();
    let keys = server.keys();
    let sums: Vec<_> = keys.iter().filter(|key| key.contains(":rollups:")).collect();
    assert_eq!(sums.len(), 2, "{keys:?}");
    for key in sums {
        let left: u64 = server.ask(&["TTL", key]).trim_start_matches(':').parse().unwrap();
        assert!((400..=402).contains(&(left / 86_400)), "{key} {left}");
    }
}

#[tokio::test]
async fn a_server_that_was_emptied_sums_up_again_what_it_is_told_again() {
    let server = Server::start();
    let store = options("p").keep_events(64).open(&server.url()).unwrap();
    let engine = Engine::builder().meter(Meter::sum("tokens", "total_tokens"));
    let engine = engine.build_on(store).unwrap().backend().clone();
    let outbox = Outbox::builder(engine.clone()).keep_delivered(HOUR);
    let outbox = outbox.open(crate::loss::file()).await.unwrap();
    let books = Books::new(outbox.clone());
    for round in 0..2 {
        for _ in 0..10 {
            admitted_by(&books, "ada").await;
        }
        outbox.flush(STUCK).await.unwrap();
        if round == 0 {
            server.ask(&["FLUSHALL"]);
        }
    }
    let now = books.events(Default::default()).await.unwrap().items[0].at();
    let start = on_the_quarter(now).saturating_sub(2 * QUARTER);
    let query = MeterQuery::new("tokens").customer("ada").from(start);
    let reading = Books::new(engine).query(query).await.unwrap();
    // Whether it was told all of it the server cannot know.
    assert_eq!((reading.value, reading.complete), (amount(20), false));
}

async fn admitted_by(books: &Books<Outbox<Engine<tower_limitry::store::Redis>>>, customer: &str) {
    books.check(ask(customer, 1)).await.unwrap().settle(total(1)).await.unwrap();
}
