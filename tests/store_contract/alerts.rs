//! Alerts: once for each limit, customer, window and percentage.

use std::sync::{Arc, Mutex};

use tower_limitry::engine::{EngineBuilder, ManualClock};
use tower_limitry::policy::Crossing;
use tower_limitry::{Event, Limit, Meter};

use crate::support::*;

type Heard = Arc<Mutex<Vec<Crossing>>>;

fn listening(clock: &ManualClock) -> (EngineBuilder, Heard) {
    let heard = Heard::default();
    let hearing = Arc::clone(&heard);
    let builder =
        tokens(clock).on_alert(move |crossing| hearing.lock().unwrap().push(crossing.clone()));
    (builder, heard)
}

fn take(heard: &Heard) -> Vec<(String, String, u8, i64)> {
    let crossings = std::mem::take(&mut *heard.lock().unwrap());
    let told = crossings.into_iter().map(|crossing| {
        let customer = crossing.customer.to_string();
        (customer, crossing.limit.to_string(), crossing.percent, crossing.used.floor())
    });
    told.collect()
}

fn told(customer: &str, limit: &str, percent: u8, used: i64) -> (String, String, u8, i64) {
    (customer.into(), limit.into(), percent, used)
}

fn alerting(cap: u32) -> Limit {
    Limit::per_day("daily", "tokens", cap).named("Daily").alert_at([100, 50, 75])
}

pub(crate) async fn each_percentage_is_told_once_and_in_order(open: Open) {
    let clock = noon();
    let (builder, heard) = listening(&clock);
    let books = open(builder.limit(alerting(200)));
    spend(&books, "ada", "99.999999").await;
    assert_eq!(take(&heard), []);
    spend(&books, "ada", "0.000001").await;
    assert_eq!(take(&heard), [told("ada", "daily", 50, 100)]);
    spend(&books, "ada", 20).await;
    assert_eq!(take(&heard), []);
    admitted(&books, ask("ada", 1)).await.settle(total(180)).await.unwrap();
    assert_eq!(take(&heard), [told("ada", "daily", 75, 300), told("ada", "daily", 100, 300)]);
    books.record(Event::new("ada", "chat", total(500))).await.unwrap();
    assert_eq!(take(&heard), []);
    spend(&books, "bob", 100).await;
    assert_eq!(take(&heard), [told("bob", "daily", 50, 100)]);
}

pub(crate) async fn an_alert_says_what_it_is_about(open: Open) {
    let clock = noon();
    let (builder, heard) = listening(&clock);
    let books = open(builder.limit(alerting(200)));
    spend(&books, "ada", 120).await;
    let crossing = heard.lock().unwrap().remove(0);
    assert_eq!((&*crossing.limit, &*crossing.limit_name), ("daily", "Daily"));
    assert_eq!((crossing.cap, crossing.used), (amount(200), amount(120)));
    assert_eq!(crossing.period, tower_limitry::policy::Period::Day);
    assert_eq!(crossing.window.start(), time("2026-03-01T00:00:00Z"));
    assert_eq!(crossing.window.end(), time("2026-03-02T00:00:00Z"));
}

pub(crate) async fn alerts_are_told_again_in_the_next_window(open: Open) {
    let clock = noon();
    let (builder, heard) = listening(&clock);
    let books = open(builder.limit(alerting(200)));
    for _ in 0..2 {
        spend(&books, "ada", 100).await;
        assert_eq!(take(&heard), [told("ada", "daily", 50, 100)]);
        clock.advance(DAY);
    }
}

pub(crate) async fn alerts_are_not_told_again_after_the_cap_was_raised(open: Open) {
    let clock = noon();
    let (builder, heard) = listening(&clock);
    let books = open(builder.limit(alerting(100)));
    spend(&books, "ada", 80).await;
    assert_eq!(take(&heard).len(), 2);
    books.put_limit(alerting(200)).await.unwrap();
    spend(&books, "ada", 70).await;
    assert_eq!(take(&heard), []);
    spend(&books, "ada", 50).await;
    assert_eq!(take(&heard), [told("ada", "daily", 100, 200)]);
}

/// A request that ran while the cap was raised told of the old cap, and the alert of the new one was
/// never told.
pub(crate) async fn a_cap_that_is_raised_while_a_request_runs_is_what_alerts_go_by(open: Open) {
    let clock = noon();
    let (builder, heard) = listening(&clock);
    let books = open(builder.limit(alerting(100)));
    let permit = admitted(&books, ask("ada", 10).event_type("chat")).await;
    books.put_limit(alerting(1_000)).await.unwrap();
    permit.settle(total(90)).await.unwrap();
    assert_eq!(take(&heard), []);
    spend(&books, "ada", 410).await;
    assert_eq!(take(&heard), [told("ada", "daily", 50, 500)]);
}

pub(crate) async fn limits_on_one_counter_alert_each_for_itself(open: Open) {
    let clock = noon();
    let (builder, heard) = listening(&clock);
    let books = open(
        builder
            .limit(Limit::per_day("soft", "tokens", 100).alert_at([100]))
            .limit(Limit::per_day("hard", "tokens", 200).alert_at([50, 100])),
    );
    spend(&books, "ada", 100).await;
    let mut all = take(&heard);
    all.sort();
    assert_eq!(all, [told("ada", "hard", 50, 100), told("ada", "soft", 100, 100)]);
}

pub(crate) async fn a_repeat_tells_nothing(open: Open) {
    let clock = noon();
    let (builder, heard) = listening(&clock);
    let books = open(builder.limit(alerting(100)));
    let event = || Event::new("ada", "chat", total(60)).id("row-1").at(time(NOON));
    books.record(event()).await.unwrap();
    books.record(event()).await.unwrap();
    assert_eq!(take(&heard), [told("ada", "daily", 50, 60)]);
}

/// An event that is older than the latest value does not move it. The second limit on that counter
/// must not be judged by the value of another counter.
pub(crate) async fn a_value_that_does_not_count_tells_nothing(open: Open) {
    let clock = noon();
    let (builder, heard) = listening(&clock);
    let books = open(
        builder
            .meter(Meter::latest("seats", "seats"))
            .limit(Limit::all_time("tokens-ever", "tokens", 1_000))
            .limit(Limit::all_time("seats-soft", "seats", 100).alert_at([100]))
            .limit(Limit::all_time("seats-hard", "seats", 10).alert_at([100])),
    );
    let event = |tokens: u32, seats: u32, at: &str| {
        Event::new("ada", "mixed", total(tokens).and("seats", seats)).at(time(at))
    };
    books.record(event(1, 5, NOON)).await.unwrap();
    books.record(event(500, 4, "2026-03-01T11:00:00Z")).await.unwrap();
    assert_eq!(used(&books, "ada", "seats-hard").await, amount(5));
    assert_eq!(take(&heard), []);
}

pub(crate) async fn a_hook_that_panics_costs_nothing(open: Open) {
    let clock = noon();
    let builder = tokens(&clock).on_alert(|_| panic!("a panic of the test's own"));
    let books = open(builder.limit(alerting(100)));
    admitted(&books, ask("ada", 10)).await.settle(total(100)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(100), amount(0)));
}
