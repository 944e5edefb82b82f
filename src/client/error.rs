use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::retry::Failure;
use crate::{Error, ErrorKind};

/// What the API said when it refused a call: the source of an [`Error`] of this client.
///
/// ```
/// use tower_limitry::Error;
/// use tower_limitry::client::ApiError;
///
/// fn is_revoked(error: &Error) -> bool {
///     ApiError::of(error).is_some_and(|api| api.code() == Some("expired_api_key"))
/// }
/// # let _ = is_revoked;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub(super) status: u16,
    pub(super) code: Option<String>,
    pub(super) message: Option<String>,
    pub(super) request_id: Option<String>,
    pub(super) retry_after: Option<Duration>,
}

impl ApiError {
    /// What the API said, if it is behind this error.
    pub fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Which error, for programs, such as `meter_not_found`. `None` when the answer was not the API's
    /// own: a proxy's, or that of another host.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// What is wrong, for people.
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// The id under which the service knows the call.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// How long it asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// How the attempt ended. Only the API's own word is believed to be the last; what somebody in
    /// between answers may pass.
    pub(super) fn failure(&self) -> Failure {
        match (self.status, self.code()) {
            (429, _) | (401 | 402 | 403 | 503, Some(_)) => Failure::NotDone,
            (409, Some("idempotency_in_progress")) => Failure::NotDone,
            (400..=499, Some(_)) if self.status != 408 => Failure::Final,
            (300..=499, _) => Failure::NotDone,
            _ => Failure::Unknown,
        }
    }

    /// Whether another attempt within seconds may be answered otherwise.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self.status, 408 | 409 | 429 | 500..)
    }

    pub(super) fn kind(&self) -> ErrorKind {
        match (self.failure(), self.status, self.code()) {
            (Failure::Final, 404, Some("route_not_found")) => ErrorKind::Unavailable,
            (Failure::Final, 404, _) => ErrorKind::NotFound,
            (Failure::Final, 409, Some("too_old")) => ErrorKind::TooOld,
            (Failure::Final, 409, _) => ErrorKind::Conflict,
            (Failure::Final, ..) => ErrorKind::Invalid,
            (Failure::Unknown, ..) => ErrorKind::TimedOut,
            _ => ErrorKind::Unavailable,
        }
    }

    pub(super) fn remedy(&self) -> &'static str {
        match (self.status, self.code()) {
            (401, _) => "the API does not accept the key; look at LIMITRY_API_KEY",
            (403, _) => "the key may not do this; look at its permissions and at LIMITRY_PROJECT",
            (402, _) => "the project is past what its plan allows",
            (429, _) => "the API asks to be called less often",
            (300..=399, _) => {
                "the API answers with a redirect, which is not followed; look at LIMITRY_BASE_URL"
            }
            (404, None | Some("route_not_found")) => {
                "there is no such API at this address; look at LIMITRY_BASE_URL"
            }
            (404, _) => "the API knows no such thing",
            (409, _) => "the API found a conflict",
            (500.., _) => "the API failed",
            (_, None) => "the answer is not the API's; look at LIMITRY_BASE_URL",
            _ => "the API refused the call",
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, ", {code}")?;
        }
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " (request {id})")?;
        }
        Ok(())
    }
}

impl std::error::Error for ApiError {}

/// An error of a call, in the words of the API where it has found something wrong: they name
/// the field, the problem and the remedy.
pub(crate) fn heard(error: Error) -> Error {
    match ApiError::of(&error) {
        Some(api) if !error.is_transient() => match api.message() {
            Some(message) => Error::new(error.kind(), message).with_source(api.clone()),
            None => error,
        },
        _ => error,
    }
}

/// The envelope, read with indulgence: the status is known from the answer itself.
#[derive(Debug, Deserialize)]
pub(super) struct Envelope {
    pub(super) error: Detail,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Detail {
    pub(super) code: String,
    pub(super) message: Option<String>,
    pub(super) request_id: Option<String>,
}

/// What of a text from outside may be shown: not the key, not too much, nothing that moves a cursor.
pub(super) fn shown(text: &str, key: &str) -> String {
    const MOST: usize = 300;
    let clean: String = text.replace(key, "[key]").chars().take(MOST).collect();
    clean.replace(char::is_control, " ")
}

/// The API failed repeatedly, and is not asked before this time is over: the source of an
/// [`Error`] of this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerOpen {
    pub(super) remaining: Duration,
}

impl BreakerOpen {
    /// Whether that is behind this error.
    pub fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }

    /// How long no call is sent.
    pub fn remaining(&self) -> Duration {
        self.remaining
    }
}

impl fmt::Display for BreakerOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "asked again in {:?}", self.remaining)
    }
}

impl std::error::Error for BreakerOpen {}
