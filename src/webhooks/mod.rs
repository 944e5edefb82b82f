//! Threshold crossings as signed webhooks, from a queue that outlives the process.
//!
//! ```no_run
//! use tower_limitry::webhooks::Webhooks;
//! use tower_limitry::{Engine, Limit, Meter};
//!
//! # async fn start() -> Result<(), Box<dyn std::error::Error>> {
//! let webhooks = Webhooks::open("webhooks.db")
//!     .endpoint("https://example.com/limits", std::env::var("LIMITRY_WEBHOOK_SECRET")?)
//!     .start()?;
//! let books = Engine::builder()
//!     .meter(Meter::sum("tokens", "total_tokens"))
//!     .limit(Limit::per_day("daily-tokens", "tokens", 100_000).alert_at([75, 100]))
//!     .on_alert(webhooks.hook())
//!     .alert_again_after_restart()
//!     .open("sqlite:usage.db")?;
//! // ... serve, and when that is over:
//! books.shutdown(std::time::Duration::from_secs(5)).await?;
//! webhooks.flush(std::time::Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is sent
//!
//! A POST by [Standard Webhooks] 1.0.0: `webhook-id`, `webhook-timestamp` (of this attempt) and
//! `webhook-signature`, and the JSON of Limitry's webhooks:
//!
//! ```json
//! { "event": "limit.threshold_reached", "timestamp": "2026-03-20T08:00:00Z",
//!   "data": { "customerId": "acct_42", "limitId": "monthly", "limitName": "Monthly tokens",
//!             "threshold": 75, "limit": 500000, "currentUsage": 381000, "percentage": 76.2,
//!             "remaining": 119000, "period": "month", "windowStart": "2026-03-01T00:00:00Z",
//!             "windowEnd": "2026-04-01T00:00:00Z" } }
//! ```
//!
//! At 100 percent the event is `limit.exceeded`. The bounds of a window that never ends are null.
//! [`Receiver`] is the other side: it tells whether a request is one of these.
//!
//! # What to expect
//!
//! - Once the hook has returned, the crossing is in the file, and survives the process, however that
//!   ends. A power cut may take the last ones. Where the books outlive the process,
//!   [`alert_again_after_restart`](crate::engine::EngineBuilder::alert_again_after_restart) closes
//!   both that and the gap between the count and the hook: the file knows which crossings it has.
//! - Every crossing has one id, the same in every attempt, to every endpoint, and after a restart:
//!   that of customer, limit, window and percentage in this file. Each is sent **at least once**; an
//!   endpoint that answers too late hears it again. Act once for each id.
//! - Messages come in **no particular order**, also to one endpoint: several are on their way at
//!   once, and one that failed comes later.
//! - Success is a status 2xx, within 15 seconds. All else is tried again after 5 seconds, 5 and 30
//!   minutes, 2, 5, 10, 14, 20 and 24 hours, each with up to a tenth more at random, and later where
//!   `Retry-After` asks for it, within a day. After ten attempts a message is given up and kept
//!   ([`Webhooks::retry_given_up`]), so many at most ([`WebhooksBuilder::keep_given_up`]).
//! - 410 disables the endpoint: nothing waits for it any more, also after a restart, until it is
//!   [enabled](Webhooks::enable).
//! - Redirects are not followed, proxies of the environment not used, and bodies of answers not
//!   read. Only `https` URLs are taken, and only addresses that anybody can reach, which is looked
//!   at after the host was looked up and before it is connected to.
//! - The queue is bounded ([`WebhooksBuilder::capacity`]). A crossing that finds no room is dropped
//!   and counted; what waits is kept. While the file cannot be written, crossings wait in memory,
//!   within the same bound, and nothing of them is sent.
//!
//! # What operators see
//!
//! [`Webhooks::stats`], and with the feature `metrics`: the gauge `limitry.webhooks_waiting` and the
//! counters `limitry.webhook_attempts` (by `result`: `delivered`, `failed`, `given_up`, `gone`),
//! `limitry.webhooks_dropped`, `limitry.webhooks_forgotten` (given up, and then too many) and
//! `limitry.webhooks_write_errors`.
//!
//! # The file
//!
//! It belongs to one process: a second one that opens it is told so at once, unless it is to
//! [wait](WebhooksBuilder::open_wait). It holds customers' ids
//! and usage until they are delivered, and ids without them until the window has ended; of URLs it holds hashes, of
//! secrets nothing. Without it the same crossing gets another id.
//!
//! [Standard Webhooks]: https://www.standardwebhooks.com

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::policy::Crossing;
use crate::{Error, ErrorKind};

mod address;
mod builder;
mod courier;
mod file;
mod payload;
mod queue;
mod receiver;
mod schedule;
mod secret;
mod sender;

pub use builder::WebhooksBuilder;
pub use receiver::Receiver;

use queue::Queue;

/// Tells endpoints of crossings. Cheap to clone; runs as long as a clone or a [hook](Self::hook) is
/// there.
#[derive(Clone)]
pub struct Webhooks(Arc<Inner>);

struct Inner {
    queue: Arc<Queue>,
    couriers: Vec<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.couriers.iter().for_each(JoinHandle::abort);
    }
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.0.queue.endpoints.len();
        f.debug_struct("Webhooks").field("endpoints", &endpoints).finish_non_exhaustive()
    }
}

/// How webhooks stand.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebhooksStats {
    /// How many deliveries wait, those on their way included.
    pub waiting: usize,
    /// How many were given up after the last attempt, and are kept.
    pub given_up: usize,
    /// How many that were given up were forgotten because they were too many, since this was started.
    pub forgotten: u64,
    /// How many endpoints have answered 410 and hear nothing.
    pub disabled: usize,
    /// How many crossings were dropped because there was no room, since this was started.
    pub dropped: u64,
    /// Whether the file cannot be written right now.
    pub is_failing: bool,
}

impl Webhooks {
    /// Begins with the file of the queue.
    pub fn open(path: impl Into<PathBuf>) -> WebhooksBuilder {
        WebhooksBuilder::new(path.into())
    }

    /// For [`EngineBuilder::on_alert`](crate::engine::EngineBuilder::on_alert). It writes to the file
    /// on the thread that settles, and waits for no sync of the disk but where SQLite's log is copied
    /// into the file, about once in a thousand pages.
    pub fn hook(&self) -> impl Fn(&Crossing) + Send + Sync + 'static {
        let webhooks = self.clone();
        move |crossing| webhooks.0.queue.tell(crossing)
    }

    /// Resolves when nothing is on its way and nothing is due. What waits for its next attempt stays
    /// in the file, for the next process.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] when that is not so at the deadline; what is left stays in the file.
    pub async fn flush(&self, deadline: Duration) -> Result<(), Error> {
        const NOW_AND_THEN: Duration = Duration::from_millis(100);
        let end = Instant::now() + deadline;
        loop {
            let landed = self.0.queue.landed.notified();
            if self.0.queue.is_idle() {
                return Ok(());
            }
            if Instant::now() >= end {
                let message = "webhooks are still on their way at the deadline";
                return Err(Error::new(ErrorKind::TimedOut, message));
            }
            // Time makes things due, too, and tells nobody.
            let _ = timeout_at(end.min(Instant::now() + NOW_AND_THEN), landed).await;
        }
    }

    /// Sends to an endpoint again that has answered 410, what comes from here on. Answers whether
    /// there is one of that URL.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the file cannot be written.
    pub fn enable(&self, url: &str) -> Result<bool, Error> {
        let Ok(url) = reqwest::Url::parse(url) else { return Ok(false) };
        let mut endpoints = self.0.queue.endpoints.iter();
        let Some(endpoint) = endpoints.find(|endpoint| endpoint.url == url) else {
            return Ok(false);
        };
        self.0.queue.enable(endpoint).map_err(unreadable)?;
        Ok(true)
    }

    /// Begins anew with every message that was given up. Answers how many those are.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the file cannot be written.
    pub fn retry_given_up(&self) -> Result<usize, Error> {
        self.0.queue.try_again().map_err(unreadable)
    }

    /// How it stands.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the file cannot be read.
    pub fn stats(&self) -> Result<WebhooksStats, Error> {
        self.0.queue.stats().map_err(unreadable)
    }
}

fn unreadable(error: rusqlite::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the webhooks file cannot be used").with_source(error)
}
