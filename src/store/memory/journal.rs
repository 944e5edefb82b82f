//! The newest events and transactions, for lists, queries and limits that are added later.

use std::collections::VecDeque;

use foldhash::HashMap;

use crate::policy::{
    Amount, CustomerId, EventId, RecordedEvent, Timestamp, Transaction, TransactionKind,
};
use crate::store::Found;

#[derive(Debug)]
pub(super) struct Journal {
    events: Ring<RecordedEvent>,
    places: Places,
    transactions: Ring<Transaction>,
    /// Where those of them are that are done once, by their ids.
    done: HashMap<(CustomerId, EventId), u64>,
    /// The time of the newest event that was let go: from there on the history is whole.
    forgotten: Option<Timestamp>,
    /// The same of the newest transaction.
    transactions_forgotten: Option<Timestamp>,
}

#[derive(Debug)]
struct Ring<T> {
    kept: VecDeque<T>,
    most: usize,
    /// How many there ever were.
    count: u64,
}

impl<T> Ring<T> {
    fn new(most: usize) -> Self {
        Self { kept: VecDeque::new(), most, count: 0 }
    }

    fn push(&mut self, item: T) -> Option<T> {
        self.count += 1;
        if self.most == 0 {
            return Some(item);
        }
        let oldest = (self.kept.len() >= self.most).then(|| self.kept.pop_front()).flatten();
        self.kept.push_back(item);
        oldest
    }
}

/// Where the events are, by their ids. Found out when somebody asks, so that settling costs nothing.
#[derive(Debug, Default)]
struct Places {
    known: HashMap<(CustomerId, EventId), u64>,
    /// How many events were looked at.
    until: u64,
}

impl Places {
    fn look(&mut self, events: &Ring<RecordedEvent>, customer: &CustomerId, id: &EventId) -> bool {
        let first = events.count - events.kept.len() as u64;
        // Half of them may be of events that are no longer kept.
        if self.known.len() > 2 * events.kept.len() {
            *self = Self::default();
        }
        let new = events.kept.iter().skip(self.until.saturating_sub(first) as usize);
        let places = new.map(|event| ((event.customer.clone(), event.id.clone()), event.sequence));
        self.known.extend(places);
        self.until = events.count;
        self.known.get(&(customer.clone(), id.clone())).is_some_and(|place| *place >= first)
    }
}

impl Journal {
    pub(super) fn new(events: usize, transactions: usize) -> Self {
        Self {
            events: Ring::new(events),
            places: Places::default(),
            transactions: Ring::new(transactions),
            done: HashMap::default(),
            forgotten: None,
            transactions_forgotten: None,
        }
    }

    pub(super) fn record(&mut self, mut event: RecordedEvent) {
        event.sequence = self.events.count;
        if let Some(oldest) = self.events.push(event) {
            self.forgotten = self.forgotten.max(Some(oldest.at));
        }
    }

    /// Whether an event is kept under that id.
    pub(super) fn has_event(&mut self, customer: &CustomerId, id: &EventId) -> bool {
        self.places.look(&self.events, customer, id)
    }

    /// Answers the transaction's place in the order of arrival. One that is done `once` is found by its
    /// id.
    pub(super) fn transact(&mut self, mut transaction: Transaction, once: bool) -> u64 {
        // From 1 on, so that an opening balance has a place before the first.
        transaction.sequence = self.transactions.count + 1;
        if once {
            let key = (transaction.customer.clone(), transaction.id.clone());
            self.done.insert(key, self.transactions.count);
        }
        if let Some(oldest) = self.transactions.push(transaction) {
            self.transactions_forgotten = self.transactions_forgotten.max(Some(oldest.at));
            if !self.done.is_empty() {
                self.done.remove(&(oldest.customer, oldest.id));
            }
        }
        self.transactions.count
    }

    /// What was done once under that id, while it is kept.
    pub(super) fn done(&self, customer: &CustomerId, id: &EventId) -> Option<&Transaction> {
        let place = *self.done.get(&(customer.clone(), id.clone()))?;
        let first = self.transactions.count - self.transactions.kept.len() as u64;
        self.transactions.kept.get(place.checked_sub(first)? as usize)
    }

    pub(super) fn forgotten(&self) -> Option<Timestamp> {
        self.forgotten
    }

    /// Oldest first.
    pub(super) fn events(&self) -> impl DoubleEndedIterator<Item = &RecordedEvent> {
        self.events.kept.iter()
    }

    /// The kept changes of one balance, oldest first, led by what it held before them.
    pub(super) fn transactions(
        &self,
        customer: &CustomerId,
        balance: &str,
        current: Amount,
    ) -> Vec<Transaction> {
        let of_balance = |transaction: &&Transaction| {
            transaction.customer == *customer && &*transaction.balance == balance
        };
        let kept: Vec<_> = self.transactions.kept.iter().filter(of_balance).cloned().collect();
        let opening = match kept.first() {
            Some(first) => match first.kind {
                TransactionKind::Credit => first.balance_after.saturating_sub(first.amount),
                _ => first.balance_after.saturating_add(first.amount),
            },
            None => current,
        };
        let mut all = Vec::with_capacity(kept.len() + 1);
        if opening != Amount::ZERO {
            all.push(Transaction {
                id: EventId::from_uuid(0),
                customer: customer.clone(),
                balance: balance.into(),
                kind: TransactionKind::Opening,
                amount: opening,
                balance_after: opening,
                description: None,
                reference: None,
                at: kept.first().map_or(Timestamp::UNIX_EPOCH, |first| first.at),
                sequence: kept.first().map_or(0, |first| first.sequence.saturating_sub(1)),
            });
        }
        all.extend(kept);
        all
    }

    /// An event, and what it was charged.
    pub(super) fn find(&self, customer: &CustomerId, id: &EventId) -> Option<Found> {
        let events = self.events.kept.iter().rev();
        let event = events.into_iter().find(|event| event.id == *id && event.customer == *customer);
        let charge = self
            .transactions
            .kept
            .iter()
            .rev()
            .find(|transaction| transaction.id == *id && transaction.customer == *customer);
        let event = event?;
        // A charge that was let go cannot be told from none.
        if charge.is_none() && self.transactions_forgotten >= Some(event.at) {
            return None;
        }
        Some(Found { event: event.clone(), charge: charge.cloned() })
    }

    pub(super) fn transaction(
        &self,
        customer: &CustomerId,
        balance: &str,
        reference: &str,
    ) -> Option<&Transaction> {
        self.transactions.kept.iter().rev().find(|transaction| {
            transaction.kind == TransactionKind::Credit
                && transaction.customer == *customer
                && transaction.balance == balance
                && transaction.reference.as_deref() == Some(reference)
        })
    }
}
