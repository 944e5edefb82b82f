use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Extensions;
use smallvec::{SmallVec, smallvec};

use crate::backend::{Ask, Check, Decision, Flight};
use crate::policy::{Amount, CustomerId, ToAmount, Usage};

/// Reports what a request uses, while it uses it, and tells what its check answered.
///
/// The layer puts one into the extensions of each request. Clones share what was reported; one may
/// move into a response stream, and what it reports until the stream's end is recorded.
///
/// Attempts of a retry inside of the layer are one request and share it, too: where a handler may be
/// tried again, [`set`](Self::set) what the request used, and let the status tell of a failure.
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
#[derive(Clone)]
pub struct Reporter {
    /// Those of the layers around, from the outside in. All report to the first; the last is that of
    /// the layer that is next.
    flights: SmallVec<[Arc<Flight>; 1]>,
}

/// Where a handler's word is kept for its request.
#[derive(Default)]
pub(crate) struct Report {
    /// Whether anything was said. Most requests end without, and then need no lock.
    spoken: AtomicBool,
    said: Mutex<Option<Box<Said>>>,
}

#[derive(Default)]
struct Said {
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
        self.say(|said| {
            let before = said.usage.value(name).unwrap_or(Amount::ZERO);
            let more = Usage::of(name, amount);
            let sum = more.value(name).unwrap_or(Amount::ZERO).saturating_add(before);
            said.usage.merge(if more.problem().is_some() { more } else { Usage::of(name, sum) });
        });
    }

    /// Sets a value, whatever was reported before.
    pub fn set(&self, name: impl AsRef<str>, amount: impl ToAmount) {
        self.say(|said| said.usage.merge(Usage::of(name, amount)));
    }

    /// Sets a dimension of the event.
    pub fn dimension(&self, key: impl AsRef<str>, value: impl AsRef<str>) {
        self.say(|said| said.usage.dimensions_mut().set(key.as_ref(), value.as_ref()));
    }

    /// Sets several values and dimensions at once.
    pub fn report(&self, usage: Usage) {
        self.say(|said| said.usage.merge(usage));
    }

    /// Says that nothing more will be reported. A client that leaves after this is charged what was
    /// reported, and not the estimate.
    pub fn complete(&self) {
        self.say(|said| said.complete = true);
    }

    /// Says that the request failed, whatever its status is: nothing is recorded or charged.
    pub fn fail(&self) {
        self.say(|said| said.failed = true);
    }

    /// What the check behind this request answered: the state of every limit and the balance.
    ///
    /// `None` where the request runs although its check could not be answered, and for a reporter
    /// that no layer made.
    pub fn decision(&self) -> Option<Decision> {
        Decision::of(self.flights.last()?)
    }

    /// Leaves word for the inner service of the request that was asked about.
    pub(crate) fn leave(extensions: &mut Extensions, flight: Arc<Flight>) -> Option<Arc<Flight>> {
        match extensions.get_mut::<Self>() {
            None => {
                extensions.insert(Self { flights: smallvec![flight] });
                None
            }
            Some(outer) => {
                outer.flights.push(flight);
                outer.flights.first().cloned()
            }
        }
    }

    /// Whether a layer further out charges that balance of that customer for this request. Not
    /// shared between clones of the request: one that is tried again between two layers is charged
    /// anew.
    pub(crate) fn charges(extensions: &Extensions, customer: &CustomerId, balance: &str) -> bool {
        extensions.get::<Self>().is_some_and(|outer| {
            let asks = outer.flights.iter().map(|flight| &flight.ask);
            let mut charges = asks.filter(|ask| ask.customer == *customer);
            charges.any(|ask| ask.charge.as_ref().is_some_and(|charge| charge.balance == balance))
        })
    }

    fn shared(&self) -> Option<&Report> {
        self.flights.first().map(|flight| &flight.report)
    }

    fn say(&self, say: impl FnOnce(&mut Said)) {
        if let Some(report) = self.shared() {
            say(report.lock().get_or_insert_default());
            report.spoken.store(true, Ordering::Release);
        }
    }
}

impl Report {
    #[inline]
    pub(crate) fn reported(&self) -> Reported {
        if self.spoken.load(Ordering::Acquire) { self.all() } else { Reported::default() }
    }

    #[cold]
    fn all(&self) -> Reported {
        let said = self.lock();
        let Some(said) = said.as_deref() else { return Reported::default() };
        let any = !said.usage.is_empty() || !said.usage.dimensions().is_empty();
        Reported {
            usage: any.then(|| said.usage.clone()),
            complete: said.complete,
            failed: said.failed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<Said>>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For a request that no layer is around: what it is told goes nowhere.
impl Default for Reporter {
    fn default() -> Self {
        let nobody = Check::new(Ask::of(CustomerId::NOBODY));
        Self { flights: smallvec![nobody.0] }
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.shared().map(Report::reported).unwrap_or_default();
        f.debug_struct("Reporter")
            .field("usage", &report.usage)
            .field("complete", &report.complete)
            .field("failed", &report.failed)
            .finish_non_exhaustive()
    }
}
