use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Backend, Settlement};
use crate::policy::{Amount, CustomerId, Event, EventId, Producer, Timestamp, Usage};
use crate::store::Mark;
use crate::{Error, ErrorKind};

/// A settlement that was kept in a queue until it could be delivered.
///
/// A target knows repeats by one mark for each customer and [`producer`](Self::producer): the
/// [`sequence`](Self::sequence) of the last delivery that it took, moved in the same atomic step as
/// what it counts. It records every delivery above its mark, whether or not there is still a hold.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// What to record.
    pub settlement: Settlement,
    /// The queue it comes from.
    pub producer: Producer,
    /// Its place in that queue. Grows from delivery to delivery of one customer, with gaps; at most
    /// 2^53. One at or below the mark is a repeat.
    pub sequence: u64,
    /// The last delivery of the same customer before this one that the target is known to have
    /// taken, if the queue still keeps one. A mark below it tells that the target has forgotten: see [`Receipt::Behind`].
    pub previous: Option<u64>,
}

impl Delivery {
    /// Whose use.
    pub fn customer(&self) -> &CustomerId {
        self.settlement.hold.customer()
    }

    /// The id, the same on every attempt.
    pub fn id(&self) -> &EventId {
        self.settlement.hold.id()
    }

    /// What kind of use it was.
    pub fn event_type(&self) -> &str {
        self.settlement.hold.check().ask().recorded_as()
    }

    /// Amounts and dimensions.
    pub fn usage(&self) -> &Usage {
        &self.settlement.usage
    }

    /// When it happened.
    pub fn at(&self) -> Timestamp {
        self.settlement.hold.at()
    }

    /// As an event, for a target that records events in batches.
    pub fn event(&self) -> Event {
        Event::new(self.customer(), self.event_type(), self.usage().clone())
            .id(self.id().to_string())
            .at(self.at())
    }

    /// Its place in its queue.
    pub fn mark(&self) -> Mark {
        Mark { producer: self.producer, sequence: self.sequence, previous: self.previous }
    }

    /// The balance to charge, and how much.
    pub fn charge(&self) -> Option<(&str, Amount)> {
        let charge = self.settlement.hold.check().ask().charge.as_ref()?;
        Some((&charge.balance, self.settlement.charge?))
    }
}

/// What became of a [`Delivery`] that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// It is recorded, now or before.
    Taken,
    /// It is not recorded: the target has not got what it had taken before
    /// ([`Delivery::previous`]). The queue delivers again what it keeps of that customer, this one
    /// after it.
    Behind,
}

/// Settles one by one: each customer's in order and only up to the first that fails, customers
/// beside each other.
pub(super) async fn settle_each<B: Backend>(
    backend: B,
    batch: Vec<Delivery>,
    within: Duration,
) -> Vec<Result<Receipt, Error>> {
    let end = Instant::now() + within;
    let mut results: Vec<_> = batch.iter().map(|_| Err(held_back())).collect();
    let mut queues: HashMap<CustomerId, VecDeque<(usize, Settlement)>> = HashMap::new();
    for (at, delivery) in batch.into_iter().enumerate() {
        let customer = delivery.customer().clone();
        queues.entry(customer).or_default().push_back((at, delivery.settlement));
    }
    while !queues.is_empty() {
        // They begin when they are called, so they run beside each other.
        let begun: Vec<_> = queues
            .iter_mut()
            .filter_map(|(customer, queue)| {
                let (at, settlement) = queue.pop_front()?;
                Some((customer.clone(), at, backend.settle(settlement)))
            })
            .collect();
        for (customer, at, finish) in begun {
            let result = timeout_at(end, finish).await.unwrap_or_else(|_| {
                let message = format!("a settlement was not answered within {within:?}");
                Err(Error::new(ErrorKind::TimedOut, message))
            });
            let goes_on = !result.as_ref().is_err_and(Error::is_transient);
            if !goes_on || queues.get(&customer).is_some_and(VecDeque::is_empty) {
                queues.remove(&customer);
            }
            results[at] = result.map(|()| Receipt::Taken);
        }
    }
    results
}

fn held_back() -> Error {
    Error::new(ErrorKind::Unavailable, "an earlier settlement of the customer has to go first")
}
