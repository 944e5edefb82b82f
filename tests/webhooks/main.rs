//! Threshold crossings as webhooks, heard by real HTTP servers.
#![allow(clippy::unwrap_used)]

mod addresses;
mod attempts;
mod durable;
mod receiver;
mod room;
mod support;
mod tls;
mod told;
