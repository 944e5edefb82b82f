//! What is kept and remembered may be as much or as little as a number tells.

use std::time::Duration;

use tower_limitry::NewBalance;
use tower_limitry::policy::{Credit, Debit};
use tower_limitry::store::redis::RedisOptions;

use crate::redis::fresh;
use crate::support::*;
use crate::{ever, tokens};

/// Every kind of step, each counted once.
async fn run(options: impl Fn(RedisOptions) -> RedisOptions) {
    let (url, prefix) = fresh();
    let builder = tokens().limit(ever(1_000));
    let builder = builder.default_balance(NewBalance::new("credits").initial(100));
    let store = options(crate::options(&prefix)).open(&url).unwrap();
    let books = builder.build_on(store).unwrap().erased();
    for turn in 1..=20 {
        let check = ask("ada", 5).charge("credits", |usage| usage.value("total_tokens"));
        let check = check.event_type("chat");
        admitted(&books, check).await.settle(total(2)).await.unwrap();
        spend(&books, "ada", 1).await;
        let credit = Credit::new("ada", "credits", 3).reference(format!("{turn}"));
        assert!(books.credit(credit.clone()).await.unwrap().applied);
        assert!(!books.credit(credit).await.unwrap().applied);
        assert!(books.debit(Debit::new("ada", "credits", 1)).await.unwrap().is_taken());
        assert_eq!(used_held(&books, "ada", "ever").await, (amount(3 * turn), amount(0)));
        assert_eq!(current(&books, "ada", "credits").await, amount(100));
    }
}

#[tokio::test]
async fn books_that_keep_as_much_as_a_number_tells_count_as_others_do() {
    run(|options| options.keep_transactions(usize::MAX)).await;
    run(|options| options.keep_events(usize::MAX)).await;
    let longest = Duration::MAX;
    run(|options| {
        options.remember_ids_for(longest).keep_events_for(longest).keep_rollups_for(longest)
    })
    .await;
}

#[tokio::test]
async fn a_step_may_take_as_long_as_a_number_tells() {
    let longest = Duration::MAX;
    run(|options| options.timeout(longest).hold_for(longest)).await;
    run(|options| options.timeout(longest).wait_for_replicas(0, longest)).await;
}

#[tokio::test]
async fn books_that_keep_or_remember_nothing_count_as_others_do() {
    let none = Duration::ZERO;
    run(|options| options.keep_transactions(0).keep_events(0)).await;
    run(|options| options.remember_ids_for(none)).await;
    run(|options| options.keep_events_for(none).keep_rollups_for(none).keep_events(1)).await;
}
