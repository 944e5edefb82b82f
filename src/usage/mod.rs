//! What did the response really use?
//!
//! ```
//! use tower_limitry::{Usage, usage};
//!
//! // From the response's head, by a closure.
//! let bytes = |head: &http::response::Parts| {
//!     let length = head.headers.get("content-length")?.to_str().ok()?;
//!     Some(Usage::of("bytes", length))
//! };
//!
//! // From what the handler reports as it goes.
//! let reported = usage::reported();
//!
//! // Once for each request, and the time that it took.
//! let both = (usage::constant("calls", 1), usage::duration("seconds"));
//! # let _ = (bytes, reported, both);
//! ```
//!
//! | where it is told | measure |
//! |---|---|
//! | in the answer of a language model | `llm` or one API by its name, feature `llm` |
//! | at a place in JSON, of a body or a stream | `json_pointer`, feature `llm` |
//! | in a JSON object, by your closure | `json`, of a stream `final_json` |
//! | in a header or trailer | [`header()`], [`trailer`], or your closure over the head |
//! | by your handler | [`reported`] |
//! | nowhere: it is counted | [`bytes_out`], [`frames`], `grpc_messages`, [`duration()`], [`constant`]; in the request [`bytes_in`] |
//!
//! Two measures in a tuple make one. A body is read while it passes, in frames of any size: none is
//! changed, held back or kept, and what is kept of its text is bounded. Compressed bodies are read with
//! the feature `decompress`; without it, or under an encoding that is not known (gzip, deflate, br and
//! zstd are), their usage is missing.

use http::HeaderMap;
use http::response::Parts;

use crate::hook;
use crate::policy::Usage;

#[cfg(feature = "llm")]
mod blocks;
mod both;
mod bytes_in;
#[cfg(feature = "llm")]
mod capture;
mod count;
#[cfg(feature = "decompress")]
mod decode;
mod duration;
#[cfg(feature = "json")]
mod encoding;
#[cfg(feature = "llm")]
mod fields;
#[cfg(feature = "llm")]
mod final_json;
#[cfg(feature = "llm")]
mod framing;
#[cfg(feature = "grpc")]
mod grpc;
mod head;
#[cfg(feature = "json")]
mod json;
#[cfg(feature = "llm")]
mod llm;
#[cfg(feature = "llm")]
mod messages;
#[cfg(feature = "llm")]
mod pointer;
#[cfg(feature = "llm")]
mod scan;

pub use bytes_in::{BytesIn, CountBytesIn, CountedBody, bytes_in};
pub use count::{Count, bytes_out, frames};
pub use duration::{Duration, Started, duration};
#[cfg(feature = "llm")]
pub use final_json::{FinalJson, final_json};
#[cfg(feature = "grpc")]
pub use grpc::{GrpcMessages, GrpcTrailers, grpc_messages, grpc_trailer, grpc_trailers};
pub use head::{Constant, Field, constant, header, trailer};
#[cfg(feature = "json")]
pub use json::{Json, json};
#[cfg(feature = "llm")]
pub use llm::{Llm, anthropic, bedrock, cohere, gemini, llama_cpp, llm, ollama, openai};
#[cfg(feature = "llm")]
pub use pointer::{JsonPointers, json_pointer};

/// Measures a response. Implemented for closures from the response's head to its usage.
///
/// A panic counts as missing usage.
pub trait Measure: Send + Sync + 'static {
    /// Looks at the head of a response and says what was used, or where that will be told.
    fn measure(&self, response: &Parts) -> Measured;

    /// Whether it has to know when the request was let through: then that is in the extensions of the
    /// head, as [`Started`].
    fn is_timed(&self) -> bool {
        false
    }
}

/// Where the usage of a response is.
#[non_exhaustive]
pub enum Measured {
    /// Here.
    Usage(Usage),
    /// Nowhere: see [`MissingUsage`](crate::MissingUsage).
    Missing,
    /// What the handler reports, until the response ends.
    Reported,
    /// In the body.
    Body(Box<dyn Watch>),
}

/// Reads usage from a body while it passes. It sees every byte, changes none, and keeps few.
pub trait Watch: Send + Sync {
    /// The next bytes, in order, in whatever pieces they come.
    fn data(&mut self, data: &[u8]);

    /// The trailers.
    fn trailers(&mut self, trailers: &HeaderMap) {
        let _ = trailers;
    }

    /// The usage, now that the body has ended.
    fn end(&mut self) -> Option<Usage>;

    /// Whether the body says that the request has failed, as by an error event within its stream.
    fn has_failed(&self) -> bool {
        false
    }

    /// What was seen so far of a body that ended early, and whether that is all there is.
    fn seen(&mut self) -> (Option<Usage>, bool) {
        (None, false)
    }
}

impl<F> Measure for F
where
    F: Fn(&Parts) -> Option<Usage> + Send + Sync + 'static,
{
    fn measure(&self, response: &Parts) -> Measured {
        self(response).map_or(Measured::Missing, Measured::Usage)
    }
}

/// Usage is what the handler reports through the [`Reporter`](crate::Reporter) in the request's
/// extensions, until the response ends.
pub fn reported() -> Reported {
    Reported(())
}

/// Measures by report; made by [`reported`].
#[derive(Clone, Copy, Debug)]
pub struct Reported(());

impl Measure for Reported {
    fn measure(&self, _: &Parts) -> Measured {
        Measured::Reported
    }
}

impl Measured {
    /// What was used where the response ends with its head, and whether it says that it failed.
    pub(crate) fn at_head(self) -> (Option<Usage>, bool) {
        match self {
            Self::Usage(usage) => (Some(usage), false),
            Self::Body(watch) => end(watch),
            Self::Missing | Self::Reported => (None, false),
        }
    }
}

/// What a body that has ended told, and whether it says that the request failed.
pub(crate) fn end(mut watch: Box<dyn Watch>) -> (Option<Usage>, bool) {
    let measured = hook::call(|| watch.end()).flatten();
    (measured, hook::call(|| watch.has_failed()) == Some(true))
}

impl std::fmt::Debug for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Usage(_) => "Usage",
            Self::Missing => "Missing",
            Self::Reported => "Reported",
            Self::Body(_) => "Body",
        })
    }
}
