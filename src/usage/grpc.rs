use std::fmt;
use std::sync::Arc;

use compact_str::CompactString;
use http::HeaderMap;
use http::response::Parts;

use super::{Measure, Measured, Watch};
use crate::classify;
use crate::policy::Usage;

/// Usage from one trailer of a gRPC call: its value under this name.
///
/// A trailer that is missing, or no number, is missing usage. Where the answer has no messages the
/// trailers are its headers, and are read there. `name` is in lower case.
///
/// ```
/// use tower_limitry::usage;
///
/// let tokens = usage::grpc_trailer("x-total-tokens", "total_tokens");
/// # let _ = tokens;
/// ```
pub fn grpc_trailer(name: impl AsRef<str>, value: impl AsRef<str>) -> GrpcTrailers {
    let (name, value) = (CompactString::from(name.as_ref()), CompactString::from(value.as_ref()));
    grpc_trailers(move |trailers| {
        let amount = trailers.get(name.as_str())?.to_str().ok()?;
        Some(Usage::of(&value, amount.trim()))
    })
}

/// Usage from the trailers of a gRPC call, `grpc-status` among them, by a closure.
///
/// ```
/// use tower_limitry::{Usage, usage};
///
/// let tokens = usage::grpc_trailers(|trailers| {
///     let input = trailers.get("x-input-tokens")?.to_str().ok()?;
///     let output = trailers.get("x-output-tokens")?.to_str().ok()?;
///     Some(Usage::of("input_tokens", input).and("output_tokens", output))
/// });
/// # let _ = tokens;
/// ```
pub fn grpc_trailers<F>(usage: F) -> GrpcTrailers
where
    F: Fn(&HeaderMap) -> Option<Usage> + Send + Sync + 'static,
{
    GrpcTrailers { read: Arc::new(usage) }
}

/// Measures by trailers; made by [`grpc_trailer`] and [`grpc_trailers`].
#[derive(Clone)]
pub struct GrpcTrailers {
    read: Arc<Read>,
}

type Read = dyn Fn(&HeaderMap) -> Option<Usage> + Send + Sync;

impl fmt::Debug for GrpcTrailers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcTrailers").finish_non_exhaustive()
    }
}

impl Measure for GrpcTrailers {
    fn measure(&self, response: &Parts) -> Measured {
        if classify::is_trailers_only(&response.headers) {
            return (self.read)(&response.headers).map_or(Measured::Missing, Measured::Usage);
        }
        Measured::Body(Box::new(ReadTrailers { read: Arc::clone(&self.read), usage: None }))
    }
}

struct ReadTrailers {
    read: Arc<Read>,
    usage: Option<Usage>,
}

impl Watch for ReadTrailers {
    fn data(&mut self, _: &[u8]) {}

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.usage = (self.read)(trailers);
    }

    fn end(&mut self) -> Option<Usage> {
        self.usage.take()
    }
}

/// The number of messages that a gRPC call answers, as this value.
///
/// A message counts once its last byte has passed. Compressed messages count as others do. An answer
/// that is no gRPC is missing usage.
///
/// ```
/// use tower_limitry::usage;
///
/// let frames = usage::grpc_messages("frames");
/// # let _ = frames;
/// ```
pub fn grpc_messages(value: impl AsRef<str>) -> GrpcMessages {
    GrpcMessages { value: CompactString::from(value.as_ref()) }
}

/// Counts messages; made by [`grpc_messages`].
#[derive(Clone, Debug)]
pub struct GrpcMessages {
    value: CompactString,
}

impl Measure for GrpcMessages {
    fn measure(&self, response: &Parts) -> Measured {
        if !classify::is_grpc(&response.headers) {
            return Measured::Missing;
        }
        Measured::Body(Box::new(Count { value: self.value.clone(), ..Count::default() }))
    }
}

/// Each message comes after a flag of one byte and its length in four.
#[derive(Default)]
struct Count {
    value: CompactString,
    messages: u64,
    /// How much of the prefix has passed, and the length that it told so far.
    prefix: u8,
    length: u32,
    /// How much of the message is still to come.
    left: u32,
}

impl Count {
    fn usage(&self) -> Usage {
        Usage::of(&self.value, self.messages)
    }
}

impl Watch for Count {
    fn data(&mut self, mut data: &[u8]) {
        while let Some((&byte, rest)) = data.split_first() {
            if self.prefix < 5 {
                // The flag is shifted out by the four bytes that follow.
                self.length = self.length << 8 | u32::from(byte);
                self.prefix += 1;
                data = rest;
                if self.prefix < 5 {
                    continue;
                }
                self.left = self.length;
            } else {
                let passed = data.len().min(self.left as usize);
                self.left -= passed as u32;
                data = &data[passed..];
            }
            if self.left == 0 {
                self.messages += 1;
                self.prefix = 0;
            }
        }
    }

    fn end(&mut self) -> Option<Usage> {
        Some(self.usage())
    }

    fn seen(&mut self) -> (Option<Usage>, bool) {
        (Some(self.usage()), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Response;

    fn head(headers: &[(&'static str, &'static str)]) -> Parts {
        let mut response = Response::new(());
        for (name, value) in headers {
            response.headers_mut().insert(*name, http::HeaderValue::from_static(value));
        }
        response.into_parts().0
    }

    fn watch(measure: &impl Measure) -> Box<dyn Watch> {
        match measure.measure(&head(&[("content-type", "application/grpc")])) {
            Measured::Body(watch) => watch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_count_at_any_chunking() {
        let mut body = Vec::new();
        for (flag, length) in [(0_u8, 3_u32), (0, 0), (1, 70_000), (0, 0), (0, 1), (1, 256)] {
            body.push(flag);
            body.extend(length.to_be_bytes());
            body.resize(body.len() + length as usize, 0xFF);
        }
        for size in [1, 2, 3, 4, 5, 6, 7, 4_096, body.len()] {
            let mut watch = watch(&grpc_messages("messages"));
            for chunk in body.chunks(size) {
                watch.data(&[]);
                watch.data(chunk);
            }
            assert_eq!(watch.end(), Some(Usage::of("messages", 6)), "in pieces of {size}");
        }
    }

    #[test]
    fn a_message_counts_once_it_is_whole() {
        let mut watch = watch(&grpc_messages("messages"));
        let seen = |watch: &mut Box<dyn Watch>| watch.seen();
        assert_eq!(seen(&mut watch), (Some(Usage::of("messages", 0)), false));
        watch.data(&[0, 0, 0, 0, 2, 7]);
        assert_eq!(seen(&mut watch), (Some(Usage::of("messages", 0)), false));
        watch.data(&[7, 0, 0]);
        assert_eq!(seen(&mut watch), (Some(Usage::of("messages", 1)), false));
    }

    #[test]
    fn what_is_no_grpc_is_not_counted() {
        for other in ["application/json", "application/grpc-web-text", "application/grpc-web"] {
            let measured = grpc_messages("messages").measure(&head(&[("content-type", other)]));
            assert!(matches!(measured, Measured::Missing));
        }
    }

    #[test]
    fn a_trailer_is_read_after_the_body_and_in_an_answer_of_trailers_only() {
        let measure = grpc_trailer("x-tokens", "tokens");
        let grpc = ("content-type", "application/grpc");
        let mut body = watch(&measure);
        body.data(b"whatever");
        body.trailers(&head(&[("x-tokens", " 12.5 "), ("grpc-status", "0")]).headers);
        assert_eq!(body.end(), Some(Usage::of("tokens", "12.5")));

        let only = head(&[grpc, ("grpc-status", "0"), ("x-tokens", "7")]);
        match measure.measure(&only) {
            Measured::Usage(usage) => assert_eq!(usage, Usage::of("tokens", 7)),
            other => panic!("{other:?}"),
        }
        let without = head(&[grpc, ("grpc-status", "0")]);
        assert!(matches!(measure.measure(&without), Measured::Missing));
        // A header of that name is no trailer while trailers are to come.
        assert!(matches!(measure.measure(&head(&[grpc, ("x-tokens", "7")])), Measured::Body(_)));
        let mut silent = watch(&measure);
        silent.trailers(&HeaderMap::new());
        assert_eq!(silent.end(), None);
    }

    #[test]
    fn a_trailer_that_is_no_number_is_missing_usage() {
        let mut body = watch(&grpc_trailer("x-tokens", "tokens"));
        body.trailers(&head(&[("x-tokens", "many")]).headers);
        assert!(body.end().is_some_and(|usage| usage.problem().is_some()));
    }
}
