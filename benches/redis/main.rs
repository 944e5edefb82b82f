//! What books on Redis cost: checks with their settlements a second, and the wait for them, beside
//! bare scripts that read and write the same fields (as much in each, and no number where text will do) and
//! decide nothing, on the same kind of connection: once such that tell all keys at every step how long
//! they live, as whoever keeps no account of it has to, and once such that never do and work on keys
//! that were told before.
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

/// What a check reads and writes, with nothing decided; it answers the list that it has read. What begins
/// with `--told` is for those that tell keys how long they live.
const BARE_CHECK: &str = "
local books, due, own, most = KEYS[2], KEYS[3], ARGV[#ARGV], #ARGV
redis.call('HGET', KEYS[1], 'version')
local now = redis.call('TIME')
redis.call('ZRANGEBYSCORE', due, '-inf', now[1], 'LIMIT', '0', '1')
local found = redis.call('HMGET', books, 'lives', unpack(ARGV, 4, most))
redis.call('ZMSCORE', KEYS[4], own, ARGV[1])
local writes = {own, ARGV[2]}
for at = 5, ARGV[3] + 4, 2 do
  writes[at - 2], writes[at - 1] = ARGV[at], '40000000'
end
redis.call('HSET', books, unpack(writes))
redis.call('ZADD', due, string.format('%d', now[1] + 60), own)
--told redis.call('PEXPIRE', due, '864000000')
--told redis.call('PEXPIRE', books, '864000000')
return found";

/// The same for a settlement.
const BARE_SETTLE: &str = "
local books, most, holds = KEYS[2], #ARGV, ARGV[4] + 5
redis.call('HGET', KEYS[1], 'version')
local now = redis.call('TIME')
local own = ARGV[holds]
redis.call('HMGET', books, 'lives', unpack(ARGV, 5, most))
redis.call('XADD', KEYS[5], 'MAXLEN', '~', '1563', '*', 'event', ARGV[1], 'at', ARGV[2])
redis.call('ZADD', KEYS[4], string.format('%d', now[1] + 600), own)
--told redis.call('PEXPIRE', KEYS[5], '3110400000')
--told redis.call('PEXPIRE', KEYS[4], '177000000')
redis.call('HINCRBY', KEYS[6], '55.5155dbd356f96160', '40000000')
redis.call('HINCRBY', KEYS[7], '55.5155dbd356f96160', '40000000')
local writes = {}
for at = 5, holds - 1 do
  writes[2 * at - 9], writes[2 * at - 8] = ARGV[at], '1795366933314283'
end
redis.call('HSET', books, unpack(writes))
redis.call('HDEL', books, unpack(ARGV, holds, most))
redis.call('ZREM', KEYS[3], own)
if ARGV[3] ~= '' then
  redis.call('RPUSH', KEYS[8], ARGV[3])
end
return 'n'";

/// What keys are told once a day: until when they live, and that a set stays though it is empty.
const BARE_KEYS: &str = "
local all = redis.call('KEYS', '*')
for _, key in ipairs(all) do
  if string.find(key, ':books:', 1, true) then
    redis.call('HSET', key, 'lives', '1795366933314283')
    local due = string.gsub(key, ':books:', ':due:')
    redis.call('ZADD', due, '+inf', '')
    redis.call('PEXPIRE', due, '864000000')
  end
  if not string.find(key, ':shard$') then redis.call('PEXPIRE', key, '864000000') end
end
return #all";

/// The least that a script can do.
const ONE_FIELD: &str = "return redis.call('HINCRBY', KEYS[1], 'n', 40000000)";

/// As long as the number of a check is.
const ATTEMPT: u64 = 13_071_402_335_826_912_345;

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
        "| check and settle | requests at once | a second | p50 us | p99 us | of bare | of bare that tells nothing |"
    );
    println!("|---|---|---|---|---|---|---|");
    for case in CASES {
        for tasks in all.clone() {
            let [ours, bare, silent] = runtime.block_on(async {
                let mut ours = Side::of(engine(case).await).await;
                let mut bare = Side::of(scripts(case, true).await).await;
                let mut silent = Side::of(scripts(case, false).await).await;
                for _ in 0..rounds(time) {
                    ours.slice(tasks).await;
                    bare.slice(tasks).await;
                    silent.slice(tasks).await;
                }
                [ours.run(), bare.run(), silent.run()]
            });
            println!(
                "| {} | {tasks} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} |",
                case.name,
                ours.rate,
                ours.p50,
                ours.p99,
                ours.rate / bare.rate,
                ours.rate / silent.rate,
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

/// What the machine does beside comes and goes: no side runs for longer than this at a time.
const SLICE: Duration = Duration::from_millis(100);

fn rounds(time: Duration) -> u32 {
    (time.as_millis() / SLICE.as_millis()).max(1) as u32
}

struct Run {
    rate: f64,
    p50: f64,
    p99: f64,
}

/// One step of one customer, again and again.
trait Work: Clone + Send + Sync + 'static {
    fn step(&self, customer: String) -> impl Future<Output = ()> + Send;

    /// What is done once, when all customers are known.
    fn told(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
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
        work.told().await;
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
    /// Of each counter: what is used and what is held, as fields of the books.
    fields: Vec<[String; 2]>,
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
        let own_field = format!("o{id}");
        let mut check = redis::cmd("EVALSHA");
        check.arg(&self.scripts[0]).arg(4).arg(format!("limitry:1:{{{shard}}}:shard")).arg(&own);
        check.arg(format!("R{ATTEMPT}{own_field}")).arg(&self.hold);
        check.arg(2 * self.fields.len() + 2 * usize::from(self.balance));
        for both in &self.fields {
            check.arg(both);
        }
        if self.balance {
            check.arg("bcredits").arg("gcredits").arg("mcredits");
        }
        check.arg(&own_field);
        let _: redis::Value = check.query_async(&mut wire).await.unwrap();
        let mut settle = redis::cmd("EVALSHA");
        settle.arg(&self.scripts[1]).arg(7 + usize::from(self.balance));
        settle.arg(format!("limitry:1:{{{shard}}}:shard")).arg(&own);
        settle.arg(format!("limitry:1:{{{shard}}}:events"));
        settle.arg(format!("limitry:1:{{{shard}}}:rollups:20779:{customer}"));
        settle.arg(format!("limitry:1:{{{shard}}}:rollups:20779"));
        if self.balance {
            settle.arg(format!("limitry:1:{{{shard}}}:transactions:{customer}"));
        }
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
        settle.arg(event).arg("1771000000000000000").arg(transaction);
        settle.arg(self.fields.len() + 2 * usize::from(self.balance));
        for [used, _] in &self.fields {
            settle.arg(used);
        }
        if self.balance {
            settle.arg("bcredits").arg("last");
        }
        settle.arg(&own_field);
        for [_, held] in &self.fields {
            settle.arg(held);
        }
        if self.balance {
            settle.arg("gcredits");
        }
        let _: redis::Value = settle.query_async(&mut wire).await.unwrap();
    }

    async fn told(&self) {
        let mut wire = self.wire.clone();
        let keys: u64 =
            redis::cmd("EVAL").arg(BARE_KEYS).arg(0).query_async(&mut wire).await.unwrap();
        assert!(keys > 2 * CUSTOMERS);
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

async fn scripts(case: Case, tells: bool) -> (Bare, server::Server) {
    let server = server::Server::start();
    let mut wire = connect(&server).await;
    let told = if tells { "" } else { "--" };
    let scripts = [BARE_CHECK, BARE_SETTLE].map(|script| script.replace("--told ", told));
    let [check, settle] = scripts;
    let scripts = [load(&mut wire, &check).await, load(&mut wire, &settle).await];
    for shard in 0..64 {
        let key = format!("limitry:1:{{{shard}}}:shard");
        let mut known = redis::cmd("HSET");
        known.arg(key).arg("version").arg("9f2c57ba80d14e63").arg("since").arg("1795366933314283");
        let _: redis::Value = known.query_async(&mut wire).await.unwrap();
    }
    let counters =
        (0..case.limits).map(|counter| format!("2988000{counter}.5155dbd356f9616{counter}"));
    let fields: Vec<_> =
        counters.map(|counter| ["u", "h"].map(|what| what.to_owned() + &counter)).collect();
    // As long as a hold on these is.
    let mut hold = format!("{ATTEMPT}|");
    for [_, held] in &fields {
        hold.extend([held, "|40000000|"]);
    }
    hold.push('#');
    if case.balance {
        hold.push_str("40000000|gcredits");
    }
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
