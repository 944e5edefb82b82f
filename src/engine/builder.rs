use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::kept::block_on;
use super::{Clock, Engine, SystemClock};
use crate::Error;
use crate::backend::Books;
use crate::clock::{Moment, Steady};
use crate::engine::definitions::Definitions;
use crate::policy::{Calendar, ConfigError, Crossing, Limit, Meter, NewBalance, RecordedEvent};
use crate::store::{Memory, Store};

/// Puts an [`Engine`] together. What is wrong with a definition is told by
/// [`build`](Self::build); requests never find it out.
#[must_use]
pub struct EngineBuilder {
    pub(crate) meters: Vec<Meter>,
    pub(crate) limits: Vec<Limit>,
    pub(crate) balances: Vec<NewBalance>,
    pub(super) zone: Option<Box<str>>,
    pub(super) clock: Option<Arc<dyn Clock>>,
    pub(super) on_event: Option<Arc<OnEvent>>,
    pub(super) on_alert: Option<Arc<OnAlert>>,
    pub(super) alerts_again: bool,
    pub(super) memory: Memory,
    pub(crate) open_wait: Duration,
}

pub(super) type OnEvent = dyn Fn(&RecordedEvent) + Send + Sync;
pub(super) type OnAlert = dyn Fn(&Crossing) + Send + Sync;

impl EngineBuilder {
    pub(super) fn new() -> Self {
        Self {
            meters: Vec::new(),
            limits: Vec::new(),
            balances: Vec::new(),
            zone: None,
            clock: None,
            on_event: None,
            on_alert: None,
            alerts_again: false,
            memory: Memory::new(),
            open_wait: Duration::ZERO,
        }
    }

    /// Defines a meter.
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meters.push(meter);
        self
    }

    /// Defines a limit.
    pub fn limit(mut self, limit: Limit) -> Self {
        self.limits.push(limit);
        self
    }

    /// Gives every customer a balance of these terms. It takes no space until it changes.
    pub fn default_balance(mut self, terms: NewBalance) -> Self {
        self.balances.push(terms);
        self
    }

    /// The IANA time zone of customers who have none of their own; UTC unless set.
    pub fn zone(mut self, zone: impl Into<Box<str>>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Tells the time instead of the operating system.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Hears of every event that was recorded, in the form in which it was; of a repeat not again.
    /// Called by the thread that settled, after the event was counted and before the answer to the
    /// settlement; events of different threads come in any order. Keep it short.
    pub fn on_event(mut self, hook: impl Fn(&RecordedEvent) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(hook));
        self
    }

    /// Hears when usage reaches a percentage that a limit [alerts at](Limit::alert_at). Called once
    /// per limit, customer, window and percentage, by the thread that settled, lower percentages
    /// first; alerts of different threads come in any order. Keep it short.
    pub fn on_alert(mut self, hook: impl Fn(&Crossing) + Send + Sync + 'static) -> Self {
        self.on_alert = Some(Arc::new(hook));
        self
    }

    /// After a restart, has [`on_alert`](Self::on_alert) hear again of every alert in a window that
    /// has not ended, with the usage of now: the process before may have ended between the count and
    /// the call. For a hook that knows repeats, as that of `webhooks` does, over a store that keeps
    /// which alerts fell due: a SQLite file and Redis do, and of any other nothing is told again. On
    /// Redis every process hears of those of all. They are told before
    /// [`build_on`](Self::build_on) returns, in any order; those of limits that are gone are not.
    pub fn alert_again_after_restart(mut self) -> Self {
        self.alerts_again = true;
        self
    }

    /// The memory store with other bounds than the defaults.
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Waits so long for another process that has the file open which [`open`](Self::open) names, as in
    /// a deployment where the new process starts before the old one has ended. Not at all unless set.
    pub fn open_wait(mut self, wait: Duration) -> Self {
        self.open_wait = wait;
        self
    }

    /// Builds the engine over the memory store.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first definition that makes no sense.
    pub fn build(mut self) -> Result<Books<Engine>, ConfigError> {
        let memory = std::mem::take(&mut self.memory);
        self.build_on(memory)
    }

    /// Builds the engine over any store.
    ///
    /// Of a store that outlives the process, meters, limits and customers that were added while it
    /// ran are there again. A meter or limit of the same id that is given here wins, except over one in
    /// books that other processes share, and a limit needs its
    /// meter: define here what it reads, if the program no longer does. A limit that is new to the
    /// store counts the events that it has.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), and when what the store has cannot be read.
    pub fn build_on<S: Store>(self, store: S) -> Result<Books<Engine<S>>, ConfigError> {
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock::default()));
        let steady = Steady::default();
        let alone = block_on(store.alone()).map_err(of_store)?;
        let kept = store.load(Moment::now(steady.steady(&*clock), &*clock)).map_err(of_store)?;
        let keeps = kept.is_some();
        let mut kept = kept.unwrap_or_default();
        let mut definitions = Definitions::counting(std::mem::take(&mut kept.counters));
        for (counter, since) in kept.since.drain(..) {
            definitions.incomplete_until(counter, since);
        }
        for meter in &self.meters {
            definitions.add_meter(meter.clone())?;
        }
        for meter in &kept.meters {
            if definitions.meter(meter.id()).is_none() {
                definitions.add_meter(meter.clone())?;
            }
        }
        for limit in &self.limits {
            definitions.add_limit(limit.clone())?;
        }
        for limit in &kept.limits {
            if definitions.limit(limit.id()).is_none() {
                definitions.add_limit(limit.clone())?;
            }
        }
        if kept.shared {
            let (meters, limits) =
                (std::mem::take(&mut kept.meters), std::mem::take(&mut kept.limits));
            definitions.share();
            definitions.take_over(meters, limits, &kept.removed_meters, &kept.removed_limits)?;
        }
        let calendar = Calendar::new(self.zone.as_deref(), None).map_err(|error| {
            let zone = self.zone.as_deref().unwrap_or_default();
            ConfigError::new("zone", format!("{zone:?}: {error}"))
        })?;
        for (at, terms) in self.balances.iter().enumerate() {
            terms.validate()?;
            if self.balances[..at].iter().any(|earlier| earlier.name == terms.name) {
                return Err(ConfigError::new(
                    format!("default balance {:?}", terms.name),
                    "is defined twice; give each balance a name of its own",
                ));
            }
        }
        let engine = Engine::new(
            store,
            definitions,
            self.balances,
            calendar,
            (clock, steady),
            self.on_event,
            self.on_alert,
        );
        if keeps {
            engine.take_up(kept, self.alerts_again).map_err(of_store)?;
        }
        block_on(alone.end());
        Ok(Books::new(engine))
    }

    /// Builds the engine over the store that a URL names, for a choice that belongs in
    /// configuration. (`open_from_env`, of the feature `client`, takes it from there, and servers
    /// too.)
    ///
    /// | URL | where the books are |
    /// |---|---|
    /// | `memory:` | in this process, until it ends |
    /// | `sqlite:usage.db` | in that file (feature `sqlite`) |
    /// | `redis://host:port` | on that server, also `redis-sentinel:` and `redis-cluster:`, and all three with `rediss` for TLS (feature `redis`) |
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a URL that names no store or one that cannot be opened, and as
    /// [`build`](Self::build).
    pub fn open(self, url: &str) -> Result<Books, ConfigError> {
        match url.split_once(':').unwrap_or_default() {
            ("memory", "") => Ok(self.build()?.erased()),
            #[cfg(feature = "sqlite")]
            ("sqlite", path) if !path.is_empty() => {
                let options = crate::store::Sqlite::options().memory(self.memory);
                let store = options.open_wait(self.open_wait).open(path).map_err(of_store)?;
                Ok(Self { memory: Memory::new(), ..self }.build_on(store)?.erased())
            }
            #[cfg(feature = "redis")]
            (
                "redis" | "rediss" | "redis-sentinel" | "rediss-sentinel" | "redis-cluster"
                | "rediss-cluster",
                _,
            ) => {
                let store = crate::store::Redis::open(url).map_err(of_store)?;
                Ok(self.build_on(store)?.erased())
            }
            // A URL may hold a password; only its scheme is told.
            (scheme, _) => Err(ConfigError::new(
                "backend URL",
                format!(
                    "is none that this program can open, by its scheme {scheme:?}; give memory:, with the feature sqlite sqlite:PATH, or with the feature redis redis://HOST"
                ),
            )),
        }
    }
}

fn of_store(error: Error) -> ConfigError {
    let mut reason = error.to_string();
    if let Some(cause) = std::error::Error::source(&error) {
        reason = format!("{reason}: {cause}");
    }
    ConfigError::new("backend", reason)
}

impl fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineBuilder")
            .field("meters", &self.meters)
            .field("limits", &self.limits)
            .field("balances", &self.balances)
            .finish_non_exhaustive()
    }
}
