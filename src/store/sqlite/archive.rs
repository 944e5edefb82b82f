//! The file as the memory beside it sees it: told of every change, asked for what is long ago.

use std::path::Path;
use std::sync::Arc;

use super::OpenError;
use super::queue::{Change, Queue};
use super::read::Reader;
use crate::observe;
use crate::policy::{CustomerId, EventId, Timestamp, Transaction};
use crate::store::memory::archive::{Archive, Counted, Opened, Recounted};

#[derive(Debug)]
pub(super) struct Books {
    pub(super) queue: Arc<Queue>,
    pub(super) reader: Reader,
}

impl Books {
    pub(super) fn new(path: &Path) -> Self {
        Self { queue: Arc::default(), reader: Reader::new(path) }
    }
}

impl Archive for Books {
    fn counted(&self, counted: Counted) {
        self.queue.count(counted);
    }

    fn transacted(&self, transaction: Transaction) -> u64 {
        self.queue.transact(transaction)
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

    fn released(&self) {
        self.queue.give_back(1);
    }

    fn is_settled(&self, customer: &CustomerId, id: &EventId) -> bool {
        self.queue.is_given(customer, id)
            || or_unknown(self.reader.has_event(customer, id)).unwrap_or_default()
    }

    fn may_have_forgotten(&self, at: Timestamp) -> bool {
        match or_unknown(self.reader.forgotten()) {
            Some(forgotten) => forgotten.is_some_and(|forgotten| at <= forgotten),
            None => true,
        }
    }

    fn is_credited(&self, customer: &CustomerId, balance: &str, reference: &str) -> bool {
        let credit = or_unknown(self.reader.credit(customer, balance, reference));
        credit.flatten().is_some()
    }
}

/// What could not be read is not there, as far as memory can tell. The file says the last word: it
/// takes no id and no payment twice, and its writer fails rather than count one again.
fn or_unknown<T>(read: rusqlite::Result<T>) -> Option<T> {
    read.inspect_err(|error| observe::not_written(&OpenError::Sqlite(clone(error)).into())).ok()
}

fn clone(error: &rusqlite::Error) -> rusqlite::Error {
    match error.sqlite_error() {
        Some(cause) => rusqlite::Error::SqliteFailure(*cause, None),
        None => rusqlite::Error::InvalidQuery,
    }
}
