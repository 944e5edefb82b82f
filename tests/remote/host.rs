//! A server on a port of its own, and processes that ask it.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::Request;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower_limitry::backend::{EventQuery, PageRequest};
use tower_limitry::client::{Client, ClientBuilder, Remote};
use tower_limitry::outbox::{Durability, Outbox, OutboxBuilder};
use tower_limitry::server::Server;
use tower_limitry::{Books, Check, Engine, Limit, Meter, NewBalance};

use crate::support::*;

pub(crate) const KEY: &str = "limitry_sk_of_the_tests";

/// Longer than anything takes that is not stuck.
pub(crate) const STUCK: Duration = Duration::from_secs(60);

/// A server over books of this process; it ends when this is dropped.
pub(crate) struct Host {
    pub(crate) books: Books,
    pub(crate) address: SocketAddr,
    /// How many calls of each route came.
    calls: Arc<Mutex<HashMap<String, u64>>>,
    serving: JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Host {
    /// 100 tokens a day, and 1,000 credits for every customer.
    pub(crate) async fn start() -> Self {
        Self::over(books()).await
    }

    pub(crate) async fn over(books: Books) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), books).await
    }

    /// On a port that one before it may just have left.
    pub(crate) async fn at(address: SocketAddr, books: Books) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Arc::<Mutex<HashMap<String, u64>>>::default();
        let counted = Arc::clone(&calls);
        let app = Server::new(books.clone()).key(KEY).router();
        let app = app.layer(axum::middleware::map_request(move |request: Request| {
            let path = request.uri().path().to_owned();
            *counted.lock().unwrap().entry(path).or_default() += 1;
            std::future::ready(request)
        }));
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { books, address, calls, serving }
    }

    /// How many calls of a route came so far.
    pub(crate) fn calls(&self, path: &str) -> u64 {
        self.calls.lock().unwrap().get(path).copied().unwrap_or_default()
    }

    /// Ends it, and waits until its port is free.
    pub(crate) async fn stop(mut self) -> SocketAddr {
        self.serving.abort();
        let _ = (&mut self.serving).await;
        self.address
    }

    /// Another process that asks this server.
    pub(crate) fn process(&self) -> Remote {
        remote(client(self.address))
    }
}

pub(crate) fn books() -> Books {
    let engine = Engine::builder()
        .meter(Meter::sum("tokens", "total_tokens"))
        .limit(Limit::per_day("daily", "tokens", 100))
        .default_balance(NewBalance::new("credits").initial(1_000));
    engine.build().unwrap().erased()
}

/// A client that asks soon again.
pub(crate) fn client(address: SocketAddr) -> ClientBuilder {
    Client::builder(KEY)
        .base_url(format!("http://{address}/v1"))
        .breaker(1_000_000, Duration::from_millis(1), Duration::from_millis(1))
        .retries(5)
}

pub(crate) fn remote(client: ClientBuilder) -> Remote {
    let builder = Remote::builder(&client.build().unwrap());
    // A loaded machine answers late.
    builder.check_timeout(STUCK).settle_timeout(STUCK).open().unwrap()
}

/// An outbox that tries soon again.
pub(crate) fn outbox(remote: &Remote) -> OutboxBuilder<Remote> {
    Outbox::builder(remote.clone())
        .durability(Durability::Relaxed { at_most: Duration::from_millis(200) })
        .backoff(Duration::from_millis(5), Duration::from_millis(50))
}

pub(crate) async fn opened(builder: OutboxBuilder<Remote>, path: &Path) -> Outbox<Remote> {
    eventually(async || builder.clone().open(path).await.ok()).await
}

/// One token, and a credit for it.
pub(crate) fn one(customer: &str) -> Check {
    ask(customer, 1).charge("credits", |usage| usage.value("total_tokens"))
}

/// The ids of all events, of all pages.
pub(crate) async fn events(books: &Books) -> Vec<String> {
    let mut ids = Vec::new();
    let mut page = PageRequest::first().limit(100);
    loop {
        let answer = books.events(EventQuery::new().page(page)).await.unwrap();
        ids.extend(answer.items.iter().map(|event| event.id().to_string()));
        match answer.next {
            Some(cursor) => page = PageRequest::first().limit(100).after(cursor),
            None => return ids,
        }
    }
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    in_time(looking).await
}

#[track_caller]
pub(crate) fn in_time<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        let ended = tokio::time::timeout(STUCK, future).await;
        ended.unwrap_or_else(|_| panic!("it never came to this: {caller}"))
    }
}
