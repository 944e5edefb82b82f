//! Which responses are a success? Only those are recorded.

use http::header::CONTENT_TYPE;
use http::response::Parts;
use http::{HeaderMap, HeaderName, StatusCode};

/// Whether a response is a success, as far as its head tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Classification {
    /// The request succeeded: its usage is recorded.
    Success,
    /// It failed: nothing is recorded.
    Failure,
    /// The `grpc-status` in the trailers tells.
    GrpcTrailers,
}

/// The default: 2xx and 101 are a success, and a gRPC call is one if its `grpc-status` is 0,
/// whatever the HTTP status says.
pub fn by_status(response: &Parts) -> Classification {
    if is_grpc(&response.headers) {
        return match response.headers.get(GRPC_STATUS) {
            Some(status) if status.as_bytes() == b"0" => Classification::Success,
            Some(_) => Classification::Failure,
            None => Classification::GrpcTrailers,
        };
    }
    if response.status.is_success() || response.status == StatusCode::SWITCHING_PROTOCOLS {
        Classification::Success
    } else {
        Classification::Failure
    }
}

/// Whether the trailers of a gRPC call say that it succeeded. A call without a status has failed.
pub(crate) fn trailers_succeed(trailers: Option<&HeaderMap>) -> bool {
    let status = trailers.and_then(|trailers| trailers.get(GRPC_STATUS));
    status.is_some_and(|status| status.as_bytes() == b"0")
}

/// gRPC proper. In grpc-web the trailers are part of the body, so there the HTTP status decides.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE) else { return false };
    match content_type.as_bytes().strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
