//! Copies, looks and cleaning up while the books are written at full speed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tower_limitry::backend::{EventQuery, MeterQuery, PageRequest};
use tower_limitry::engine::{EngineBuilder, ManualClock};
use tower_limitry::policy::Credit;
use tower_limitry::store::Sqlite;
use tower_limitry::store::sqlite::{backup, verify};
use tower_limitry::{Books, Check, Event, Limit, Meter, NewBalance};

use crate::support::*;
use crate::{asked, assert_sound_at, file};

const CREDITS: &str = "credits";
const TASKS: u32 = 8;

fn builder(clock: &ManualClock) -> EngineBuilder {
    tokens(clock)
        .meter(Meter::count("calls"))
        .meter(Meter::max("peak", "total_tokens"))
        .limit(Limit::all_time("ever", "tokens", 1_000_000_000))
        .limit(Limit::per_day("calls", "calls", 1_000_000_000))
        .limit(Limit::per_month("peak", "peak", 1_000_000_000))
        .default_balance(NewBalance::new(CREDITS).initial(1_000_000))
}

fn customer(number: u32) -> String {
    format!("acct_{}", number % 5)
}

/// Tasks that settle charged requests, and credit, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU32>,
    tasks: Vec<tokio::task::JoinHandle<u32>>,
}

impl Load {
    fn on(books: &Books) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let tasks = (0..TASKS)
            .map(|task| {
                let (books, stop) = (books.clone(), Arc::clone(&stop));
                let acknowledged = Arc::clone(&acknowledged);
                tokio::spawn(async move {
                    let mut done = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let name = customer(task + done);
                        let check = Check::of(&name)
                            .estimate("total_tokens", 9)
                            .charge(CREDITS, |usage| usage.value("total_tokens"));
                        admitted(&books, check).await.settle(total(1 + done % 9)).await.unwrap();
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                        if done % 4 == 0 {
                            books.credit(Credit::new(&name, CREDITS, 3)).await.unwrap();
                        }
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        Self { stop, acknowledged, tasks }
    }

    fn acknowledged(&self) -> u32 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Until so many more are done, so that there is something between two looks.
    fn wait_for(&self, more: u32) {
        let (from, since) = (self.acknowledged(), std::time::Instant::now());
        while self.acknowledged() < from + more {
            assert!(since.elapsed() < MINUTE, "the load stands still");
            std::thread::yield_now();
        }
    }

    async fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let mut done = 0;
        for task in self.tasks {
            done += task.await.unwrap();
        }
        done
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// All that was acknowledged before it began, nothing from after its end, and each event with its
/// charge and on its counters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_the_books_at_one_moment() {
    let (clock, path) = (noon(), file::fresh());
    let books = builder(&clock).build_on(Sqlite::open(&path).unwrap()).unwrap().erased();
    let load = Arc::new(Load::on(&books));
    let mut copies = Vec::new();
    for _ in 0..times(5, 100) {
        let (from, to, load) = (path.clone(), file::fresh(), Arc::clone(&load));
        copies.push(to.clone());
        blocking(move || {
            load.wait_for(20);
            let before = load.acknowledged();
            backup(&from, &to).unwrap();
            // Each task may have one that is written and not yet acknowledged.
            let after = load.acknowledged() + TASKS;
            assert_cut(&to, before, after);
        })
        .await;
    }
    let load = Arc::into_inner(load).unwrap();
    let done = load.stop().await;
    drop(books);
    assert_cut(&path, done, done);
    for copy in copies {
        assert_restored(&clock, &copy).await;
        std::fs::remove_file(copy).unwrap();
    }
}

fn assert_cut(path: &Path, least: u32, most: u32) {
    assert_sound_at(path, time(NOON));
    let events: u32 = asked(path, "SELECT count(*) FROM event");
    assert!((least..=most).contains(&events), "{events}, not {least} to {most}");
    let unpaid =
        "SELECT count(*) FROM event e LEFT JOIN ledger l ON l.id = e.id WHERE l.id IS NULL";
    assert_eq!(asked::<u32>(path, unpaid), 0);
    let unused = "SELECT count(*) FROM ledger l LEFT JOIN event e ON l.id = e.id \
                  WHERE e.id IS NULL AND l.amount < 0";
    assert_eq!(asked::<u32>(path, unused), 0);
}

/// The copy opens, and says what its rows say.
async fn assert_restored(clock: &ManualClock, copy: &PathBuf) {
    let books = builder(clock).build_on(Sqlite::open(copy).unwrap()).unwrap().erased();
    for number in 0..5 {
        let name = customer(number);
        let of = format!("JOIN customer c ON c.id = x.customer WHERE c.name = '{name}'");
        let tokens: i64 =
            asked(copy, &format!("SELECT coalesce(sum(x.amounts ->> 0), 0) FROM event x {of}"));
        assert_eq!(used(&books, &name, "ever").await, amount(tokens));
        let current: i64 = asked(copy, &format!("SELECT x.current FROM balance x {of}"));
        let said = books.balance(&name, CREDITS).await.unwrap().unwrap().current();
        assert_eq!(said.as_millionths(), current);
    }
    assert_eq!(books.open_holds().await.unwrap(), 0);
    spend(&books, "acct_0", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_are_verified_while_they_are_written() {
    let (clock, path) = (noon(), file::fresh());
    let books = builder(&clock).build_on(Sqlite::open(&path).unwrap()).unwrap().erased();
    let load = Arc::new(Load::on(&books));
    for _ in 0..times(10, 300) {
        let (path, load) = (path.clone(), Arc::clone(&load));
        blocking(move || {
            load.wait_for(10);
            let compared = verify(&path, time(NOON)).unwrap();
            assert_eq!(compared.found, []);
            assert!(compared.checked > 0);
        })
        .await;
    }
    Arc::into_inner(load).unwrap().stop().await;
}

/// Cleaning up goes on beside settlements, lists, sums, corrections and limits that are counted anew:
/// each sees the events that are there, and no counter and no balance moves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_events_are_let_go_beside_everything_else() {
    let (clock, path) = (noon(), file::fresh());
    let old = times(3, 30) as u32 * 1_000;
    let books = builder(&clock).build_on(Sqlite::open(&path).unwrap()).unwrap().erased();
    for some in 0..old / 1_000 {
        let event = |number: u32| Event::new(customer(number), "chat", total(1)).at(time(NOON));
        books.record_many((0..1_000).map(|at| event(some * 1_000 + at))).await.unwrap();
    }
    drop(books);
    clock.advance(2 * DAY);
    let store = Sqlite::options().keep_events_for(DAY).open(&path).unwrap();
    let books = builder(&clock).build_on(store).unwrap().erased();
    let load = Load::on(&books);
    let since = std::time::Instant::now();
    let mut round = 0;
    loop {
        let gone: u32 = asked(&path, "SELECT coalesce(sum(events), 0) FROM rollup");
        assert!(gone <= old && since.elapsed() < MINUTE, "{gone} of {old}");
        // Newest first, each once, on pages that are cut while the oldest go.
        let (mut page, mut seen) = (PageRequest::first().limit(100), Vec::new());
        for _ in 0..5 {
            let answer = books.events(EventQuery::new().page(page)).await.unwrap();
            seen.extend(answer.items.iter().map(|event| event.id().to_string()));
            let Some(next) = answer.next else { break };
            page = PageRequest::first().limit(100).after(next);
        }
        let listed = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), listed);
        let reading = books.query(MeterQuery::new("tokens")).await.unwrap();
        assert!(reading.value > amount(0) && (!reading.complete || gone < old));
        books
            .put_limit(Limit::per_week(format!("week-{round}"), "tokens", 1_000_000))
            .await
            .unwrap();
        books.remove_limit(format!("week-{round}")).await.unwrap();
        let new = Event::new("corrected", "chat", total(4)).at(time("2026-03-03T12:00:00Z"));
        let wrong = books.record(new).await.unwrap().id;
        assert!(books.void("corrected", &wrong).await.unwrap().recorded);
        assert_sound_at(&path, time("2026-03-03T12:00:00Z"));
        round += 1;
        if gone == old {
            break;
        }
    }
    let done = load.stop().await;
    assert_eq!(used(&books, "corrected", "ever").await, amount(0));
    let mut settled = amount(0);
    for number in 0..5 {
        let tokens = used(&books, &customer(number), "ever").await;
        settled = settled.checked_add(tokens).unwrap();
    }
    let kept: i64 = asked(&path, "SELECT coalesce(sum(amounts ->> 0), 0) FROM event");
    assert_eq!(settled, amount(kept + i64::from(old)));
    let events: u32 = asked(&path, "SELECT count(*) FROM event");
    assert_eq!(events, done + 2 * round);
    assert_sound_at(&path, time("2026-03-03T12:00:00Z"));
}
