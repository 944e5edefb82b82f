//! The server on a port of its own, and a client for it.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tower_limitry::engine::ManualClock;
use tower_limitry::server::Server;
use tower_limitry::{Books, Engine, Limit, Meter};

pub(crate) const KEY: &str = "limitry_sk_of_the_tests";
pub(crate) const NOW: &str = "2026-03-01T12:00:00Z";

pub(crate) struct Api {
    pub(crate) books: Books,
    pub(crate) clock: ManualClock,
    address: String,
    client: Client<HttpConnector, Full<Bytes>>,
    _serving: Serving,
}

/// Ends with the test's use of it.
struct Serving(tokio::task::JoinHandle<std::io::Result<()>>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {:?}", self.text))
    }

    /// Status and code of an error, whose envelope is looked at.
    pub(crate) fn error(&self) -> (u16, String) {
        let error = self.json()["error"].clone();
        assert_eq!(error["status"], self.status, "{}", self.text);
        assert!(!error["message"].as_str().unwrap().is_empty());
        (self.status, error["code"].as_str().unwrap().to_owned())
    }
}

impl Api {
    /// Books with a meter `tokens` and a limit `daily` of 1,000 a day.
    pub(crate) async fn start() -> Self {
        Self::start_with(|server| server).await
    }

    pub(crate) async fn start_with(set: impl FnOnce(Server) -> Server) -> Self {
        let clock = ManualClock::at(NOW);
        let books = Engine::builder()
            .meter(Meter::sum("tokens", "tokens").named("Tokens"))
            .limit(Limit::per_day("daily", "tokens", 1_000).named("Daily tokens"))
            .clock(clock.clone())
            .build()
            .unwrap()
            .erased();
        Self { clock, ..Self::over(books, set).await }
    }

    /// Over these books.
    pub(crate) async fn over(books: Books, set: impl FnOnce(Server) -> Server) -> Self {
        let server = set(Server::new(books.clone()).key(KEY).project("proj_1"));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let app = server.router();
        let serving = tokio::spawn(async move { axum::serve(listener, app).await });
        let client = Client::builder(TokioExecutor::new()).build_http();
        let clock = ManualClock::at(NOW);
        Self { books, clock, address, client, _serving: Serving(serving) }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let uri = format!("http://{}{path}", self.address);
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = self.client.request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.into()).unwrap();
        Answer { status: head.status.as_u16(), headers: head.headers, text }
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, &[("authorization", &format!("Bearer {KEY}"))], body).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, Value::Null).await
    }

    /// With an idempotency key.
    pub(crate) async fn post_once(&self, key: &str, path: &str, body: Value) -> Answer {
        let bearer = format!("Bearer {KEY}");
        let headers = [("authorization", &*bearer), ("idempotency-key", key)];
        self.send("POST", path, &headers, body.to_string()).await
    }

    /// The answer to what must succeed.
    pub(crate) async fn made(&self, path: &str, body: Value) -> Value {
        let answer = self.post(path, body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        answer.json()
    }

    pub(crate) async fn record(&self, customer: &str, tokens: u64) {
        let event = serde_json::json!({
            "customerId": customer, "eventType": "llm.completion", "values": { "tokens": tokens },
        });
        let answer = self.post("/v1/events/record", event).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}
