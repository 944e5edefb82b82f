use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// How long to wait before another attempt: twice as long each time, up to a bound, and some of it
/// at random.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    random: Random,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        let first = first.max(Duration::from_millis(1));
        Self { first, most: most.max(first), random: Random::seeded() }
    }

    /// When to try again after so many failures.
    pub(super) fn until(&mut self, now: Duration, failures: u32) -> Duration {
        let longest = longest(self.first, self.most, failures);
        together(now.saturating_add(jittered(longest, self.random.next())), longest / 8)
    }
}

/// The longest wait after so many failures.
fn longest(first: Duration, most: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    first.saturating_mul(1 << doublings).min(most)
}

/// Between half of it and all of it.
fn jittered(longest: Duration, random: u64) -> Duration {
    let half = longest / 2;
    half + half.mul_f64(random as f64 / u64::MAX as f64)
}

/// The next of the moments that lie this far apart. Many customers fail together when their target
/// is away, and are then tried again in few batches instead of one by one.
fn together(at: Duration, apart: Duration) -> Duration {
    let (at, apart) = (at.as_nanos(), apart.as_nanos().max(1));
    let nanos = at.div_ceil(apart).saturating_mul(apart);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// SplitMix64: it only has to spread.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        Self(RandomState::new().hash_one(0_u8))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_the_bound() {
        let waits =
            [1, 2, 3, 4, 5, 40].map(|failures| longest(100 * MILLISECOND, SECOND, failures));
        let expected = [100, 200, 400, 800, 1_000, 1_000].map(Duration::from_millis);
        assert_eq!(waits, expected);
    }

    #[test]
    fn jitter_takes_away_up_to_half() {
        assert_eq!(jittered(SECOND, 0), SECOND / 2);
        assert_eq!(jittered(SECOND, u64::MAX), SECOND);
        assert_eq!(jittered(SECOND, u64::MAX / 2).as_millis(), 750);
    }

    #[test]
    fn the_same_seed_waits_the_same_and_another_does_not() {
        let waits = |seed| {
            let mut backoff = Backoff::new(100 * MILLISECOND, 60 * SECOND);
            backoff.random = Random(seed);
            (1..8).map(|failures| backoff.until(Duration::ZERO, failures)).collect::<Vec<_>>()
        };
        assert_eq!(waits(7), waits(7));
        assert_ne!(waits(7), waits(8));
    }

    #[test]
    fn ten_thousand_customers_come_back_in_few_batches() {
        let mut backoff = Backoff::new(100 * MILLISECOND, 60 * SECOND);
        let mut moments: Vec<_> = (0..10_000).map(|_| backoff.until(3 * SECOND, 20)).collect();
        assert!(moments.iter().all(|at| (33 * SECOND..=75 * SECOND).contains(at)));
        moments.sort_unstable();
        moments.dedup();
        assert!((4..=6).contains(&moments.len()), "{}", moments.len());
    }
}
