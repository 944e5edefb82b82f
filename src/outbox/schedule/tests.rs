use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const CUSTOMERS: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Take(usize),
    /// A load that is away comes back, its entries taken until one of them is not.
    Land(usize, usize, Fate),
    DeliverAgain(usize),
    DropKept,
    Hurry,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![Just(Fate::Taken), Just(Fate::SetAside), Just(Fate::Failed)];
    prop_oneof![
        4 => (0..CUSTOMERS).prop_map(Step::Append),
        3 => (1..5_usize).prop_map(Step::Take),
        3 => (any::<usize>(), 0..4_usize, fate)
            .prop_map(|(load, taken, fate)| Step::Land(load, taken, fate)),
        1 => (0..CUSTOMERS).prop_map(Step::DeliverAgain),
        1 => Just(Step::DropKept),
        1 => Just(Step::Hurry),
        1 => (0..2_000_u64).prop_map(Step::Wait),
    ]
}

fn name(customer: usize) -> CustomerId {
    CustomerId::new(customer.to_string()).unwrap()
}

/// What a customer's lane has to be, told the simple way.
#[derive(Debug, Default)]
struct Model {
    waiting: BTreeSet<u64>,
    kept: BTreeSet<u64>,
    is_away: bool,
    /// Since when.
    rests: Option<Duration>,
}

#[derive(Debug)]
struct Bench {
    schedule: Schedule,
    models: HashMap<CustomerId, Model>,
    away: Vec<Load>,
    next: u64,
    now: Duration,
    refused: usize,
}

impl Bench {
    fn new() -> Self {
        let backoff = Backoff::new(Duration::from_millis(1_000), Duration::from_millis(1_000));
        Self {
            schedule: Schedule::new(backoff),
            models: (0..CUSTOMERS).map(|at| (name(at), Model::default())).collect(),
            away: Vec::new(),
            next: 1,
            now: Duration::ZERO,
            refused: 0,
        }
    }

    fn model(&mut self, customer: &CustomerId) -> &mut Model {
        self.models.get_mut(customer).unwrap()
    }

    fn run(&mut self, step: Step) {
        let noon = Timestamp::from_seconds(0);
        match step {
            Step::Append(customer) => {
                let (customer, sequence) = (name(customer), self.next);
                self.next += 1;
                self.model(&customer).waiting.insert(sequence);
                let state = State::Waiting;
                let (bytes, appended, moved) = (1, noon, noon);
                self.schedule.add(Line { sequence, customer, state, bytes, appended, moved });
            }
            Step::Take(most) => {
                let loads = self.schedule.take(self.now, most);
                assert!(loads.iter().map(|load| load.entries.len()).sum::<usize>() <= most);
                for load in loads {
                    self.taken(&load);
                    self.away.push(load);
                }
            }
            Step::Land(load, taken, fate) if !self.away.is_empty() => {
                let load = self.away.swap_remove(load % self.away.len());
                let mut fates = Vec::new();
                for (at, due) in load.entries.iter().enumerate() {
                    let fate = if at < taken { Fate::Taken } else { fate };
                    fates.push((due.sequence, fate));
                }
                self.schedule.land(&load.customer, &fates, self.now, Some(noon));
                self.landed(&load.customer, &fates);
            }
            Step::DeliverAgain(customer) => {
                let customer = name(customer);
                for sequence in self.schedule.kept_of(&customer) {
                    self.schedule.deliver_again(&customer, sequence);
                }
                let model = self.model(&customer);
                let kept = std::mem::take(&mut model.kept);
                model.waiting.extend(kept);
            }
            Step::DropKept => {
                for (customer, sequence) in self.schedule.overdue(Timestamp::MIN, 2) {
                    self.schedule.drop_kept(&customer, sequence);
                    assert!(self.model(&customer).kept.remove(&sequence));
                }
            }
            Step::Hurry => {
                self.schedule.hurry();
                self.models.values_mut().for_each(|model| model.rests = None);
            }
            Step::Wait(millis) => self.now += Duration::from_millis(millis),
            Step::Land(..) => {}
        }
    }

    /// A load holds the first that wait of one customer, in order, who is not served already.
    fn taken(&mut self, load: &Load) {
        let now = self.now;
        let model = self.model(&load.customer);
        assert!(!std::mem::replace(&mut model.is_away, true), "two loads of one customer");
        let rested = model.rests.take().map(|since| now - since);
        assert!(rested.is_none_or(|time| time >= Duration::from_millis(500)), "{rested:?}");
        assert!(!load.entries.is_empty());
        let first: Vec<u64> = model.waiting.iter().copied().take(load.entries.len()).collect();
        let sequences: Vec<u64> = load.entries.iter().map(|due| due.sequence).collect();
        assert_eq!(sequences, first);
        for due in &load.entries {
            assert_eq!(due.previous, model.kept.range(..due.sequence).next_back().copied());
        }
    }

    fn landed(&mut self, customer: &CustomerId, fates: &[(u64, Fate)]) {
        let failed = fates.iter().any(|(_, fate)| *fate == Fate::Failed);
        let model = self.models.get_mut(customer).unwrap();
        model.is_away = false;
        model.rests = failed.then_some(self.now);
        for (sequence, fate) in fates.iter().filter(|(_, fate)| *fate != Fate::Failed) {
            assert!(model.waiting.remove(sequence));
            match fate {
                Fate::SetAside => self.refused += 1,
                _ => assert!(model.kept.insert(*sequence)),
            }
        }
    }

    fn check(&self) {
        let models = self.models.values();
        let waiting = models.clone().flat_map(|model| &model.waiting);
        assert_eq!(self.schedule.depth(), waiting.clone().count());
        assert_eq!(self.schedule.oldest().map(|(sequence, _)| sequence), waiting.min().copied());
        assert_eq!(self.schedule.kept(), models.map(|model| model.kept.len()).sum::<usize>());
        assert_eq!(self.schedule.refused(), self.refused);
        let names: HashSet<_> = self.schedule.ready.iter().map(|(_, name)| name).collect();
        assert_eq!(names.len(), self.schedule.ready.len(), "ready once");
        for (customer, lane) in &self.schedule.lanes {
            let is_over = lane.waiting.is_empty() && lane.kept.is_empty();
            assert!(!is_over || lane.stage != Stage::Ready, "{customer} is over");
        }
    }
}

proptest! {
    #[test]
    fn loads_are_the_first_that_wait_of_customers_that_are_not_served(
        steps in vec(step(), 0..200),
    ) {
        let mut bench = Bench::new();
        for step in steps {
            bench.run(step);
            bench.check();
        }
        // Nothing gets stuck: with every load taken, all of it goes.
        while bench.schedule.depth() > 0 {
            bench.run(Step::Hurry);
            bench.run(Step::Take(usize::MAX));
            prop_assert!(!bench.away.is_empty());
            while !bench.away.is_empty() {
                bench.run(Step::Land(0, usize::MAX, Fate::Taken));
            }
            bench.check();
        }
    }
}
