//! The program, an upstream made of a closure, and a client for both versions of HTTP.

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, Version, request};
use axum::response::Response;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// How long anything may take.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples/gateway")
}

/// The running program, killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) address: String,
    events: Arc<Mutex<Vec<Value>>>,
    /// Where events are written, until somebody reads them.
    unread: Option<ChildStdout>,
}

impl Gateway {
    /// Starts it on a free port in front of the upstream, and waits until it listens.
    pub(crate) fn start(upstream: &str, variables: &[(&str, &str)]) -> Self {
        let mut gateway = Self::spawn(upstream, variables);
        gateway.read_events();
        gateway
    }

    /// The same, with nobody reading its events.
    pub(crate) fn start_unheard(upstream: &str, variables: &[(&str, &str)]) -> Self {
        let mut gateway = Self::spawn(upstream, variables);
        gateway.unread = None;
        gateway
    }

    /// The same, with nobody reading its events until [`Self::read_events`].
    pub(crate) fn start_unread(upstream: &str, variables: &[(&str, &str)]) -> Self {
        Self::spawn(upstream, variables)
    }

    fn spawn(upstream: &str, variables: &[(&str, &str)]) -> Self {
        let path = program();
        let mut child = Command::new(&path)
            .env("PORT", "0")
            .env("UPSTREAM_URL", upstream)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{}: {error}; build it with cargo build --examples", path.display())
            });
        let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = told.next().expect("the program says where it listens").unwrap();
        let address = first
            .strip_prefix("listening on http://")
            .and_then(|rest| rest.split_once(','))
            .map(|(address, _)| address.to_owned())
            .unwrap_or_else(|| panic!("no address in {first:?}"));
        std::thread::spawn(move || told.for_each(drop));
        let unread = child.stdout.take();
        Self { child, address, events: Arc::default(), unread }
    }

    pub(crate) fn read_events(&mut self) {
        let (out, printed) = (self.unread.take().unwrap(), Arc::clone(&self.events));
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                printed.lock().unwrap().push(serde_json::from_str(&line.unwrap()).unwrap());
            }
        });
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was printed, once there are so many events.
    #[track_caller]
    pub(crate) fn events(&self, count: usize) -> Vec<Value> {
        until("the events are printed", || {
            let events = self.events.lock().unwrap();
            (events.len() >= count).then(|| events.clone())
        })
    }

    pub(crate) fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        until("the program has ended", || self.child.try_wait().unwrap())
    }

    /// The most memory that it ever had, in bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks again and again.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LONG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited too long until {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// What the program says when it does not start.
pub(crate) fn refusal_to_start(variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = Command::new(program())
        .env_remove("UPSTREAM_URL")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(output.stdout.is_empty());
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// Serves real HTTP/1.1 and HTTP/2 on a free port; answers its URL.
pub(crate) async fn upstream<F, A>(answer: F) -> String
where
    F: Fn(Request) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response> + Send,
{
    serve(Router::new().fallback(answer)).await
}

pub(crate) async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    format!("http://{address}")
}

/// A request as the upstream got it.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<Got>>>);

impl Seen {
    pub(crate) fn take(&self) -> Vec<Got> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    pub(crate) async fn note(&self, request: Request) -> (request::Parts, Bytes) {
        let (head, body) = request.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        self.0.lock().unwrap().push(Got {
            method: head.method.clone(),
            target: head.uri.path_and_query().unwrap().to_string(),
            version: head.version,
            headers: head.headers.clone(),
            body: body.clone(),
        });
        (head, body)
    }
}

/// Notes every request and answers each alike.
pub(crate) async fn upstream_answering(answer: fn() -> Response) -> (String, Seen) {
    let seen = Seen::default();
    let noting = seen.clone();
    let url = upstream(move |request| {
        let seen = noting.clone();
        async move {
            seen.note(request).await;
            answer()
        }
    });
    (url.await, seen)
}

/// A completion that used 10 tokens.
pub(crate) fn ten_tokens() -> Response {
    let usage = r#"{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}"#;
    json(format!(
        r#"{{"object":"chat.completion","model":"small-1","choices":[],"usage":{usage}}}"#
    ))
}

pub(crate) fn json(body: impl Into<Body>) -> Response {
    Response::builder().header("content-type", "application/json").body(body.into()).unwrap()
}

pub(crate) fn event_stream(body: Body) -> Response {
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}

pub(crate) type Pieces = mpsc::Sender<Result<Frame<Bytes>, Broken>>;

/// A body that is sent piece by piece, and ends when the sender is dropped.
pub(crate) fn in_pieces() -> (Pieces, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = stream::unfold(receiver, |mut receiver: mpsc::Receiver<_>| async move {
        Some((receiver.recv().await?, receiver))
    });
    (sender, Body::new(StreamBody::new(frames)))
}

pub(crate) fn piece(data: impl Into<Bytes>) -> Result<Frame<Bytes>, Broken> {
    Ok(Frame::data(data.into()))
}

#[derive(Debug)]
pub(crate) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken on purpose")
    }
}

impl std::error::Error for Broken {}

pub(crate) type Http = Client<HttpConnector, Body>;

pub(crate) fn http1() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

/// HTTP/2 without asking first.
pub(crate) fn http2() -> Http {
    Client::builder(TokioExecutor::new()).http2_only(true).build_http()
}

pub(crate) fn post(url: String, body: impl Into<Body>) -> Request {
    Request::post(url)
        .header("x-customer-id", "acct_1")
        .header("content-type", "application/json")
        .body(body.into())
        .unwrap()
}

pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const MESSAGES: &str = "/v1/messages";

pub(crate) async fn read(response: Response<Incoming>) -> (u16, HeaderMap, Bytes) {
    let (head, body) = response.into_parts();
    let body = to_bytes(Body::new(body), usize::MAX).await.unwrap();
    (head.status.as_u16(), head.headers, body)
}

/// Asks once, for the status and the JSON of the answer.
pub(crate) async fn ask(request: Request) -> (u16, HeaderMap, Value) {
    let (status, headers, body) = read(http1().request(request).await.unwrap()).await;
    (status, headers, serde_json::from_slice(&body).unwrap_or_default())
}

/// The script with the clients' own libraries, and what it printed.
pub(crate) fn python(arguments: &[&str]) -> String {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = project.join("target/python/bin/python");
    assert!(python.exists(), "there is no {}: ./test installs it", python.display());
    let output = Command::new(python)
        .arg(project.join("tests/python/gateway.py"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
