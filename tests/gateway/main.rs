//! `examples/gateway`, between real clients and a local upstream. `./test` builds the program.
#![allow(clippy::unwrap_used)]

mod books;
mod config;
mod forward;
mod include_usage;
mod models;
mod program;
mod sdks;
mod streams;
mod support;
mod tls;
