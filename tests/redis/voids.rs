//! What is taken back when not everything is kept any more.

use tower_limitry::policy::Credit;
use tower_limitry::{Check, ErrorKind, Event, Limit, NewBalance};

use crate::options;
use crate::redis::fresh;
use crate::support::*;

/// Requests end in another order than they began in: the charge of one that began late may be let go
/// before that of one that began early.
#[tokio::test]
async fn an_event_is_not_taken_back_without_its_charge_whichever_request_began_first() {
    let (clock, (url, prefix)) = (noon(), fresh());
    let store = options(&prefix).keep_transactions(2).danger_time_of_the_engine();
    let books = tokens(&clock)
        .limit(Limit::per_day("daily", "tokens", 100))
        .default_balance(NewBalance::new("credits").initial(50))
        .build_on(store.open(&url).unwrap())
        .unwrap()
        .erased();
    let charged = || Check::of("ada").charge("credits", |usage| usage.value("total_tokens"));
    let long = admitted(&books, charged()).await;
    clock.advance(HOUR);
    let short = admitted(&books, charged()).await;
    let id = short.id().unwrap().clone();
    short.settle(total(30)).await.unwrap();
    long.settle(total(5)).await.unwrap();
    let free = books.record(Event::new("ada", "chat", total(7))).await.unwrap().id;
    books.credit(Credit::new("ada", "credits", 1)).await.unwrap();
    let error = books.void("ada", &id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(used(&books, "ada", "daily").await, amount(42));
    assert_eq!(current(&books, "ada", "credits").await, amount(16));
    // What came after a charge that is kept had none.
    books.void("ada", &free).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(35));
    assert_eq!(current(&books, "ada", "credits").await, amount(16));
}
