//! What is compared, by kind of meter, and how long to wait.

use std::time::Duration;

use tower_limitry::backend::DenialKind;
use tower_limitry::policy::Period;
use tower_limitry::{Books, Check, Event, Limit, Meter, Usage};

use crate::support::*;

pub(crate) async fn a_count_asks_and_holds_one(open: Open) {
    let books = open(
        tokens(&noon()).meter(Meter::count("calls")).limit(Limit::per_day("calls", "calls", 2)),
    );
    let one = admitted(&books, Check::of("ada")).await;
    // What an estimate says of tokens is nothing to a count.
    let two = admitted(&books, ask("ada", 500)).await;
    assert_eq!(used_held(&books, "ada", "calls").await, (amount(0), amount(2)));
    denied(&books, Check::of("ada")).await;
    one.settle(total(99)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "calls").await, (amount(1), amount(1)));
    two.release().await.unwrap();
    assert_eq!(used_held(&books, "ada", "calls").await, (amount(1), amount(0)));
}

pub(crate) async fn a_count_of_a_value_counts_events_that_carry_it(open: Open) {
    let books = open(
        tokens(&noon())
            .meter(Meter::count_of("images", "image"))
            .limit(Limit::per_day("images", "images", 2)),
    );
    let permit = admitted(&books, ask("ada", 5)).await;
    assert_eq!(of(permit.decision().limits(), "images").held, amount(0));
    permit.settle(total(5)).await.unwrap();
    assert_eq!(used(&books, "ada", "images").await, amount(0));

    let permit = admitted(&books, Check::of("ada").estimate("image", 9)).await;
    assert_eq!(of(permit.decision().limits(), "images").held, amount(1));
    permit.settle(Usage::of("image", 0)).await.unwrap();
    assert_eq!(used(&books, "ada", "images").await, amount(1));
}

fn peak(open: Open) -> Books {
    open(
        tower_limitry::Engine::builder()
            .clock(noon())
            .meter(Meter::max("peak", "size"))
            .limit(Limit::per_day("peak", "peak", 100)),
    )
}

pub(crate) async fn each_meter_reads_its_own_value_wherever_it_stands(open: Open) {
    let mut builder = tokens(&noon());
    for field in ["a", "b"] {
        builder = builder
            .meter(Meter::sum(format!("sum-{field}"), field))
            .meter(Meter::max(format!("max-{field}"), field))
            .meter(Meter::count_of(format!("count-{field}"), field));
    }
    // Neighbours read now the same value and now another, and one reads none.
    let meters = ["sum-a", "sum-b", "max-a", "count-a", "max-b", "calls", "count-b"];
    builder = builder.meter(Meter::count("calls"));
    let books = open(
        meters.into_iter().fold(builder, |builder, id| builder.limit(Limit::per_day(id, id, 100))),
    );
    let looked = async || {
        let usage = books.usage("ada").await.unwrap();
        meters.map(|id| {
            let seen = of(usage.limits(), id);
            (seen.used.floor(), seen.held.floor())
        })
    };
    let check = Check::of("ada").event_type("chat").estimate("b", 3);
    let permit = admitted(&books, check).await;
    assert_eq!(looked().await, [(0, 0), (0, 3), (0, 0), (0, 0), (0, 0), (0, 1), (0, 1)]);
    permit.settle(Usage::of("a", 5).and("b", 0)).await.unwrap();
    assert_eq!(looked().await, [(5, 0), (0, 0), (5, 0), (1, 0), (0, 0), (1, 0), (1, 0)]);
    books.record(Event::new("ada", "chat", Usage::of("b", 7).and("a", 2))).await.unwrap();
    assert_eq!(looked().await, [(7, 0), (7, 0), (5, 0), (2, 0), (7, 0), (2, 0), (2, 0)]);
}

pub(crate) async fn a_max_keeps_the_highest_and_holds_nothing(open: Open) {
    let books = peak(open);
    let sized = |size: u32| Check::of("ada").estimate("size", size);
    let running = admitted(&books, sized(100)).await;
    assert_eq!(used_held(&books, "ada", "peak").await, (amount(0), amount(0)));
    admitted(&books, sized(100)).await.settle(Usage::of("size", 70)).await.unwrap();
    running.settle(Usage::of("size", 40)).await.unwrap();
    assert_eq!(used(&books, "ada", "peak").await, amount(70));
    admitted(&books, sized(100)).await.settle(Usage::of("size", 100)).await.unwrap();

    // At the cap: one that says it stays within may pass, one that says nothing may not.
    admitted(&books, sized(100)).await.release().await.unwrap();
    denied(&books, Check::of("ada")).await;
    assert_eq!(denied(&books, sized(101)).await.kind(), DenialKind::TooLarge);

    admitted(&books, sized(1)).await.settle(Usage::of("size", 130)).await.unwrap();
    let denial = denied(&books, sized(1)).await;
    assert_eq!(denial.kind(), DenialKind::LimitExceeded);
    assert_eq!(denial.retry_after(), Some(12 * HOUR));
}

pub(crate) async fn a_max_below_nothing_is_kept(open: Open) {
    let books = peak(open);
    for (size, highest) in [(-30, -30), (-40, -30), (-5, -5)] {
        books.record(Event::new("ada", "upload", Usage::of("size", size))).await.unwrap();
        assert_eq!(used(&books, "ada", "peak").await, amount(highest));
    }
}

pub(crate) async fn a_latest_value_is_the_newest_by_time(open: Open) {
    let clock = noon();
    let books = open(
        tower_limitry::Engine::builder()
            .clock(clock.clone())
            .meter(Meter::latest("seats", "seats"))
            .limit(Limit::all_time("seats", "seats", 5)),
    );
    let seats = |seats: u32, at: &str| {
        Event::new("ada", "seat.count", Usage::of("seats", seats)).at(time(at))
    };
    for (count, at, latest) in [
        (4, "2026-03-01T11:00:00Z", 4),
        (5, "2026-03-01T11:30:00Z", 5),
        (2, "2026-03-01T11:10:00Z", 5),
        (3, "2026-03-01T11:30:00Z", 3),
        (9, "2026-03-01T11:40:00Z", 9),
    ] {
        books.record(seats(count, at)).await.unwrap();
        assert_eq!(used(&books, "ada", "seats").await, amount(latest), "{at}");
    }

    // Over the cap, a value that fits is welcome.
    let sized = |seats: u32| Check::of("ada").estimate("seats", seats);
    denied(&books, Check::of("ada")).await;
    assert_eq!(denied(&books, sized(6)).await.kind(), DenialKind::TooLarge);
    let permit = admitted(&books, sized(5)).await;
    assert_eq!(of(permit.decision().limits(), "seats").held, amount(0));
    permit.settle(Usage::of("seats", 5)).await.unwrap();
    assert_eq!(used(&books, "ada", "seats").await, amount(5));
    denied(&books, Check::of("ada")).await;
}

pub(crate) async fn a_latest_value_does_not_carry_over(open: Open) {
    let clock = noon();
    let books = open(
        tower_limitry::Engine::builder()
            .clock(clock.clone())
            .meter(Meter::latest("seats", "seats"))
            .limit(Limit::per_day("seats", "seats", 5)),
    );
    books.record(Event::new("ada", "seat.count", Usage::of("seats", 5))).await.unwrap();
    denied(&books, Check::of("ada")).await;
    clock.advance(DAY);
    assert_eq!(used(&books, "ada", "seats").await, amount(0));
    admitted(&books, Check::of("ada")).await.release().await.unwrap();
}

pub(crate) async fn more_than_the_cap_itself_is_too_large_and_waits_for_nothing(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let denial = denied(&books, ask("ada", "100.000001")).await;
    assert_eq!((denial.kind(), denial.retry_after()), (DenialKind::TooLarge, None));
    assert!(denial.decision().limits().next().unwrap().is_too_large());
    // Also when nothing is left anyhow.
    spend(&books, "ada", 100).await;
    let denial = denied(&books, ask("ada", 101)).await;
    assert_eq!((denial.kind(), denial.retry_after()), (DenialKind::TooLarge, None));
}

pub(crate) async fn what_running_requests_hold_is_waited_for_shortly(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let running = admitted(&books, ask("ada", 90)).await;
    let denial = denied(&books, ask("ada", 11)).await;
    assert_eq!(denial.kind(), DenialKind::LimitExceeded);
    assert_eq!(denial.retry_after(), Some(SECOND));
    running.settle(total(90)).await.unwrap();
    assert_eq!(denied(&books, ask("ada", 11)).await.retry_after(), Some(12 * HOUR));
}

pub(crate) async fn the_wait_is_rounded_up_and_never_nothing(open: Open) {
    let clock = noon();
    let books = open(tokens(&clock).limit(Limit::per_minute("minute", "tokens", 1)));
    spend(&books, "ada", 1).await;
    let wait = async || denied(&books, Check::of("ada")).await.retry_after();
    assert_eq!(wait().await, Some(MINUTE));
    clock.advance(Duration::from_nanos(1));
    assert_eq!(wait().await, Some(MINUTE));
    clock.advance(Duration::from_nanos(999_999_999));
    assert_eq!(wait().await, Some(59 * SECOND));
    clock.advance(Duration::from_nanos(58_999_999_999));
    assert_eq!(wait().await, Some(SECOND));
    clock.advance(Duration::from_nanos(1));
    admitted(&books, Check::of("ada")).await.release().await.unwrap();
}

pub(crate) async fn of_several_waits_the_longest_counts(open: Open) {
    let books = open(
        tokens(&noon())
            .limit(Limit::per_minute("minute", "tokens", 5))
            .limit(Limit::per_hour("hour", "tokens", 5))
            .limit(Limit::per_day("day", "tokens", 50)),
    );
    spend(&books, "ada", 5).await;
    assert_eq!(denied(&books, Check::of("ada")).await.retry_after(), Some(HOUR));
    assert_eq!(denied(&books, ask("ada", 60)).await.retry_after(), None);
}

pub(crate) async fn it_is_refused_before_the_told_time_and_admitted_at_it(open: Open) {
    for period in Period::ALL.into_iter().filter(|period| *period != Period::AllTime) {
        let clock = noon();
        clock.advance(Duration::from_millis(1_234_567));
        let books = open(tokens(&clock).limit(Limit::new("limit", "tokens", period, 5)));
        spend(&books, "ada", 5).await;
        let denial = denied(&books, Check::of("ada")).await;
        let wait = denial.retry_after().unwrap();
        assert!(wait >= SECOND, "{period}: {wait:?}");
        clock.advance(wait - SECOND);
        let second = denied(&books, Check::of("ada")).await;
        assert_eq!(second.retry_after(), Some(SECOND), "{period}");
        clock.advance(SECOND);
        admitted(&books, Check::of("ada")).await.release().await.unwrap();
        assert_eq!(used(&books, "ada", "limit").await, amount(0), "{period}");
    }
}

pub(crate) async fn all_time_never_ends(open: Open) {
    let clock = noon();
    let books = open(tokens(&clock).limit(Limit::all_time("ever", "tokens", 10)));
    spend(&books, "ada", 10).await;
    for _ in 0..3 {
        let denial = denied(&books, Check::of("ada")).await;
        let seen = of(denial.decision().limits(), "ever");
        assert_eq!((seen.used, seen.reset, denial.retry_after()), (amount(10), None, None));
        clock.advance(400 * DAY);
    }
}

pub(crate) async fn usage_reads_exceeded_when_nothing_is_left(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let permit = admitted(&books, ask("ada", 100)).await;
    let seen = standing(&books, "ada", "daily").await;
    assert!(seen.exceeded);
    permit.settle(total(99)).await.unwrap();
    assert!(!standing(&books, "ada", "daily").await.exceeded);
    spend(&books, "ada", 1).await;
    assert!(standing(&books, "ada", "daily").await.exceeded);
}
