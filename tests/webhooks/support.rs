//! An endpoint on a port of its own, and books whose limits are easily crossed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tower_limitry::engine::{EngineBuilder, ManualClock};
use tower_limitry::webhooks::{Receiver, Webhooks, WebhooksBuilder};
use tower_limitry::{Books, Engine, ErrorKind, Event, Limit, Meter, Usage};

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub(crate) const NOON: &str = "2026-03-01T12:00:00Z";
/// Longer than anything takes that ends at all.
pub(crate) const STUCK: Duration = Duration::from_secs(60);

/// A folder that goes with the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("webhooks").join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.0.join("webhooks.db")
    }

    pub(crate) fn books(&self) -> PathBuf {
        self.0.join("usage.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A request that an endpoint heard.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Heard {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    pub(crate) fn id(&self) -> String {
        self.header("webhook-id").to_owned()
    }

    pub(crate) fn timestamp(&self) -> i64 {
        self.header("webhook-timestamp").parse().unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks the signature as of the time of the attempt.
    pub(crate) fn is_signed_by(&self, secret: &str) -> bool {
        let at = tower_limitry::policy::Timestamp::from_seconds(self.timestamp());
        Receiver::new(secret).unwrap().verify(&self.headers, &self.body, at).is_ok()
    }
}

type Script = dyn Fn(usize) -> Response + Send + Sync;

/// A server that hears webhooks.
#[derive(Clone)]
pub(crate) struct Endpoint {
    heard: Arc<Mutex<Vec<Heard>>>,
    address: String,
    script: Arc<Mutex<Arc<Script>>>,
}

impl Endpoint {
    /// One that answers 204.
    pub(crate) async fn start() -> Self {
        Self::answering(|_| StatusCode::NO_CONTENT).await
    }

    /// One that answers its nth request so; the first has number 0.
    pub(crate) async fn answering<R: IntoResponse>(
        script: impl Fn(usize) -> R + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let endpoint = Self {
            heard: Arc::default(),
            address,
            script: Arc::new(Mutex::new(Arc::new(|_| StatusCode::OK.into_response()))),
        };
        endpoint.answer(script);
        let hearing = endpoint.clone();
        let app = axum::Router::new().fallback(move |request: Request| {
            let hearing = hearing.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
                let script = Arc::clone(&hearing.script.lock().unwrap());
                let mut heard = hearing.heard.lock().unwrap();
                heard.push(Heard { headers: head.headers, body });
                script(heard.len() - 1)
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        endpoint
    }

    /// Answers differently from here on.
    pub(crate) fn answer<R: IntoResponse>(
        &self,
        script: impl Fn(usize) -> R + Send + Sync + 'static,
    ) {
        *self.script.lock().unwrap() = Arc::new(move |nth| script(nth).into_response());
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook?key=hidden", self.address)
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until it has heard so many requests.
    pub(crate) async fn hears(&self, count: usize) -> Vec<Heard> {
        until(|| self.heard().len() >= count).await;
        self.heard()
    }
}

/// Waits until that is so.
pub(crate) async fn until(is_so: impl Fn() -> bool) {
    let so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(STUCK, so).await.expect("it does not come to be so");
}

/// Webhooks to these endpoints, on the clock of the test.
pub(crate) fn hooks(
    folder: &Folder,
    clock: &ManualClock,
    endpoints: &[&Endpoint],
) -> WebhooksBuilder {
    let builder = Webhooks::open(folder.file())
        .danger_allow_http_and_private_addresses()
        .clock(clock.clone());
    endpoints.iter().fold(builder, |builder, endpoint| builder.endpoint(endpoint.url(), SECRET))
}

/// Starts them, as soon as those before have let go of the file.
pub(crate) async fn again(builder: impl Fn() -> WebhooksBuilder) -> Webhooks {
    let started = async {
        loop {
            match builder().start() {
                Ok(webhooks) => return webhooks,
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(STUCK, started).await.expect("the file stays open")
}

/// A limit of 100 tokens a day that alerts at 75 and 100 percent.
pub(crate) fn engine(clock: &ManualClock) -> EngineBuilder {
    Engine::builder()
        .meter(Meter::sum("tokens", "tokens"))
        .limit(Limit::per_day("daily", "tokens", 100).named("Daily tokens").alert_at([75, 100]))
        .clock(clock.clone())
}

pub(crate) fn alerting(clock: &ManualClock, webhooks: &Webhooks) -> Books {
    engine(clock).on_alert(webhooks.hook()).build().unwrap().erased()
}

pub(crate) async fn use_up(books: &Books, customer: &str, tokens: u32) {
    books.record(Event::new(customer, "chat", Usage::of("tokens", tokens))).await.unwrap();
}
