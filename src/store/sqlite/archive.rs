//! The file as the memory beside it sees it: told of every change, asked for what is long ago.

use std::path::Path;
use std::sync::Arc;

use super::queue::{Change, Queue};
use super::read::Reader;
use crate::file::OpenError;
use crate::observe;
use crate::policy::{CustomerId, EventId, Producer, RecordedEvent, Timestamp, Transaction};
use crate::store::memory::archive::{Archive, Counted, Opened, Recounted};
use crate::store::{BalanceAsk, CheckOperation, KeptHold};

#[derive(Debug)]
pub(super) struct Books {
    pub(super) queue: Arc<Queue>,
    pub(super) reader: Reader,
    /// Holds are written, too.
    pub(super) keeps_holds: bool,
}

impl Books {
    pub(super) fn new(path: &Path, keeps_holds: bool) -> Self {
        let queue = Arc::new(Queue::new(!keeps_holds));
        Self { queue, reader: Reader::new(path), keeps_holds }
    }

    /// How many places a hold takes: for what ends it, and for itself.
    pub(super) fn places_of_a_hold(&self) -> usize {
        1 + usize::from(self.keeps_holds)
    }
}

impl Archive for Books {
    fn counted(&self, counted: Counted) {
        self.queue.count(counted);
    }

    fn transacted(&self, transaction: Transaction, once: Option<&EventId>) -> u64 {
        self.queue.transact(transaction, once)
    }

    fn opened(&self, opened: Opened) {
        self.queue.put(Change::Opened(opened));
    }

    fn recounted(&self, recounted: Recounted) {
        self.queue.put_beyond(Change::Recounted(recounted));
    }

    fn reserve(&self) -> bool {
        self.queue.reserve(1)
    }

    fn held(&self, operation: &CheckOperation<'_>) {
        if self.keeps_holds {
            self.queue.put(Change::Held(kept(operation)));
        }
    }

    fn released(&self, customer: &CustomerId, id: &EventId) {
        if self.keeps_holds {
            self.queue.put(Change::Released(customer.clone(), id.clone()));
        } else {
            self.queue.give_back(1);
        }
    }

    fn marked(&self, customer: &CustomerId, producer: Producer, sequence: u64) {
        self.queue.put_beyond(Change::Marked(customer.clone(), producer, sequence));
    }

    fn mark(&self, customer: &CustomerId, producer: Producer) -> Option<Option<u64>> {
        or_unknown(self.reader.mark(customer, producer))
    }

    fn is_settled(&self, customer: &CustomerId, id: &EventId) -> Option<bool> {
        if self.queue.is_unwritten(customer, id) {
            return Some(true);
        }
        or_unknown(self.reader.has_event(customer, id))
    }

    fn may_have_forgotten(&self, at: Timestamp) -> bool {
        match or_unknown(self.reader.forgotten()) {
            Some(forgotten) => forgotten.is_some_and(|forgotten| at <= forgotten),
            None => true,
        }
    }

    fn is_credited(&self, customer: &CustomerId, balance: &str, reference: &str) -> Option<bool> {
        let credit = or_unknown(self.reader.credit(customer, balance, reference));
        credit.map(|credit| credit.is_some())
    }

    fn done(&self, customer: &CustomerId, id: &EventId) -> Option<Option<Transaction>> {
        let unwritten = self.queue.unwritten_change(customer, id);
        unwritten.map(Some).or_else(|| or_unknown(self.reader.done(customer, id)))
    }
}

fn kept(operation: &CheckOperation<'_>) -> KeptHold {
    let price = |ask: BalanceAsk<'_>| Some((ask.balance.name.into(), ask.asked?));
    KeptHold {
        event: RecordedEvent {
            id: operation.id.clone(),
            customer: operation.customer.clone(),
            event_type: operation.event_type.into(),
            usage: operation.expected.clone(),
            at: operation.now.wall(),
            sequence: 0,
            reverses: false,
        },
        charge: operation.balance.and_then(price),
    }
}

/// What could not be read may be there: counted again, it would stop the writer, for the file takes
/// no id and no payment twice.
fn or_unknown<T>(read: rusqlite::Result<T>) -> Option<T> {
    read.inspect_err(|error| observe::not_written(&OpenError::Sqlite(clone(error)).into())).ok()
}

fn clone(error: &rusqlite::Error) -> rusqlite::Error {
    match error.sqlite_error() {
        Some(cause) => rusqlite::Error::SqliteFailure(*cause, None),
        None => rusqlite::Error::InvalidQuery,
    }
}
