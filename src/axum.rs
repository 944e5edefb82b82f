//! Extractors and responses for axum handlers.
//!
//! [`Decision`] and [`Reporter`] can be taken as arguments of a handler behind the layer, and
//! [`CheckError`] returned from one that checks by itself:
//!
//! ```
//! use tower_limitry::{Books, Check, CheckError, Decision, Reporter, Usage};
//!
//! async fn behind_the_layer(decision: Decision, reporter: Reporter) -> String {
//!     reporter.add("pages", 3);
//!     format!("{} limits were looked at", decision.limits().count())
//! }
//!
//! async fn by_hand(books: Books) -> Result<&'static str, CheckError> {
//!     let permit = books.check(Check::of("acct_42").estimate("pages", 3)).await?;
//!     permit.settle(Usage::of("pages", 3)).await?;
//!     Ok("three pages")
//! }
//! # let _ = (behind_the_layer, by_hand);
//! ```

use std::fmt;

use axum_core::body::Body;
use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::{CheckError, Decision, Denial, Refusal, Reporter};

/// A handler asks for what the layer leaves in the request, and there is no layer around it, or the
/// request passed it unmetered. Answered 500.
///
/// A request that runs although its check could not be answered has no [`Decision`]; a handler that
/// may run then takes a [`Reporter`] and asks for its [`decision`](Reporter::decision).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMetered(&'static str);

impl fmt::Display for NotMetered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the request has no {}; put the handler behind LimitryLayer", self.0)
    }
}

impl std::error::Error for NotMetered {}

impl IntoResponse for NotMetered {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}

impl<S: Sync> FromRequestParts<S> for Decision {
    type Rejection = NotMetered;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotMetered> {
        let reporter = parts.extensions.get::<Reporter>();
        reporter.and_then(Reporter::decision).ok_or(NotMetered("Decision"))
    }
}

impl<S: Sync> FromRequestParts<S> for Reporter {
    type Rejection = NotMetered;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotMetered> {
        parts.extensions.get().cloned().ok_or(NotMetered("Reporter"))
    }
}

/// As the layer answers unless told otherwise; see [`Refusal::response`].
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.response().map(Body::from)
    }
}

/// As the layer answers unless told otherwise; see [`Refusal::response`].
impl IntoResponse for Denial {
    fn into_response(self) -> Response {
        Refusal::Denied(self).into_response()
    }
}

/// A denial as such; anything else as 503, or 500 where the call itself makes no sense.
impl IntoResponse for CheckError {
    fn into_response(self) -> Response {
        Refusal::from(self).into_response()
    }
}
