//! What durable books cost: settlements a second and the wait for their acknowledgement, beside what
//! SQLite does alone.
//!
//! ```sh
//! cargo bench --bench sqlite            # each case for 2 seconds
//! cargo bench --bench sqlite -- 10      # for 10
//! cargo bench --bench sqlite -- 1 10000000    # and a large file to open at the end
//! ```

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tower_limitry::store::Sqlite;
use tower_limitry::store::sqlite::Durability;
use tower_limitry::{Books, Check, Engine, Limit, Meter, NewBalance, Usage};

mod raw;

const CUSTOMERS: u64 = 10_000;

/// Dimensions of 75 bytes as JSON.
pub(crate) const DIMENSIONS: [(&str, &str); 3] =
    [("model", "large-2"), ("region", "eu-west-1"), ("route", "/v1/chat/completions/x1")];

fn main() {
    let mut given = std::env::args().filter_map(|given| given.parse().ok());
    let (seconds, events) = (given.next().unwrap_or(2), given.next().unwrap_or(100_000));
    let time = Duration::from_secs(seconds);
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-sqlite");
    let _nothing_there = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();

    println!(
        "| settlements | requests at once | a second | p50 us | p99 us | in one commit | raw in the same groups | of raw |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for case in [Case::ONE, Case::FIVE, Case::RELAXED] {
        for tasks in [1, 16, 256] {
            let path = folder.join("usage.db");
            remove(&path);
            let run = runtime.block_on(settle(&path, case, tasks, time));
            let alone = folder.join("raw.db");
            remove(&alone);
            let raw = raw::insert(&alone, case, run.group, time);
            println!(
                "| {} | {tasks} | {:.0} | {:.0} | {:.0} | {} | {raw:.0} | {:.2} |",
                case.name,
                run.rate,
                run.p50,
                run.p99,
                run.group,
                run.rate / raw,
            );
            if tasks == 256 {
                let bytes = path.metadata().unwrap().len() as f64 / run.events as f64;
                println!("|   bytes for each event | | {bytes:.0} | of {} | | | | |", run.events);
            }
        }
    }
    alone(&folder, &runtime, time);

    for (name, path) in [("memory", None), ("a file written at full speed", Some("usage.db"))] {
        let path = path.map(|name| folder.join(name));
        path.iter().for_each(|path| remove(path));
        let (p50, p99) = runtime.block_on(check_latency(path.as_deref(), time));
        println!("a check, {name}: p50 {p50:.2} us, p99 {p99:.2} us");
    }

    let path = folder.join("usage.db");
    remove(&path);
    runtime.block_on(fill(&path, events));
    let began = Instant::now();
    let books = open(&path, Case::ONE);
    drop(runtime.block_on(books.check(Check::of("acct_1"))).unwrap());
    println!("reopening {events} events, to the first check: {:?}", began.elapsed());
    drop(books);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A caller whom nobody waits with, beside one bare commit, both for customers whom the file knows: in
/// turns, so that the disk is the same.
fn alone(folder: &Path, runtime: &tokio::runtime::Runtime, time: Duration) {
    const TURNS: u32 = 10;
    let (path, raw) = (folder.join("usage.db"), folder.join("raw.db"));
    remove(&path);
    remove(&raw);
    let books = open(&path, Case::ONE);
    runtime.block_on(record(&books, CUSTOMERS));
    let mut bare = raw::Alone::open(&raw);
    let (mut ours, mut next) = (Vec::new(), 0);
    for _ in 0..TURNS {
        let turn = runtime.spawn(settle_alone(books.clone(), next, time / TURNS));
        let waits = runtime.block_on(turn).unwrap();
        next += waits.len() as u64;
        ours.extend(waits);
        bare.commit(time / TURNS);
    }
    let (ours, bare) = (percentiles(ours), percentiles(bare.waits));
    println!(
        "\na caller alone: p50 {:.0} us, p99 {:.0} us; one bare synced commit: p50 {:.0} us, p99 {:.0} us; {:.2} of it",
        ours.0,
        ours.1,
        bare.0,
        bare.1,
        ours.0 / bare.0,
    );
}

/// How long each settlement waits, one behind the other.
async fn settle_alone(books: Books, mut next: u64, time: Duration) -> Vec<u64> {
    let (began, mut waits) = (Instant::now(), Vec::new());
    while began.elapsed() < time {
        let permit = books.check(check(next * 104_729, Case::ONE)).await.unwrap();
        let asked = Instant::now();
        permit.settle(usage(next)).await.unwrap();
        waits.push(asked.elapsed().as_nanos() as u64);
        next += 1;
    }
    waits
}

#[derive(Clone, Copy)]
pub(crate) struct Case {
    name: &'static str,
    pub(crate) counters: u32,
    pub(crate) balance: bool,
    durability: Durability,
}

impl Case {
    const ONE: Self =
        Self { name: "one counter", counters: 1, balance: false, durability: Durability::Full };
    const FIVE: Self = Self { name: "five and a balance", counters: 5, balance: true, ..Self::ONE };
    const RELAXED: Self = Self {
        name: "one counter, relaxed",
        durability: Durability::Relaxed { at_most: Duration::from_millis(100) },
        ..Self::ONE
    };

    pub(crate) fn is_relaxed(self) -> bool {
        self.durability != Durability::Full
    }
}

fn open(path: &Path, case: Case) -> Books {
    build(case, Some(path))
}

fn build(case: Case, path: Option<&Path>) -> Books {
    let mut builder = Engine::builder()
        .meter(Meter::sum("tokens", "total_tokens"))
        .default_balance(NewBalance::new("credits").initial(1_000_000_000));
    let limits =
        [Limit::per_day, Limit::per_month, Limit::per_week, Limit::per_year, Limit::all_time];
    for (at, limit) in limits.iter().enumerate().take(case.counters as usize) {
        builder = builder.limit(limit(format!("limit-{at}"), "tokens", 1_000_000_000));
    }
    match path {
        Some(path) => {
            let store = Sqlite::options().durability(case.durability).open(path).unwrap();
            builder.build_on(store).unwrap().erased()
        }
        None => builder.build().unwrap().erased(),
    }
}

fn check(customer: u64, case: Case) -> Check {
    let check = Check::of(format!("acct_{:06}", customer % CUSTOMERS));
    if case.balance { check.charge("credits", |usage| usage.value("total_tokens")) } else { check }
}

fn usage(tokens: u64) -> Usage {
    let usage = Usage::of("total_tokens", 100 + tokens % 900);
    DIMENSIONS.iter().fold(usage, |usage, (key, text)| usage.dimension(key, text))
}

struct Run {
    rate: f64,
    p50: f64,
    p99: f64,
    /// Settlements in one commit, on average.
    group: u64,
    events: u64,
}

async fn settle(path: &Path, case: Case, tasks: u64, time: Duration) -> Run {
    let books = open(path, case);
    let began = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let books = books.clone();
            tokio::spawn(async move {
                let mut waits = Vec::new();
                let mut next = task * 7_919;
                while began.elapsed() < time {
                    next += 104_729;
                    let permit = books.check(check(next, case)).await.unwrap();
                    let asked = Instant::now();
                    permit.settle(usage(next)).await.unwrap();
                    waits.push(asked.elapsed().as_nanos() as u64);
                }
                waits
            })
        })
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.unwrap());
    }
    let rate = waits.len() as f64 / began.elapsed().as_secs_f64();
    let events = waits.len() as u64;
    let groups = commits(path);
    drop(books);
    let file = rusqlite::Connection::open(path).unwrap();
    file.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let (p50, p99) = percentiles(waits);
    Run { rate, p50, p99, group: (events / groups).max(1), events }
}

/// How many commits there were to a file that is in use. SQLite counts them at the beginning of the
/// index of its log (<https://sqlite.org/walformat.html>, section 2.1: `iChange`).
fn commits(path: &Path) -> u64 {
    let index = std::fs::read(format!("{}-shm", path.display())).unwrap();
    u32::from_ne_bytes(index[8..12].try_into().unwrap()).into()
}

/// In microseconds.
pub(crate) fn percentiles(mut nanos: Vec<u64>) -> (f64, f64) {
    nanos.sort_unstable();
    let at = |part: f64| nanos[((nanos.len() - 1) as f64 * part) as usize] as f64 / 1e3;
    (at(0.5), at(0.99))
}

/// Checks that are released again, beside 64 tasks that settle.
async fn check_latency(path: Option<&Path>, time: Duration) -> (f64, f64) {
    let books = build(Case::ONE, path);
    let stop = Arc::new(AtomicBool::new(false));
    let settled = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..if path.is_some() { 64 } else { 1 })
        .map(|task| {
            let (books, stop, settled) = (books.clone(), Arc::clone(&stop), Arc::clone(&settled));
            tokio::spawn(async move {
                let mut next = task;
                while !stop.load(Ordering::Relaxed) {
                    next += 64;
                    let permit = books.check(check(next, Case::ONE)).await.unwrap();
                    permit.settle(usage(next)).await.unwrap();
                    settled.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let began = Instant::now();
    let mut waits = Vec::new();
    let mut next = 0;
    while began.elapsed() < time {
        next += 1;
        let check = check(next, Case::ONE);
        let asked = Instant::now();
        let permit = books.check(check).await.unwrap();
        waits.push(asked.elapsed().as_nanos() as u64);
        permit.release().await.unwrap();
        if next % 16 == 0 {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    percentiles(waits)
}

async fn fill(path: &Path, events: u64) {
    record(&open(path, Case { durability: Case::RELAXED.durability, ..Case::ONE }), events).await;
}

async fn record(books: &Books, events: u64) {
    for first in (0..events).step_by(1_000) {
        let events = (first..first + 1_000).map(|number| {
            let customer = format!("acct_{:06}", number % CUSTOMERS);
            tower_limitry::Event::new(&customer, "request", usage(number))
        });
        books.record_many(events).await.unwrap();
    }
}

fn remove(path: &Path) {
    for ending in ["", "-wal", "-shm", "-lock"] {
        let _nothing_there = std::fs::remove_file(format!("{}{ending}", path.display()));
    }
}
