use std::fmt;
use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::response::Parts;
use serde::de::DeserializeOwned;

use super::{Measure, Measured, Watch, encoding};
use crate::policy::Usage;

/// Usage from a JSON body, read once the body has passed.
///
/// A copy of at most `most` bytes is kept while the body passes through unchanged, decoded if it is
/// compressed (feature `decompress`). A body that is longer, or no JSON of this shape, is missing usage.
///
/// ```
/// use tower_limitry::{Usage, usage};
///
/// #[derive(serde::Deserialize)]
/// struct Answer {
///     pages: u64,
/// }
///
/// let pages = usage::json(64 * 1024, |answer: &Answer| Some(Usage::of("pages", answer.pages)));
/// # let _ = pages;
/// ```
pub fn json<T, F>(most: usize, usage: F) -> Json
where
    T: DeserializeOwned,
    F: Fn(&T) -> Option<Usage> + Send + Sync + 'static,
{
    let read = move |body: &[u8]| {
        let value: T = serde_json::from_slice(body).ok()?;
        usage(&value)
    };
    Json { most, read: Arc::new(read) }
}

/// Measures a JSON body; made by [`json`].
#[derive(Clone)]
pub struct Json {
    most: usize,
    read: Arc<Read>,
}

type Read = dyn Fn(&[u8]) -> Option<Usage> + Send + Sync;

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Json").field("most", &self.most).finish_non_exhaustive()
    }
}

impl Measure for Json {
    fn measure(&self, response: &Parts) -> Measured {
        let length = response.headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > self.most) {
            return Measured::Missing;
        }
        let kept = Some(Vec::with_capacity(length.unwrap_or_default()));
        encoding::decoded(&response.headers, Collect { json: self.clone(), kept })
    }
}

/// Keeps the body until it ends, or until it is too long.
struct Collect {
    json: Json,
    kept: Option<Vec<u8>>,
}

impl Watch for Collect {
    fn data(&mut self, data: &[u8]) {
        self.kept = self.kept.take().filter(|kept| kept.len() + data.len() <= self.json.most);
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(data);
        }
    }

    fn end(&mut self) -> Option<Usage> {
        (self.json.read)(&self.kept.take()?)
    }
}
