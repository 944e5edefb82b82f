//! Settlements that nobody waits for, or waits for in their own way: made when they are called.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::sync::mpsc;
use tower_limitry::backend::EventQuery;
use tower_limitry::store::Sqlite;
use tower_limitry::{Books, Check};

use crate::file;
use crate::support::*;

/// Books that tell of the amount of every event.
fn open(path: &std::path::Path) -> (Books, mpsc::UnboundedReceiver<String>) {
    let (sender, told) = mpsc::unbounded_channel();
    let tell = move |event: &tower_limitry::policy::RecordedEvent| {
        let _ = sender.send(format!("{:?}", event.usage().value("total_tokens")));
    };
    let books = hundred_a_day(&noon()).on_event(tell).build_on(Sqlite::open(path).unwrap());
    (books.unwrap().erased(), told)
}

fn tokens(amount: u32) -> String {
    format!("{:?}", total(amount).value("total_tokens"))
}

#[tokio::test]
async fn an_event_is_told_once_it_is_in_the_file_though_nobody_waits_any_more() {
    let path = file::fresh();
    let (books, mut told) = open(&path);
    for polled in [false, true] {
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        {
            let mut settling = pin!(admitted(&books, Check::of("ada")).await.settle(total(7)));
            if polled {
                let waits = |cx: &mut Context<'_>| Poll::Ready(settling.as_mut().poll(cx));
                assert!(poll_fn(waits).await.is_pending());
            }
        }
        tokio::task::yield_now().await;
        assert!(told.try_recv().is_err(), "told before it is in the file");
        other.execute_batch("ROLLBACK").unwrap();
        let event = tokio::time::timeout(MINUTE / 2, told.recv()).await.expect("it is told");
        assert_eq!(event, Some(tokens(7)));
    }
    drop(books);
    assert_eq!(told.recv().await, None, "told again");
}

#[tokio::test]
async fn a_settlement_that_is_put_aside_is_written_all_the_same() {
    let path = file::fresh();
    let (books, mut told) = open(&path);
    let aside = admitted(&books, ask("ada", 9)).await.settle(total(7));
    assert_eq!(used(&books, "ada", "daily").await, amount(7));
    assert_eq!(books.events(EventQuery::new()).await.unwrap().items.len(), 1);
    assert_eq!(crate::asked::<i64>(&path, "SELECT count(*) FROM event"), 1);
    aside.await.unwrap();
    assert_eq!(told.try_recv(), Ok(tokens(7)));
}

#[test]
fn a_settlement_is_acknowledged_outside_of_any_runtime() {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    fn run<T>(mut work: Pin<&mut impl Future<Output = T>>) -> T {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
                return done;
            }
            thread::park();
        }
    }
    let path = file::fresh();
    let (books, mut told) = open(&path);
    for amount in [7, 8] {
        let permit = run(pin!(admitted(&books, Check::of("ada"))));
        run(pin!(permit.settle(total(amount)))).unwrap();
        assert_eq!(told.try_recv(), Ok(tokens(amount)));
    }
    assert_eq!(crate::asked::<i64>(&path, "SELECT count(*) FROM event"), 2);
}
