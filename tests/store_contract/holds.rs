//! A hold lives while somebody owns it, and its id is good once.

use std::time::Duration;

use tower_limitry::policy::{CustomerId, EventId};
use tower_limitry::{Check, ErrorKind, Limit, NewBalance};

use crate::support::*;

pub(crate) async fn a_hold_without_an_end_lives_as_long_as_its_request(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    let permit = admitted(&books, ask("ada", 60)).await;
    clock.advance(11 * HOUR);
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(60)));
    permit.settle(total(60)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(60), amount(0)));
}

pub(crate) async fn a_hold_ends_by_itself_when_it_is_told_to(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    let permit = admitted(&books, ask("ada", 100).hold_for(MINUTE)).await;
    clock.advance(MINUTE - Duration::from_nanos(1));
    denied(&books, ask("ada", 1)).await;
    clock.advance(Duration::from_nanos(1));
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(0)));
    assert_eq!(books.open_holds().await.unwrap(), 0);
    admitted(&books, ask("ada", 100)).await.release().await.unwrap();
    drop(permit);
}

pub(crate) async fn settling_after_the_end_still_records_once(open: Open) {
    let clock = noon();
    let books =
        open(hundred_a_day(&clock).default_balance(NewBalance::new("credits").initial(500)));
    let check = ask("ada", 60).charge("credits", |usage| usage.value("total_tokens"));
    let permit = admitted(&books, check.hold_for(MINUTE)).await;
    let id = permit.id().unwrap().clone();
    clock.advance(2 * MINUTE);
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(0)));

    permit.settle(total(70)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(70), amount(0)));
    assert_eq!(current(&books, "ada", "credits").await, amount(430));
    let events = books.events(Default::default()).await.unwrap().items;
    assert_eq!(events.iter().map(|event| event.id()).collect::<Vec<_>>(), [&id]);
}

/// An id whose hold ended is remembered for a week. Of one that nobody knows any more it cannot be told
/// whether it was settled: it is not counted, and not called done either.
pub(crate) async fn a_settlement_that_comes_too_late_is_counted_or_told(open: Open) {
    let clock = noon();
    let books = open(tokens(&clock).limit(Limit::all_time("ever", "tokens", 100)));
    let (late, too_late) = (
        admitted(&books, ask("ada", 1).hold_for(MINUTE)).await,
        admitted(&books, ask("ada", 10).id("order-1").hold_for(MINUTE)).await,
    );
    let forgotten = admitted(&books, ask("ada", 10).hold_for(MINUTE)).await;
    clock.advance(2 * MINUTE);
    assert_eq!(used_held(&books, "ada", "ever").await, (amount(0), amount(0)));
    clock.advance(7 * DAY - HOUR);
    late.settle(total(1)).await.unwrap();
    assert_eq!(used(&books, "ada", "ever").await, amount(1));

    clock.advance(2 * DAY);
    // One that ends now, as the ids of ended holds are let go by and by.
    let _ended = admitted(&books, ask("ada", 1).hold_for(MINUTE)).await;
    clock.advance(2 * MINUTE);
    assert_eq!(used_held(&books, "ada", "ever").await, (amount(1), amount(0)));
    let mut counted = amount(1);
    for permit in [too_late, forgotten] {
        match permit.settle(total(10)).await {
            Ok(()) => counted = counted.checked_add(amount(10)).unwrap(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::TooOld);
                assert_names(
                    &error,
                    &["older than ids are remembered", "without an id of its own"],
                );
            }
        }
        assert_eq!(used(&books, "ada", "ever").await, counted);
    }
}

pub(crate) async fn releasing_after_the_end_changes_nothing(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    let permit = admitted(&books, ask("ada", 60).hold_for(MINUTE)).await;
    clock.advance(2 * MINUTE);
    let running = admitted(&books, ask("ada", 30)).await;
    permit.release().await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(30)));
    running.settle(total(30)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(30), amount(0)));
}

pub(crate) async fn a_hold_that_is_renewed_lives_on(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    let permit = admitted(&books, ask("ada", 60).hold_for(MINUTE)).await;
    let key = (CustomerId::new("ada").unwrap(), permit.id().unwrap().clone());
    let unknown = (key.0.clone(), EventId::new("unknown").unwrap());
    for _ in 0..3 {
        clock.advance(MINUTE - SECOND);
        let keys = vec![key.clone(), unknown.clone()];
        assert_eq!(books.renew(keys, MINUTE).await.unwrap(), [true, false]);
    }
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(60)));
    clock.advance(MINUTE);
    assert_eq!(books.renew(vec![key], MINUTE).await.unwrap(), [false]);
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(0)));
    permit.settle(total(60)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(60), amount(0)));
}

pub(crate) async fn a_hold_may_be_told_to_live_for_ever(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    clock.advance(SECOND);
    let permit = admitted(&books, ask("ada", 60).hold_for(Duration::MAX)).await;
    let key = (CustomerId::new("ada").unwrap(), permit.id().unwrap().clone());
    assert_eq!(books.renew(vec![key], Duration::MAX).await.unwrap(), [true]);
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(60)));
    permit.settle(total(1)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(1), amount(0)));
}

pub(crate) async fn what_an_ended_hold_set_aside_can_be_spent(open: Open) {
    let clock = noon();
    let books = open(tokens(&clock).default_balance(NewBalance::new("credits").initial(100)));
    let check = ask("ada", 100).charge("credits", |usage| usage.value("total_tokens"));
    let _permit = admitted(&books, check.hold_for(MINUTE)).await;
    clock.advance(MINUTE);
    let debit = tower_limitry::policy::Debit::new("ada", "credits", 100);
    assert!(books.debit(debit).await.unwrap().is_taken());
}

pub(crate) async fn a_balance_does_not_show_an_ended_hold(open: Open) {
    let clock = noon();
    let books = open(tokens(&clock).default_balance(NewBalance::new("credits").initial(100)));
    let check = ask("ada", 100).charge("credits", |usage| usage.value("total_tokens"));
    let _permit = admitted(&books, check.hold_for(MINUTE)).await;
    clock.advance(MINUTE);
    let balance = books.balance("ada", "credits").await.unwrap().unwrap();
    assert_eq!((balance.held(), balance.available()), (amount(0), amount(100)));
}

pub(crate) async fn an_id_that_is_running_is_a_conflict(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let permit = admitted(&books, ask("ada", 10).id("order-1")).await;
    let error = failed(&books, ask("ada", 10).id("order-1")).await;
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_names(&error, &["same id", "wait for its answer"]);
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(10)));
    permit.settle(total(10)).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(10));
}

pub(crate) async fn an_id_that_was_settled_is_not_charged_again(open: Open) {
    let books =
        open(hundred_a_day(&noon()).default_balance(NewBalance::new("credits").initial(500)));
    let check = || {
        let check = ask("ada", 10).id("order-1");
        check.charge("credits", |usage| usage.value("total_tokens"))
    };
    let permit = admitted(&books, check()).await;
    assert!(!permit.was_settled());
    permit.settle(total(10)).await.unwrap();

    let again = admitted(&books, check()).await;
    assert!(again.was_settled());
    assert_eq!(again.id(), None);
    again.settle(total(10)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(10), amount(0)));
    assert_eq!(current(&books, "ada", "credits").await, amount(490));
    assert_eq!(books.events(Default::default()).await.unwrap().items.len(), 1);
}

/// A repeat is not checked, so it has nothing to tell. It told of limits that nothing was used of.
pub(crate) async fn an_id_that_was_settled_shows_nothing_that_was_not_looked_at(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let check = || ask("ada", 10).id("order-1");
    admitted(&books, check()).await.settle(total(10)).await.unwrap();
    let again = admitted(&books, check()).await;
    assert_eq!(again.decision().limits().count(), 0);
}

pub(crate) async fn an_id_that_was_released_may_be_tried_again(open: Open) {
    let books = open(hundred_a_day(&noon()));
    admitted(&books, ask("ada", 10).id("order-1")).await.release().await.unwrap();
    let permit = admitted(&books, ask("ada", 10).id("order-1")).await;
    assert!(!permit.was_settled());
    permit.settle(total(10)).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(10));
}

pub(crate) async fn an_id_that_was_denied_may_be_tried_again(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    spend(&books, "ada", 100).await;
    denied(&books, ask("ada", 10).id("order-1")).await;
    clock.advance(DAY);
    admitted(&books, ask("ada", 10).id("order-1")).await.settle(total(10)).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(10));
}

pub(crate) async fn one_id_means_another_use_for_every_customer(open: Open) {
    let books = open(hundred_a_day(&noon()));
    for customer in ["ada", "bob"] {
        let permit = admitted(&books, ask(customer, 10).id("order-1")).await;
        assert!(!permit.was_settled());
        permit.settle(total(10)).await.unwrap();
        assert_eq!(used(&books, customer, "daily").await, amount(10));
    }
}

/// A client sends `order-1`, its connection breaks, and its request goes on past the end of its
/// hold; the client tries again with the same id, and only then the first attempt is done.
pub(crate) async fn two_attempts_of_one_id_count_once_though_the_first_hold_ended(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    let first = admitted(&books, ask("ada", 10).id("order-1").hold_for(MINUTE)).await;
    clock.advance(2 * MINUTE);
    let second = admitted(&books, ask("ada", 10).id("order-1").hold_for(MINUTE)).await;
    first.settle(total(10)).await.unwrap();
    second.settle(total(10)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(10), amount(0)));
    assert_eq!(books.events(Default::default()).await.unwrap().items.len(), 1);
}

pub(crate) async fn an_id_settled_after_its_hold_ended_is_not_charged_again(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    let permit = admitted(&books, ask("ada", 10).id("order-1").hold_for(MINUTE)).await;
    clock.advance(2 * MINUTE);
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(0)));
    permit.settle(total(10)).await.unwrap();

    let again = admitted(&books, ask("ada", 10).id("order-1")).await;
    assert!(again.was_settled());
    again.settle(total(10)).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(10));
}

/// Ids are a customer's own. A store that remembers where a hold was must not take another
/// customer's hold of the same id that is there by now.
pub(crate) async fn a_late_settlement_never_touches_another_customer(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    let late = admitted(&books, ask("ada", 10).id("order-1").hold_for(MINUTE)).await;
    clock.advance(2 * MINUTE);
    let mut running = Vec::new();
    for number in 0..500 {
        running.push(admitted(&books, ask(&format!("acct_{number}"), 5).id("order-1")).await);
    }
    late.settle(total(10)).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(10));
    for (number, permit) in running.into_iter().enumerate() {
        let customer = format!("acct_{number}");
        let seen = used_held(&books, &customer, "daily").await;
        assert_eq!(seen, (amount(0), amount(5)), "{customer}");
        permit.settle(total(5)).await.unwrap();
        assert_eq!(used_held(&books, &customer, "daily").await, (amount(5), amount(0)));
    }
}

pub(crate) async fn a_late_release_never_touches_another_customer(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    let late = admitted(&books, ask("ada", 10).id("order-1").hold_for(MINUTE)).await;
    clock.advance(2 * MINUTE);
    let mut running = Vec::new();
    for number in 0..500 {
        running.push(admitted(&books, ask(&format!("acct_{number}"), 5).id("order-1")).await);
    }
    late.release().await.unwrap();
    for number in 0..500 {
        let customer = format!("acct_{number}");
        let seen = used_held(&books, &customer, "daily").await;
        assert_eq!(seen, (amount(0), amount(5)), "{customer}");
    }
}

/// A second request of an id that is running goes away before it hears of the conflict. It never
/// had a hold, so the first one's must stay.
pub(crate) async fn an_attempt_that_goes_away_leaves_the_running_one_alone(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let permit = admitted(&books, ask("ada", 10).id("order-1")).await;
    drop(books.check(ask("ada", 10).id("order-1")));
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(0), amount(10)));
    permit.settle(total(10)).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(10));
}

/// The same for one that was denied: nothing was placed, so nothing is in the way of the next try.
pub(crate) async fn an_attempt_that_goes_away_does_not_spoil_its_id(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    spend(&books, "ada", 100).await;
    drop(books.check(ask("ada", 10).id("order-1")));
    clock.advance(DAY);
    admitted(&books, ask("ada", 10).id("order-1")).await.settle(total(10)).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(10));
}

pub(crate) async fn ids_that_are_made_are_never_the_same(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let mut ids = std::collections::HashSet::new();
    for _ in 0..1_000 {
        let permit = admitted(&books, Check::of("ada")).await;
        let id = permit.id().unwrap().clone();
        assert_eq!(id.made_at(), Some(time(NOON)));
        assert!(ids.insert(id));
    }
}
