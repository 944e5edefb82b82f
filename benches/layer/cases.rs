//! What is compared: one trivial route, bare and under each layer.

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures_util::FutureExt;
use http::{HeaderValue, Request};
use http_body::Body as _;
use http_body_util::BodyExt;
use tower::Service;
use tower_governor::GovernorLayer;
use tower_governor::errors::GovernorError;
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::KeyExtractor;
use tower_limitry::policy::Period;
use tower_limitry::{
    Books, Engine, HeaderStyle, Limit, LimitryLayer, Meter, NewBalance, Usage, customer,
};

#[path = "floor.rs"]
mod floor;

use floor::FloorLayer;

const CUSTOMER: &str = "x-customer";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Bare,
    /// The least that a layer adds.
    Floor,
    PassThrough,
    OneLimit,
    FiveLimits,
    /// Five limits, an estimate and a balance.
    Full,
    FullWithHeaders,
    Governor,
    GovernorWithHeaders,
}

impl Case {
    pub(crate) const ALL: [Self; 9] = [
        Self::Bare,
        Self::Floor,
        Self::PassThrough,
        Self::OneLimit,
        Self::FiveLimits,
        Self::Full,
        Self::FullWithHeaders,
        Self::Governor,
        Self::GovernorWithHeaders,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Floor => "floor",
            Self::PassThrough => "pass-through",
            Self::OneLimit => "one-limit",
            Self::FiveLimits => "five-limits",
            Self::Full => "full",
            Self::FullWithHeaders => "full-headers",
            Self::Governor => "governor",
            Self::GovernorWithHeaders => "governor-headers",
        }
    }

    pub(crate) fn router(self) -> Router {
        let router = Router::new().route("/", get(|| async { "ok" }));
        match self {
            Self::Bare => router,
            Self::Floor => router.layer(FloorLayer),
            Self::PassThrough => router.layer(limitry(5).skip(|head| head.uri.path() == "/")),
            Self::OneLimit => router.layer(limitry(1)),
            Self::FiveLimits => router.layer(limitry(5)),
            Self::Full => router.layer(full()),
            Self::FullWithHeaders => router.layer(full().headers(HeaderStyle::default())),
            Self::Governor | Self::GovernorWithHeaders => self.governed(router),
        }
    }

    fn governed(self, router: Router) -> Router {
        let mut config = GovernorConfigBuilder::default();
        let mut config = config.per_nanosecond(1).burst_size(u32::MAX).key_extractor(ByHeader);
        if self == Self::GovernorWithHeaders {
            let config = config.use_headers().finish().expect("a quota above nothing");
            return router.layer(GovernorLayer::new(config));
        }
        router.layer(GovernorLayer::new(config.finish().expect("a quota above nothing")))
    }
}

const PERIODS: [Period; 5] =
    [Period::Minute, Period::Hour, Period::Day, Period::Week, Period::Month];

fn books(limits: usize) -> Books<Engine> {
    let mut builder = Engine::builder()
        .meter(Meter::sum("tokens", "total_tokens").event_type("llm.completion"))
        .default_balance(NewBalance::new("AI Credits").initial(1_000_000_000_000_i64));
    for period in &PERIODS[..limits] {
        let id = format!("tokens-a-{period}");
        builder = builder.limit(Limit::new(id, "tokens", *period, 1_000_000_000_000_i64));
    }
    builder.build().expect("definitions that make sense")
}

fn limitry(limits: usize) -> LimitryLayer<Engine> {
    let used = |_: &http::response::Parts| Some(Usage::of("total_tokens", 80));
    LimitryLayer::new(books(limits), customer::trusted_header(CUSTOMER), used)
        .event_type("llm.completion")
        .headers(HeaderStyle::Off)
}

fn full() -> LimitryLayer<Engine> {
    limitry(5)
        .estimate(|_| Usage::of("total_tokens", 100))
        .charge("AI Credits", |usage| usage.value("total_tokens"))
}

/// The same header as ours.
#[derive(Clone, Debug)]
struct ByHeader;

impl KeyExtractor for ByHeader {
    type Key = String;

    fn extract<T>(&self, request: &Request<T>) -> Result<String, GovernorError> {
        let customer = request.headers().get(CUSTOMER).and_then(|value| value.to_str().ok());
        customer.map(str::to_owned).ok_or(GovernorError::UnableToExtractKey)
    }
}

/// Asks in the name of customers drawn at random, on one thread and without a runtime.
pub(crate) struct Client {
    router: Router,
    customers: u64,
    random: u64,
}

impl Client {
    pub(crate) fn new(router: Router, customers: u64, seed: u64) -> Self {
        Self { router, customers, random: seed * 2 + 1 }
    }

    /// So many requests.
    pub(crate) fn run(&mut self, requests: u64) {
        for _ in 0..requests {
            // Xorshift: even enough, and a few instructions.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            ask(&mut self.router, self.random % self.customers);
        }
    }

    /// One request of every customer.
    pub(crate) fn meet_everybody(&mut self) {
        for number in 0..self.customers {
            ask(&mut self.router, number);
        }
    }
}

/// One request and its whole answer, as a server would drive it.
fn ask(router: &mut Router, customer: u64) {
    let mut request = Request::new(Body::empty());
    request.headers_mut().insert(CUSTOMER, customer_id(customer));
    let response = router.call(request).now_or_never().expect("an answer at once");
    let Ok(response) = response;
    assert_eq!(response.status(), http::StatusCode::OK);
    let mut body = response.into_body();
    while !body.is_end_stream() {
        let frame = body.frame().now_or_never().expect("a frame at once");
        let Some(Ok(_)) = frame else { break };
    }
}

/// 24 bytes of text.
fn customer_id(mut number: u64) -> HeaderValue {
    let mut id = *b"customer-000000000000000";
    for digit in id.iter_mut().rev() {
        if number == 0 {
            break;
        }
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    HeaderValue::from_bytes(&id).expect("text")
}
