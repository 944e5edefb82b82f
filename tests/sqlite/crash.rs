//! A process that is killed while it works loses nothing that it acknowledged.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tower_limitry::policy::{Credit, Debit};
use tower_limitry::store::Sqlite;
use tower_limitry::store::sqlite::{Durability, OwnerlessHolds};
use tower_limitry::{Books, Check, Engine, Event, Limit, Meter, NewBalance, Usage};

use crate::support::*;
use crate::{asked, assert_sound, file};

const FILE: &str = "LIMITRY_CRASH_FILE";
const MODE: &str = "LIMITRY_CRASH_MODE";
const FULL: &str = "full";
const RELAXED: &str = "relaxed";
const HOLDS: &str = "holds";
const CUSTOMERS: u64 = 7;
/// Each with one request at a time.
const TASKS: u64 = 8;
const CREDITS: &str = "credits";

fn open(path: &Path, mode: &str) -> Books {
    let options = match mode {
        RELAXED => {
            Sqlite::options().durability(Durability::Relaxed { at_most: Duration::from_millis(20) })
        }
        HOLDS => Sqlite::options().ownerless_holds(OwnerlessHolds::CostTheirEstimate),
        _ => Sqlite::options(),
    };
    let store = options.open_wait(MINUTE).open(path).unwrap();
    assert!(store.ownerless() <= TASKS as usize, "{} without an owner", store.ownerless());
    Engine::builder()
        .meter(Meter::sum("tokens", "total_tokens"))
        .meter(Meter::count("calls"))
        .limit(Limit::all_time("ever", "tokens", 1_000_000_000))
        .limit(Limit::per_month("calls", "calls", 1_000_000_000))
        .default_balance(NewBalance::new(CREDITS).initial(1_000_000))
        .build_on(store)
        .unwrap()
        .erased()
}

fn customer(number: u64) -> String {
    format!("acct_{}", number % CUSTOMERS)
}

/// What the killed process does, started by the tests below: requests, events, credits and debits of
/// many tasks at once. Every line says what was acknowledged.
#[test]
#[ignore = "is no test of its own"]
fn work() {
    let path = std::env::var_os(FILE).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let books = open(path.as_ref(), &std::env::var(MODE).unwrap());
        let run = std::process::id();
        let tasks: Vec<_> =
            (0..TASKS).map(|task| tokio::spawn(act(books.clone(), run, task))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

async fn act(books: Books, run: u32, task: u64) {
    for step in 0.. {
        let name = customer(task + step);
        let id = format!("{run}-{task}-{step}");
        let said = match step % 4 {
            0 | 1 => {
                let check = Check::of(&name)
                    .id(&id)
                    .estimate("total_tokens", 9)
                    .charge(CREDITS, |usage| usage.value("total_tokens"));
                let permit = books.check(check).await.unwrap();
                permit.settle(Usage::of("total_tokens", 1 + step % 9)).await.unwrap();
                format!("event {id}")
            }
            2 => {
                let now = std::time::SystemTime::now().into();
                let event = Event::new(&name, "chat", Usage::of("total_tokens", 2)).id(&id).at(now);
                assert!(books.record(event).await.unwrap().recorded);
                format!("event {id}")
            }
            _ if task.is_multiple_of(2) => {
                let credit = Credit::new(&name, CREDITS, 5).reference(&*id);
                assert!(books.credit(credit).await.unwrap().applied);
                format!("ledger {id}")
            }
            _ => {
                let debit = Debit::new(&name, CREDITS, 1).reference(&*id);
                assert!(books.debit(debit).await.unwrap().is_taken());
                format!("ledger {id}")
            }
        };
        eprintln!("{said}");
    }
}

fn start(path: &Path, mode: &str) -> Child {
    let mut work = Command::new(std::env::current_exe().unwrap());
    work.args(["crash::work", "--exact", "--ignored", "--nocapture"]);
    work.env(FILE, path).env(MODE, mode);
    work.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Kills a process at random instants, and looks at what is left.
fn kill_and_look(kills: u64, mode: &str) {
    let mut random = Random(seed());
    let mut path = file::fresh();
    let mut acknowledged: Vec<String> = Vec::new();
    for kill in 0..kills {
        // All of a file is looked at after every kill: it is not to grow without end.
        if kill > 0 && kill.is_multiple_of(50) {
            assert_counted(&path, mode);
            path = file::fresh();
            acknowledged.clear();
        }
        let mut child = start(&path, mode);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        // Not before it works: the first line is awaited. Then a few milliseconds, spent reading.
        acknowledged.extend(lines.next());
        let until = Instant::now() + Duration::from_micros(random.below(30_000));
        while Instant::now() < until {
            acknowledged.extend(lines.next());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // The last line may be cut; all others were acknowledged before the end.
        let rest: Vec<String> = lines.collect();
        acknowledged.extend(rest.split_last().map(|(_, whole)| whole.to_vec()).unwrap_or_default());
        assert_sound(&path);
        assert_told(&path, &acknowledged);
        if kill.is_multiple_of(10) {
            assert_counted(&path, mode);
        }
    }
    assert!(acknowledged.len() as u64 > kills % 50, "{} acknowledged", acknowledged.len());
    println!("{kills} kills, {} acknowledged in the last file", acknowledged.len());
    assert_counted(&path, mode);
}

/// Everything that was acknowledged is there, once.
#[track_caller]
fn assert_told(path: &Path, acknowledged: &[String]) {
    let file = rusqlite::Connection::open(path).unwrap();
    let mut event = file.prepare("SELECT count(*) FROM event WHERE id = ?1").unwrap();
    let mut ledger = file.prepare("SELECT count(*) FROM ledger WHERE reference = ?1").unwrap();
    for line in acknowledged.iter().rev().take(2_000) {
        let (kind, id) = line.split_once(' ').unwrap();
        let found: u32 = match kind {
            "event" => event.query_row([id], |row| row.get(0)).unwrap(),
            "ledger" => ledger.query_row([id], |row| row.get(0)).unwrap(),
            _ => panic!("{line:?}"),
        };
        assert_eq!(found, 1, "{line}");
    }
}

/// The books, opened again, say what the events come to.
#[track_caller]
fn assert_counted(path: &Path, mode: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let books = open(path, mode);
        for number in 0..CUSTOMERS {
            let name = customer(number);
            let of = format!(
                "FROM event e JOIN customer c ON c.id = e.customer WHERE c.name = '{name}'"
            );
            let tokens: i64 =
                asked(path, &format!("SELECT coalesce(sum(e.amounts ->> 0), 0) {of}"));
            assert_eq!(used(&books, &name, "ever").await, amount(tokens), "{name}");
            let calls: i64 = asked(path, &format!("SELECT count(*) {of}"));
            assert_eq!(used(&books, &name, "calls").await, amount(calls), "{name}");
            let credits = current(&books, &name, CREDITS).await;
            let left: i64 = asked(
                path,
                &format!(
                    "SELECT 1000000000000 + coalesce(sum(l.amount), 0) FROM ledger l \
                     JOIN balance b ON b.id = l.balance JOIN customer c ON c.id = b.customer \
                     WHERE c.name = '{name}'"
                ),
            );
            assert_eq!(credits.as_millionths(), left, "{name}");
        }
        assert_eq!(books.open_holds().await.unwrap(), 0);
    });
}

fn kills() -> u64 {
    let given = std::env::var("LIMITRY_KILLS").ok().and_then(|kills| kills.parse().ok());
    given.unwrap_or_else(|| times(30, 2_000))
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    kill_and_look(kills(), FULL);
}

/// What was acknowledged is in the operating system's memory, which outlives the process.
#[test]
fn a_killed_process_loses_nothing_when_it_is_relaxed() {
    kill_and_look(kills() / 3, RELAXED);
}

/// Those that ran are settled as they were estimated, each once, and are no part of what was
/// acknowledged.
#[test]
fn a_killed_process_loses_nothing_when_its_holds_are_kept() {
    kill_and_look(kills() / 3, HOLDS);
}
