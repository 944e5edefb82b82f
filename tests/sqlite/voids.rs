//! A void that is stopped between its record and the count of what is left: the highest and the
//! latest are right at the next start, and at the next try.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tower_limitry::policy::EventId;
use tower_limitry::store::Sqlite;
use tower_limitry::{Books, ErrorKind, Event, Limit, Meter};

use crate::support::*;
use crate::{assert_sound_at, file};

/// Called in that moment: what takes an event back is in the file, and nothing was counted again.
type Between = Arc<dyn Fn() + Send + Sync>;

fn open(path: &Path, between: Between) -> Books {
    tokens(&noon())
        .meter(Meter::max("peak", "total_tokens"))
        .meter(Meter::latest("last", "total_tokens"))
        .limit(Limit::all_time("max", "peak", 100))
        .limit(Limit::per_day("latest", "last", 100))
        .limit(Limit::per_day("daily", "tokens", 1_000))
        .on_event(move |event| {
            if event.is_reversal() {
                between();
            }
        })
        .build_on(Sqlite::open(path).unwrap())
        .unwrap()
        .erased()
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    format!("{}{ending}", path.display()).into()
}

/// Both have 90 as their highest and latest; the id is that of one.
async fn spent(books: &Books) -> EventId {
    for (customer, tokens, at) in [
        ("ada", 20, "2026-03-01T09:00:00Z"),
        ("ada", 50, "2026-03-01T10:00:00Z"),
        ("bob", 90, "2026-03-01T11:00:00Z"),
    ] {
        books.record(Event::new(customer, "chat", total(tokens)).at(time(at))).await.unwrap();
    }
    let wrong = Event::new("ada", "chat", total(90)).at(time("2026-03-01T11:00:00Z"));
    books.record(wrong).await.unwrap().id
}

async fn assert_right(books: &Books) {
    for (customer, tokens, sum) in [("ada", 50, 70), ("bob", 90, 90)] {
        for limit in ["max", "latest"] {
            let seen = standing(books, customer, limit).await;
            assert_eq!((seen.used, seen.complete), (amount(tokens), true), "{customer} {limit}");
        }
        assert_eq!(used(books, customer, "daily").await, amount(sum));
    }
}

#[tokio::test]
async fn a_void_that_was_killed_before_it_counted_again_is_right_at_the_next_start() {
    let (path, killed) = (file::fresh(), file::fresh());
    let (from, to) = (path.clone(), killed.clone());
    // A process that is killed leaves its files as they are.
    let copy = move || {
        for ending in ["", "-wal", "-lock"] {
            std::fs::copy(beside(&from, ending), beside(&to, ending)).unwrap();
        }
    };
    let books = open(&path, Arc::new(copy));
    let wrong = spent(&books).await;
    assert!(books.void("ada", &wrong).await.unwrap().recorded);
    assert_right(&books).await;

    for _ in 0..2 {
        let books = open(&killed, Arc::new(|| panic!("it is taken back already")));
        assert_right(&books).await;
        assert!(!books.void("ada", &wrong).await.unwrap().recorded);
        assert_right(&books).await;
        drop(books);
        assert_sound_at(&killed, time(NOON));
    }
}

#[tokio::test]
async fn a_void_that_failed_before_it_counted_again_is_right_when_it_is_tried_again() {
    let (path, away) = (file::fresh(), file::fresh());
    let (from, to) = (path.clone(), away.clone());
    let moved = Arc::new(AtomicBool::new(false));
    let moves = Arc::clone(&moved);
    let books = open(
        &path,
        Arc::new(move || {
            moves.store(true, Ordering::SeqCst);
            std::fs::rename(&from, &to).unwrap();
        }),
    );
    let wrong = spent(&books).await;
    let error = books.void("ada", &wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(moved.load(Ordering::SeqCst));
    std::fs::rename(&away, &path).unwrap();
    for _ in 0..2 {
        assert!(!books.void("ada", &wrong).await.unwrap().recorded);
        assert_right(&books).await;
    }
    drop(books);
    assert_sound_at(&path, time(NOON));
    assert_right(&open(&path, Arc::new(|| ()))).await;
}
