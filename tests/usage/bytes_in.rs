//! The bytes of requests, as the service reads them.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use tower::{Layer, ServiceExt, service_fn};
use tower_limitry::{Books, Engine, Limit, LimitryLayer, Meter, Reporter, customer, usage};

fn books() -> Books<Engine> {
    Engine::builder()
        .meter(Meter::sum("bytes", "bytes_in"))
        .limit(Limit::per_day("daily", "bytes", 1000))
        .build()
        .expect("valid definitions")
}

fn chunked() -> impl Body<Data = Bytes, Error = Infallible> + Send + Unpin {
    let parts = ["abc", "", "de", "fghij"].map(|part| Frame::data(Bytes::from(part)));
    let trailers =
        Frame::trailers(HeaderMap::from_iter([("x-sum".parse().expect("a name"), 7.into())]));
    StreamBody::new(stream::iter(parts.into_iter().chain([trailers]).map(Ok)))
}

/// Sends this to a service that reads so many frames, and tells what was recorded.
async fn recorded<B>(body: B, frames: usize) -> Option<String>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let books = books();
    let customer = customer::trusted_header("x-customer");
    let metered = LimitryLayer::new(books.clone(), customer, usage::reported());
    let service = service_fn(move |request: Request<usage::CountedBody<B>>| async move {
        let mut body = request.into_body();
        for _ in 0..frames {
            let Some(Ok(_)) = body.frame().await else { break };
        }
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
    });
    let service = metered.layer(usage::bytes_in("bytes_in").layer(service));
    let request = Request::builder().header("x-customer", "ada").header("content-length", 999);
    let response = service.oneshot(request.body(body).expect("a valid request")).await;
    response.expect("infallible").into_body().collect().await.expect("a whole body");
    let usage = books.usage("ada").await.expect("the books answer");
    usage.limits().next().map(|limit| limit.used().to_string())
}

#[tokio::test]
async fn what_the_service_reads_is_counted() {
    assert_eq!(recorded(chunked(), usize::MAX).await.as_deref(), Some("10"));
    assert_eq!(recorded(chunked(), 3).await.as_deref(), Some("5"));
    assert_eq!(recorded(chunked(), 0).await.as_deref(), Some("0"));
    assert_eq!(recorded(Full::new(Bytes::from("four")), 9).await.as_deref(), Some("4"));
}

#[tokio::test]
async fn nothing_read_is_known_to_be_none() {
    let reporter = Reporter::default();
    let service = service_fn(|request: Request<_>| async move {
        drop(request);
        Ok::<_, Infallible>(())
    });
    let mut request = Request::new(Full::new(Bytes::from("unread")));
    request.extensions_mut().insert(reporter.clone());
    usage::bytes_in("bytes_in").layer(service).oneshot(request).await.expect("infallible");
    assert!(format!("{reporter:?}").contains("\"bytes_in\": 0"), "{reporter:?}");
}

#[tokio::test]
async fn an_unmetered_request_passes_unchanged() {
    let service = service_fn(|request: Request<usage::CountedBody<_>>| async move {
        let hint = request.body().size_hint().exact();
        let body = request.into_body().collect().await?;
        let told = body.trailers().is_some_and(|trailers| trailers.contains_key("x-sum"));
        Ok::<_, Infallible>((hint, body.to_bytes(), told))
    });
    let service = usage::bytes_in("bytes_in").layer(service);
    let seen = service.clone().oneshot(Request::new(Full::new(Bytes::from("abc")).boxed())).await;
    assert_eq!(seen, Ok((Some(3), Bytes::from("abc"), false)));
    let seen = service.oneshot(Request::new(chunked().boxed())).await;
    assert_eq!(seen, Ok((None, Bytes::from("abcdefghij"), true)));
}
