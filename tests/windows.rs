//! Where windows begin and end: known hard days, an independent calculation, and properties.
//!
//! `LIMITRY_LONG=1` takes every zone of this machine's time zone database, worked out anew by
//! `python3`, and more cases for the properties.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use tower_limitry::policy::{Calendar, Period, PeriodError, Timestamp, Window};

const NANO: Duration = Duration::from_nanos(1);

mod known_days {
    use super::*;

    #[test]
    fn a_day_begins_after_a_midnight_that_is_skipped() {
        let havana = calendar("America/Havana");
        let window = havana.window(Period::Day, at("2026-03-08T12:00:00-04:00"));
        assert_window(window, "2026-03-08T01:00:00-04:00", "2026-03-09T00:00:00-04:00");
        assert_eq!(window.length_seconds(), Some(23 * 3_600));

        let cairo = calendar("Africa/Cairo");
        let window = cairo.window(Period::Day, at("2026-04-24T12:00:00+03:00"));
        assert_window(window, "2026-04-24T01:00:00+03:00", "2026-04-25T00:00:00+03:00");
        assert_eq!(window.length_seconds(), Some(23 * 3_600));
    }

    #[test]
    fn a_day_begins_where_the_gap_around_its_midnight_ends() {
        let toronto = calendar("America/Toronto");
        let window = toronto.window(Period::Day, at("1919-03-31T12:00:00-04:00"));
        assert_window(window, "1919-03-31T00:30:00-04:00", "1919-04-01T00:00:00-04:00");
    }

    #[test]
    fn a_day_begins_at_the_first_of_two_midnights() {
        let havana = calendar("America/Havana");
        let window = havana.window(Period::Day, at("2025-11-02T12:00:00-05:00"));
        assert_window(window, "2025-11-02T00:00:00-04:00", "2025-11-03T00:00:00-05:00");
        assert_eq!(window.length_seconds(), Some(25 * 3_600));
    }

    #[test]
    fn an_evening_repeated_after_midnight_belongs_to_the_next_day() {
        let st_johns = calendar("America/St_Johns");
        let first = st_johns.window(Period::Day, at("2010-11-06T23:30:00-02:30"));
        assert_window(first, "2010-11-06T00:00:00-02:30", "2010-11-07T00:00:00-02:30");

        let repeated = st_johns.window(Period::Day, at("2010-11-06T23:30:00-03:30"));
        assert_window(repeated, "2010-11-07T00:00:00-02:30", "2010-11-08T00:00:00-03:30");
        assert_eq!(repeated.length_seconds(), Some(25 * 3_600));
    }

    #[test]
    fn a_day_that_never_was_has_no_window() {
        let apia = calendar("Pacific/Apia");
        let before = apia.window(Period::Day, at("2011-12-29T23:59:59-10:00"));
        assert_window(before, "2011-12-29T00:00:00-10:00", "2011-12-30T00:00:00-10:00");

        let after = apia.window(Period::Day, at("2011-12-31T00:00:00+14:00"));
        assert_window(after, "2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00");
        assert_eq!(before.end(), after.start());
    }

    #[test]
    fn a_month_may_begin_on_a_day_that_never_was() {
        let apia = anchored("Pacific/Apia", "2011-01-30");
        let window = apia.window(Period::Month, at("2012-01-15T00:00:00+14:00"));
        assert_window(window, "2011-12-31T00:00:00+14:00", "2012-01-30T00:00:00+14:00");
    }

    #[test]
    fn a_day_may_have_half_an_hour_more() {
        let lord_howe = calendar("Australia/Lord_Howe");
        let window = lord_howe.window(Period::Day, at("2026-04-05T12:00:00+10:30"));
        assert_window(window, "2026-04-05T00:00:00+11:00", "2026-04-06T00:00:00+10:30");
        assert_eq!(window.length_seconds(), Some(49 * 1_800));
    }

    #[test]
    fn a_week_begins_on_monday() {
        let window = Calendar::utc().window(Period::Week, at("2026-03-01T23:59:59Z"));
        assert_window(window, "2026-02-23T00:00:00Z", "2026-03-02T00:00:00Z");

        let berlin = calendar("Europe/Berlin");
        let window = berlin.window(Period::Week, at("2026-03-29T23:00:00+02:00"));
        assert_window(window, "2026-03-23T00:00:00+01:00", "2026-03-30T00:00:00+02:00");
    }

    #[test]
    fn minutes_and_hours_are_those_of_utc() {
        let kathmandu = calendar("Asia/Kathmandu");
        let time = at("1969-12-31T23:45:30.5Z");
        let minute = kathmandu.window(Period::Minute, time);
        assert_window(minute, "1969-12-31T23:45:00Z", "1969-12-31T23:46:00Z");
        let hour = kathmandu.window(Period::Hour, time);
        assert_window(hour, "1969-12-31T23:00:00Z", "1970-01-01T00:00:00Z");
    }

    #[test]
    fn an_anchor_on_the_31st_is_clamped_but_does_not_drift() {
        let calendar = anchored("UTC", "2026-01-31");
        let mut window = calendar.window(Period::Month, at("2026-02-10T00:00:00Z"));
        for (start, end) in [
            ("2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"),
            ("2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"),
            ("2026-03-31T00:00:00Z", "2026-04-30T00:00:00Z"),
            ("2026-04-30T00:00:00Z", "2026-05-31T00:00:00Z"),
        ] {
            assert_window(window, start, end);
            window = calendar.window(Period::Month, window.end());
        }
    }

    #[test]
    fn an_anchor_on_the_29th_of_february_returns_to_it_in_leap_years() {
        let calendar = anchored("UTC", "2024-02-29");
        let mut window = calendar.window(Period::Annual, at("2024-06-01T00:00:00Z"));
        for (start, end) in [
            ("2024-02-29T00:00:00Z", "2025-02-28T00:00:00Z"),
            ("2025-02-28T00:00:00Z", "2026-02-28T00:00:00Z"),
            ("2026-02-28T00:00:00Z", "2027-02-28T00:00:00Z"),
            ("2027-02-28T00:00:00Z", "2028-02-29T00:00:00Z"),
        ] {
            assert_window(window, start, end);
            window = calendar.window(Period::Annual, window.end());
        }
    }

    #[test]
    fn without_an_anchor_months_and_years_are_those_of_the_calendar() {
        let time = at("2026-07-31T23:59:59Z");
        let month = Calendar::utc().window(Period::Month, time);
        assert_window(month, "2026-07-01T00:00:00Z", "2026-08-01T00:00:00Z");
        let year = Calendar::default().window(Period::Annual, time);
        assert_window(year, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
    }

    #[test]
    fn the_window_of_all_time_has_no_end() {
        for time in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
            let window = Calendar::utc().window(Period::AllTime, time);
            assert_eq!(window, Window::ALL_TIME);
            assert!(window.contains(time) && window.is_all_time());
            assert_eq!((window.reset(), window.length_seconds()), (None, None));
        }
    }

    #[test]
    fn a_window_tells_when_it_resets() {
        let window = Calendar::utc().window(Period::Day, at("1970-01-01T12:00:00Z"));
        assert_eq!(window.reset(), Some(86_400));
        assert!(!window.contains(window.end()) && window.contains(window.start()));
    }
}

mod configuration {
    use super::*;

    #[test]
    fn an_instant_counts_as_its_date_in_the_zone() {
        let anchor = at("2026-01-31T23:30:00Z");
        let utc = Calendar::new(None, Some(anchor)).expect("UTC exists");
        assert_eq!(utc.anchor().as_deref(), Some("2026-01-31"));
        let berlin = Calendar::new(Some("Europe/Berlin"), Some(anchor)).expect("Berlin exists");
        assert_eq!(berlin.anchor().as_deref(), Some("2026-02-01"));
        assert_eq!(berlin, anchored("Europe/Berlin", "2026-01-31T23:30:00Z"));
    }

    #[test]
    fn a_date_is_local_to_the_zone() {
        let apia = anchored("Pacific/Apia", "2026-01-31");
        assert_eq!(apia.anchor().as_deref(), Some("2026-01-31"));
        assert_eq!(calendar("Pacific/Apia").with_anchor_date(2026, 1, 31), Ok(apia));
    }

    #[test]
    fn names_of_utc_and_of_zones_are_told_as_the_database_has_them() {
        assert_eq!(Calendar::utc().zone(), "UTC");
        assert_eq!(calendar("utc"), Calendar::utc());
        assert_eq!(calendar("Etc/UTC"), Calendar::utc());
        assert_eq!(calendar("europe/berlin").zone(), "Europe/Berlin");
        assert_eq!(
            format!("{:?}", anchored("Europe/Berlin", "2026-01-31")),
            r#"Calendar { zone: "Europe/Berlin", anchor: Some(2026-01-31) }"#
        );
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        for zone in ["", "Mars/Phobos", "localtime", "Etc/Unknown", "../UTC", "/etc/localtime"] {
            let error = Calendar::new(Some(zone), None).expect_err(zone);
            assert!(error.to_string().starts_with("unknown time zone"), "{error}");
        }
        for anchor in ["", "2026-02-29", "31 January", "2300-01-01T00:00:00Z"] {
            let error = Calendar::parse(None, anchor).expect_err(anchor);
            assert!(error.to_string().starts_with("invalid anchor"), "{error}");
        }
        assert!(Calendar::utc().with_anchor_date(2025, 2, 29).is_err());
        let error = "fortnight".parse::<Period>().expect_err("no such period");
        assert!(error.to_string().starts_with("not a period"), "{error}");
    }

    #[test]
    fn periods_are_read_as_they_are_written() {
        for (index, period) in Period::ALL.into_iter().enumerate() {
            assert_eq!(period.as_str().parse(), Ok::<_, PeriodError>(period));
            assert_eq!(period.index(), index);
        }
    }
}

/// `tests/windows/make_vectors.py` says how its lines are made and read.
mod independent_calculation {
    use super::*;

    #[test]
    fn agrees_in_every_window_and_around_every_change_of_clocks() {
        if std::env::var_os("LIMITRY_LONG").is_some() {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/windows/make_vectors.py");
            let made = Command::new("python3").arg(script).output().expect("python3 runs");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            compare(&String::from_utf8(made.stdout).expect("the script writes UTF-8"));
        } else {
            compare(VECTORS);
        }
    }

    fn compare(vectors: &str) {
        let (mut zones, mut windows, mut transitions) = (BTreeSet::new(), 0, Vec::new());
        for line in vectors.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split(',').collect();
            let &[zone, what, anchor, numbers] = &fields[..] else {
                panic!("not a vector: {line}");
            };
            if zones.insert(zone) {
                transitions.clear();
            }
            if what == "transitions" {
                transitions = unpacked(numbers);
                continue;
            }
            let calendar = match anchor {
                "" => calendar(zone),
                anchor => anchored(zone, anchor),
            };
            let period: Period = what.parse().expect("a period");
            let begins = unpacked(numbers);
            compare_inside(&calendar, period, &begins);
            compare_near(&calendar, period, &begins, &transitions);
            windows += begins.len() - 1;
        }
        println!("{} zones, {windows} windows", zones.len());
        assert!(windows > 1_000_000, "only {windows} windows");
    }

    fn compare_inside(calendar: &Calendar, period: Period, begins: &[i64]) {
        for pair in begins.windows(2) {
            let start = Timestamp::from_seconds(pair[0]);
            let end = Timestamp::from_seconds(pair[1]);
            let middle = Timestamp::from_seconds(pair[0].midpoint(pair[1]));
            for at in [start, middle, end.saturating_sub(NANO)] {
                let window = calendar.window(period, at);
                let bounds = (window.start(), window.end());
                assert_eq!(bounds, (start, end), "{period} of {calendar:?} at {at}");
            }
        }
    }

    fn compare_near(calendar: &Calendar, period: Period, begins: &[i64], transitions: &[i64]) {
        for at in transitions.iter().flat_map(|change| [change - 1, *change, change + 1]) {
            let next = begins.partition_point(|begin| *begin <= at);
            if next == 0 || next == begins.len() {
                continue;
            }
            let window = calendar.window(period, Timestamp::from_seconds(at));
            let bounds = (window.start().as_seconds(), window.end().as_seconds());
            let expected = (begins[next - 1], begins[next]);
            assert_eq!(bounds, expected, "{period} of {calendar:?} at {at}");
        }
    }

    fn unpacked(numbers: &str) -> Vec<i64> {
        let number = |text: &str| text.parse::<i64>().expect("a number");
        let mut words = numbers.split(' ');
        let mut instants = vec![number(words.next().expect("a first instant"))];
        for word in words {
            let (step, times) = word.split_once('x').unwrap_or((word, "1"));
            for _ in 0..number(times) {
                instants.push(instants[instants.len() - 1] + number(step));
            }
        }
        instants
    }
}

mod properties {
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if std::env::var_os("LIMITRY_LONG").is_some() { 200_000 } else { 2_000 },
            failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
            ..ProptestConfig::default()
        })]

        #[test]
        fn windows_leave_no_gap_and_do_not_overlap(calendar in any_calendar(), at in any_time()) {
            for period in Period::ALL {
                let window = calendar.window(period, at);
                let (start, end) = (window.start(), window.end());
                prop_assert!(start < end && window.contains(at), "{period} {window:?}");

                let last = if end == Timestamp::MAX { end } else { end.saturating_sub(NANO) };
                prop_assert_eq!(calendar.window(period, start), window);
                prop_assert_eq!(calendar.window(period, last), window);
                if end < Timestamp::MAX {
                    prop_assert!(!window.contains(end));
                    prop_assert_eq!(calendar.window(period, end).start(), end);
                }
                if start > Timestamp::MIN {
                    let before = start.saturating_sub(NANO);
                    prop_assert!(!window.contains(before));
                    prop_assert_eq!(calendar.window(period, before).end(), start);
                }
            }
        }

        #[test]
        fn longer_periods_have_longer_windows(calendar in any_calendar(), at in recent_time()) {
            let longest = [60, 3_600, 48 * 3_600, 9 * 86_400, 33 * 86_400, 368 * 86_400];
            for (period, longest) in Period::ALL.into_iter().zip(longest) {
                let length = calendar.window(period, at).length_seconds();
                prop_assert!(length.is_some_and(|length| length <= longest), "{period} {length:?}");
            }
        }
    }

    fn any_calendar() -> impl Strategy<Value = Calendar> {
        let zones: Vec<&str> = ZONES.iter().copied().collect();
        let zone = prop_oneof![Just("UTC"), prop::sample::select(zones)];
        let anchor = prop_oneof![
            any::<i64>().prop_map(Timestamp::from_nanos),
            prop::sample::select(vec![
                "2026-01-28",
                "2026-01-29",
                "2026-01-30",
                "2026-01-31",
                "2024-02-29"
            ])
            .prop_map(|date| at(&format!("{date}T00:00:00Z"))),
        ];
        (zone, prop::option::of(anchor))
            .prop_map(|(zone, anchor)| Calendar::new(Some(zone), anchor).expect("the zone exists"))
    }

    fn any_time() -> impl Strategy<Value = Timestamp> {
        let two_years = 2 * 366 * 86_400 * 1_000_000_000;
        prop_oneof![
            2 => any::<i64>().prop_map(Timestamp::from_nanos),
            1 => (i64::MIN..i64::MIN + two_years).prop_map(Timestamp::from_nanos),
            1 => (i64::MAX - two_years..=i64::MAX).prop_map(Timestamp::from_nanos),
            1 => Just(Timestamp::MIN),
            1 => Just(Timestamp::MAX),
            4 => recent_time(),
        ]
    }

    fn recent_time() -> impl Strategy<Value = Timestamp> {
        let (start, end) = (at("2010-01-01T00:00:00Z"), at("2040-01-01T00:00:00Z"));
        (start.as_nanos()..end.as_nanos()).prop_map(Timestamp::from_nanos)
    }
}

fn calendar(zone: &str) -> Calendar {
    Calendar::new(Some(zone), None).expect(zone)
}

fn anchored(zone: &str, anchor: &str) -> Calendar {
    Calendar::parse(Some(zone), anchor).expect(zone)
}

fn at(text: &str) -> Timestamp {
    text.parse().expect(text)
}

#[track_caller]
fn assert_window(window: Window, start: &str, end: &str) {
    assert_eq!((window.start(), window.end()), (at(start), at(end)));
}

const VECTORS: &str = include_str!("windows/vectors.csv");

static ZONES: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
    let lines = VECTORS.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split(',').next()).collect()
});
