use std::error::Error;
use std::fmt;

use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};

use super::{Period, Timestamp, Window};

/// Where a customer's days, months and years begin: a time zone and an anchor date.
///
/// Months begin at midnight of the anchor's day of the month, years at midnight of its month and
/// day. A month too short for that day begins on its last one, and the next month is counted from
/// the anchor again: 31 January, 28 February, 31 March. Without an anchor they begin on the 1st
/// and on 1 January. The anchor's own year is no beginning: windows reach back before it.
///
/// A midnight that the clocks skip is replaced by the first instant after the gap; of a midnight
/// that comes twice, the first counts. Cloning is cheap.
///
/// ```
/// use tower_limitry::policy::{Calendar, Period};
///
/// let calendar = Calendar::parse(Some("Europe/Berlin"), "2026-01-31")?;
/// let window = calendar.window(Period::Month, "2026-03-01T12:00:00Z".parse()?);
/// assert_eq!(window.start(), "2026-02-28T00:00:00+01:00".parse()?);
/// assert_eq!(window.end(), "2026-03-31T00:00:00+02:00".parse()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Calendar {
    // `None` is UTC, which needs no look-up.
    zone: Option<TimeZone>,
    anchor: Option<Date>,
}

impl Calendar {
    /// UTC; months begin on the 1st, years on 1 January.
    pub const fn utc() -> Self {
        Self { zone: None, anchor: None }
    }

    /// A calendar in the zone of this IANA name, or in UTC.
    ///
    /// Of the anchor, the date that it has in the zone counts. A zone is read from the system's
    /// time zone database, or from a built-in one when the system does not know it. A calendar
    /// keeps the rules it was made with, so build it once rather than for each request.
    ///
    /// # Errors
    ///
    /// When there is no zone of this name.
    pub fn new(zone: Option<&str>, anchor: Option<Timestamp>) -> Result<Self, CalendarError> {
        let mut calendar = Self { zone: zone.map(find_zone).transpose()?.flatten(), anchor: None };
        calendar.anchor = anchor.and_then(|at| date(calendar.local_day(at.as_seconds())));
        Ok(calendar)
    }

    /// A calendar whose anchor is read from text: an RFC 3339 date-time, or a date such as
    /// `2026-01-31`, which is taken to be local to the zone.
    ///
    /// # Errors
    ///
    /// When there is no zone of this name, or the anchor is neither.
    pub fn parse(zone: Option<&str>, anchor: &str) -> Result<Self, CalendarError> {
        if let Ok(at) = anchor.parse() {
            return Self::new(zone, Some(at));
        }
        let calendar = Self::new(zone, None)?;
        let anchor = anchor.parse().map_err(|_| CalendarError(Problem::Anchor))?;
        Ok(Self { anchor: Some(anchor), ..calendar })
    }

    /// Replaces the anchor with a date in the calendar's zone.
    ///
    /// # Errors
    ///
    /// When there is no such date.
    pub fn with_anchor_date(self, year: i16, month: i8, day: i8) -> Result<Self, CalendarError> {
        let anchor = Date::new(year, month, day).map_err(|_| CalendarError(Problem::Anchor))?;
        Ok(Self { anchor: Some(anchor), ..self })
    }

    /// The IANA name of the zone, `UTC` when none was given.
    pub fn zone(&self) -> &str {
        self.zone.as_ref().and_then(TimeZone::iana_name).unwrap_or("UTC")
    }

    /// The anchor's date in the zone, such as `2026-01-31`.
    pub fn anchor(&self) -> Option<String> {
        self.anchor.map(|date| date.to_string())
    }

    /// The window of `period` that contains `at`.
    pub fn window(&self, period: Period, at: Timestamp) -> Window {
        let now = at.as_seconds();
        let (start, end) = match period {
            Period::Minute => full(60, now),
            Period::Hour => full(3_600, now),
            Period::Day => self.around(now, |day| day, |k| k),
            Period::Week => self.around(now, week_of, monday),
            Period::Month => {
                let day = self.anchor.map_or(1, Date::day);
                self.around(now, |today| month_of(today, day), |k| day_of_month(k, day))
            }
            Period::Annual => {
                let (month, day) = self.anchor.map_or((1, 1), |date| (date.month(), date.day()));
                let first = i64::from(month) - 1;
                self.around(
                    now,
                    |today| (month_of(today, day) - first).div_euclid(12),
                    |k| day_of_month(k * 12 + first, day),
                )
            }
            Period::AllTime => return Window::ALL_TIME,
        };
        Window::new(Timestamp::from_seconds(start), Timestamp::from_seconds(end))
    }

    /// Two neighbouring boundaries, in Unix seconds, with `now` in `[start, end)`.
    ///
    /// Boundary `k` is midnight of the day `first_day(k)`; `index` gives the last `k` whose first
    /// day is not after a given one.
    fn around(
        &self,
        now: i64,
        index: impl Fn(i64) -> i64,
        first_day: impl Fn(i64) -> i64,
    ) -> (i64, i64) {
        let mut k = index(self.local_day(now));
        let mut start = self.midnight(first_day(k));
        let mut end = self.midnight(first_day(k + 1));

        // Clocks set back across midnight show the old date again, but its window is over. Where
        // a whole day was skipped two boundaries coincide, and stepping passes over them.
        while end <= now {
            k += 1;
            (start, end) = (end, self.midnight(first_day(k + 1)));
        }
        while now < start {
            k -= 1;
            (start, end) = (self.midnight(first_day(k)), start);
        }
        (start, end)
    }

    /// The local date at `now`, as days since 1970-01-01.
    fn local_day(&self, now: i64) -> i64 {
        let offset = match &self.zone {
            Some(zone) => zone.to_offset(instant(now)).seconds(),
            None => 0,
        };
        (now + i64::from(offset)).div_euclid(SECONDS_PER_DAY)
    }

    /// The instant, in Unix seconds, at which the local `day` begins.
    fn midnight(&self, day: i64) -> i64 {
        let local = day * SECONDS_PER_DAY;
        let Some(zone) = &self.zone else {
            return local;
        };
        let Some(date) = date(day) else {
            return local;
        };
        let midnight = date.to_datetime(Time::midnight());
        match zone.to_ambiguous_timestamp(midnight).offset() {
            AmbiguousOffset::Unambiguous { offset } => local - i64::from(offset.seconds()),
            AmbiguousOffset::Fold { before, .. } => local - i64::from(before.seconds()),
            AmbiguousOffset::Gap { before, after } => {
                // Midnight told by the clocks' new time comes before the change itself.
                let early = instant(local - i64::from(after.seconds()));
                let change = zone.following(early).find(|change| change.offset() == after);
                change.map_or(local - i64::from(before.seconds()), |change| {
                    change.timestamp().as_second()
                })
            }
        }
    }
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calendar")
            .field("zone", &self.zone())
            .field("anchor", &self.anchor)
            .finish()
    }
}

/// A zone, an anchor or a period that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalendarError(Problem);

impl fmt::Display for CalendarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Problem::Zone => "unknown time zone, expected an IANA name such as Europe/Berlin",
            Problem::Anchor => {
                "invalid anchor, expected a date such as 2026-01-31 or an RFC 3339 date-time"
            }
        })
    }
}

impl Error for CalendarError {}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    Zone,
    Anchor,
}

/// `None` for UTC under any of its names.
fn find_zone(name: &str) -> Result<Option<TimeZone>, CalendarError> {
    // Beside the zones, a system's database may hold files that say how this machine is set up.
    let is_setting =
        ["localtime", "posixrules"].iter().any(|setting| name.eq_ignore_ascii_case(setting));

    let built_in = |_| TimeZoneDatabase::bundled().get(name);
    match TimeZone::get(name).or_else(built_in) {
        Ok(zone) if !is_setting && !zone.is_unknown() => {
            let is_utc = matches!(zone.iana_name(), None | Some("UTC" | "Etc/UTC"));
            Ok((!is_utc).then_some(zone))
        }
        _ => Err(CalendarError(Problem::Zone)),
    }
}

/// The window of whole `length` seconds since the epoch.
fn full(length: i64, now: i64) -> (i64, i64) {
    let start = now - now.rem_euclid(length);
    (start, start + length)
}

/// Weeks since Monday, 29 December 1969.
fn week_of(day: i64) -> i64 {
    (day + 3).div_euclid(7)
}

fn monday(week: i64) -> i64 {
    week * 7 - 3
}

/// Months since January of the year 0, where a month begins on its `first` day.
fn month_of(day: i64, first: i8) -> i64 {
    let (year, month, day) = civil(day);
    let k = year * 12 + month - 1;
    if day < i64::from(first).min(month_length(k)) { k - 1 } else { k }
}

/// The `day` of month `k`, or its last.
fn day_of_month(k: i64, day: i8) -> i64 {
    days_before(k) + i64::from(day).min(month_length(k)) - 1
}

fn month_length(k: i64) -> i64 {
    let year = k.div_euclid(12);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match k.rem_euclid(12) {
        1 if is_leap => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the first of month `k`.
///
/// Counts from 1 March, so that the leap day is the last of its year.
fn days_before(k: i64) -> i64 {
    let (year, month) = ((k - 2).div_euclid(12), (k - 2).rem_euclid(12));
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 - DAYS_BEFORE_EPOCH
}

/// The year, month and day of the month of a count of days since 1970-01-01.
///
/// The inverse of [`days_before`]: 400 years have 146,097 days.
fn civil(day: i64) -> (i64, i64, i64) {
    let since = day + DAYS_BEFORE_EPOCH;
    let (era, of_era) = (since.div_euclid(146_097), since.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (year * 365 + year / 4 - year / 100);
    let month = (of_year * 5 + 2) / 153;
    let k = (era * 400 + year) * 12 + month + 2;
    (k.div_euclid(12), k.rem_euclid(12) + 1, of_year - (153 * month + 2) / 5 + 1)
}

fn date(day: i64) -> Option<Date> {
    let (year, month, day) = civil(day);
    Date::new(year.try_into().ok()?, month.try_into().ok()?, day.try_into().ok()?).ok()
}

/// The seconds of any [`Timestamp`], and days around it, are far within the other range.
fn instant(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX)
}

const SECONDS_PER_DAY: i64 = 86_400;

/// From 1 March of the year 0 to 1970-01-01.
const DAYS_BEFORE_EPOCH: i64 = 719_468;
