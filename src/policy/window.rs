use std::fmt;
use std::str::FromStr;

use super::Timestamp;

/// How long a limit counts before it begins again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Period {
    /// Each full minute in UTC.
    Minute,
    /// Each full hour in UTC.
    Hour,
    /// From midnight to midnight in the calendar's zone.
    Day,
    /// From Monday's midnight to the next in the calendar's zone.
    Week,
    /// From the anchor's day of the month to the same day of the next.
    Month,
    /// From the anchor's day of the year to the same day of the next.
    Annual,
    /// One window that never ends.
    AllTime,
}

impl Period {
    /// Every period, the shortest first.
    pub const ALL: [Self; 7] =
        [Self::Minute, Self::Hour, Self::Day, Self::Week, Self::Month, Self::Annual, Self::AllTime];

    /// The period's name: `minute`, `hour`, `day`, `week`, `month`, `annual` or `all_time`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Annual => "annual",
            Self::AllTime => "all_time",
        }
    }

    /// The period's place in [`Period::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Reads what [`Period::as_str`] gives.
///
/// # Errors
///
/// When the text is none of these names. Case matters.
impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|period| period.as_str() == text);
        named.ok_or(PeriodError(()))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One instance of a [`Period`]: from its start up to, but not including, its end.
///
/// A window is never empty. Windows of one calendar and period follow each other without gap or
/// overlap. Those at the two ends of time are cut at [`Timestamp::MIN`] and [`Timestamp::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    start: Timestamp,
    end: Timestamp,
}

impl Window {
    /// The only window of [`Period::AllTime`].
    pub const ALL_TIME: Self = Self { start: Timestamp::MIN, end: Timestamp::MAX };

    pub(crate) const fn new(start: Timestamp, end: Timestamp) -> Self {
        Self { start, end }
    }

    /// The first instant of the window.
    pub const fn start(&self) -> Timestamp {
        self.start
    }

    /// The first instant after the window.
    pub const fn end(&self) -> Timestamp {
        self.end
    }

    /// The minute in which the window ends, which names it among the windows of its counter;
    /// [`i32::MAX`] for the end of time.
    pub(crate) fn last_minute(&self) -> i32 {
        const MINUTE: i64 = 60_000_000_000;
        match (self.end, u64::try_from(self.end.as_nanos())) {
            (Timestamp::MAX, _) => i32::MAX,
            (_, Ok(nanos)) => nanos.div_ceil(MINUTE as u64) as i32,
            (end, Err(_)) => (end.as_nanos() / MINUTE) as i32,
        }
    }

    /// Whether `at` lies in the window.
    ///
    /// No window can begin at [`Timestamp::MAX`], so that instant belongs to the window that ends
    /// there.
    pub fn contains(&self, at: Timestamp) -> bool {
        self.start <= at && (at < self.end || self.end == Timestamp::MAX)
    }

    /// Whether this is the window of [`Period::AllTime`].
    pub fn is_all_time(&self) -> bool {
        *self == Self::ALL_TIME
    }

    /// When counting begins again, in Unix seconds; `None` when it never does.
    pub fn reset(&self) -> Option<i64> {
        (!self.is_all_time()).then(|| self.end.as_seconds())
    }

    /// How long the window is, in seconds; `None` for the one that never ends.
    ///
    /// Where clocks change, a day may have 23, 24.5 or 25 hours.
    pub fn length_seconds(&self) -> Option<u64> {
        let seconds = self.end.as_seconds().abs_diff(self.start.as_seconds());
        (!self.is_all_time()).then_some(seconds)
    }
}

/// A text that names no [`Period`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeriodError(());

impl fmt::Display for PeriodError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a period; give minute, hour, day, week, month, annual or all_time")
    }
}

impl std::error::Error for PeriodError {}
