//! A disk that fails, once or for good, at every write and sync of a script: nothing is acknowledged
//! that is not there, nothing counts twice, and the books go on when the disk does.

use std::future::Future;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tower_limitry::policy::Credit;
use tower_limitry::store::sqlite::{Durability, Sqlite};
use tower_limitry::{
    Books, Check, CheckError, Engine, Error, ErrorKind, Event, Limit, Meter, NewBalance,
};

use crate::faulty::FOR_EVER;
use crate::support::*;
use crate::{asked, assert_sound, faulty, file};

/// As many as make more than a hundred changes.
const STEPS: u32 = 50;
const CREDITS: &str = "credits";
const FULL: Durability = Durability::Full;
const RELAXED: Durability = Durability::Relaxed { at_most: Duration::from_millis(2) };

/// `None` when the disk fails meanwhile.
async fn open(path: &Path, durability: Durability) -> Result<Books, Error> {
    let since = Instant::now();
    let store = loop {
        match Sqlite::options().durability(durability).open(path) {
            Ok(store) => break store,
            // The last task of the books before has still to end.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                assert!(since.elapsed() < MINUTE, "{error}");
                tokio::task::yield_now().await;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                return Err(error);
            }
        }
    };
    let builder = Engine::builder()
        .meter(Meter::sum("tokens", "total_tokens"))
        .limit(Limit::all_time("ever", "tokens", 1_000_000))
        .default_balance(NewBalance::new(CREDITS).initial(1_000));
    Ok(builder.build_on(store).map_err(Error::from)?.erased())
}

/// Waits for an answer as long as a broken disk may take.
async fn soon<T>(answer: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_millis(40), answer).await.ok()
}

/// One step: a request that is charged, and a credit. Says how much was acknowledged of each.
async fn step(books: &Books, number: u32) -> Option<(u32, u32)> {
    let check = Check::of("ada").charge(CREDITS, |usage| usage.value("total_tokens"));
    let permit = match books.check(check).await {
        Ok(permit) => permit,
        Err(CheckError::Failed(error)) => {
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            return None;
        }
        Err(denied) => panic!("{denied:?}"),
    };
    soon(permit.settle(total(1))).await?.unwrap();
    let credit = Credit::new("ada", CREDITS, 1).reference(number.to_string());
    match soon(books.credit(credit)).await {
        Some(Ok(credited)) => {
            assert!(credited.applied);
            Some((1, 1))
        }
        Some(Err(error)) => {
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            Some((1, 0))
        }
        None => Some((1, 0)),
    }
}

async fn try_with(kind: &str, call: u64, often: u64, durability: Durability) {
    let about = format!("{kind} {call}, {often} times, {durability:?}");
    let open = |path| open(path, durability);
    let path = file::emptied();
    faulty::tell(kind, call, often);
    let (mut settled, mut credited) = (0, 0);
    let opened = open(&path).await;
    if let Ok(books) = &opened {
        let (mut failed, since) = (0, Instant::now());
        for number in 0.. {
            match step(books, number).await {
                Some((used, paid)) => (settled, credited) = (settled + used, credited + paid),
                None => failed += 1,
            }
            if settled >= STEPS || (often == FOR_EVER && failed == 3) {
                break;
            }
            // One that failed once heals by itself.
            assert!(since.elapsed() < MINUTE, "{about}: {settled}");
            tokio::task::yield_now().await;
        }
    }
    faulty::heal();
    if let Ok(books) = opened {
        // What was accepted meanwhile is written now that the disk is well.
        books.shutdown(MINUTE).await.unwrap();
    }

    let books = open(&path).await.unwrap_or_else(|error| panic!("{about}: {error:?}"));
    assert_sound(&path);
    let there: u32 = asked(&path, "SELECT count(*) FROM event");
    let paid: u32 = asked(&path, "SELECT count(*) FROM ledger WHERE amount > 0");
    assert!(there >= settled && paid >= credited, "{about}: {there} {settled}, {paid} {credited}");
    assert_eq!(used(&books, "ada", "ever").await, amount(there), "{about}");
    let left = 1_000 + i64::from(paid) - i64::from(there);
    assert_eq!(current(&books, "ada", CREDITS).await, amount(left), "{about}");
    spend(&books, "ada", 1).await;
    drop(books);
    assert_sound(&path);
}

#[test]
#[ignore = "is started with a disk that fails"]
fn trials() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Begun anywhere: all of them come in turn.
    let every = times(37, 1);
    let seed = seed();
    let first = 1 + Random(seed).below(every);
    eprintln!("LIMITRY_SEED={seed}: every {every}th call from the {first}th on");
    runtime.block_on(async {
        // A script takes about so many writes, and half as many syncs.
        for (kind, calls) in [("write", 450), ("full", 450), ("sync", 150), ("lost", 150)] {
            // The first calls are those of opening, which waits for no disk that fails for good.
            for call in (1..40).step_by(3) {
                try_with(kind, call, FOR_EVER, FULL).await;
            }
            for call in (first..calls).step_by(every as usize) {
                try_with(kind, call, 1, FULL).await;
                try_with(kind, call, FOR_EVER, FULL).await;
                if call % 50 == 0 {
                    eprintln!("{kind}: {call} of {calls} calls failed once and for good");
                }
            }
        }
        for kind in ["sync", "lost"] {
            // Of a start that never came to an end nothing is missed.
            try_with(kind, 1, FOR_EVER, RELAXED).await;
            for call in (2 + first % 7..60).step_by(times(7, 1) as usize) {
                try_with(kind, call, 1, RELAXED).await;
                try_with(kind, call, FOR_EVER, RELAXED).await;
            }
            eprintln!("{kind}: relaxed");
        }
    });
}

#[test]
fn a_disk_that_fails_loses_nothing_that_was_acknowledged() {
    try_out("disk::trials");
}

/// Books whose log is not synced by commits, until it is brought into the file.
async fn try_with_a_long_log(kind: &str) {
    let path = file::emptied();
    let books = open(&path, Durability::Relaxed { at_most: HOUR }).await.unwrap();
    // The log begins, and its head is synced.
    step(&books, 0).await.unwrap();
    faulty::tell(kind, 1, 1);
    let log = || format!("{}-wal", path.display());
    let length = || std::fs::metadata(log()).unwrap().len();
    let (mut more, mut settled, since) = (100, 1, Instant::now());
    for number in 1.. {
        if let Some((used, _)) = step(&books, number).await {
            settled += used;
            // So long it is synced, and later written over from its start.
            more -= u32::from(length() >= 4_000 * 8_192);
        }
        if more == 0 {
            break;
        }
        assert!(since.elapsed() < MINUTE, "it never became long");
        tokio::task::yield_now().await;
    }
    faulty::heal();
    books.shutdown(MINUTE).await.unwrap();
    drop(books);
    let books = open(&path, RELAXED).await.unwrap();
    assert_sound(&path);
    let there: u32 = asked(&path, "SELECT count(*) FROM event");
    assert!(there >= settled, "{kind}: {there} {settled}");
    assert_eq!(used(&books, "ada", "ever").await, amount(there), "{kind}");
}

#[test]
#[ignore = "is started with a disk that fails"]
fn long_logs() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for kind in ["lost", "sync"] {
        runtime.block_on(try_with_a_long_log(kind));
    }
}

/// Somebody who reads has let only half of a long log go into the file, which is not synced before
/// the rest of it is there. That sync loses both halves.
async fn try_with_a_reader() {
    let path = file::emptied();
    let books = open(&path, FULL).await.unwrap();
    let log = format!("{}-wal", path.display());
    let length = || std::fs::metadata(&log).unwrap().len();
    let mut number = 0;
    while length() < 2_000 * 8_192 {
        step(&books, number).await;
        number += 1;
    }
    let reader = rusqlite::Connection::open(&path).unwrap();
    let count = "SELECT count(*) FROM event";
    reader.execute_batch("BEGIN").unwrap();
    assert!(reader.query_row(count, [], |row| row.get::<_, u32>(0)).unwrap() > 0);
    while length() < 4_100 * 8_192 {
        step(&books, number).await;
        number += 1;
    }
    drop(reader);
    // The sync of a commit, that of the log before it is brought in, and that of the file.
    faulty::tell("lost", 3, 1);
    for _ in 0..10 {
        step(&books, number).await;
        number += 1;
    }
    faulty::heal();
    books.shutdown(MINUTE).await.unwrap();
    drop(books);
    let books = open(&path, FULL).await.unwrap();
    assert_sound(&path);
    assert_eq!(used(&books, "ada", "ever").await, amount(asked::<u32>(&path, count)));
}

#[test]
#[ignore = "is started with a disk that fails"]
fn halves() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(try_with_a_reader());
}

#[test]
fn a_log_that_a_reader_has_held_up_is_written_again_as_a_whole() {
    try_out("disk::halves");
}

/// Of what the disk loses, some only said how many requests run; what comes after it is events alone.
async fn try_with_a_request_that_ran() {
    let path = file::emptied();
    let books = open(&path, Durability::Relaxed { at_most: HOUR }).await.unwrap();
    // The log begins, and its head is synced.
    step(&books, 0).await.unwrap();
    let permit = books.check(Check::of("ada")).await.unwrap();
    let since = Instant::now();
    let noted = "SELECT coalesce(max(value), 0) FROM state WHERE name = 'running'";
    while asked::<u32>(&path, noted) == 0 {
        assert!(since.elapsed() < MINUTE, "that a request runs is not written");
        tokio::task::yield_now().await;
    }
    permit.settle(total(1)).await.unwrap();
    faulty::tell("lost", 1, 1);
    let lock = || std::fs::read_to_string(format!("{}-lock", path.display())).unwrap();
    let before = lock();
    // So long it is synced: in vain, and once more when it is written again.
    let mut settled = 2;
    while lock() == before {
        books.record(Event::new("ada", "chat", total(1))).await.unwrap();
        settled += 1;
        assert!(since.elapsed() < MINUTE, "it never became long");
    }
    // What a process that is killed leaves.
    let left = file::fresh();
    for ending in ["", "-wal", "-lock"] {
        let of = |path: &Path| format!("{}{ending}", path.display());
        std::fs::copy(of(&path), of(&left)).unwrap();
    }
    let books = open(&left, RELAXED).await.unwrap();
    assert_sound(&left);
    assert_eq!(used(&books, "ada", "ever").await, amount(settled));
}

#[test]
#[ignore = "is started with a disk that fails"]
fn requests_that_ran() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(try_with_a_request_that_ran());
}

#[test]
fn books_that_were_written_again_are_not_taken_for_an_older_copy() {
    try_out("disk::requests_that_ran");
}

#[test]
#[ignore = "is started with a disk that fails"]
fn last_syncs() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for kind in ["lost", "sync"] {
            let path = file::emptied();
            let books = open(&path, Durability::Relaxed { at_most: HOUR }).await.unwrap();
            for number in 0..STEPS {
                assert_eq!(step(&books, number).await, Some((1, 1)));
            }
            faulty::tell(kind, 1, 1);
            books.shutdown(MINUTE).await.unwrap();
            drop(books);
            let books = open(&path, RELAXED).await.unwrap();
            assert_sound(&path);
            assert_eq!(used(&books, "ada", "ever").await, amount(STEPS), "{kind}");
        }
    });
}

/// SQLite brings a long log into the file by itself, and ignores it where its sync fails: the next
/// time it takes for good what reads well no more.
#[test]
fn a_long_log_that_the_disk_loses_is_written_again() {
    try_out("disk::long_logs");
}

#[test]
fn what_the_disk_loses_when_the_books_are_closed_is_written_again() {
    try_out("disk::last_syncs");
}

/// Runs one of the above with a disk that fails.
#[track_caller]
fn try_out(trials: &str) {
    let trials = Command::new(std::env::current_exe().unwrap())
        .args([trials, "--exact", "--ignored", "--nocapture"])
        .env("LD_PRELOAD", faulty::library())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(trials.success(), "{trials}; what was tried is told above");
}
