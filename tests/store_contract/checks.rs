//! A check decides over everything at once, and its hold ends once.

use tower_limitry::backend::DenialKind;
use tower_limitry::{Books, Check, ErrorKind, Limit, Meter, NewBalance, Usage};

use crate::support::*;

pub(crate) async fn an_estimate_is_held_until_it_is_settled(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let permit = admitted(&books, ask("ada", 60)).await;

    let seen = of(permit.decision().limits(), "daily");
    assert_eq!((seen.used, seen.held, seen.remaining), (amount(0), amount(60), amount(40)));
    assert!(!seen.exceeded);
    assert_eq!(seen.reset, Some(time("2026-03-02T00:00:00Z").as_seconds()));
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(60)));

    permit.settle(total(60)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(60), amount(0)));
}

pub(crate) async fn settling_less_gives_the_rest_back(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let permit = admitted(&books, ask("ada", 100)).await;
    assert_eq!(denied(&books, ask("ada", 1)).await.kind(), DenialKind::LimitExceeded);

    permit.settle(total("12.5")).await.unwrap();
    let seen = standing(&books, "ada", "daily").await;
    assert_eq!((seen.used, seen.held, seen.remaining), (amount("12.5"), amount(0), amount("87.5")));
    admitted(&books, ask("ada", "87.5")).await.release().await.unwrap();
}

pub(crate) async fn settling_more_charges_it_in_full_and_refuses_the_next(open: Open) {
    let books = open(hundred_a_day(&noon()));
    admitted(&books, ask("ada", 10)).await.settle(total(250)).await.unwrap();

    let seen = standing(&books, "ada", "daily").await;
    assert_eq!((seen.used, seen.remaining), (amount(250), amount(0)));
    assert!(seen.exceeded);
    let denial = denied(&books, ask("ada", 1)).await;
    let refused = of(denial.decision().limits(), "daily");
    assert_eq!((refused.used, refused.held), (amount(250), amount(0)));
    assert!(refused.exceeded);
}

pub(crate) async fn without_an_estimate_it_is_refused_once_the_cap_is_reached(open: Open) {
    let books = open(hundred_a_day(&noon()));
    spend(&books, "ada", "99.999999").await;
    let permit = admitted(&books, Check::of("ada")).await;
    assert_eq!(of(permit.decision().limits(), "daily").held, amount(0));
    permit.settle(total("0.000001")).await.unwrap();

    let denial = denied(&books, Check::of("ada")).await;
    assert_eq!(of(denial.decision().limits(), "daily").used, amount(100));
}

pub(crate) async fn an_estimate_of_nothing_asks_nothing(open: Open) {
    let books = open(hundred_a_day(&noon()));
    admitted(&books, ask("ada", 0)).await.settle(total(100)).await.unwrap();
    denied(&books, ask("ada", 0)).await;
}

pub(crate) async fn an_estimate_of_another_value_asks_nothing_of_this_meter(open: Open) {
    let books = open(hundred_a_day(&noon()).meter(Meter::sum("time", "seconds")));
    let permit = admitted(&books, Check::of("ada").estimate("seconds", 5_000)).await;
    assert_eq!(of(permit.decision().limits(), "daily").held, amount(0));
}

pub(crate) async fn an_estimate_that_no_meter_reads_is_an_error(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let error = failed(&books, Check::of("ada").estimate("total_tokns", 50)).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        error.to_string(),
        r#"estimate: no meter reads {"total_tokns": 50}; meters read: total_tokens"#,
    );
}

pub(crate) async fn a_release_records_nothing(open: Open) {
    let books = open(hundred_a_day(&noon()));
    admitted(&books, ask("ada", 60)).await.release().await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(0)));
    assert!(books.events(Default::default()).await.unwrap().items.is_empty());
}

pub(crate) async fn a_permit_that_is_dropped_releases(open: Open) {
    let books = open(hundred_a_day(&noon()));
    drop(admitted(&books, ask("ada", 100)).await);
    books.settled().await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(0)));
    admitted(&books, ask("ada", 100)).await.settle(total(100)).await.unwrap();
}

pub(crate) async fn a_settlement_happens_though_its_future_is_dropped(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let permit = admitted(&books, ask("ada", 60)).await;
    drop(permit.settle(total(40)));
    books.settled().await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(40), amount(0)));
}

pub(crate) async fn a_check_that_is_dropped_unanswered_places_nothing(open: Open) {
    let books = open(hundred_a_day(&noon()));
    drop(books.check(ask("ada", 100)));
    books.settled().await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(0)));
    admitted(&books, ask("ada", 100)).await.release().await.unwrap();
}

pub(crate) async fn a_permit_may_be_dropped_outside_a_runtime(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let permit = admitted(&books, ask("ada", 100)).await;
    std::thread::spawn(move || drop(permit)).join().unwrap();
    books.settled().await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(0)));
}

pub(crate) async fn one_check_asked_many_times_is_as_many_requests(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let check = ask("ada", 30).event_type("chat");
    let one = admitted(&books, check.clone()).await;
    books.preview(check.clone()).await.unwrap();
    let two = admitted(&books, check.clone()).await;
    let other = admitted(&books, check.clone().dimension("model", "large-2")).await;
    denied(&books, check).await;
    let ids = [one.id().unwrap(), two.id().unwrap(), other.id().unwrap()];
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    let held = [&one, &two, &other].map(|permit| of(permit.decision().limits(), "daily").held);
    assert_eq!(held, [amount(30), amount(60), amount(90)]);
    two.release().await.unwrap();
    one.settle(total(1)).await.unwrap();
    other.settle(total(2)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(3), amount(0)));
}

pub(crate) async fn customers_are_counted_apart(open: Open) {
    let books = open(hundred_a_day(&noon()));
    for odd in ["ada", "Ada", "a{d}a", "{}", "ada:daily", "ådä", "a\0da", " "] {
        spend(&books, odd, 100).await;
        denied(&books, Check::of(odd)).await;
    }
    assert_eq!(used(&books, "bob", "daily").await, amount(0));
}

fn two_limits(open: Open) -> Books {
    open(
        tokens(&noon())
            .meter(Meter::count("calls"))
            .limit(Limit::per_hour("calls-an-hour", "calls", 3))
            .limit(Limit::per_day("daily", "tokens", 100))
            .default_balance(NewBalance::new("credits").initial(50)),
    )
}

fn charged(customer: &str, tokens: u32) -> Check {
    ask(customer, tokens).charge("credits", |usage| usage.value("total_tokens"))
}

async fn nothing_changed(books: &Books) {
    assert_eq!(used_held(books, "ada", "daily").await, (amount(0), amount(0)));
    assert_eq!(used_held(books, "ada", "calls-an-hour").await, (amount(0), amount(0)));
    let balance = books.balance("ada", "credits").await.unwrap().unwrap();
    assert_eq!((balance.current(), balance.held()), (amount(50), amount(0)));
    assert_eq!(books.open_holds().await.unwrap(), 0);
    assert!(books.events(Default::default()).await.unwrap().items.is_empty());
}

pub(crate) async fn a_request_denied_by_one_limit_touches_no_other(open: Open) {
    let books = two_limits(open);
    denied(&books, charged("ada", 101)).await;
    nothing_changed(&books).await;
}

pub(crate) async fn a_request_denied_by_its_balance_touches_no_limit(open: Open) {
    let books = two_limits(open);
    let denial = denied(&books, charged("ada", 51)).await;
    assert_eq!(denial.kind(), DenialKind::BalanceShort);
    nothing_changed(&books).await;
}

pub(crate) async fn an_allowed_request_is_held_everywhere_and_settled_everywhere(open: Open) {
    let books = two_limits(open);
    let permit = admitted(&books, charged("ada", 30)).await;
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(30)));
    assert_eq!(used_held(&books, "ada", "calls-an-hour").await, (amount(0), amount(1)));
    let balance = books.balance("ada", "credits").await.unwrap().unwrap();
    assert_eq!((balance.held(), balance.available()), (amount(30), amount(20)));

    permit.settle(total(20)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(20), amount(0)));
    assert_eq!(used_held(&books, "ada", "calls-an-hour").await, (amount(1), amount(0)));
    let balance = books.balance("ada", "credits").await.unwrap().unwrap();
    assert_eq!((balance.current(), balance.held()), (amount(30), amount(0)));
}

pub(crate) async fn those_that_refuse_come_first(open: Open) {
    let books = open(
        tokens(&noon())
            .limit(Limit::per_minute("a", "tokens", 1_000))
            .limit(Limit::per_hour("b", "tokens", 10))
            .limit(Limit::per_day("c", "tokens", 1_000))
            .limit(Limit::per_week("d", "tokens", 10)),
    );
    spend(&books, "ada", 10).await;
    let denial = denied(&books, Check::of("ada")).await;
    let order: Vec<_> =
        denial.decision().limits().map(|limit| (limit.is_exceeded(), limit.id())).collect();
    assert_eq!(order, [(true, "b"), (true, "d"), (false, "a"), (false, "c")]);
}

pub(crate) async fn a_preview_decides_and_keeps_nothing(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let decision = books.preview(ask("ada", 60)).await.unwrap();
    assert!(decision.is_allowed());
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(0)));
    spend(&books, "ada", 60).await;
    let decision = books.preview(ask("ada", 60)).await.unwrap();
    assert!(!decision.is_allowed());
    assert_eq!(of(decision.limits(), "daily").used, amount(60));
}

/// It counted what was asked as held on Redis, so that less seemed to remain.
pub(crate) async fn a_preview_shows_only_what_others_hold(open: Open) {
    let credits = NewBalance::new("credits").initial(100);
    let books = open(hundred_a_day(&noon()).default_balance(credits));
    let check = || ask("ada", 30).charge("credits", |usage| usage.value("total_tokens"));
    let mut running = Vec::new();
    for held in [0, 30] {
        let decision = books.preview(check()).await.unwrap();
        assert_eq!(of(decision.limits(), "daily").held, amount(held));
        let balance = decision.balance().unwrap().balance().unwrap();
        assert_eq!((balance.held(), balance.available()), (amount(held), amount(100 - held)));
        running.push(admitted(&books, check()).await);
    }
}

/// It told of nothing used, and allowed, under an id that was finished.
pub(crate) async fn a_preview_tells_what_is_used_whatever_became_of_its_id(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let check = |tokens: u32| ask("ada", tokens).id("order-1");
    let permit = admitted(&books, check(60)).await;
    let decision = books.preview(check(50)).await.unwrap();
    assert!(!decision.is_allowed(), "while it runs");
    assert_eq!(of(decision.limits(), "daily").held, amount(60));
    permit.settle(total(70)).await.unwrap();
    let decision = books.preview(check(50)).await.unwrap();
    assert!(!decision.is_allowed(), "once it is settled");
    assert_eq!(of(decision.limits(), "daily").used, amount(70));
}

pub(crate) async fn only_limits_that_such_an_event_could_move_can_refuse(open: Open) {
    let books = open(
        tokens(&noon())
            .meter(Meter::count("chats").event_type("chat"))
            .meter(Meter::latest("seats", "seats").event_type("seat.count"))
            .limit(Limit::per_day("chats", "chats", 5))
            .limit(Limit::all_time("seats", "seats", 3)),
    );
    let seats = tower_limitry::Event::new("ada", "seat.count", Usage::of("seats", 3));
    books.record(seats).await.unwrap();

    let permit = admitted(&books, Check::of("ada").event_type("chat")).await;
    let looked: Vec<_> = permit.decision().limits().map(|limit| limit.id().to_owned()).collect();
    assert_eq!(looked, ["chats"]);
    permit.settle(Usage::new()).await.unwrap();
    assert_eq!(used(&books, "ada", "chats").await, amount(1));

    // An event of an unknown type moves neither.
    let permit = admitted(&books, Check::of("ada").event_type("upload")).await;
    assert_eq!(permit.decision().limits().count(), 0);
    // Without a type, every limit counts.
    let denial = denied(&books, Check::of("ada")).await;
    assert!(of(denial.decision().limits(), "seats").exceeded);
}

pub(crate) async fn a_limit_on_a_dimension_holds_only_for_it(open: Open) {
    let books = open(
        tokens(&noon())
            .meter(Meter::sum("free", "total_tokens").dimension("tier", "free"))
            .limit(Limit::per_day("all", "tokens", 1_000))
            .limit(Limit::per_day("large", "tokens", 100).dimension("model", "large-2"))
            .limit(
                Limit::per_day("large-eu", "tokens", 50)
                    .dimension("model", "large-2")
                    .dimension("region", "eu"),
            )
            .limit(Limit::per_day("free", "free", 30)),
    );
    let check = || Check::of("ada").dimension("model", "large-2").dimension("region", "us");
    admitted(&books, check()).await.settle(total(100)).await.unwrap();
    let denial = denied(&books, check()).await;
    assert!(of(denial.decision().limits(), "large").exceeded);
    assert_eq!(denial.decision().limits().count(), 2);

    let small = Check::of("ada").dimension("model", "small").dimension("tier", "free");
    admitted(&books, small).await.settle(total(30)).await.unwrap();
    let used_of = |id: &'static str| used(&books, "ada", id);
    assert_eq!(used_of("all").await, amount(130));
    assert_eq!(used_of("large").await, amount(100));
    assert_eq!(used_of("large-eu").await, amount(0));
    assert_eq!(used_of("free").await, amount(30));
}

pub(crate) async fn the_final_dimensions_choose_the_counters(open: Open) {
    let books = open(
        tokens(&noon())
            .limit(Limit::per_day("large", "tokens", 100).dimension("model", "large-2"))
            .limit(Limit::per_day("small", "tokens", 100).dimension("model", "small")),
    );
    let permit = admitted(&books, ask("ada", 70).dimension("model", "large-2")).await;
    assert_eq!(used_held(&books, "ada", "large").await, (amount(0), amount(70)));
    permit.settle(total(20).dimension("model", "small")).await.unwrap();
    assert_eq!(used_held(&books, "ada", "large").await, (amount(0), amount(0)));
    assert_eq!(used_held(&books, "ada", "small").await, (amount(20), amount(0)));
}

pub(crate) async fn limits_on_one_counter_share_its_usage(open: Open) {
    let books = open(
        tokens(&noon())
            .limit(Limit::per_day("soft", "tokens", 500))
            .limit(Limit::per_day("hard", "tokens", 100)),
    );
    let permit = admitted(&books, ask("ada", 60)).await;
    for id in ["soft", "hard"] {
        assert_eq!(of(permit.decision().limits(), id).held, amount(60), "{id}");
        assert_eq!(used_held(&books, "ada", id).await, (amount(0), amount(60)), "{id}");
    }
    permit.settle(total(70)).await.unwrap();
    for id in ["soft", "hard"] {
        assert_eq!(used_held(&books, "ada", id).await, (amount(70), amount(0)), "{id}");
    }
    let denial = denied(&books, ask("ada", 31)).await;
    let exceeded = |id: &str| of(denial.decision().limits(), id).exceeded;
    assert_eq!((exceeded("soft"), exceeded("hard")), (false, true));
}

pub(crate) async fn a_window_that_ends_begins_again_at_nothing(open: Open) {
    let clock = noon();
    let books = open(
        tokens(&clock)
            .limit(Limit::per_minute("minute", "tokens", 10))
            .limit(Limit::per_hour("hour", "tokens", 20))
            .limit(Limit::all_time("ever", "tokens", 30)),
    );
    spend(&books, "ada", 10).await;
    denied(&books, Check::of("ada")).await;
    clock.advance(MINUTE);
    assert_eq!(used(&books, "ada", "minute").await, amount(0));
    spend(&books, "ada", 10).await;
    clock.advance(HOUR);
    spend(&books, "ada", 10).await;
    clock.advance(DAY);
    let denial = denied(&books, Check::of("ada")).await;
    let refusing: Vec<_> = denial.decision().limits().filter(|limit| limit.is_exceeded()).collect();
    assert_eq!(refusing.len(), 1);
    assert_eq!((refusing[0].id(), refusing[0].reset()), ("ever", None));
    assert_eq!(denial.retry_after(), None);
}

pub(crate) async fn a_request_counts_in_the_window_of_its_check(open: Open) {
    let clock = noon();
    let books = open(
        tokens(&clock)
            .limit(Limit::per_minute("minute", "tokens", 100))
            .limit(Limit::per_day("daily", "tokens", 100)),
    );
    let permit = admitted(&books, ask("ada", 40)).await;
    clock.advance(MINUTE);
    // The next minute is empty: what is held belongs to the one before.
    assert_eq!(used_held(&books, "ada", "minute").await, (amount(0), amount(0)));
    let second = admitted(&books, ask("ada", 30)).await;
    permit.settle(total(50)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "minute").await, (amount(0), amount(30)));
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(50), amount(30)));
    second.settle(total(30)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "minute").await, (amount(30), amount(0)));
    let event = books.events(Default::default()).await.unwrap().items.pop().unwrap();
    assert_eq!(event.at(), time(NOON));
}

pub(crate) async fn dimensions_of_the_check_go_into_the_record(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let check = ask("ada", 10).event_type("chat").dimension("model", "a").dimension("team", "x");
    let permit = admitted(&books, check).await;
    let id = permit.id().unwrap().clone();
    permit.settle(total(7).dimension("model", "b")).await.unwrap();

    let event = books.events(Default::default()).await.unwrap().items.pop().unwrap();
    assert_eq!((event.id(), event.event_type()), (&id, "chat"));
    assert_eq!(event.usage().value("total_tokens"), Some(amount(7)));
    assert_eq!(event.usage().dimensions().get("model"), Some("b"));
    assert_eq!(event.usage().dimensions().get("team"), Some("x"));
}

pub(crate) async fn usage_that_is_no_number_charges_the_estimate_and_says_so(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let permit = admitted(&books, ask("ada", 30)).await;
    let error = permit.settle(total(f64::NAN)).await.unwrap_err();
    assert_invalid(&error, &["total_tokens", "not a finite decimal number"]);
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(30), amount(0)));
}

pub(crate) async fn usage_too_large_for_the_books_stays_at_the_largest(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let (one, two) = (admitted(&books, ask("ada", 1)).await, admitted(&books, ask("ada", 1)).await);
    one.settle(total(u64::MAX)).await.unwrap();
    two.settle(total(u64::MAX)).await.unwrap();
    let seen = standing(&books, "ada", "daily").await;
    assert_eq!((seen.used, seen.remaining), (tower_limitry::policy::Amount::MAX, amount(0)));
    denied(&books, Check::of("ada")).await;
    assert_eq!(books.events(Default::default()).await.unwrap().items.len(), 2);
}
