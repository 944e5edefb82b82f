//! Processes that share the books of one server, and what comes between them.
#![allow(clippy::unwrap_used)]

#[path = "../support/file.rs"]
mod file;
mod host;
#[path = "../support/mod.rs"]
mod support;

mod between;
mod cut;
mod dropped;
mod killed;
mod lifetime;
mod marks;
mod one_limit;
mod outage;
mod overtaken;
#[path = "../support/program.rs"]
mod program;
mod proxy;
mod shutdown;
