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
///
/// In grpc-web the trailers are a part of the body, which is not read: there a call is a success
/// unless its head tells otherwise. Translate it outside of the layer, which then sees plain gRPC.
pub fn by_status(response: &Parts) -> Classification {
    let headers = &response.headers;
    let succeeded =
        response.status.is_success() || response.status == StatusCode::SWITCHING_PROTOCOLS;
    let grpc_status = after_grpc(headers).map(|_| headers.get(GRPC_STATUS));
    match grpc_status {
        Some(Some(status)) if status.as_bytes() == b"0" => Classification::Success,
        Some(Some(_)) => Classification::Failure,
        Some(None) if is_grpc(headers) => Classification::GrpcTrailers,
        _ if succeeded => Classification::Success,
        _ => Classification::Failure,
    }
}

/// Whether the trailers of a gRPC call say that it succeeded. A call without a status has failed.
pub(crate) fn trailers_succeed(trailers: Option<&HeaderMap>) -> bool {
    let status = trailers.and_then(|trailers| trailers.get(GRPC_STATUS));
    status.is_some_and(|status| status.as_bytes() == b"0")
}

/// Whether these headers of a gRPC answer are its trailers, too.
#[cfg(feature = "grpc")]
pub(crate) fn is_trailers_only(headers: &HeaderMap) -> bool {
    headers.contains_key(GRPC_STATUS)
}

/// gRPC proper, and not grpc-web.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    after_grpc(headers).is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// What follows in a content type that is one of gRPC's.
fn after_grpc(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(CONTENT_TYPE)?.as_bytes().strip_prefix(b"application/grpc")
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
