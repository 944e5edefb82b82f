//! Rates over a socket, taking turns. A check places a hold of one second for one of ten thousand
//! customers, against one limit.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tower_limitry::server::Server;
use tower_limitry::{Books, Engine, Limit, Meter};

const CONNECTIONS: usize = 8;
const ROUND: Duration = Duration::from_secs(1);
const ROUNDS: usize = 11;
pub(crate) const KEY: &str = "limitry_sk_of_the_bench";

/// Where ids begin that were never used before.
static NEXT: AtomicU64 = AtomicU64::new(1);

pub(crate) fn books() -> Books {
    let engine = Engine::builder()
        .meter(Meter::sum("tokens", "total_tokens").named("Tokens"))
        .limit(Limit::per_day("daily-tokens", "tokens", 1_000_000_000_u64).named("Daily tokens"));
    engine.build().expect("sound definitions").erased()
}

pub(crate) fn serve(runtime: &Runtime, router: Router) -> SocketAddr {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let address = listener.local_addr().expect("an address");
    runtime.spawn(async move { axum::serve(listener, router).await });
    address
}

fn constant(answer: Bytes) -> Router {
    let answer = move |_: Bytes| {
        let answer = answer.clone();
        async move { ([(CONTENT_TYPE, "application/json")], answer) }
    };
    Router::new().route("/v1/x/check", post(answer))
}

/// Prints rates, waits, and the ratio of the medians.
pub(crate) fn compare() {
    let runtime = Runtime::new().expect("a runtime");
    let checks = serve(&runtime, Server::new(books()).key(KEY).router());
    let answer = Connection::open(checks).ask(0).to_vec();
    let length = answer.len();
    let constant = serve(&runtime, constant(answer.into()));
    let servers = [("constant", constant), ("check", checks)];
    let mut rounds = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        for ((_, server), rounds) in servers.iter().zip(&mut rounds) {
            rounds.push(round(*server));
        }
    }
    println!("{CONNECTIONS} connections, answers of {length} bytes, medians of {ROUNDS} rounds");
    println!("answer      requests/s   of constant   p50 µs   p99 µs");
    let mut first = None;
    for ((name, _), mut rounds) in servers.into_iter().zip(rounds) {
        let median = |rounds: &mut Vec<Round>, of: fn(&Round) -> f64| {
            rounds.sort_by(|one, other| of(one).total_cmp(&of(other)));
            of(&rounds[ROUNDS / 2])
        };
        let rate = median(&mut rounds, |round| round.rate);
        let p50 = median(&mut rounds, |round| round.p50);
        let p99 = median(&mut rounds, |round| round.p99);
        let of = rate / *first.get_or_insert(rate);
        println!("{name:<10}  {rate:>10.0}   {of:>11.3}   {p50:>6.0}   {p99:>6.0}");
    }
}

/// Checks alone, for a profiler.
pub(crate) fn run_checks() {
    let runtime = Runtime::new().expect("a runtime");
    let checks = serve(&runtime, Server::new(books()).key(KEY).router());
    for _ in 0..5 {
        println!("{:.0} checks/s", round(checks).rate);
    }
}

#[derive(Clone, Copy)]
struct Round {
    rate: f64,
    /// In microseconds.
    p50: f64,
    p99: f64,
}

fn round(server: SocketAddr) -> Round {
    let start = Instant::now();
    let mut took: Vec<Duration> = thread::scope(|scope| {
        let asking: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                scope.spawn(move || {
                    let mut connection = Connection::open(server);
                    let mut took = Vec::new();
                    while start.elapsed() < ROUND {
                        let number = NEXT.fetch_add(1, Ordering::Relaxed);
                        let asked = Instant::now();
                        connection.ask(number);
                        took.push(asked.elapsed());
                    }
                    took
                })
            })
            .collect();
        asking.into_iter().flat_map(|asking| asking.join().expect("no panic")).collect()
    });
    let rate = took.len() as f64 / start.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    Round { rate, p50: at(50), p99: at(99) }
}

/// A connection that is kept alive.
struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    fn open(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).expect("a connection");
        stream.set_nodelay(true).expect("an open socket");
        Self { stream, answer: vec![0; 8_192] }
    }

    /// Asks, and answers the body.
    fn ask(&mut self, number: u64) -> &[u8] {
        let body = format!(
            r#"{{"id":"01933333-3333-7333-8333-{number:012x}","customerId":"acct_{:04}","eventType":"llm.completion","values":{{"total_tokens":500}},"holdSeconds":1}}"#,
            number % 10_000,
        );
        let request = format!(
            "POST /v1/x/check HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len(),
        );
        self.stream.write_all(request.as_bytes()).expect("an open connection");
        let mut length = 0;
        loop {
            let read = self.stream.read(&mut self.answer[length..]).expect("an open connection");
            assert!(read > 0, "the server closed the connection");
            length += read;
            let head = self.answer[..length].windows(4).position(|end| end == b"\r\n\r\n");
            let Some(head) = head.map(|at| at + 4) else { continue };
            let text = std::str::from_utf8(&self.answer[..head]).expect("ASCII");
            assert!(text.starts_with("HTTP/1.1 200"), "{text}");
            let told = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            let told: usize = told.and_then(|told| told.parse().ok()).expect("a length");
            if length == head + told {
                return &self.answer[head..length];
            }
        }
    }
}
