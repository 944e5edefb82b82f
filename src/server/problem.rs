use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;

use crate::wire::{ErrorBody, ErrorDetail};
use crate::{Error, ErrorKind};

/// An error, as the API tells it.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
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

    pub(super) fn detail(self) -> ErrorDetail {
        ErrorDetail {
            code: self.code.to_owned(),
            message: self.message,
            status: self.status.as_u16(),
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
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl<T: Serialize> From<Reply<T>> for Answer {
    fn from(Reply(status, body): Reply<T>) -> Self {
        match serde_json::to_vec(&body) {
            Ok(body) => Self { status, body: body.into() },
            Err(_) => Self {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                body: Bytes::from_static(
                    br#"{"error":{"code":"internal_error","message":"the answer is no JSON","status":500}}"#,
                ),
            },
        }
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let status = problem.status;
        Reply(status, ErrorBody { error: problem.detail() }).into()
    }
}

impl<T: Serialize> From<Result<Reply<T>, Problem>> for Answer {
    fn from(result: Result<Reply<T>, Problem>) -> Self {
        result.map_or_else(Self::from, Self::from)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
