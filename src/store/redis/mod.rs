//! Books on Redis or Valkey: one budget over any number of processes and machines.
//!
//! ```no_run
//! use tower_limitry::{Check, Engine, Limit, Meter, Usage, store::Redis};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let books = Engine::builder()
//!     .meter(Meter::sum("tokens", "total_tokens"))
//!     .limit(Limit::per_day("daily-tokens", "tokens", 100_000))
//!     .build_on(Redis::open("redis://10.0.0.5")?)?;
//! let permit = books.check(Check::of("acct_42")).await?;
//! permit.settle(Usage::of("total_tokens", 480)).await?; // every process sees it
//! # Ok(())
//! # }
//! ```
//!
//! A check is one script call, and so is a settlement or a release: one round trip, and one atomic
//! step on the server. Requests share one connection, which the workers of their tokio runtime drive;
//! another, on a thread of its own, renews holds whatever becomes of that runtime, and serves whoever
//! calls from elsewhere. Both are made again when they break. On a cluster, and where replicas are
//! waited for, the second serves all; so it does for a runtime with workers but without I/O, where tokio
//! prints a panic for each connection that it could not take. Redis 7 or Valkey 9 is needed, standalone,
//! behind Sentinel, or as a cluster:
//!
//! | URL | |
//! |---|---|
//! | `redis://[user:password@]host[:port][/db]` | one server |
//! | `rediss://[user:password@]host[:port][/db]` | one server behind TLS, whose certificate is verified |
//! | `redis-sentinel://[user:password@]host[:port],host[:port]/master-name[/db]` | the primary that the sentinels name |
//! | `redis-cluster://[user:password@]host[:port],host[:port]` | a cluster, found by any of its nodes |
//! | `rediss-sentinel://...`, `rediss-cluster://...` | the same, with the sentinels and all servers behind TLS, each certificate for the host or the address that they name |
//!
//! # What Redis promises, and what not
//!
//! Counters and holds are as safe as the server keeps them: one without persistence forgets all with
//! its process, and a failover may lose the last moments, as replicas follow asynchronously. What is
//! lost cannot refuse anybody, until it is recorded again. So
//!
//! - put an [outbox](crate::outbox) in front, with
//!   [`keep_delivered`](crate::outbox::OutboxBuilder::keep_delivered): settlements are in a local file first,
//!   and a server that has forgotten some is told by [marks](crate::store::Mark) and gets them again.
//!   A customer is told of again with their next settlement; after a failover,
//!   [`replay_delivered`](crate::outbox::Outbox::replay_delivered) does it for all at once. A mark is kept
//!   for 400 days after it was moved last: keep nothing delivered for longer, and deliver no file that
//!   nobody had open for as long, or what it holds may count once more. Without an
//!   outbox, settlements that the server cannot take are answered with an error, and lost with it;
//! - let the server persist (`appendonly yes`), and set `maxmemory-policy noeviction`: under any other
//!   policy it may drop counters and balances when memory is short, and limits would count from
//!   nothing. Such a server is not accepted unless
//!   [`danger_accept_eviction`](RedisOptions::danger_accept_eviction) says so;
//! - [`wait_for_replicas`](RedisOptions::wait_for_replicas) delays answers about balances until replicas
//!   have them.
//!
//! A hold lives for a minute ([`hold_for`](RedisOptions::hold_for)) and is renewed while its request
//! runs, in this process; what a killed process held is free again after that, and costs nothing. A
//! settlement that comes later still counts, for a week. Time is the server's, but for the windows of
//! limits, which go by each process's clock: keep clocks in step.
//!
//! Ids are remembered for ten minutes ([`remember_ids_for`](RedisOptions::remember_ids_for)).
//!
//! # Definitions are shared
//!
//! A limit that is added while programs run holds on all of them from their next step on: every step
//! carries the version by which it was resolved, and one that is out of date changes nothing and is
//! resolved anew. What was added, changed or removed so wins over what programs define in code, until it is
//! changed again. One process at a time changes something, and others that want to wait for it; one that is
//! killed meanwhile keeps them for ten seconds. What it has not counted to the end is counted with the next
//! change of limits or meters, or by the next program that begins; until then a limit that it has added knows
//! only what came after. A limit in code is enforced by the programs that have it; while two releases with
//! different limits run side by side, each counts on its own. A limit that is added
//! needs its meter everywhere: a program that has it neither in code nor from the server answers all
//! checks as unavailable, rather than without the limit.
//!
//! Events recorded together are taken customer by customer, each event as one step.
//!
//! # Events
//!
//! Events go to a stream of their shard, as JSON, for lists, queries and whoever else wants to read
//! them, until [`keep_events`](RedisOptions::keep_events) or
//! [`keep_events_for`](RedisOptions::keep_events_for) lets them go.
//!
//! What they come to stays for 400 days ([`keep_rollups_for`](RedisOptions::keep_rollups_for)): the
//! step that counts an event also adds it to its quarter of an hour, for each meter that it moves, for
//! its customer and for everybody. A query is answered from whole quarters; what it has of others is
//! counted from the events, as is one for some dimensions alone, and one over a quarter of which the
//! highest or the latest was taken back. Where those events are gone, the answer says that it is not
//! complete, and so it does for what was before a loss.
//!
//! A meter is summed up by all programs from the moment the first of them defines it, also by those
//! that do not know it themselves; its events of before are counted while they are kept. One whose
//! definition changes begins anew, one that is removed ends. Limits that are added later count the
//! events that are kept, and say since when that is all.
//!
//! # Memory
//!
//! The server's memory is its operator's to bound: with `maxmemory` and `noeviction` a server that is
//! full takes nothing more, of customers known or new; checks are answered by the failure policy,
//! settlements wait in the outbox, and nothing that was counted goes. There is no cap on customers as
//! the memory store has one, so name as customers only those that an auth layer knows. A check that is
//! refused keeps nothing; one customer takes half a kilobyte to a kilobyte and a half for each day on
//! which they come, most of which goes as its key expires (see below), and for ever only with a
//! balance or an all-time counter.
//!
//! # What is on the server
//!
//! All keys begin with the prefix ([`prefix`](RedisOptions::prefix), `limitry` unless set) and the
//! number of the format, `limitry:1:`; nothing else is touched. A customer belongs to one of 64 shards,
//! whose number is the hash tag of all their keys: one slot of a cluster.
//!
//! | key | type | lives | holds |
//! |---|---|---|---|
//! | `definitions` | hash | for ever | meters, limits, customers, counters; `rollup:` and `rolled:`*meter*: what it is summed up as, and since when |
//! | `changing` | string | ten seconds | which process changes definitions now |
//! | `{n}:shard` | hash | for ever | `version` of the definitions, `since` when it is kept, `gone`: the newest event that is not, `lost`: when the server last lost all, `days`: the first and last that are summed up |
//! | `{n}:rollups:DAY:ID`, `{n}:rollups:DAY` | hash | [`keep_rollups_for`](RedisOptions::keep_rollups_for) and a day | *quarter*`.`*meter*: what the events of a customer, or of all of the shard, come to; `?` where they have to be counted |
//! | `{n}:events` | stream | [`keep_events_for`](RedisOptions::keep_events_for) and a day | `event`: JSON as the API has it, `at`: its time |
//! | `{n}:books:ID` | hash | to the end of its last window, and some ten days after the last hold; for ever with a balance or an all-time counter | `u`, `h`, `l`, `a` *window*`.`*counter*: used, held, time of the latest, alerts told; `b`, `g`, `m` *balance*: current, held, own terms; `o` *id*: an open hold; `lives`: until when steps need not tell keys how long they live |
//! | `{n}:due:ID` | sorted set | some ten days after the last hold | when open holds expire, each by its field in the books; and one without a name that never does, so that the key stays |
//! | `{n}:ids:ID` | sorted set | two days | `o` *id* that is settled, `R` *attempt* `o` *id* that is released |
//! | `{n}:expired:ID` | sorted set | eight days | holds that expired, by their fields |
//! | `{n}:marks:ID` | hash | 400 days after it moved | how far each outbox was taken, and on which day |
//! | `{n}:alerts` | sorted set | for ever | alerts that fell due, by the minute at which their window ends; those that ended go with the next one |
//! | `{n}:transactions:ID` | list | for ever | the newest changes of balances |
//! | `{n}:references:ID` | hash | for ever | payments that were credited |
//! | `{n}:once:ID:CHANGE` | string | a day | a credit or debit under an idempotency key of the API |
//!
//! Amounts are whole millionths, exact over all 64 bits. A window is named by the minute at which it
//! ends, `*` when it never does; a counter, and a meter, by a hash of what it counts, the same in every
//! release; a day by its number since 1970, and a quarter of an hour by its number in the day, both in
//! UTC.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use compact_str::CompactString;
use tokio::sync::RwLock;

use crate::policy::{Amount, CustomerId, NewBalance};
use crate::store::Moment;
use crate::{Error, ErrorKind};

mod balance;
mod change;
mod check;
mod dial;
mod event;
mod history;
mod keys;
mod link;
mod options;
mod recount;
mod registry;
mod renewal;
mod reply;
mod rollup;
mod script;
mod sentinel;
mod settle;
mod shared;
mod store;

pub use options::RedisOptions;
pub use store::Answered;

use link::{CallError, Caller, Link};
use registry::Registry;
use script::{Script, ScriptCall, Scripts, Terms};
use shared::Shared;

/// Keeps the books on a Redis server, for all processes that open it.
pub struct Redis {
    inner: Arc<Inner>,
    link: Link,
}

/// What calls need.
#[derive(Debug)]
struct Inner {
    caller: Caller,
    shared: Shared,
    registry: Arc<Registry>,
    hold_for: Duration,
    terms: Terms,
    scripts: Arc<Scripts>,
    wait: Option<(u32, Duration)>,
    renewed: std::sync::Mutex<Duration>,
    /// Changes of definitions that are being written.
    writing: Arc<RwLock<()>>,
}

/// A hold that lives longer lives as long as anybody cares.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

impl Redis {
    /// Opens the books on this server, with options as they are.
    ///
    /// Blocks until the server has answered or the time is over.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for a URL that makes no sense and for a server that evicts,
    /// [`Unavailable`](ErrorKind::Unavailable) when the server cannot be reached or asked.
    pub fn open(url: &str) -> Result<Self, Error> {
        Self::options().open(url)
    }

    /// What else may be said when books are opened.
    pub fn options() -> RedisOptions {
        RedisOptions::new()
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("keys", &self.inner.shared.keys).finish_non_exhaustive()
    }
}

impl Inner {
    fn lifetime(&self, own: Option<Duration>) -> Duration {
        own.unwrap_or(self.hold_for).min(LONGEST)
    }

    /// Begins a script call by the definitions of that epoch; `None` when that is over.
    fn begin(
        &self,
        script: &Arc<Script>,
        customer: &CustomerId,
        also: &[String],
        epoch: u64,
        now: Moment<'_>,
    ) -> Option<ScriptCall> {
        let shard = keys::shard_of(customer.as_str());
        let version = self.version(shard, epoch)?;
        Some(self.begin_under(script, (customer, shard), also, &version, now))
    }

    /// The version of a shard's definitions in that epoch; `None` when it is over.
    fn version(&self, shard: u16, epoch: u64) -> Option<Arc<str>> {
        let seen = self.shared.seen(epoch)?;
        Some(Arc::clone(&seen.versions[usize::from(shard)]))
    }

    /// Begins a script call that does not depend on definitions.
    fn begin_any(
        &self,
        script: &Arc<Script>,
        customer: &CustomerId,
        also: &[String],
        now: Moment<'_>,
    ) -> ScriptCall {
        let shard = keys::shard_of(customer.as_str());
        self.begin_under(script, (customer, shard), also, "", now)
    }

    fn begin_under(
        &self,
        script: &Arc<Script>,
        (customer, shard): (&CustomerId, u16),
        also: &[String],
        version: &str,
        now: Moment<'_>,
    ) -> ScriptCall {
        const OWN: [&str; 4] = [keys::BOOKS, keys::DUE, keys::IDS, keys::EXPIRED];
        let head = self.shared.keys.head(shard);
        let mut call = script.call(1 + OWN.len() + also.len());
        call.pieces(&[head, keys::SHARD]);
        for what in OWN {
            call.pieces(&[head, what, ":", customer.as_str()]);
        }
        for key in also {
            call.arg(&**key);
        }
        if self.terms.is_timed {
            let wall = now.wall().as_nanos().div_euclid(1_000);
            call.arg(format!("{version} {wall} {}", now.monotonic().as_micros()));
        } else {
            call.arg(version);
        }
        call
    }
}

/// What a default balance begins at, and its minimum, if there is one.
fn terms(default: Option<&NewBalance>) -> [Option<Amount>; 2] {
    [default.map(|terms| &terms.initial), default.map(|terms| &terms.minimum)]
        .map(|amount| amount.map(|amount| amount.as_ref().map_or(Amount::ZERO, |amount| *amount)))
}

/// Reads the terms of a customer's own balance.
fn own_terms(text: &str) -> Result<(CompactString, Amount), CallError> {
    let read = text.split_once(' ').and_then(|(minimum, unit)| {
        Some((unit.into(), Amount::from_millionths(minimum.parse().ok()?)))
    });
    read.ok_or(CallError::Nonsense("the terms of a balance"))
}

fn invalid_url(problem: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("the redis URL {problem}"))
}
