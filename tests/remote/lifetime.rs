//! A hold lives as long as its response, and ends by itself when nobody is left to own it.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use futures_util::future::join_all;
use tokio::sync::{Semaphore, mpsc};
use tower_limitry::Books;
use tower_limitry::client::Remote;
use tower_limitry::server::Server;

use crate::host::*;
use crate::proxy::{Mode, Proxy};
use crate::support::*;

const SHORTEST: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_hold_is_renewed_while_its_request_runs_however_long() {
    let clock = noon();
    let host = Host::over(hundred_a_day(&clock).build().unwrap().erased()).await;
    let process = Remote::builder(&client(host.address).build().unwrap()).hold_for(SHORTEST);
    let books = Books::new(process.open().unwrap());
    let permits: Vec<_> =
        [books.check(ask("ada", 60)).await.unwrap(), books.check(ask("bob", 30)).await.unwrap()]
            .into();
    for _ in 0..4 {
        let before = host.calls("/v1/x/renew");
        // One may have been on its way.
        eventually(async || (host.calls("/v1/x/renew") >= before + 2).then_some(())).await;
        clock.advance(2 * SECOND);
    }
    assert_eq!(used_held(&host.books, "ada", "daily").await, (amount(0), amount(60)));
    assert_eq!(used_held(&host.books, "bob", "daily").await, (amount(0), amount(30)));
    for permit in permits {
        permit.settle(total(5)).await.unwrap();
    }
    assert_eq!(host.books.open_holds().await.unwrap(), 0);
    assert_eq!(used(&host.books, "ada", "daily").await, amount(5));
}

/// More than one call names: each call once waited for the one before, and holds ended meanwhile.
#[tokio::test]
async fn many_holds_are_renewed_in_calls_beside_each_other() {
    let books = hundred_a_day(&noon()).build().unwrap().erased();
    // Nobody is answered before three have come.
    let (came, mut calls) = mpsc::unbounded_channel();
    let open = Arc::new(Semaphore::new(0));
    let shut = Arc::clone(&open);
    let gate = move |request: Request, next: Next| {
        let (came, shut) = (came.clone(), Arc::clone(&shut));
        async move {
            if request.uri().path() != "/v1/x/renew" {
                return next.run(request).await;
            }
            let (head, body) = request.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            let _ = came.send(body.clone());
            drop(shut.acquire().await);
            next.run(Request::from_parts(head, body.into())).await
        }
    };
    let app = Server::new(books.clone()).key(KEY).router().layer(from_fn(gate));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let process = Remote::builder(&client(address).build().unwrap()).hold_for(SHORTEST);
    let process = Books::new(process.check_timeout(STUCK).open().unwrap());
    let mut permits = Vec::new();
    for at in 0..21 {
        let asked = (0..100).map(|n| process.check(ask(&format!("c-{at}-{n}"), 1)));
        permits.extend(join_all(asked).await.into_iter().map(Result::unwrap));
    }
    // One that waits for the answer of another is preceded by that one's second attempt.
    let mut last = VecDeque::new();
    while last.len() < 3 || last.iter().collect::<HashSet<_>>().len() < 3 {
        last.push_back(in_time(calls.recv()).await.unwrap());
        if last.len() > 3 {
            last.pop_front();
        }
    }
    open.add_permits(1);
    drop(permits);
}

#[tokio::test]
async fn a_hold_whose_process_is_gone_ends_by_itself() {
    let clock = noon();
    let host = Host::over(hundred_a_day(&clock).build().unwrap().erased()).await;
    let address = host.address;
    let gone = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let permit = runtime.block_on(async {
            let process = remote(client(address));
            Books::new(process).check(ask("ada", 60)).await.unwrap()
        });
        std::mem::forget(permit);
        runtime.shutdown_background();
    });
    tokio::task::spawn_blocking(|| gone.join().unwrap()).await.unwrap();
    assert_eq!(used_held(&host.books, "ada", "daily").await, (amount(0), amount(60)));
    clock.advance(MINUTE);
    assert_eq!(used_held(&host.books, "ada", "daily").await, (amount(0), amount(0)));
}

#[tokio::test]
async fn a_settlement_counts_though_its_hold_could_not_be_renewed() {
    let clock = noon();
    let host = Host::over(hundred_a_day(&clock).build().unwrap().erased()).await;
    let proxy = Proxy::before(host.address).await;
    let books = Books::new(remote(client(proxy.address)));
    let permit = books.check(ask("ada", 60)).await.unwrap();
    proxy.set(Mode::Refuse);
    clock.advance(2 * MINUTE);
    assert_eq!(host.books.open_holds().await.unwrap(), 0);
    admitted(&host.books, ask("ada", 100)).await.release().await.unwrap();
    proxy.set(Mode::Pass);
    permit.settle(total(70)).await.unwrap();
    assert_eq!(used_held(&host.books, "ada", "daily").await, (amount(70), amount(0)));
    assert_eq!(events(&host.books).await.len(), 1);
}

#[tokio::test]
async fn a_lifetime_of_ones_own_is_not_renewed() {
    let clock = noon();
    let host = Host::over(hundred_a_day(&clock).build().unwrap().erased()).await;
    let process = Remote::builder(&client(host.address).build().unwrap()).hold_for(SHORTEST);
    let books = Books::new(process.open().unwrap());
    let own = books.check(ask("ada", 60).hold_for(MINUTE)).await.unwrap();
    let other = books.check(ask("bob", 60)).await.unwrap();
    eventually(async || (host.calls("/v1/x/renew") >= 2).then_some(())).await;
    clock.advance(MINUTE);
    assert_eq!(used_held(&host.books, "ada", "daily").await, (amount(0), amount(0)));
    drop((own, other));
}
