use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::courier::Courier;
use super::file::{File, unopened};
use super::queue::{Bounds, Endpoint, Queue};
use super::secret::Secrets;
use super::sender::{Sender, url};
use super::{Inner, Webhooks};
use crate::Error;
use crate::clock::{Clock, SystemClock};

/// How many deliveries to one endpoint may be on their way at once.
const AT_ONCE: usize = 4;

/// Puts [`Webhooks`] together.
#[must_use]
pub struct WebhooksBuilder {
    path: PathBuf,
    endpoints: Vec<(String, String)>,
    allows_private: bool,
    most: usize,
    most_given_up: usize,
    timeout: Duration,
    open_wait: Duration,
    roots: Vec<u8>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for WebhooksBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhooksBuilder")
            .field("path", &self.path)
            .field("endpoints", &self.endpoints.len())
            .finish_non_exhaustive()
    }
}

impl WebhooksBuilder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            endpoints: Vec::new(),
            allows_private: false,
            most: 100_000,
            most_given_up: 10_000,
            timeout: Duration::from_secs(15),
            open_wait: Duration::ZERO,
            roots: Vec::new(),
            clock: Arc::new(SystemClock::default()),
        }
    }

    /// Tells this `https` URL of every crossing, signed with this secret: `whsec_` and the base64 of
    /// 24 to 64 bytes. While a secret is replaced, give the new one and the old one with a space in
    /// between: every message is then signed with both.
    pub fn endpoint(mut self, url: impl Into<String>, secret: impl Into<String>) -> Self {
        self.endpoints.push((url.into(), secret.into()));
        self
    }

    /// The most deliveries that wait; one crossing is one for each endpoint. 100,000 unless set. A
    /// crossing that finds no room is dropped and counted; what waits is kept.
    pub fn capacity(mut self, deliveries: usize) -> Self {
        self.most = deliveries;
        self
    }

    /// The most deliveries that are kept after they were given up, of all endpoints together. 10,000
    /// unless set, about five megabytes. Beyond that the oldest are forgotten, and counted.
    pub fn keep_given_up(mut self, deliveries: usize) -> Self {
        self.most_given_up = deliveries;
        self
    }

    /// How long an endpoint may take to answer. 15 seconds unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Has [`start`](Self::start) wait so long for another process that has the file open, as in a
    /// deployment where the new process starts before the old one has ended. Not at all unless set.
    pub fn open_wait(mut self, wait: Duration) -> Self {
        self.open_wait = wait;
        self
    }

    /// Trusts these certificates too, in PEM: the roots of a network of your own.
    pub fn root_certificates(mut self, pem: &[u8]) -> Self {
        self.roots.extend_from_slice(pem);
        self.roots.push(b'\n');
        self
    }

    /// Tells the time instead of the operating system. It is looked at four times a second while
    /// something waits.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sends to `http` URLs and to addresses of this machine and this network as well. Whoever may
    /// choose a URL can then have requests sent to what only this machine reaches, such as a
    /// cloud's metadata. For tests, and where every URL is your own.
    pub fn danger_allow_http_and_private_addresses(mut self) -> Self {
        self.allows_private = true;
        self
    }

    /// Opens the file, or makes a new one, and sends what waits there, on the runtime that this is
    /// called in.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a URL, secret or certificate that is none, for no endpoint at all,
    /// for a file of something else, outside of a tokio runtime, and when the system has no
    /// certificates to trust; [`ErrorKind::Conflict`] while another process has the file open;
    /// [`ErrorKind::Unavailable`] when it cannot be read or written.
    ///
    /// [`ErrorKind::Conflict`]: crate::ErrorKind::Conflict
    /// [`ErrorKind::Invalid`]: crate::ErrorKind::Invalid
    /// [`ErrorKind::Unavailable`]: crate::ErrorKind::Unavailable
    pub fn start(self) -> Result<Webhooks, Error> {
        let runtime = Handle::try_current()
            .map_err(|_| Error::invalid("runtime", "is missing; start webhooks inside tokio"))?;
        if self.endpoints.is_empty() {
            return Err(Error::invalid("endpoint", "is missing; name whom to tell"));
        }
        let sender = Sender::new(self.allows_private, self.timeout, &self.roots)?;
        let producer = uuid::Uuid::from_u128(random()).to_string();
        let mut given = Vec::with_capacity(self.endpoints.len());
        for (text, secret) in &self.endpoints {
            let url = url(text, self.allows_private)?;
            if given.iter().any(|(known, _)| *known == url) {
                return Err(Error::invalid("endpoint URL", "is given twice"));
            }
            given.push((url, Secrets::parse(secret)?));
        }
        let file = File::open(&self.path, &producer, self.open_wait)?;
        let mut endpoints = Vec::with_capacity(given.len());
        for (url, secrets) in given {
            let (number, disabled) =
                file.endpoint(&Sha256::digest(url.as_str())).map_err(unopened)?;
            let disabled = AtomicBool::new(disabled);
            endpoints.push(Endpoint { url, secrets, number, disabled });
        }
        let bounds = Bounds { waiting: self.most, given_up: self.most_given_up };
        let queue = Queue::new(file, self.clock, endpoints, bounds).map_err(unopened)?;
        let queue = Arc::new(queue);
        let mut couriers = Vec::new();
        for at in 0..queue.endpoints.len() {
            let courier = Courier { queue: Arc::clone(&queue), at, sender: sender.clone() };
            couriers.extend((0..AT_ONCE).map(|_| runtime.spawn(courier.clone().run())));
        }
        Ok(Webhooks(Arc::new(Inner { queue, couriers })))
    }
}

fn random() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    // The standard library seeds its hasher from the operating system.
    let half = || u128::from(RandomState::new().hash_one(0_u8));
    half() << 64 | half()
}
