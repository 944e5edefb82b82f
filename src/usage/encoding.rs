//! Bodies that are compressed when they pass.

use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use super::{Measured, Watch};

/// Lets the watch see the body as it was before its content encoding, where that can be undone.
pub(super) fn decoded(headers: &HeaderMap, watch: impl Watch + 'static) -> Measured {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let Some(encoding) = encodings.next() else { return Measured::Body(Box::new(watch)) };
    let encoding = encoding.as_bytes().trim_ascii().to_ascii_lowercase();
    if encodings.next().is_some() {
        return Measured::Missing;
    }
    match &encoding[..] {
        b"" | b"identity" => Measured::Body(Box::new(watch)),
        #[cfg(feature = "decompress")]
        encoding => super::decode::decoding(encoding, watch),
        #[cfg(not(feature = "decompress"))]
        _ => Measured::Missing,
    }
}
