//! What somebody between a process and the server answers is not the server's word.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use tokio::net::TcpListener;
use tower_limitry::Books;
use tower_limitry::client::{Client, Remote};
use tower_limitry::server::Server;

use crate::host::*;
use crate::support::*;

/// A server, before which somebody answers calls of one route themselves.
struct Gateway {
    books: Books,
    client: Client,
    /// The status of that answer; 0 passes calls on.
    status: Arc<AtomicU16>,
    stopped: Arc<AtomicUsize>,
}

impl Gateway {
    async fn before(route: &'static str) -> Self {
        let (books, status, stopped) = (books(), Arc::<AtomicU16>::default(), Arc::default());
        let (answer, count) = (Arc::clone(&status), Arc::<AtomicUsize>::clone(&stopped));
        let gate = from_fn(move |request: Request, next: Next| {
            let status = StatusCode::from_u16(answer.load(Ordering::SeqCst)).ok();
            let status = status.filter(|_| request.uri().path() == route);
            count.fetch_add(usize::from(status.is_some()), Ordering::SeqCst);
            async move {
                match status {
                    Some(status) => status.into_response(),
                    None => next.run(request).await,
                }
            }
        });
        let app = Server::new(books.clone()).key(KEY).router().layer(gate);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { books, client: client(address).build().unwrap(), status, stopped }
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }
}

/// Once a gateway's 400 set aside whatever was alone in its call.
#[tokio::test]
async fn no_settlement_is_set_aside_for_it() {
    let gateway = Gateway::before("/v1/x/settle").await;
    let remote = Remote::builder(&gateway.client).check_timeout(STUCK).open().unwrap();
    let outbox = opened(outbox(&remote), &crate::file::fresh()).await;
    let queue = Books::new(outbox.clone());
    for (settled, status) in (1_usize..).zip([302, 400, 401, 403, 404, 422, 429, 500, 502]) {
        let before = gateway.stopped.load(Ordering::SeqCst);
        gateway.answer(status);
        queue.check(one("ann")).await.unwrap().settle(total(1)).await.unwrap();
        eventually(async || (gateway.stopped.load(Ordering::SeqCst) > before).then_some(())).await;
        gateway.answer(0);
        outbox.flush(STUCK).await.unwrap();
        assert_eq!(outbox.stats().set_aside, 0, "{status}");
        assert_eq!(events(&gateway.books).await.len(), settled, "{status}");
    }
}

/// Once a release was given up after the time that other holds live.
#[tokio::test]
async fn a_release_is_tried_for_as_long_as_its_own_hold_lives() {
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    let gateway = Gateway::before("/v1/x/release").await;
    let builder = Remote::builder(&gateway.client).hold_for(Duration::from_secs(3));
    let remote = builder.check_timeout(STUCK).open().unwrap();
    gateway.answer(503);
    let permit = Books::new(remote).check(one("ann").hold_for(DAY)).await.unwrap();
    let released = Instant::now();
    drop(permit);
    eventually(async || (released.elapsed() > Duration::from_secs(4)).then_some(())).await;
    let before = gateway.stopped.load(Ordering::SeqCst);
    eventually(async || (gateway.stopped.load(Ordering::SeqCst) > before).then_some(())).await;
    gateway.answer(0);
    eventually(async || (gateway.books.open_holds().await.unwrap() == 0).then_some(())).await;
}
