use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use compact_str::CompactString;
use http::Extensions;

use crate::policy::{Amount, CustomerId, ToAmount, Usage};

/// Reports what a request uses, while it uses it.
///
/// The layer puts one into the extensions of each request. Clones share what was reported; one may
/// move into a response stream, and what it reports until the stream's end is recorded.
///
/// ```
/// use tower_limitry::Reporter;
///
/// async fn complete(request: http::Request<String>) -> http::Response<String> {
///     let reporter = request.extensions().get::<Reporter>().cloned().unwrap_or_default();
///     reporter.add("output_tokens", 12);
///     http::Response::new("Hello".into())
/// }
/// # let _ = complete;
/// ```
#[derive(Clone, Default)]
pub struct Reporter {
    report: Arc<Mutex<Report>>,
    /// Balances that layers further out charge for this request. Not shared with clones: a request
    /// that is tried again between two layers claims anew.
    charged: Vec<(CustomerId, CompactString)>,
}

#[derive(Default)]
struct Report {
    usage: Usage,
    complete: bool,
    failed: bool,
}

impl Reporter {
    /// Adds to a value.
    pub fn add(&self, name: impl AsRef<str>, amount: impl ToAmount) {
        let name = name.as_ref();
        let mut report = self.lock();
        let before = report.usage.value(name).unwrap_or(Amount::ZERO);
        let more = Usage::of(name, amount);
        let sum = more.value(name).unwrap_or(Amount::ZERO).saturating_add(before);
        report.usage.merge(if more.problem().is_some() { more } else { Usage::of(name, sum) });
    }

    /// Sets a value, whatever was reported before.
    pub fn set(&self, name: impl AsRef<str>, amount: impl ToAmount) {
        self.lock().usage.merge(Usage::of(name, amount));
    }

    /// Sets a dimension of the event.
    pub fn dimension(&self, key: impl AsRef<str>, value: impl AsRef<str>) {
        self.lock().usage.dimensions_mut().set(key.as_ref(), value.as_ref());
    }

    /// Sets several values and dimensions at once.
    pub fn report(&self, usage: Usage) {
        self.lock().usage.merge(usage);
    }

    /// Says that nothing more will be reported. A client that leaves after this is charged what was
    /// reported, and not the estimate.
    pub fn complete(&self) {
        self.lock().complete = true;
    }

    /// Says that the request failed, whatever its status is: nothing is recorded or charged.
    pub fn fail(&self) {
        self.lock().failed = true;
    }

    /// The one of a layer further out, or a new one that is put there.
    pub(crate) fn of(extensions: &mut Extensions) -> Self {
        extensions.get_or_insert_default::<Self>().clone()
    }

    /// What was reported, if anything, and whether that is all.
    pub(crate) fn reported(&self) -> (Option<Usage>, bool) {
        let report = self.lock();
        let any = !report.usage.is_empty() || !report.usage.dimensions().is_empty();
        (any.then(|| report.usage.clone()), report.complete)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    /// Claims the charging of a balance for this request. `false` when a layer further out has.
    pub(crate) fn claim_charge(&mut self, customer: &CustomerId, balance: &str) -> bool {
        let claimed = self.charged.iter().any(|(who, name)| who == customer && name == balance);
        if !claimed {
            self.charged.push((customer.clone(), CompactString::new(balance)));
        }
        !claimed
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.lock();
        f.debug_struct("Reporter")
            .field("usage", &report.usage)
            .field("complete", &report.complete)
            .field("failed", &report.failed)
            .finish_non_exhaustive()
    }
}
