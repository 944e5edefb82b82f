//! The comparison: what refuses a request. One function for counters, one for balances.

use super::{Aggregation, Amount};

/// What one limit or balance says to an ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// There is room.
    Within,
    /// There would be room if the requests now running used nothing.
    Held,
    /// There is no room in this window.
    Exceeded,
    /// The ask is above the cap itself; no window will ever have room.
    TooLarge,
}

impl Verdict {
    /// Every verdict.
    #[cfg(feature = "client")]
    pub(crate) const ALL: [Self; 4] = [Self::Within, Self::Held, Self::Exceeded, Self::TooLarge];

    /// Its name in our own API.
    #[cfg(any(feature = "client", feature = "server"))]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::Held => "held",
            Self::Exceeded => "exceeded",
            Self::TooLarge => "too_large",
        }
    }

    /// Whether this refuses the request.
    pub const fn refuses(self) -> bool {
        !matches!(self, Self::Within)
    }
}

/// Whether a counter has room under `cap`.
///
/// `asked` is what the request is expected to add (sum, count) or to report (max, latest); nothing,
/// zero or less means nothing is asked, and then a counter that has reached its cap refuses.
///
/// | kind | asked | nothing asked |
/// |---|---|---|
/// | sum, count | `used + held + asked > cap` | `used + held >= cap` |
/// | max | `max(used, asked) > cap` | `used >= cap` |
/// | latest | `asked > cap` | `used >= cap` |
#[inline]
pub fn judge_limit(
    aggregation: Aggregation,
    cap: Amount,
    used: Amount,
    held: Amount,
    asked: Option<Amount>,
) -> Verdict {
    let asked = asked.filter(|amount| amount.is_positive());
    // Most have room for all of it, and more need not be told.
    if aggregation.adds()
        && let Some(asked) = asked
        && asked <= cap
        && !held.is_negative()
        && used
            .checked_add(held)
            .and_then(|sum| sum.checked_add(asked))
            .is_some_and(|sum| sum <= cap)
    {
        return Verdict::Within;
    }
    match (aggregation, asked) {
        (_, Some(asked)) if asked > cap => Verdict::TooLarge,
        (Aggregation::Sum | Aggregation::Count, _) => {
            let full = |used: Amount| match asked {
                Some(asked) => used.saturating_add(asked) > cap,
                None => used >= cap,
            };
            if full(used) {
                Verdict::Exceeded
            } else if full(used.saturating_add(held)) {
                Verdict::Held
            } else {
                Verdict::Within
            }
        }
        (Aggregation::Latest, Some(_)) => Verdict::Within,
        (Aggregation::Max, Some(_)) if used > cap => Verdict::Exceeded,
        (Aggregation::Max, Some(_)) => Verdict::Within,
        (Aggregation::Max | Aggregation::Latest, None) if used >= cap => Verdict::Exceeded,
        (Aggregation::Max | Aggregation::Latest, None) => Verdict::Within,
    }
}

/// Whether a balance covers `asked`, given what is there above its minimum and what is held.
///
/// Nothing asked: refused when nothing is available. Never [`Verdict::TooLarge`].
#[inline]
pub fn judge_balance(above_minimum: Amount, held: Amount, asked: Option<Amount>) -> Verdict {
    let short = |available: Amount| match asked {
        Some(asked) => asked > available,
        None => !available.is_positive(),
    };
    if short(above_minimum) {
        Verdict::Exceeded
    } else if short(above_minimum.saturating_sub(held)) {
        Verdict::Held
    } else {
        Verdict::Within
    }
}

/// The same as [`judge_limit`], turned round for a store that compares on its own: how much may be
/// used and held when the ask comes.
#[cfg(feature = "redis")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Whatever is.
    Any,
    /// So much together, and no more.
    AtMost(Amount),
    /// No ask like this ever passes.
    None,
}

/// What has to be used and held, at most, for [`judge_limit`] not to refuse.
#[cfg(feature = "redis")]
pub(crate) fn room(aggregation: Aggregation, cap: Amount, asked: Option<Amount>) -> Room {
    let least = Amount::from_millionths(1);
    match (aggregation, asked.filter(|amount| amount.is_positive())) {
        (_, Some(asked)) if asked > cap => Room::None,
        (Aggregation::Latest, Some(_)) => Room::Any,
        (Aggregation::Max, Some(_)) => Room::AtMost(cap),
        // Sums that do not fit are held at the largest, which is within.
        (_, Some(_)) if cap == Amount::MAX => Room::Any,
        (_, Some(asked)) => Room::AtMost(cap.saturating_sub(asked)),
        (_, None) if cap == Amount::MIN => Room::None,
        (_, None) => Room::AtMost(cap.saturating_sub(least)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Aggregation::{Count, Latest, Max, Sum};

    #[cfg(feature = "redis")]
    #[test]
    fn there_is_room_for_what_is_not_refused_and_for_nothing_else() {
        let (most, least) = (i64::MAX, i64::MIN);
        let amounts = [least, least + 1, -101, -1, 0, 1, 59, 60, 99, 100, 101, most - 1, most];
        let amounts = amounts.map(Amount::from_millionths);
        for kind in [Sum, Count, Max, Latest] {
            for cap in amounts {
                for asked in amounts.map(Some).into_iter().chain([None]) {
                    let room = room(kind, cap, asked);
                    for used in amounts {
                        let adds = |held: &&Amount| kind.adds() || **held == Amount::ZERO;
                        let held = amounts.iter().filter(|held| !held.is_negative());
                        for held in held.filter(adds) {
                            let sum = used.saturating_add(*held);
                            let passes = match room {
                                Room::Any => true,
                                Room::AtMost(room) => sum <= room,
                                Room::None => false,
                            };
                            let verdict = judge_limit(kind, cap, used, *held, asked);
                            assert_eq!(
                                passes,
                                !verdict.refuses(),
                                "{kind:?} {cap} {asked:?} {used} {held}: {room:?}, {verdict:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    fn judge(kind: Aggregation, used: u32, held: u32, asked: Option<u32>) -> Verdict {
        let cap = Amount::from(100);
        judge_limit(kind, cap, used.into(), held.into(), asked.map(Amount::from))
    }

    #[test]
    fn a_sum_fills_to_its_cap_and_not_beyond() {
        assert_eq!(judge(Sum, 60, 30, Some(10)), Verdict::Within);
        assert_eq!(judge(Sum, 60, 30, Some(11)), Verdict::Held);
        assert_eq!(judge(Sum, 90, 30, Some(11)), Verdict::Exceeded);
        assert_eq!(judge(Sum, 0, 0, Some(100)), Verdict::Within);
        assert_eq!(judge(Sum, 0, 0, Some(101)), Verdict::TooLarge);
    }

    #[test]
    fn nothing_asked_is_refused_once_the_cap_is_reached() {
        for asked in [None, Some(0)] {
            assert_eq!(judge(Sum, 99, 0, asked), Verdict::Within);
            assert_eq!(judge(Sum, 100, 0, asked), Verdict::Exceeded);
            assert_eq!(judge(Count, 99, 1, asked), Verdict::Held);
            assert_eq!(judge(Max, 99, 0, asked), Verdict::Within);
            assert_eq!(judge(Max, 100, 0, asked), Verdict::Exceeded);
            assert_eq!(judge(Latest, 99, 0, asked), Verdict::Within);
            assert_eq!(judge(Latest, 100, 0, asked), Verdict::Exceeded);
        }
    }

    #[test]
    fn gauges_compare_what_is_asked_and_ignore_holds() {
        assert_eq!(judge(Max, 100, 50, Some(100)), Verdict::Within);
        assert_eq!(judge(Max, 101, 0, Some(1)), Verdict::Exceeded);
        assert_eq!(judge(Max, 0, 0, Some(101)), Verdict::TooLarge);
        assert_eq!(judge(Latest, 500, 50, Some(100)), Verdict::Within);
        assert_eq!(judge(Latest, 0, 0, Some(101)), Verdict::TooLarge);
    }

    #[test]
    fn a_balance_pays_to_the_last_unit() {
        let balance = |above: i32, held: i32, asked: Option<i32>| {
            judge_balance(above.into(), held.into(), asked.map(Amount::from))
        };
        assert_eq!(balance(10, 0, Some(10)), Verdict::Within);
        assert_eq!(balance(10, 1, Some(10)), Verdict::Held);
        assert_eq!(balance(10, 0, Some(11)), Verdict::Exceeded);
        assert_eq!(balance(1, 0, None), Verdict::Within);
        assert_eq!(balance(1, 1, None), Verdict::Held);
        assert_eq!(balance(0, 0, None), Verdict::Exceeded);
        assert_eq!(balance(-5, 0, None), Verdict::Exceeded);
    }
}
