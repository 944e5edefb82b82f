//! Bounds, and what is refused from the start.

use std::time::Duration;

use http::StatusCode;
use tower_limitry::ErrorKind;
use tower_limitry::engine::ManualClock;
use tower_limitry::webhooks::Webhooks;

use crate::support::*;

#[tokio::test]
async fn a_crossing_without_room_is_dropped_and_counted_and_what_waits_is_kept() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
    let endpoint = Endpoint::answering(|_| StatusCode::BAD_GATEWAY).await;
    let webhooks = hooks(&folder, &clock, &[&endpoint]).capacity(3).start().unwrap();
    let books = alerting(&clock, &webhooks);
    for customer in 0..5 {
        use_up(&books, &format!("acct_{customer}"), 80).await;
    }
    webhooks.flush(STUCK).await.unwrap();
    let stats = webhooks.stats().unwrap();
    assert_eq!((stats.waiting, stats.dropped, stats.is_failing), (3, 2, false));

    endpoint.answer(|_| StatusCode::OK);
    clock.advance(std::time::Duration::from_secs(60));
    until(|| webhooks.stats().unwrap().waiting == 0).await;
    let mut told: Vec<String> = endpoint
        .heard()
        .iter()
        .map(|heard| heard.json()["data"]["customerId"].to_string())
        .collect();
    told.sort();
    told.dedup();
    assert_eq!(told, ["\"acct_0\"", "\"acct_1\"", "\"acct_2\""]);

    use_up(&books, "acct_9", 80).await;
    webhooks.flush(STUCK).await.unwrap();
    assert_eq!(webhooks.stats().unwrap().dropped, 2, "there is room again");
}

/// An endpoint that is dead for good: what is kept for it is bounded, and the newest stay.
#[tokio::test]
async fn of_those_that_were_given_up_the_oldest_are_forgotten_and_counted() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
    let endpoint = Endpoint::answering(|_| StatusCode::BAD_GATEWAY).await;
    let hooks = |most| hooks(&folder, &clock, &[&endpoint]).keep_given_up(most);
    let webhooks = hooks(3).start().unwrap();
    let books = alerting(&clock, &webhooks);
    for customer in 0..5 {
        use_up(&books, &format!("acct_{customer}"), 80).await;
        for attempt in 1..=10 {
            endpoint.hears(10 * customer + attempt).await;
            webhooks.flush(STUCK).await.unwrap();
            clock.advance(Duration::from_secs(30 * 3_600));
        }
    }
    let stats = webhooks.stats().unwrap();
    assert_eq!((stats.waiting, stats.given_up, stats.forgotten), (0, 3, 2));
    drop((books, webhooks));

    let webhooks = again(|| hooks(2)).await;
    let stats = webhooks.stats().unwrap();
    assert_eq!((stats.waiting, stats.given_up, stats.forgotten), (0, 2, 1), "also of before");
    endpoint.answer(|_| StatusCode::OK);
    assert_eq!(webhooks.retry_given_up().unwrap(), 2);
    let mut told: Vec<String> = endpoint.hears(52).await[50..]
        .iter()
        .map(|heard| heard.json()["data"]["customerId"].to_string())
        .collect();
    told.sort();
    assert_eq!(told, ["\"acct_3\"", "\"acct_4\""]);
    webhooks.flush(STUCK).await.unwrap();
    drop(webhooks);
    // What customers used is not kept either. Those before let go of the file by and by.
    until(|| {
        let file = rusqlite::Connection::open(folder.file()).unwrap();
        file.busy_timeout(Duration::ZERO).unwrap();
        let kept = "SELECT count(*) FROM crossing WHERE body <> ''";
        file.query_row(kept, [], |row| row.get(0)) == Ok(0)
    })
    .await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_no_secret_repeated() {
    let folder = Folder::new();
    let start = |url: &str, secret: &str| {
        let builder = Webhooks::open(folder.file()).endpoint(url, secret);
        assert!(!format!("{builder:?}").contains("hidden"));
        let error = builder.start().unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hidden"), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url} {secret}");
    };
    let sound = "https://example.com/hidden";
    for secret in [
        "",
        " ",
        "hidden",
        "whsec_",
        "whsec_hidden!",
        "whsec_aGlkZGVu",
        "WHSEC_hidden",
        &format!("whsec_{}", "hidden++".repeat(11)),
        &format!("{SECRET} hidden"),
    ] {
        start(sound, secret);
    }
    for url in ["", "hidden", "http://example.com/hidden", "https://10.0.0.1/hidden"] {
        start(url, SECRET);
    }
    let nobody = Webhooks::open(folder.file()).start().unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::Invalid);
    let twice = Webhooks::open(folder.file()).endpoint(sound, SECRET).endpoint(sound, SECRET);
    assert_eq!(twice.start().unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_file_of_something_else_is_left_alone() {
    let (folder, clock, endpoint) = (Folder::new(), ManualClock::at(NOON), Endpoint::start().await);
    let other = rusqlite::Connection::open(folder.file()).unwrap();
    other.execute_batch("CREATE TABLE mine (a); INSERT INTO mine VALUES (7)").unwrap();
    drop(other);
    let error = hooks(&folder, &clock, &[&endpoint]).start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let other = rusqlite::Connection::open(folder.file()).unwrap();
    let kept: i64 = other.query_row("SELECT a FROM mine", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 7);
    std::fs::write(folder.books(), "no database at all, but long enough to be looked at").unwrap();
    let builder = Webhooks::open(folder.books()).endpoint("https://example.com", SECRET);
    assert_eq!(builder.start().unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_file_belongs_to_one_process_at_a_time() {
    let (folder, clock, endpoint) = (Folder::new(), ManualClock::at(NOON), Endpoint::start().await);
    let _first = hooks(&folder, &clock, &[&endpoint]).start().unwrap();
    let error = hooks(&folder, &clock, &[&endpoint]).start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}

/// As in a deployment, where the new process starts before the old one has ended.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_file_may_be_waited_for() {
    let (folder, clock, endpoint) = (Folder::new(), ManualClock::at(NOON), Endpoint::start().await);
    let first = hooks(&folder, &clock, &[&endpoint]).start().unwrap();
    let second = hooks(&folder, &clock, &[&endpoint]).open_wait(STUCK);
    let second = tokio::task::spawn_blocking(|| second.start());
    let handles = || {
        let handles = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let paths = handles.filter_map(|handle| handle.path().read_link().ok());
        paths.filter(|path| *path == folder.file()).count()
    };
    until(|| handles() == 2 || second.is_finished()).await;
    drop(first);
    let second = second.await.unwrap().unwrap();
    use_up(&alerting(&clock, &second), "acct_1", 80).await;
    endpoint.hears(1).await;
}

#[test]
fn webhooks_are_started_inside_tokio() {
    let folder = Folder::new();
    let builder = Webhooks::open(folder.file()).endpoint("https://example.com", SECRET);
    assert_eq!(builder.start().unwrap_err().kind(), ErrorKind::Invalid);
}
