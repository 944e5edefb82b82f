//! The rules: what a limit is, when its window starts, what refuses a request.
//!
//! Everything here is a plain value or a plain function over values. Nothing reads a clock, opens a
//! socket or takes a lock, so every rule can be tried by calling it.

mod calendar;
mod time;

pub use calendar::{Calendar, CalendarError, Period, Window};
pub use time::{Timestamp, TimestampError};
