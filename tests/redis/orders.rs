//! One hold, and everything that can happen to it, in every order: asked of the store itself, as a
//! server that passes on what others send does.

use std::time::Duration;

use tower_limitry::policy::{Aggregation, Amount, CustomerId, EventId, Window};
use tower_limitry::store::{
    CheckOperation, Checked, HoldKey, HoldTerms, Line, Moment, Origin, Outcome, Redis,
    SettleOperation, SettleOutcome, Store,
};
use tower_limitry::{Limit, Usage};

use crate::redis::fresh;
use crate::support::*;
use crate::{ever, open, options, tokens};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Check,
    Settle,
    SettleUnsure,
    Release,
    Renew,
    Expire,
}
use Step::{Check as Ask, Expire, Release, Renew, Settle, SettleUnsure};

const STEPS: [Step; 6] = [Ask, Settle, SettleUnsure, Release, Renew, Expire];
const LIFETIME: Duration = MINUTE;

/// A store whose counter 0 is one without windows.
fn store() -> Redis {
    let (url, prefix) = fresh();
    drop(open(tokens().limit(ever(100)), &url, &prefix));
    let store = options(&prefix).danger_time_of_the_engine().open(&url).unwrap();
    store.load(Moment::new(time(NOON), Duration::ZERO)).unwrap();
    store
}

struct Bench<'a> {
    store: &'a Redis,
    id: EventId,
    customer: CustomerId,
    now: Moment<'static>,
    given: bool,
    attempt: Option<u64>,
}

impl Bench<'_> {
    async fn check(&self, hold: bool) -> Checked {
        let (cap, asked) = (amount(100), Some(amount(10)));
        let line = Line::new(0, Aggregation::Sum, cap, Window::ALL_TIME);
        let terms = HoldTerms { lifetime: Some(LIFETIME), remember: self.given };
        let looker = EventId::new("looker").unwrap();
        let operation = CheckOperation {
            epoch: 0,
            now: self.now,
            id: if hold { &self.id } else { &looker },
            attempt: self.attempt.unwrap_or_default(),
            customer: &self.customer,
            lines: &[line],
            asked: &[asked],
            judged: &mut [],
            balance: None,
            hold: hold.then_some(terms),
            event_type: "request",
            expected: &Usage::new(),
        };
        self.store.check(operation).await.unwrap()
    }

    async fn settle(&self, origin: Origin) -> SettleOutcome {
        let line = Line::new(0, Aggregation::Sum, Amount::MAX, Window::ALL_TIME);
        let operation = SettleOperation {
            epoch: 0,
            now: self.now,
            id: &self.id,
            customer: &self.customer,
            origin,
            event_type: "request",
            usage: &mut total(7),
            at: time(NOON),
            lines: &[line],
            given: &[Some(amount(7))],
            charge: None,
            reverses: false,
            mark: None,
        };
        self.store.settle(operation).await.unwrap().outcome
    }

    fn key(&self) -> HoldKey<'_> {
        HoldKey { id: &self.id, customer: &self.customer, place: None, attempt: self.attempt }
    }

    async fn used_held(&self) -> (Amount, Amount) {
        let seen = self.check(false).await.judged[0];
        (seen.used, seen.held)
    }
}

/// What must be, told as simply as it can be.
#[derive(Debug, Default)]
struct Fate {
    open: bool,
    expired: bool,
    released_before: bool,
    finished: bool,
    counted: u32,
}

async fn run(bench: &mut Bench<'_>, steps: &[Step]) {
    let mut fate = Fate::default();
    for step in steps {
        match step {
            Ask => {
                let outcome = bench.check(true).await.outcome;
                let expected = if fate.finished {
                    Outcome::Finished
                } else if fate.released_before {
                    Outcome::Released
                } else {
                    // The very check that has placed one is told so again.
                    Outcome::Allowed
                };
                assert_eq!(outcome, expected, "{steps:?}: {fate:?}");
                fate.open |= outcome == Outcome::Allowed;
            }
            Settle => {
                // Of a hold of which nothing is known the server has lost what it knew.
                let counts = !fate.finished && (fate.open || !fate.released_before);
                let outcome = bench.settle(Origin::Held(None)).await;
                assert_eq!(outcome == SettleOutcome::Recorded, counts, "{steps:?}: {fate:?}");
                fate.counted += u32::from(counts);
                fate.finished |= counts;
                fate.expired &= fate.open || !counts;
                fate.open = false;
            }
            SettleUnsure => {
                let counts = !fate.finished;
                let outcome = bench.settle(Origin::Unsure(0)).await;
                assert_eq!(outcome == SettleOutcome::Recorded, counts, "{steps:?}: {fate:?}");
                fate.counted += u32::from(counts);
                fate.finished = true;
                fate.open = false;
            }
            Release => {
                bench.store.release(bench.key(), bench.now).await.unwrap();
                fate.released_before |= !fate.finished;
                fate.expired &= fate.open;
                fate.open = false;
            }
            Renew => {
                let lives = bench.store.renew(vec![bench.key()], LIFETIME, bench.now).await;
                assert_eq!(lives.unwrap(), [fate.open], "{steps:?}: {fate:?}");
            }
            Expire => {
                let later = bench.now.wall().saturating_add(LIFETIME);
                bench.now = Moment::new(later, bench.now.monotonic() + LIFETIME);
                fate.expired |= fate.open;
                fate.open = false;
            }
        }
        let held = if fate.open { 10 } else { 0 };
        let seen = bench.used_held().await;
        assert_eq!(seen, (amount(7 * fate.counted), amount(held)), "{steps:?}: {fate:?}");
    }
    assert!(fate.counted <= 1, "{steps:?} counted {} times", fate.counted);
}

#[tokio::test]
async fn a_hold_ends_once_in_every_order_of_its_steps() {
    let store = store();
    let mut number: u64 = 0;
    for length in 1..=4 {
        for code in 0..STEPS.len().pow(length) {
            let steps: Vec<_> =
                (0..length).map(|at| STEPS[code / STEPS.len().pow(at) % STEPS.len()]).collect();
            for attempt in [None, Some(0)] {
                number += 1;
                let mut bench = Bench {
                    store: &store,
                    id: EventId::new("order-1").unwrap(),
                    customer: CustomerId::new(format!("acct_{number}")).unwrap(),
                    now: Moment::new(time(NOON), Duration::from_secs(number * 400)),
                    given: true,
                    attempt,
                };
                run(&mut bench, &steps).await;
            }
        }
    }
    println!("{number} orders");
}

/// A check that is sent twice, as when its answer is lost on the way, is released once. What arrives
/// after that places nothing, whatever became of the hold.
#[tokio::test]
async fn a_check_that_arrives_again_after_its_release_places_nothing() {
    let store = store();
    for (number, expires) in [false, true].into_iter().enumerate() {
        for given in [false, true] {
            let mut bench = Bench {
                store: &store,
                id: EventId::new("order-1").unwrap(),
                customer: CustomerId::new(format!("acct_{number}_{given}")).unwrap(),
                now: Moment::new(time(NOON), Duration::ZERO),
                given,
                attempt: Some(5),
            };
            let place = bench.check(true).await.place;
            if expires {
                bench.now = Moment::new(bench.now.wall(), LIFETIME);
            }
            let key = HoldKey { place, ..bench.key() };
            bench.store.release(key, bench.now).await.unwrap();
            let outcome = bench.check(true).await.outcome;
            assert_eq!(outcome, Outcome::Released, "expires: {expires}, given: {given}");
            assert_eq!(bench.used_held().await, (amount(0), amount(0)));
            bench.attempt = Some(6);
            assert_eq!(bench.check(true).await.outcome, Outcome::Allowed, "another check");
        }
    }
}

#[tokio::test]
async fn a_check_that_comes_again_is_one_open_hold() {
    let store = store();
    for settles in [false, true] {
        let bench = Bench {
            store: &store,
            id: EventId::new("order-1").unwrap(),
            customer: CustomerId::new(format!("acct_{settles}")).unwrap(),
            now: Moment::new(time(NOON), Duration::ZERO),
            given: true,
            attempt: Some(5),
        };
        let place = bench.check(true).await.place;
        assert_eq!(bench.check(true).await.place, place);
        if settles {
            let outcome = bench.settle(Origin::Held(place)).await;
            assert_eq!(outcome, SettleOutcome::Recorded);
        } else {
            bench.store.release(HoldKey { place, ..bench.key() }, bench.now).await.unwrap();
        }
        assert_eq!(store.open_holds().await.unwrap(), 0, "settles: {settles}");
    }
}

/// As when definitions have changed meanwhile, and another process is asked.
#[tokio::test]
async fn a_check_that_comes_again_for_more_lets_go_of_no_more_than_it_held() {
    let (url, prefix) = fresh();
    let limits = tokens().limit(ever(100)).limit(Limit::per_day("daily", "tokens", 100));
    drop(open(limits, &url, &prefix));
    let now = Moment::new(time(NOON), Duration::ZERO);
    let [one, other] = [(); 2].map(|()| {
        let store = options(&prefix).danger_time_of_the_engine().open(&url).unwrap();
        store.load(now).unwrap();
        store
    });
    let lines: [Line; 2] =
        [0, 1].map(|counter| Line::new(counter, Aggregation::Sum, amount(100), Window::ALL_TIME));
    let customer = CustomerId::new("ada").unwrap();
    let check = async |store: &Redis, id: &str, attempt, lines: &[Line]| {
        let operation = CheckOperation {
            epoch: 0,
            now,
            id: &EventId::new(id).unwrap(),
            attempt,
            customer: &customer,
            lines,
            asked: &[Some(amount(10))],
            judged: &mut [],
            balance: None,
            hold: Some(HoldTerms { lifetime: Some(LIFETIME), remember: true }),
            event_type: "request",
            expected: &Usage::new(),
        };
        let checked = store.check(operation).await.unwrap();
        assert_eq!(checked.outcome, Outcome::Allowed, "{id}");
        (checked.judged.iter().map(|line| line.held).collect::<Vec<_>>(), checked.place)
    };
    let settle = async |store: &Redis, id: &str, place| {
        let operation = SettleOperation {
            epoch: 0,
            now,
            id: &EventId::new(id).unwrap(),
            customer: &customer,
            origin: Origin::Held(place),
            event_type: "request",
            usage: &mut total(7),
            at: now.wall(),
            lines: &lines,
            given: &[Some(amount(7))],
            charge: None,
            reverses: false,
            mark: None,
        };
        assert_eq!(store.settle(operation).await.unwrap().outcome, SettleOutcome::Recorded);
    };
    // The first of a customer is out of the ordinary.
    let (_, place) = check(&one, "order-0", 4, &lines).await;
    settle(&one, "order-0", place).await;
    check(&one, "order-1", 5, &lines[..1]).await;
    let (_, place) = check(&other, "order-1", 5, &lines).await;
    check(&one, "order-2", 6, &lines[1..]).await;
    settle(&other, "order-1", place).await;
    let (held, _) = check(&one, "order-3", 7, &lines).await;
    assert_eq!(held, [amount(10), amount(20)], "those of order-2 and order-3");
}
