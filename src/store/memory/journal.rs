//! The newest events and transactions, for lists, queries and limits that are added later.

use std::collections::VecDeque;

use compact_str::CompactString;
use foldhash::HashMap;

use crate::policy::{
    Amount, CustomerId, EventId, RecordedEvent, Timestamp, Transaction, TransactionKind,
};
use crate::store::Found;

#[derive(Debug)]
pub(super) struct Journal {
    events: Ring<Kept>,
    places: Places,
    /// Those that are no charges of events.
    transactions: Ring<Transaction>,
    /// Which of those are done once, by the ids for that, and in their order.
    done: HashMap<(CustomerId, EventId), u64>,
    done_in_order: VecDeque<(u64, (CustomerId, EventId))>,
    /// How many transactions there ever were.
    transacted: u64,
    /// The time of the newest event that was let go: from there on the history is whole.
    forgotten: Option<Timestamp>,
    /// The newest transaction that was let go, by its place in the order of arrival.
    transactions_forgotten: u64,
}

/// An event, and what it was charged.
#[derive(Debug)]
struct Kept {
    event: RecordedEvent,
    charge: Option<Charged>,
}

/// What an event took from a balance, or gave back to it where that is below zero.
#[derive(Debug)]
pub(super) struct Charged {
    pub(super) balance: CompactString,
    pub(super) amount: Amount,
    pub(super) balance_after: Amount,
    /// Its place among the transactions.
    pub(super) sequence: u64,
}

impl Charged {
    pub(super) fn transaction(&self, event: &RecordedEvent) -> Transaction {
        let kind = match self.amount.is_negative() {
            true => TransactionKind::Credit,
            false => TransactionKind::Debit,
        };
        Transaction {
            id: event.id.clone(),
            customer: event.customer.clone(),
            balance: self.balance.clone(),
            kind,
            amount: self.amount.max(Amount::ZERO.saturating_sub(self.amount)),
            balance_after: self.balance_after,
            description: None,
            reference: None,
            at: event.at,
            sequence: self.sequence,
        }
    }
}

/// The newest items. A new one is written where the oldest was.
#[derive(Debug)]
struct Ring<T> {
    kept: Vec<T>,
    most: usize,
    /// Where the oldest is, once there are as many as may be.
    oldest: usize,
    /// How many there ever were.
    count: u64,
}

impl<T> Ring<T> {
    fn new(most: usize) -> Self {
        Self { kept: Vec::new(), most, oldest: 0, count: 0 }
    }

    /// Keeps an item. The one that is let go for it is shown once more.
    fn push(&mut self, item: T, let_go: impl FnOnce(&T)) {
        self.count += 1;
        if self.kept.len() < self.most {
            self.kept.push(item);
        } else if let Some(oldest) = self.kept.get_mut(self.oldest) {
            let_go(oldest);
            *oldest = item;
            self.oldest = if self.oldest + 1 == self.most { 0 } else { self.oldest + 1 };
        } else {
            let_go(&item);
        }
    }

    /// The one before which there were so many, if it is still kept.
    fn get(&self, number: u64) -> Option<&T> {
        let place = (number % self.most.max(1) as u64) as usize;
        self.kept.get(place).filter(|_| number >= self.first())
    }

    /// How many there were before the oldest that is kept.
    fn first(&self) -> u64 {
        self.count - self.kept.len() as u64
    }

    /// Oldest first.
    fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        let (newer, older) = self.kept.split_at(self.oldest);
        older.iter().chain(newer)
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
    fn look(&mut self, events: &Ring<Kept>, customer: &CustomerId, id: &EventId) -> bool {
        let first = events.first();
        // Half of them may be of events that are no longer kept.
        if self.known.len() > 2 * events.kept.len() {
            *self = Self::default();
        }
        let new = events.iter().skip(self.until.saturating_sub(first) as usize);
        let places = new
            .map(|Kept { event, .. }| ((event.customer.clone(), event.id.clone()), event.sequence));
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
            done_in_order: VecDeque::new(),
            transacted: 0,
            forgotten: None,
            transactions_forgotten: 0,
        }
    }

    pub(super) fn record(&mut self, mut event: RecordedEvent, mut charge: Option<Charged>) {
        event.sequence = self.events.count;
        if let Some(charge) = &mut charge {
            charge.sequence = next(&mut self.transacted);
        }
        let Self { events, forgotten, transactions_forgotten, .. } = self;
        events.push(Kept { event, charge }, |oldest| {
            *forgotten = (*forgotten).max(Some(oldest.event.at));
            if let Some(charge) = &oldest.charge {
                *transactions_forgotten = charge.sequence.max(*transactions_forgotten);
            }
        });
    }

    /// Whether an event is kept under that id.
    pub(super) fn has_event(&mut self, customer: &CustomerId, id: &EventId) -> bool {
        self.places.look(&self.events, customer, id)
    }

    /// Answers the transaction's place in the order of arrival. One that is done `once` is found by that
    /// id.
    pub(super) fn transact(&mut self, mut transaction: Transaction, once: Option<&EventId>) -> u64 {
        transaction.sequence = next(&mut self.transacted);
        if let Some(id) = once {
            let (number, key) =
                (self.transactions.count, (transaction.customer.clone(), id.clone()));
            self.done.insert(key.clone(), number);
            self.done_in_order.push_back((number, key));
        }
        let Self { transactions, transactions_forgotten, .. } = self;
        transactions.push(transaction, |oldest| {
            *transactions_forgotten = oldest.sequence.max(*transactions_forgotten);
        });
        let first = self.transactions.first();
        while self.done_in_order.front().is_some_and(|(number, _)| *number < first) {
            let Some((number, key)) = self.done_in_order.pop_front() else { break };
            // It may have been done anew since.
            if self.done.get(&key) == Some(&number) {
                self.done.remove(&key);
            }
        }
        self.transacted
    }

    /// What was done once under that id, while it is kept.
    pub(super) fn done(&self, customer: &CustomerId, id: &EventId) -> Option<&Transaction> {
        self.transactions.get(*self.done.get(&(customer.clone(), id.clone()))?)
    }

    pub(super) fn forgotten(&self) -> Option<Timestamp> {
        self.forgotten
    }

    /// Oldest first.
    pub(super) fn events(&self) -> impl DoubleEndedIterator<Item = &RecordedEvent> {
        self.events.iter().map(|kept| &kept.event)
    }

    /// The kept changes of one balance, oldest first, led by what it held before them.
    pub(super) fn transactions(
        &self,
        customer: &CustomerId,
        balance: &str,
        current: Amount,
    ) -> Vec<Transaction> {
        let charges = self.events.iter().filter_map(|Kept { event, charge }| {
            let charge = charge.as_ref()?;
            let is_of_balance = event.customer == *customer && charge.balance == balance;
            is_of_balance.then(|| charge.transaction(event))
        });
        let others = self.transactions.iter().filter(|transaction| {
            transaction.customer == *customer && transaction.balance == balance
        });
        let mut kept: Vec<_> = charges.chain(others.cloned()).collect();
        // What comes before one that was let go would leave a gap.
        kept.retain(|transaction| transaction.sequence > self.transactions_forgotten);
        kept.sort_unstable_by_key(|transaction| transaction.sequence);
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
        let is = |kept: &&Kept| kept.event.id == *id && kept.event.customer == *customer;
        let Kept { event, charge } = self.events.iter().rev().find(is)?;
        let charge = charge.as_ref().map(|charge| charge.transaction(event));
        Some(Found { event: event.clone(), charge })
    }

    pub(super) fn transaction(
        &self,
        customer: &CustomerId,
        balance: &str,
        reference: &str,
    ) -> Option<&Transaction> {
        self.transactions.iter().rev().find(|transaction| {
            transaction.kind == TransactionKind::Credit
                && transaction.customer == *customer
                && transaction.balance == balance
                && transaction.reference.as_deref() == Some(reference)
        })
    }
}

/// The place of one more, from 1 on, so that an opening balance has a place before the first.
fn next(count: &mut u64) -> u64 {
    *count += 1;
    *count
}
