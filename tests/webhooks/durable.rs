//! Nothing is lost with its process, and nothing told under two ids.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use http::StatusCode;
use tower_limitry::Books;
use tower_limitry::engine::ManualClock;
use tower_limitry::store::Sqlite;
use tower_limitry::webhooks::Webhooks;

use crate::support::*;

#[tokio::test]
async fn what_waits_is_sent_by_the_next_process_under_its_id() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
    let endpoint = Endpoint::answering(|_| StatusCode::BAD_GATEWAY).await;
    let start = || hooks(&folder, &clock, &[&endpoint]);
    let webhooks = start().start().unwrap();
    let books = alerting(&clock, &webhooks);
    use_up(&books, "acct_42", 80).await;
    let first = endpoint.hears(1).await.remove(0);
    webhooks.flush(STUCK).await.unwrap();
    drop((webhooks, books));

    endpoint.answer(|_| StatusCode::OK);
    let webhooks = again(start).await;
    clock.advance(std::time::Duration::from_secs(6));
    let second = endpoint.hears(2).await.remove(1);
    assert_eq!((second.id(), &second.body), (first.id(), &first.body));
    assert!(second.timestamp() > first.timestamp());
    webhooks.flush(STUCK).await.unwrap();
    assert_eq!(webhooks.stats().unwrap().waiting, 0);
}

/// The process ended after the use was counted and before the hook was called.
#[tokio::test]
async fn a_crossing_that_was_counted_and_not_told_is_told_after_the_restart_and_only_once() {
    let (folder, clock, endpoint) = (Folder::new(), ManualClock::at(NOON), Endpoint::start().await);
    let store = || Sqlite::options().open(folder.books()).unwrap();
    let books = engine(&clock).build_on(store()).unwrap().erased();
    use_up(&books, "acct_42", 80).await;
    close(books).await;

    let start = || hooks(&folder, &clock, &[&endpoint]);
    for restart in 0..3 {
        let webhooks = again(start).await;
        let alerting = engine(&clock).on_alert(webhooks.hook()).alert_again_after_restart();
        let books = alerting.build_on(store()).unwrap().erased();
        webhooks.flush(STUCK).await.unwrap();
        let [heard] = &endpoint.heard()[..] else { panic!("told once, in restart {restart}") };
        let data = &heard.json()["data"];
        assert_eq!((&data["threshold"], &data["currentUsage"]), (&75.into(), &80.into()));
        assert_eq!(data["windowEnd"], "2026-03-02T00:00:00Z");
        close(books).await;
    }
}

#[tokio::test]
async fn crossings_of_windows_that_have_ended_are_not_told_again() {
    let (folder, clock, endpoint) = (Folder::new(), ManualClock::at(NOON), Endpoint::start().await);
    let store = || Sqlite::options().open(folder.books()).unwrap();
    let books = engine(&clock).build_on(store()).unwrap().erased();
    use_up(&books, "acct_42", 80).await;
    close(books).await;
    clock.advance(std::time::Duration::from_secs(24 * 3_600));
    let webhooks = hooks(&folder, &clock, &[&endpoint]).start().unwrap();
    let alerting = engine(&clock).on_alert(webhooks.hook()).alert_again_after_restart();
    let books = alerting.build_on(store()).unwrap().erased();
    webhooks.flush(STUCK).await.unwrap();
    assert!(endpoint.heard().is_empty());
    close(books).await;
}

/// Until the file is free for the next process.
async fn close(books: Books) {
    books.shutdown(STUCK).await.unwrap();
}

/// Kill -9 at any moment: every crossing whose use was acknowledged is told, each under one id.
#[tokio::test]
async fn killed_processes_lose_no_crossing_and_tell_none_under_a_second_id() {
    if let Some(folder) = std::env::var_os("WEBHOOKS_CHILD") {
        return cross_limits(Path::new(&folder)).await;
    }
    let is_long = std::env::var_os("LIMITRY_LONG").is_some_and(|value| value != "0");
    let kills = if is_long { 300 } else { 12 };
    let folder = Folder::new();
    // Half of the requests are heard, and answered as if they were not.
    let endpoint = Endpoint::answering(|nth| match nth % 2 {
        0 => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::OK,
    })
    .await;
    let mut acknowledged = BTreeSet::new();
    for round in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "durable::killed_processes_lose_no_crossing_and_tell_none_under_a_second_id",
            ])
            .arg("--nocapture")
            .env("WEBHOOKS_CHILD", folder.file())
            .env("WEBHOOKS_ROUND", round.to_string())
            .env("WEBHOOKS_URL", endpoint.url())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Somewhere between the first and the fortieth, whatever it is doing then.
        let before_it_ends = 1 + (round * 7) % 40;
        let told = tokio::task::spawn_blocking(move || {
            let told = lines.map_while(Result::ok).filter_map(|line| {
                let (_, told) = line.split_once("counted ")?;
                Some(told.to_owned())
            });
            let told: Vec<_> = told.take(before_it_ends).collect();
            child.kill().unwrap();
            child.wait().unwrap();
            told
        });
        acknowledged.extend(told.await.unwrap());
    }
    assert!(acknowledged.len() >= kills);

    // One more process sends what is left.
    endpoint.answer(|_| StatusCode::OK);
    let clock = ManualClock::at("2100-01-01T00:00:00Z");
    let webhooks = again(|| hooks(&folder, &clock, &[&endpoint])).await;
    until(|| webhooks.stats().unwrap().waiting == 0).await;
    let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for heard in endpoint.heard() {
        let data = &heard.json()["data"];
        let crossing = format!("{} {}", data["customerId"].as_str().unwrap(), data["threshold"]);
        ids.entry(crossing).or_default().insert(heard.id());
    }
    for crossing in &acknowledged {
        assert!(ids.contains_key(crossing), "{crossing} was never told");
    }
    for (crossing, ids) in ids {
        assert_eq!(ids.len(), 1, "{crossing} under {ids:?}");
    }
}

/// Part of that test, as a program of its own that somebody will kill.
async fn cross_limits(file: &Path) {
    let round = std::env::var("WEBHOOKS_ROUND").unwrap();
    let webhooks = Webhooks::open(file)
        .danger_allow_http_and_private_addresses()
        .endpoint(std::env::var("WEBHOOKS_URL").unwrap(), SECRET)
        .start()
        .unwrap();
    let books = alerting(&ManualClock::at(NOON), &webhooks);
    for customer in 0..100_000 {
        let customer = format!("acct_{round}_{customer}");
        use_up(&books, &customer, 120).await;
        println!("counted {customer} 75\ncounted {customer} 100");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn of_what_nobody_is_to_hear_any_more_only_the_id_is_kept() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
    let endpoint = Endpoint::answering(|nth| match nth {
        0 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::GONE,
    })
    .await;
    let webhooks = hooks(&folder, &clock, &[&endpoint]).start().unwrap();
    let books = alerting(&clock, &webhooks);
    use_up(&books, "acct_waiting", 80).await;
    endpoint.hears(1).await;
    webhooks.flush(STUCK).await.unwrap();
    use_up(&books, "acct_gone", 80).await;
    endpoint.hears(2).await;
    until(|| webhooks.stats().unwrap().disabled == 1).await;
    use_up(&books, "acct_afterwards", 80).await;
    webhooks.flush(STUCK).await.unwrap();
    drop((webhooks, books));
    // Who opens the file next finds it closed.
    drop(again(|| hooks(&folder, &clock, &[&endpoint])).await);

    let told = || {
        let file = rusqlite::Connection::open(folder.file())?;
        file.query_row("SELECT count(*), sum(length(body)) FROM crossing", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })
    };
    until(|| told().is_ok()).await;
    assert_eq!(told().unwrap(), (3, 0), "crossings, and bytes of customers' data");
}
