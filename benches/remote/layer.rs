//! What the layer adds to a request that does nothing, one after the other: with the books in this
//! process, and on a server with an outbox before it; beside one round trip to a route that answers
//! a constant, by the same client.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http::{Request, Response, response};
use http_body_util::Full;
use tokio::runtime::Runtime;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_limitry::client::{Client, Remote};
use tower_limitry::outbox::{Durability, Outbox};
use tower_limitry::server::Server;
use tower_limitry::{Books, LimitryLayer, Usage, customer};

use crate::rate::{KEY, books, serve};

const REQUESTS: usize = 5_000;

type Body = Full<Bytes>;

pub(crate) fn compare() {
    let runtime = Runtime::new().expect("a runtime");
    let counted = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let calls = std::sync::Arc::clone(&counted);
    let app = Server::new(books()).key(KEY).router().layer(axum::middleware::map_request(
        move |request: axum::extract::Request| {
            calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            std::future::ready(request)
        },
    ));
    let server = serve(&runtime, app);
    let constant = Router::new().route("/v1/x/open-holds", post(async || r#"{"openHolds":0}"#));
    let constant = serve(&runtime, constant);
    // On a thread of the runtime, as requests are.
    let measuring = runtime.spawn(async move {
        let plain = service_fn(async |_: Request<Body>| {
            Ok::<_, Infallible>(Response::new(Body::from("done")))
        });
        let bare = requests(plain).await;
        let here = requests(layer(books()).layer(plain)).await;

        let path =
            std::env::temp_dir().join(format!("limitry-bench-{}.outbox", std::process::id()));
        let opened = Outbox::builder(remote(server))
            .durability(Durability::Relaxed { at_most: Duration::from_millis(200) })
            .open(&path)
            .await;
        let outbox = opened.expect("a file that can be written");
        let there = requests(layer(Books::new(outbox.clone()).erased()).layer(plain)).await;
        outbox.flush(Duration::from_secs(60)).await.expect("a server that answers");
        let calls = counted.load(std::sync::atomic::Ordering::Relaxed);

        let probe = Books::new(remote(constant));
        let mut round_trips = Vec::with_capacity(REQUESTS);
        for _ in 0..REQUESTS {
            let asked = Instant::now();
            probe.open_holds().await.expect("an answer");
            round_trips.push(asked.elapsed());
        }
        println!("\none request after the other      p50 µs    p99 µs");
        for (name, mut took) in [
            ("no layer", bare),
            ("books in this process", here),
            ("one round trip", round_trips),
            ("books on a server, outbox", there),
        ] {
            took.sort_unstable();
            let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1e6;
            println!("{name:<28}  {:>8.1}  {:>8.1}", at(50), at(99));
        }
        println!("{calls} calls for {REQUESTS} requests");
        drop(outbox);
        for suffix in ["", "-wal"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
    });
    runtime.block_on(measuring).expect("no panic");
}

fn remote(server: std::net::SocketAddr) -> Remote {
    let client = Client::builder(KEY).base_url(format!("http://{server}/v1"));
    let client = client.build().expect("a client");
    Remote::builder(&client).open().expect("a runtime")
}

fn layer(books: Books) -> LimitryLayer {
    let identify = customer::trusted_header("x-customer");
    let used = || Usage::of("total_tokens", 480);
    LimitryLayer::new(books, identify, move |_: &response::Parts| Some(used()))
        .event_type("llm.completion")
        .estimate(|_| Usage::of("total_tokens", 500))
}

/// How long each took, until its head.
async fn requests<S>(service: S) -> Vec<Duration>
where
    S: Service<Request<Body>, Error = Infallible> + Clone,
    S::Response: Send,
{
    let mut took = Vec::with_capacity(REQUESTS);
    for number in 0..REQUESTS {
        let request = Request::builder().header("x-customer", format!("acct_{}", number % 100));
        let request = request.body(Body::default()).expect("a sound request");
        let asked = Instant::now();
        let Ok(answer) = service.clone().oneshot(request).await;
        took.push(asked.elapsed());
        drop(answer);
    }
    took
}
