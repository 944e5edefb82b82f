//! The rules: what a limit is, when its window starts, what refuses a request.
//!
//! Everything here is a plain value or a plain function over values. Nothing reads a clock, opens a
//! socket or takes a lock, so every rule can be tried by calling it:
//!
//! ```
//! use tower_limitry::policy::{Aggregation, Amount, Verdict, judge_limit};
//!
//! let room = |used: u32, held: u32| {
//!     judge_limit(
//!         Aggregation::Sum,
//!         Amount::from(1_000), // the cap
//!         Amount::from(used),
//!         Amount::from(held),
//!         Some(Amount::from(100)), // asked
//!     )
//! };
//! assert_eq!(room(800, 100), Verdict::Within);
//! assert_eq!(room(800, 101), Verdict::Held); // only running requests stand in the way
//! assert_eq!(room(901, 0), Verdict::Exceeded);
//! ```

mod amount;
mod balance;
#[cfg(feature = "embedded")]
mod calendar;
pub(crate) mod catalog;
mod config;
mod customer;
mod event;
pub(crate) mod frame;
mod id;
#[cfg(feature = "json")]
mod json;
mod judge;
mod limit;
mod made;
mod meter;
mod time;
#[cfg(any(feature = "embedded", feature = "json"))]
mod time_text;
mod usage;
mod window;

pub use amount::{Amount, AmountError, ToAmount};
pub use balance::{
    Balance, Credit, Credited, Debit, Debited, NewBalance, Transaction, TransactionKind,
};
#[cfg(feature = "embedded")]
pub use calendar::{Calendar, CalendarError};
pub use config::ConfigError;
pub use customer::Customer;
pub(crate) use event::Voided;
pub use event::{Crossing, Event, RecordedEvent};
pub use id::{CustomerId, EventId, IdError, Producer};
#[cfg(feature = "redis")]
pub(crate) use judge::{Room, room};
pub use judge::{Verdict, judge_balance, judge_limit};
pub use limit::{CounterKey, Limit};
pub(crate) use made::Made;
pub use meter::{Aggregation, Meter};
pub use time::Timestamp;
#[cfg(any(feature = "embedded", feature = "json"))]
pub use time_text::TimestampError;
pub use usage::{Dimensions, Usage, UsageError, Values};
pub use window::{Period, PeriodError, Window};

pub(crate) use balance::Change;
