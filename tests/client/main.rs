//! The client of Limitry's API, against the server of this crate and against servers that misbehave.
#![allow(clippy::unwrap_used)]

mod calls;
mod examples;
mod failures;
mod hosted;
mod repeats;
mod support;
mod tls;
