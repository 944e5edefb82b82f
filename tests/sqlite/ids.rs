//! Ids that come twice by different ways: the file takes none twice, and nothing that is counted
//! stops the writer.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use tower_limitry::store::Sqlite;
use tower_limitry::{Books, Check, Event};

use crate::support::*;
use crate::{assert_sound_at, file};

fn open(path: &std::path::Path) -> Books {
    hundred_a_day(&noon()).build_on(Sqlite::open(path).unwrap()).unwrap().erased()
}

fn event(id: &str, tokens: u32) -> Event {
    Event::new("ada", "chat", total(tokens)).id(id).at(time(NOON))
}

/// The id of a request is in its answer, and comes back with what is learnt of it elsewhere.
#[tokio::test]
async fn a_use_recorded_under_the_id_of_a_running_request_is_counted_once() {
    let path = file::fresh();
    let books = open(&path);
    let permit = admitted(&books, ask("ada", 9)).await;
    let id = permit.id().unwrap().to_string();
    assert!(books.record(event(&id, 5)).await.unwrap().recorded);
    soon(permit.settle(total(7))).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(5));
    assert_eq!(books.open_holds().await.unwrap(), 0);
    spend(&books, "ada", 1).await;
    drop(books);
    assert_sound_at(&path, time(NOON));
    assert_eq!(used(&open(&path), "ada", "daily").await, amount(6));
}

#[tokio::test]
async fn a_use_recorded_under_the_id_of_a_request_that_waits_for_the_file_is_counted_once() {
    let path = file::fresh();
    let books = open(&path);
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let permit = admitted(&books, Check::of("ada")).await;
    let id = permit.id().unwrap().to_string();
    let mut settling = pin!(permit.settle(total(7)));
    assert!(waits(settling.as_mut()).await);
    let mut recording = pin!(books.record(event(&id, 5)));
    assert!(waits(recording.as_mut()).await);
    other.execute_batch("ROLLBACK").unwrap();
    soon(settling).await.unwrap();
    assert!(!soon(recording).await.unwrap().recorded);
    assert_eq!(used(&books, "ada", "daily").await, amount(7));
    assert_sound_at(&path, time(NOON));
}

async fn waits(mut answer: Pin<&mut impl Future>) -> bool {
    poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx).is_pending())).await
}

async fn soon<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(MINUTE / 2, answer).await.expect("the writer goes on")
}

/// What takes an event back has the id of that event, and is found by it.
#[tokio::test]
async fn an_id_of_what_takes_back_is_not_taken_for_a_use() {
    let books = open(&file::fresh());
    books.record(event("row-1", 5)).await.unwrap();
    let error = books.record(event("void:row-1", 5)).await.unwrap_err();
    assert_invalid(&error, &["events[0].id", "void:", "begin it otherwise"]);
    let error = failed(&books, Check::of("ada").id("void:row-1")).await;
    assert_invalid(&error, &["id", "void:"]);
    assert!(books.void("ada", &"row-1".parse().unwrap()).await.unwrap().recorded);
    assert_eq!(used(&books, "ada", "daily").await, amount(0));
}
