//! Which calls may be repeated, when, and after what wait. Plain rules over plain values.

use std::time::{Duration, SystemTime};

/// What a second sending of a call would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Safety {
    /// Nothing: it only reads.
    Safe,
    /// Nothing: the other side knows the call by its id.
    UnderId,
    /// It would be done twice. Repeated only when it certainly was not done.
    Once,
}

/// How an attempt ended that brought no answer to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing was sent: no connection.
    NotSent,
    /// The other side says that it did nothing, and that asking again may help.
    NotDone,
    /// It may have been done: the connection broke, the answer makes no sense, the other side failed.
    Unknown,
    /// It may have been done, and the time for an answer is over.
    TimedOut,
    /// The other side has answered for good.
    Final,
}

impl Failure {
    /// Whether sending the call again can help, and does no harm.
    pub(crate) fn may_repeat(self, safety: Safety) -> bool {
        match self {
            Self::NotSent | Self::NotDone => true,
            Self::Unknown | Self::TimedOut => safety != Safety::Once,
            Self::Final => false,
        }
    }
}

/// How long to wait before the attempt after `failures` of them, if that leaves time for one within
/// what is `left`: what the other side asked for, else twice as long each time and up to half of it
/// at random.
pub(crate) fn wait(
    failures: u32,
    asked: Option<Duration>,
    left: Duration,
    random: u64,
) -> Option<Duration> {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(8);
    let longest = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST);
    let half = longest / 2;
    let jittered = half + half.mul_f64(random as f64 / u64::MAX as f64);
    // Those who were told the same wait do not come back in one moment.
    let wait = asked.map_or(jittered, |asked| asked + jittered.min(asked / 4));
    (wait < left).then_some(wait)
}

/// The wait in a `Retry-After` (RFC 9110, section 10.2.3): seconds, here also with decimals, or a
/// date. What makes no sense is no wait; what is past is none at all.
pub(crate) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    /// Longer is a mistake.
    const MOST: f64 = 31.0 * 86_400.0;
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return seconds.is_finite().then(|| Duration::from_secs_f64(seconds.clamp(0.0, MOST)));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let date = SystemTime::from(date);
    let wait = date.duration_since(now).unwrap_or_default();
    Some(wait.min(Duration::from_secs_f64(MOST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn only_what_does_no_harm_is_repeated() {
        for safety in [Safety::Safe, Safety::UnderId, Safety::Once] {
            assert!(Failure::NotSent.may_repeat(safety));
            assert!(Failure::NotDone.may_repeat(safety));
            assert!(!Failure::Final.may_repeat(safety));
            for unknown in [Failure::Unknown, Failure::TimedOut] {
                assert_eq!(unknown.may_repeat(safety), safety != Safety::Once);
            }
        }
    }

    #[test]
    fn waits_double_up_to_a_bound_and_half_of_each_is_random() {
        let waits = |random| [1, 2, 3, 7, 30].map(|failures| wait(failures, None, MINUTE, random));
        let millis = |all: [u64; 5]| all.map(|millis| Some(Duration::from_millis(millis)));
        assert_eq!(waits(0), millis([50, 100, 200, 3_200, 4_000]));
        assert_eq!(waits(u64::MAX), millis([100, 200, 400, 6_400, 8_000]));
    }

    #[test]
    fn nobody_waits_beyond_what_is_left() {
        assert_eq!(wait(1, None, Duration::from_millis(50), 0), None);
        assert_eq!(wait(1, Some(30 * SECOND), 30 * SECOND, 0), None);
        assert_eq!(wait(1, Some(SECOND), 2 * SECOND, 0), Some(Duration::from_millis(1_050)));
        assert_eq!(wait(1, Some(Duration::ZERO), SECOND, u64::MAX), Some(Duration::ZERO));
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 60);
        let read = |text| retry_after(text, now);
        assert_eq!(read("120"), Some(2 * MINUTE));
        assert_eq!(read(" 1.5 "), Some(Duration::from_millis(1_500)));
        assert_eq!(read("-3"), Some(Duration::ZERO));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(MINUTE));
        assert_eq!(read("Sun, 06 Nov 1994 08:40:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("1e300"), Some(Duration::from_secs(31 * 86_400)));
        for senseless in ["", "soon", "NaN", "inf", "06 Nov", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(read(senseless), None, "{senseless:?}");
        }
    }
}
