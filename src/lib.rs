//! Check, run, record: one Tower layer for metered services.

pub mod backend;
#[cfg(feature = "embedded")]
pub mod engine;
mod error;
mod hook;
mod observe;
pub mod policy;
pub mod store;

pub use backend::{Books, Check, CheckError, Permit};
#[cfg(feature = "embedded")]
pub use engine::Engine;
pub use error::{Error, ErrorKind};
pub use policy::{Decision, Denial, Event, Limit, LimitState, Meter, NewBalance, Usage};
