use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use redis::cluster::ClusterClientBuilder;
use redis::{Client, cmd};

use super::dial::{Dial, Server};
use super::keys::{Keys, SHARDS};
use super::link::{Link, Target};
use super::registry::Registry;
use super::script::{Scripts, Terms};
use super::sentinel::Sentinels;
use super::shared::Shared;
use super::{Inner, Redis, invalid_url, renewal, reply};
use crate::{Error, ErrorKind};

/// Opens books on Redis in another way than [`Redis::open`].
///
/// ```
/// use std::time::Duration;
/// use tower_limitry::store::Redis;
///
/// let options = Redis::options()
///     .prefix("billing")
///     .timeout(Duration::from_millis(100))
///     .hold_for(Duration::from_secs(30));
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RedisOptions {
    prefix: Box<str>,
    timeout: Duration,
    hold_for: Duration,
    remember: Duration,
    keep_events: usize,
    keep_events_for: Duration,
    keep_rollups_for: Duration,
    keep_transactions: usize,
    wait: Option<(u32, Duration)>,
    evicts: bool,
    roots: Vec<u8>,
    is_timed: bool,
}

impl RedisOptions {
    pub(super) fn new() -> Self {
        Self {
            prefix: "limitry".into(),
            timeout: Duration::from_millis(500),
            hold_for: Duration::from_secs(60),
            remember: Duration::from_secs(600),
            keep_events: 100_000,
            keep_events_for: Duration::from_secs(35 * 24 * 3_600),
            keep_rollups_for: Duration::from_secs(400 * 24 * 3_600),
            keep_transactions: 1_000,
            wait: None,
            evicts: false,
            roots: Vec::new(),
            is_timed: false,
        }
    }

    /// What all keys begin with; `limitry` unless set. Books of different prefixes do not know each
    /// other.
    pub fn prefix(self, prefix: impl Into<Box<str>>) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// How long a step may take before its outcome counts as unknown, waiting for a connection
    /// included; half a second unless set.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: timeout.min(super::LONGEST), ..self }
    }

    /// How long a hold lives whose process is gone; a minute unless set, at least a second. While its
    /// process lives, it is renewed.
    pub fn hold_for(self, time: Duration) -> Self {
        Self { hold_for: time.max(Duration::from_secs(1)), ..self }
    }

    /// How long ids of settled and released requests, and ids given by callers, are remembered; ten
    /// minutes unless set, at most a day. Each takes about a hundred bytes meanwhile.
    pub fn remember_ids_for(self, time: Duration) -> Self {
        Self { remember: time.min(Duration::from_secs(24 * 3_600)), ..self }
    }

    /// Keeps about so many of the newest events, for lists, parts of queries and limits that are added
    /// later; 100,000 unless set. They are spread over 64 streams of as many each.
    pub fn keep_events(self, most: usize) -> Self {
        Self { keep_events: most, ..self }
    }

    /// Lets the events of a shard go when none has come for so long; 35 days unless set.
    pub fn keep_events_for(self, time: Duration) -> Self {
        Self { keep_events_for: time.min(super::LONGEST), ..self }
    }

    /// Keeps what meters come to in every quarter of an hour for so long; 400 days unless set, at least
    /// one. A customer who is there all day takes some 2 kB a day for each meter. The program that was
    /// opened last decides for all that share the books.
    pub fn keep_rollups_for(self, time: Duration) -> Self {
        let day = Duration::from_secs(24 * 3_600);
        Self { keep_rollups_for: time.clamp(day, super::LONGEST), ..self }
    }

    /// Keeps so many of the newest changes of each customer's balances; 1,000 unless set, at least one and
    /// at most 2^32 - 1, which is what a list of the server takes.
    pub fn keep_transactions(self, most: usize) -> Self {
        Self { keep_transactions: most.clamp(1, u32::MAX as usize), ..self }
    }

    /// Answers a settlement that charges a balance, and a credit or debit, only once so many replicas
    /// have it, or after that time; not at all unless set. Whether it was in time is not told: it
    /// makes a loss less likely, no more. Other steps of this process wait meanwhile, too, as they share
    /// the connection. Not for clusters.
    pub fn wait_for_replicas(self, replicas: u32, at_most: Duration) -> Self {
        Self { wait: Some((replicas, at_most.min(super::LONGEST))), ..self }
    }

    /// Accepts a server whose `maxmemory-policy` drops keys when memory is short. What it drops then
    /// is counted from nothing, balances included.
    pub fn danger_accept_eviction(self) -> Self {
        Self { evicts: true, ..self }
    }

    /// Trusts these certificates too, in PEM, for `rediss:` and its kin: the roots of a network of your own.
    pub fn root_certificates(mut self, pem: &[u8]) -> Self {
        self.roots.extend_from_slice(pem);
        self.roots.push(b'\n');
        self
    }

    /// Takes the engine's clock for the server's, so that tests can move it by hand. The processes
    /// that share books would have to move it together.
    #[cfg(feature = "test-util")]
    #[doc(hidden)]
    pub fn danger_time_of_the_engine(self) -> Self {
        Self { is_timed: true, ..self }
    }

    /// Opens the books on this server.
    ///
    /// # Errors
    ///
    /// As [`Redis::open`].
    pub fn open(self, url: &str) -> Result<Redis, Error> {
        if self.prefix.is_empty() || self.prefix.contains(['{', '}']) {
            return Err(Error::invalid("prefix", "is empty or has braces; give a plain word"));
        }
        let target = target(url, self.timeout, &self.roots)?;
        if self.wait.is_some() && matches!(target, Target::Cluster(..)) {
            let problem = "cannot be had from a cluster; leave it out";
            return Err(Error::invalid("wait_for_replicas", problem));
        }
        let terms = Terms {
            remember: self.remember,
            keep_events: self.keep_events.div_ceil(usize::from(SHARDS)),
            keep_events_for: self.keep_events_for,
            keep_transactions: self.keep_transactions,
            is_timed: self.is_timed,
        };
        let scripts = Arc::new(Scripts::of(&terms));
        let link = Link::start(target, Arc::clone(&scripts), self.timeout, self.wait.is_none())?;
        let caller = link.caller();
        let asked = caller.clone();
        let policy = link.block_on(async move {
            let mut info = cmd("INFO");
            info.arg("memory");
            let node = asked.nodes().await?.into_iter().next().unwrap_or_default();
            let value = asked.call_node(&node, &info, asked.deadline()).await?;
            Ok(reply::text(value)?.unwrap_or_default())
        })?;
        let policy = policy.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
        if let Some(policy) = policy.map(str::trim).filter(|policy| *policy != "noeviction")
            && !self.evicts
        {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "the redis server has maxmemory-policy {policy}, which drops counters and \
                     balances when memory is short; set it to noeviction, or accept that \
                     (danger_accept_eviction)"
                ),
            ));
        }
        let inner = Arc::new(Inner {
            caller,
            shared: Shared::new(Keys::new(&self.prefix), self.keep_rollups_for),
            registry: Arc::new(Registry::default()),
            hold_for: self.hold_for,
            terms,
            scripts,
            wait: self.wait,
            renewed: std::sync::Mutex::default(),
            writing: Arc::default(),
        });
        if !self.is_timed {
            link.spawn(renewal::go_on(Arc::downgrade(&inner)));
        }
        Ok(Redis { inner, link })
    }
}

/// What a URL leads to. It may hold a password, and is never told.
fn target(url: &str, timeout: Duration, roots: &[u8]) -> Result<Target, Error> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid_url("has no scheme"))?;
    match scheme {
        "redis" => Ok(Target::Server(Box::new(Server::of(rest, Dial::default())?))),
        "rediss" => Ok(Target::Server(Box::new(Server::of(rest, Dial::behind_tls(roots)?)?))),
        "redis-cluster" => cluster(rest, timeout, Dial::default()),
        "rediss-cluster" => cluster(rest, timeout, Dial::behind_tls(roots)?),
        "redis-sentinel" => sentinels(rest, Dial::default()),
        "rediss-sentinel" => sentinels(rest, Dial::behind_tls(roots)?),
        _ => Err(invalid_url(
            "has another scheme than redis, redis-sentinel and redis-cluster, or with TLS rediss, \
             rediss-sentinel and rediss-cluster",
        )),
    }
}

fn cluster(rest: &str, timeout: Duration, dial: Dial) -> Result<Target, Error> {
    let (user, hosts) = split_user(rest);
    let hosts = hosts.trim_end_matches('/');
    let nodes: Vec<String> = hosts.split(',').map(|host| format!("redis://{user}{host}")).collect();
    let client = ClusterClientBuilder::new(nodes)
        // What is asked again is asked under its id, by us.
        .retries(1)
        .min_retry_wait(1)
        .max_retry_wait(10)
        .connection_timeout(timeout)
        .response_timeout(timeout)
        .overall_response_timeout(Some(timeout * 2))
        .build()
        .map_err(|_| invalid_url("makes no sense; give redis-cluster://host:port,host:port"))?;
    Ok(Target::Cluster(Box::new(client), dial))
}

fn sentinels(rest: &str, dial: Dial) -> Result<Target, Error> {
    let (user, rest) = split_user(rest);
    let mut parts = rest.splitn(2, '/');
    let hosts = parts.next().unwrap_or_default();
    let name = parts.next().unwrap_or_default();
    let (name, db) = name.split_once('/').unwrap_or((name, ""));
    if name.is_empty() {
        return Err(invalid_url("has no name of a master behind the hosts"));
    }
    let mut addresses = Vec::new();
    for host in hosts.split(',') {
        let (host, port) = host.rsplit_once(':').unwrap_or((host, "26379"));
        let port = port.parse().map_err(|_| invalid_url("has a port that is no number"))?;
        addresses.push((host.to_owned(), port));
    }
    let login = Client::open(format!("redis://{user}localhost/{db}"))
        .map_err(|_| invalid_url("has a login or a db that makes no sense"))?;
    Ok(Target::Sentinel(Box::new(Sentinels {
        dial,
        addresses,
        name: name.to_owned(),
        login: login.get_connection_info().redis_settings().clone(),
        first: AtomicUsize::new(0),
    })))
}

/// A login before the hosts, with its `@`.
fn split_user(rest: &str) -> (&str, &str) {
    rest.rfind('@').map_or(("", rest), |at| rest.split_at(at + 1))
}
