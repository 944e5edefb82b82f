//! Limitry's API from the other side: every call typed, over HTTPS.
//!
//! ```no_run
//! # async fn run() -> Result<(), tower_limitry::Error> {
//! use tower_limitry::client::Client;
//!
//! let client = Client::from_env()?; // LIMITRY_API_KEY
//! # let _ = client;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::sync::Arc;

use crate::Error;
use crate::ids::Ids;

mod address;
mod attempt;
mod breaker;
mod builder;
mod call;
mod error;
mod http;
mod remote;
mod retry;
mod tls;

pub use builder::ClientBuilder;
pub use error::{ApiError, BreakerOpen};
pub use remote::{Remote, RemoteBuilder, RemoteCheck, RemoteFinish};

pub(crate) use call::Call;
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
