use std::fmt;
use std::sync::Arc;

use http::response::Parts;
use serde::de::DeserializeOwned;

use super::capture::{Found, Wanted};
use super::framing::Framing;
use super::scan::{Documents, Scan};
use super::{Measure, Measured, Watch, encoding};
use crate::policy::Usage;

/// Usage from the final JSON object of an answer, by a closure: the body, the `data` of the last
/// server-sent event that has JSON, or the last line of JSON lines.
///
/// A copy of at most `most` bytes of it is kept, while the body passes through unchanged. An object
/// that is longer, or none of this shape, is missing usage; so is what a client left before its end.
///
/// ```
/// use tower_limitry::{Usage, usage};
///
/// #[derive(serde::Deserialize)]
/// struct Done {
///     pages: u64,
/// }
///
/// let pages = usage::final_json(64 * 1024, |done: &Done| Some(Usage::of("pages", done.pages)));
/// # let _ = pages;
/// ```
pub fn final_json<T, F>(most: usize, usage: F) -> FinalJson
where
    T: DeserializeOwned,
    F: Fn(&T) -> Option<Usage> + Send + Sync + 'static,
{
    let read = move |object: &str| {
        let object: T = serde_json::from_str(object).ok()?;
        usage(&object)
    };
    FinalJson { wanted: Arc::new(Wanted::documents(most)), read: Arc::new(read) }
}

/// Measures the final JSON object; made by [`final_json`].
#[derive(Clone)]
pub struct FinalJson {
    wanted: Arc<Wanted>,
    read: Arc<Read>,
}

type Read = dyn Fn(&str) -> Option<Usage> + Send + Sync;

impl fmt::Debug for FinalJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FinalJson").finish_non_exhaustive()
    }
}

impl Measure for FinalJson {
    fn measure(&self, response: &Parts) -> Measured {
        let Some(scan) = Scan::new(&response.headers, &self.wanted, Last(None)) else {
            return Measured::Missing;
        };
        encoding::decoded(&response.headers, LastWatch { scan, read: Arc::clone(&self.read) })
    }
}

/// The last document so far.
struct Last(Option<Found>);

impl Documents for Last {
    fn block(&mut self, _: &[u8], _: Framing, is_whole: bool) -> bool {
        is_whole
    }

    fn document(&mut self, found: &Found) {
        self.0 = Some(found.clone());
    }
}

struct LastWatch {
    scan: Scan<Last>,
    read: Arc<Read>,
}

impl Watch for LastWatch {
    fn data(&mut self, data: &[u8]) {
        self.scan.feed(data);
    }

    fn end(&mut self) -> Option<Usage> {
        self.scan.finish();
        let found = self.scan.documents_mut().0.take()?;
        (self.read)(found.raw("")?)
    }
}
