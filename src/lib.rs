//! One Tower layer that **checks** a customer's usage limits and prepaid balance before a request
//! runs, lets the **request** run, and **records** what it really used once it has succeeded.
//!
//! ```
//! use axum::{Json, Router, extract::Request, middleware::Next, response::Response, routing::post};
//! use tower_limitry::{Engine, Limit, LimitryLayer, Meter, NewBalance, Usage, customer, usage};
//!
//! # #[derive(serde::Deserialize)]
//! # struct ChatRequest { max_tokens: u64 }
//! # #[derive(serde::Serialize, serde::Deserialize)]
//! # struct ChatResponse { total_tokens: u64 }
//! # async fn chat(Json(_): Json<ChatRequest>) -> Json<ChatResponse> {
//! #     Json(ChatResponse { total_tokens: 42 })
//! # }
//! # async fn authenticate(mut request: Request, next: Next) -> Response {
//! #     request.extensions_mut().insert(User { account: "acct_42".into() });
//! #     next.run(request).await
//! # }
//! #[derive(Clone)]
//! struct User {
//!     account: String,
//! }
//!
//! let books = Engine::builder()
//!     .meter(Meter::sum("tokens", "total_tokens").event_type("llm.completion"))
//!     .limit(Limit::per_day("daily-tokens", "tokens", 100_000).named("Daily token limit"))
//!     .default_balance(NewBalance::new("AI Credits").initial(500))
//!     .build()?;
//!
//! let metered = LimitryLayer::new(
//!     books.clone(),
//!     customer::extension(|user: &User| &user.account),
//!     usage::json(64 * 1024, |answer: &ChatResponse| {
//!         Some(Usage::of("total_tokens", answer.total_tokens))
//!     }),
//! )
//! .event_type("llm.completion")
//! .request_json(64 * 1024, |chat: &ChatRequest| Usage::of("total_tokens", chat.max_tokens))
//! .charge("AI Credits", |usage| usage.value("total_tokens"));
//!
//! let app: Router = Router::new()
//!     .route("/v1/chat/completions", post(chat))
//!     .route_layer(metered)
//!     .layer(axum::middleware::from_fn(authenticate)); // runs first: it says who the customer is
//!
//! # use tower::ServiceExt;
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! # let request = axum::http::Request::post("/v1/chat/completions")
//! #     .header("content-type", "application/json")
//! #     .body(axum::body::Body::from(r#"{"max_tokens":100}"#))?;
//! # let response = app.oneshot(request).await?;
//! # assert_eq!(response.status(), 200);
//! # axum::body::to_bytes(response.into_body(), usize::MAX).await?;
//! let standing = books.usage("acct_42").await?;
//! assert_eq!(standing.limits().next().unwrap().used(), 42.into());
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is counted, and when
//!
//! | word | meaning |
//! |---|---|
//! | customer | who is metered: an opaque id of 1 to 256 bytes |
//! | event | one recorded use: customer, type, values, dimensions, time, id |
//! | meter | how events become a number: [sum](Meter::sum), [count](Meter::count), [max](Meter::max) or [latest](Meter::latest) of a value |
//! | limit | a cap on a meter over a [period](policy::Period), for each customer |
//! | balance | prepaid credits of a customer, by name |
//! | usage | values and dimensions measured from a response; an estimate is usage guessed before |
//! | check | decides over all limits that apply and the balance, and places the hold, as one step |
//! | hold | the estimate, set aside while the request runs |
//! | settle | the request succeeded: records the event, debits the balance, drops the hold, as one step |
//! | release | the request failed: drops the hold, records nothing |
//!
//! - A request that is denied never reaches the inner service and changes nothing.
//! - With an estimate, no number of concurrent requests overspends. Without one, the overshoot is
//!   bounded by what is in flight.
//! - What a request really used is charged in full, also above its estimate and above the cap; the
//!   next request is refused.
//! - Success is decided where it is known: by the status, by the handler's word
//!   ([`Reporter::fail`]), by `grpc-status` in the trailers. A failed request records nothing.
//! - A client that leaves in the middle of a response is charged what was seen, and at least the
//!   estimate until that was final ([`Disconnect`]).
//! - A hold ends exactly once, whatever happens: error, panic, dropped future, cut stream.
//!
//! # Where it belongs among other layers
//!
//! Inside authentication, which says who the customer is. Outside of what transforms the response's
//! body, such as compression, if usage is read from that body: the layer must see it plain, so put
//! it *inside* compression. Outside of timeouts and retries that belong to one request: a retry
//! inside the layer is one use, around it each attempt is. CORS stays outside, so that a browser can
//! read a 429.
//!
//! # When the backend cannot answer
//!
//! The books of an [`Engine`] over [memory](store::Memory) are in this process and always answer,
//! until there are more customers than it may hold or it is [shut down](Books::shutdown); those in a
//! file answer while it can be written. For every
//! backend the layer's [`FailurePolicy`] says what happens then: unless set, requests run unmetered
//! where only limits are checked, and are answered 503 where a balance is charged. Never 429, and
//! never with `RateLimit` headers that were not enforced.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `embedded` | yes | the engine in this process, with the memory store |
//! | `json` | yes | estimates from JSON requests, usage from JSON responses, serde forms |
//! | `llm` | | what language models used, and values of any JSON answer by their pointers ([`usage`]) |
//! | `decompress` | | the same from compressed answers |
//! | `axum` | | extractors and responses for axum handlers |
//! | `grpc` | | refusals as gRPC clients understand them, usage from trailers and messages |
//! | `bearer` | | customers by their hashed keys, bearer or in a header |
//! | `client` | | Limitry's API from the other side: every call typed, the hosted service as a backend, and a server of this crate as one |
//! | `server` | | Limitry's API over these books, as a router to mount |
//! | `outbox` | | settlements for a remote backend wait in a local file until it has them |
//! | `tracing` | | a span for each request, `limitry` with customer and event type, and events: decisions, failures, what was not counted as usual |
//! | `metrics` | | counters through the `metrics` facade |
//! | `redis` | | books on Redis or Valkey, shared by any number of processes (`store::redis`) |
//! | `webhooks` | | threshold crossings as signed webhooks from a durable queue |
//! | `sqlite` | | books in one file that survives restarts and crashes (`store::sqlite`) |
//! | `test-util` | | for your tests: a clock moved by hand, a backend that does what it is told |
//! | `full` | | all of these |

#![cfg_attr(docsrs, feature(doc_cfg))]
// Without a backend nobody reads what the layer would ask it.
#![cfg_attr(not(feature = "embedded"), allow(dead_code, unused_imports))]

#[cfg(feature = "axum")]
pub mod axum;
pub mod backend;
mod body;
pub mod classify;
#[cfg(feature = "client")]
pub mod client;
pub mod clock;
pub mod customer;
#[cfg(any(feature = "outbox", feature = "sqlite"))]
mod durability;
#[cfg(feature = "embedded")]
pub mod engine;
mod error;
mod failure;
#[cfg(any(feature = "outbox", feature = "sqlite"))]
mod file;
mod future;
#[cfg(feature = "grpc")]
pub mod grpc;
mod guard;
mod headers;
mod hook;
#[cfg(any(feature = "client", feature = "embedded"))]
mod ids;
mod json;
mod layer;
mod observe;
#[cfg(feature = "outbox")]
pub mod outbox;
pub mod policy;
mod reject;
mod reporter;
pub mod request;
#[cfg(feature = "server")]
pub mod server;
mod service;
pub mod store;
#[cfg(feature = "test-util")]
pub mod test_util;
#[cfg(any(feature = "client", feature = "redis", feature = "webhooks"))]
mod tls;
pub mod usage;
#[cfg(feature = "webhooks")]
pub mod webhooks;
// The answers are in the words of the server; the client reads them with more indulgence.
#[cfg_attr(not(feature = "server"), allow(dead_code, unused_imports))]
#[cfg(any(feature = "client", feature = "server"))]
mod wire;

pub use backend::{Books, Check, CheckError, Decision, Denial, LimitState, Permit};
pub use body::ResponseBody;
#[cfg(feature = "embedded")]
pub use engine::Engine;
pub use error::{Error, ErrorKind};
pub use failure::FailurePolicy;
pub use future::ResponseFuture;
pub use headers::HeaderStyle;
pub use layer::{Disconnect, LimitryLayer, MissingCustomer, MissingUsage};
pub use policy::{Amount, CustomerId, Event, Limit, Meter, NewBalance, Usage};
pub use reject::{BalanceStatus, DenialStyle, Refusal};
pub use reporter::Reporter;
pub use service::{Limitry, Unmetered};

#[cfg(all(doctest, feature = "full"))]
#[doc = include_str!("../README.md")]
struct Readme;
