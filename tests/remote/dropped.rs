//! Row 7: whatever becomes of a request, its hold ends and its use is recorded as the policy says.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode, response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_limitry::backend::Backend;
use tower_limitry::client::Remote;
use tower_limitry::{Books, LimitryLayer, customer};

use crate::host::*;
use crate::support::*;

fn layer<B: Backend>(books: Books<B>) -> LimitryLayer<B> {
    let identify = customer::trusted_header("x-customer");
    LimitryLayer::new(books, identify, |_: &response::Parts| Some(total(7)))
        .estimate(|_| total(10))
        .check_timeout(STUCK)
}

fn request() -> Request<Full<Bytes>> {
    Request::builder().header("x-customer", "ada").body(Full::default()).unwrap()
}

/// What is used and held once everything has arrived.
async fn left(host: &Host, process: &Remote) -> (u32, u32) {
    in_time(process.quiet()).await;
    let (used, held) = used_held(&host.books, "ada", "daily").await;
    (used.floor() as u32, held.floor() as u32)
}

#[tokio::test]
async fn the_response_future_dropped_at_any_moment_leaves_no_hold() {
    let host = Host::start().await;
    let process = host.process();
    let metered = layer(Books::new(process.clone())).layer(service_fn(async |_| {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("done"))))
    }));
    let mut random = Random(seed());
    let mut finished = 0;
    for _ in 0..times(100, 10_000) {
        let after = std::time::Duration::from_micros(random.below(3_000));
        let answered = tokio::time::timeout(after, metered.clone().oneshot(request())).await;
        // Usage is known from the head, so a response that came is settled.
        finished +=
            u32::from(answered.is_ok_and(|answer| answer.unwrap().status() == StatusCode::OK));
        if finished == 10 {
            break;
        }
    }
    assert_eq!(left(&host, &process).await, (7 * finished, 0));
}

#[tokio::test]
async fn a_body_dropped_at_any_frame_is_settled_or_released_as_the_policy_says() {
    use tower_limitry::{Disconnect, usage};
    for (policy, expected) in [(Disconnect::default(), 10), (Disconnect::Release, 0)] {
        for frames in 0..3 {
            let host = Host::start().await;
            let process = host.process();
            let identify = customer::trusted_header("x-customer");
            let metered = LimitryLayer::new(
                Books::new(process.clone()),
                identify,
                usage::json(1_024, |used: &u32| Some(total(*used))),
            )
            .estimate(|_| total(10))
            .check_timeout(STUCK)
            .on_disconnect(policy)
            .layer(service_fn(async |_| {
                let frames = ["1", "2", "3"]
                    .map(|text| Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(text))));
                let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
                Ok::<_, Infallible>(Response::new(body))
            }));
            let mut body = metered.oneshot(request()).await.unwrap().into_body();
            for _ in 0..frames {
                body.frame().await.unwrap().unwrap();
            }
            drop(body);
            assert_eq!(left(&host, &process).await, (expected, 0), "{policy:?}, {frames}");
        }
    }
}

#[tokio::test]
async fn a_handler_that_fails_or_panics_releases() {
    let host = Host::start().await;
    let process = host.process();
    let failing = layer(Books::new(process.clone())).layer(service_fn(async |_| {
        let response = Response::builder().status(500).body(Full::<Bytes>::default());
        Ok::<_, Infallible>(response.unwrap())
    }));
    assert_eq!(failing.oneshot(request()).await.unwrap().status(), 500);
    assert_eq!(left(&host, &process).await, (0, 0));

    let erring = layer(Books::new(process.clone())).layer(service_fn(async |_| {
        Err::<Response<Full<Bytes>>, _>(std::io::Error::other("an error of the test's own"))
    }));
    erring.oneshot(request()).await.unwrap_err();
    assert_eq!(left(&host, &process).await, (0, 0));

    let panicking = layer(Books::new(process.clone())).layer(service_fn(async |_| {
        if true {
            panic!("a panic of the test's own");
        }
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    tokio::spawn(panicking.oneshot(request())).await.unwrap_err();
    assert_eq!(left(&host, &process).await, (0, 0));
}
