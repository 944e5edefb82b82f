//! Random histories against books kept in the plainest way: a list of events and a list of running
//! requests, from which everything is worked out anew whenever it is asked for.
//!
//! `LIMITRY_LONG=1` tries many more. The test tells its `LIMITRY_SEED`, which gives the same again;
//! what failed once is kept beside it and tried first. A store joins with one line at the end.

#![cfg(feature = "test-util")]
#![allow(clippy::unwrap_used)]

#[cfg(feature = "sqlite")]
#[path = "support/file.rs"]
mod file;
#[cfg(feature = "redis")]
#[path = "support/redis.rs"]
mod redis;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed, TestRunner};
use support::*;
use tower_limitry::backend::{Customer, MeterQuery, Permit};
use tower_limitry::engine::ManualClock;
use tower_limitry::policy::{
    Aggregation, Amount, Calendar, Credit, Debit, Period, Timestamp, Window,
};
use tower_limitry::{
    Books, Check, CheckError, Decision, Engine, ErrorKind, Event, Limit, Meter, NewBalance, Usage,
};

const CUSTOMERS: [&str; 3] = ["ada", "bob", "eve"];
const TYPES: [&str; 2] = ["chat", "image"];
const MODELS: [&str; 2] = ["small", "large"];
const LATE: Duration = Duration::from_secs(7 * 86_400);

/// A meter of every kind, over everything and over one type.
const KINDS: [(&str, Aggregation, bool); 5] = [
    ("sum", Aggregation::Sum, true),
    ("count", Aggregation::Count, false),
    ("count-of", Aggregation::Count, true),
    ("max", Aggregation::Max, true),
    ("latest", Aggregation::Latest, true),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MeterOf {
    kind: usize,
    only_chat: bool,
}

impl MeterOf {
    fn id(self) -> String {
        format!("{}{}", KINDS[self.kind].0, if self.only_chat { "-chat" } else { "" })
    }

    fn aggregation(self) -> Aggregation {
        KINDS[self.kind].1
    }

    fn meter(self) -> Meter {
        let (id, aggregation, of_value) = (self.id(), self.aggregation(), KINDS[self.kind].2);
        let meter = match aggregation {
            Aggregation::Sum => Meter::sum(id, "n"),
            Aggregation::Count if of_value => Meter::count_of(id, "n"),
            Aggregation::Count => Meter::count(id),
            Aggregation::Max => Meter::max(id, "n"),
            _ => Meter::latest(id, "n"),
        };
        if self.only_chat { meter.event_type("chat") } else { meter }
    }

    /// What a use with that value gives it, or an ask asks of it.
    fn reads(self, n: Option<i64>) -> Option<i64> {
        match (self.aggregation(), KINDS[self.kind].2) {
            (Aggregation::Count, false) => Some(1),
            (Aggregation::Count, true) => n.map(|_| 1),
            _ => n,
        }
    }
}

/// What makes two limits one counter.
type Counter = (MeterOf, Period, Option<usize>);

#[derive(Clone, Debug)]
struct LimitOf {
    counter: Counter,
    cap: i64,
    /// Whose own it is.
    owner: Option<usize>,
}

impl LimitOf {
    fn limit(&self, number: usize) -> Limit {
        let (meter, period, model) = self.counter;
        let mut limit = Limit::new(format!("limit-{number}"), meter.id(), period, self.cap);
        if let Some(model) = model {
            limit = limit.dimension("model", MODELS[model]);
        }
        if let Some(owner) = self.owner {
            limit = limit.for_customer(CUSTOMERS[owner]);
        }
        limit
    }
}

#[derive(Clone, Debug)]
struct Use {
    customer: usize,
    kind: Option<usize>,
    model: Option<usize>,
    n: Option<i64>,
}

impl Use {
    fn usage(&self) -> Usage {
        let usage = self.n.map_or_else(Usage::new, |n| Usage::of("n", n));
        match self.model {
            Some(model) => usage.dimension("model", MODELS[model]),
            None => usage,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Check {
        of: Use,
        charge: bool,
        lifetime: Option<u64>,
        id: Option<u8>,
    },
    Settle {
        which: prop::sample::Index,
        n: Option<i64>,
        model: Option<usize>,
    },
    Release {
        which: prop::sample::Index,
    },
    /// Seconds before (or after) now.
    Record {
        of: Use,
        ago: i64,
        id: Option<u8>,
    },
    /// An event that was recorded under an id comes again.
    Repeat {
        which: prop::sample::Index,
    },
    Credit {
        customer: usize,
        amount: i64,
        reference: Option<u8>,
    },
    Debit {
        customer: usize,
        amount: i64,
    },
    Advance {
        seconds: u64,
    },
    PutLimit {
        number: usize,
        limit: LimitOf,
    },
    RemoveLimit {
        number: usize,
    },
    Describe {
        customer: usize,
        zone: Option<usize>,
        anchor: Option<usize>,
    },
    Query {
        customer: usize,
        meter: MeterOf,
        range: Range,
        model: Option<usize>,
    },
}

#[derive(Clone, Copy, Debug)]
enum Range {
    Everything,
    Window(Period),
    Since(u64),
}

const ZONES: [&str; 4] = ["America/New_York", "Asia/Kathmandu", "Pacific/Apia", "Europe/London"];
const ANCHORS: [&str; 3] = ["2026-01-31", "2024-02-29", "2025-07-15"];

fn any_limit() -> impl Strategy<Value = LimitOf> {
    let counter = (any_meter(), any_period(), prop::option::weighted(0.3, 0..2_usize));
    (counter, 1..40_i64, prop::option::weighted(0.2, 0..2_usize))
        .prop_map(|(counter, cap, owner)| LimitOf { counter, cap, owner })
}

fn any_meter() -> impl Strategy<Value = MeterOf> {
    (0..KINDS.len(), any::<bool>()).prop_map(|(kind, only_chat)| MeterOf { kind, only_chat })
}

fn any_period() -> impl Strategy<Value = Period> {
    prop::sample::select(Period::ALL.to_vec())
}

fn any_use() -> impl Strategy<Value = Use> {
    let kind = prop::option::weighted(0.8, 0..2_usize);
    let model = prop::option::weighted(0.6, 0..2_usize);
    (0..CUSTOMERS.len(), kind, model, prop::option::weighted(0.8, 0..15_i64))
        .prop_map(|(customer, kind, model, n)| Use { customer, kind, model, n })
}

fn any_step(duplicates: u32) -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    let id = || prop::option::weighted(0.4, 0..6_u8);
    let seconds = prop::sample::select(vec![
        1, 29, 60, 61, 300, 599, 601, 3_600, 7_200, 50_000, 86_400, 700_000, 3_000_000, 32_000_000,
    ]);
    let ago = prop_oneof![
        4 => Just(0_i64),
        3 => 0..600_i64,
        2 => 0..200_000_i64,
        3 => -86_400..0_i64,
        1 => Just(-86_400_i64),
        1 => 0..40_000_000_i64,
    ];
    prop_oneof![
        10 => (any_use(), any::<bool>(), prop::option::weighted(0.3, 1..700_u64), id())
            .prop_map(|(of, charge, lifetime, id)| Step::Check { of, charge, lifetime, id }),
        6 => (which(), prop::option::weighted(0.9, 0..30_i64), prop::option::weighted(0.2, 0..2_usize))
            .prop_map(|(which, n, model)| Step::Settle { which, n, model }),
        2 => which().prop_map(|which| Step::Release { which }),
        6 => (any_use(), ago, id()).prop_map(|(of, ago, id)| Step::Record { of, ago, id }),
        duplicates => which().prop_map(|which| Step::Repeat { which }),
        2 => (0..CUSTOMERS.len(), 1..60_i64, prop::option::weighted(0.5, 0..4_u8))
            .prop_map(|(customer, amount, reference)| Step::Credit { customer, amount, reference }),
        1 => (0..CUSTOMERS.len(), 1..60_i64)
            .prop_map(|(customer, amount)| Step::Debit { customer, amount }),
        5 => seconds.prop_map(|seconds| Step::Advance { seconds }),
        2 => (0..6_usize, any_limit()).prop_map(|(number, limit)| Step::PutLimit { number, limit }),
        2 => (0..6_usize).prop_map(|number| Step::RemoveLimit { number }),
        2 => (0..2_usize, prop::option::of(0..ZONES.len()), prop::option::of(0..ANCHORS.len()))
            .prop_map(|(customer, zone, anchor)| Step::Describe { customer, zone, anchor }),
        2 => (0..CUSTOMERS.len(), any_meter(), any_range(), prop::option::weighted(0.3, 0..2_usize))
            .prop_map(|(customer, meter, range, model)| Step::Query { customer, meter, range, model }),
    ]
}

fn any_range() -> impl Strategy<Value = Range> {
    prop_oneof![
        Just(Range::Everything),
        any_period().prop_map(Range::Window),
        (0..4_000_000_u64).prop_map(Range::Since),
    ]
}

fn any_history() -> impl Strategy<Value = (Vec<LimitOf>, Vec<Step>)> {
    // None, some, and half of what is recorded comes twice.
    prop::sample::select(vec![0_u32, 2, 6]).prop_flat_map(|duplicates| {
        let step = any_step(duplicates.max(1)).prop_map(move |step| match step {
            Step::Repeat { .. } if duplicates == 0 => Step::Advance { seconds: 1 },
            step => step,
        });
        (prop::collection::vec(any_limit(), 0..4), prop::collection::vec(step, 1..36))
    })
}

#[derive(Clone, Debug)]
struct Recorded {
    of: Use,
    kind: String,
    at: Timestamp,
}

impl Recorded {
    fn is_read_by(&self, meter: MeterOf, model: Option<usize>) -> bool {
        (!meter.only_chat || self.kind == "chat")
            && model.is_none_or(|model| self.of.model == Some(model))
    }
}

struct Running {
    permit: Permit,
    of: Use,
    at: Timestamp,
    charge: bool,
    /// What it holds: on which counter, in which window.
    lines: Vec<(Counter, Window, i64)>,
    credits: i64,
    expires: Option<Duration>,
    id: Option<u8>,
}

/// The books, told as simply as they can be.
struct Model {
    /// How long the store remembers ids that were given.
    horizon: Duration,
    now: Timestamp,
    monotonic: Duration,
    events: Vec<Recorded>,
    running: Vec<Running>,
    limits: BTreeMap<usize, LimitOf>,
    calendars: [Calendar; 3],
    credits: [i64; 3],
    references: BTreeSet<(usize, u8)>,
    /// Ids that were counted, and until when they are surely known.
    finished: BTreeMap<(usize, u8), Timestamp>,
    repeatable: Vec<(Use, u8, Timestamp)>,
}

#[derive(Debug, PartialEq)]
struct Line {
    id: String,
    used: i64,
    held: i64,
    exceeded: bool,
    too_large: bool,
}

#[derive(Debug, PartialEq)]
struct Answer {
    lines: Vec<Line>,
    credits: Option<(i64, i64, bool)>,
    allowed: bool,
    retry_after: Option<Duration>,
}

const INITIAL: i64 = 50;
const MINIMUM: i64 = -5;

/// Two credits for each.
fn price(n: Option<i64>) -> Option<i64> {
    n.map(|n| n * 2)
}

impl Model {
    fn window(&self, customer: usize, period: Period, at: Timestamp) -> Window {
        self.calendars[customer].window(period, at)
    }

    fn fold<'a>(meter: MeterOf, events: impl Iterator<Item = &'a Recorded>) -> i64 {
        let mut latest = None;
        let mut value = None;
        for event in events {
            let Some(read) = meter.reads(event.of.n) else { continue };
            value = match (meter.aggregation(), value) {
                (Aggregation::Sum | Aggregation::Count, known) => Some(known.unwrap_or(0) + read),
                (Aggregation::Max, Some(known)) => Some(read.max(known)),
                (Aggregation::Latest, Some(known)) if latest > Some(event.at) => Some(known),
                _ => Some(read),
            };
            latest = latest.max(Some(event.at));
        }
        value.unwrap_or(0)
    }

    fn used(&self, customer: usize, (meter, period, model): Counter) -> i64 {
        let window = self.window(customer, period, self.now);
        let events = self.events.iter().filter(|event| {
            event.of.customer == customer
                && event.is_read_by(meter, model)
                && window.contains(event.at)
        });
        Self::fold(meter, events)
    }

    fn lives(&self, running: &Running) -> bool {
        running.expires.is_none_or(|expires| expires > self.monotonic)
    }

    fn living(&self, customer: usize) -> impl Iterator<Item = &Running> {
        self.running
            .iter()
            .filter(move |running| running.of.customer == customer && self.lives(running))
    }

    fn held(&self, customer: usize, counter: Counter) -> i64 {
        let window = self.window(customer, counter.1, self.now);
        let lines = self.living(customer).flat_map(|running| &running.lines);
        lines.filter(|line| line.0 == counter && line.1 == window).map(|line| line.2).sum()
    }

    fn credits_held(&self, customer: usize) -> i64 {
        self.living(customer).map(|running| running.credits).sum()
    }

    /// The limits that hold for a customer.
    fn limits_of(&self, customer: usize) -> Vec<(usize, &LimitOf)> {
        let own = |limit: &LimitOf| limit.owner == Some(customer);
        let mut limits: Vec<_> = self
            .limits
            .iter()
            .filter(|(_, limit)| {
                own(limit)
                    || limit.owner.is_none()
                        && !self
                            .limits
                            .values()
                            .any(|other| own(other) && other.counter == limit.counter)
            })
            .map(|(number, limit)| (*number, limit))
            .collect();
        limits.sort_by_key(|(number, _)| *number);
        limits
    }

    /// What a check must answer; for a read of usage there is no `asked`.
    fn answer(&self, customer: usize, asked: Option<(&Use, bool)>) -> Answer {
        let mut lines = Vec::new();
        let mut wait = Some(Duration::ZERO);
        for (number, limit) in self.limits_of(customer) {
            let (meter, period, model) = limit.counter;
            let ask = match asked {
                Some((of, _)) => {
                    let kind = of.kind.map(|kind| TYPES[kind]);
                    if meter.only_chat && kind.is_some_and(|kind| kind != "chat")
                        || model.is_some() && of.model != model
                    {
                        continue;
                    }
                    meter.reads(of.n).filter(|ask| *ask > 0)
                }
                None => None,
            };
            let (used, held) =
                (self.used(customer, limit.counter), self.held(customer, limit.counter));
            let cap = limit.cap;
            let adds = matches!(meter.aggregation(), Aggregation::Sum | Aggregation::Count);
            let full = |used: i64| match ask {
                Some(ask) if adds => used + ask > cap,
                Some(ask) if meter.aggregation() == Aggregation::Max => used.max(ask) > cap,
                Some(ask) => ask > cap,
                None => used >= cap,
            };
            let too_large = ask.is_some_and(|ask| ask > cap);
            let exceeded = too_large || full(used) || adds && full(used + held);
            if exceeded {
                let window = self.window(customer, period, self.now);
                let this = if too_large {
                    None
                } else if !full(used) {
                    Some(SECOND)
                } else if period == Period::AllTime {
                    None
                } else {
                    let left = window.end().duration_since(self.now);
                    Some(Duration::from_secs(left.as_nanos().div_ceil(1_000_000_000) as u64))
                };
                wait = wait.zip(this).map(|(one, other)| one.max(other));
            }
            lines.push((
                limit.counter,
                ask.filter(|_| adds),
                Line { id: format!("limit-{number}"), used, held, exceeded, too_large },
            ));
        }
        let mut credits = None;
        if let Some((of, true)) = asked {
            let (above, held) = (self.credits[customer] - MINIMUM, self.credits_held(customer));
            let short = |available: i64| match price(of.n) {
                Some(price) => price > available,
                None => available <= 0,
            };
            let refused = short(above - held);
            if refused {
                let this = if short(above) { None } else { Some(SECOND) };
                wait = wait.zip(this).map(|(one, other)| one.max(other));
            }
            credits = Some((self.credits[customer], held, refused));
        }
        let refused =
            |credits: &Option<(i64, i64, bool)>| credits.is_some_and(|(.., refused)| refused);
        let allowed = !lines.iter().any(|line| line.2.exceeded) && !refused(&credits);
        // What an allowed check shows has its own hold in it.
        if let Some((of, charge)) = asked.filter(|_| allowed) {
            for (_, ask, line) in &mut lines {
                line.held += ask.unwrap_or(0);
            }
            if let (Some(credits), true) = (&mut credits, charge) {
                credits.1 += price(of.n).unwrap_or(0);
            }
        }
        let mut lines: Vec<_> = lines.into_iter().map(|(.., line)| line).collect();
        lines.sort_by(|one, other| one.id.cmp(&other.id));
        let retry_after = if allowed { None } else { wait };
        Answer { lines, credits, allowed, retry_after }
    }

    /// What a check that is allowed holds on the counters.
    fn holds(&self, of: &Use) -> Vec<(Counter, Window, i64)> {
        let mut lines: Vec<(Counter, Window, i64)> = Vec::new();
        for (_, limit) in self.limits_of(of.customer) {
            let (meter, period, model) = limit.counter;
            let kind = of.kind.map(|kind| TYPES[kind]);
            let applies = !(meter.only_chat && kind.is_some_and(|kind| kind != "chat"))
                && (model.is_none() || of.model == model);
            let adds = matches!(meter.aggregation(), Aggregation::Sum | Aggregation::Count);
            let ask = meter.reads(of.n).filter(|ask| *ask > 0 && adds && applies);
            if let Some(ask) = ask
                && !lines.iter().any(|line| line.0 == limit.counter)
            {
                lines.push((limit.counter, self.window(of.customer, period, self.now), ask));
            }
        }
        lines
    }

    fn finish(&mut self, customer: usize, id: u8, at: Timestamp) {
        self.finished.insert((customer, id), at.max(self.now).saturating_add(self.horizon));
    }

    /// Whether the id was counted: `None` when it may be forgotten by now.
    fn is_finished(&self, customer: usize, id: u8) -> Option<bool> {
        match self.finished.get(&(customer, id)) {
            None => Some(false),
            Some(until) if self.now <= *until => Some(true),
            Some(_) => None,
        }
    }
}

fn seen(decision: &Decision, check: bool) -> Answer {
    let mut lines: Vec<_> = decision
        .limits()
        .map(|limit| {
            assert!(limit.is_complete());
            assert_eq!(limit.remaining(), {
                let left = limit.limit().saturating_sub(limit.used()).saturating_sub(limit.held());
                left.max(Amount::ZERO)
            });
            Line {
                id: limit.id().into(),
                used: limit.used().floor(),
                held: limit.held().floor(),
                exceeded: limit.is_exceeded(),
                too_large: limit.is_too_large(),
            }
        })
        .collect();
    let order: Vec<_> = lines.iter().map(|line| !line.exceeded).collect();
    assert!(order.is_sorted(), "those that refuse come first: {lines:?}");
    lines.sort_by(|one, other| one.id.cmp(&other.id));
    let credits = decision.balance().map(|state| {
        let balance = state.balance().unwrap();
        (balance.current().floor(), balance.held().floor(), state.is_exceeded())
    });
    let (allowed, retry_after) = if check {
        (decision.is_allowed(), decision.retry_after())
    } else {
        (!lines.iter().any(|line| line.exceeded), None)
    };
    Answer { lines, credits, allowed, retry_after }
}

struct Trial {
    books: Books,
    clock: ManualClock,
    model: Model,
}

impl Trial {
    fn new(open: Open, horizon: Duration, limits: &[LimitOf]) -> Self {
        let clock = noon();
        let mut builder = Engine::builder().clock(clock.clone());
        for kind in 0..KINDS.len() {
            for only_chat in [false, true] {
                builder = builder.meter(MeterOf { kind, only_chat }.meter());
            }
        }
        for (number, limit) in limits.iter().enumerate() {
            builder = builder.limit(limit.limit(number));
        }
        let terms = NewBalance::new("credits").initial(INITIAL).minimum(MINIMUM);
        let model = Model {
            horizon,
            now: time(NOON),
            monotonic: Duration::ZERO,
            events: Vec::new(),
            running: Vec::new(),
            limits: limits.iter().cloned().enumerate().collect(),
            calendars: Default::default(),
            credits: [INITIAL; 3],
            references: BTreeSet::new(),
            finished: BTreeMap::new(),
            repeatable: Vec::new(),
        };
        Self { books: open(builder.default_balance(terms)), clock, model }
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Check { of, charge, lifetime, id } => {
                self.check(of, *charge, *lifetime, *id).await;
            }
            Step::Settle { which, n, model } => {
                if !self.model.running.is_empty() {
                    let running =
                        self.model.running.swap_remove(which.index(self.model.running.len()));
                    self.settle(running, *n, *model).await;
                }
            }
            Step::Release { which } => {
                if !self.model.running.is_empty() {
                    let running =
                        self.model.running.swap_remove(which.index(self.model.running.len()));
                    running.permit.release().await.unwrap();
                }
            }
            Step::Record { of, ago, id } => {
                let distance = Duration::from_secs(ago.unsigned_abs());
                let now = self.model.now;
                let at = if *ago < 0 {
                    now.saturating_add(distance)
                } else {
                    now.saturating_sub(distance)
                };
                self.record(of, *id, at).await;
            }
            Step::Repeat { which } => {
                if !self.model.repeatable.is_empty() {
                    let (of, id, at) = which.get(&self.model.repeatable).clone();
                    self.record(&of, Some(id), at).await;
                }
            }
            Step::Credit { customer, amount, reference } => {
                let mut credit = Credit::new(CUSTOMERS[*customer], "credits", *amount);
                let mut applies = true;
                if let Some(reference) = reference {
                    credit = credit.reference(reference.to_string());
                    applies = self.model.references.insert((*customer, *reference));
                }
                assert_eq!(self.books.credit(credit).await.unwrap().applied, applies);
                if applies {
                    self.model.credits[*customer] += amount;
                }
            }
            Step::Debit { customer, amount } => {
                let held = self.model.credits_held(*customer);
                let available = self.model.credits[*customer] - MINIMUM - held;
                let debit = Debit::new(CUSTOMERS[*customer], "credits", *amount);
                let taken = self.books.debit(debit).await.unwrap().is_taken();
                assert_eq!(taken, *amount <= available);
                if taken {
                    self.model.credits[*customer] -= amount;
                }
            }
            Step::Advance { seconds } => {
                let by = Duration::from_secs(*seconds);
                self.clock.advance(by);
                self.model.now = self.model.now.saturating_add(by);
                self.model.monotonic += by;
            }
            Step::PutLimit { number, limit } => {
                self.books.put_limit(limit.limit(*number)).await.unwrap();
                self.model.limits.insert(*number, limit.clone());
            }
            Step::RemoveLimit { number } => {
                let there = self.books.remove_limit(format!("limit-{number}")).await.unwrap();
                assert_eq!(there, self.model.limits.remove(number).is_some());
            }
            Step::Describe { customer, zone, anchor } => {
                self.describe(
                    *customer,
                    zone.map(|zone| ZONES[zone]),
                    anchor.map(|at| ANCHORS[at]),
                )
                .await;
            }
            Step::Query { customer, meter, range, model } => {
                self.query(*customer, *meter, *range, *model).await;
            }
        }
    }

    async fn check(&mut self, of: &Use, charge: bool, lifetime: Option<u64>, id: Option<u8>) {
        let mut check = Check::of(CUSTOMERS[of.customer]).expect(of.usage());
        if let Some(kind) = of.kind {
            check = check.event_type(TYPES[kind]);
        }
        if charge {
            check = check.charge("credits", |usage| {
                Some(usage.value("n")?.saturating_add(usage.value("n")?))
            });
        }
        let expected = self.model.answer(of.customer, Some((of, charge)));
        let looked = self.books.preview(check.clone()).await.unwrap();
        assert_eq!(looked.is_allowed(), expected.allowed, "preview");

        let lifetime = lifetime.map(Duration::from_secs);
        if let Some(lifetime) = lifetime {
            check = check.hold_for(lifetime);
        }
        let id = id.filter(|id| self.model.is_finished(of.customer, *id).is_some());
        if let Some(id) = id {
            check = check.id(format!("id-{id}"));
        }
        let answer = self.books.check(check).await;
        if let Some(id) = id {
            if self.model.is_finished(of.customer, id) == Some(true) {
                return assert!(answer.unwrap().was_settled());
            }
            if self.model.living(of.customer).any(|running| running.id == Some(id)) {
                let Err(CheckError::Failed(error)) = answer else { panic!("{answer:?}") };
                return assert_eq!(error.kind(), ErrorKind::Conflict);
            }
        }
        match answer {
            Ok(permit) => {
                assert_eq!(seen(permit.decision(), true), expected);
                let running = Running {
                    permit,
                    of: of.clone(),
                    at: self.model.now,
                    charge,
                    lines: self.model.holds(of),
                    credits: if charge { price(of.n).unwrap_or(0) } else { 0 },
                    expires: lifetime.map(|lifetime| self.model.monotonic + lifetime),
                    id,
                };
                self.model.running.push(running);
            }
            Err(CheckError::Denied(denial)) => assert_eq!(seen(denial.decision(), true), expected),
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn settle(&mut self, running: Running, n: Option<i64>, model: Option<usize>) {
        let (customer, id) = (running.of.customer, running.id);
        let forgotten = running.expires.is_some_and(|at| self.model.monotonic >= at + LATE);
        let finished = id.map_or(Some(false), |id| self.model.is_finished(customer, id));
        if forgotten && id.is_some() || finished.is_none() {
            return running.permit.release().await.unwrap();
        }
        let usage = Use { n, model, ..running.of.clone() }.usage();
        // Usage that lacks what was estimated, or that the price cannot be told of, is settled all the
        // same, and told to the caller.
        let lacks = n.is_none() && running.of.n.is_some();
        let unpriced = running.charge && price(n).is_none();
        let missing = (lacks || unpriced) && !running.permit.was_settled();
        let kind = running.permit.settle(usage).await.map_err(|error| error.kind()).err();
        // Whether its hold is still known that ended so long ago is left open; but it is told.
        if forgotten && kind == Some(ErrorKind::TooOld) {
            return;
        }
        assert_eq!(kind, missing.then_some(ErrorKind::Invalid));
        if finished == Some(true) {
            return;
        }
        let n = n.or(running.of.n);
        let of = Use { n, model: model.or(running.of.model), ..running.of.clone() };
        let kind = of.kind.map_or("request", |kind| TYPES[kind]).to_owned();
        if running.charge {
            let charge = price(n).or(price(running.of.n)).unwrap_or(0);
            self.model.credits[customer] -= charge;
        }
        self.model.events.push(Recorded { of, kind, at: running.at });
        if let Some(id) = id {
            self.model.finish(customer, id, running.at);
        }
    }

    async fn record(&mut self, of: &Use, id: Option<u8>, at: Timestamp) {
        let kind = of.kind.map_or("other", |kind| TYPES[kind]);
        let mut event = Event::new(CUSTOMERS[of.customer], kind, of.usage()).at(at);
        let old = self.model.now.duration_since(at) > self.model.horizon;
        if let Some(id) = id {
            // Whether an id that may be forgotten counts again is left open, unless it is too old.
            if !old && self.model.is_finished(of.customer, id).is_none() {
                return;
            }
            event = event.id(format!("id-{id}"));
        }
        let answer = self.books.record(event).await;
        if let Some(id) = id {
            match self.model.is_finished(of.customer, id) {
                Some(true) => return assert!(!answer.unwrap().recorded),
                Some(false) if old => {
                    return assert_eq!(answer.unwrap_err().kind(), ErrorKind::TooOld);
                }
                None => match answer {
                    Ok(recorded) => return assert!(!recorded.recorded),
                    Err(error) => return assert_eq!(error.kind(), ErrorKind::TooOld),
                },
                Some(false) => {}
            }
            self.model.finish(of.customer, id, at);
            self.model.repeatable.push((of.clone(), id, at));
        }
        assert!(answer.unwrap().recorded);
        self.model.events.push(Recorded { of: of.clone(), kind: kind.into(), at });
    }

    async fn describe(&mut self, number: usize, zone: Option<&str>, anchor: Option<&str>) {
        let mut customer = Customer::new(CUSTOMERS[number]);
        let mut calendar = Calendar::new(zone, None).unwrap();
        if let Some(zone) = zone {
            customer = customer.zone(zone);
        }
        if let Some(anchor) = anchor {
            customer = customer.billing_anchor(anchor);
            calendar = Calendar::parse(zone, anchor).unwrap();
        }
        self.books.put_customer(customer).await.unwrap();
        // What runs now goes over to the windows of now.
        let now = self.model.now;
        let before = std::mem::replace(&mut self.model.calendars[number], calendar.clone());
        for running in self.model.running.iter_mut().filter(|running| running.of.customer == number)
        {
            for line in &mut running.lines {
                if line.1 == before.window(line.0.1, now) {
                    line.1 = calendar.window(line.0.1, now);
                }
            }
        }
    }

    async fn query(&self, customer: usize, meter: MeterOf, range: Range, model: Option<usize>) {
        let mut query = MeterQuery::new(meter.id()).customer(CUSTOMERS[customer]);
        let now = self.model.now;
        let (start, end) = match range {
            Range::Everything => (Timestamp::MIN, Timestamp::MAX),
            Range::Window(period) => {
                let window = self.model.window(customer, period, now);
                (window.start(), window.end())
            }
            Range::Since(seconds) => {
                (now.saturating_sub(Duration::from_secs(seconds)), now.saturating_add(SECOND))
            }
        };
        if !matches!(range, Range::Everything) {
            query = query.from(start).until(end);
        }
        if let Some(model) = model {
            query = query.dimension("model", MODELS[model]);
        }
        let reading = self.books.query(query).await.unwrap();
        let events = self.model.events.iter().filter(|event| {
            event.of.customer == customer
                && event.is_read_by(meter, model)
                && start <= event.at
                && event.at < end
        });
        assert_eq!(reading.value.floor(), Model::fold(meter, events));
        assert!(reading.complete);
    }

    /// The books are what the model says.
    async fn compare(&self) {
        for (number, customer) in CUSTOMERS.into_iter().enumerate() {
            let expected = Answer { retry_after: None, ..self.model.answer(number, None) };
            assert_eq!(
                seen(&self.books.usage(customer).await.unwrap(), false),
                expected,
                "{customer}"
            );
            let balance = self.books.balance(customer, "credits").await.unwrap().unwrap();
            let shown = (balance.current().floor(), balance.held().floor());
            assert_eq!(
                shown,
                (self.model.credits[number], self.model.credits_held(number)),
                "{customer}"
            );
        }
    }
}

fn follows_the_model(open: Open, horizon: Duration, cases: u64) {
    let config = ProptestConfig {
        cases: cases as u32,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        rng_seed: RngSeed::Fixed(seed()),
        source_file: Some(file!()),
        test_name: Some("follows_the_model"),
        ..ProptestConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    TestRunner::new(config)
        .run(&any_history(), |(limits, steps)| {
            runtime.block_on(async {
                let mut trial = Trial::new(open, horizon, &limits);
                for step in &steps {
                    trial.step(step).await;
                    trial.compare().await;
                }
                let living = |running: &&Running| trial.model.lives(running);
                let open = trial.model.running.iter().filter(living).count();
                assert_eq!(trial.books.open_holds().await.unwrap(), open);
                let Trial { books, mut model, .. } = trial;
                model.running.clear();
                books.settled().await.unwrap();
            });
            Ok(())
        })
        .unwrap();
}

/// Runs the model over one store: a name, how long it remembers ids, how many cases to try, and what
/// opens fresh books of an engine on it.
macro_rules! model_suite {
    ($name:ident, $horizon:expr, $cases:expr, $open:expr) => {
        #[test]
        fn $name() {
            follows_the_model($open, $horizon, $cases);
        }
    };
}

model_suite!(on_memory, 10 * MINUTE, times(2_000, 1_000_000), |builder| builder
    .build()
    .unwrap()
    .erased());

#[cfg(feature = "sqlite")]
model_suite!(on_sqlite, Duration::MAX, times(200, 100_000), |builder| {
    use tower_limitry::store::sqlite::{Durability, Sqlite};
    // The model is about what is counted, not about the disk.
    let relaxed = Durability::Relaxed { at_most: HOUR };
    let store = Sqlite::options().durability(relaxed).open(file::emptied()).unwrap();
    builder.build_on(store).unwrap().erased()
});

#[cfg(feature = "redis")]
model_suite!(on_redis, 10 * MINUTE, times(150, 50_000), |builder| {
    let (url, prefix) = redis::fresh();
    let options = tower_limitry::store::Redis::options().prefix(prefix).timeout(MINUTE);
    let store = options.danger_time_of_the_engine().open(&url).unwrap();
    builder.build_on(store).unwrap().erased()
});
