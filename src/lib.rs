//! Check, run, record: one Tower layer for metered services.

mod error;
pub mod policy;
pub mod store;

pub use error::{Error, ErrorKind};
pub use policy::{Limit, Meter, Usage, NewBalance, Event, Denial};
