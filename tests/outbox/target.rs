//! A target that knows repeats by one mark for each customer and producer, and fails as it is told.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tower_limitry::backend::{
    Admin, Backend, Check, Delivery, Producer, Receipt, Settlement, Ticket,
};
use tower_limitry::policy::{CustomerId, EventId, Timestamp};
use tower_limitry::store::BoxFuture;
use tower_limitry::test_util::Scripted;
use tower_limitry::{Amount, Error, ErrorKind};

/// Checks and releases are the scripted backend's; deliveries are written down.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) script: Scripted,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    books: Books,
    /// Every delivery that was looked at, taken or not.
    seen: Vec<Seen>,
    batches: Vec<usize>,
    answer: Option<Box<Script>>,
    /// Runs once, before the next settlement is in the queue.
    before_queued: Option<Box<dyn FnOnce() + Send>>,
}

type Script = dyn FnMut(&Delivery) -> Answer + Send;

/// What the target must not lose.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    marks: HashMap<(CustomerId, Producer), u64>,
    pub(crate) taken: Vec<(String, String)>,
    pub(crate) charged: HashMap<String, Amount>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) customer: String,
    pub(crate) id: String,
    pub(crate) producer: Producer,
    pub(crate) sequence: u64,
}

/// What is done with one delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Take,
    /// It is taken, and the answer is lost.
    TakeSilently,
    Fail(ErrorKind),
}

impl Target {
    pub(crate) fn new(script: Scripted) -> Self {
        Self { script, state: Arc::default() }
    }

    pub(crate) fn answer(&self, answer: impl FnMut(&Delivery) -> Answer + Send + 'static) {
        self.state().answer = Some(Box::new(answer));
    }

    pub(crate) fn before_queued(&self, hook: impl FnOnce() + Send + 'static) {
        self.state().before_queued = Some(Box::new(hook));
    }

    pub(crate) fn always(&self, answer: Answer) {
        self.answer(move |_| answer);
    }

    pub(crate) fn books(&self) -> Books {
        self.state().books.clone()
    }

    /// Another memory than it had.
    pub(crate) fn remember(&self, books: Books) {
        self.state().books = books;
    }

    pub(crate) fn taken(&self) -> Vec<(String, String)> {
        self.state().books.taken.clone()
    }

    /// The ids that were taken of one customer, in order.
    pub(crate) fn taken_of(&self, customer: &str) -> Vec<String> {
        let taken = self.taken().into_iter().filter(|(whose, _)| whose == customer);
        taken.map(|(_, id)| id).collect()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    pub(crate) fn batches(&self) -> Vec<usize> {
        self.state().batches.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn settle(&mut self, delivery: &Delivery) -> Result<Receipt, Error> {
        let (customer, id) = (delivery.customer().to_string(), delivery.id().to_string());
        self.seen.push(Seen {
            customer: customer.clone(),
            id: id.clone(),
            producer: delivery.producer,
            sequence: delivery.sequence,
        });
        let answer = self.answer.as_mut().map_or(Answer::Take, |answer| answer(delivery));
        if let Answer::Fail(kind) = answer {
            return Err(Error::new(kind, "the script says so"));
        }
        let mark = self.books.marks.entry((delivery.customer().clone(), delivery.producer));
        let mark = mark.or_default();
        if delivery.previous.is_some_and(|previous| *mark < previous) {
            return Ok(Receipt::Behind);
        }
        if delivery.sequence > *mark {
            *mark = delivery.sequence;
            if let Some((_, amount)) = delivery.charge() {
                let charged = self.books.charged.entry(customer.clone()).or_default();
                *charged = charged.checked_add(amount).unwrap();
            }
            self.books.taken.push((customer, id));
        }
        match answer {
            Answer::TakeSilently => Err(Error::new(ErrorKind::TimedOut, "the answer was lost")),
            _ => Ok(Receipt::Taken),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").finish_non_exhaustive()
    }
}

impl Backend for Target {
    type Check = <Scripted as Backend>::Check;
    type Finish = <Scripted as Backend>::Finish;

    fn check(&self, check: Check) -> Self::Check {
        self.script.check(check)
    }

    fn settle(&self, _: Settlement) -> Self::Finish {
        panic!("everything goes through the outbox");
    }

    fn settle_many(
        &self,
        batch: Vec<Delivery>,
        _: Duration,
    ) -> BoxFuture<'static, Vec<Result<Receipt, Error>>> {
        let this = self.clone();
        Box::pin(async move {
            let mut state = this.state();
            state.batches.push(batch.len());
            let mut stopped = HashSet::new();
            let settle = |delivery: &Delivery| {
                if stopped.contains(delivery.customer()) {
                    return Err(Error::new(ErrorKind::Unavailable, "an earlier one goes first"));
                }
                let result = state.settle(delivery);
                let goes_on = match &result {
                    Ok(receipt) => *receipt == Receipt::Taken,
                    Err(error) => !error.is_transient(),
                };
                if !goes_on {
                    stopped.insert(delivery.customer().clone());
                }
                result
            };
            batch.iter().map(settle).collect()
        })
    }

    fn queued(&self, _: &Settlement) {
        let hook = self.state().before_queued.take();
        if let Some(hook) = hook {
            hook();
        }
    }

    fn release(&self, ticket: Ticket) -> Self::Finish {
        self.script.release(ticket)
    }

    fn make_id(&self, at: Timestamp) -> EventId {
        self.script.make_id(at)
    }

    fn now(&self) -> Timestamp {
        self.script.now()
    }

    fn admin(&self) -> &dyn Admin {
        self.script.admin()
    }
}
