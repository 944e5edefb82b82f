//! The layer behind real connections: HTTP/1.1 and HTTP/2, and clients that leave.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, mpsc};
use tower::{Layer, Service, service_fn};
use tower_limitry::{Books, Disconnect, Engine, LimitryLayer, Reporter, usage};

#[path = "support/http.rs"]
mod support;

use support::*;

/// Fails where a connection would otherwise hang.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it takes too long")
}

/// Serves HTTP/1.1 and HTTP/2 with prior knowledge on a free port, which it answers.
async fn serve<S, P>(service: S) -> u16
where
    S: Service<Request<Incoming>, Response = Response<P>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    P: http_body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                // That a client has left is told as an error.
                drop(server.serve_connection_with_upgrades(TokioIo::new(stream), service).await);
            });
        }
    });
    port
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

const VERSIONS: [Version; 2] = [Version::Http1, Version::Http2];

/// One connection of a client. Dropped, it closes.
enum Client {
    Http1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>, tokio::task::JoinHandle<()>),
    Http2(hyper::client::conn::http2::SendRequest<Empty<Bytes>>, tokio::task::JoinHandle<()>),
}

impl Client {
    async fn connect(version: Version, port: u16) -> Self {
        let stream = TokioIo::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        match version {
            Version::Http1 => {
                let (sender, connection) =
                    hyper::client::conn::http1::handshake(stream).await.unwrap();
                let connection = connection.with_upgrades();
                Self::Http1(sender, tokio::spawn(async move { drop(connection.await) }))
            }
            Version::Http2 => {
                let executor = TokioExecutor::new();
                let (sender, connection) =
                    hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
                Self::Http2(sender, tokio::spawn(async move { drop(connection.await) }))
            }
        }
    }

    async fn send(&mut self, request: Request<Empty<Bytes>>) -> Response<Incoming> {
        soon(async {
            match self {
                Self::Http1(sender, _) => sender.send_request(request).await.unwrap(),
                Self::Http2(sender, _) => sender.send_request(request).await.unwrap(),
            }
        })
        .await
    }

    async fn ask(&mut self, method: Method, path: &str) -> Response<Incoming> {
        let request = Request::builder().method(method).header("x-customer", CUSTOMER);
        let request = match self {
            Self::Http1(..) => request.uri(path).header(header::HOST, "localhost"),
            Self::Http2(..) => request.uri(format!("http://localhost{path}")),
        };
        self.send(request.body(Empty::new()).unwrap()).await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let (Self::Http1(_, connection) | Self::Http2(_, connection)) = self;
        connection.abort();
    }
}

/// Estimates ten, charges what is reported.
fn layer(books: &Books<Engine>) -> LimitryLayer<Engine> {
    LimitryLayer::new(books.clone(), identify(), usage::reported())
        .estimate(|_| tokens(10))
        .charge(CREDITS, price)
}

/// Answers by the path. A token is reported before each step of a body.
fn answers()
-> impl Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    service_fn(|request: Request<Incoming>| {
        let reporter = request.extensions().get::<Reporter>().unwrap().clone();
        let path = request.uri().path().to_owned();
        async move {
            let play = |script: Script| {
                let reporter = reporter.clone();
                Body::new(script.on_step(move |_| reporter.add("tokens", 1)))
            };
            let code = |code| Response::builder().status(StatusCode::from_u16(code).unwrap());
            let two = || Script::new([data("he"), data("llo")]);
            Ok::<_, Infallible>(match path.as_str() {
                "/full" => {
                    reporter.set("tokens", 7);
                    Response::new(Body::from("hello"))
                }
                "/chunked" => Response::new(play(two())),
                "/exact" => Response::new(play(two().exact())),
                "/says-end" => Response::new(play(two().says_end())),
                "/length" => {
                    let response = code(200).header(header::CONTENT_LENGTH, 5);
                    response.body(play(two())).unwrap()
                }
                "/no-length" => {
                    let response = code(200).header(header::CONTENT_LENGTH, 0);
                    response.body(play(Script::new([]))).unwrap()
                }
                "/trailers" => {
                    let trailers = Step::Trailers(&[("x-sum", "1")]);
                    Response::new(play(Script::new([data("hello"), trailers])))
                }
                "/grpc" => {
                    let trailers = Step::Trailers(&[("grpc-status", "0")]);
                    let response = code(200).header(header::CONTENT_TYPE, "application/grpc");
                    response.body(play(Script::new([data("hello"), trailers]).exact())).unwrap()
                }
                "/grpc-fails" => {
                    let trailers = Step::Trailers(&[("grpc-status", "13")]);
                    let response = code(200).header(header::CONTENT_TYPE, "application/grpc");
                    response.body(play(Script::new([data("hello"), trailers]))).unwrap()
                }
                "/stall" => Response::new(play(Script::new([data("hello"), Step::Stall]))),
                "/fail" => {
                    Response::new(play(Script::new([data("hello"), Step::Yield, Step::Fail])))
                }
                "/panic" => {
                    Response::new(play(Script::new([data("hello"), Step::Yield, Step::Panic])))
                }
                "/204" => code(204).body(play(Script::new([]))).unwrap(),
                "/304" => code(304).body(play(Script::new([]))).unwrap(),
                "/502" => code(502).body(play(two())).unwrap(),
                _ => pending().await,
            })
        }
    })
}

#[tokio::test]
async fn every_ending_of_a_body_is_recorded_exactly() {
    for version in VERSIONS {
        for (path, body, charged) in [
            ("/full", "hello", Some(7)),
            ("/chunked", "hello", Some(3)),
            ("/exact", "hello", Some(2)),
            ("/says-end", "hello", Some(2)),
            ("/length", "hello", Some(2)),
            ("/no-length", "", Some(10)),
            ("/trailers", "hello", Some(2)),
            ("/204", "", Some(10)),
            ("/304", "", None),
            ("/502", "hello", None),
        ] {
            let books = books();
            let port = serve(layer(&books).layer(answers())).await;
            let mut client = Client::connect(version, port).await;
            let response = client.ask(Method::GET, path).await;
            let passed = soon(response.into_body().collect()).await.unwrap().to_bytes();
            assert_eq!(passed, body, "{version:?} {path}");
            soon(books.settled()).await.unwrap();
            let expected =
                charged.map_or_else(Standing::untouched, |tokens| Standing::charged(tokens, 1));
            assert_eq!(standing(&books).await, expected, "{version:?} {path}");
        }
    }
}

#[tokio::test]
async fn answers_to_head_are_recorded_at_their_head() {
    for (path, charged) in [("/full", 7), ("/chunked", 10), ("/exact", 10), ("/panic", 10)] {
        let books = books();
        let port = serve(layer(&books).layer(answers())).await;
        let mut client = Client::connect(Version::Http1, port).await;
        let response = client.ask(Method::HEAD, path).await;
        let passed = soon(response.into_body().collect()).await.unwrap().to_bytes();
        assert!(passed.is_empty());
        soon(books.settled()).await.unwrap();
        assert_eq!(standing(&books).await, Standing::charged(charged, 1), "{path}");
    }
}

#[tokio::test]
async fn a_grpc_call_over_http2_is_recorded_by_its_trailers() {
    for (path, status, expected) in
        [("/grpc", "0", Standing::charged(2, 1)), ("/grpc-fails", "13", Standing::untouched())]
    {
        let books = books();
        let port = serve(layer(&books).layer(answers())).await;
        let mut client = Client::connect(Version::Http2, port).await;
        let response = client.ask(Method::POST, path).await;
        let whole = soon(response.into_body().collect()).await.unwrap();
        assert_eq!(whole.trailers().unwrap()["grpc-status"], status);
        soon(books.settled()).await.unwrap();
        assert_eq!(standing(&books).await, expected);
    }
}

#[tokio::test]
async fn a_body_that_fails_or_panics_is_not_recorded() {
    for version in VERSIONS {
        for path in ["/fail", "/panic"] {
            let books = books();
            let port = serve(layer(&books).layer(answers())).await;
            let mut client = Client::connect(version, port).await;
            let response = client.ask(Method::GET, path).await;
            assert!(soon(response.into_body().collect()).await.is_err(), "{version:?} {path}");
            soon(books.settled()).await.unwrap();
            assert_eq!(standing(&books).await, Standing::untouched(), "{version:?} {path}");
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_mid_stream_is_charged_by_the_policy() {
    let drain = Disconnect::Drain { bytes: 100, within: Duration::from_millis(1) };
    for version in VERSIONS {
        for (disconnect, expected) in [
            (Disconnect::Settle, Standing::charged(10, 1)),
            (Disconnect::Release, Standing::untouched()),
            (drain, Standing::charged(10, 1)),
        ] {
            let books = books();
            let layer = layer(&books).on_disconnect(disconnect);
            let port = serve(layer.layer(answers())).await;
            let mut client = Client::connect(version, port).await;
            let mut body = client.ask(Method::GET, "/stall").await.into_body();
            let first = soon(body.frame()).await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(first, "hello");
            assert_eq!(books.open_holds().await.unwrap(), 1);
            // HTTP/2 resets the stream, and the connection stays; HTTP/1 closes.
            drop(body);
            let client = (version == Version::Http2).then_some(client);
            soon(books.settled()).await.unwrap();
            assert_eq!(standing(&books).await, expected, "{version:?} {disconnect:?}");
            drop(client);
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_the_handler_runs_is_charged_nothing() {
    for version in VERSIONS {
        let books = books();
        let (started, mut starts) = mpsc::unbounded_channel();
        let hanging = service_fn(move |_: Request<Incoming>| {
            started.send(()).unwrap();
            pending::<Result<Response<Body>, Infallible>>()
        });
        let port = serve(layer(&books).layer(hanging)).await;
        let mut client = Client::connect(version, port).await;
        {
            let asking = client.ask(Method::GET, "/");
            tokio::select! {
                _ = asking => unreachable!("nobody answers"),
                start = soon(starts.recv()) => start.unwrap(),
            }
        }
        assert_eq!(books.open_holds().await.unwrap(), 1);
        let client = (version == Version::Http2).then_some(client);
        soon(books.settled()).await.unwrap();
        assert_eq!(standing(&books).await, Standing::untouched(), "{version:?}");
        drop(client);
    }
}

#[tokio::test]
async fn an_upgraded_connection_is_recorded_at_its_head_and_works() {
    let books = books();
    let echoing = service_fn(|mut request: Request<Incoming>| async move {
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
            drop(tokio::io::copy(&mut reader, &mut writer).await);
        });
        let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
        let response =
            response.header(header::UPGRADE, "echo").header(header::CONNECTION, "upgrade");
        Ok::<_, Infallible>(response.body(Body::empty()).unwrap())
    });
    let port = serve(layer(&books).layer(echoing)).await;
    let mut client = Client::connect(Version::Http1, port).await;
    let request = Request::builder().uri("/").header(header::HOST, "localhost");
    let request = request.header(header::UPGRADE, "echo").header(header::CONNECTION, "upgrade");
    let request = request.header("x-customer", CUSTOMER).body(Empty::new()).unwrap();
    let response = client.send(request).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(standing(&books).await, Standing::charged(10, 1));
    let mut echo = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    echo.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    soon(echo.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"hello");
    assert_eq!(standing(&books).await, Standing::charged(10, 1));
}

#[tokio::test]
async fn a_connection_goes_on_after_a_refusal() {
    for version in VERSIONS {
        let books = books();
        let port = serve(layer(&books).layer(answers())).await;
        let mut client = Client::connect(version, port).await;
        for path in ["/full", "/exact", "/full"] {
            let missing = Request::builder().uri("http://localhost/full");
            let missing = missing.header(header::HOST, "localhost").body(Empty::new()).unwrap();
            let response = client.send(missing).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            soon(response.into_body().collect()).await.unwrap();
            let response = client.ask(Method::GET, path).await;
            let passed = soon(response.into_body().collect()).await.unwrap().to_bytes();
            assert_eq!(passed, "hello");
        }
        soon(books.settled()).await.unwrap();
        assert_eq!(standing(&books).await, Standing::charged(16, 3), "{version:?}");
    }
}

/// Fifty clients at once, who each ask for 100 of 1,000: ten run.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_clients_never_overspend() {
    for version in VERSIONS {
        let books = books();
        let runs = Arc::new(Barrier::new(11));
        let reporting = {
            let runs = Arc::clone(&runs);
            service_fn(move |request: Request<Incoming>| {
                let runs = Arc::clone(&runs);
                async move {
                    let used = request.uri().path()[1..].parse::<u32>().unwrap();
                    request.extensions().get::<Reporter>().unwrap().set("tokens", used);
                    runs.wait().await;
                    Ok::<_, Infallible>(Response::new(Body::from("hello")))
                }
            })
        };
        let layer = LimitryLayer::new(books.clone(), identify(), usage::reported());
        let port = serve(layer.estimate(|_| tokens(100)).layer(reporting)).await;
        let (decided, mut decisions) = mpsc::unbounded_channel();
        for used in 1..=50u32 {
            let decided = decided.clone();
            tokio::spawn(async move {
                let mut client = Client::connect(version, port).await;
                let response = client.ask(Method::GET, &format!("/{used}")).await;
                let status = response.status();
                soon(response.into_body().collect()).await.unwrap();
                decided.send((status, used)).unwrap();
            });
        }
        // Those who run hold what they asked for until everybody else was refused.
        for _ in 0..40 {
            let (status, _) = soon(decisions.recv()).await.unwrap();
            assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        }
        assert_eq!(standing(&books).await.held, 1_000.into());
        soon(runs.wait()).await;
        let mut used = 0;
        for _ in 0..10 {
            let (status, reported) = soon(decisions.recv()).await.unwrap();
            assert_eq!(status, StatusCode::OK);
            used += reported;
        }
        soon(books.settled()).await.unwrap();
        assert_eq!(standing(&books).await, Standing::recorded(used, 10), "{version:?}");
    }
}

/// The same through `axum::serve`, which boxes bodies and writes lengths of its own.
#[tokio::test]
async fn behind_axum_streams_and_heads_are_recorded_exactly() {
    use axum::Router;
    use axum::routing::get;

    async fn words(reporter: Reporter) -> Body {
        let words = ["one ", "two ", "three"].map(Bytes::from);
        let report = move |_| reporter.add("tokens", 1);
        Body::new(Script::new(words.map(Step::Data)).on_step(report))
    }

    async fn exact(reporter: Reporter) -> Body {
        let report = move |_| reporter.add("tokens", 1);
        Body::new(Script::new([data("one "), data("two")]).exact().on_step(report))
    }

    for version in VERSIONS {
        for (method, path, body, charged) in [
            (Method::GET, "/words", "one two three", 4),
            (Method::HEAD, "/words", "", 10),
            (Method::GET, "/exact", "one two", 2),
            (Method::HEAD, "/exact", "", 10),
        ] {
            let books = books();
            let app = Router::new().route("/words", get(words)).route("/exact", get(exact));
            let app = app.route_layer(layer(&books));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = tokio::spawn(async move { axum::serve(listener, app).await });
            let mut client = Client::connect(version, port).await;
            let response = client.ask(method.clone(), path).await;
            let passed = soon(response.into_body().collect()).await.unwrap().to_bytes();
            assert_eq!(passed, body);
            soon(books.settled()).await.unwrap();
            let expected = Standing::charged(charged, 1);
            assert_eq!(standing(&books).await, expected, "{version:?} {method} {path}");
            server.abort();
        }
    }
}
