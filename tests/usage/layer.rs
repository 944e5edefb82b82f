//! Streams through the layer, to their various ends.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use tower::{Layer, ServiceExt, service_fn};
use tower_limitry::{Amount, Books, Engine, Limit, LimitryLayer, Meter, Usage, customer, usage};

use super::{EVENTS, events};

const PIECE: &str = r#"{"model":"m","choices":[{"delta":{"content":"x"}}]}"#;
const LAST: &str = r#"{"model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#;

/// Streams this to a client that leaves after so many frames, and tells what it was charged.
async fn charged(stream: &str, frames: usize) -> (String, usize) {
    let books = Engine::builder()
        .meter(Meter::sum("tokens", "total_tokens"))
        .limit(Limit::per_day("daily", "tokens", 100))
        .build()
        .expect("valid definitions");
    let layer =
        LimitryLayer::new(books.clone(), customer::trusted_header("x-customer"), usage::llm())
            .estimate(|_| Usage::of("total_tokens", 3));
    let parts: Vec<_> = stream.as_bytes().chunks(20).map(Bytes::copy_from_slice).collect();
    let service = service_fn(move |_: Request<Empty<Bytes>>| {
        let frames = parts.clone().into_iter().map(|part| Ok::<_, Infallible>(Frame::data(part)));
        let body = StreamBody::new(stream::iter(frames));
        let response = Response::builder().header("content-type", EVENTS).body(body);
        std::future::ready(Ok::<_, Infallible>(response.expect("a valid head")))
    });
    let request = Request::builder().header("x-customer", "ada").body(Empty::new());
    let request = request.expect("a valid request");
    let response = layer.layer(service).oneshot(request).await.expect("infallible");
    let mut body = response.into_body();
    let mut passed = 0;
    for _ in 0..frames {
        let Some(Ok(frame)) = body.frame().await else { break };
        passed += frame.data_ref().map_or(0, Bytes::len);
    }
    drop(body);
    (used(&books).await, passed)
}

async fn used(books: &Books<impl tower_limitry::backend::Backend>) -> String {
    let usage = books.usage("ada").await.expect("the books answer");
    let limit = usage.limits().next().expect("a limit");
    assert_eq!(limit.held(), Amount::ZERO, "nothing stays held");
    limit.used().to_string()
}

#[tokio::test]
async fn a_stream_is_charged_its_figures_or_its_pieces() {
    let whole = events(&[PIECE, PIECE, PIECE, PIECE, LAST, "[DONE]"]);
    assert_eq!(charged(&whole, usize::MAX).await, ("7".to_owned(), whole.len()));
    // Gone before anything was told: the estimate, or the pieces once they are more.
    assert_eq!(charged(&whole, 1).await.0, "3");
    let pieces = events(&[PIECE; 9]);
    assert_eq!(charged(&format!("{pieces}{whole}"), pieces.len() / 20).await.0, "9");
}

#[tokio::test]
async fn an_error_within_a_stream_is_charged_nothing() {
    let error = format!("{}event: error\ndata: {{\"error\":{{}}}}\n\n", events(&[PIECE; 9]));
    assert_eq!(charged(&error, usize::MAX).await.0, "0");
    assert_eq!(
        charged(&format!("{error}: bye\n\n: bye\n\n: bye\n\n"), error.len() / 20 + 1).await.0,
        "0"
    );
}
