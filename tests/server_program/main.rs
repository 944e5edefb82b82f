//! The example server as a process: what strangers can do to it, what it reads again, whom it tells.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "../support/file.rs"]
mod file;
mod floods;
#[path = "../support/program.rs"]
mod program;
mod reload;
mod strangers;
mod support;
mod webhooks;
