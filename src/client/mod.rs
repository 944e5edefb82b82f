//! Limitry's API from the other side: every call typed, over HTTPS.
//!
//! ```no_run
//! use tower_limitry::client::{Client, StandingQuery};
//! use tower_limitry::{Event, Usage};
//!
//! # async fn run() -> Result<(), tower_limitry::Error> {
//! let client = Client::from_env()?; // LIMITRY_API_KEY
//!
//! let standing = client.limits().check(StandingQuery::of("acct_42")).await?;
//! if standing.allowed {
//!     let tokens = 812; // of the work that runs here
//!     let event = Event::new("acct_42", "llm.completion", Usage::of("tokens", tokens));
//!     client.events().record(&event).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] takes the API call by call: it decides nothing and keeps nothing.
//!
//! # What goes wrong
//!
//! Every error is an [`Error`] whose [kind](Error::kind) says what to do, and behind it, when the API
//! answered at all, what it said ([`ApiError`]). A key is in none of them, nor is anything that a
//! customer sent.
//!
//! - What only reads, and what is written under an id, is sent again: when there is no connection,
//!   when it breaks, on 408, 429 and 5xx. With growing, partly random waits, or after as long as
//!   `Retry-After` says; within the time that the call has, or not at all.
//! - Whether something was done that may not be done twice can stay unknown. That is told as
//!   [`TimedOut`](crate::ErrorKind::TimedOut), never as refused.
//! - Limitry's own 429, a key that is not accepted, and what a proxy answers in its place are
//!   [`Unavailable`](crate::ErrorKind::Unavailable): never a denial, and nothing is given up for it.
//! - After failures in a row the API is left alone for a while, and calls fail at once
//!   ([`BreakerOpen`]).
//! - Redirects are not followed: a key must not go to another host. Answers are bounded in size.
//!
//! With the feature `metrics`: the counter `limitry.client_retries`, and the gauge
//! `limitry.client_breaker`, which is 0 while calls go through, 1 while one looks whether the API is
//! back, and 2 while none are sent.

use std::fmt;
use std::sync::Arc;

use crate::Error;
use crate::ids::Ids;
use crate::policy::{EventId, Timestamp};

mod address;
mod answer;
mod attempt;
mod balances;
mod breaker;
mod builder;
mod call;
#[cfg(feature = "embedded")]
mod connect;
mod customers;
mod error;
mod events;
mod hosted;
mod http;
mod limits;
mod meters;
mod pages;
mod project;
mod remote;
mod retry;

pub use answer::Defined;
pub use balances::{BalanceTransaction, Balances, Changed, CustomerBalance, Sufficiency};
pub use builder::ClientBuilder;
#[cfg(feature = "embedded")]
pub use connect::outbox_path;
pub use customers::{CustomerRecord, CustomerTerms, Customers};
pub use error::{ApiError, BreakerOpen};
pub use events::Events;
pub use hosted::{Debt, Hosted, HostedBuilder, HostedCheck, HostedFinish};
pub use limits::{LimitChange, LimitStanding, Limits, Standing, StandingQuery};
pub use meters::{MeterChange, Meters};
pub use pages::Pages;
pub use project::Project;
pub use remote::{Remote, RemoteBuilder, RemoteCheck, RemoteFinish};

pub(crate) use call::Call;
pub(crate) use events::{CountAnswer, Told};
pub(crate) use http::Http;

/// The API of Limitry, or of a server that speaks the same. Cheap to clone; clones share their
/// connections.
#[derive(Clone)]
pub struct Client {
    http: Http,
    ids: Arc<Ids>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.http).finish()
    }
}

impl Client {
    /// By the environment: `LIMITRY_API_KEY`, and if they are set `LIMITRY_BASE_URL`
    /// (`https://api.limitry.com/v1` otherwise) and `LIMITRY_PROJECT`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a variable that is missing or makes no
    /// sense; the message names it.
    pub fn from_env() -> Result<Self, Error> {
        Self::builder_from_env()?.build()
    }

    /// The same, to be set further.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    pub fn builder_from_env() -> Result<ClientBuilder, Error> {
        ClientBuilder::from_env()
    }

    /// Starts to put a client together that uses this key.
    pub fn builder(key: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(key.into())
    }

    fn new(http: Http) -> Self {
        Self { http, ids: Arc::default() }
    }

    /// Limits, and where customers stand on them.
    pub fn limits(&self) -> Limits<'_> {
        Limits(self)
    }

    /// Meters, and what they read.
    pub fn meters(&self) -> Meters<'_> {
        Meters(self)
    }

    /// Recorded uses.
    pub fn events(&self) -> Events<'_> {
        Events(self)
    }

    /// Prepaid balances.
    pub fn balances(&self) -> Balances<'_> {
        Balances(self)
    }

    /// Customers of whom something is known beyond usage.
    pub fn customers(&self) -> Customers<'_> {
        Customers(self)
    }

    /// A new id for an event of that time.
    pub(crate) fn make_id(&self, at: Timestamp) -> EventId {
        self.ids.make(at)
    }

    /// A new id for a call of now.
    fn fresh_id(&self) -> String {
        self.make_id(std::time::SystemTime::now().into()).to_string()
    }

    /// The way to the API.
    pub(crate) fn http(&self) -> &Http {
        &self.http
    }
}

/// What becomes of a call that writes, when it is not known whether it was done: the connection
/// broke, or the answer did not come in time.
///
/// Every such call carries an id, the same on every attempt, in `Idempotency-Key`. A server that
/// knows ids counts it once; this crate's own does. Of one that does not know them, say here what is
/// the lesser evil.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repeat {
    /// It is sent again: done once by a server that knows ids, perhaps twice by one that does not.
    /// The default.
    #[default]
    AtLeastOnce,
    /// It is not sent again, and is told as [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut): done
    /// once, or not at all.
    AtMostOnce,
}
