use std::time::{Duration, SystemTime};

/// An instant of wall time: nanoseconds since the Unix epoch.
///
/// It reaches from 1677-09-21 to 2262-04-11. Leap seconds are not counted, as in Unix time.
///
/// ```
/// use tower_limitry::policy::Timestamp;
///
/// let noon: Timestamp = "2026-01-31T13:00:00+01:00".parse()?;
/// assert_eq!(noon.to_string(), "2026-01-31T12:00:00Z");
/// # Ok::<(), tower_limitry::policy::TimestampError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest instant, in September 1677.
    pub const MIN: Self = Self(i64::MIN);

    /// The latest instant, in April 2262.
    pub const MAX: Self = Self(i64::MAX);

    /// 1970-01-01T00:00:00Z, also the default.
    pub const UNIX_EPOCH: Self = Self(0);

    /// The instant this many nanoseconds after the Unix epoch, or before it when negative.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The instant this many seconds after the Unix epoch, or the nearest one there is.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(NANOS_PER_SECOND))
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the Unix epoch, rounded towards the past.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(NANOS_PER_MILLI)
    }

    /// Whole seconds since the Unix epoch, rounded towards the past.
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(NANOS_PER_SECOND)
    }

    /// The instant `duration` later, or `None` when that is after [`Timestamp::MAX`].
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        let nanos = i128::from(self.0).checked_add_unsigned(duration.as_nanos())?;
        i64::try_from(nanos).ok().map(Self)
    }

    /// The instant `duration` later, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        self.checked_add(duration).unwrap_or(Self::MAX)
    }

    /// The instant `duration` earlier, at least [`Timestamp::MIN`].
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        let nanos = i128::from(self.0).checked_sub_unsigned(duration.as_nanos());
        nanos.and_then(|nanos| i64::try_from(nanos).ok()).map_or(Self::MIN, Self)
    }

    /// The time from `earlier` to this instant, zero when `earlier` is the later one.
    pub fn duration_since(self, earlier: Self) -> Duration {
        if self <= earlier {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.0.abs_diff(earlier.0))
    }
}

/// Saturates: a system time outside the range becomes [`Timestamp::MIN`] or [`Timestamp::MAX`].
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Self::UNIX_EPOCH.saturating_add(after),
            Err(before) => Self::UNIX_EPOCH.saturating_sub(before.duration()),
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let distance = Duration::from_nanos(time.0.unsigned_abs());
        if time.0 < 0 {
            SystemTime::UNIX_EPOCH - distance
        } else {
            SystemTime::UNIX_EPOCH + distance
        }
    }
}

const NANOS_PER_MILLI: i64 = 1_000_000;
const NANOS_PER_SECOND: i64 = 1_000_000_000;
