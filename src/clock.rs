//! The time, passed in: wall time for windows, monotonic time for waits and expiry.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::policy::Timestamp;

/// Tells the time: wall time for windows, monotonic time for waits and expiry.
///
/// Called once or twice for each request, so it should be quick.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Wall time. May jump, also backwards.
    fn now(&self) -> Timestamp;

    /// Time since some start of its own. Never goes backwards.
    fn monotonic(&self) -> Duration;
}

/// The clocks of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Wall time that never goes backwards, so that no window opens twice.
///
/// When the clock is set back, this time goes on from where it was at half speed until the clock has
/// caught up. When the clock is set forward, it follows at once; so a jump far ahead and back again
/// leaves it ahead for twice the jump, and only a restart brings it back.
#[derive(Debug)]
pub(crate) struct Steady {
    /// The latest time given, to the millisecond and never behind a minute that has begun.
    latest: AtomicI64,
    slow: Mutex<Option<SlowedFrom>>,
}

#[derive(Clone, Copy, Debug)]
struct SlowedFrom {
    wall: Timestamp,
    monotonic: Duration,
}

impl Default for Steady {
    fn default() -> Self {
        Self { latest: AtomicI64::new(i64::MIN), slow: Mutex::default() }
    }
}

impl Steady {
    /// The time, given what the clock says.
    #[inline]
    pub(crate) fn steady(&self, clock: &dyn Clock) -> Timestamp {
        const MILLISECOND: i64 = 1_000_000;
        const MINUTE: i64 = 60_000 * MILLISECOND;
        let now = clock.now().as_nanos();
        let latest = self.latest.load(Ordering::Relaxed);
        if now < latest {
            return self.slowed(clock, now);
        }
        // Written rarely, so that threads do not fight over it.
        if now.saturating_sub(latest) > MILLISECOND || now / MINUTE != latest / MINUTE {
            self.latest.fetch_max(now, Ordering::Relaxed);
        }
        Timestamp::from_nanos(now)
    }

    #[cold]
    fn slowed(&self, clock: &dyn Clock, now: i64) -> Timestamp {
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = Timestamp::from_nanos(self.latest.load(Ordering::Relaxed));
        let monotonic = clock.monotonic();
        // A slow stretch that was caught up with is over; this one starts here.
        let from = match *slow {
            Some(from) if slowed_time(from, monotonic) >= latest => from,
            _ => *slow.insert(SlowedFrom { wall: latest, monotonic }),
        };
        let time = slowed_time(from, monotonic).max(Timestamp::from_nanos(now));
        self.latest.fetch_max(time.as_nanos(), Ordering::Relaxed);
        time
    }
}

fn slowed_time(from: SlowedFrom, monotonic: Duration) -> Timestamp {
    from.wall.saturating_add(monotonic.saturating_sub(from.monotonic) / 2)
}

/// A moment on both clocks: wall time, for windows, and monotonic time, for waits and expiry, which
/// is read only when somebody asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    wall: Timestamp,
    monotonic: Monotonic<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Monotonic<'a> {
    Read(Duration),
    Unread(&'a dyn Clock),
}

impl<'a> Moment<'a> {
    /// That moment on both clocks.
    pub fn new(wall: Timestamp, monotonic: Duration) -> Self {
        Self { wall, monotonic: Monotonic::Read(monotonic) }
    }

    pub(crate) fn now(wall: Timestamp, clock: &'a dyn Clock) -> Self {
        Self { wall, monotonic: Monotonic::Unread(clock) }
    }

    /// Wall time.
    pub fn wall(&self) -> Timestamp {
        self.wall
    }

    /// Monotonic time.
    pub fn monotonic(&self) -> Duration {
        match self.monotonic {
            Monotonic::Read(monotonic) => monotonic,
            Monotonic::Unread(clock) => clock.monotonic(),
        }
    }

    /// The same moment, to keep.
    pub fn read(&self) -> Moment<'static> {
        Moment::new(self.wall, self.monotonic())
    }
}

#[cfg(feature = "test-util")]
mod manual {
    use super::*;
    use std::sync::Arc;

    /// A clock that stands still until it is moved by hand. Clones share their hands.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_limitry::engine::ManualClock;
    /// use tower_limitry::{Engine, Limit, Meter, Check};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let clock = ManualClock::at("2026-03-01T12:00:00Z");
    /// let books = Engine::builder()
    ///     .meter(Meter::count("calls"))
    ///     .limit(Limit::per_minute("calls-a-minute", "calls", 1))
    ///     .clock(clock.clone())
    ///     .build()?;
    ///
    /// let permit = books.check(Check::of("acct_42")).await?;
    /// permit.settle(Default::default()).await?;
    /// assert!(books.check(Check::of("acct_42")).await.is_err());
    /// clock.advance(Duration::from_secs(60));
    /// assert!(books.check(Check::of("acct_42")).await.is_ok());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    #[derive(Clone, Debug)]
    pub struct ManualClock(Arc<Mutex<(Timestamp, Duration)>>);

    impl ManualClock {
        /// A clock that shows this time, such as `2026-03-01T12:00:00Z`.
        ///
        /// # Panics
        ///
        /// When the text is no time.
        #[track_caller]
        pub fn at(time: &str) -> Self {
            match time.parse() {
                Ok(time) => Self(Arc::new(Mutex::new((time, Duration::ZERO)))),
                Err(error) => panic!("{time:?}: {error}"),
            }
        }

        /// Lets time pass on both clocks.
        pub fn advance(&self, by: Duration) {
            let mut hands = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *hands = (hands.0.saturating_add(by), hands.1.saturating_add(by));
        }

        /// Sets the wall clock, forwards or backwards, as if somebody had set the machine's; no time
        /// passes on the monotonic clock.
        pub fn set(&self, time: Timestamp) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = time;
        }
    }

    impl Clock for ManualClock {
        fn now(&self) -> Timestamp {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).0
        }

        fn monotonic(&self) -> Duration {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).1
        }
    }
}

#[cfg(feature = "test-util")]
pub use manual::ManualClock;
