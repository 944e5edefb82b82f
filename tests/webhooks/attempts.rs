//! What is tried again, when, and what is not.

use std::time::Duration;

use http::StatusCode;
use http::header::{LOCATION, RETRY_AFTER};
use tower_limitry::engine::ManualClock;
use tower_limitry::policy::Timestamp;

use crate::support::*;

const HOUR: u64 = 3_600;

/// After each failure in turn.
const WAITS: [u64; 9] =
    [5, 300, 1_800, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn what_fails_is_tried_ten_times_under_one_id_and_then_kept() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
    let endpoint = Endpoint::answering(|_| StatusCode::INTERNAL_SERVER_ERROR).await;
    let webhooks = hooks(&folder, &clock, &[&endpoint]).start().unwrap();
    let books = alerting(&clock, &webhooks);
    use_up(&books, "acct_42", 80).await;
    for (nth, wait) in WAITS.into_iter().enumerate() {
        endpoint.hears(nth + 1).await;
        webhooks.flush(STUCK).await.unwrap();
        clock.advance(seconds(wait) - Duration::from_millis(1));
        webhooks.flush(STUCK).await.unwrap();
        assert_eq!(endpoint.heard().len(), nth + 1, "not before {wait} seconds");
        // And what is random of it.
        clock.advance(seconds(wait / 10 + 1));
    }
    endpoint.hears(10).await;
    webhooks.flush(STUCK).await.unwrap();
    let stats = webhooks.stats().unwrap();
    assert_eq!((stats.waiting, stats.given_up, stats.dropped), (0, 1, 0));
    clock.advance(seconds(100 * HOUR));
    webhooks.flush(STUCK).await.unwrap();
    let heard = endpoint.heard();
    assert_eq!(heard.len(), 10);
    for (attempt, later) in heard.iter().zip(&heard[1..]) {
        assert_eq!((attempt.id(), &attempt.body), (later.id(), &later.body));
        assert!(attempt.timestamp() < later.timestamp(), "the time of the attempt");
        assert!(later.is_signed_by(SECRET));
    }

    endpoint.answer(|_| StatusCode::OK);
    assert_eq!(webhooks.retry_given_up().unwrap(), 1);
    assert_eq!(endpoint.hears(11).await[10].id(), heard[0].id());
    webhooks.flush(STUCK).await.unwrap();
    assert_eq!(webhooks.stats().unwrap().given_up, 0);
}

#[tokio::test]
async fn only_2xx_is_success_and_redirects_are_not_followed() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
    let elsewhere = Endpoint::start().await;
    let url = elsewhere.url();
    let endpoint = Endpoint::answering(move |nth| match nth {
        0 => (StatusCode::FOUND, [(LOCATION, url.clone())]),
        1 => (StatusCode::PERMANENT_REDIRECT, [(LOCATION, url.clone())]),
        2 => (StatusCode::BAD_REQUEST, [(LOCATION, String::new())]),
        _ => (StatusCode::ACCEPTED, [(LOCATION, String::new())]),
    })
    .await;
    let webhooks = hooks(&folder, &clock, &[&endpoint]).start().unwrap();
    use_up(&alerting(&clock, &webhooks), "acct_42", 80).await;
    for nth in 0..3 {
        endpoint.hears(nth + 1).await;
        webhooks.flush(STUCK).await.unwrap();
        assert_eq!(webhooks.stats().unwrap().waiting, 1);
        clock.advance(seconds(HOUR));
    }
    endpoint.hears(4).await;
    webhooks.flush(STUCK).await.unwrap();
    assert_eq!(webhooks.stats().unwrap().waiting, 0);
    assert_eq!(elsewhere.heard().len(), 0);
}

#[tokio::test]
async fn an_endpoint_may_ask_for_a_longer_wait() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
    let endpoint =
        Endpoint::answering(|_| (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "3600")])).await;
    let webhooks = hooks(&folder, &clock, &[&endpoint]).start().unwrap();
    use_up(&alerting(&clock, &webhooks), "acct_42", 80).await;
    endpoint.hears(1).await;
    webhooks.flush(STUCK).await.unwrap();
    clock.advance(seconds(HOUR - 1));
    webhooks.flush(STUCK).await.unwrap();
    assert_eq!(endpoint.heard().len(), 1);
    clock.advance(seconds(HOUR / 10 + 2));
    endpoint.hears(2).await;
}

#[tokio::test]
async fn gone_is_the_end_of_an_endpoint_until_it_is_enabled() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
    let (other, endpoint) =
        (Endpoint::start().await, Endpoint::answering(|_| StatusCode::GONE).await);
    let start = || hooks(&folder, &clock, &[&endpoint, &other]);
    let webhooks = start().start().unwrap();
    let books = alerting(&clock, &webhooks);
    use_up(&books, "acct_1", 80).await;
    endpoint.hears(1).await;
    webhooks.flush(STUCK).await.unwrap();
    let stats = webhooks.stats().unwrap();
    assert_eq!((stats.disabled, stats.waiting), (1, 0));
    drop((webhooks, books));

    let webhooks = again(start).await;
    let books = alerting(&clock, &webhooks);
    use_up(&books, "acct_2", 80).await;
    other.hears(2).await;
    clock.advance(seconds(48 * HOUR));
    webhooks.flush(STUCK).await.unwrap();
    assert_eq!(endpoint.heard().len(), 1, "also after a restart");

    endpoint.answer(|_| StatusCode::OK);
    assert!(webhooks.enable(&endpoint.url()).unwrap());
    assert!(!webhooks.enable("https://example.com").unwrap());
    use_up(&books, "acct_3", 80).await;
    assert_eq!(endpoint.hears(2).await[1].json()["data"]["customerId"], "acct_3");
}

#[tokio::test]
async fn an_endpoint_that_hangs_holds_nobody_up() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    let endpoint = Endpoint::start().await;
    let webhooks = hooks(&folder, &clock, &[&endpoint])
        .endpoint(silent, SECRET)
        .timeout(Duration::from_secs(3_600))
        .start()
        .unwrap();
    let books = alerting(&clock, &webhooks);
    for customer in 0..20 {
        use_up(&books, &format!("acct_{customer}"), 80).await;
    }
    endpoint.hears(20).await;
    let error = webhooks.flush(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.kind(), tower_limitry::ErrorKind::TimedOut);
    until(|| webhooks.stats().unwrap().waiting == 20).await;
}

#[tokio::test]
async fn an_endpoint_that_answers_too_late_hears_it_again() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    let webhooks = hooks(&folder, &clock, &[])
        .endpoint(silent, SECRET)
        .timeout(Duration::from_millis(20))
        .start()
        .unwrap();
    use_up(&alerting(&clock, &webhooks), "acct_42", 80).await;
    for _ in 0..2 {
        let (_stream, _) = tokio::time::timeout(STUCK, listener.accept()).await.unwrap().unwrap();
        webhooks.flush(STUCK).await.unwrap();
        assert_eq!(webhooks.stats().unwrap().waiting, 1);
        clock.advance(seconds(HOUR));
    }
}

#[tokio::test]
async fn the_time_of_an_attempt_is_now() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
    let endpoint = Endpoint::answering(|nth| match nth {
        0 => StatusCode::BAD_GATEWAY,
        _ => StatusCode::OK,
    })
    .await;
    let webhooks = hooks(&folder, &clock, &[&endpoint]).start().unwrap();
    use_up(&alerting(&clock, &webhooks), "acct_42", 80).await;
    endpoint.hears(1).await;
    webhooks.flush(STUCK).await.unwrap();
    clock.advance(seconds(10));
    let heard = endpoint.hears(2).await;
    let noon: Timestamp = NOON.parse().unwrap();
    assert_eq!(heard[0].timestamp(), noon.as_seconds());
    assert_eq!(heard[1].timestamp(), noon.as_seconds() + 10);
}
