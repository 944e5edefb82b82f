//! What goes wrong between a client and its API, and how that is told.

use std::io::Write;
use std::time::Duration;

use serde_json::json;
use tower_limitry::backend::EventQuery;
use tower_limitry::client::{ApiError, BreakerOpen, Client, StandingQuery};
use tower_limitry::{ErrorKind, Event, Limit, Usage};

use crate::support::{Api, KEY, Reply, Script, soon, told};

fn fine() -> Reply {
    Reply::json(200, &json!({ "allowed": true, "limits": [], "ofTomorrow": { "deep": [1] } }))
}

fn query() -> StandingQuery {
    StandingQuery::of("acct_42")
}

#[tokio::test]
async fn a_call_carries_the_key_the_project_and_who_asks() {
    let script = Script::start([fine()]).await;
    let client = script.builder().project("proj_7").build().unwrap();
    client.limits().check(query()).await.unwrap();
    let seen = &script.seen()[0];
    assert_eq!((&*seen.method, &*seen.path), ("POST", "/v1/limits/check"));
    assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {KEY}")));
    assert_eq!(seen.header("x-project"), Some("proj_7"));
    assert!(seen.header("user-agent").unwrap().starts_with("tower-limitry/0."));
    assert_eq!(seen.header("accept-encoding"), Some("gzip"));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("idempotency-key"), None, "a check has no effect to do once");
}

#[tokio::test]
async fn reads_survive_cuts_garbage_and_a_server_that_is_busy() {
    let busy = Reply::error(503, "unavailable", &[("retry-after", "0")]);
    let half =
        Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"allowed\":tr".to_vec());
    for reply in [
        Reply::Cut,
        half,
        busy,
        Reply::with(200, &[], b"<html>"),
        Reply::with(200, &[], b""),
        Reply::with(500, &[], b"oops"),
        Reply::Bytes(b"\x16\x03\x01 no HTTP".to_vec()),
    ] {
        let script = Script::start([reply.clone(), reply.clone(), fine()]).await;
        let standing = soon(async { script.client().limits().check(query()).await }).await;
        assert!(standing.unwrap().allowed, "{reply:?}");
        assert_eq!(script.seen().len(), 3);
    }
}

#[tokio::test]
async fn a_call_ends_when_its_time_is_over() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"allowed\":tr".to_vec();
    for slow in [Reply::Silence, Reply::Stuck(half)] {
        let script = Script::start([slow]).await;
        let within = Duration::from_millis(120);
        let client = script.builder().attempt_timeout(within / 4).timeout(within).build().unwrap();
        let begun = std::time::Instant::now();
        let error = soon(client.limits().check(query())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn an_api_that_asks_for_patience_beyond_the_time_there_is_is_not_waited_for() {
    let wait = [("retry-after", "3600"), ("x-request-id", "req_1")];
    let script = Script::start([Reply::error(429, "rate_limit_exceeded", &wait)]).await;
    let error = soon(async { script.client().limits().check(query()).await }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "its own 429 is no denial");
    let api = ApiError::of(&error).unwrap();
    assert_eq!((api.status(), api.code()), (429, Some("rate_limit_exceeded")));
    assert_eq!(api.retry_after(), Some(Duration::from_secs(3_600)));
    assert_eq!((api.request_id(), api.message()), (Some("req_1"), Some("as told")));
    assert_eq!(script.seen().len(), 1);
}

#[tokio::test]
async fn errors_are_told_by_status_and_code() {
    use ErrorKind::{Conflict, Invalid, NotFound, TooOld, Unavailable};
    for (status, code, kind) in [
        (400, "invalid_request", Invalid),
        (400, "missing_required_field", Invalid),
        (401, "invalid_api_key", Unavailable),
        (401, "expired_api_key", Unavailable),
        (403, "insufficient_permissions", Unavailable),
        (404, "limit_not_found", NotFound),
        (404, "route_not_found", Unavailable),
        (409, "balance_exists", Conflict),
        (409, "too_old", TooOld),
        (413, "payload_too_large", Invalid),
        (429, "rate_limit_exceeded", Unavailable),
        (500, "internal_error", Unavailable),
        (503, "unavailable", Unavailable),
        (504, "timeout", Unavailable),
    ] {
        let script = Script::start([Reply::error(status, code, &[])]).await;
        let client = script.builder().retries(0).build().unwrap();
        let error = client.limits().get("lmt_1").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status} {code}");
        let api = ApiError::of(&error).unwrap();
        assert_eq!((api.status(), api.code()), (status, Some(code)));
    }
}

/// A proxy that answers for a service that is away must not have settlements refused for good.
#[tokio::test]
async fn what_is_not_the_apis_own_word_is_not_believed_to_be_its_last() {
    for status in [400, 401, 404, 405, 409, 410, 418, 422] {
        let script = Script::start([Reply::with(status, &[], b"<h1>nginx</h1>")]).await;
        let client = script.builder().retries(0).build().unwrap();
        let event = Event::new("acct_42", "call", Usage::of("calls", 1));
        let error = client.events().record(&event).await.unwrap_err();
        assert!(error.is_transient(), "{status}: {error:?}");
        assert_eq!(ApiError::of(&error).unwrap().code(), None);
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Script::start([fine()]).await;
    let location = format!("{}/limits/check", elsewhere.url);
    for status in [301, 302, 303, 307, 308] {
        let script = Script::start([Reply::with(status, &[("location", &location)], b"")]).await;
        let error = script.client().limits().check(query()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("LIMITRY_BASE_URL"), "{error}");
    }
    assert_eq!(elsewhere.seen().len(), 0);
}

#[tokio::test]
async fn answers_are_bounded_also_when_they_unfold() {
    let huge = format!("{{\"allowed\":true,\"limits\":[],\"more\":\"{}\"}}", "x".repeat(1 << 20));
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(huge.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    assert!(packed.len() < 4_096);
    let zipped = Reply::with(200, &[("content-encoding", "gzip")], &packed);
    for reply in [Reply::with(200, &[], huge.as_bytes()), zipped] {
        let script = Script::start([reply]).await;
        let small = script.builder().most_answer(1 << 16).retries(0).build().unwrap();
        let error = small.limits().check(query()).await.unwrap_err();
        assert!(error.to_string().contains("longer than 65536 bytes"), "{error}");
        assert!(script.client().limits().check(query()).await.unwrap().allowed);
    }
}

#[tokio::test]
async fn the_key_is_in_no_error_whatever_the_other_side_says() {
    let echo = json!({ "error": { "code": KEY, "message": format!("no {KEY}\u{1b}[2J"), "requestId": KEY } });
    for reply in [
        Reply::json(401, &echo),
        Reply::json(500, &echo),
        Reply::with(200, &[], format!("{{\"allowed\":\"{KEY}\"}}").as_bytes()),
        Reply::with(302, &[("location", KEY)], KEY.as_bytes()),
        Reply::with(418, &[("x-request-id", KEY)], KEY.as_bytes()),
        Reply::Cut,
    ] {
        let script = Script::start([reply]).await;
        let client = script.builder().retries(0).build().unwrap();
        let error = client.limits().check(query()).await.unwrap_err();
        let told = told(&error);
        assert!(!told.contains(KEY), "{told}");
        assert!(!told.contains('\u{1b}') && !told.contains("acct_42"), "{told}");
        assert!(!format!("{client:?} {:?}", client.limits()).contains(KEY));
    }
    assert!(!format!("{:?}", Client::builder(KEY)).contains(KEY));
}

/// A customer's id is in the address of some calls.
#[tokio::test]
async fn no_address_is_in_an_error() {
    let client = Client::builder(KEY).base_url("http://127.0.0.1:1/v1").retries(0).build().unwrap();
    let error = client.customers().get("acct_42").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let told = told(&error);
    assert!(told.contains("cannot be reached") && !told.contains("acct_42"), "{told}");
}

#[tokio::test]
async fn what_an_unreadable_answer_holds_is_not_told() {
    let answer = json!({ "allowed": true, "limits": [{ "id": ["acct_42"] }] });
    let script = Script::start([Reply::json(200, &answer)]).await;
    let client = script.builder().retries(0).build().unwrap();
    let error = client.limits().check(query()).await.unwrap_err();
    assert!(error.to_string().contains("not of the type expected"), "{error}");
    assert!(!told(&error).contains("acct_42"));
    script.then(Reply::json(200, &json!({ "limits": [] })));
    let error = client.limits().check(query()).await.unwrap_err();
    assert!(error.to_string().contains("missing field `allowed`"), "{error}");
}

#[tokio::test]
async fn a_list_ends_at_its_first_error_and_at_a_page_that_points_to_itself() {
    let page = |next| {
        let event = json!({
            "id": "evt_1", "customerId": "acct_42", "eventType": "call", "timestamp": "2026-03-01T00:00:00Z",
        });
        Reply::json(200, &json!({ "data": [event], "nextCursor": next, "hasMore": true }))
    };
    let refused = Reply::error(400, "invalid_field_value", &[]);
    let script = Script::start([page("a/b"), page("c"), refused]).await;
    let mut pages = script.client().events().list(EventQuery::new().customer("acct_42"));
    assert!(pages.next().await.unwrap().is_ok());
    assert!(pages.next().await.unwrap().is_ok());
    assert_eq!(pages.next().await.unwrap().unwrap_err().kind(), ErrorKind::Invalid);
    assert!(pages.next().await.is_none());
    let paths: Vec<_> = script.seen().iter().map(|seen| seen.path.clone()).collect();
    let of = "/v1/events?customerId=acct_42";
    assert_eq!(paths, [of.into(), format!("{of}&cursor=a%2Fb"), format!("{of}&cursor=c")]);

    let script = Script::start([page("a")]).await;
    let error = soon(script.client().events().list(EventQuery::new()).all()).await.unwrap_err();
    assert!(error.to_string().contains("nextCursor"), "{error}");
}

#[tokio::test]
async fn an_api_that_is_down_is_left_alone_until_a_probe_finds_it_back() {
    let script = Script::start([Reply::Cut]).await;
    let hour = Duration::from_secs(3_600);
    let client = script.builder().retries(0).breaker(3, hour, hour).build().unwrap();
    for _ in 0..3 {
        assert!(client.limits().check(query()).await.is_err());
    }
    for client in [client.clone(), client] {
        let error = client.limits().check(query()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let remaining = BreakerOpen::of(&error).unwrap().remaining();
        assert!(remaining <= hour && remaining > hour / 2);
    }
    assert_eq!(script.seen().len(), 3, "nothing was sent");

    let (first, longest) = (Duration::from_millis(20), Duration::from_millis(40));
    let client = script.builder().retries(0).breaker(3, first, longest).build().unwrap();
    for _ in 0..3 {
        assert!(client.limits().check(query()).await.is_err());
    }
    script.then(fine());
    let back = async {
        while let Err(error) = client.limits().check(query()).await {
            assert!(BreakerOpen::of(&error).is_some() || error.is_transient(), "{error:?}");
            tokio::time::sleep(first).await;
        }
    };
    soon(back).await;
    client.limits().check(query()).await.unwrap();
}

#[tokio::test]
async fn a_refusal_of_one_call_does_not_open_the_breaker_for_others() {
    let Api { client, .. } = Api::start().await;
    for _ in 0..20 {
        let error = client.limits().get("none").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let unknown = Limit::per_day("daily", "none", 1);
        assert_eq!(client.limits().create(&unknown).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
