use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::debts::{Debt, Debts};
use super::known::Known;
use super::sent::Sent;
use super::suspects::Suspects;
use super::{Hosted, Inner, OnDebt, Terms, pay};
use crate::Error;
use crate::client::Client;
use crate::clock::{Clock, SystemClock};

/// Puts a [`Hosted`] together.
#[derive(Clone)]
#[must_use]
pub struct HostedBuilder {
    client: Client,
    clock: Arc<dyn Clock>,
    terms: Terms,
    debts: Option<PathBuf>,
    open_wait: Duration,
    on_debt: Option<Arc<OnDebt>>,
}

impl fmt::Debug for HostedBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostedBuilder")
            .field("client", &self.client)
            .field("terms", &self.terms)
            .field("debts", &self.debts)
            .finish_non_exhaustive()
    }
}

impl HostedBuilder {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            clock: Arc::new(SystemClock::default()),
            terms: Terms {
                check: Duration::from_millis(1_500),
                settle: Duration::from_secs(10),
                lag: Duration::ZERO,
                debts: Duration::from_secs(60),
                failures: 10,
            },
            debts: None,
            open_wait: Duration::from_secs(5),
            on_debt: None,
        }
    }

    /// How long a check may take with all its calls and attempts. A second and a half unless set, as
    /// in Limitry's own clients.
    pub fn check_timeout(mut self, within: Duration) -> Self {
        self.terms.check = within;
        self
    }

    /// How long a settlement without an outbox is tried. Ten seconds unless set.
    pub fn settle_timeout(mut self, within: Duration) -> Self {
        self.terms.settle = within;
        self
    }

    /// How long the service may take until its checks tell of what it has recorded. Until then that
    /// is counted here, too, so that nobody overspends meanwhile; some may be refused who need not
    /// be. None unless set.
    pub fn visible_after(mut self, lag: Duration) -> Self {
        self.terms.lag = lag;
        self
    }

    /// Keeps debts in this file, which belongs to one process. Unless set they are forgotten with the
    /// process. With [`Repeat::AtMostOnce`](crate::client::Repeat::AtMostOnce) it also has what was sent.
    pub fn debts(mut self, path: impl Into<PathBuf>) -> Self {
        self.debts = Some(path.into());
        self
    }

    /// Waits so long for another process that has the file of [debts](Self::debts) open, as in a
    /// deployment where the new process starts before the old one has ended. Five seconds unless set.
    pub fn open_wait(mut self, wait: Duration) -> Self {
        self.open_wait = wait;
        self
    }

    /// How long to wait before what is owed is tried again. A minute unless set; a credit through this
    /// backend, and a check that finds something on the balance, do not wait.
    pub fn collect_every(mut self, wait: Duration) -> Self {
        self.terms.debts = wait.max(Duration::from_millis(10));
        self
    }

    /// How often the API may fail (a status of 500 and up) at one event that is sent alone, or at one
    /// debit, while it takes others. The settlement is then set aside with its reason by the
    /// [`Outbox`](crate::outbox::Outbox), and what follows it goes on. One that has nothing beside it
    /// to tell its fault from the API's is set aside after a day. Ten times unless set, and at least
    /// once.
    pub fn give_up_after(mut self, failures: u32) -> Self {
        self.terms.failures = failures;
        self
    }

    /// Called when something becomes owed, and again each time that some of it was taken, with what
    /// is still owed.
    pub fn on_debt(mut self, hook: impl Fn(&Debt) + Send + Sync + 'static) -> Self {
        self.on_debt = Some(Arc::new(hook));
        self
    }

    /// Tells the time by this clock. By the system's own unless set.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The backend. Its calls run on the runtime that this is called in. Nothing is sent yet, unless
    /// the file tells of debts.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) while another process has the file open,
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a file that is none of ours and outside
    /// of a tokio runtime, [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) when the file
    /// cannot be read or written.
    pub async fn open(self) -> Result<Hosted, Error> {
        let runtime = Handle::try_current()
            .map_err(|_| Error::invalid("runtime", "is missing; open the backend inside tokio"))?;
        let debts = Debts::open(self.debts, self.open_wait).await?;
        let sent = Sent::open(debts.file()).await?;
        let inner = Arc::new(Inner {
            client: self.client,
            clock: self.clock,
            runtime: runtime.clone(),
            terms: self.terms,
            meters: Known::default(),
            limits: Known::default(),
            ledger: Mutex::default(),
            debts,
            sent,
            suspects: Suspects::default(),
            undebited: Suspects::default(),
            on_debt: self.on_debt,
            paying: tokio::sync::Mutex::new(()),
            closed: AtomicBool::new(false),
            settling: AtomicUsize::new(0),
            ended: Notify::new(),
        });
        runtime.spawn(pay::keep(Arc::downgrade(&inner), self.terms.debts));
        Ok(Hosted(inner))
    }
}
