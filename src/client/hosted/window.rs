//! Windows, as far as an answer tells of them: only their ends.

use std::time::Duration;

use jiff::{Span, tz::TimeZone};

use crate::policy::{Period, Timestamp, Window};

/// The window of that period which ends then. Its start is told in UTC, so where clocks change or
/// months are cut short it can be off by some days.
pub(super) fn ending(period: Period, reset: Option<i64>) -> Window {
    let Some(reset) = reset.filter(|_| period != Period::AllTime) else { return Window::ALL_TIME };
    let end = Timestamp::from_seconds(reset);
    let back = |span: Span| {
        let end = jiff::Timestamp::from_second(reset).ok()?.to_zoned(TimeZone::UTC);
        let start = end.checked_sub(span).ok()?.timestamp().as_nanosecond();
        i64::try_from(start).ok().map(Timestamp::from_nanos)
    };
    let start = match period {
        Period::Minute => back(Span::new().seconds(60)),
        Period::Hour => back(Span::new().hours(1)),
        Period::Day => back(Span::new().hours(24)),
        Period::Week => back(Span::new().hours(7 * 24)),
        Period::Month => back(Span::new().months(1)),
        Period::Annual => back(Span::new().years(1)),
        Period::AllTime => None,
    };
    match start {
        Some(start) if start < end => Window::new(start, end),
        _ => Window::ALL_TIME,
    }
}

/// Whether what happened then may count in the window: its start can be an hour earlier than told,
/// where clocks change.
pub(super) fn may_hold(window: &Window, at: Timestamp) -> bool {
    const CLOCKS: Duration = Duration::from_secs(3_600);
    let starts = match window.length_seconds() {
        Some(length) if length > 3_600 => window.start().saturating_sub(CLOCKS),
        _ => window.start(),
    };
    at >= starts && (at < window.end() || window.is_all_time())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_is_as_long_as_its_period() {
        for (period, reset, start) in [
            (Period::Minute, "2026-03-01T12:01:00Z", "2026-03-01T12:00:00Z"),
            (Period::Hour, "2026-03-01T00:00:00Z", "2026-02-28T23:00:00Z"),
            (Period::Day, "2026-03-02T00:00:00Z", "2026-03-01T00:00:00Z"),
            (Period::Week, "2026-03-02T23:00:00Z", "2026-02-23T23:00:00Z"),
            (Period::Month, "2026-03-31T00:00:00Z", "2026-02-28T00:00:00Z"),
            (Period::Annual, "2025-02-28T00:00:00Z", "2024-02-28T00:00:00Z"),
        ] {
            let window = ending(period, Some(time(reset).as_seconds()));
            assert_eq!((window.start(), window.end()), (time(start), time(reset)), "{period}");
        }
        assert!(ending(Period::AllTime, None).is_all_time());
        assert!(ending(Period::Day, None).is_all_time());
        assert!(ending(Period::Day, Some(i64::MIN)).is_all_time());
    }

    #[test]
    fn what_happened_around_a_change_of_clocks_is_in() {
        let day = ending(Period::Day, Some(time("2026-03-02T00:00:00Z").as_seconds()));
        assert!(may_hold(&day, time("2026-02-28T23:00:00Z")));
        assert!(!may_hold(&day, time("2026-02-28T22:59:59Z")));
        assert!(!may_hold(&day, time("2026-03-02T00:00:00Z")));
        let minute = ending(Period::Minute, Some(time("2026-03-02T00:00:00Z").as_seconds()));
        assert!(!may_hold(&minute, time("2026-03-01T23:58:59Z")));
    }
}
