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

/// The messages of a gRPC response, in whatever frames they come, recorded under this name.
pub fn grpc_messages(value: &str) -> Count {
    Count { value: value.into(), of: Of::Messages(Messages::default()) }
}

/// Measures by counting; made by [`bytes_out`], [`frames`] and [`grpc_messages`].
#[derive(Clone, Debug)]
pub struct Count {
    value: Box<str>,
    of: Of,
}

#[derive(Clone, Debug)]
enum Of {
    Bytes,
    Frames,
    Messages(Messages),
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
        self.sum += match &mut self.count.of {
            Of::Bytes => data.len() as u64,
            Of::Frames => u64::from(!data.is_empty()),
            Of::Messages(messages) => messages.complete_in(data),
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

/// Follows the [length-prefixed messages](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)
/// of gRPC: a byte of flags and four of the length come before each.
#[derive(Clone, Debug, Default)]
struct Messages {
    prefix: [u8; 5],
    prefixed: usize,
    remaining: u64,
}

impl Messages {
    fn complete_in(&mut self, mut data: &[u8]) -> u64 {
        let mut complete = 0;
        loop {
            while let (Some(slot), [byte, rest @ ..]) = (self.prefix.get_mut(self.prefixed), data) {
                *slot = *byte;
                self.prefixed += 1;
                data = rest;
                if self.prefixed == self.prefix.len() {
                    let [_, length @ ..] = self.prefix;
                    self.remaining = u64::from(u32::from_be_bytes(length));
                }
            }
            if self.prefixed < self.prefix.len() {
                return complete;
            }
            let passed = self.remaining.min(data.len() as u64);
            self.remaining -= passed;
            data = data.get(usize::try_from(passed).unwrap_or(data.len())..).unwrap_or_default();
            if self.remaining > 0 {
                return complete;
            }
            complete += 1;
            self.prefixed = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_in_any_pieces() {
        let stream = b"\0\0\0\0\x02ab\0\0\0\0\0\x01\0\0\0\x01c\0\0\0\0\x05dd";
        for chunk in 1..=stream.len() {
            let mut messages = Messages::default();
            let count: u64 = stream.chunks(chunk).map(|part| messages.complete_in(part)).sum();
            assert_eq!(count, 3, "{chunk}");
        }
    }
}
