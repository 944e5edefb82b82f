use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::time::Duration;

use tokio::runtime::Handle;

use super::plans::Plans;
use super::running::Running;
use super::{Inner, LONGEST_HOLD, Remote, Terms, releases, renew};
use crate::Error;
use crate::client::{Client, Http};
use crate::clock::{Clock, SystemClock};
use crate::ids::Ids;

/// Puts a [`Remote`] together.
#[derive(Clone)]
#[must_use]
pub struct RemoteBuilder {
    http: Http,
    clock: Arc<dyn Clock>,
    terms: Terms,
}

impl fmt::Debug for RemoteBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteBuilder")
            .field("http", &self.http)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

impl RemoteBuilder {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            http: client.http().clone(),
            clock: Arc::new(SystemClock::default()),
            terms: Terms {
                hold: Duration::from_secs(60),
                check: Duration::from_secs(2),
                settle: Duration::from_secs(10),
            },
        }
    }

    /// How long a hold lives when its process is gone, 3 seconds to a day. A minute unless set. It is
    /// renewed three times within that time; a server that is away for longer lets it go, and others
    /// may spend what it set aside.
    pub fn hold_for(mut self, lifetime: Duration) -> Self {
        self.terms.hold = lifetime.clamp(Duration::from_secs(3), LONGEST_HOLD);
        self
    }

    /// How long a check may take with all its attempts, however long whoever asked waits. Two
    /// seconds unless set.
    pub fn check_timeout(mut self, within: Duration) -> Self {
        self.terms.check = within;
        self
    }

    /// How long a settlement without an outbox is tried. Ten seconds unless set.
    pub fn settle_timeout(mut self, within: Duration) -> Self {
        self.terms.settle = within;
        self
    }

    /// Tells the time by this clock, until the server's answers tell better. For the system's own
    /// unless set.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The backend. Its calls run on the runtime that this is called in. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) outside of a tokio runtime.
    pub fn open(self) -> Result<Remote, Error> {
        let Self { http, clock, terms } = self;
        let runtime = Handle::try_current()
            .map_err(|_| Error::invalid("runtime", "is missing; open the backend inside tokio"))?;
        let running = Arc::new(Running::default());
        let releases = Arc::default();
        runtime.spawn(renew::keep(http.clone(), Arc::clone(&running), terms.hold));
        runtime.spawn(releases::send_all(http.clone(), Arc::clone(&releases)));
        Ok(Remote(Arc::new(Inner {
            http,
            ids: Ids::default(),
            clock,
            ahead: AtomicI64::new(0),
            runtime,
            terms,
            plans: Plans::default(),
            running,
            releases,
            begun: Arc::default(),
            closed: AtomicBool::new(false),
        })))
    }
}
