//! What books on Redis cost: checks with their settlements a second, and the wait for them, beside
//! bare scripts that read and write the same fields (as much in each, and no number where text will do) and
//! decide nothing, on the same kind of connection.
//!
//! ```sh
//! cargo bench --features redis --bench redis            # each case for 5 seconds
//! cargo bench --features redis --bench redis -- 20      # for 20
//! cargo bench --features redis --bench redis -- 20 16   # 16 requests at once alone
//! ```
//!
//! It starts a server of its own on a free port. Server and client share the machine.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tower_limitry::store::Redis;
use tower_limitry::{Books, Check, Engine, Limit, Meter, NewBalance, Usage};

#[path = "../../tests/support/redis.rs"]
mod server;

const CUSTOMERS: u64 = 10_000;

/// What a check reads and writes, with nothing decided.
const BARE_CHECK: &str = "
local shard, books, due, ids = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
redis.call('HGET', shard, 'version')
local now = redis.call('TIME')
redis.call('ZRANGEBYSCORE', due, '-inf', now[1], 'LIMIT', '0', '16')
redis.call('ZMSCORE', ids, 'F' .. ARGV[1], 'R0 ' .. ARGV[1])
local fields, writes = {'o' .. ARGV[1], 'keep', 'long'}, {'o' .. ARGV[1], ARGV[2]}
for at = 4, #ARGV do
  fields[#fields + 1], fields[#fields + 2] = 'u' .. ARGV[at], 'h' .. ARGV[at]
  writes[#writes + 1], writes[#writes + 2] = 'h' .. ARGV[at], '40000000'
end
if ARGV[3] ~= '' then
  fields[#fields + 1] = ARGV[3]
end
local found = redis.call('HMGET', books, unpack(fields))
redis.call('HSET', books, unpack(writes))
redis.call('ZADD', due, now[1] + 60, ARGV[1])
redis.call('PEXPIRE', due, '1814400000')
redis.call('PTTL', books)
return found";

/// The same for a settlement.
const BARE_SETTLE: &str = "
local shard, books, due, ids, events, transactions, sums, all =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
redis.call('HGET', shard, 'version')
local now = redis.call('TIME')
local fields, gone, writes = {'o' .. ARGV[1]}, {'o' .. ARGV[1]}, {}
for at = 5, #ARGV do
  fields[#fields + 1], fields[#fields + 2] = 'h' .. ARGV[at], 'u' .. ARGV[at]
  gone[#gone + 1] = 'h' .. ARGV[at]
  writes[#writes + 1], writes[#writes + 2] = 'u' .. ARGV[at], '40000000'
end
if ARGV[4] ~= '' then
  fields[#fields + 1] = 'last'
  writes[#writes + 1], writes[#writes + 2] = 'last', '1795366933314283'
end
redis.call('HMGET', books, unpack(fields))
redis.call('ZSCORE', ids, 'F' .. ARGV[1])
redis.call('ZADD', ids, now[1] + 600, 'F' .. ARGV[1])
redis.call('PEXPIRE', ids, '90600000')
redis.call('HINCRBY', sums, '55.5155dbd356f96160', '40000000')
redis.call('HINCRBY', all, '55.5155dbd356f96160', '40000000')
redis.call('HSET', books, unpack(writes))
redis.call('HDEL', books, unpack(gone))
redis.call('ZREM', due, ARGV[1])
if ARGV[4] ~= '' then
  redis.call('RPUSH', transactions, ARGV[4])
end
redis.call('XADD', events, 'MAXLEN', '~', '1563', '*', 'event', ARGV[2], 'at', ARGV[3])
redis.call('PEXPIRE', events, '3024000000')
redis.call('XLEN', events)
return 'n'";

/// The least that a script can do.
const ONE_FIELD: &str = "return redis.call('HINCRBY', KEYS[1], 'n', 40000000)";

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    limits: usize,
    balance: bool,
}

const CASES: [Case; 2] = [
    Case { name: "one limit", limits: 1, balance: false },
    Case { name: "five limits and a balance", limits: 5, balance: true },
];

fn main() {
    let mut given = std::env::args().filter_map(|given| given.parse().ok());
    let time = Duration::from_secs(given.next().unwrap_or(5));
    let only: Option<u64> = given.next();
    let all = [1, 16, 256].into_iter().filter(|tasks| only.is_none_or(|only| only == *tasks));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!(
        "| check and settle | requests at once | a second | p50 us | p99 us | bare a second | of bare |"
    );
    println!("|---|---|---|---|---|---|---|");
    for case in CASES {
        for tasks in all.clone() {
            let (mut ours, mut bare) = runtime.block_on(async {
                (Side::of(engine(case).await).await, Side::of(scripts(case).await).await)
            });
            runtime.block_on(in_turns(tasks, time, &mut ours, &mut bare));
            let (ours, bare) = (ours.run(), bare.run());
            println!(
                "| {} | {tasks} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} |",
                case.name,
                ours.rate,
                ours.p50,
                ours.p99,
                bare.rate,
                ours.rate / bare.rate,
            );
        }
    }
    for tasks in all {
        let one = runtime.block_on(async {
            let mut one = Side::of(one_field().await).await;
            for _ in 0..rounds(time) {
                one.slice(tasks).await;
            }
            one.run()
        });
        println!(
            "| one field, one script | {tasks} | {:.0} | {:.0} | {:.0} | | |",
            one.rate, one.p50, one.p99
        );
    }
}

/// What the machine does beside comes and goes: neither side runs for longer than this at a time.
const SLICE: Duration = Duration::from_millis(100);

fn rounds(time: Duration) -> u32 {
    (time.as_millis() / SLICE.as_millis()).max(1) as u32
}

/// Both sides by turns.
async fn in_turns<A: Work, B: Work>(
    tasks: u64,
    time: Duration,
    ours: &mut Side<A>,
    bare: &mut Side<B>,
) {
    for round in 0..rounds(time) {
        if round % 2 == 0 {
            ours.slice(tasks).await;
            bare.slice(tasks).await;
        } else {
            bare.slice(tasks).await;
            ours.slice(tasks).await;
        }
    }
}

struct Run {
    rate: f64,
    p50: f64,
    p99: f64,
}

/// One step of one customer, again and again.
trait Work: Clone + Send + Sync + 'static {
    fn step(&self, customer: String) -> impl Future<Output = ()> + Send;
}

/// Work on a server of its own, and what came of it until now.
struct Side<W> {
    work: W,
    server: server::Server,
    waits: Vec<f64>,
    took: Duration,
    number: u64,
}

impl<W: Work> Side<W> {
    async fn of((work, server): (W, server::Server)) -> Self {
        // A customer's first request makes more, and is not what is measured.
        let known: Vec<_> = (0..64)
            .map(|first| {
                let work = work.clone();
                tokio::spawn(async move {
                    for number in (first..CUSTOMERS).step_by(64) {
                        work.step(format!("acct_{number}")).await;
                    }
                })
            })
            .collect();
        for task in known {
            task.await.unwrap();
        }
        Self { work, server, waits: Vec::new(), took: Duration::ZERO, number: 0 }
    }

    /// So many steps at once for a while.
    async fn slice(&mut self, tasks: u64) {
        let began = Instant::now();
        let running: Vec<_> = (0..tasks)
            .map(|_| {
                let work = self.work.clone();
                self.number = self.number.wrapping_add(7_919);
                let mut number = self.number;
                tokio::spawn(async move {
                    let mut waits = Vec::new();
                    while began.elapsed() < SLICE {
                        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let begun = Instant::now();
                        work.step(format!("acct_{}", (number >> 33) % CUSTOMERS)).await;
                        waits.push(begun.elapsed().as_secs_f64() * 1e6);
                    }
                    waits
                })
            })
            .collect();
        for task in running {
            self.waits.extend(task.await.unwrap());
        }
        self.took += began.elapsed();
    }

    fn run(mut self) -> Run {
        let rate = self.waits.len() as f64 / self.took.as_secs_f64();
        if std::env::var_os("LIMITRY_STATS").is_some() {
            let stats = self.server.ask(&["INFO", "commandstats"]);
            let scripts = stats.lines().filter(|line| line.starts_with("cmdstat_eval"));
            eprintln!("{rate:.0} a second; {}", scripts.collect::<Vec<_>>().join(" "));
        }
        self.waits.sort_by(f64::total_cmp);
        let at = |part: f64| self.waits[((self.waits.len() - 1) as f64 * part) as usize];
        Run { rate, p50: at(0.5), p99: at(0.99) }
    }
}

#[derive(Clone)]
struct Ours(Books<Engine<Redis>>, bool);

impl Work for Ours {
    async fn step(&self, customer: String) {
        let mut check = Check::of(&*customer).event_type("chat").estimate("total_tokens", 40);
        if self.1 {
            check = check.charge("credits", |usage| usage.value("total_tokens"));
        }
        let permit = self.0.check(check).await.unwrap();
        permit.settle(Usage::of("total_tokens", 40).dimension("model", "large-2")).await.unwrap();
    }
}

async fn engine(case: Case) -> (Ours, server::Server) {
    let server = server::Server::start();
    let most = u32::MAX;
    let all = [
        Limit::per_month("month", "tokens", most),
        Limit::per_day("day", "tokens", most),
        Limit::per_hour("hour", "tokens", most),
        Limit::per_week("week", "tokens", most),
        Limit::new("annual", "tokens", tower_limitry::policy::Period::Annual, most),
    ];
    let mut builder = Engine::builder().meter(Meter::sum("tokens", "total_tokens"));
    for limit in all.into_iter().take(case.limits) {
        builder = builder.limit(limit);
    }
    if case.balance {
        builder = builder.default_balance(NewBalance::new("credits").initial(1_000_000_000));
    }
    let store = Redis::options().timeout(Duration::from_secs(10)).open(&server.url()).unwrap();
    (Ours(builder.build_on(store).unwrap(), case.balance), server)
}

#[derive(Clone)]
struct Bare {
    wire: MultiplexedConnection,
    scripts: [String; 2],
    fields: Vec<String>,
    hold: String,
    balance: bool,
    next: Arc<AtomicU64>,
}

impl Work for Bare {
    async fn step(&self, customer: String) {
        let mut wire = self.wire.clone();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("01a2037d-fd50-7210-b567-{number:012x}");
        let shard = customer.bytes().fold(0, |sum, byte| (sum * 31 + u32::from(byte)) % 64);
        let own =
            ["books", "due", "ids"].map(|what| format!("limitry:1:{{{shard}}}:{what}:{customer}"));
        let mut check = redis::cmd("EVALSHA");
        check.arg(&self.scripts[0]).arg(4).arg(format!("limitry:1:{{{shard}}}:shard")).arg(&own);
        let terms = if self.balance { "mcredits" } else { "" };
        check.arg(&id).arg(&self.hold).arg(terms).arg(&self.fields);
        let _: redis::Value = check.query_async(&mut wire).await.unwrap();
        let mut settle = redis::cmd("EVALSHA");
        settle.arg(&self.scripts[1]).arg(8).arg(format!("limitry:1:{{{shard}}}:shard")).arg(&own);
        settle.arg(format!("limitry:1:{{{shard}}}:events"));
        settle.arg(format!("limitry:1:{{{shard}}}:transactions:{customer}"));
        settle.arg(format!("limitry:1:{{{shard}}}:rollups:20779:{customer}"));
        settle.arg(format!("limitry:1:{{{shard}}}:rollups:20779"));
        let event = format!(
            "{{\"id\":\"{id}\",\"customerId\":\"{customer}\",\"eventType\":\"chat\",\"values\":{{\"total_tokens\":40}},\
             \"dimensions\":{{\"model\":\"large-2\"}},\"timestamp\":\"2026-11-22T13:41:58.224417646Z\"}}"
        );
        let transaction = if self.balance {
            format!(
                "1795366933314283 700 {{\"id\":\"{id}\",\"balance\":\"credits\",\"credit\":false,\"amount\":40,\"at\":\"2026-11-22T13:41:58.224417646Z\"}}"
            )
        } else {
            String::new()
        };
        settle.arg(&id).arg(event).arg("1771000000000000000").arg(transaction).arg(&self.fields);
        let _: redis::Value = settle.query_async(&mut wire).await.unwrap();
    }
}

async fn connect(server: &server::Server) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(Some(Duration::from_secs(10)))
        .set_pipeline_buffer_size(1_024)
        .set_write_backpressure_boundary(256 * 1_024);
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

async fn load(wire: &mut MultiplexedConnection, script: &str) -> String {
    redis::cmd("SCRIPT").arg("LOAD").arg(script).query_async(wire).await.unwrap()
}

async fn scripts(case: Case) -> (Bare, server::Server) {
    let server = server::Server::start();
    let mut wire = connect(&server).await;
    let scripts = [load(&mut wire, BARE_CHECK).await, load(&mut wire, BARE_SETTLE).await];
    let count = case.limits + usize::from(case.balance);
    let fields: Vec<String> =
        (0..count).map(|field| format!("2988000{field}.5155dbd356f9616{field}")).collect();
    // As long as a hold on these is.
    let hold = fields.iter().fold("0|".to_owned(), |hold, field| hold + "h" + field + "|40000000|");
    let next = Arc::default();
    (Bare { wire, scripts, fields, hold, balance: case.balance, next }, server)
}

#[derive(Clone)]
struct OneField(MultiplexedConnection, String);

impl Work for OneField {
    async fn step(&self, customer: String) {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&self.1).arg(1).arg(format!("limitry:1:{{1}}:books:{customer}"));
        let _: redis::Value = call.query_async(&mut self.0.clone()).await.unwrap();
    }
}

async fn one_field() -> (OneField, server::Server) {
    let server = server::Server::start();
    let mut wire = connect(&server).await;
    let script = load(&mut wire, ONE_FIELD).await;
    (OneField(wire, script), server)
}
