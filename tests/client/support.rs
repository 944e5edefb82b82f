//! A server of this crate, and one that does what it is told, each on a port of its own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_limitry::client::{Client, ClientBuilder};
use tower_limitry::engine::ManualClock;
use tower_limitry::server::Server;
use tower_limitry::{Books, Engine, Error, Limit, Meter};

pub(crate) const KEY: &str = "limitry_sk_of_the_tests";
pub(crate) const NOW: &str = "2026-03-01T12:00:00Z";

/// A server of this crate over books with a meter `tokens` and a limit `daily` of 1,000 a day.
pub(crate) struct Api {
    pub(crate) books: Books,
    pub(crate) client: Client,
}

impl Api {
    pub(crate) async fn start() -> Self {
        let books = Engine::builder()
            .meter(Meter::sum("tokens", "tokens").named("Tokens"))
            .limit(Limit::per_day("daily", "tokens", 1_000).named("Daily tokens"))
            .clock(ManualClock::at(NOW))
            .build()
            .unwrap()
            .erased();
        let app = Server::new(books.clone()).key(KEY).project("proj_1").router();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let client = Client::builder(KEY).base_url(url).build().unwrap();
        Self { books, client }
    }
}

/// What a scripted server does with one request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// These bytes, and the end of the connection.
    Bytes(Vec<u8>),
    /// The end of the connection, without an answer.
    Cut,
    /// Nothing, for as long as the caller waits.
    Silence,
    /// These bytes, and then nothing.
    Stuck(Vec<u8>),
}

impl Reply {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::with(status, &[], body.to_string().as_bytes())
    }

    pub(crate) fn error(status: u16, code: &str, headers: &[(&str, &str)]) -> Self {
        let error = serde_json::json!({ "code": code, "message": "as told", "status": status });
        let body = serde_json::json!({ "error": error }).to_string();
        Self::with(status, headers, body.as_bytes())
    }

    pub(crate) fn with(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let mut head = format!(
            "HTTP/1.1 {status} Told\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n",
            body.len(),
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        Self::Bytes([head.as_bytes(), body].concat())
    }
}

/// A request as a scripted server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Answers each request with the next reply, the last one again and again.
pub(crate) struct Script {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    replies: Arc<Mutex<VecDeque<Reply>>>,
}

impl Script {
    pub(crate) async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let replies: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(replies.into_iter().collect()));
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (next, log) = (Arc::clone(&replies), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (next, log) = (Arc::clone(&next), Arc::clone(&log));
                tokio::spawn(async move {
                    let Some(request) = read(&mut stream).await else { return };
                    log.lock().unwrap().push(request);
                    let reply = {
                        let mut replies = next.lock().unwrap();
                        match replies.len() {
                            1 => replies[0].clone(),
                            _ => replies.pop_front().unwrap(),
                        }
                    };
                    match reply {
                        Reply::Bytes(bytes) => drop(stream.write_all(&bytes).await),
                        Reply::Cut => {}
                        Reply::Silence => drop(stream.read(&mut [0]).await),
                        Reply::Stuck(bytes) => {
                            drop(stream.write_all(&bytes).await);
                            drop(stream.read(&mut [0]).await);
                        }
                    }
                });
            }
        });
        Self { url, seen, replies }
    }

    pub(crate) fn builder(&self) -> ClientBuilder {
        Client::builder(KEY).base_url(&self.url)
    }

    pub(crate) fn client(&self) -> Client {
        self.builder().build().unwrap()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn then(&self, reply: Reply) {
        *self.replies.lock().unwrap() = VecDeque::from([reply]);
    }
}

/// One request, if there is one.
async fn read(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let mut lines = text.split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    let (method, path) = (first.next().unwrap().to_owned(), first.next().unwrap().to_owned());
    let pair = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    };
    let headers: Vec<_> = lines.map(pair).collect();
    let seen = Seen { method, path, headers, body: Vec::new() };
    let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = bytes.split_off(head + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Seen { body, ..seen })
}

/// Everything that an error says to anybody.
pub(crate) fn told(error: &Error) -> String {
    let mut told = format!("{error:?} {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        told.push_str(&format!(" {cause:?} {cause}"));
        source = cause.source();
    }
    told
}

/// Fails the test when this takes for ever.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("it takes for ever")
}
