//! The books on a server of this crate, shared by any number of processes.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use tower_limitry::Books;
//! use tower_limitry::client::{Client, Remote};
//! use tower_limitry::outbox::Outbox;
//!
//! let client = Client::builder("limitry_sk_of_your_own").base_url("http://127.0.0.1:8080/v1").build()?;
//! let remote = Remote::builder(&client).open()?;
//! let books = Books::new(Outbox::builder(remote).open("usage.outbox").await?);
//! # let _ = books;
//! # Ok(())
//! # }
//! ```
//!
//! # What a request costs
//!
//! One round trip for the check; none for the settlement, behind an
//! [`Outbox`](crate::outbox::Outbox), which delivers up to 1,000 in one call. Without an outbox a
//! settlement is a call of its own, repeated for some seconds and then given up.
//!
//! # Holds
//!
//! They are on the server, so all processes together never spend more than there is. A hold lives for
//! a minute ([`RemoteBuilder::hold_for`]) and is renewed while its request runs, all of a process in
//! one call; one whose process is gone ends by itself. A settlement that comes after that still
//! counts. A check that names a lifetime of its own is not renewed.
//!
//! # What is known of a call without an answer
//!
//! Nothing, so it is sent again under the same id, which the server counts once. A check that is
//! dropped, or not answered in time, is released; the server then places nothing for it, also if it
//! arrives later. Settlements of an outbox carry their place in its queue, by which the server
//! knows repeats however late, and tells when it has lost what it had taken
//! ([`Receipt::Behind`](crate::backend::Receipt::Behind)).
//!
//! # What is the server's
//!
//! Meters, limits, default balances and the hooks for events and alerts: they are told there, once.
//! Time, too: an event has the time at which the server decided.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;

use super::{Client, Http};
use crate::Error;
use crate::backend::{Admin, Backend, Check, Delivery, Receipt, Settlement, Ticket};
use crate::clock::Clock;
use crate::ids::Ids;
use crate::policy::{EventId, Timestamp};
use crate::store::BoxFuture;

mod admin;
mod begun;
mod builder;
mod check;
mod decision;
mod deliver;
mod finish;
mod plans;
mod releases;
mod renew;
mod running;

pub use builder::RemoteBuilder;
pub use check::RemoteCheck;
pub use finish::RemoteFinish;

use begun::Begun;
use plans::Plans;
use releases::Releases;
use running::Running;

/// A backend whose books are on a server of this crate. Cheap to clone.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    http: Http,
    ids: Ids,
    clock: Arc<dyn Clock>,
    /// How far the server's clock is ahead, in nanoseconds.
    ahead: AtomicI64,
    runtime: Handle,
    terms: Terms,
    plans: Plans,
    running: Arc<Running>,
    releases: Arc<Releases>,
    begun: Arc<Begun>,
    closed: AtomicBool,
}

/// For how long.
#[derive(Clone, Copy, Debug)]
struct Terms {
    /// A hold that nobody renews lives.
    hold: Duration,
    /// A check may take.
    check: Duration,
    /// A settlement without an outbox may take.
    settle: Duration,
}

/// The longest that the server lets a hold live without renewal.
const LONGEST_HOLD: Duration = Duration::from_secs(86_400);

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("http", &self.0.http)
            .field("terms", &self.0.terms)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.running.close();
        self.releases.close();
    }
}

impl Remote {
    /// Starts to put a backend together that speaks by this client.
    pub fn builder(client: &Client) -> RemoteBuilder {
        RemoteBuilder::new(client)
    }

    /// Resolves when every check, settlement and release that this process has begun is answered,
    /// or has failed once.
    pub async fn quiet(&self) {
        self.0.begun.quiet().await;
    }
}

impl Backend for Remote {
    type Check = RemoteCheck;
    type Finish = RemoteFinish;

    fn check(&self, check: Check) -> Self::Check {
        check::send(&self.0, check)
    }

    fn settle(&self, settlement: Settlement) -> Self::Finish {
        finish::settle(&self.0, settlement)
    }

    fn settle_many(
        &self,
        batch: Vec<Delivery>,
        within: Duration,
    ) -> BoxFuture<'static, Vec<Result<Receipt, Error>>> {
        Box::pin(deliver::deliver(Arc::clone(&self.0), batch, within))
    }

    fn release(&self, ticket: Ticket) -> Self::Finish {
        finish::release(&self.0, &ticket)
    }

    fn make_id(&self, at: Timestamp) -> EventId {
        self.0.ids.make(at)
    }

    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn admin(&self) -> &dyn Admin {
        self
    }
}

impl Inner {
    /// The server's time, as far as its answers tell.
    fn now(&self) -> Timestamp {
        let ahead = self.ahead.load(Ordering::Relaxed);
        Timestamp::from_nanos(self.clock.now().as_nanos().saturating_add(ahead))
    }

    /// The server has just answered with its time. Clocks that nearly agree are left alone, as the
    /// answer took its time, too.
    fn heard(&self, at: Timestamp) {
        const NEARLY: i64 = 1_000_000_000;
        let ahead = at.as_nanos().saturating_sub(self.clock.now().as_nanos());
        let ahead = if ahead.saturating_abs() < NEARLY { 0 } else { ahead };
        self.ahead.store(ahead, Ordering::Relaxed);
    }
}
