use http::HeaderMap;
use http::header::{HeaderName, InvalidHeaderName};
use http::response::Parts;

use super::{Measure, Measured, Watch};
use crate::policy::{ToAmount, Usage};

/// The number in a response's header, recorded under this name. A response without the header, or with
/// no number in it, is missing usage.
///
/// ```
/// use tower_limitry::usage;
///
/// let credits = usage::header("x-credits-used", "credits");
/// # let _ = credits;
/// ```
///
/// # Panics
///
/// If this is no name of a header.
pub fn header(header: impl TryInto<HeaderName, Error = InvalidHeaderName>, value: &str) -> Field {
    Field { name: named(header), value: value.into(), is_trailer: false }
}

/// The number in a trailer, as gRPC has them and HTTP may, recorded under this name. A body without the
/// trailer, or with no number in it, is missing usage.
///
/// ```
/// use tower_limitry::usage;
///
/// let tokens = usage::trailer("x-tokens", "total_tokens");
/// # let _ = tokens;
/// ```
///
/// # Panics
///
/// If this is no name of a header.
pub fn trailer(trailer: impl TryInto<HeaderName, Error = InvalidHeaderName>, value: &str) -> Field {
    Field { name: named(trailer), value: value.into(), is_trailer: true }
}

fn named(name: impl TryInto<HeaderName, Error = InvalidHeaderName>) -> HeaderName {
    name.try_into().unwrap_or_else(|error| panic!("usage from a header or trailer: {error}"))
}

/// Measures by a header or trailer; made by [`header()`] and [`trailer`].
#[derive(Clone, Debug)]
pub struct Field {
    name: HeaderName,
    value: Box<str>,
    is_trailer: bool,
}

impl Field {
    fn read(&self, headers: &HeaderMap) -> Option<Usage> {
        let number = headers.get(&self.name)?.to_str().ok()?.trim();
        let usage = Usage::of(&*self.value, number);
        Some(usage).filter(Usage::is_countable)
    }
}

impl Measure for Field {
    fn measure(&self, response: &Parts) -> Measured {
        if self.is_trailer {
            // A gRPC response that has no message has its trailers in the head.
            let usage = self.read(&response.headers);
            return Measured::Body(Box::new(Trailer { field: self.clone(), usage }));
        }
        self.read(&response.headers).map_or(Measured::Missing, Measured::Usage)
    }
}

struct Trailer {
    field: Field,
    usage: Option<Usage>,
}

impl Watch for Trailer {
    fn data(&mut self, _: &[u8]) {}

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.usage = self.field.read(trailers).or(self.usage.take());
    }

    fn end(&mut self) -> Option<Usage> {
        self.usage.take()
    }
}

/// The same for each request.
///
/// ```
/// use tower_limitry::usage;
///
/// let call = usage::constant("calls", 1);
/// # let _ = call;
/// ```
pub fn constant(value: &str, amount: impl ToAmount) -> Constant {
    Constant(Usage::of(value, amount))
}

/// Measures nothing; made by [`constant`].
#[derive(Clone, Debug)]
pub struct Constant(Usage);

impl Measure for Constant {
    fn measure(&self, _: &Parts) -> Measured {
        Measured::Usage(self.0.clone())
    }
}
