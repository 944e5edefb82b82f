//! Limitry's API over any backend, as a [`Router`] to mount anywhere.
//!
//! ```
//! use tower_limitry::server::Server;
//! use tower_limitry::{Engine, Limit, Meter};
//!
//! let books = Engine::builder()
//!     .meter(Meter::sum("tokens", "total_tokens"))
//!     .limit(Limit::per_day("daily-tokens", "tokens", 100_000))
//!     .open("memory:")?;
//! let app: axum::Router = Server::new(books).key("limitry_sk_of_your_own").router();
//! # let _ = app;
//! # Ok::<_, tower_limitry::policy::ConfigError>(())
//! ```
//!
//! Everything is under `/v1` and asks for `Authorization: Bearer` with one of the keys; `/healthz`,
//! `/readyz`, `/metrics` and the OpenAPI document, `/openapi.json`, ask for none. TLS belongs to a proxy in front.
//!
//! | routes | |
//! |---|---|
//! | `/v1/limits`, `/v1/limits/check`, `/v1/limits/{id}` | limits, and where a customer stands |
//! | `/v1/meters`, `/v1/meters/{id}`, `/v1/meters/{id}/query` | meters, and what they read |
//! | `/v1/events`, `/v1/events/record`, `/v1/events/batch` | events |
//! | `/v1/balances`, `/v1/balances/check`, `…/credit`, `…/debit`, `…/{id}`, `…/{id}/transactions` | prepaid balances |
//! | `/v1/customers`, `/v1/customers/{id}`, `…/{id}/balances` | customers, by your id or the API's |
//! | `/v1/project` | the project |
//! | `/v1/x/check`, `/v1/x/settle`, `/v1/x/release`, `/v1/x/renew` | with holds, each safe to repeat under its ids |
//! | `/v1/x/…` | the rest of the books, exactly, for this crate's own client |
//!
//! With the feature `tracing` every request is an event with its id, its route, its status and its time;
//! with `metrics` it is counted. Ids are taken from `X-Request-Id` or made, and answered there.
//!
//! # What to know
//!
//! - A check of `/v1/limits/check` reserves nothing, so requests that run beside each other can
//!   overshoot by what is in flight. Those of `/v1/x/` cannot.
//! - A limit that is narrowed to dimensions is looked at only by checks that name them.
//! - A check without a customer looks at the limits for everybody, over all customers together, by the
//!   events that are still kept.
//! - `Idempotency-Key` is honoured on record (there also as `idempotencyKey` in the body), batch, credit
//!   and debit, for 24 hours and at most 100,000 keys, while the server runs. After a restart, and on
//!   another server of the same books, the same call of before is known by the books: a credit and a debit
//!   for 24 hours too, as far as their transaction is kept; an event's key, and with it that of its batch,
//!   for as long as they remember ids; and a credit's `reference` for ever. An event under a key that is
//!   older than that (in memory ten minutes) is refused as `too_old`, as a repeat could not be told from it.
//! - `createdAt` of a balance is not kept in the books: it tells what this process knows, at the latest the
//!   time at which it was built, as do the times of meters and limits that a program defined.
//! - Of a balance only the minimum can be changed, and it is not removed: `DELETE` is answered 409
//!   `balance_kept`. A list over all customers has those who have a balance of their own or one that
//!   has changed, and costs the more the more customers there are.
//! - The `properties` of an event are read and not kept: no meter can read them, and what they hold
//!   of customers would stay in the books as long as the event. Dimensions are kept and listed.
//! - What a `PUT` leaves out stays as it is. `null` empties what may be empty (a limit's `customerId`
//!   and `alertThresholds`, a meter's `description`, a customer's `name`, `email` and `timezone`) and is
//!   refused for all else.
//! - A credit under a `reference` that was credited before adds nothing: with the same amount it is
//!   answered with that transaction, with another 409 `reference_credited`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::backend::Backend;
use crate::policy::Timestamp;
use crate::wire::{
    BalanceBody, BalanceChangeBody, BalanceChanged, BalanceCheck, BalanceCheckBody, BalanceUpdate,
    CountBody, CustomerBalances, CustomerBody, CustomerChange, EventBatch, EventBody, LimitBody,
    LimitChange, LimitsCheck, LimitsCheckBody, MeterBody, MeterChange, MeterReadingBody,
    MeterReadingQuery, NewBalanceBody, NewCustomer, NewEvent, NewLimit, NewMeter, PageBody,
    ProjectBody, RecordedBody, TransactionBody,
};
use crate::{Books, ErrorKind};

mod answers;
mod auth;
mod balances;
mod calls;
mod customers;
mod definitions;
mod events;
mod guard;
mod health;
mod holds;
mod limits;
mod meters;
mod openapi;
mod own;
mod page;
mod problem;
mod replay;
mod request;
mod settlements;
mod standing;
mod times;

use answers::Answers;
pub use auth::ApiKeys;
use calls::Calls;
pub use definitions::Definitions;
use openapi::{Routes, nothing, takes};
use problem::Problem;
use replay::Replays;
use times::Times;

/// Puts the API together.
#[must_use]
pub struct Server {
    books: Books,
    keys: ApiKeys,
    most_calls: Option<(u32, u32)>,
    project: String,
    most_body: usize,
    timeout: Duration,
    metrics: Option<Box<Render>>,
}

/// Writes the program's metrics.
type Render = dyn Fn() -> String + Send + Sync;

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("books", &self.books)
            .field("keys", &self.keys)
            .field("project", &self.project)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// The API over these books. Without a [key](Self::key) it refuses every call.
    pub fn new(books: Books) -> Self {
        Self {
            books,
            keys: ApiKeys::new(),
            most_calls: None,
            project: "proj_default".into(),
            most_body: 2 * 1024 * 1024,
            timeout: Duration::from_secs(10),
            metrics: None,
        }
    }

    /// Accepts this key. Only its SHA-256 is kept.
    pub fn key(self, key: impl AsRef<str>) -> Self {
        self.keys.accept(key);
        self
    }

    /// Judges by these keys instead of those given so far. They may change while the server runs.
    pub fn keys(mut self, keys: ApiKeys) -> Self {
        self.keys = keys;
        self
    }

    /// Refuses this key as revoked, whether or not it is accepted, so that its users learn why.
    pub fn revoked_key(self, key: impl AsRef<str>) -> Self {
        self.keys.revoke(key);
        self
    }

    /// How often each key may call in a minute and in a day, both of the clock in UTC and at least 1.
    /// More is answered 429 `rate_limit_exceeded` with `Retry-After`. No limit unless set. Counts are
    /// of this process, and begin anew with it.
    pub fn most_calls(mut self, minute: u32, day: u32) -> Self {
        self.most_calls = Some((minute.max(1), day.max(1)));
        self
    }

    /// The id of the project that everything belongs to, `proj_default` unless set. A call that names
    /// another in `X-Project` is refused.
    pub fn project(mut self, id: impl Into<String>) -> Self {
        self.project = id.into();
        self
    }

    /// The longest body of a request, in bytes. 2 MiB unless set: room for 1,000 events. Of all that
    /// arrive at once the server takes up 64 times that; what comes beyond is answered 503 and not done.
    pub fn most_body(mut self, bytes: usize) -> Self {
        self.most_body = bytes;
        self
    }

    /// How long a request may take to arrive and again to be answered. Ten seconds unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Answers `/metrics` with what this writes: the text of a Prometheus exporter that the program
    /// installed. It asks for no key and names no customer.
    pub fn metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.metrics = Some(Box::new(render));
        self
    }

    /// The router.
    pub fn router(self) -> Router {
        let started = self.books.backend().now();
        let (routes, openapi) = api().finish();
        let calls = self.most_calls.map(|(minute, day)| Calls::new(minute, day));
        let app = Arc::new(App {
            books: self.books,
            keys: self.keys,
            calls,
            project: self.project,
            most_body: self.most_body,
            timeout: self.timeout,
            metrics: self.metrics,
            room: Semaphore::new(self.most_body.saturating_mul(64).min(Semaphore::MAX_PERMITS)),
            openapi: openapi.into(),
            started,
            times: Times::new(started),
            replays: Replays::default(),
            answers: Answers::default(),
            changing: tokio::sync::Mutex::new(()),
        });
        let guarded = axum::middleware::from_fn_with_state(Arc::clone(&app), guard::guard);
        Router::new()
            .merge(routes)
            .route("/healthz", get(health::alive))
            .route("/readyz", get(health::ready))
            .route("/metrics", get(health::metrics))
            .route("/openapi.json", get(health::openapi))
            .fallback(no_route)
            .method_not_allowed_fallback(no_method)
            .layer(guarded)
            .with_state(app)
    }
}

fn api() -> Routes {
    const PAGE: &[&str] = &["limit", "cursor"];
    const OF_CUSTOMER: &[&str] = &["limit", "cursor", "customerId"];
    const EVENTS: &[&str] = &["limit", "cursor", "customerId", "eventType"];
    let routes = Routes::new()
        .post(
            "/v1/limits",
            "Makes a limit",
            takes::<NewLimit>().makes::<LimitBody>(),
            limits::create,
        )
        .get(
            "/v1/limits",
            "Lists limits",
            nothing().gives::<PageBody<LimitBody>>().query(OF_CUSTOMER),
            limits::list,
        )
        .post(
            "/v1/limits/check",
            "Tells where a customer stands on every limit that matches",
            takes::<LimitsCheck>().gives::<LimitsCheckBody>(),
            limits::check,
        )
        .get(
            "/v1/limits/{id}",
            "Tells of a limit",
            nothing().gives::<LimitBody>(),
            limits::retrieve,
        )
        .put(
            "/v1/limits/{id}",
            "Changes a limit and keeps its usage",
            takes::<LimitChange>().gives::<LimitBody>(),
            limits::update,
        )
        .delete("/v1/limits/{id}", "Removes a limit", limits::remove)
        .post(
            "/v1/meters",
            "Makes a meter",
            takes::<NewMeter>().makes::<MeterBody>(),
            meters::create,
        )
        .get(
            "/v1/meters",
            "Lists meters",
            nothing().gives::<PageBody<MeterBody>>().query(PAGE),
            meters::list,
        )
        .get(
            "/v1/meters/{id}",
            "Tells of a meter",
            nothing().gives::<MeterBody>(),
            meters::retrieve,
        )
        .put(
            "/v1/meters/{id}",
            "Changes a meter",
            takes::<MeterChange>().gives::<MeterBody>(),
            meters::update,
        )
        .delete("/v1/meters/{id}", "Removes a meter that no limit reads", meters::remove)
        .post(
            "/v1/meters/{id}/query",
            "Reads a meter over a range",
            takes::<MeterReadingQuery>().gives::<MeterReadingBody>(),
            meters::query,
        )
        .get(
            "/v1/events",
            "Lists events, the newest first",
            nothing().gives::<PageBody<EventBody>>().query(EVENTS),
            events::list,
        )
        .post(
            "/v1/events/record",
            "Records an event",
            takes::<NewEvent>().gives::<RecordedBody>(),
            events::record,
        )
        .post(
            "/v1/events/batch",
            "Records up to 1,000 events, all or none",
            takes::<EventBatch>().gives::<CountBody>(),
            events::batch,
        )
        .post(
            "/v1/balances",
            "Makes a balance",
            takes::<NewBalanceBody>().makes::<BalanceBody>(),
            balances::create,
        )
        .get(
            "/v1/balances",
            "Lists the balances of a customer, or of all",
            nothing().gives::<PageBody<BalanceBody>>().query(OF_CUSTOMER),
            balances::list,
        )
        .post(
            "/v1/balances/check",
            "Tells whether a balance covers an amount",
            takes::<BalanceCheck>().gives::<BalanceCheckBody>(),
            balances::check,
        )
        .post(
            "/v1/balances/credit",
            "Adds to a balance, once for each reference",
            takes::<BalanceChangeBody>().gives::<BalanceChanged>(),
            balances::credit,
        )
        .post(
            "/v1/balances/debit",
            "Takes from a balance, if it covers the amount",
            takes::<BalanceChangeBody>().gives::<BalanceChanged>(),
            balances::debit,
        )
        .get(
            "/v1/balances/{id}",
            "Tells of a balance",
            nothing().gives::<BalanceBody>(),
            balances::retrieve,
        )
        .put(
            "/v1/balances/{id}",
            "Changes what must remain of a balance",
            takes::<BalanceUpdate>().gives::<BalanceBody>(),
            balances::update,
        )
        .delete(
            "/v1/balances/{id}",
            "Refused: what was paid and spent stays on record",
            balances::remove,
        )
        .get(
            "/v1/balances/{id}/transactions",
            "Lists the transactions of a balance, the newest first",
            nothing().gives::<PageBody<TransactionBody>>().query(PAGE),
            balances::transactions,
        )
        .post(
            "/v1/customers",
            "Makes a customer",
            takes::<NewCustomer>().makes::<CustomerBody>(),
            customers::create,
        )
        .get(
            "/v1/customers",
            "Lists customers",
            nothing().gives::<PageBody<CustomerBody>>().query(PAGE),
            customers::list,
        )
        .get(
            "/v1/customers/{id}",
            "Tells of a customer",
            nothing().gives::<CustomerBody>(),
            customers::retrieve,
        )
        .put(
            "/v1/customers/{id}",
            "Changes a customer",
            takes::<CustomerChange>().gives::<CustomerBody>(),
            customers::update,
        )
        .delete("/v1/customers/{id}", "Forgets a customer; usage stays", customers::remove)
        .get(
            "/v1/customers/{id}/balances",
            "Tells of every balance of a customer",
            nothing().gives::<CustomerBalances>(),
            balances::of_customer,
        )
        .get(
            "/v1/project",
            "Tells of the project",
            nothing().gives::<ProjectBody>(),
            customers::project,
        );
    own::add(routes)
}

async fn no_route() -> Problem {
    Problem::not_found("route_not_found", "there is no such route")
}

async fn no_method() -> Problem {
    Problem::no_method()
}

/// What handlers share.
type Shared = Arc<App>;

struct App {
    books: Books,
    keys: ApiKeys,
    calls: Option<Calls>,
    project: String,
    most_body: usize,
    timeout: Duration,
    metrics: Option<Box<Render>>,
    /// In bytes, for bodies that arrive.
    room: Semaphore,
    openapi: Bytes,
    started: Timestamp,
    times: Times,
    replays: Replays,
    answers: Answers,
    /// Held by those who look at a definition and then change it.
    changing: tokio::sync::Mutex<()>,
}

impl App {
    fn now(&self) -> Timestamp {
        self.books.backend().now()
    }

    /// A new id of a resource. It carries its time.
    fn make_id(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.books.backend().make_id(self.now()))
    }
}

fn is_not_found(error: &crate::Error) -> bool {
    error.kind() == ErrorKind::NotFound
}
