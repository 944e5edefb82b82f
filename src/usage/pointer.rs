use std::fmt;
use std::sync::Arc;

use http::response::Parts;
use memchr::memmem::Finder;

use super::capture::{Found, Wanted};
use super::framing::Framing;
use super::scan::{Documents, Scan};
use super::{Measure, Measured, Watch, encoding};
use crate::policy::Usage;

/// A value at a place in a JSON answer, named by its [pointer]; it is recorded under the pointer's last
/// part. Further ones are added with [`value`](JsonPointers::value) and
/// [`dimension`](JsonPointers::dimension).
///
/// The answer may be JSON of any size, server-sent events with JSON in their `data`, or JSON lines:
/// its content type tells, else how it begins. Of a stream, the last number found at a place counts.
/// Numbers may be written as text; one that is too large is held at the largest amount. An answer
/// without any of the values is missing usage.
///
/// ```
/// use tower_limitry::usage;
///
/// let tokens = usage::json_pointer("/usage/total_tokens");
///
/// let several = usage::json_pointer("/usage/total_tokens")
///     .value("pages", "/result/0/pages")
///     .dimension("model", "/model");
/// # let _ = (tokens, several);
/// ```
///
/// Keys may be escaped in the answer; in streams only where JSON has to, or those beyond ASCII.
///
/// # Panics
///
/// If this is no pointer: it has to begin with `/`.
///
/// [pointer]: https://www.rfc-editor.org/rfc/rfc6901
pub fn json_pointer(pointer: &str) -> JsonPointers {
    let name = pointer.rsplit('/').next().unwrap_or_default();
    let name = name.replace("~1", "/").replace("~0", "~");
    JsonPointers { targets: Vec::new(), compiled: compile(&[]) }.value(&name, pointer)
}

/// Measures values of a JSON answer by their places; made by [`json_pointer`].
#[derive(Clone)]
pub struct JsonPointers {
    targets: Vec<Target>,
    compiled: Arc<Compiled>,
}

#[derive(Clone, Debug)]
struct Target {
    pointer: Box<str>,
    name: Box<str>,
    is_dimension: bool,
}

struct Compiled {
    wanted: Arc<Wanted>,
    targets: Vec<Target>,
    /// What an event or line has to have in it, one for each pointer. None: it may be anything.
    needles: Option<Vec<Finder<'static>>>,
}

impl JsonPointers {
    /// Records the number at that place under this name, too.
    ///
    /// # Panics
    ///
    /// If this is no pointer: it has to begin with `/`.
    #[must_use]
    pub fn value(self, name: &str, pointer: &str) -> Self {
        self.with(name, pointer, false)
    }

    /// Records the text at that place as a dimension of this key.
    ///
    /// # Panics
    ///
    /// If this is no pointer: it has to begin with `/`.
    #[must_use]
    pub fn dimension(self, key: &str, pointer: &str) -> Self {
        self.with(key, pointer, true)
    }

    fn with(mut self, name: &str, pointer: &str, is_dimension: bool) -> Self {
        assert!(pointer.starts_with('/'), "a JSON pointer begins with `/`: {pointer:?}");
        self.targets.push(Target { pointer: pointer.into(), name: name.into(), is_dimension });
        self.compiled = compile(&self.targets);
        self
    }
}

fn compile(targets: &[Target]) -> Arc<Compiled> {
    let mut wanted = Wanted::new(false);
    for target in targets {
        wanted.add(&target.pointer, &target.pointer);
    }
    let needles = targets.iter().map(|target| needle(&target.pointer)).collect();
    Arc::new(Compiled { wanted: Arc::new(wanted), targets: targets.to_vec(), needles })
}

/// The pointer's last key, as it stands in an event or line that has it. None: there is no key in it,
/// or it may be written in several ways.
fn needle(pointer: &str) -> Option<Finder<'static>> {
    let is_key = |token: &&str| token.parse::<u32>().is_err();
    let key = pointer.split('/').skip(1).filter(is_key).last()?;
    let key = key.replace("~1", "/").replace("~0", "~");
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'/' | b'\\');
    key.bytes().all(is_plain).then(|| Finder::new(&format!("\"{key}\"")).into_owned())
}

impl fmt::Debug for JsonPointers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.targets).finish()
    }
}

impl Measure for JsonPointers {
    fn measure(&self, response: &Parts) -> Measured {
        let latest = Latest { compiled: Arc::clone(&self.compiled), usage: None };
        match Scan::new(&response.headers, &self.compiled.wanted, latest) {
            Some(scan) => encoding::decoded(&response.headers, PointersWatch(scan)),
            None => Measured::Missing,
        }
    }
}

/// The latest of each value.
struct Latest {
    compiled: Arc<Compiled>,
    usage: Option<Usage>,
}

impl Documents for Latest {
    fn block(&mut self, start: &[u8], _: Framing, is_whole: bool) -> bool {
        let Some(needles) = &self.compiled.needles else { return is_whole };
        is_whole && needles.iter().any(|needle| needle.find(start).is_some())
    }

    fn document(&mut self, found: &Found) {
        for Target { pointer, name, is_dimension } in &self.compiled.targets {
            let usage = &mut self.usage;
            if *is_dimension {
                if let Some(text) = found.text(pointer) {
                    *usage = Some(usage.take().unwrap_or_default().dimension(name, text));
                }
            } else {
                let number = found.decimal(pointer).map(|number| Usage::of(name, number));
                let number = number.filter(Usage::is_countable);
                *usage = Usage::joined(usage.take(), number);
            }
        }
    }
}

struct PointersWatch(Scan<Latest>);

impl PointersWatch {
    fn usage(&mut self) -> Option<Usage> {
        self.0.documents_mut().usage.take().filter(|usage| !usage.is_empty())
    }
}

impl Watch for PointersWatch {
    fn data(&mut self, data: &[u8]) {
        self.0.feed(data);
    }

    fn end(&mut self) -> Option<Usage> {
        self.0.finish();
        self.usage()
    }

    fn seen(&mut self) -> (Option<Usage>, bool) {
        (self.usage(), false)
    }
}
