use http::response::Parts;
use tokio::time::Instant;

use super::{Measure, Measured, Watch};
use crate::policy::Usage;

/// The seconds from the request's started at the layer to the end of its response, recorded under this
/// name, down to the microsecond. When a client leaves early, until then.
///
/// ```
/// use tower_limitry::usage;
///
/// let seconds = usage::duration("seconds");
/// # let _ = seconds;
/// ```
pub fn duration(value: &str) -> Duration {
    Duration { value: value.into() }
}

/// Measures time; made by [`duration`].
#[derive(Clone, Debug)]
pub struct Duration {
    value: Box<str>,
}

/// When a request was let through: in the extensions of the head that is measured, for those who
/// [ask](Measure::is_timed).
#[derive(Clone, Copy, Debug)]
pub struct Started(Instant);

impl Started {
    /// Now.
    pub fn now() -> Self {
        Self(Instant::now())
    }

    /// The time since.
    pub fn elapsed(&self) -> std::time::Duration {
        self.0.elapsed()
    }
}

impl Measure for Duration {
    fn measure(&self, response: &Parts) -> Measured {
        let started = response.extensions.get().copied().unwrap_or_else(Started::now);
        Measured::Body(Box::new(Timer { value: self.value.clone(), started }))
    }

    fn is_timed(&self) -> bool {
        true
    }
}

struct Timer {
    value: Box<str>,
    started: Started,
}

impl Watch for Timer {
    fn data(&mut self, _: &[u8]) {}

    fn end(&mut self) -> Option<Usage> {
        let micros = i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX);
        Some(Usage::of(&*self.value, crate::policy::Amount::from_millionths(micros)))
    }

    fn seen(&mut self) -> (Option<Usage>, bool) {
        (self.end(), true)
    }
}
