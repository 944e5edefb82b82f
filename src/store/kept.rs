//! What a store keeps for later: events and their sums, and what the next process begins with.

use std::collections::HashMap;
use std::ops::Range;

use compact_str::CompactString;

use crate::policy::{
    Amount, CounterKey, Customer, CustomerId, Limit, Meter, Period, RecordedEvent, Timestamp,
    Transaction,
};

/// Which kept events are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Only those that came before the event at this place in the order of arrival.
    pub before: Option<u64>,
    /// Only this customer's.
    pub customer: Option<&'a CustomerId>,
    /// Only this type.
    pub event_type: Option<&'a str>,
}

/// Which sums are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Rollups<'a> {
    /// Of this meter.
    pub meter: &'a Meter,
    /// Only this customer's.
    pub customer: Option<&'a CustomerId>,
    /// Of events of this time or later.
    pub start: Timestamp,
    /// Of events before this time.
    pub end: Timestamp,
    /// Now, for what is no longer kept.
    pub now: Timestamp,
}

/// What a meter comes to over a range.
#[derive(Debug)]
pub struct RolledUp {
    /// The parts that are summed up.
    pub rollups: Vec<Rollup>,
    /// The parts that are left to be counted from the kept events.
    pub left: Vec<Range<Timestamp>>,
    /// Whether nothing is missing in the sums.
    pub complete: bool,
}

/// What some events give a meter together.
#[derive(Clone, Copy, Debug)]
pub struct Rollup {
    /// Their sum, their number, the highest or the latest value.
    pub amount: Amount,
    /// When the latest was, for a meter that keeps it.
    pub at: Timestamp,
    /// Its place in the order of arrival.
    pub sequence: u64,
}

/// A kept event, and what it was charged.
#[derive(Clone, Debug)]
pub struct Found {
    /// The event.
    pub event: RecordedEvent,
    /// The charge, if there was one.
    pub charge: Option<Transaction>,
}

/// A hold that was kept: what to record when nobody is left to settle it.
#[derive(Clone, Debug)]
pub struct KeptHold {
    /// The event as estimated, under the id of the hold.
    pub event: RecordedEvent,
    /// The balance and the price of the estimate.
    pub charge: Option<(CompactString, Amount)>,
}

/// Counters by who counts on them: everybody, or one customer.
pub type CountedBy = HashMap<Option<CustomerId>, Vec<u32>>;

/// What a store kept of earlier processes.
#[derive(Debug, Default)]
pub struct Kept {
    /// The definition of every counter, in the order of their numbers: the first has number 0.
    pub counters: Vec<Box<str>>,
    /// Which counters count every event, for everybody (`None`) or for one customer who differs.
    pub counted: CountedBy,
    /// Counters whose history before that time is not whole.
    pub since: Vec<(u32, Timestamp)>,
    /// The time zone in which that was, for customers who have none of their own.
    pub zone: Option<Box<str>>,
    /// Meters that were added while the program ran.
    pub meters: Vec<Meter>,
    /// Limits that were added while the program ran.
    pub limits: Vec<Limit>,
    /// Customers of whom something is known beyond usage.
    pub customers: Vec<Customer>,
    /// Customers whose counters of some periods are not whole before some time, since their windows
    /// moved.
    pub customers_since: Vec<(CustomerId, Vec<(Period, Timestamp)>)>,
    /// Holds of earlier processes, to be settled as they were estimated. A store that keeps them
    /// forgets each in the step that counts its event.
    pub holds: Vec<KeptHold>,
    /// Other processes share the books: what is kept holds for all of them, and wins over what a program
    /// defines under the same id.
    pub shared: bool,
    /// Meters that were removed while a program ran that defines them.
    pub removed_meters: Vec<Box<str>>,
    /// Limits that were removed while a program ran that defines them.
    pub removed_limits: Vec<Box<str>>,
}

/// An alert that fell due, whether or not somebody heard of it.
#[derive(Clone, Debug)]
pub struct KeptAlert {
    /// Whose usage.
    pub customer: CustomerId,
    /// The id of the limit.
    pub limit: Box<str>,
    /// The end of its window; `None` for one that never ends.
    pub ends: Option<Timestamp>,
    /// The percentage.
    pub percent: u8,
}

/// Something to keep for the next process.
#[derive(Clone, Copy, Debug)]
pub enum Keep<'a> {
    /// A counter got its number.
    Counter(u32, &'a CounterKey),
    /// From here on these counters count every event, for everybody (`None`) or for one customer;
    /// `None` for a customer who is like everybody.
    Counted(Option<&'a CustomerId>, Option<&'a [u32]>),
    /// The history of a counter before that time is not whole.
    Since(u32, Timestamp),
    /// The time zone of customers who have none of their own.
    Zone(&'a str),
    /// A program defines a meter, as of that time: for a store that sums up meters as it counts.
    Rollup(&'a Meter, Timestamp),
    /// A meter was added.
    Meter(&'a Meter),
    /// A meter was removed.
    NoMeter(&'a str),
    /// A limit was added.
    Limit(&'a Limit),
    /// A limit was removed.
    NoLimit(&'a str),
    /// Something is known of a customer.
    Customer(&'a Customer),
    /// Nothing is known of a customer any more.
    NoCustomer(&'a CustomerId),
    /// The history of a customer's counters of these periods before those times is not whole, that
    /// of all others is: in place of what was kept of it before.
    CustomerSince(&'a CustomerId, &'a [(Period, Timestamp)]),
}
