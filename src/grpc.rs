//! Refusals as gRPC clients understand them: trailers-only answers with rich error details.
//!
//! A request with `content-type: application/grpc` is answered HTTP 200 without a body, and in the
//! headers `grpc-status`, `grpc-message` and `grpc-status-details-bin`, the base64 of a
//! `google.rpc.Status` with `ErrorInfo`, and for denials `QuotaFailure` and `RetryInfo`.
//! `grpc-retry-pushback-ms` tells clients that retry by themselves how long to wait, up to a minute,
//! and not to retry beyond.
//!
//! Identity comes from the metadata, which are the request's headers, and the kind of call from the
//! path:
//!
//! ```
//! use tower_limitry::{Engine, LimitryLayer, customer, usage};
//!
//! let books = Engine::builder().build()?;
//! let metered =
//!     LimitryLayer::new(books, customer::trusted_header("x-customer-id"), usage::reported())
//!         .event_type_of(|call| match call.uri.path() {
//!             "/pretend.v1.Model/Stream" => "model.stream",
//!             _ => "model.complete",
//!         })
//!         .skip(|call| call.uri.path().starts_with("/grpc.")); // health and reflection
//! # let _ = metered;
//! # Ok::<_, tower_limitry::Error>(())
//! ```
//!
//! In tonic the layer goes around the whole server (`Server::builder().layer(metered)`) or around one
//! service of it (`metered.named_layer(service)`, with `tonic::service::LayerExt`). Handlers find the
//! [`Reporter`](crate::Reporter) in `request.extensions()`. The layer that translates grpc-web belongs
//! outside of this one. A client that cancels has gone away: see [`Disconnect`](crate::Disconnect).
//!
//! | refusal | `grpc-status` | `ErrorInfo.reason` |
//! |---|---|---|
//! | a limit | 8 `RESOURCE_EXHAUSTED` | `QUOTA_EXCEEDED` |
//! | a balance | 8 `RESOURCE_EXHAUSTED` | `INSUFFICIENT_BALANCE` |
//! | no customer | 16 `UNAUTHENTICATED` | `MISSING_CUSTOMER` |
//! | cannot be checked | 14 `UNAVAILABLE` | `LIMITER_UNAVAILABLE` |
//! | same id running | 10 `ABORTED` | `IN_PROGRESS` |
//! | a key that is none | 3 `INVALID_ARGUMENT` | `INVALID_IDEMPOTENCY_KEY` |
//! | wrong set-up | 13 `INTERNAL` | `MISCONFIGURED` |

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response};

use crate::backend::{Decision, DenialKind};
use crate::reject::Refusal;

/// Whose reasons they are.
const DOMAIN: &str = "tower-limitry";

/// The longest wait that a client is told to sit out by itself.
const LONGEST_PUSHBACK: Duration = Duration::from_secs(60);

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// The answer to a refused call, as the layer gives it, but without `RateLimit` fields: trailers only.
/// For handlers that check by themselves; in tonic,
/// `Status::from_header_map(response.headers())` makes a status of it.
pub fn response(refusal: &Refusal) -> Response<Bytes> {
    let (code, reason) = status(refusal);
    let message = refusal.message();
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(code));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(&message)) {
        headers.insert(GRPC_MESSAGE, message);
    }
    let details = STANDARD_NO_PAD.encode(details(refusal, code, reason, &message));
    if let Ok(details) = HeaderValue::from_str(&details) {
        headers.insert(DETAILS, details);
    }
    if let Refusal::Denied(_) | Refusal::Unavailable = refusal {
        let wait = refusal.retry_after().filter(|wait| *wait <= LONGEST_PUSHBACK);
        let pushback = wait.map_or(-1, |wait| i32::try_from(wait.as_millis()).unwrap_or(-1));
        headers.insert(PUSHBACK, HeaderValue::from(pushback));
    }
    response
}

fn status(refusal: &Refusal) -> (u16, &'static str) {
    match refusal {
        Refusal::Denied(denial) => match denial.kind() {
            DenialKind::BalanceShort | DenialKind::NoBalance => (8, "INSUFFICIENT_BALANCE"),
            _ => (8, "QUOTA_EXCEEDED"),
        },
        Refusal::MissingCustomer => (16, "MISSING_CUSTOMER"),
        Refusal::Unavailable => (14, "LIMITER_UNAVAILABLE"),
        Refusal::Conflict => (10, "IN_PROGRESS"),
        Refusal::InvalidIdempotencyKey => (3, "INVALID_IDEMPOTENCY_KEY"),
        Refusal::Misconfigured => (13, "MISCONFIGURED"),
    }
}

/// A `google.rpc.Status`.
fn details(refusal: &Refusal, code: u16, reason: &str, message: &str) -> Vec<u8> {
    let mut status = Message::default();
    status.integer(1, i64::from(code));
    status.text(2, message);

    let mut info = Message::default();
    info.text(1, reason);
    info.text(2, DOMAIN);
    status.any(3, "google.rpc.ErrorInfo", &info);

    if let Refusal::Denied(denial) = refusal {
        status.any(3, "google.rpc.QuotaFailure", &quota_failure(denial.decision()));
    }
    if let Some(wait) = refusal.retry_after() {
        let mut delay = Message::default();
        delay.integer(1, i64::try_from(wait.as_secs()).unwrap_or(i64::MAX));
        delay.integer(2, i64::from(wait.subsec_nanos()));
        let mut retry = Message::default();
        retry.message(1, &delay);
        status.any(3, "google.rpc.RetryInfo", &retry);
    }
    status.0
}

/// A violation for each limit that refused, private ones apart, and for the balance.
fn quota_failure(decision: &Decision) -> Message {
    let subject = format!("customer:{}", decision.customer());
    let mut failure = Message::default();
    for limit in decision.limits().filter(|limit| limit.is_exceeded() && !limit.is_private()) {
        let mut violation = Message::default();
        violation.text(1, &subject);
        violation.text(2, limit.name());
        violation.text(4, limit.meter());
        violation.text(5, limit.id());
        for (key, value) in
            [("period", limit.period().as_str())].into_iter().chain(limit.dimensions())
        {
            let mut entry = Message::default();
            entry.text(1, key);
            entry.text(2, value);
            violation.message(6, &entry);
        }
        violation.integer(7, limit.limit().floor());
        failure.message(1, &violation);
    }
    if let Some(state) = decision.balance().filter(|state| state.is_exceeded()) {
        let mut violation = Message::default();
        violation.text(1, &subject);
        violation.text(2, state.name());
        failure.message(1, &violation);
    }
    failure
}

/// A Protocol Buffers message, written field by field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn integer(&mut self, field: u32, value: i64) {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value as u64);
        }
    }

    fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn message(&mut self, field: u32, message: &Self) {
        self.bytes(field, &message.0);
    }

    /// A `google.protobuf.Any`.
    fn any(&mut self, field: u32, kind: &str, message: &Self) {
        let mut any = Self::default();
        any.text(1, &format!("type.googleapis.com/{kind}"));
        any.bytes(2, &message.0);
        self.message(field, &any);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// As `grpc-message` is sent: everything but printable ASCII, and the percent sign, as `%XX`.
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                encoded.push('%');
                encoded.push(char::from(DIGITS[usize::from(byte >> 4)]));
                encoded.push(char::from(DIGITS[usize::from(byte & 0xF)]));
            }
        }
    }
    encoded
}
