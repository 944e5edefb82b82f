use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::body::HttpBody;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Told;
use super::{App, Problem, Shared};
use crate::observe;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whether the body of a request was read to its end.
#[derive(Clone, Default)]
pub(super) struct WasRead(Arc<AtomicBool>);

impl WasRead {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Around every route: names the request, asks for the key, ends what takes too long.
pub(super) async fn guard(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    let id = request.headers().get(REQUEST_ID).filter(|id| is_sound(id)).cloned();
    let id = id.or_else(|| HeaderValue::try_from(app.make_id("req_")).ok());
    let admitted = match request.uri().path() {
        "/healthz" | "/readyz" | "/metrics" | "/openapi.json" => Ok(()),
        _ => admit(&app, request.headers()),
    };
    let method = known(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let began = Instant::now();
    // A connection of HTTP/1 whose request was not read to its end cannot take another one.
    let is_unread = (request.version() < Version::HTTP_2 && !request.body().is_end_stream())
        .then(|| request.extensions_mut().get_or_insert_with(WasRead::default).clone());
    let mut response = match admitted {
        Ok(()) => {
            // Once for the request to arrive and once for the answer.
            tokio::time::timeout(app.timeout.saturating_mul(2), next.run(request))
                .await
                .unwrap_or_else(|_| Problem::timeout(StatusCode::GATEWAY_TIMEOUT).into_response())
        }
        Err(problem) => problem.into_response(),
    };
    if is_unread.is_some_and(|body| !body.0.load(Ordering::Relaxed)) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(id) = id {
        observe::served(
            id.to_str().unwrap_or_default(),
            method,
            route.as_ref().map_or("none", MatchedPath::as_str),
            response.status().as_u16(),
            began.elapsed(),
        );
        if let Some(told) = response.extensions_mut().remove::<Told>() {
            *response.body_mut() = told.body(id.to_str().ok()).into();
        }
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn admit(app: &App, headers: &HeaderMap) -> Result<(), Problem> {
    let key = app.keys.admit(headers, &app.project)?;
    match &app.calls {
        Some(calls) => calls.count(key, app.now()),
        None => Ok(()),
    }
}

/// Whether a caller's id can be told on.
fn is_sound(id: &HeaderValue) -> bool {
    (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

/// A method is any text; what is told on is one of few.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}
