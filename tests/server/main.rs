//! Limitry's API, asked over real HTTP.
#![allow(clippy::unwrap_used)]

mod access;
mod balances;
mod customers;
mod definitions;
mod events;
mod examples;
#[path = "../support/file.rs"]
mod file;
mod holds;
mod limits;
mod meters;
mod restart;
mod support;
