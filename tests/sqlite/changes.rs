//! Changes of definitions on a file that fails meanwhile, and what of them outlives a restart.

use tower_limitry::backend::Customer;
use tower_limitry::store::Sqlite;
use tower_limitry::{Books, Check, ErrorKind, Event, Limit, Meter};

use crate::file;
use crate::support::*;

fn open(path: &std::path::Path) -> Books {
    hundred_a_day(&noon()).build_on(Sqlite::open(path).unwrap()).unwrap().erased()
}

/// Lets nothing be written to a table, until it is dropped.
struct Refused(rusqlite::Connection);

impl Refused {
    fn at(path: &std::path::Path, table: &str) -> Self {
        let other = rusqlite::Connection::open(path).unwrap();
        other.busy_timeout(MINUTE).unwrap();
        let sql = format!(
            "CREATE TRIGGER no BEFORE INSERT ON {table} BEGIN SELECT raise(ABORT, 'no'); END"
        );
        other.execute_batch(&sql).unwrap();
        Self(other)
    }
}

impl Drop for Refused {
    fn drop(&mut self) {
        self.0.execute_batch("DROP TRIGGER no").unwrap();
    }
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Added,
    AnotherPeriod,
    AnotherMeter,
    Raised,
    Own,
}

impl Change {
    async fn make(self, books: &Books) -> Result<(), tower_limitry::Error> {
        let daily = |cap: u32| Limit::per_day("daily", "tokens", cap);
        match self {
            Self::Added => books.put_limit(Limit::per_hour("hourly", "tokens", 500)).await,
            Self::AnotherPeriod => books.put_limit(Limit::per_month("daily", "tokens", 500)).await,
            Self::AnotherMeter => {
                books.put_meter(Meter::sum("tokens", "total_tokens").event_type("chat")).await
            }
            Self::Raised => books.put_limit(daily(500)).await,
            Self::Own => {
                books.put_limit(Limit::per_week("own", "tokens", 500).for_customer("ada")).await
            }
        }
    }
}

/// It is as it was, and exact: what is settled meanwhile counts where it would have.
#[tokio::test]
async fn a_change_that_cannot_be_kept_or_counted_is_not_made() {
    use Change::{Added, AnotherMeter, AnotherPeriod, Own, Raised};
    for change in [Added, AnotherPeriod, AnotherMeter, Raised, Own] {
        let path = file::fresh();
        let books = open(&path);
        let event = |tokens: u32| Event::new("ada", "chat", total(tokens)).at(time(NOON));
        books.record(event(30)).await.unwrap();
        let running = admitted(&books, Check::of("ada").event_type("chat")).await;
        let table = if matches!(change, Raised) { "definition" } else { "counter" };
        let refused = Refused::at(&path, table);
        let error = change.make(&books).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{change:?}");

        let settling = running.settle(total(5));
        let seen = books.usage("ada").await.unwrap();
        let seen: Vec<_> = seen.limits().map(Seen::from).collect();
        assert_eq!(seen.len(), 1, "{change:?}");
        let daily = Seen { used: amount(35), cap: amount(100), complete: true, ..seen[0].clone() };
        assert_eq!(seen[0], daily, "{change:?}");
        assert_eq!(books.limits().await.unwrap(), [Limit::per_day("daily", "tokens", 100)]);

        drop(refused);
        settling.await.unwrap();
        assert_eq!(standing(&books, "ada", "daily").await, daily, "{change:?}");
        drop(books);
        let books = open(&path);
        assert_eq!(standing(&books, "ada", "daily").await, daily, "{change:?}");
        assert_eq!(books.limits().await.unwrap().len(), 1, "{change:?}");

        // Nothing is left of it that stands in its way.
        change.make(&books).await.unwrap();
        books.record(event(1)).await.unwrap();
        for limit in books.usage("ada").await.unwrap().limits() {
            assert_eq!((limit.used(), limit.is_complete()), (amount(36), true), "{change:?}");
        }
        drop(books);
        crate::assert_sound_at(&path, time(NOON));
    }
}

/// Which events were taken back is looked up first, and nobody waits for that while the file fails.
#[tokio::test]
async fn a_limit_on_the_highest_that_cannot_be_kept_is_told_at_once() {
    let path = file::fresh();
    let books = open(&path);
    books.put_meter(Meter::max("peak", "total_tokens")).await.unwrap();
    books.record(Event::new("ada", "chat", total(30)).at(time(NOON))).await.unwrap();
    let running = admitted(&books, Check::of("ada")).await;
    let refused = Refused::at(&path, "counter");
    let peak = || books.put_limit(Limit::per_day("peak", "peak", 500));
    let told = tokio::time::timeout(MINUTE / 4, peak()).await.expect("it is told");
    assert_eq!(told.unwrap_err().kind(), ErrorKind::Unavailable);
    drop(refused);
    running.settle(total(40)).await.unwrap();
    peak().await.unwrap();
    assert_eq!(used(&books, "ada", "peak").await, amount(40));
}

/// Their days are as they were. What was settled in days that were not theirs is counted again once
/// the file can be written, and until then it is said that it may be missing.
#[tokio::test]
async fn a_zone_that_cannot_be_kept_is_not_taken() {
    let path = file::fresh();
    let books = open(&path);
    let early = time("2026-03-01T00:30:00Z");
    books.record(Event::new("ada", "chat", total(30)).at(early)).await.unwrap();
    let running = admitted(&books, Check::of("ada")).await;
    let before = standing(&books, "ada", "daily").await;
    let refused = Refused::at(&path, "counted");
    let new_york = || Customer::new("ada").zone("America/New_York");
    let error = books.put_customer(new_york()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(books.customer("ada").await.unwrap(), None);
    let seen = standing(&books, "ada", "daily").await;
    assert_eq!((seen.reset, seen.complete), (before.reset, false));
    assert!(standing(&books, "bob", "daily").await.complete);
    let settling = running.settle(total(5));
    drop(refused);
    settling.await.unwrap();
    let since = std::time::Instant::now();
    while !standing(&books, "ada", "daily").await.complete {
        assert!(since.elapsed() < MINUTE, "it is not counted again");
        tokio::task::yield_now().await;
    }
    assert_eq!(used(&books, "ada", "daily").await, amount(35));

    books.put_customer(new_york()).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(5));
    drop(books);
    crate::assert_sound_at(&path, time(NOON));
    assert_eq!(used(&open(&path), "ada", "daily").await, amount(5));
}

#[tokio::test]
async fn that_moved_windows_are_not_complete_outlives_a_restart() {
    let (clock, path) = (noon(), file::fresh());
    let open = || {
        let store = Sqlite::options().keep_events_for(7 * DAY).open(&path).unwrap();
        let builder = hundred_a_day(&clock).limit(Limit::per_month("monthly", "tokens", 1_000));
        builder.build_on(store).unwrap().erased()
    };
    let books = open();
    for name in ["ada", "bob"] {
        books.record(Event::new(name, "chat", total(5)).at(time(NOON))).await.unwrap();
    }
    clock.advance(8 * DAY);
    drop(books);
    let books = open();
    books
        .record(Event::new("ada", "chat", total(7)).at(time("2026-03-09T12:00:00Z")))
        .await
        .unwrap();
    crate::keeping::until_kept(&books, 1).await;
    books.put_customer(Customer::new("ada").zone("America/New_York")).await.unwrap();
    let seen = async |books: &Books, name: &str, limit: &str| {
        let seen = standing(books, name, limit).await;
        (seen.used, seen.complete)
    };
    for _ in 0..2 {
        assert_eq!(seen(&books, "ada", "monthly").await, (amount(7), false));
        assert_eq!(seen(&books, "ada", "daily").await, (amount(7), true));
        assert_eq!(seen(&books, "bob", "monthly").await, (amount(5), true));
    }
    drop(books);
    let books = open();
    assert_eq!(seen(&books, "ada", "monthly").await, (amount(7), false));
    assert_eq!(seen(&books, "ada", "daily").await, (amount(7), true));
    assert_eq!(seen(&books, "bob", "monthly").await, (amount(5), true));
    // In the next month all is known again.
    clock.set(time("2026-04-02T12:00:00Z"));
    assert_eq!(seen(&books, "ada", "monthly").await, (amount(0), true));
}
