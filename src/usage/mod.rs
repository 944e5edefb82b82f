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
//! # let _ = (bytes, reported);
//! ```

use http::HeaderMap;
use http::response::Parts;

use crate::hook;
use crate::policy::Usage;

#[cfg(feature = "json")]
mod json;

#[cfg(feature = "json")]
pub use json::{Json, json};

/// Measures a response. Implemented for closures from the response's head to its usage.
///
/// A panic counts as missing usage.
pub trait Measure: Send + Sync + 'static {
    /// Looks at the head of a response and says what was used, or where that will be told.
    fn measure(&self, response: &Parts) -> Measured;
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
    /// What was used, where the response ends with its head.
    pub(crate) fn at_head(self) -> Option<Usage> {
        match self {
            Self::Usage(usage) => Some(usage),
            Self::Body(mut watch) => hook::call(|| watch.end()).flatten(),
            Self::Missing | Self::Reported => None,
        }
    }
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
