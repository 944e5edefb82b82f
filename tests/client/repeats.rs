//! What is sent again, and under which id.

use std::time::Duration;

use serde_json::json;
use tower_limitry::client::Repeat;
use tower_limitry::policy::{Credit, Debit};
use tower_limitry::{ErrorKind, Event, Limit, Usage};

use crate::support::{Reply, Script, soon};

fn event() -> Event {
    Event::new("acct_42", "call", Usage::of("calls", 1))
}

fn recorded() -> Reply {
    Reply::json(200, &json!({ "id": "evt_1", "recorded": true }))
}

#[tokio::test]
async fn a_record_goes_again_under_the_same_id_and_at_the_same_time() {
    let script = Script::start([Reply::Cut, Reply::with(502, &[], b""), recorded()]).await;
    soon(async { script.client().events().record(&event()).await }).await.unwrap();
    let seen = script.seen();
    assert_eq!(seen.len(), 3);
    let id = seen[0].header("idempotency-key").unwrap();
    assert!(seen[0].json()["idempotencyKey"].is_string());
    assert!(seen[0].json()["timestamp"].is_string());
    for again in &seen[1..] {
        assert_eq!(again.header("idempotency-key"), Some(id));
        assert_eq!(again.body, seen[0].body);
    }
}

#[tokio::test]
async fn calls_of_their_own_have_ids_of_their_own() {
    let script = Script::start([recorded()]).await;
    let client = script.client();
    client.events().record(&event()).await.unwrap();
    client.events().record(&event()).await.unwrap();
    client.events().record(&event().id("evt-1")).await.unwrap();
    let seen = script.seen();
    let id = |at: usize| seen[at].header("idempotency-key").unwrap();
    assert_ne!(id(0), id(1));
    assert_eq!(seen[2].json()["idempotencyKey"], "evt-1");
    // An id means another event for each customer.
    let other = Event::new("acct_43", "call", Usage::of("calls", 1)).id("evt-1");
    client.events().record(&other).await.unwrap();
    let seen = script.seen();
    assert_ne!(seen[2].header("idempotency-key"), seen[3].header("idempotency-key"));
}

#[tokio::test]
async fn where_ids_are_not_known_at_most_once_is_at_most_once() {
    let changed = || Credit::new("acct_42", "ai-credits", 5);
    for reply in [Reply::Cut, Reply::with(502, &[], b""), Reply::error(500, "internal_error", &[])]
    {
        let script = Script::start([reply]).await;
        let client = script.builder().repeat(Repeat::AtMostOnce).build().unwrap();
        let taken = Debit::new("acct_42", "ai-credits", 5);
        for error in [
            client.events().record(&event()).await.unwrap_err(),
            client.balances().credit(&changed()).await.unwrap_err(),
            client.balances().debit(&taken).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::TimedOut, "unknown is not refused: {error:?}");
            assert!(error.to_string().contains("not repeated"), "{error}");
        }
        assert_eq!(script.seen().len(), 3);
    }
}

#[tokio::test]
async fn what_was_certainly_not_done_goes_again_even_then() {
    let refused = Reply::error(503, "unavailable", &[("retry-after", "0")]);
    let script = Script::start([refused.clone(), refused, recorded()]).await;
    let client = script.builder().repeat(Repeat::AtMostOnce).build().unwrap();
    soon(client.events().record(&event())).await.unwrap();
    assert_eq!(script.seen().len(), 3);
}

#[tokio::test]
async fn a_limit_whose_making_is_unknown_is_not_made_twice() {
    let script = Script::start([Reply::Cut]).await;
    let limit = Limit::per_day("daily", "tokens", 5);
    let error = script.client().limits().create(&limit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(script.seen().len(), 1);
    assert_eq!(script.seen()[0].header("idempotency-key"), None);
}

/// An attempt that may have been done is unknown, even when the next finds nobody there.
#[tokio::test]
async fn unknown_stays_unknown_whatever_follows() {
    let busy = Reply::error(503, "unavailable", &[]);
    let script = Script::start([Reply::Cut, busy]).await;
    let error = soon(async { script.client().events().record(&event()).await }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(script.seen().len(), 3);
}

/// A debit whose answer names a customer that cannot be: it was taken for "not done".
#[tokio::test]
async fn a_write_whose_answer_makes_no_sense_is_unknown() {
    let balance =
        json!({ "id": "bal_1", "customerId": "", "name": "credits", "currentBalance": 9 });
    let script =
        Script::start([Reply::json(200, &json!({ "success": true, "balance": balance }))]).await;
    let client = script.client();
    let debit = Debit::new("ann", "credits", 1);
    let error = soon(client.balances().debit_once("debit-1", &debit)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let script = Script::start([Reply::json(200, &json!({ "id": "", "recorded": true }))]).await;
    let error = soon(async { script.client().events().record(&event()).await }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let script = Script::start([Reply::json(200, &balance)]).await;
    let error = soon(async { script.client().balances().get("bal_1").await }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "reading does nothing: {error}");
}

#[tokio::test]
async fn a_removal_that_finds_nothing_after_a_cut_was_done_by_the_first_attempt() {
    let script = Script::start([Reply::Cut, Reply::error(404, "limit_not_found", &[])]).await;
    soon(async { script.client().limits().delete("lmt_1").await }).await.unwrap();
    let script = Script::start([Reply::error(404, "limit_not_found", &[])]).await;
    let error = script.client().limits().delete("lmt_1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn nobody_there_is_asked_again_and_told_as_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let client = tower_limitry::client::Client::builder("key")
        .base_url(url)
        .repeat(Repeat::AtMostOnce)
        .timeout(Duration::from_secs(30))
        .build()
        .unwrap();
    let error = soon(client.events().record(&event())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "nothing was sent: {error:?}");
}

/// An id of one's own is any text, and a header carries only some.
#[tokio::test]
async fn an_id_that_no_header_carries_is_one_key_all_the_same() {
    let script = Script::start([recorded()]).await;
    let client = script.client();
    let ids = ["bestellung 7", "bestellung 8", "käse\n", &"x".repeat(256)];
    for id in ids.iter().chain(&ids) {
        client.events().record(&event().id(id)).await.unwrap();
    }
    let seen = script.seen();
    let keys: Vec<_> = seen.iter().map(|seen| seen.header("idempotency-key").unwrap()).collect();
    assert_eq!(keys[..4], keys[4..]);
    assert!(keys.iter().all(|key| key.len() <= 255));
    let mut different = keys[..4].to_vec();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), 4);
    assert_eq!(seen[2].json()["idempotencyKey"], "käse\n");
}
