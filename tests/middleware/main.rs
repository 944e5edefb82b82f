//! What a request meets on its way through the layer.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::{Future, Ready, pending, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, Request, Response, StatusCode, response};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use tokio::task::yield_now;
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_limitry::backend::Backend;
use tower_limitry::classify::Classification;
use tower_limitry::customer::{self, Identify};
use tower_limitry::request::RequestBody;
use tower_limitry::test_util::{Answer, Call, Scripted, assert_no_open_holds};
use tower_limitry::usage::{self, Measured, Watch};
use tower_limitry::{
    Amount, Books, Check, CustomerId, Decision, Denial, Engine, ErrorKind, FailurePolicy, Limit,
    Limitry, LimitryLayer, Meter, MissingCustomer, MissingUsage, Refusal, Reporter, Unmetered,
    Usage,
};

mod axum_handlers;
mod classification;
mod decisions;
mod extensions;
mod idempotency;
mod missing_usage;
mod names;
mod panics;
mod readiness;
mod request_json;
#[path = "../support/http.rs"]
mod support;
mod two_layers;

use support::*;

/// Measures seven tokens, estimates ten.
fn layer<B: Backend>(books: &Books<B>) -> LimitryLayer<B> {
    LimitryLayer::new(books.clone(), identify(), seven).estimate(|_| tokens(10))
}

fn seven(_: &response::Parts) -> Option<Usage> {
    Some(tokens(7))
}

/// A service that always answers `hello`, and counts its calls.
fn hello<Q>(
    calls: &Counter,
) -> impl Service<
    Request<Q>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future = Ready<Answered>,
> + Clone
+ use<Q> {
    let calls = calls.clone();
    service_fn(move |_: Request<Q>| {
        calls.add();
        ready(Ok(ok("hello")))
    })
}
