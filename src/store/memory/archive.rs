//! What outlives these books: told of every change, in the order in which changes are made.

// Without a store that outlives the process nobody reads what is told.
#![cfg_attr(not(feature = "sqlite"), allow(dead_code))]

use std::fmt;

use compact_str::CompactString;
use smallvec::SmallVec;

use super::account::{Account, FOREVER, Tag};
use crate::policy::{
    Aggregation, Amount, Balance, CustomerId, EventId, Producer, RecordedEvent, Timestamp,
    Transaction,
};
use crate::store::{CheckOperation, Line};

/// Takes the place of the journal. Everything is called under the lock of the customer concerned, so
/// the changes of one customer arrive in the order in which they were made.
///
/// Every hold that is placed has a place here already, reserved before: a settlement that finds its
/// hold uses it, every other end of a hold gives it back.
pub(crate) trait Archive: fmt::Debug + Send + Sync {
    /// A use was counted.
    fn counted(&self, counted: Counted);

    /// A balance was credited or debited. Answers the transaction's place in the order of arrival. One
    /// that is done `once` is found again by that id.
    fn transacted(&self, transaction: Transaction, once: Option<&EventId>) -> u64;

    /// A customer was given a balance, or it other terms.
    fn opened(&self, opened: Opened);

    /// Counters were counted again.
    fn recounted(&self, recounted: Recounted);

    /// Reserves a place for a settlement that has no hold, if there is one.
    fn reserve(&self) -> bool;

    /// A hold was placed.
    fn held(&self, operation: &CheckOperation<'_>);

    /// A hold ended without a settlement, or a place that was reserved for one stays empty.
    fn released(&self, customer: &CustomerId, id: &EventId);

    /// A settlement moved a mark and counted nothing, as its id is known.
    fn marked(&self, customer: &CustomerId, producer: Producer, sequence: u64);

    /// A mark, if there is one; `None` when that cannot be read.
    fn mark(&self, customer: &CustomerId, producer: Producer) -> Option<Option<u64>>;

    /// Whether an event is kept under the id; `None` when that cannot be read.
    fn is_settled(&self, customer: &CustomerId, id: &EventId) -> Option<bool>;

    /// Whether an event of that time, and with it its id, may have been let go.
    fn may_have_forgotten(&self, at: Timestamp) -> bool;

    /// Whether a payment was credited; `None` when that cannot be read.
    fn is_credited(&self, customer: &CustomerId, balance: &str, reference: &str) -> Option<bool>;

    /// What was done once under the id, if anything; `None` when that cannot be read.
    fn done(&self, customer: &CustomerId, id: &EventId) -> Option<Option<Transaction>>;
}

/// An event, and all that it changed.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) event: RecordedEvent,
    /// The counters as they are now.
    pub(crate) counters: SmallVec<[CounterState; 2]>,
    pub(crate) transaction: Option<Transaction>,
    /// Alerts that were told: the limit, the end of the window, and the percentage.
    pub(crate) alerts: Vec<(CompactString, WindowEnd, u8)>,
    /// The mark that it moved, and where to.
    pub(crate) mark: Option<(Producer, u64)>,
}

/// A counter in one window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CounterState {
    pub(crate) counter: u32,
    pub(crate) start: i64,
    pub(crate) end: WindowEnd,
    /// In millionths.
    pub(crate) value: i64,
    /// When the value was, for a counter that keeps the latest.
    pub(crate) latest: Option<Timestamp>,
}

/// The end of a window, by the minute; the last one is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WindowEnd(pub(crate) i32);

impl WindowEnd {
    pub(crate) const NEVER: Self = Self(FOREVER);
}

/// A balance of a customer's own.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) customer: CustomerId,
    pub(crate) balance: Balance,
}

/// Counters that were emptied, and what they came to.
#[derive(Debug, Default)]
pub(crate) struct Recounted {
    pub(crate) emptied: Vec<(CustomerId, u32)>,
    pub(crate) counters: Vec<(CustomerId, CounterState)>,
}

/// The counters of these lines as they are now, if they were given anything. One of which nothing is
/// kept is left out.
pub(super) fn counters(
    account: &Account,
    lines: &[Line],
    given: &[Option<Amount>],
) -> SmallVec<[CounterState; 2]> {
    let own = lines.iter().filter(|line| !line.shares && line.own(given).is_some());
    let state = |line: &Line| {
        let (tag, end) = (Tag::counter(line.counter), WindowEnd(line.end));
        let latest = (line.aggregation == Aggregation::Latest)
            .then(|| account.value(tag.time(), end.0))
            .flatten();
        Some(CounterState {
            counter: line.counter,
            start: line.window.start().as_seconds(),
            end,
            value: account.value(tag, end.0)?.as_millionths(),
            latest: latest.map(|time| Timestamp::from_nanos(time.as_millionths())),
        })
    };
    own.filter_map(state).collect()
}

/// Alerts with the windows that they are about.
pub(super) fn ends_of(
    alerts: &[(CompactString, u8, Amount)],
    lines: &[Line],
) -> Vec<(CompactString, WindowEnd, u8)> {
    let end = |limit: &str| {
        let line = lines.iter().find(|line| line.limit == limit);
        line.map_or(WindowEnd::NEVER, |line| WindowEnd(line.end))
    };
    alerts.iter().map(|(limit, percent, _)| (limit.clone(), end(limit), *percent)).collect()
}
