//! Shutting down, and waiting for what runs.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tower_limitry::ErrorKind;

use crate::support::*;

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

pub(crate) async fn settled_waits_for_the_last_request(open: Open) {
    let books = open(hundred_a_day(&noon()));
    books.settled().await.unwrap();
    let (one, two) = (admitted(&books, ask("ada", 1)).await, admitted(&books, ask("bob", 1)).await);
    assert_eq!(books.open_holds().await.unwrap(), 2);
    let mut waiting = pin!(books.settled());
    assert!(poll(waiting.as_mut()).is_pending());
    one.settle(total(1)).await.unwrap();
    assert!(poll(waiting.as_mut()).is_pending());
    drop(two);
    waiting.await.unwrap();
    assert_eq!(books.open_holds().await.unwrap(), 0);
    // It is no shutdown: new ones may come.
    admitted(&books, ask("ada", 1)).await.release().await.unwrap();
}

pub(crate) async fn shutdown_takes_nothing_new_and_waits_for_what_runs(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let permit = admitted(&books, ask("ada", 60)).await;
    let closing = books.clone();
    let mut shutdown = pin!(closing.shutdown(MINUTE));
    assert!(poll(shutdown.as_mut()).is_pending());
    let error = failed(&books, ask("bob", 1)).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_transient());
    assert_names(&error, &["closed"]);
    permit.settle(total(70)).await.unwrap();
    shutdown.await.unwrap();
    assert_eq!(used_held(&books, "ada", "daily").await, (amount(70), amount(0)));
    assert_eq!(used_held(&books, "bob", "daily").await, (amount(0), amount(0)));
}

pub(crate) async fn shutdown_says_so_when_requests_run_on(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let permit = admitted(&books, ask("ada", 60)).await;
    let error = books.shutdown(Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_names(&error, &["1 requests still run"]);
    // They may still settle, and then it is done.
    permit.settle(total(60)).await.unwrap();
    assert_eq!(used(&books, "ada", "daily").await, amount(60));
    books.shutdown(MINUTE).await.unwrap();
}

pub(crate) async fn shutdown_does_not_wait_for_holds_that_ended(open: Open) {
    let clock = noon();
    let books = open(hundred_a_day(&clock));
    let _permit = admitted(&books, ask("ada", 60).hold_for(MINUTE)).await;
    clock.advance(MINUTE);
    books.shutdown(MINUTE).await.unwrap();
}
