//! What requests of the layer meet in an outage: the policy that was declared, within the time.

use std::convert::Infallible;
use std::future::ready;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode, response};
use http_body_util::Empty;
use tower::{Layer, ServiceExt, service_fn};
use tower_limitry::store::Redis;
use tower_limitry::{Books, FailurePolicy, LimitryLayer, customer};

use crate::redis::Server;
use crate::support::*;
use crate::{STUCK, ever, tokens};

const TIMEOUT: Duration = Duration::from_millis(200);

/// What a loaded machine may take on top of the time that was set.
const GRACE: Duration = Duration::from_secs(5);

async fn asked(books: &Books, policy: FailurePolicy) -> StatusCode {
    let measure = |_: &response::Parts| Some(total(1));
    let layer =
        LimitryLayer::new(books.clone(), customer::trusted_header("x-customer-id"), measure)
            .estimate(|_| total(1))
            .check_timeout(TIMEOUT)
            .on_failure(policy);
    let answering = service_fn(|_: Request<Empty<Bytes>>| {
        ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    });
    let request = Request::builder().header("x-customer-id", "ada").body(Empty::new()).unwrap();
    let begun = Instant::now();
    let answer = layer.layer(answering).oneshot(request).await.unwrap();
    assert!(begun.elapsed() < TIMEOUT + GRACE, "{:?}", begun.elapsed());
    assert_ne!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    answer.status()
}

async fn meets(outage: impl Fn(&Server), end: impl Fn(&Server)) {
    let server = Server::start();
    let store = Redis::options().timeout(TIMEOUT).open(&server.url()).unwrap();
    let books = tokens().limit(ever(1_000)).build_on(store).unwrap().erased();
    assert_eq!(asked(&books, FailurePolicy::Closed).await, StatusCode::OK);
    outage(&server);
    for _ in 0..3 {
        let closed = asked(&books, FailurePolicy::Closed).await;
        assert_eq!(closed, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(asked(&books, FailurePolicy::Open).await, StatusCode::OK);
    }
    end(&server);
    let until = Instant::now() + STUCK;
    while asked(&books, FailurePolicy::Closed).await != StatusCode::OK {
        assert!(Instant::now() < until, "it does not heal");
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_answered_by_the_policy() {
    meets(Server::kill, Server::run).await;
}

#[tokio::test]
async fn a_server_that_hangs_is_answered_by_the_policy() {
    meets(|server| server.signal("STOP"), |server| server.signal("CONT")).await;
}

#[tokio::test]
async fn a_server_without_memory_is_answered_by_the_policy() {
    let limit = |bytes: &'static str| {
        move |server: &Server| drop(server.ask(&["CONFIG", "SET", "maxmemory", bytes]))
    };
    meets(limit("1"), limit("0")).await;
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_answered_by_the_policy() {
    let primary = Server::start();
    let port = primary.port.to_string();
    meets(
        |server| drop(server.ask(&["REPLICAOF", "127.0.0.1", &port])),
        |server| drop(server.ask(&["REPLICAOF", "NO", "ONE"])),
    )
    .await;
}
