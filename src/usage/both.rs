use http::HeaderMap;
use http::response::Parts;

use super::{Measure, Measured, Watch};
use crate::policy::Usage;

/// Two measures of one response, such as its tokens and its duration. Where both tell a value, the
/// second wins; what one tells does not hide that a value estimated of the other is missing.
impl<A: Measure, B: Measure> Measure for (A, B) {
    fn measure(&self, response: &Parts) -> Measured {
        match (self.0.measure(response), self.1.measure(response)) {
            (Measured::Usage(mut one), Measured::Usage(other)) => {
                one.merge(other);
                Measured::Usage(one)
            }
            (known @ Measured::Usage(_), Measured::Missing)
            | (Measured::Missing, known @ Measured::Usage(_)) => known,
            (Measured::Missing, Measured::Missing) => Measured::Missing,
            (Measured::Missing | Measured::Reported, Measured::Missing | Measured::Reported) => {
                Measured::Reported
            }
            (one, other) => Measured::Body(Box::new(Both(watch(one), watch(other)))),
        }
    }

    fn is_timed(&self) -> bool {
        self.0.is_timed() || self.1.is_timed()
    }
}

fn watch(measured: Measured) -> Box<dyn Watch> {
    match measured {
        Measured::Body(watch) => watch,
        Measured::Usage(usage) => Box::new(Known(Some(usage))),
        // What is reported joins by itself.
        Measured::Missing | Measured::Reported => Box::new(Known(None)),
    }
}

struct Known(Option<Usage>);

impl Watch for Known {
    fn data(&mut self, _: &[u8]) {}

    fn end(&mut self) -> Option<Usage> {
        self.0.take()
    }

    fn seen(&mut self) -> (Option<Usage>, bool) {
        (self.end(), true)
    }
}

struct Both(Box<dyn Watch>, Box<dyn Watch>);

fn join(one: Option<Usage>, other: Option<Usage>) -> Option<Usage> {
    match (one, other) {
        (Some(mut one), Some(other)) => {
            one.merge(other);
            Some(one)
        }
        (one, other) => one.or(other),
    }
}

impl Watch for Both {
    fn data(&mut self, data: &[u8]) {
        self.0.data(data);
        self.1.data(data);
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.0.trailers(trailers);
        self.1.trailers(trailers);
    }

    fn end(&mut self) -> Option<Usage> {
        join(self.0.end(), self.1.end())
    }

    fn has_failed(&self) -> bool {
        self.0.has_failed() || self.1.has_failed()
    }

    fn seen(&mut self) -> (Option<Usage>, bool) {
        let ((one, is_one_final), (other, is_other_final)) = (self.0.seen(), self.1.seen());
        (join(one, other), is_one_final && is_other_final)
    }
}
