//! What became of one attempt: an answer to believe, or how it failed and what that means.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::breaker::Health;
use super::error::{ApiError, Envelope, shown};
use super::retry::{Failure, Safety, retry_after};
use crate::{Error, ErrorKind};

/// An attempt without an answer to believe.
#[derive(Debug)]
pub(super) struct Failed {
    failure: Failure,
    message: &'static str,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Api(ApiError),
    Transport(reqwest::Error),
    /// An answer that cannot be read, and why; never what it holds.
    Answer(String),
    Time(Duration),
}

impl Failed {
    pub(super) fn transport(error: reqwest::Error) -> Self {
        let (failure, message) = match &error {
            error if error.is_connect() => (Failure::NotSent, "the API cannot be reached"),
            error if error.is_builder() => (Failure::Final, "the call cannot be sent"),
            _ => (Failure::Unknown, "the connection to the API broke before its answer"),
        };
        // The URL holds customers' ids.
        Self { failure, message, cause: Cause::Transport(error.without_url()) }
    }

    pub(super) fn time(within: Duration) -> Self {
        let message = "the API did not answer in time";
        Self { failure: Failure::TimedOut, message, cause: Cause::Time(within) }
    }

    pub(super) fn answer(problem: String) -> Self {
        let message = "the answer of the API cannot be read";
        Self { failure: Failure::Unknown, message, cause: Cause::Answer(problem) }
    }

    fn api(error: ApiError) -> Self {
        Self { failure: error.failure(), message: error.remedy(), cause: Cause::Api(error) }
    }

    /// Whether another attempt does no harm and may bring more.
    pub(super) fn may_repeat(&self, safety: Safety) -> bool {
        let may_pass = match &self.cause {
            Cause::Api(error) => error.may_pass(),
            Cause::Transport(_) | Cause::Answer(_) | Cause::Time(_) => true,
        };
        may_pass && self.failure.may_repeat(safety)
    }

    /// Whether the call may have been done.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self.failure, Failure::Unknown | Failure::TimedOut)
    }

    /// Whether it was answered for good.
    pub(super) fn is_final(&self) -> bool {
        self.failure == Failure::Final
    }

    pub(super) fn is_not_found(&self) -> bool {
        matches!(&self.cause, Cause::Api(error) if error.kind() == ErrorKind::NotFound)
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match &self.cause {
            Cause::Api(error) => error.retry_after,
            _ => None,
        }
    }

    pub(super) fn health(&self) -> Health {
        match &self.cause {
            Cause::Api(error) if error.status == 409 || !error.may_pass() => Health::Well,
            _ if self.is_final() => Health::Well,
            _ => Health::Unwell(self.retry_after()),
        }
    }

    /// As it is told, for a call of which an attempt `may_be_done`.
    pub(super) fn error(self, safety: Safety, may_be_done: bool) -> Error {
        let kind = match (&self.cause, self.failure) {
            (_, Failure::TimedOut) => ErrorKind::TimedOut,
            _ if may_be_done && safety != Safety::Safe && !self.is_final() => ErrorKind::TimedOut,
            (Cause::Api(error), Failure::Final) => error.kind(),
            (_, Failure::Final) => ErrorKind::Invalid,
            _ => ErrorKind::Unavailable,
        };
        let message = self.message;
        let message = match kind {
            ErrorKind::TimedOut if safety == Safety::Once => {
                format!("{message}; whether it was done is not known, so it was not repeated")
            }
            ErrorKind::TimedOut if safety == Safety::UnderId => {
                format!("{message}; whether it was done is not known")
            }
            _ => message.to_owned(),
        };
        match self.cause {
            Cause::Api(error) => Error::new(kind, message).with_source(error),
            Cause::Transport(error) => Error::new(kind, message).with_source(error),
            Cause::Answer(problem) => Error::new(kind, format!("{message}: {problem}")),
            Cause::Time(within) => Error::new(kind, format!("{message} ({within:?})")),
        }
    }
}

/// The body of a successful answer.
pub(super) async fn read(mut response: Response, most: usize, key: &str) -> Result<Bytes, Failed> {
    let status = response.status();
    let headers = std::mem::take(response.headers_mut());
    let body = collect(&mut response, most).await;
    if status.is_success() {
        return body;
    }
    // What an error says is of use even when it cannot be read to its end.
    let body = body.unwrap_or_default();
    Err(Failed::api(refused(status.as_u16(), &headers, &body, key)))
}

async fn collect(response: &mut Response, most: usize) -> Result<Bytes, Failed> {
    let mut all = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(Failed::transport)? {
        if chunk.len() > most.saturating_sub(all.len()) {
            return Err(Failed::answer(format!("it is longer than {most} bytes")));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

fn refused(status: u16, headers: &HeaderMap, body: &[u8], key: &str) -> ApiError {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let detail = serde_json::from_slice::<Envelope>(body).ok().map(|envelope| envelope.error);
    let wait = header(RETRY_AFTER.as_str());
    let id = header("x-request-id").map(ToOwned::to_owned);
    let (code, message, told) = match detail {
        Some(detail) => (Some(detail.code), detail.message, detail.request_id),
        None => (None, None, None),
    };
    let clean = |text: String| shown(&text, key);
    ApiError {
        status,
        code: code.map(clean),
        message: message.map(clean),
        request_id: told.or(id).map(clean),
        retry_after: wait.and_then(|text| retry_after(text, std::time::SystemTime::now())),
    }
}

/// Why a body is not what was expected. Serde's own words may hold what is in it.
pub(super) fn unreadable(error: &serde_json::Error) -> Failed {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let missing = text.starts_with("missing field").then_some(text);
    Failed::answer(missing.unwrap_or_else(|| {
        let problem = match error.classify() {
            serde_json::error::Category::Data => "a member is not of the type expected",
            _ => "it is no JSON",
        };
        format!("{problem} (line {line}, column {column})")
    }))
}
