//! What a check is told of the books, asked of the store itself: the same in every state of them, by
//! either way through its script, and when it comes again.

use std::time::Duration;

use tower_limitry::policy::{Aggregation, Amount, CustomerId, EventId, Window};
use tower_limitry::store::{
    BalanceAsk, BalanceRef, CheckOperation, HoldTerms, Judged, JudgedBalance, Line, Memory, Moment,
    Origin, Outcome, SettleOperation, Store,
};
use tower_limitry::{Limit, Meter, NewBalance, Usage};

use crate::redis::fresh;
use crate::support::*;
use crate::{ever, open, options, tokens};

const NAMES: [&str; 4] = ["credits", "a b", "x|y#z", "ü — "];
const UNITS: [&str; 7] = ["", "credits", "US dollars", " ", " lead", "trail ", "€ |# -1"];

/// Small amounts, and those around where floats end.
fn any(random: &mut Random) -> Amount {
    const EDGES: [i64; 6] =
        [0, 999_999_999_999_999, 8_999_999_999_999_999, 1 << 53, 1 << 61, i64::MAX - 1];
    let near = match random.below(12) {
        edge @ 0..6 => EDGES[edge as usize] + random.below(2) as i64,
        _ => random.below(100) as i64,
    };
    Amount::from_millionths(if random.below(6) == 0 { -near } else { near })
}

/// One state of the books and one check, in every detail that a check may meet.
struct Case {
    used: Vec<(Line, Amount)>,
    own: Option<NewBalance>,
    charged: Option<Amount>,
    /// What others hold, and what is asked.
    asks: [Ask; 2],
}

struct Ask {
    lines: Vec<Line>,
    asked: Vec<Option<Amount>>,
    balance: Option<(Option<NewBalance>, Option<Amount>)>,
}

impl Ask {
    fn any(random: &mut Random, default: Option<&NewBalance>) -> Self {
        let mut lines: Vec<Line> = Vec::new();
        for counter in 0..4 {
            let aggregation =
                [Aggregation::Sum, Aggregation::Sum, Aggregation::Max, Aggregation::Latest]
                    [counter as usize];
            for number in 0..[0, 0, 1, 2][random.below(4) as usize] {
                let cap = if random.below(4) == 0 { any(random) } else { Amount::MAX };
                let mut line = Line::new(counter, aggregation, cap, Window::ALL_TIME);
                line.shares = number > 0;
                line.amount = counter as u16 % 2;
                lines.push(line);
            }
        }
        let mut ask = || Some(any(random)).filter(|amount| !amount.is_negative());
        let asked = vec![ask(), ask()];
        let charge = ask();
        let balance = (random.below(3) > 0).then(|| (default.cloned(), charge));
        Self { lines, asked, balance }
    }
}

impl Case {
    fn any(random: &mut Random, name: &str) -> Self {
        let unit = UNITS[random.below(UNITS.len() as u64) as usize];
        let terms = |random: &mut Random| {
            let initial = [any(random), amount(1_000_000)][random.below(2) as usize];
            let minimum = [Amount::ZERO, any(random)][random.below(2) as usize];
            NewBalance::new(name).unit(unit).initial(initial).minimum(minimum)
        };
        let default = (random.below(2) == 0).then(|| terms(random).unit("by default"));
        let own = (random.below(2) == 0).then(|| terms(random));
        let mut asks = [(); 2].map(|()| Ask::any(random, default.as_ref()));
        // The balance that is charged is there by then, whatever becomes of its terms.
        if random.below(8) == 0
            && let Some(balance) = &mut asks[1].balance
        {
            balance.0 = None;
        }
        let mut used = Vec::new();
        for line in asks[1].lines.iter().filter(|line| !line.shares) {
            if random.below(3) > 0 {
                used.push((line.clone(), any(random)));
            }
        }
        let charged = (random.below(3) == 0).then(|| any(random));
        if random.below(3) > 0 {
            return Self { used, own, charged, asks };
        }
        // With room enough for all.
        for ask in &mut asks {
            ask.lines.iter_mut().for_each(|line| line.cap = Amount::MAX);
            ask.asked = vec![None, Some(amount(1 + random.below(9) as i64))];
            let default = NewBalance::new(name).unit(unit).initial(1_000);
            ask.balance = Some((Some(default), ask.asked[random.below(2) as usize]));
        }
        Self { used: Vec::new(), own: None, charged: None, asks }
    }
}

/// A store, a customer of it and how long holds live there.
struct Told<'a, S> {
    store: &'a S,
    customer: CustomerId,
    name: &'a str,
    lifetime: Duration,
}

type Answer = (Outcome, Vec<Judged>, Option<JudgedBalance>);

impl<S: Store> Told<'_, S> {
    fn now() -> Moment<'static> {
        Moment::new(time(NOON), Duration::ZERO)
    }

    async fn check(&self, id: &str, ask: &Ask, holds: bool) -> Answer {
        let mut judged = vec![Judged::default(); ask.lines.len()];
        let balance = ask.balance.as_ref().map(|(default, asked)| {
            let balance = BalanceRef { name: self.name, default: default.as_ref() };
            BalanceAsk { balance, asked: *asked }
        });
        let terms = HoldTerms { lifetime: Some(self.lifetime), remember: true };
        let operation = CheckOperation {
            epoch: 0,
            now: Self::now(),
            id: &EventId::new(id).unwrap(),
            attempt: 5,
            customer: &self.customer,
            lines: &ask.lines,
            asked: &ask.asked,
            judged: &mut judged,
            balance,
            hold: holds.then_some(terms),
            event_type: "request",
            expected: &Usage::new(),
        };
        let checked = self.store.check(operation).await.unwrap();
        if !checked.judged.is_empty() {
            judged = checked.judged;
        }
        (checked.outcome, judged, checked.balance)
    }

    async fn settle(
        &self,
        id: &str,
        line: &[Line],
        given: Amount,
        charge: Option<(&NewBalance, Amount)>,
    ) {
        let operation = SettleOperation {
            epoch: 0,
            now: Self::now(),
            id: &EventId::new(id).unwrap(),
            customer: &self.customer,
            origin: Origin::Fresh,
            event_type: "request",
            usage: &mut Usage::new(),
            at: time(NOON),
            lines: line,
            given: &[Some(given), Some(given)],
            charge: charge.map(|(default, charge)| {
                (BalanceRef { name: self.name, default: Some(default) }, charge)
            }),
            reverses: false,
            mark: None,
        };
        self.store.settle(operation).await.unwrap();
    }

    /// Brings the books into the state.
    async fn prepare(&self, case: &Case) {
        for (number, (line, given)) in case.used.iter().enumerate() {
            self.settle(&format!("use-{number}"), std::slice::from_ref(line), *given, None).await;
        }
        if let Some(charged) = case.charged {
            let default = case.asks[0].balance.as_ref().and_then(|(default, _)| default.as_ref());
            if let Some(default) = default {
                self.settle("charge", &[], Amount::ZERO, Some((default, charged))).await;
            }
        }
        if let Some(own) = &case.own {
            self.store.create_balance(&self.customer, own, time(NOON)).await.unwrap();
        }
        self.check("other", &case.asks[0], true).await;
    }
}

fn shown((outcome, judged, balance): &Answer) -> String {
    format!("{outcome:?} {judged:?} {balance:?}")
}

#[tokio::test]
async fn a_check_is_told_the_same_in_every_state_of_the_books_and_when_it_comes_again() {
    let mut random = Random(seed());
    let (url, prefix) = fresh();
    let limits = tokens()
        .meter(Meter::count("requests"))
        .meter(Meter::max("longest", "total_tokens"))
        .meter(Meter::latest("newest", "total_tokens"))
        .limit(ever(1))
        .limit(Limit::all_time("requests", "requests", 1))
        .limit(Limit::all_time("longest", "longest", 1))
        .limit(Limit::all_time("newest", "newest", 1));
    drop(open(limits, &url, &prefix));
    let redis = options(&prefix).danger_time_of_the_engine().open(&url).unwrap();
    redis.load(Told::<Memory>::now()).unwrap();
    let memory = Memory::new();
    let mut seen = [0; 4];
    for number in 0..times(400, 20_000) {
        let name = NAMES[random.below(NAMES.len() as u64) as usize];
        let case = Case::any(&mut random, name);
        let customer = |way: &str| CustomerId::new(format!("{way} |#{number}")).unwrap();
        let expected = Told { store: &memory, customer: customer("m"), name, lifetime: MINUTE };
        expected.prepare(&case).await;
        let ways = [("ordinary", MINUTE), ("whole", 30 * DAY)];
        let ways = ways.map(|(way, lifetime)| Told {
            store: &redis,
            customer: customer(way),
            name,
            lifetime,
        });
        let ask = &case.asks[1];
        let looked = shown(&expected.check("look", ask, false).await);
        let told = expected.check("id", ask, true).await;
        seen[0] += u64::from(told.0 == Outcome::Allowed);
        seen[1] += u64::from(told.0 == Outcome::Refused);
        seen[2] += u64::from(told.1.iter().any(|line| line.held.is_positive()));
        let balance = told.2.as_ref().and_then(|told| told.balance.as_ref());
        let asked = ask.balance.as_ref().and_then(|(_, asked)| *asked).unwrap_or_default();
        let others = told.0 == Outcome::Allowed && balance.is_some_and(|told| told.held() > asked);
        seen[3] += u64::from(others);
        for way in &ways {
            let about = format!("{number}: {:?}", way.customer.as_str());
            way.prepare(&case).await;
            assert_eq!(shown(&way.check("look", ask, false).await), looked, "{about}");
            let first = way.check("id", ask, true).await;
            assert_eq!(shown(&first), shown(&told), "{about}");
            let again = way.check("id", ask, true).await;
            assert_eq!(shown(&again), shown(&first), "{about}: again");
        }
    }
    println!("allowed, refused, on lines and on a balance that others hold of: {seen:?}");
    assert!(seen.iter().all(|times| *times > 20), "{seen:?}");
}
