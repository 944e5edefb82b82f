//! The layer in real stacks: over and under what people put next to it.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::{Pending, Ready, pending, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header, response};
use http_body::Body as _;
use http_body_util::{BodyExt, Empty, Full};
use tokio::task::yield_now;
use tokio::time::Instant;
use tower::buffer::BufferLayer;
use tower::limit::{ConcurrencyLimitLayer, GlobalConcurrencyLimitLayer};
use tower::load_shed::LoadShedLayer;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;
use tower_http::timeout::{RequestBodyTimeoutLayer, ResponseBodyTimeoutLayer, TimeoutLayer};
use tower_http::trace::TraceLayer;
use tower_limitry::backend::Backend;
use tower_limitry::request::ReadJson;
use tower_limitry::test_util::{Answer, Scripted};
use tower_limitry::usage;
use tower_limitry::{Books, Decision, Engine, LimitryLayer, Reporter};

#[path = "support/http.rs"]
mod support;

use support::*;

const TEXT: &str =
    r#"{"tokens": 7, "text": "a text that is long enough to be compressed, isn't it, isn't it"}"#;

#[derive(serde::Deserialize)]
struct Counted {
    tokens: u64,
}

/// Measures the tokens of a JSON answer, estimates ten, charges the balance.
fn layer<B: Backend>(books: &Books<B>) -> LimitryLayer<B> {
    let measure = usage::json(1_024, |answer: &Counted| Some(tokens(answer.tokens)));
    LimitryLayer::new(books.clone(), identify(), measure)
        .estimate(|_| tokens(10))
        .charge(CREDITS, price)
}

fn get_request(path: &str) -> Request<Body> {
    Request::get(path).header("x-customer", CUSTOMER).body(Body::empty()).unwrap()
}

async fn text(
    response: Response<impl http_body::Body<Data = Bytes, Error: std::fmt::Debug>>,
) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

mod over_and_under {
    use super::*;

    fn answering() -> impl Service<
        Request<Body>,
        Response = Response<Full<Bytes>>,
        Error = Infallible,
        Future = Ready<Answered>,
    > + Clone
    + Send {
        service_fn(|_: Request<Body>| ready(Ok(ok(TEXT))))
    }

    fn hanging() -> impl Service<
        Request<Body>,
        Response = Response<Full<Bytes>>,
        Error = Infallible,
        Future = Pending<Answered>,
    > + Clone
    + Send {
        service_fn(|_: Request<Body>| pending())
    }

    #[tokio::test]
    async fn tracing() {
        let books = books();
        let stack = ServiceBuilder::new()
            .layer(TraceLayer::new_for_http())
            .layer(layer(&books))
            .layer(TraceLayer::new_for_http())
            .service(answering());
        let response = stack.oneshot(get_request("/")).await.unwrap();
        assert_eq!(text(response).await, TEXT);
        assert_eq!(standing(&books).await, Standing::charged(7, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_of_the_request() {
        for outside in [true, false] {
            let books = books();
            let timeout =
                TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(3));
            let service = ServiceBuilder::new()
                .option_layer(outside.then_some(timeout))
                .layer(layer(&books))
                .option_layer((!outside).then_some(timeout))
                .service(hanging());
            let response = service.oneshot(get_request("/")).await.unwrap();
            assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
            assert_eq!(standing(&books).await, Standing::untouched(), "outside: {outside}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_of_the_body() {
        let stalling = service_fn(|_: Request<Body>| {
            ready(Ok::<_, Infallible>(Response::new(Script::new([data("a"), Step::Stall]))))
        });
        for outside in [true, false] {
            let books = books();
            let timeout = ResponseBodyTimeoutLayer::new(Duration::from_secs(3));
            let route = Router::new().route_service("/", stalling);
            let service = match outside {
                true => route.layer(layer(&books)).layer(timeout),
                false => route.layer(timeout).layer(layer(&books)),
            };
            let mut body = service.oneshot(get_request("/")).await.unwrap().into_body();
            assert!(body.frame().await.unwrap().is_ok());
            assert!(body.frame().await.unwrap().is_err());
            drop(body);
            // Inside, the response failed; outside, somebody stopped reading it.
            let expected = if outside { Standing::charged(10, 1) } else { Standing::untouched() };
            assert_eq!(standing(&books).await, expected, "outside: {outside}");
        }
    }

    #[tokio::test]
    async fn compression() {
        let (outer, inner) = (books(), books());
        let outside = ServiceBuilder::new()
            .layer(CompressionLayer::new())
            .layer(layer(&outer))
            .service(answering());
        let inside = ServiceBuilder::new()
            .layer(layer(&inner))
            .layer(CompressionLayer::new())
            .service(answering());
        let request = || {
            let mut request = get_request("/");
            request.headers_mut().insert(header::ACCEPT_ENCODING, "gzip".parse().unwrap());
            request
        };
        let response = outside.oneshot(request()).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        assert_eq!(text(response).await[..2], [0x1f, 0x8b]);
        assert_eq!(standing(&outer).await, Standing::charged(7, 1));

        // What is compressed inside is read through a decoder.
        let response = inside.oneshot(request()).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        assert_eq!(text(response).await[..2], [0x1f, 0x8b]);
        assert_eq!(standing(&inner).await, Standing::charged(7, 1));
    }

    #[tokio::test]
    async fn cors() {
        let books = books();
        let stack = ServiceBuilder::new()
            .layer(CorsLayer::permissive())
            .layer(layer(&books))
            .service(answering());
        let mut preflight = get_request("/");
        *preflight.method_mut() = Method::OPTIONS;
        preflight.headers_mut().insert(header::ORIGIN, "https://example.com".parse().unwrap());
        let method = header::ACCESS_CONTROL_REQUEST_METHOD;
        preflight.headers_mut().insert(method, "POST".parse().unwrap());
        let response = stack.clone().oneshot(preflight).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(standing(&books).await, Standing::untouched(), "answered outside");

        let response = stack.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert!(response.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    }

    async fn panicking() -> &'static str {
        yield_now().await;
        panic!("the handler panics");
    }

    #[tokio::test]
    async fn a_panic_that_is_caught() {
        for outside in [true, false] {
            let books = books();
            let route = Router::new().route("/", get(panicking));
            let service = match outside {
                true => route.layer(layer(&books)).layer(CatchPanicLayer::new()),
                false => route.layer(CatchPanicLayer::new()).layer(layer(&books)),
            };
            let response = service.oneshot(get_request("/")).await.unwrap();
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(standing(&books).await, Standing::untouched(), "outside: {outside}");
        }
    }

    #[tokio::test]
    async fn a_concurrency_limit() {
        for check in [Answer::Obey, Answer::LateAnswer] {
            for outside in [true, false] {
                let books = books();
                let backend = Scripted::over(&books);
                backend.on_check(check);
                let limit = GlobalConcurrencyLimitLayer::new(1);
                let service = ServiceBuilder::new()
                    .option_layer(outside.then_some(limit.clone()))
                    .layer(layer(&Books::new(backend.clone())))
                    .option_layer((!outside).then_some(limit))
                    .service(answering());
                let tasks: Vec<_> = (0..20)
                    .map(|_| {
                        let service = service.clone();
                        tokio::spawn(async move {
                            text(service.oneshot(get_request("/")).await.unwrap()).await
                        })
                    })
                    .collect();
                for task in tasks {
                    while !task.is_finished() {
                        backend.resume();
                        yield_now().await;
                    }
                    assert_eq!(task.await.unwrap(), TEXT);
                }
                let expected = Standing::charged(140, 20);
                assert_eq!(standing(&books).await, expected, "{check:?}, outside: {outside}");
            }
        }
    }

    #[tokio::test]
    async fn load_shed_and_buffer() {
        let books = books();
        let service = ServiceBuilder::new()
            .layer(BufferLayer::new(8))
            .layer(layer(&books))
            .layer(LoadShedLayer::new())
            .layer(ConcurrencyLimitLayer::new(1))
            .layer(BufferLayer::new(8))
            .service(hanging());
        let first = tokio::spawn(service.clone().oneshot(get_request("/")));
        while books.open_holds().await.unwrap() == 0 {
            yield_now().await;
        }
        let shed: Result<Response<_>, BoxError> = service.oneshot(get_request("/")).await;
        assert!(shed.map(drop).unwrap_err().to_string().contains("overloaded"));
        assert_eq!(books.open_holds().await.unwrap(), 1, "only the first holds");
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn load_shed_outside_lets_go_of_what_it_refuses() {
        let books = books();
        let service = ServiceBuilder::new()
            .layer(LoadShedLayer::new())
            .layer(GlobalConcurrencyLimitLayer::new(1))
            .layer(layer(&books))
            .service(hanging());
        let mut first = Box::pin(service.clone().oneshot(get_request("/")));
        assert!(poll_once(&mut first).is_pending());
        let shed = service.oneshot(get_request("/")).await.map(drop);
        assert!(shed.is_err());
        drop(first);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn everything_at_once() {
        let books = books();
        let stack = ServiceBuilder::new()
            .layer(TraceLayer::new_for_http())
            .layer(CorsLayer::permissive())
            .layer(CompressionLayer::new())
            .layer(TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                Duration::from_secs(30),
            ))
            .layer(RequestBodyTimeoutLayer::new(Duration::from_secs(30)));
        let stack = Router::new()
            .route("/", get(|| async { TEXT }))
            .layer(ConcurrencyLimitLayer::new(64))
            .layer(layer(&books))
            .layer(stack);
        for _ in 0..10 {
            let response = stack.clone().oneshot(get_request("/")).await.unwrap();
            assert_eq!(text(response).await, TEXT);
        }
        assert_eq!(standing(&books).await, Standing::charged(70, 10));
    }
}

mod a_router {
    use super::*;

    async fn chat(reporter: Reporter) -> impl IntoResponse {
        reporter.add("tokens", 5);
        TEXT
    }

    async fn standing_of(State(books): State<Books>, Path(customer): Path<String>) -> String {
        let usage = books.usage(customer).await.unwrap();
        usage.limits().map(|limit| format!("{} of {}", limit.used(), limit.limit())).collect()
    }

    fn reported<B: Backend>(books: &Books<B>) -> LimitryLayer<B> {
        LimitryLayer::new(books.clone(), identify(), usage::reported()).estimate(|_| tokens(10))
    }

    fn app(books: &Books<Engine>) -> Router {
        Router::new()
            .route("/chat", post(chat))
            .route("/json", get(|| async { axum::Json(serde_json::json!({ "tokens": 7 })) }))
            .route_layer(reported(books))
            .route("/usage/{customer}", get(standing_of))
            .with_state(books.erased())
    }

    fn post_request(path: &str) -> Request<Body> {
        Request::post(path).header("x-customer", CUSTOMER).body(Body::from("{}")).unwrap()
    }

    #[tokio::test]
    async fn meters_the_routes_before_the_layer_and_no_others() {
        let books = books();
        let app = app(&books);
        let response = app.clone().oneshot(post_request("/chat")).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_LENGTH], TEXT.len().to_string());
        assert_eq!(text(response).await, TEXT);
        let response = app.clone().oneshot(get_request("/usage/acct_42")).await.unwrap();
        assert_eq!(text(response).await, "5 of 1000");
        let response = app.clone().oneshot(get_request("/nowhere")).await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(standing(&books).await, Standing::recorded(5, 1));
    }

    #[tokio::test]
    async fn records_no_answer_to_a_wrong_method_or_to_a_path_it_has_not() {
        let books = books();
        let app = app(&books).layer(reported(&books));
        for request in [get_request("/chat"), get_request("/nowhere")] {
            let response = app.clone().oneshot(request).await.unwrap();
            assert!(response.status().is_client_error());
        }
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn answers_head_without_polling_the_body() {
        let books = books();
        let mut request = get_request("/json");
        *request.method_mut() = Method::HEAD;
        let response = app(&books).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        drop(response);
        assert_eq!(standing(&books).await, Standing::recorded(10, 1));
    }

    #[tokio::test]
    async fn nested_and_merged_routers_are_metered_each_by_its_layer() {
        let books = books();
        let outer = reported(&books).event_type("api").charge(CREDITS, price);
        let inner = reported(&books).event_type("chat").charge(CREDITS, price);
        let app = Router::new()
            .nest("/v1", Router::new().route("/chat", post(chat)).route_layer(inner))
            .merge(Router::new().route("/other", post(chat)))
            .route_layer(outer);
        for path in ["/v1/chat", "/other"] {
            let response = app.clone().oneshot(post_request(path)).await.unwrap();
            assert_eq!(text(response).await, TEXT);
        }
        let events = events(&books).await;
        let mut types: Vec<_> = events.iter().map(|event| event.event_type()).collect();
        types.sort_unstable();
        assert_eq!(types, ["api", "api", "chat"]);
        let balance = books.balance(CUSTOMER, CREDITS).await.unwrap().unwrap();
        assert_eq!(balance.current(), 490.into(), "each request is charged once");
    }

    #[tokio::test]
    async fn a_request_that_is_read_still_reaches_its_extractors() {
        #[derive(serde::Deserialize)]
        struct Chat {
            max_tokens: u64,
        }

        async fn complete(decision: Decision, axum::Json(chat): axum::Json<Chat>) -> String {
            let held = decision.limits().next().unwrap().held();
            format!("{held} of {}", chat.max_tokens)
        }
        let books = books();
        let reading: LimitryLayer<Engine, ReadJson> =
            reported(&books).request_json(1_024, |chat: &Chat| tokens(chat.max_tokens));
        let app = Router::new().route("/", post(complete)).route_layer(reading);
        for (asked, status, answer) in
            [(40, StatusCode::OK, "40 of 40"), (4_000, StatusCode::TOO_MANY_REQUESTS, "")]
        {
            let body = Body::from(format!(r#"{{"max_tokens": {asked}}}"#));
            let request = Request::post("/").header("x-customer", CUSTOMER);
            let request = request.header(header::CONTENT_TYPE, "application/json");
            let response = app.clone().oneshot(request.body(body).unwrap()).await.unwrap();
            assert_eq!(response.status(), status);
            if status.is_success() {
                assert_eq!(text(response).await, answer);
            }
        }
        assert_eq!(standing(&books).await, Standing::recorded(40, 1));
    }

    #[tokio::test]
    async fn a_stream_is_metered_to_its_end_and_reports_as_it_goes() {
        async fn stream(reporter: Reporter) -> Body {
            let words = ["one ", "two ", "three"];
            Body::from_stream(futures_util::stream::iter(words.into_iter().map(move |word| {
                reporter.add("tokens", 1);
                Ok::<_, Infallible>(word)
            })))
        }
        let books = books();
        let app = Router::new().route("/", get(stream)).route_layer(reported(&books));
        let response = app.clone().oneshot(get_request("/")).await.unwrap();
        assert!(!response.headers().contains_key(header::CONTENT_LENGTH));
        assert_eq!(text(response).await, "one two three");
        assert_eq!(standing(&books).await, Standing::recorded(3, 1));

        let mut body = app.oneshot(get_request("/")).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert_eq!(standing(&books).await, Standing::recorded(13, 2), "it left early");
    }

    #[tokio::test]
    async fn a_layer_for_one_method_leaves_the_others_alone() {
        let books = books();
        let app = Router::new()
            .route("/", get(|| async { "free" }).merge(post(chat).layer(reported(&books))));
        app.clone().oneshot(get_request("/")).await.unwrap();
        assert_eq!(standing(&books).await, Standing::untouched());
        text(app.oneshot(post_request("/")).await.unwrap()).await;
        assert_eq!(standing(&books).await, Standing::recorded(5, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn under_a_timeout_gives_up_a_check_that_hangs() {
        let books = books();
        let backend = Scripted::over(&books);
        backend.on_check(Answer::Hang);
        let layer = reported(&Books::new(backend)).check_timeout(Duration::from_secs(60));
        let app = Router::new().route("/", post(chat)).route_layer(layer).layer(
            TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(3)),
        );
        let started = Instant::now();
        let response = app.oneshot(post_request("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(started.elapsed().as_secs(), 3);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn an_empty_request_passes_with_the_size_that_it_has() {
        let books = books();
        let app = app(&books);
        let request = request().map(Body::new);
        let response = app.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.body().size_hint().exact(), Some(0));
        let _: Empty<Bytes> = Empty::new();
    }
}

/// What is known from the head needs no body.
#[tokio::test]
async fn a_closure_over_the_head_measures_under_everything() {
    let books = books();
    let by_header = |head: &response::Parts| {
        let used = head.headers.get("x-tokens")?.to_str().ok()?;
        Some(tower_limitry::Usage::of("tokens", used))
    };
    let layer = LimitryLayer::new(books.clone(), identify(), by_header);
    let app = Router::new().route("/", get(|| async { ([("x-tokens", "2.5")], TEXT) }));
    let response = app.route_layer(layer).oneshot(get_request("/")).await.unwrap();
    assert_eq!(response.headers()["x-tokens"], "2.5");
    assert_eq!(standing(&books).await.used, "2.5".parse().unwrap());
}
