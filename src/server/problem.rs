use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;

use crate::wire::{ErrorBody, ErrorDetail};
use crate::{Error, ErrorKind};

/// An error, as the API tells it.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Seconds.
    retry_after: Option<u64>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        // Our own trouble passes soon, as a rule.
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
        Self { status, code, message: message.into(), retry_after }
    }

    /// The body is no JSON, or not of the form.
    pub(super) fn request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    pub(super) fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "missing_required_field", message)
    }

    pub(super) fn field(field: &str, problem: impl std::fmt::Display) -> Self {
        let message = format!("{field}: {problem}");
        Self::new(StatusCode::BAD_REQUEST, "invalid_field_value", message)
    }

    pub(super) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    pub(super) fn no_method() -> Self {
        let message = "the route does not take this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    pub(super) fn timeout(status: StatusCode) -> Self {
        let message = "it took too long; whether it was done is not known, ask again";
        Self::new(status, "timeout", message)
    }

    pub(super) fn internal() -> Self {
        let message = "the server failed; ask again";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// The key has called too often.
    pub(super) fn too_many_calls(wait: Duration) -> Self {
        let message = "the API key has called too often; wait as long as Retry-After says";
        let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message);
        problem.retry_after = Some(wait.as_secs());
        problem
    }

    pub(super) fn detail(self) -> ErrorDetail {
        ErrorDetail {
            code: self.code.to_owned(),
            message: self.message,
            status: self.status.as_u16(),
            request_id: None,
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (status, code) = match error.kind() {
            ErrorKind::Invalid => (StatusCode::BAD_REQUEST, "invalid_field_value"),
            ErrorKind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            ErrorKind::Conflict => (StatusCode::CONFLICT, "conflict"),
            ErrorKind::TooOld => (StatusCode::CONFLICT, "too_old"),
            ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            ErrorKind::TimedOut => return Self::timeout(StatusCode::GATEWAY_TIMEOUT),
        };
        Self::new(status, code, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        Answer::from(self).into_response()
    }
}

/// An answer that is not yet JSON.
#[derive(Debug)]
pub(super) struct Reply<T>(pub(super) StatusCode, pub(super) T);

pub(super) fn ok<T>(body: T) -> Result<Reply<T>, Problem> {
    Ok(Reply(StatusCode::OK, body))
}

pub(super) fn created<T>(body: T) -> Result<Reply<T>, Problem> {
    Ok(Reply(StatusCode::CREATED, body))
}

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        Answer::from(self).into_response()
    }
}

/// An answer as it is sent, and perhaps sent again.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Done(StatusCode, Bytes),
    Problem(Problem),
}

impl Answer {
    pub(super) fn is_success(&self) -> bool {
        matches!(self, Self::Done(..))
    }
}

impl<T: Serialize> From<Reply<T>> for Answer {
    fn from(Reply(status, body): Reply<T>) -> Self {
        // An answer may be kept for long, so it takes up just what it needs, and it is short as a rule.
        let mut text = Vec::with_capacity(1_024);
        match serde_json::to_writer(&mut text, &body) {
            Ok(()) => Self::Done(status, Bytes::copy_from_slice(&text)),
            Err(_) => Self::Problem(Problem::internal()),
        }
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl<T: Serialize> From<Result<Reply<T>, Problem>> for Answer {
    fn from(result: Result<Reply<T>, Problem>) -> Self {
        result.map_or_else(Self::from, Self::from)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let problem = match self {
            Self::Done(status, body) => return json(status, body),
            Self::Problem(problem) => problem,
        };
        let (status, retry_after) = (problem.status, problem.retry_after);
        let told = Told(problem.detail());
        let mut response = json(status, told.body(None));
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response.extensions_mut().insert(told);
        response
    }
}

/// The error that a response tells of, in its extensions until the request's id is added.
#[derive(Clone, Debug)]
pub(super) struct Told(ErrorDetail);

impl Told {
    pub(super) fn body(&self, request: Option<&str>) -> Bytes {
        let error = ErrorDetail { request_id: request.map(Into::into), ..self.0.clone() };
        match serde_json::to_vec(&ErrorBody { error }) {
            Ok(body) => body.into(),
            Err(_) => Bytes::new(),
        }
    }
}

fn json(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
