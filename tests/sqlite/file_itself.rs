//! The file: whose it is, who may write it, what it says to others.

use std::time::Duration;

use tower_limitry::backend::{MeterQuery, Permit};
use tower_limitry::policy::Credit;
use tower_limitry::store::sqlite::{Sqlite, backup, verify};
use tower_limitry::{Check, ErrorKind, Event, NewBalance};

use crate::file;
use crate::support::*;

#[test]
fn a_second_process_is_told_that_the_file_is_in_use() {
    let path = file::fresh();
    let first = Sqlite::open(&path).unwrap();
    let error = Sqlite::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_names(&error, &["in use by another process", "open_wait"]);
    let short = Sqlite::options().open_wait(Duration::from_millis(1)).open(&path).unwrap_err();
    assert_eq!(short.kind(), ErrorKind::Conflict);
    drop(first);
    Sqlite::open(&path).unwrap();
}

#[test]
fn a_second_process_may_wait_its_turn() {
    let path = file::fresh();
    let first = Sqlite::open(&path).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| Sqlite::options().open_wait(MINUTE).open(&path));
        drop(first);
        second.join().unwrap().unwrap();
    });
}

#[test]
fn a_file_of_the_future_is_refused_and_left_as_it_is() {
    let path = file::fresh();
    drop(Sqlite::open(&path).unwrap());
    let change = rusqlite::Connection::open(&path).unwrap();
    change.execute_batch("PRAGMA user_version = 7; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    change.close().unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = Sqlite::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_names(&error, &["format 7", "newer than this release"]);
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_of_somebody_else_is_refused_and_left_as_it_is() {
    let text = file::fresh();
    std::fs::write(&text, "dear diary, ".repeat(20)).unwrap();
    let short = file::fresh();
    std::fs::write(&short, "dear").unwrap();
    let other = file::fresh();
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE diary (day)").unwrap();
    for path in [text, short, other] {
        let before = std::fs::read(&path).unwrap();
        let error = Sqlite::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
        assert_names(&error, &["holds no books of this crate"]);
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
    let nowhere = file::fresh().join("usage.db");
    assert_eq!(Sqlite::open(nowhere).unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_url_names_the_file() {
    let path = file::fresh();
    let url = format!("sqlite:{}", path.display());
    let books = hundred_a_day(&noon()).open(&url).unwrap();
    spend(&books, "ada", 5).await;
    let error = hundred_a_day(&noon()).open(&url).unwrap_err();
    assert_names(&error, &["backend", "in use by another process"]);
    drop(books);
    let books = hundred_a_day(&noon()).open(&url).unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(5));
    let error = hundred_a_day(&noon()).open("sqlite:").unwrap_err();
    assert_names(&error, &["backend URL", "sqlite:PATH"]);
}

#[tokio::test]
async fn the_file_answers_the_questions_of_its_guide() {
    let path = file::fresh();
    let builder = tokens(&noon()).default_balance(NewBalance::new("AI Credits").initial(100));
    let books = builder.build_on(Sqlite::open(&path).unwrap()).unwrap().erased();
    let event = |customer: &str, tokens: u32, at: &str| {
        Event::new(customer, "chat", total(tokens)).at(time(at))
    };
    let events = [("acct_42", 5, NOON), ("bob", 9, NOON), ("acct_42", 7, "2026-02-28T12:00:00Z")];
    for (customer, tokens, at) in events {
        books.record(event(customer, tokens, at)).await.unwrap();
    }
    let charged = Check::of("acct_42").charge("AI Credits", |usage| usage.value("total_tokens"));
    let settle = |permit: Permit<_>| permit.settle(total(3).dimension("request_id", "req-7"));
    settle(admitted(&books, charged).await).await.unwrap();
    books.credit(Credit::new("acct_42", "AI Credits", 10).description("top-up")).await.unwrap();

    let guide = include_str!("../../src/store/sqlite/mod.rs");
    let queries: String = guide
        .lines()
        .map(|line| line.trim_start_matches("//!"))
        .skip_while(|line| *line != " ```sql")
        .skip(1)
        .take_while(|line| *line != " ```")
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect::<Vec<_>>()
        .join("\n");
    let file = rusqlite::Connection::open(&path).unwrap();
    let answers: Vec<Vec<String>> = queries
        .split_terminator(';')
        .map(|query| {
            let mut query = file.prepare(query).unwrap();
            let columns = query.column_count().min(3);
            let row = |row: &rusqlite::Row<'_>| {
                let cells: Result<Vec<_>, _> = (0..columns)
                    .map(|at| row.get::<_, rusqlite::types::Value>(at).map(shown))
                    .collect();
                Ok(cells?.join("|"))
            };
            query.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap()
        })
        .collect();
    assert_eq!(
        answers,
        [
            vec!["acct_42|2026-02-28|7", "acct_42|2026-03-01|8", "bob|2026-03-01|9"],
            vec!["acct_42|15", "bob|9"],
            vec!["2026-03-01 12:00:00|debit|3.0", "2026-03-01 12:00:00|credit|10.0"],
        ]
    );
    let explained: String = crate::asked(
        &path,
        "SELECT group_concat(concat_ws(' ', type, amount, event_type, used, request_id), ', ') \
         FROM (SELECT * FROM audit ORDER BY sequence)",
    );
    assert_eq!(explained, "debit 3.0 request {\"total_tokens\":3} req-7, credit 10.0");
    let all = books.query(MeterQuery::new("tokens")).await.unwrap();
    assert_eq!((all.value, all.complete), (amount(24), true));
}

fn shown(value: rusqlite::types::Value) -> String {
    use rusqlite::types::Value;
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => format!("{number:?}"),
        Value::Text(text) => text,
        other => format!("{other:?}"),
    }
}

/// Closing any handle of a file drops the locks that the process has on it; then whoever closes it
/// in another process believes to be the last, and removes the log.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_looks_at_a_file_in_use_leaves_its_locks_alone() {
    use std::os::unix::fs::MetadataExt;
    let (path, copy) = (file::fresh(), file::fresh());
    let books = hundred_a_day(&noon()).build_on(Sqlite::open(&path).unwrap()).unwrap().erased();
    spend(&books, "ada", 5).await;
    let file = format!(":{} ", path.metadata().unwrap().ino());
    let is_locked = || std::fs::read_to_string("/proc/locks").unwrap().contains(&file);
    assert!(is_locked());
    backup(&path, &copy).unwrap();
    assert!(is_locked());
    verify(&path, time(NOON)).unwrap();
    assert!(is_locked());
    Sqlite::open(&path).unwrap_err();
    assert!(is_locked());
}

/// What happens while the file is away is not taken for new, and no other file is begun in its place.
#[tokio::test]
async fn a_file_that_was_moved_away_is_missed_and_welcome_back() {
    let (clock, path, away) = (noon(), file::fresh(), file::fresh());
    let open = || {
        let builder = hundred_a_day(&clock).default_balance(NewBalance::new("credits").initial(9));
        builder.build_on(Sqlite::open(&path).unwrap()).unwrap().erased()
    };
    let event = || Event::new("ada", "chat", total(5)).id("row-1").at(time(NOON));
    let credit = || Credit::new("ada", "credits", 1).reference("payment");
    let books = open();
    books.record(event()).await.unwrap();
    books.credit(credit()).await.unwrap();
    drop(books);
    let books = open();
    for ending in ["", "-wal", "-shm"] {
        let of = |path: &std::path::Path| format!("{}{ending}", path.display());
        std::fs::rename(of(&path), of(&away)).unwrap();
    }
    let unavailable = ErrorKind::Unavailable;
    assert_eq!(books.record(event()).await.unwrap_err().kind(), unavailable);
    assert_eq!(books.credit(credit()).await.unwrap_err().kind(), unavailable);
    assert_eq!(failed(&books, ask("ada", 1).id("row-1")).await.kind(), unavailable);
    // A group that cannot be written: the file is opened anew.
    let other = rusqlite::Connection::open(&away).unwrap();
    let refuse = "CREATE TRIGGER no BEFORE INSERT ON event BEGIN SELECT raise(ABORT, 'no'); END";
    other.execute_batch(refuse).unwrap();
    let settle = admitted(&books, Check::of("ada")).await.settle(total(7));
    let mut settling = std::pin::pin!(settle);
    let soon = tokio::time::timeout(Duration::from_millis(100), &mut settling).await;
    assert!(soon.is_err() && !path.exists());
    other.execute_batch("DROP TRIGGER no; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    other.close().unwrap();
    for ending in ["-wal", "-shm", ""] {
        let of = |path: &std::path::Path| format!("{}{ending}", path.display());
        let _it_may_be_gone = std::fs::rename(of(&away), of(&path));
    }
    settling.await.unwrap();
    assert!(!books.record(event()).await.unwrap().recorded);
    assert!(!books.credit(credit()).await.unwrap().applied);
    drop(books);
    assert_eq!(used(&open(), "ada", "daily").await, amount(12));
}

#[tokio::test]
async fn a_path_is_a_path_whatever_is_in_it() {
    let folder = file::fresh();
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("file:a b%20c?mode=memory&x=1#é'\".db");
    let copy = folder.join("copy's \"of\" it?.db");
    let books = hundred_a_day(&noon()).open(&format!("sqlite:{}", path.display())).unwrap();
    spend(&books, "ada", 5).await;
    backup(&path, &copy).unwrap();
    drop(books);
    for path in [&path, &copy] {
        assert_eq!(verify(path, time(NOON)).unwrap().found, []);
        let store = Sqlite::open(path).unwrap();
        let books = hundred_a_day(&noon()).build_on(store).unwrap().erased();
        assert_eq!(used(&books, "ada", "daily").await, amount(5));
    }
    let mut names: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 4, "{names:?}");
}

/// A folder in which not even root may write.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_cannot_be_written_is_told() {
    let error = Sqlite::open("/proc/usage.db").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_names(&error, &["cannot be read or written"]);
    let error = hundred_a_day(&noon()).open("sqlite:/proc/usage.db").unwrap_err();
    assert_names(&error, &["backend", "cannot be read or written", "os error"]);
}

/// Between memory, which forgets it after ten minutes, and the file, which does not have it yet.
#[tokio::test]
async fn an_id_is_known_while_its_event_waits_for_the_file() {
    let (clock, path) = (noon(), file::fresh());
    let books = hundred_a_day(&clock).build_on(Sqlite::open(&path).unwrap()).unwrap().erased();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let order = || Check::of("ada").id("order-1");
    let settling = admitted(&books, order()).await.settle(total(5));
    clock.advance(11 * MINUTE);
    // Memory lets go of what is old when it learns of something new.
    drop(admitted(&books, Check::of("ada").id("order-2")).await.settle(total(1)));
    assert!(admitted(&books, order()).await.was_settled());
    other.execute_batch("ROLLBACK").unwrap();
    settling.await.unwrap();
    assert!(admitted(&books, order()).await.was_settled());
    assert_eq!(used(&books, "ada", "daily").await, amount(6));
}
