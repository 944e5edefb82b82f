//! The books in a service that speaks Limitry's API, which has no holds: a server of this crate, and
//! between it and the client a gate that can be shut.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower_limitry::backend::{Backend, MeterQuery};
use tower_limitry::client::{Client, Hosted};
use tower_limitry::outbox::Outbox;
use tower_limitry::server::Server;
use tower_limitry::{
    Amount, Books, Check, Denial, Engine, Error, ErrorKind, Limit, Meter, NewBalance, Permit, Usage,
};

use crate::support::KEY;

mod books;
mod debts;
mod delivery;
mod differences;
mod holds;

/// What happens to calls of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// They are told that nothing was done.
    Shut,
    /// They are done, and a proxy answers that it does not know.
    Lost,
    /// They wait for as long as the caller does.
    Stuck,
    /// A proxy greets people instead of passing them on.
    Portal,
    /// A proxy passes on bodies of so many bytes at most.
    Narrow(u64),
    /// The service fails at bodies that hold this text.
    Fails(&'static str),
}

/// A path that was called, and the way of the call.
type Seen = (String, Option<Way>);

#[derive(Clone, Default)]
struct Gate {
    ways: Arc<Mutex<HashMap<String, Way>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    count: Arc<watch::Sender<usize>>,
}

impl Gate {
    fn set(&self, path: &str, way: Way) {
        self.ways.lock().unwrap().insert(format!("/v1/{path}"), way);
    }

    fn open(&self) {
        self.ways.lock().unwrap().clear();
    }

    /// How many calls of that path there were.
    fn calls(&self, path: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|(seen, _)| *seen == format!("/v1/{path}")).count()
    }

    /// How many calls of that path went this way.
    fn calls_by(&self, path: &str, way: Way) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|seen| **seen == (format!("/v1/{path}"), Some(way))).count()
    }

    /// Waits until there were so many more calls.
    async fn more(&self, calls: u32) {
        let mut count = self.count.subscribe();
        let enough = *count.borrow_and_update() + calls as usize;
        count.wait_for(|count| *count >= enough).await.unwrap();
    }

    async fn pass(self, request: Request, next: Next) -> Response {
        let path = request.uri().path().to_owned();
        let way = self.ways.lock().unwrap().get(&path).copied();
        self.seen.lock().unwrap().push((path, way));
        self.count.send_modify(|count| *count += 1);
        match way {
            None => next.run(request).await,
            Some(Way::Shut) => {
                let error =
                    serde_json::json!({ "code": "unavailable", "message": "shut", "status": 503 });
                (
                    axum::http::StatusCode::SERVICE_UNAVAILABLE,
                    axum::Json(serde_json::json!({ "error": error })),
                )
                    .into_response()
            }
            Some(Way::Lost) => {
                next.run(request).await;
                axum::http::StatusCode::BAD_GATEWAY.into_response()
            }
            Some(Way::Fails(text)) => {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
                match String::from_utf8_lossy(&body).contains(text) {
                    true => axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                    false => next.run(Request::from_parts(head, body.into())).await,
                }
            }
            Some(Way::Stuck) => std::future::pending().await,
            Some(Way::Portal) => axum::response::Html("<h1>Please sign in</h1>").into_response(),
            Some(Way::Narrow(most)) => {
                let length = request.headers()["content-length"].to_str().unwrap();
                match length.parse::<u64>().unwrap() > most {
                    true => axum::http::StatusCode::PAYLOAD_TOO_LARGE.into_response(),
                    false => next.run(request).await,
                }
            }
        }
    }
}

/// The service: 1,000 tokens a day, 100 credits for ann, and 5 seats of which all are taken.
struct Service {
    books: Books,
    gate: Gate,
    url: String,
}

impl Service {
    async fn start() -> Self {
        let books = Engine::builder()
            .meter(Meter::sum("tokens", "tokens").event_type("chat"))
            .meter(Meter::latest("seats", "seats").event_type("seat"))
            .limit(Limit::per_day("daily", "tokens", 1_000).named("Daily tokens"))
            .limit(Limit::all_time("seats", "seats", 5))
            .build()
            .unwrap()
            .erased();
        books.create_balance("ann", NewBalance::new("credits").initial(100)).await.unwrap();
        let gate = Gate::default();
        let at = gate.clone();
        let gated = move |request, next| at.clone().pass(request, next);
        let app =
            Server::new(books.clone()).key(KEY).router().layer(axum::middleware::from_fn(gated));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { books, gate, url }
    }

    /// A client that does not repeat by itself and never gives up on the service.
    fn client(&self) -> Client {
        let never = u32::MAX;
        let wait = Duration::from_millis(1);
        Client::builder(KEY)
            .base_url(&self.url)
            .retries(0)
            .breaker(never, wait, wait)
            .build()
            .unwrap()
    }

    async fn hosted(&self) -> Hosted {
        let hosted = Hosted::builder(&self.client()).check_timeout(Duration::from_secs(30));
        hosted.open().await.unwrap()
    }

    async fn used(&self, customer: &str) -> Amount {
        self.books.query(MeterQuery::new("tokens").customer(customer)).await.unwrap().value
    }

    async fn credits(&self, customer: &str) -> Amount {
        self.books.balance(customer, "credits").await.unwrap().unwrap().current()
    }
}

/// A file that goes with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        let name = format!("hosted-{}-{name}", std::process::id());
        let file = Self(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        file.remove();
        file
    }

    fn remove(&self) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.0.display()));
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.remove();
    }
}

/// An outbox that tries again at once.
async fn queued(hosted: &Hosted, file: &File) -> (Outbox<Hosted>, Books<Outbox<Hosted>>) {
    let outbox = Outbox::builder(hosted.clone())
        .backoff(Duration::from_millis(5), Duration::from_millis(20))
        .open(file.0.clone())
        .await
        .unwrap();
    (outbox.clone(), Books::new(outbox))
}

fn chat(customer: &str, tokens: u32) -> Check {
    Check::of(customer).event_type("chat").estimate("tokens", tokens)
}

fn paid(customer: &str, tokens: u32) -> Check {
    chat(customer, tokens).charge("credits", |usage| usage.value("tokens"))
}

fn tokens(amount: u32) -> Usage {
    Usage::of("tokens", amount)
}

async fn allowed<B: Backend>(books: &Books<B>, check: Check) -> Permit<B> {
    books.check(check).await.unwrap()
}

async fn denied<B: Backend>(books: &Books<B>, check: Check) -> Denial {
    books.check(check).await.unwrap_err().denial().unwrap().clone()
}

async fn until(condition: impl AsyncFn() -> bool) {
    crate::support::soon(async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Opens what another process may not yet have let go of.
async fn free<T, F>(open: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, Error>>,
{
    crate::support::soon(async {
        loop {
            match open().await {
                Ok(opened) => return opened,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict),
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}
