//! When a delivery that failed is tried again.

use std::time::Duration;

const SECOND: u64 = 1;
const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;

/// Seconds after the first failure, the second, and so on; the first attempt is made at once.
const WAITS: [u64; 9] = [
    5 * SECOND,
    5 * MINUTE,
    30 * MINUTE,
    2 * HOUR,
    5 * HOUR,
    10 * HOUR,
    14 * HOUR,
    20 * HOUR,
    24 * HOUR,
];

/// The longest that an endpoint may ask for.
const LONGEST: Duration = Duration::from_secs(24 * HOUR);

/// How long to wait after so many failures, at least as long as the endpoint asked for; `None` when
/// it is given up. Up to a tenth more is random, so that what failed together does not come together.
pub(super) fn wait(failures: u32, asked: Option<Duration>, random: u64) -> Option<Duration> {
    let nth = usize::try_from(failures).ok()?.checked_sub(1)?;
    let wait = Duration::from_secs(*WAITS.get(nth)?);
    let wait = wait.max(asked.unwrap_or_default().min(LONGEST));
    Some(wait + (wait / 10).mul_f64(random as f64 / u64::MAX as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_attempts_are_made_in_three_days() {
        let waits: Vec<u64> =
            (1..).map_while(|failures| Some(wait(failures, None, 0)?.as_secs())).collect();
        assert_eq!(waits, WAITS);
        assert_eq!(waits.iter().sum::<u64>(), 75 * HOUR + 35 * MINUTE + 5);
    }

    #[test]
    fn a_tenth_is_random_at_most() {
        let five = Duration::from_secs(5);
        assert_eq!(wait(1, None, u64::MAX), Some(five + five / 10));
        assert!(wait(1, None, 1 << 63).is_some_and(|wait| wait > five && wait < five + five / 10));
    }

    #[test]
    fn an_endpoint_may_ask_for_more_time_within_a_day_and_not_for_less() {
        let asked = |seconds| wait(2, Some(Duration::from_secs(seconds)), 0);
        assert_eq!(asked(1), Some(Duration::from_secs(5 * MINUTE)));
        assert_eq!(asked(HOUR), Some(Duration::from_secs(HOUR)));
        assert_eq!(asked(u64::MAX), Some(LONGEST));
        assert_eq!(wait(10, Some(Duration::from_secs(1)), 0), None);
    }
}
