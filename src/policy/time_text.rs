use std::error::Error;
use std::fmt;
use std::str::FromStr;

use super::Timestamp;

/// Reads a date-time with an offset, as in RFC 3339 and ISO 8601: `2026-01-31T09:30:00.5Z`,
/// `2026-01-31 09:30:00+01:00`.
///
/// # Errors
///
/// When the text is no date-time, has no offset, or lies outside the range of [`Timestamp`].
impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<jiff::Timestamp>() {
            Ok(time) => i64::try_from(time.as_nanosecond())
                .map(Self::from_nanos)
                .map_err(|_| TimestampError(Problem::OutOfRange)),
            Err(_) if text.parse::<jiff::civil::DateTime>().is_ok() => {
                Err(TimestampError(Problem::NoOffset))
            }
            Err(_) => Err(TimestampError(Problem::Malformed)),
        }
    }
}

/// RFC 3339 in UTC, with as many digits after the second as the instant needs.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_nanosecond(i128::from(self.as_nanos()))
            .map_err(|_| fmt::Error)?;
        time.fmt(f)
    }
}

/// A text that is no [`Timestamp`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimestampError(Problem);

impl fmt::Display for TimestampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Problem::Malformed => "not a date-time, expected RFC 3339 such as 2026-01-31T09:30:00Z",
            Problem::NoOffset => {
                "no offset, expected a date-time that ends with Z or one such as +01:00"
            }
            Problem::OutOfRange => "date-time out of range, expected one from 1678 to 2261",
        })
    }
}

impl Error for TimestampError {}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    Malformed,
    NoOffset,
    OutOfRange,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    const NANOS_PER_SECOND: i64 = 1_000_000_000;

    fn read(text: &str) -> Result<i64, TimestampError> {
        text.parse().map(Timestamp::as_nanos)
    }

    #[test]
    fn reads_date_times_with_any_offset() {
        let half_past_nine = 1_769_851_800 * NANOS_PER_SECOND;
        assert_eq!(read("2026-01-31T09:30:00Z"), Ok(half_past_nine));
        assert_eq!(read("2026-01-31t09:30:00z"), Ok(half_past_nine));
        assert_eq!(read("2026-01-31 10:30:00+01:00"), Ok(half_past_nine));
        assert_eq!(read("2026-01-31T04:00:00.000000001-05:30"), Ok(half_past_nine + 1));
        assert_eq!(read("1969-12-31T23:59:59.75Z"), Ok(-250_000_000));
    }

    #[test]
    fn says_what_is_wrong_with_a_text() {
        for text in ["", "soon", "2026-02-30T00:00:00Z", "1769851800", "\u{0}"] {
            assert_eq!(read(text), Err(TimestampError(Problem::Malformed)), "{text:?}");
        }
        assert_eq!(read("2026-01-31"), Err(TimestampError(Problem::NoOffset)));
        assert_eq!(read("2026-01-31T09:30:00"), Err(TimestampError(Problem::NoOffset)));
        assert_eq!(read("2262-04-12T00:00:00Z"), Err(TimestampError(Problem::OutOfRange)));
        assert_eq!(read("0001-01-01T00:00:00Z"), Err(TimestampError(Problem::OutOfRange)));
    }

    #[test]
    fn prints_what_it_reads() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (1_769_851_800_500_000_000, "2026-01-31T09:30:00.5Z"),
            (i64::MIN, "1677-09-21T00:12:43.145224192Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
        ] {
            assert_eq!(Timestamp::from_nanos(nanos).to_string(), text);
            assert_eq!(read(text), Ok(nanos));
        }
    }

    #[test]
    fn rounds_towards_the_past() {
        let before = Timestamp::from_nanos(-1);
        assert_eq!((before.as_millis(), before.as_seconds()), (-1, -1));
        let after = Timestamp::from_nanos(1_999_999_999);
        assert_eq!((after.as_millis(), after.as_seconds()), (1_999, 1));
    }

    #[test]
    fn arithmetic_stops_at_the_ends() {
        let nano = Duration::from_nanos(1);
        assert_eq!(Timestamp::MAX.checked_add(nano), None);
        assert_eq!(Timestamp::MAX.saturating_add(nano), Timestamp::MAX);
        assert_eq!(Timestamp::MIN.saturating_sub(nano), Timestamp::MIN);
        assert_eq!(Timestamp::MIN.saturating_add(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::MAX.saturating_sub(Duration::MAX), Timestamp::MIN);
        assert_eq!(Timestamp::from_seconds(i64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::from_seconds(i64::MIN), Timestamp::MIN);

        let whole = Timestamp::MAX.duration_since(Timestamp::MIN);
        assert_eq!(whole, Duration::from_nanos(u64::MAX));
        assert_eq!(Timestamp::MIN.saturating_add(whole), Timestamp::MAX);
        assert_eq!(Timestamp::MIN.duration_since(Timestamp::MAX), Duration::ZERO);
    }

    #[test]
    fn system_times_go_there_and_back() {
        for time in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
            assert_eq!(Timestamp::from(SystemTime::from(time)), time);
        }
        let far = SystemTime::from(Timestamp::MAX) + Duration::from_secs(1);
        assert_eq!(Timestamp::from(far), Timestamp::MAX);
    }
}
