//! Books on Redis, which processes share: what one does holds for all, and what a server that breaks,
//! hangs, forgets or is cut off leaves of them.

#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used)]

mod amounts;
mod changes;
mod cluster;
mod commands;
mod cut;
mod extremes;
mod keys;
mod loss;
mod orders;
mod ordinary;
mod outage;
mod policy;
mod processes;
mod replicas;
mod restarts;
mod rollups;
mod runtimes;
mod rush;
mod tls;
mod told;
mod voids;

#[path = "../support/redis.rs"]
mod redis;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use tower_limitry::engine::EngineBuilder;
use tower_limitry::store::Redis;
use tower_limitry::store::redis::RedisOptions;
use tower_limitry::{Books, Engine, Limit, Meter};

/// Longer than anything takes that is not stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Options for one test's books, in which nothing but being stuck takes too long.
fn options(prefix: &str) -> RedisOptions {
    Redis::options().prefix(prefix).timeout(STUCK)
}

/// Books of one process among several.
fn open(builder: EngineBuilder, url: &str, prefix: &str) -> Books {
    let store = options(prefix).open(url).unwrap();
    builder.build_on(store).unwrap().erased()
}

/// An engine by the real clock, with one meter: `tokens`, the sum of `total_tokens`.
fn tokens() -> EngineBuilder {
    Engine::builder().meter(Meter::sum("tokens", "total_tokens"))
}

/// A limit that does not end while a test runs.
fn ever(cap: u32) -> Limit {
    Limit::all_time("ever", "tokens", cap)
}
