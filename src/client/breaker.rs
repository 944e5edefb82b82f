//! Spares a service that is down, and those who would wait for it.

use std::time::Duration;

/// Opens after failures in a row, and lets one call at a time through to see whether the other side is
/// back. Time is passed in.
#[derive(Debug)]
pub(crate) struct Breaker {
    terms: Terms,
    state: State,
    /// How often it opened since the other side last was well.
    openings: u32,
    /// Tells calls of one state from those of another: what began before a change says nothing now.
    epoch: u64,
}

/// When it opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) failures: u32,
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration },
    HalfOpen { probing: bool },
}

/// What operators see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Closed,
    HalfOpen,
    Open,
}

/// One call that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pass(u64);

/// What a call tells of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Well,
    /// And how long it asks to be left alone.
    Unwell(Option<Duration>),
    /// The call was given up before there was anything to tell.
    Untold,
}

impl Breaker {
    pub(crate) fn new(terms: Terms) -> Self {
        Self { terms, state: State::Closed { failures: 0 }, openings: 0, epoch: 0 }
    }

    /// Lets a call through, or tells how long none will be.
    pub(crate) fn admit(&mut self, now: Duration) -> Result<Pass, Duration> {
        match self.state {
            State::Open { until } if now < until => Err(until - now),
            // Whoever probes will tell soon.
            State::HalfOpen { probing: true } => Err(self.terms.first),
            State::Open { .. } | State::HalfOpen { probing: false } => {
                self.change(State::HalfOpen { probing: true });
                Ok(Pass(self.epoch))
            }
            State::Closed { .. } => Ok(Pass(self.epoch)),
        }
    }

    /// The call is over.
    pub(crate) fn ended(&mut self, pass: Pass, health: Health, now: Duration) {
        if pass.0 != self.epoch {
            return;
        }
        match (health, &mut self.state) {
            (Health::Untold, State::HalfOpen { .. }) => {
                self.change(State::HalfOpen { probing: false });
            }
            (Health::Untold, _) => {}
            (Health::Well, State::Closed { failures }) => *failures = 0,
            (Health::Well, _) => {
                self.openings = 0;
                self.change(State::Closed { failures: 0 });
            }
            (Health::Unwell(_), State::Closed { failures })
                if *failures + 1 < self.terms.failures =>
            {
                *failures += 1;
            }
            (Health::Unwell(asked), _) => self.open(asked, now),
        }
    }

    pub(crate) fn shown(&self) -> Shown {
        match self.state {
            State::Closed { .. } => Shown::Closed,
            State::Open { .. } => Shown::Open,
            State::HalfOpen { .. } => Shown::HalfOpen,
        }
    }

    fn open(&mut self, asked: Option<Duration>, now: Duration) {
        let doubled = self.terms.first.saturating_mul(1 << self.openings.min(16));
        let rest = doubled.max(asked.unwrap_or_default()).min(self.terms.longest);
        self.openings = self.openings.saturating_add(1);
        self.change(State::Open { until: now.saturating_add(rest) });
    }

    fn change(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const UNWELL: Health = Health::Unwell(None);

    fn breaker() -> Breaker {
        Breaker::new(Terms { failures: 3, first: SECOND, longest: 10 * SECOND })
    }

    fn fail(breaker: &mut Breaker, now: Duration) {
        let pass = breaker.admit(now).unwrap();
        breaker.ended(pass, UNWELL, now);
    }

    fn opened() -> Breaker {
        let mut breaker = breaker();
        (0..3).for_each(|_| fail(&mut breaker, Duration::ZERO));
        breaker
    }

    #[test]
    fn opens_after_failures_in_a_row_and_tells_how_long() {
        let mut breaker = breaker();
        fail(&mut breaker, Duration::ZERO);
        fail(&mut breaker, Duration::ZERO);
        let pass = breaker.admit(Duration::ZERO).unwrap();
        breaker.ended(pass, Health::Well, Duration::ZERO);
        (0..3).for_each(|_| assert_eq!(breaker.shown(), Shown::Closed));
        (0..3).for_each(|_| fail(&mut breaker, SECOND));
        assert_eq!(breaker.shown(), Shown::Open);
        assert_eq!(breaker.admit(SECOND), Err(SECOND));
        assert_eq!(breaker.admit(SECOND * 3 / 2), Err(SECOND / 2));
    }

    #[test]
    fn lets_one_probe_through_and_closes_when_it_is_answered() {
        let mut breaker = opened();
        let probe = breaker.admit(SECOND).unwrap();
        assert_eq!(breaker.shown(), Shown::HalfOpen);
        assert!(breaker.admit(SECOND).is_err());
        breaker.ended(probe, Health::Well, SECOND);
        assert_eq!(breaker.shown(), Shown::Closed);
        assert!(breaker.admit(SECOND).is_ok());
    }

    #[test]
    fn a_probe_that_fails_opens_for_twice_as_long_up_to_the_longest() {
        let mut breaker = opened();
        let mut now = SECOND;
        for rest in [2, 4, 8, 10, 10].map(|seconds| SECOND * seconds) {
            fail(&mut breaker, now);
            assert_eq!(breaker.admit(now), Err(rest));
            now += rest;
        }
    }

    #[test]
    fn a_probe_that_is_given_up_leaves_its_place_to_the_next() {
        let mut breaker = opened();
        let probe = breaker.admit(SECOND).unwrap();
        breaker.ended(probe, Health::Untold, SECOND);
        assert!(breaker.admit(SECOND).is_ok());
    }

    #[test]
    fn what_began_before_it_opened_says_nothing_about_now() {
        let mut breaker = breaker();
        let early = breaker.admit(Duration::ZERO).unwrap();
        (0..3).for_each(|_| fail(&mut breaker, Duration::ZERO));
        breaker.ended(early, Health::Well, Duration::ZERO);
        assert_eq!(breaker.shown(), Shown::Open);
        let _probe = breaker.admit(SECOND).unwrap();
        breaker.ended(early, UNWELL, SECOND);
        assert_eq!(breaker.shown(), Shown::HalfOpen);
    }

    #[test]
    fn stays_open_for_as_long_as_the_other_side_asks() {
        let mut breaker = breaker();
        for _ in 0..3 {
            let pass = breaker.admit(Duration::ZERO).unwrap();
            breaker.ended(pass, Health::Unwell(Some(5 * SECOND)), Duration::ZERO);
        }
        assert_eq!(breaker.admit(Duration::ZERO), Err(5 * SECOND));
    }
}
