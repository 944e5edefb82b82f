//! Check, run, record: one Tower layer for metered services.

pub mod policy;
