//! Check, run, record: one Tower layer for metered services.

#[cfg(feature = "axum")]
pub mod axum;
pub mod backend;
mod body;
pub mod classify;
pub mod customer;
#[cfg(feature = "embedded")]
pub mod engine;
mod error;
mod failure;
mod future;
mod guard;
mod headers;
mod hook;
mod layer;
mod observe;
pub mod policy;
mod reject;
mod reporter;
pub mod request;
mod service;
pub mod store;
#[cfg(feature = "test-util")]
pub mod test_util;
pub mod usage;

pub use backend::{Books, Check, CheckError, Permit};
pub use body::ResponseBody;
#[cfg(feature = "embedded")]
pub use engine::Engine;
pub use error::{Error, ErrorKind};
pub use failure::FailurePolicy;
pub use future::ResponseFuture;
pub use headers::HeaderStyle;
pub use layer::{Disconnect, LimitryLayer, MissingCustomer, MissingUsage};
pub use policy::{
    Amount, CustomerId, Decision, Denial, Event, Limit, LimitState, Meter, NewBalance, Usage,
};
pub use reject::{DenialStyle, Refusal};
pub use reporter::Reporter;
pub use service::{Limitry, Unmetered};
