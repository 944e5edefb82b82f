use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use compact_str::CompactString;
use http::request::Parts;
use http::{HeaderName, Response, response};
use tower_layer::Layer;

use crate::backend::{Ask, Backend, Books, Charge, Check, DEFAULT_EVENT_TYPE, Erased};
use crate::classify::{self, Classification};
use crate::customer::Identify;
use crate::failure::{FailurePolicy, Outage};
use crate::headers::HeaderStyle;
use crate::hook;
use crate::policy::{Amount, CustomerId, EventId, Usage};
use crate::reject::{BalanceStatus, DenialStyle, Refusal};
use crate::request::HeadOnly;
use crate::service::Limitry;
use crate::usage::Measure;

/// Checks each request against a customer's limits and balance, lets it run, and records what it
/// really used.
///
/// See the [crate's documentation](crate) for an example and for the order of layers. The options
/// are set on this type; a clone shares them. `B` is the backend; [`LimitryLayer`] without a
/// parameter is the form over [`Erased`], which a function can name as its return type.
#[must_use]
pub struct LimitryLayer<B: Backend = Erased, R = HeadOnly> {
    pub(crate) options: Arc<Options<B>>,
    pub(crate) request: R,
}

pub(crate) struct Options<B: Backend> {
    pub(crate) books: Books<B>,
    pub(crate) identify: Arc<dyn Identify>,
    pub(crate) measure: Arc<dyn Measure>,
    event_type: EventType,
    expect: Option<Arc<ByHead<Usage>>>,
    charge: Option<Charging>,
    pub(crate) classify: Option<Arc<Classify>>,
    skip: Option<Arc<ByHead<bool>>>,
    pub(crate) missing_customer: MissingCustomer,
    pub(crate) missing_usage: MissingUsage,
    pub(crate) disconnect: Disconnect,
    failure: Option<FailurePolicy>,
    pub(crate) outage: Arc<Outage>,
    pub(crate) check_timeout: Duration,
    pub(crate) settle_timeout: Duration,
    pub(crate) headers: HeaderStyle,
    pub(crate) denial: DenialStyle,
    pub(crate) balance_status: BalanceStatus,
    pub(crate) on_refusal: Option<Arc<OnRefusal>>,
    idempotency_key: Option<HeaderName>,
    request_id: Option<HeaderName>,
}

/// The dimension under which a request's own id is noted.
const REQUEST_ID: &str = "request_id";

/// What a request's head tells.
type ByHead<T> = dyn Fn(&Parts) -> T + Send + Sync;

type Classify = dyn Fn(&response::Parts) -> Classification + Send + Sync;

pub(crate) type OnRefusal = dyn Fn(&Refusal) -> Option<Response<Bytes>> + Send + Sync;

#[derive(Clone)]
enum EventType {
    Fixed(CompactString),
    Of(Arc<ByHead<CompactString>>),
}

#[derive(Clone)]
struct Charging {
    charge: Arc<Charge>,
    /// The balance by the request, in place of the charge's own.
    balance: Option<Arc<ByHead<CompactString>>>,
}

/// What happens to a request whose customer is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissingCustomer {
    /// It is answered 401. The default.
    #[default]
    Refuse,
    /// It runs, and nothing is checked or recorded.
    PassUnmetered,
}

/// What happens when a request succeeded and its usage could not be measured or priced, or lacks a
/// value that was estimated. It counts in the metric `limitry.usage_missing` either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissingUsage {
    /// The estimate is recorded and charged for what is missing, with its own dimensions; without one
    /// the event is recorded without it. The default: the work was done.
    #[default]
    ChargeEstimate,
    /// What was measured, if anything, is recorded, and charged if it has a price by itself.
    RecordOnly,
    /// Nothing is recorded, as if the request had failed.
    Release,
}

/// What happens when the client goes away before the response has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disconnect {
    /// What was seen is recorded; while that was not final, each value is at least the estimate. The
    /// default: a client cannot save by leaving early.
    #[default]
    Settle,
    /// Nothing is recorded. Clients that leave early get what they saw for nothing.
    Release,
    /// The rest of the response is read in the background, up to this many bytes and this long, and
    /// recorded as if the client had stayed; beyond that as [`Settle`](Self::Settle). Boxes every
    /// body, and needs a tokio runtime.
    Drain {
        /// How many bytes at most.
        bytes: u64,
        /// How long at most.
        within: Duration,
    },
}

impl<B: Backend> LimitryLayer<B> {
    /// A layer over these books. `identify` tells the customer of a request
    /// (see [`customer`](crate::customer)), `measure` what a response really used
    /// (see [`usage`](crate::usage)); closures do for both.
    pub fn new(books: Books<B>, identify: impl Identify, measure: impl Measure) -> Self {
        let options = Options {
            books,
            identify: Arc::new(identify),
            measure: Arc::new(measure),
            event_type: EventType::Fixed(CompactString::const_new(DEFAULT_EVENT_TYPE)),
            expect: None,
            charge: None,
            classify: None,
            skip: None,
            missing_customer: MissingCustomer::default(),
            missing_usage: MissingUsage::default(),
            disconnect: Disconnect::default(),
            failure: None,
            outage: Arc::default(),
            check_timeout: Duration::from_secs(1),
            settle_timeout: Duration::from_secs(5),
            headers: HeaderStyle::default(),
            denial: DenialStyle::default(),
            balance_status: BalanceStatus::default(),
            on_refusal: None,
            idempotency_key: None,
            request_id: None,
        };
        Self { options: Arc::new(options), request: HeadOnly(()) }
    }

    /// Estimates usage from the JSON body of a request, which is read before the check and replayed
    /// to the inner service unchanged. A body longer than `most` bytes, or no JSON of this shape, is
    /// checked without it.
    ///
    /// The inner service then takes a [`RequestBody`](crate::request::RequestBody).
    #[cfg(feature = "json")]
    pub fn request_json<T, F>(
        self,
        most: usize,
        expect: F,
    ) -> LimitryLayer<B, crate::request::ReadJson>
    where
        T: serde::de::DeserializeOwned,
        F: Fn(&T) -> Usage + Send + Sync + 'static,
    {
        let request = crate::request::ReadJson::new(most, expect);
        LimitryLayer { options: self.options, request }
    }
}

impl<B: Backend, R> LimitryLayer<B, R> {
    /// The type of the events; [`DEFAULT_EVENT_TYPE`] unless set. Only limits whose meter reads
    /// events of this type hold for the request.
    pub fn event_type(self, event_type: impl AsRef<str>) -> Self {
        let event_type = CompactString::new(event_type.as_ref());
        self.with(|options| options.event_type = EventType::Fixed(event_type))
    }

    /// The type of the event by the request's head; [`DEFAULT_EVENT_TYPE`] where it is empty or
    /// longer than 256 bytes.
    pub fn event_type_of<F, T>(self, event_type: F) -> Self
    where
        F: Fn(&Parts) -> T + Send + Sync + 'static,
        T: AsRef<str>,
    {
        let of = move |head: &Parts| CompactString::new(event_type(head).as_ref());
        self.with(|options| options.event_type = EventType::Of(Arc::new(of)))
    }

    /// What the request is expected to use, and its dimensions, by its head. Set aside while it
    /// runs; without an estimate, requests that run at the same time can overshoot together.
    pub fn estimate(self, expect: impl Fn(&Parts) -> Usage + Send + Sync + 'static) -> Self {
        self.with(|options| options.expect = Some(Arc::new(expect)))
    }

    /// Charges a balance by what was used. The price is applied to the estimate too, for the check.
    /// A price that is `None` or below zero is missing usage.
    ///
    /// Two of these layers on one request charge one balance once: the outer one does.
    pub fn charge<F>(self, balance: impl AsRef<str>, price: F) -> Self
    where
        F: Fn(&Usage) -> Option<Amount> + Send + Sync + 'static,
    {
        let charge =
            Charge { balance: CompactString::new(balance.as_ref()), price: Arc::new(price) };
        let charging = Charging { charge: Arc::new(charge), balance: None };
        self.with(|options| options.charge = Some(charging))
    }

    /// Charges a balance that the request's head names.
    pub fn charge_of<N, T, F>(self, balance: N, price: F) -> Self
    where
        N: Fn(&Parts) -> T + Send + Sync + 'static,
        T: AsRef<str>,
        F: Fn(&Usage) -> Option<Amount> + Send + Sync + 'static,
    {
        let charge = Charge { balance: CompactString::default(), price: Arc::new(price) };
        let of = move |head: &Parts| CompactString::new(balance(head).as_ref());
        let charging = Charging { charge: Arc::new(charge), balance: Some(Arc::new(of)) };
        self.with(|options| options.charge = Some(charging))
    }

    /// Decides which responses are a success; [`classify::by_status`] unless set.
    pub fn classify(
        self,
        classify: impl Fn(&response::Parts) -> Classification + Send + Sync + 'static,
    ) -> Self {
        self.with(|options| options.classify = Some(Arc::new(classify)))
    }

    /// Requests that pass unmetered: health checks, pages about usage itself.
    pub fn skip(self, skip: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.with(|options| options.skip = Some(Arc::new(skip)))
    }

    /// What happens to a request whose customer is not known.
    pub fn on_missing_customer(self, policy: MissingCustomer) -> Self {
        self.with(|options| options.missing_customer = policy)
    }

    /// What happens when a request succeeded and its usage could not be measured.
    pub fn on_missing_usage(self, policy: MissingUsage) -> Self {
        self.with(|options| options.missing_usage = policy)
    }

    /// What happens when the client goes away before the response has ended.
    pub fn on_disconnect(self, policy: Disconnect) -> Self {
        self.with(|options| options.disconnect = policy)
    }

    /// What happens while the backend cannot answer: unless set, requests pass unmetered where only
    /// limits are checked, and are refused where a balance is charged.
    pub fn on_failure(self, policy: FailurePolicy) -> Self {
        self.with(|options| options.failure = Some(policy))
    }

    /// How long a check may take before the backend counts as unavailable; one second unless set.
    /// It needs a tokio runtime with its timer where the backend does not answer at once.
    pub fn check_timeout(self, timeout: Duration) -> Self {
        self.with(|options| options.check_timeout = timeout)
    }

    /// How long the end of a response may wait for a durable record; five seconds unless set. After
    /// that the response ends, and the record is still on its way. Without effect on backends that
    /// record at once.
    pub fn settle_timeout(self, timeout: Duration) -> Self {
        self.with(|options| options.settle_timeout = timeout)
    }

    /// Which headers tell customers where they stand.
    pub fn headers(self, style: HeaderStyle) -> Self {
        self.with(|options| options.headers = style)
    }

    /// The shape of what refused requests are answered.
    pub fn denial_style(self, style: DenialStyle) -> Self {
        self.with(|options| options.denial = style)
    }

    /// The status where it is a balance that refused.
    pub fn balance_status(self, status: BalanceStatus) -> Self {
        self.with(|options| options.balance_status = status)
    }

    /// Answers refused requests instead of the default; `None` leaves that one to it. The status,
    /// headers and body are yours; `RateLimit` headers are added as [`headers`](Self::headers) says.
    pub fn refusal(
        self,
        answer: impl Fn(&Refusal) -> Option<Response<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        self.with(|options| options.on_refusal = Some(Arc::new(answer)))
    }

    /// Charges a client's repeat once: requests of one customer that carry the same value in this
    /// header, such as `idempotency-key`, are one use, for as long as the backend remembers it (in
    /// memory ten minutes, from the end of the first).
    ///
    /// A repeat while the first still runs is answered 409. A repeat after it succeeded runs again,
    /// without check and charge: only the first answer knew what to charge, and it is not kept here.
    /// So set this only where the handler itself answers repeats from what it did; elsewhere a client
    /// could have many requests for the price of one. After a failure the same value counts anew. A
    /// value is quoted or bare; one longer than 200 bytes (255 with the event type), or not text, is
    /// answered 400.
    pub fn idempotency_key(self, header: HeaderName) -> Self {
        self.with(|options| options.idempotency_key = Some(header))
    }

    /// Notes the request's own id, by this header, such as `x-request-id`, in what is recorded: as the
    /// dimension `request_id`, unless the estimate or the measured usage has one. It ties a charge to
    /// the log of the request (and is a column of the view `audit` in the
    #[cfg_attr(feature = "sqlite", doc = "[file](crate::store::sqlite)).")]
    #[cfg_attr(not(feature = "sqlite"), doc = "file of `store::sqlite`).")]
    ///
    /// A layer that makes such ids, as tower-http's `SetRequestIdLayer`, goes around this one. What
    /// the client itself sends is kept as it is, up to 256 bytes; no id, an empty one and one that is
    /// no text leave the dimension out.
    pub fn request_id(self, header: HeaderName) -> Self {
        self.with(|options| options.request_id = Some(header))
    }

    fn with(mut self, set: impl FnOnce(&mut Options<B>)) -> Self {
        set(Arc::make_mut(&mut self.options));
        self
    }
}

impl<S, B: Backend, R: Clone> Layer<S> for LimitryLayer<B, R> {
    type Service = Limitry<S, B, R>;

    fn layer(&self, inner: S) -> Self::Service {
        Limitry { inner, options: Arc::clone(&self.options), request: self.request.clone() }
    }
}

impl<B: Backend, R: Clone> Clone for LimitryLayer<B, R> {
    fn clone(&self) -> Self {
        Self { options: Arc::clone(&self.options), request: self.request.clone() }
    }
}

impl<B: Backend, R: fmt::Debug> fmt::Debug for LimitryLayer<B, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitryLayer")
            .field("options", &self.options)
            .field("request", &self.request)
            .finish()
    }
}

impl<B: Backend> fmt::Debug for Options<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("books", &self.books)
            .field("missing_customer", &self.missing_customer)
            .field("missing_usage", &self.missing_usage)
            .field("disconnect", &self.disconnect)
            .field("failure", &self.failure())
            .field("headers", &self.headers)
            .field("denial", &self.denial)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Clone for Options<B> {
    fn clone(&self) -> Self {
        Self {
            books: self.books.clone(),
            identify: Arc::clone(&self.identify),
            measure: Arc::clone(&self.measure),
            event_type: self.event_type.clone(),
            expect: self.expect.clone(),
            charge: self.charge.clone(),
            classify: self.classify.clone(),
            skip: self.skip.clone(),
            on_refusal: self.on_refusal.clone(),
            idempotency_key: self.idempotency_key.clone(),
            request_id: self.request_id.clone(),
            outage: Arc::clone(&self.outage),
            ..*self
        }
    }
}

impl<B: Backend> Options<B> {
    pub(crate) fn skips(&self, head: &Parts) -> bool {
        self.skip.as_ref().is_some_and(|skip| hook::call(|| skip(head)).unwrap_or(false))
    }

    pub(crate) fn failure(&self) -> FailurePolicy {
        match (self.failure, &self.charge) {
            (Some(policy), _) => policy,
            (None, None) => FailurePolicy::Open,
            (None, Some(_)) => FailurePolicy::Closed,
        }
    }

    pub(crate) fn customer(&self, head: &Parts) -> Option<CustomerId> {
        hook::call(|| self.identify.identify(head)).flatten()
    }

    pub(crate) fn classify(&self, head: &response::Parts) -> Classification {
        let own = self.classify.as_ref().and_then(|classify| hook::call(|| classify(head)));
        own.unwrap_or_else(|| classify::by_status(head))
    }

    /// The balance to charge, and its price.
    pub(crate) fn charge(&self, head: &Parts) -> Option<Arc<Charge>> {
        self.charge.as_ref().map(|charging| charging.of(head))
    }

    /// What to ask the backend. `read` is what the request's body said.
    pub(crate) fn question(
        &self,
        head: &Parts,
        customer: CustomerId,
        charge: Option<Arc<Charge>>,
        read: Option<Usage>,
    ) -> Result<Check, Refusal> {
        let event_type = match &self.event_type {
            EventType::Fixed(event_type) => event_type.clone(),
            EventType::Of(of) => hook::call(|| of(head))
                .filter(|of| (1..=256).contains(&of.len()))
                .unwrap_or(CompactString::const_new(DEFAULT_EVENT_TYPE)),
        };
        let expected = self.expect.as_ref().and_then(|expect| hook::call(|| expect(head)));
        let asked = |usage: Usage| usage.is_estimate().then(|| usage.into_asked());
        let expected = Usage::joined(expected.and_then(asked), read.and_then(asked));
        let mut expected = expected.unwrap_or_default();
        let request_id = self.request_id.as_ref().and_then(|header| head.headers.get(header));
        if let Some(id) = request_id.and_then(|value| value.to_str().ok())
            && !id.is_empty()
            && expected.dimensions().get(REQUEST_ID).is_none()
        {
            expected.dimensions_mut().set(REQUEST_ID, id);
        }
        let at = self.books.backend().now();
        let made = self.books.backend().make_id(at);
        let key = self.idempotency_key.as_ref().and_then(|header| head.headers.get(header));
        let (id, given, attempt) = match key {
            Some(value) => {
                let key = idempotency_key(value).ok_or(Refusal::InvalidIdempotencyKey)?;
                // Layers of one request record events of their own.
                let id = EventId::of_key(&event_type, key)
                    .map_err(|_| Refusal::InvalidIdempotencyKey)?;
                (id, true, made.attempt())
            }
            None => (made, false, 0),
        };
        Ok(Check::new(Ask {
            id,
            given,
            attempt,
            at: Some(at),
            customer,
            problem: None,
            event_type: Some(event_type),
            expected,
            charge,
            lifetime: None,
        }))
    }
}

impl Charging {
    fn of(&self, head: &Parts) -> Arc<Charge> {
        let Some(of) = &self.balance else { return Arc::clone(&self.charge) };
        let balance = hook::call(|| of(head)).unwrap_or_default();
        Arc::new(Charge { balance, price: Arc::clone(&self.charge.price) })
    }
}

/// The key in an `Idempotency-Key` header: a quoted string by the draft (draft-ietf-httpapi-
/// idempotency-key-header-06), a bare token in practice.
fn idempotency_key(value: &http::HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?.trim();
    let key = match text.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => text,
    };
    (1..=200).contains(&key.len()).then_some(key)
}
