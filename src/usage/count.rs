use http::response::Parts;

use super::{Measure, Measured, Watch};
use crate::policy::Usage;

/// The bytes of the response's body, as they pass through the layer, recorded under this name.
///
/// ```
/// use tower_limitry::usage;
///
/// let traffic = usage::bytes_out("bytes");
/// # let _ = traffic;
/// ```
pub fn bytes_out(value: &str) -> Count {
    Count { value: value.into(), of: Of::Bytes }
}

/// The frames of data of the response's body that are not empty, as the service makes them, recorded
/// under this name.
pub fn frames(value: &str) -> Count {
    Count { value: value.into(), of: Of::Frames }
}

/// Measures by counting; made by [`bytes_out`] and [`frames`].
#[derive(Clone, Debug)]
pub struct Count {
    value: Box<str>,
    of: Of,
}

#[derive(Clone, Copy, Debug)]
enum Of {
    Bytes,
    Frames,
}

impl Measure for Count {
    fn measure(&self, _: &Parts) -> Measured {
        Measured::Body(Box::new(Counter { count: self.clone(), sum: 0 }))
    }
}

struct Counter {
    count: Count,
    sum: u64,
}

impl Watch for Counter {
    fn data(&mut self, data: &[u8]) {
        self.sum += match self.count.of {
            Of::Bytes => data.len() as u64,
            Of::Frames => u64::from(!data.is_empty()),
        };
    }

    fn end(&mut self) -> Option<Usage> {
        Some(Usage::of(&*self.count.value, self.sum))
    }

    fn seen(&mut self) -> (Option<Usage>, bool) {
        // No more than that went out.
        (self.end(), true)
    }
}
