use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use compact_str::CompactString;
use http::Extensions;
use smallvec::SmallVec;

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
    shared: Arc<Shared>,
    /// Balances that layers further out charge for this request. Not shared with clones: a request
    /// that is tried again between two layers claims anew.
    charged: SmallVec<[(CustomerId, CompactString); 1]>,
}

#[derive(Default)]
struct Shared {
    /// Whether anything was said. Most requests end without, and then need no lock.
    spoken: AtomicBool,
    report: Mutex<Report>,
}

#[derive(Default)]
struct Report {
    usage: Usage,
    complete: bool,
    failed: bool,
}

/// What a handler said.
#[derive(Default)]
pub(crate) struct Reported {
    /// What was reported, if anything.
    pub(crate) usage: Option<Usage>,
    /// Nothing more will be.
    pub(crate) complete: bool,
    pub(crate) failed: bool,
}

impl Reporter {
    /// Adds to a value.
    pub fn add(&self, name: impl AsRef<str>, amount: impl ToAmount) {
        let name = name.as_ref();
        let mut report = self.speak();
        let before = report.usage.value(name).unwrap_or(Amount::ZERO);
        let more = Usage::of(name, amount);
        let sum = more.value(name).unwrap_or(Amount::ZERO).saturating_add(before);
        report.usage.merge(if more.problem().is_some() { more } else { Usage::of(name, sum) });
    }

    /// Sets a value, whatever was reported before.
    pub fn set(&self, name: impl AsRef<str>, amount: impl ToAmount) {
        self.speak().usage.merge(Usage::of(name, amount));
    }

    /// Sets a dimension of the event.
    pub fn dimension(&self, key: impl AsRef<str>, value: impl AsRef<str>) {
        self.speak().usage.dimensions_mut().set(key.as_ref(), value.as_ref());
    }

    /// Sets several values and dimensions at once.
    pub fn report(&self, usage: Usage) {
        self.speak().usage.merge(usage);
    }

    /// Says that nothing more will be reported. A client that leaves after this is charged what was
    /// reported, and not the estimate.
    pub fn complete(&self) {
        self.speak().complete = true;
    }

    /// Says that the request failed, whatever its status is: nothing is recorded or charged.
    pub fn fail(&self) {
        self.speak().failed = true;
    }

    /// The one of a layer further out, or a new one that is put there; and whether this layer may
    /// charge that balance of that customer, which no layer further in then does.
    pub(crate) fn claiming(
        extensions: &mut Extensions,
        charge: Option<(&CustomerId, &CompactString)>,
    ) -> (Self, bool) {
        let claim = charge.map(|(customer, balance)| (customer.clone(), balance.clone()));
        if let Some(outer) = extensions.get_mut::<Self>() {
            let is_free = claim.as_ref().is_none_or(|claim| !outer.charged.contains(claim));
            outer.charged.extend(claim.filter(|_| is_free));
            return (outer.unclaiming(), is_free);
        }
        let mut new = Self::default();
        new.charged.extend(claim);
        let own = new.unclaiming();
        extensions.insert(new);
        (own, true)
    }

    /// A clone for what only listens.
    fn unclaiming(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), charged: SmallVec::new() }
    }

    pub(crate) fn reported(&self) -> Reported {
        if !self.shared.spoken.load(Ordering::Acquire) {
            return Reported::default();
        }
        let report = self.lock();
        let any = !report.usage.is_empty() || !report.usage.dimensions().is_empty();
        Reported {
            usage: any.then(|| report.usage.clone()),
            complete: report.complete,
            failed: report.failed,
        }
    }

    fn speak(&self) -> MutexGuard<'_, Report> {
        let report = self.lock();
        self.shared.spoken.store(true, Ordering::Release);
        report
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.shared.report.lock().unwrap_or_else(PoisonError::into_inner)
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
