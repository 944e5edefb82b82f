//! What a request meets on its way through the layer.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::{Future, Ready, pending, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, Request, Response, StatusCode, response};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use tokio::task::yield_now;
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_limitry::backend::Backend;
use tower_limitry::classify::Classification;
use tower_limitry::customer::{self, Identify};
use tower_limitry::request::RequestBody;
use tower_limitry::test_util::{Answer, Call, Scripted, assert_no_open_holds};
use tower_limitry::usage::{self, Measured, Watch};
use tower_limitry::{
    Amount, Books, Check, CustomerId, Decision, Denial, Engine, ErrorKind, FailurePolicy, Limit,
    Limitry, LimitryLayer, Meter, MissingCustomer, MissingUsage, Refusal, Reporter, Unmetered,
    Usage,
};

#[path = "support/http.rs"]
mod support;

use support::*;

/// Measures seven tokens, estimates ten.
fn layer<B: Backend>(books: &Books<B>) -> LimitryLayer<B> {
    LimitryLayer::new(books.clone(), identify(), seven).estimate(|_| tokens(10))
}

fn seven(_: &response::Parts) -> Option<Usage> {
    Some(tokens(7))
}

/// A service that always answers `hello`, and counts its calls.
fn hello<Q>(
    calls: &Counter,
) -> impl Service<
    Request<Q>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future = Ready<Answered>,
> + Clone
+ use<Q> {
    let calls = calls.clone();
    service_fn(move |_: Request<Q>| {
        calls.add();
        ready(Ok(ok("hello")))
    })
}

mod readiness {
    use super::*;

    /// Calls a service once it is ready.
    async fn send<S>(service: &mut S) -> S::Future
    where
        S: Service<Request<Empty<Bytes>>, Error: std::fmt::Debug>,
    {
        service.ready().await.unwrap().call(request())
    }

    /// Panics when it is called without having been ready; its clones are not ready.
    #[derive(Default)]
    struct Strict {
        is_ready: bool,
        clones: Counter,
    }

    impl Clone for Strict {
        fn clone(&self) -> Self {
            self.clones.add();
            Self { is_ready: false, clones: self.clones.clone() }
        }
    }

    impl<Q> Service<Request<Q>> for Strict {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.is_ready = true;
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Q>) -> Self::Future {
            assert!(self.is_ready, "called without having been ready");
            self.is_ready = false;
            ready(Ok(ok("hello")))
        }
    }

    #[tokio::test]
    async fn the_service_that_was_ready_is_called_and_not_a_clone() {
        let strict = Strict::default();
        let mut service = layer(&books()).layer(strict.clone());
        let before = strict.clones.get();
        for _ in 0..3 {
            let response = send(&mut service).await.await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
        }
        assert_eq!(strict.clones.get(), before, "nothing is cloned where the books answer at once");
    }

    #[tokio::test]
    async fn the_service_that_was_ready_is_called_when_the_backend_is_slow() {
        let backend = Scripted::over(&books());
        backend.on_check(Answer::LateAnswer);
        let mut service = layer(&Books::new(backend.clone())).layer(Strict::default());
        for _ in 0..3 {
            let mut answer = send(&mut service).await;
            assert!(poll_once(&mut answer).is_pending());
            backend.resume();
            assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn the_service_that_was_ready_is_called_when_the_request_is_read() {
        let strict = Strict::default();
        let reading = layer(&books()).request_json(100, |_: &serde_json::Value| tokens(1));
        let mut service = reading.layer(strict);
        for _ in 0..3 {
            let response = send(&mut service).await.await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn a_concurrency_limit_inside_is_respected() {
        let hanging = service_fn(|_: Request<Empty<Bytes>>| {
            pending::<Result<Response<Full<Bytes>>, Infallible>>()
        });
        for answer in [Answer::Obey, Answer::LateAnswer] {
            let backend = Scripted::over(&books());
            backend.on_check(answer);
            let limited = ConcurrencyLimitLayer::new(1).layer(hanging);
            let mut service = layer(&Books::new(backend.clone())).layer(limited);
            let mut other = service.clone();

            let mut first = service.ready().await.unwrap().call(request());
            assert!(poll_once(&mut first).is_pending());
            backend.resume();
            assert!(poll_once(&mut first).is_pending());
            assert!(poll_once(&mut service.ready()).is_pending(), "one at a time, {answer:?}");
            assert!(poll_once(&mut other.ready()).is_pending(), "one at a time, {answer:?}");
            drop(first);
            service.ready().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_refusal_gives_the_place_back_to_a_concurrency_limit_inside() {
        let backend = Scripted::over(&books());
        backend.on_check(Answer::Deny);
        let limited = ConcurrencyLimitLayer::new(1).layer(hello(&Counter::default()));
        let service = layer(&Books::new(backend)).layer(limited);
        for _ in 0..3 {
            let response = service.clone().oneshot(request()).await.unwrap();
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        }
    }

    #[tokio::test]
    async fn errors_of_the_service_pass_unchanged() {
        #[derive(Clone)]
        struct Unready;

        impl<Q> Service<Request<Q>> for Unready {
            type Response = Response<Full<Bytes>>;
            type Error = Broken;
            type Future = Ready<Result<Self::Response, Broken>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
                Poll::Ready(Err(Broken))
            }

            fn call(&mut self, _: Request<Q>) -> Self::Future {
                unreachable!("never ready")
            }
        }
        let mut service = layer(&books()).layer(Unready);
        let unready = ServiceExt::<Request<Empty<Bytes>>>::ready(&mut service).await.err();
        assert_eq!(unready, Some(Broken));

        let books = books();
        let failing =
            service_fn(|_: Request<_>| ready(Err::<Response<Full<Bytes>>, Broken>(Broken)));
        let answer = layer(&books).layer(failing).oneshot(request()).await;
        assert_eq!(answer.map(|response| response.status()), Err(Broken));
        assert_eq!(standing(&books).await, Standing::untouched());
    }
}

mod decisions {
    use super::*;

    #[tokio::test]
    async fn an_allowed_request_runs_and_its_usage_is_recorded() {
        let (books, calls) = (books(), Counter::default());
        let service = layer(&books).event_type("llm.completion").layer(hello(&calls));
        let response = service.oneshot(request()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(frames(response.into_body()).await, ["hello"]);
        assert_eq!(calls.get(), 1);
        assert_eq!(standing(&books).await, Standing::recorded(7, 1));
        let event = &events(&books).await[0];
        assert_eq!(event.customer().as_str(), CUSTOMER);
        assert_eq!(event.event_type(), "llm.completion");
        assert_eq!(*event.usage(), tokens(7));
    }

    #[tokio::test]
    async fn a_denied_request_never_reaches_the_service_and_changes_nothing() {
        let (books, calls) = (books(), Counter::default());
        let layer = layer(&books).estimate(|_| tokens(1_001));
        let response = layer.layer(hello(&calls)).oneshot(request()).await.unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(response.extensions().get::<Denial>().is_some());
        assert_eq!(calls.get(), 0);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn a_denied_request_whose_check_was_slow_never_reaches_the_service() {
        let (books, calls) = (books(), Counter::default());
        let backend = Scripted::over(&books);
        backend.on_check(Answer::LateAnswer);
        let layer = layer(&Books::new(backend.clone())).estimate(|_| tokens(1_001));
        let mut answer = layer.layer(hello(&calls)).oneshot(request());
        assert!(poll_once(&mut answer).is_pending());
        backend.resume();
        assert_eq!(answer.await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(calls.get(), 0);
        assert_eq!(standing(&books).await, Standing::untouched());
        assert!(!backend.calls().contains(&Call::Release), "there is nothing to release");
    }

    #[tokio::test]
    async fn a_balance_that_does_not_cover_the_estimate_refuses() {
        let (books, calls) = (books(), Counter::default());
        let layer = layer(&books).charge(CREDITS, price).estimate(|_| tokens(501));
        let response = layer.layer(hello(&calls)).oneshot(request()).await.unwrap();
        assert!(response.status().is_client_error());
        let denial = response.extensions().get::<Denial>().unwrap();
        assert_eq!(denial.kind().as_str(), "balance_short");
        assert_eq!(calls.get(), 0);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn a_request_without_customer_is_refused() {
        let (books, calls) = (books(), Counter::default());
        let service = layer(&books).layer(hello(&calls));
        let response = service.oneshot(Request::new(Empty::<Bytes>::new())).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(calls.get(), 0);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn a_request_without_customer_passes_where_it_may() {
        let (books, calls) = (books(), Counter::default());
        let layer = layer(&books).on_missing_customer(MissingCustomer::PassUnmetered);
        let service = layer.layer(hello(&calls));
        let response = service.oneshot(Request::new(Empty::<Bytes>::new())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(calls.get(), 1);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn a_header_that_comes_twice_or_is_too_long_names_no_customer() {
        let (books, calls) = (books(), Counter::default());
        let service = layer(&books).layer(hello(&calls));
        let twice = Request::builder().header("x-customer", "a").header("x-customer", "b");
        let long = Request::builder().header("x-customer", "a".repeat(257));
        let empty = Request::builder().header("x-customer", "");
        for request in [twice, long, empty] {
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let response = service.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        }
        assert_eq!(calls.get(), 0);
    }

    #[tokio::test]
    async fn the_customer_comes_from_an_extension_or_a_hashed_key() {
        #[derive(Clone)]
        struct User {
            account: String,
        }
        let (books, calls) = (books(), Counter::default());
        let by_extension = customer::extension(|user: &User| &user.account);
        let service = LimitryLayer::new(books.clone(), by_extension, seven).layer(hello(&calls));
        let mut request = Request::new(Empty::<Bytes>::new());
        request.extensions_mut().insert(User { account: CUSTOMER.to_owned() });
        assert_eq!(service.oneshot(request).await.unwrap().status(), StatusCode::OK);
        assert_eq!(events(&books).await[0].customer().as_str(), CUSTOMER);

        let by_key = customer::bearer_key();
        let service = LimitryLayer::new(books.clone(), by_key, seven).layer(hello(&calls));
        let request = Request::builder().header("authorization", "bEaReR  secret ");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(service.oneshot(request).await.unwrap().status(), StatusCode::OK);
        let id = events(&books).await[1].customer().as_str().to_owned();
        assert_eq!(id, "key_2bb80d537b1da3e38bd30361aa855686");

        let by_header = customer::header_key("x-api-key");
        let service = LimitryLayer::new(books.clone(), by_header, seven).layer(hello(&calls));
        for (key, status) in [("secret", StatusCode::OK), (" ", StatusCode::UNAUTHORIZED)] {
            let request = Request::builder().header("x-api-key", key);
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            assert_eq!(service.clone().oneshot(request).await.unwrap().status(), status);
        }
        assert_eq!(events(&books).await[2].customer().as_str(), id, "the key, wherever it is");
    }

    #[tokio::test]
    async fn a_skipped_request_passes_untouched() {
        let (books, calls) = (books(), Counter::default());
        let layer = layer(&books).skip(|head| head.uri.path() == "/health");
        let service = layer.layer(hello(&calls));
        let request = Request::builder().uri("/health").body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(service.oneshot(request).await.unwrap().status(), StatusCode::OK);
        assert_eq!(calls.get(), 1);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn the_event_type_is_request_unless_set_and_may_come_from_the_head() {
        let (books, calls) = (books(), Counter::default());
        let unset = layer(&books);
        let by_head = unset.clone().event_type_of(|head| head.uri.path().replace('/', ""));
        for layer in [unset, by_head] {
            for path in ["/chat", "/images", "/"] {
                let request = Request::builder().uri(path).header("x-customer", CUSTOMER);
                let request = request.body(Empty::<Bytes>::new()).unwrap();
                layer.layer(hello(&calls)).oneshot(request).await.unwrap();
            }
        }
        let events = events(&books).await;
        let types: Vec<_> = events.iter().map(|event| event.event_type()).collect();
        assert_eq!(types, ["request", "request", "request", "chat", "images", "request"]);
    }

    #[tokio::test]
    async fn only_limits_that_such_an_event_can_move_refuse() {
        let books = Engine::builder()
            .meter(Meter::count("chats").event_type("chat"))
            .meter(Meter::sum("tokens", "tokens"))
            .limit(Limit::per_day("one-chat", "chats", 1))
            .build()
            .unwrap();
        let calls = Counter::default();
        for (event_type, status) in [
            ("chat", StatusCode::OK),
            ("chat", StatusCode::TOO_MANY_REQUESTS),
            ("image", StatusCode::OK),
        ] {
            let service = layer(&books).event_type(event_type).layer(hello(&calls));
            assert_eq!(service.oneshot(request()).await.unwrap().status(), status, "{event_type}");
        }
    }

    #[tokio::test]
    async fn estimate_and_dimensions_from_the_head_are_held_and_kept() {
        let books = builder()
            .limit(Limit::per_day("large", "tokens", 50).dimension("model", "large"))
            .build()
            .unwrap();
        let seen = Seen::default();
        let looking = {
            let (books, seen) = (books.clone(), seen.clone());
            service_fn(move |_: Request<Empty<Bytes>>| {
                let (books, seen) = (books.clone(), seen.clone());
                async move {
                    seen.push(standing(&books).await.held);
                    Ok::<_, Infallible>(ok("hello"))
                }
            })
        };
        let layer = layer(&books).estimate(|head| {
            let model = head.headers.get("x-model").and_then(|model| model.to_str().ok());
            let expected = tokens(head.uri.path()[1..].parse().unwrap());
            expected.dimension("model", model.unwrap_or("small"))
        });
        let ask = |tokens: &str, model: &'static str| {
            let request = Request::builder().uri(format!("/{tokens}")).header("x-model", model);
            request.header("x-customer", CUSTOMER).body(Empty::<Bytes>::new()).unwrap()
        };
        let service = layer.layer(looking);
        let allowed = service.clone().oneshot(ask("50", "large")).await.unwrap();
        assert_eq!(allowed.status(), StatusCode::OK);
        assert_eq!(seen.take(), [Amount::from(50)]);
        assert_eq!(events(&books).await[0].usage().dimensions().get("model"), Some("large"));
        let denied = service.clone().oneshot(ask("44", "large")).await.unwrap();
        assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
        let other = service.oneshot(ask("44", "small")).await.unwrap();
        assert_eq!(other.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn an_estimate_that_is_no_number_or_below_zero_is_none() {
        let (books, calls) = (books(), Counter::default());
        for expected in [Usage::of("tokens", f64::NAN), Usage::of("tokens", -5)] {
            let layer = layer(&books).estimate(move |_| expected.clone());
            let response = layer.layer(hello(&calls)).oneshot(request()).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
        }
        assert_eq!(standing(&books).await, Standing::recorded(14, 2));
    }

    /// Whoever sends `"max_tokens": 1e300` asks for too much; that is no trouble of ours.
    #[tokio::test]
    async fn an_estimate_beyond_every_amount_is_too_large_and_not_our_error() {
        let (books, calls) = (books(), Counter::default());
        for expected in [Usage::of("tokens", 1e300), Usage::of("tokens", u64::MAX)] {
            let limited = layer(&books).estimate(move |_| expected.clone());
            for layer in [limited.clone(), limited.charge(CREDITS, price)] {
                let response = layer.layer(hello(&calls)).oneshot(request()).await.unwrap();
                assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
                let denial = response.extensions().get::<Denial>().unwrap();
                assert_eq!(denial.kind().as_str(), "too_large");
            }
        }
        assert_eq!(calls.get(), 0);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn a_charge_takes_from_the_balance_named() {
        let (books, calls) = (books(), Counter::default());
        let layer = layer(&books).charge(CREDITS, price);
        let response = layer.layer(hello(&calls)).oneshot(request()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(standing(&books).await, Standing::charged(7, 1));
    }

    #[tokio::test]
    async fn a_charge_takes_from_the_balance_that_the_head_names() {
        let (books, calls) = (books(), Counter::default());
        let layer =
            layer(&books).charge_of(|head: &Parts| head.uri.path()[1..].replace('-', " "), price);
        for (path, status) in
            [("/AI-Credits", StatusCode::OK), ("/Nothing", StatusCode::PAYMENT_REQUIRED)]
        {
            let request = Request::builder().uri(path).header("x-customer", CUSTOMER);
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let response = layer.layer(hello(&calls)).oneshot(request).await.unwrap();
            assert_eq!(response.status().is_success(), status.is_success(), "{path}");
        }
        assert_eq!(standing(&books).await, Standing::charged(7, 1));
    }

    #[tokio::test]
    async fn more_than_the_estimate_is_charged_in_full_and_refuses_what_follows() {
        let (books, calls) = (books(), Counter::default());
        let spend = |head: &response::Parts| {
            let _ = head;
            Some(tokens(700))
        };
        let layer = LimitryLayer::new(books.clone(), identify(), spend)
            .estimate(|_| tokens(10))
            .charge(CREDITS, price);
        let service = layer.layer(hello(&calls));
        assert_eq!(service.clone().oneshot(request()).await.unwrap().status(), StatusCode::OK);
        let after = standing(&books).await;
        assert_eq!((after.used, after.credits), (700.into(), (-200).into()));
        let response = service.oneshot(request()).await.unwrap();
        assert!(response.status().is_client_error());
        assert_eq!(calls.get(), 1);
    }
}

mod request_json {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Chat {
        max_tokens: u64,
    }

    const CHAT: &str = r#"{"max_tokens": 120, "text": "hi"}"#;

    fn reading<B: Backend>(
        books: &Books<B>,
        most: usize,
    ) -> LimitryLayer<B, tower_limitry::request::ReadJson> {
        let layer = LimitryLayer::new(books.clone(), identify(), seven);
        layer.request_json(most, |chat: &Chat| tokens(chat.max_tokens).dimension("kind", "chat"))
    }

    /// What a service got: what was held meanwhile, and the frames of the request.
    async fn pass(body: Script, most: usize) -> (Amount, Vec<String>) {
        let books = books();
        let seen = Seen::default();
        let service = {
            let (books, seen) = (books.clone(), seen.clone());
            service_fn(move |request: Request<RequestBody<Script>>| {
                let (books, seen) = (books.clone(), seen.clone());
                async move {
                    let held = standing(&books).await.held;
                    seen.push((held, frames(request.into_body()).await));
                    Ok::<_, Infallible>(ok("hello"))
                }
            })
        };
        let request = Request::builder().header("x-customer", CUSTOMER).body(body).unwrap();
        let response = reading(&books, most).layer(service).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_no_open_holds(&books).await;
        seen.take().remove(0)
    }

    #[tokio::test]
    async fn the_estimate_is_read_and_the_body_replayed_frame_by_frame() {
        let (start, end) = CHAT.split_at(9);
        let steps = [data(start), Step::Yield, data(""), data(end)];
        for body in [Script::new(steps.clone()), Script::new(steps.clone()).says_end()] {
            let (held, frames) = pass(body, 1_000).await;
            assert_eq!(held, 120.into());
            assert_eq!(frames, [start, "", end]);
        }
    }

    #[tokio::test]
    async fn any_chunking_reads_the_same() {
        for size in 1..=CHAT.len() {
            let pieces = CHAT.as_bytes().chunks(size);
            let steps = pieces.map(|piece| data(std::str::from_utf8(piece).unwrap()));
            let (held, frames) = pass(Script::new(steps), CHAT.len()).await;
            assert_eq!(held, 120.into());
            assert_eq!(frames.concat(), CHAT);
            assert_eq!(frames.len(), CHAT.len().div_ceil(size));
        }
    }

    #[tokio::test]
    async fn trailers_are_replayed() {
        let steps = [data(CHAT), Step::Trailers(&[("x-sum", "1")])];
        let (held, frames) = pass(Script::new(steps), 1_000).await;
        assert_eq!(held, 120.into());
        assert_eq!(frames, [CHAT, r#"{"x-sum": "1"}"#]);
    }

    #[tokio::test]
    async fn a_body_that_is_too_long_is_checked_without_estimate_and_passes_whole() {
        let (start, end) = CHAT.split_at(9);
        let steps = [data(start), data(end), data("x"), Step::Trailers(&[("x-sum", "1")])];
        let told = Script::new(steps.clone()).exact();
        let polls = told.polls();
        for body in [Script::new(steps), told] {
            let (held, frames) = pass(body, CHAT.len()).await;
            assert_eq!(held, Amount::ZERO);
            assert_eq!(frames, [start, end, "x", r#"{"x-sum": "1"}"#]);
        }
        assert_eq!(polls.get(), 5, "a body that says so is not read first");
    }

    /// Frames without data are no way around the bound.
    #[tokio::test]
    async fn endless_empty_frames_are_not_kept() {
        let steps = std::iter::repeat_n(data(""), 10_000).chain([data(CHAT)]);
        let body = Script::new(steps);
        let (polls, before) = (body.polls(), Seen::default());
        let service = {
            let (polls, before) = (polls.clone(), before.clone());
            service_fn(move |request: Request<RequestBody<Script>>| {
                before.push(polls.get());
                async move {
                    drop(request);
                    Ok::<_, Infallible>(ok("hello"))
                }
            })
        };
        let request = Request::builder().header("x-customer", CUSTOMER).body(body).unwrap();
        reading(&books(), 64).layer(service).oneshot(request).await.unwrap();
        let read = before.take()[0];
        assert!(read < 100, "{read} frames were kept");
    }

    #[tokio::test]
    async fn what_is_no_json_of_this_shape_is_checked_without_estimate() {
        for text in ["", "{", "[]", r#"{"max_tokens": "many"}"#] {
            let (held, frames) = pass(Script::new([data(text)]), 1_000).await;
            assert_eq!(held, Amount::ZERO);
            assert_eq!(frames, [text]);
        }
        for body in [Script::new([]), Script::new([]).says_end()] {
            assert_eq!(pass(body, 1_000).await, (Amount::ZERO, Vec::new()));
        }
    }

    #[tokio::test]
    async fn a_body_that_fails_while_it_is_read_fails_for_the_service_too() {
        let seen = Seen::default();
        let service = {
            let seen = seen.clone();
            service_fn(move |request: Request<RequestBody<Script>>| {
                let seen = seen.clone();
                async move {
                    let mut body = request.into_body();
                    seen.push(body.frame().await.unwrap().map(|frame| frame.into_data().unwrap()));
                    seen.push(body.frame().await.unwrap().map(|frame| frame.into_data().unwrap()));
                    Ok::<_, Infallible>(status(StatusCode::BAD_REQUEST))
                }
            })
        };
        let body = Script::new([data("{"), Step::Fail]);
        let request = Request::builder().header("x-customer", CUSTOMER).body(body).unwrap();
        let books = books();
        let response = reading(&books, 1_000).layer(service).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(seen.take(), [Ok(Bytes::from_static(b"{")), Err(Broken)]);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn the_size_hint_is_true_before_and_while_it_is_replayed() {
        let seen = Seen::default();
        let service = {
            let seen = seen.clone();
            service_fn(move |request: Request<RequestBody<Script>>| {
                let seen = seen.clone();
                async move {
                    let mut body = request.into_body();
                    loop {
                        seen.push((body.size_hint().exact(), body.is_end_stream()));
                        if body.frame().await.is_none() {
                            return Ok::<_, Infallible>(ok("hello"));
                        }
                    }
                }
            })
        };
        for most in [2, 1_000] {
            let body = Script::new([data("{\"a\""), data(":1}")]).exact().says_end();
            let request = Request::builder().header("x-customer", CUSTOMER).body(body).unwrap();
            reading(&books(), most).layer(service.clone()).oneshot(request).await.unwrap();
            assert_eq!(seen.take(), [(Some(7), false), (Some(3), false), (Some(0), true)]);
        }
    }

    #[tokio::test]
    async fn the_estimates_of_head_and_body_add_up_where_they_speak_of_different_things() {
        let books = books();
        let backend = Scripted::over(&books);
        let both = reading(&Books::new(backend.clone()), 1_000)
            .estimate(|_| Usage::of("images", 2).and("tokens", 1));
        let both = both.on_missing_usage(MissingUsage::ChargeEstimate);
        let service = both.layer(service_fn(|_: Request<RequestBody<Script>>| async {
            Ok::<_, Infallible>(ok("hello"))
        }));
        let body = Script::new([data(CHAT)]);
        let request = Request::builder().header("x-customer", CUSTOMER).body(body).unwrap();
        service.oneshot(request).await.unwrap();
        let usage = events(&books).await[0].usage().clone();
        assert_eq!(usage, tokens(7).dimension("kind", "chat"));
    }

    #[tokio::test]
    async fn a_client_that_leaves_while_its_body_is_read_leaves_nothing() {
        let (books, calls) = (books(), Counter::default());
        let body = Script::new([data("{"), Step::Stall]);
        let request = Request::builder().header("x-customer", CUSTOMER).body(body).unwrap();
        let mut answer = reading(&books, 1_000).layer(hello(&calls)).oneshot(request);
        assert!(poll_once(&mut answer).is_pending());
        drop(answer);
        assert_eq!(calls.get(), 0);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn a_denied_request_is_read_and_goes_no_further() {
        let (books, calls) = (books(), Counter::default());
        let body = Script::new([data(r#"{"max_tokens": 1001}"#)]);
        let request = Request::builder().header("x-customer", CUSTOMER).body(body).unwrap();
        let response = reading(&books, 1_000).layer(hello(&calls)).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(calls.get(), 0);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn skipped_requests_and_those_without_customer_are_not_read() {
        let (books, calls) = (books(), Counter::default());
        let skipping = reading(&books, 1_000).skip(|head| head.uri.path() == "/health");
        let passing = reading(&books, 1_000).on_missing_customer(MissingCustomer::PassUnmetered);
        let health = Request::builder().uri("/health").header("x-customer", CUSTOMER);
        for (layer, request) in [
            (skipping, health),
            (passing, Request::builder()),
            (reading(&books, 1_000), Request::builder()),
        ] {
            let body = Script::new([data(CHAT)]);
            let polls = body.polls();
            let request = request.body(body).unwrap();
            layer.layer(hello(&calls)).oneshot(request).await.unwrap();
            assert_eq!(polls.get(), 0);
        }
        assert_eq!(calls.get(), 2);
    }
}

mod classification {
    use super::*;

    async fn recorded<B>(
        response: Response<B>,
        change: impl FnOnce(LimitryLayer<Engine>) -> LimitryLayer<Engine>,
    ) -> usize
    where
        B: Body<Data = Bytes, Error: std::fmt::Debug> + Send + 'static,
    {
        let books = books();
        let response = std::sync::Mutex::new(Some(response));
        let response = Arc::new(response);
        let service = service_fn(move |_: Request<Empty<Bytes>>| {
            ready(Ok::<_, Infallible>(response.lock().unwrap().take().unwrap()))
        });
        let layer = change(layer(&books));
        let response = layer.layer(service).oneshot(request()).await.unwrap();
        frames(response.into_body()).await;
        assert_no_open_holds(&books).await;
        events(&books).await.len()
    }

    #[tokio::test]
    async fn only_2xx_and_101_are_recorded() {
        for (code, events) in [
            (101, 1),
            (200, 1),
            (201, 1),
            (202, 1),
            (204, 1),
            (206, 1),
            (299, 1),
            (301, 0),
            (302, 0),
            (304, 0),
            (307, 0),
            (400, 0),
            (404, 0),
            (409, 0),
            (413, 0),
            (429, 0),
            (499, 0),
            (500, 0),
            (502, 0),
            (503, 0),
            (504, 0),
            (599, 0),
            (999, 0),
        ] {
            let code = StatusCode::from_u16(code).unwrap();
            assert_eq!(recorded(status(code), |layer| layer).await, events, "{code}");
        }
    }

    fn grpc(steps: impl IntoIterator<Item = Step>) -> Response<Script> {
        let response = Response::builder().header("content-type", "application/grpc+proto");
        response.body(Script::new(steps)).unwrap()
    }

    #[tokio::test]
    async fn a_grpc_call_succeeds_by_its_status_in_headers_or_trailers() {
        let trailers = |status| Step::Trailers(status);
        let zero = [data("x"), trailers(&[("grpc-status", "0")])];
        assert_eq!(recorded(grpc(zero), |layer| layer).await, 1);
        let eight = [data("x"), trailers(&[("grpc-status", "8")])];
        assert_eq!(recorded(grpc(eight), |layer| layer).await, 0);
        let none = [data("x"), trailers(&[("x-sum", "1")])];
        assert_eq!(recorded(grpc(none), |layer| layer).await, 0);
        assert_eq!(recorded(grpc([data("x")]), |layer| layer).await, 0);
        assert_eq!(recorded(grpc([]), |layer| layer).await, 0);
        let says_end = grpc([data("x")]).map(Script::says_end);
        assert_eq!(recorded(says_end, |layer| layer).await, 0);
        for (status, events) in [("0", 1), ("8", 0), ("", 0)] {
            let mut only = grpc([]).map(Script::says_end);
            only.headers_mut().insert("grpc-status", status.parse().unwrap());
            assert_eq!(recorded(only, |layer| layer).await, events, "{status:?}");
        }
    }

    /// A length that is told does not end a gRPC call: its trailers are still to come.
    #[tokio::test]
    async fn a_grpc_call_with_a_length_still_ends_with_its_trailers() {
        let zero = [data("xyz"), Step::Trailers(&[("grpc-status", "0")])];
        let mut response = grpc(zero.clone());
        response.headers_mut().insert("content-length", "3".parse().unwrap());
        assert_eq!(recorded(response, |layer| layer).await, 1);
        assert_eq!(recorded(grpc(zero).map(Script::exact), |layer| layer).await, 1);
        let empty = [Step::Trailers(&[("grpc-status", "0")])];
        assert_eq!(recorded(grpc(empty).map(Script::exact), |layer| layer).await, 1);
    }

    #[tokio::test]
    async fn grpc_web_is_judged_by_its_http_status() {
        for (kind, events) in [("application/grpc-web", 1), ("application/grpc;v=1", 0)] {
            let response = Response::builder().header("content-type", kind);
            let response = response.body(Script::new([data("x")])).unwrap();
            assert_eq!(recorded(response, |layer| layer).await, events, "{kind}");
        }
    }

    #[tokio::test]
    async fn the_classification_can_be_replaced() {
        let cached = |head: &response::Parts| match head.status {
            StatusCode::NOT_MODIFIED => Classification::Success,
            _ => Classification::Failure,
        };
        let not_modified = status(StatusCode::NOT_MODIFIED);
        assert_eq!(recorded(not_modified, |layer| layer.classify(cached)).await, 1);
        assert_eq!(recorded(ok("hello"), |layer| layer.classify(cached)).await, 0);
    }
}

mod missing_usage {
    use super::*;

    /// The standing after a success whose usage is missing, with and without an estimate.
    async fn after(policy: MissingUsage) -> [Standing; 2] {
        let mut standings = Vec::new();
        for expected in [tokens(10), Usage::new()] {
            let books = books();
            let layer = LimitryLayer::new(books.clone(), identify(), |_: &response::Parts| None)
                .estimate(move |_| expected.clone())
                .charge(CREDITS, price)
                .on_missing_usage(policy);
            let response =
                layer.layer(hello(&Counter::default())).oneshot(request()).await.unwrap();
            frames(response.into_body()).await;
            standings.push(standing(&books).await);
        }
        standings.try_into().unwrap()
    }

    #[tokio::test]
    async fn the_estimate_is_charged_by_default() {
        assert_eq!(MissingUsage::default(), MissingUsage::ChargeEstimate);
        let standings = after(MissingUsage::ChargeEstimate).await;
        assert_eq!(standings, [Standing::charged(10, 1), Standing::charged(0, 1)]);
    }

    #[tokio::test]
    async fn the_event_is_recorded_alone_where_asked() {
        let standings = after(MissingUsage::RecordOnly).await;
        assert_eq!(standings, [Standing::charged(0, 1), Standing::charged(0, 1)]);
    }

    #[tokio::test]
    async fn nothing_is_recorded_where_asked() {
        let standings = after(MissingUsage::Release).await;
        assert_eq!(standings, [Standing::untouched(), Standing::untouched()]);
    }

    #[tokio::test]
    async fn a_price_that_cannot_be_told_is_missing_usage_and_keeps_what_was_measured() {
        let only_small = |usage: &Usage| price(usage).filter(|amount| *amount > 9.into());
        for (policy, expected) in [
            (
                MissingUsage::ChargeEstimate,
                Standing { credits: 490.into(), ..Standing::recorded(7, 1) },
            ),
            (MissingUsage::RecordOnly, Standing::recorded(7, 1)),
            (MissingUsage::Release, Standing::untouched()),
        ] {
            let books = books();
            let layer = layer(&books).charge(CREDITS, only_small).on_missing_usage(policy);
            layer.layer(hello(&Counter::default())).oneshot(request()).await.unwrap();
            assert_eq!(standing(&books).await, expected, "{policy:?}");
        }
    }

    #[tokio::test]
    async fn usage_that_is_no_number_is_missing_and_one_too_large_is_not_lost() {
        let books = books();
        let measure = |amount: f64| move |_: &response::Parts| Some(Usage::of("tokens", amount));
        let broken = LimitryLayer::new(books.clone(), identify(), measure(f64::NAN))
            .estimate(|_| tokens(10));
        broken.layer(hello(&Counter::default())).oneshot(request()).await.unwrap();
        assert_eq!(standing(&books).await, Standing::recorded(10, 1));
        let huge = LimitryLayer::new(books.clone(), identify(), measure(1e300));
        huge.layer(hello(&Counter::default())).oneshot(request()).await.unwrap();
        assert_eq!(standing(&books).await.used, Amount::MAX);
    }
}

mod panics {
    use super::*;

    fn panicking<T, U>(_: &T) -> U {
        panic!("a hook panics")
    }

    #[tokio::test]
    async fn of_the_identification_is_a_missing_customer() {
        struct Panics;

        impl Identify for Panics {
            fn identify(&self, _: &Parts) -> Option<CustomerId> {
                panic!("a hook panics")
            }
        }
        let (books, calls) = (books(), Counter::default());
        let layer = LimitryLayer::new(books.clone(), Panics, seven);
        let response = layer.layer(hello(&calls)).oneshot(request()).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(calls.get(), 0);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    /// The standing after one request through the changed layer, which must be allowed.
    async fn passes(
        change: impl FnOnce(LimitryLayer<Engine>) -> LimitryLayer<Engine>,
    ) -> (Standing, Books<Engine>) {
        let books = books();
        let layer = change(layer(&books));
        let response = layer.layer(hello(&Counter::default())).oneshot(request()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(frames(response.into_body()).await, ["hello"]);
        (standing(&books).await, books)
    }

    #[tokio::test]
    async fn of_the_event_type_leave_the_default_type() {
        let (standing, books) = passes(|layer| layer.event_type_of(panicking::<_, String>)).await;
        assert_eq!(standing, Standing::recorded(7, 1));
        assert_eq!(events(&books).await[0].event_type(), "request");
    }

    #[tokio::test]
    async fn of_the_estimate_leave_none() {
        let (standing, _) = passes(|layer| layer.estimate(panicking)).await;
        assert_eq!(standing, Standing::recorded(7, 1));
    }

    #[tokio::test]
    async fn of_the_estimate_from_json_leave_none() {
        let books = books();
        let layer = LimitryLayer::new(books.clone(), identify(), seven);
        let layer = layer.request_json(100, panicking::<serde_json::Value, Usage>);
        let body = Script::new([data("{}")]);
        let request = Request::builder().header("x-customer", CUSTOMER).body(body).unwrap();
        let response = layer.layer(hello(&Counter::default())).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(standing(&books).await, Standing::recorded(7, 1));
    }

    #[tokio::test]
    async fn of_the_price_are_missing_usage() {
        let (standing, _) = passes(|layer| layer.charge(CREDITS, panicking)).await;
        assert_eq!(standing, Standing::recorded(7, 1));
    }

    #[tokio::test]
    async fn of_the_balance_name_name_no_balance() {
        let (books, calls) = (books(), Counter::default());
        let layer = layer(&books).charge_of(panicking::<Parts, String>, price);
        let response = layer.layer(hello(&calls)).oneshot(request()).await.unwrap();
        assert!(response.status().is_client_error());
        let denial = response.extensions().get::<Denial>().unwrap();
        assert_eq!(denial.kind().as_str(), "no_balance");
        assert_eq!(calls.get(), 0);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn of_the_classification_leave_the_default() {
        let (standing, _) = passes(|layer| layer.classify(panicking)).await;
        assert_eq!(standing, Standing::recorded(7, 1));
    }

    #[tokio::test]
    async fn of_the_skip_leave_the_request_metered() {
        let (standing, _) = passes(|layer| layer.skip(panicking)).await;
        assert_eq!(standing, Standing::recorded(7, 1));
    }

    #[tokio::test]
    async fn of_the_refusal_leave_the_default_answer() {
        let (books, calls) = (books(), Counter::default());
        let layer = layer(&books).estimate(|_| tokens(2_000)).refusal(panicking);
        let response = layer.layer(hello(&calls)).oneshot(request()).await.unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(calls.get(), 0);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn of_the_measure_are_missing_usage() {
        let books = books();
        let measure = panicking::<response::Parts, Option<Usage>>;
        let layer = LimitryLayer::new(books.clone(), identify(), measure);
        let layer = layer.estimate(|_| tokens(10));
        let response = layer.layer(hello(&Counter::default())).oneshot(request()).await.unwrap();
        assert_eq!(frames(response.into_body()).await, ["hello"]);
        assert_eq!(standing(&books).await, Standing::recorded(10, 1));
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum At {
        Data,
        Trailers,
        End,
        Seen,
    }

    struct Watcher(At);

    impl Watch for Watcher {
        fn data(&mut self, _: &[u8]) {
            assert!(self.0 != At::Data, "a hook panics");
        }

        fn trailers(&mut self, _: &http::HeaderMap) {
            assert!(self.0 != At::Trailers, "a hook panics");
        }

        fn end(&mut self) -> Option<Usage> {
            assert!(self.0 != At::End, "a hook panics");
            Some(tokens(7))
        }

        fn seen(&mut self) -> (Option<Usage>, bool) {
            assert!(self.0 != At::Seen, "a hook panics");
            (Some(tokens(3)), true)
        }
    }

    struct Watching(At);

    impl usage::Measure for Watching {
        fn measure(&self, _: &response::Parts) -> Measured {
            Measured::Body(Box::new(Watcher(self.0)))
        }
    }

    #[tokio::test]
    async fn of_the_watch_are_missing_usage_and_the_body_passes() {
        for at in [At::Data, At::Trailers, At::End] {
            let books = books();
            let layer = LimitryLayer::new(books.clone(), identify(), Watching(at));
            let layer = layer.estimate(|_| tokens(10));
            let service = service_fn(|_: Request<Empty<Bytes>>| async {
                let steps = [data("a"), data("b"), Step::Trailers(&[("x", "1")])];
                Ok::<_, Infallible>(Response::new(Script::new(steps)))
            });
            let response = layer.layer(service).oneshot(request()).await.unwrap();
            assert_eq!(frames(response.into_body()).await, ["a", "b", r#"{"x": "1"}"#]);
            assert_eq!(standing(&books).await, Standing::recorded(10, 1), "{at:?}");
        }
    }

    #[tokio::test]
    async fn of_the_watch_when_the_client_leaves_cost_the_estimate() {
        for (at, tokens_used) in [(At::Data, 10), (At::Seen, 10), (At::End, 3)] {
            let books = books();
            let layer = LimitryLayer::new(books.clone(), identify(), Watching(at));
            let layer = layer.estimate(|_| tokens(10));
            let service = service_fn(|_: Request<Empty<Bytes>>| async {
                Ok::<_, Infallible>(Response::new(Script::new([data("a"), Step::Stall])))
            });
            let mut body = layer.layer(service).oneshot(request()).await.unwrap().into_body();
            assert!(poll_frame(&mut body).is_ready());
            drop(body);
            assert_eq!(standing(&books).await, Standing::recorded(tokens_used, 1), "{at:?}");
        }
    }
}

mod idempotency {
    use super::*;

    const KEY: HeaderName = HeaderName::from_static("idempotency-key");

    fn keyed(key: &str) -> Request<Empty<Bytes>> {
        let mut request = request();
        request.headers_mut().insert(KEY, key.parse().unwrap());
        request
    }

    fn layer<B: Backend>(books: &Books<B>) -> LimitryLayer<B> {
        super::layer(books).charge(CREDITS, price).idempotency_key(KEY)
    }

    #[tokio::test]
    async fn a_repeat_runs_again_and_is_charged_once() {
        let (books, calls) = (books(), Counter::default());
        let service = layer(&books).layer(hello(&calls));
        for key in ["k1", "\"k1\"", "k1", "k2"] {
            let response = service.clone().oneshot(keyed(key)).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(frames(response.into_body()).await, ["hello"]);
        }
        assert_eq!(calls.get(), 4);
        assert_eq!(standing(&books).await, Standing::charged(14, 2));
    }

    #[tokio::test]
    async fn requests_without_a_key_are_each_charged() {
        let (books, calls) = (books(), Counter::default());
        let service = layer(&books).layer(hello(&calls));
        for _ in 0..3 {
            service.clone().oneshot(request()).await.unwrap();
        }
        assert_eq!(standing(&books).await, Standing::charged(21, 3));
    }

    #[tokio::test]
    async fn a_repeat_while_the_first_runs_is_answered_409() {
        let (books, calls) = (books(), Counter::default());
        let waiting = {
            let calls = calls.clone();
            service_fn(move |_: Request<Empty<Bytes>>| {
                calls.add();
                async {
                    yield_now().await;
                    Ok::<_, Infallible>(ok("hello"))
                }
            })
        };
        let service = layer(&books).layer(waiting);
        let mut first = Box::pin(service.clone().oneshot(keyed("k1")));
        assert!(poll_once(&mut first).is_pending());
        let second = service.clone().oneshot(keyed("k1")).await.unwrap();
        assert_eq!(second.status(), StatusCode::CONFLICT);
        assert_eq!(calls.get(), 1);
        assert_eq!(standing(&books).await.open, 1, "the first still holds what it asked for");
        assert_eq!(first.await.unwrap().status(), StatusCode::OK);
        assert_eq!(standing(&books).await, Standing::charged(7, 1));
        assert_eq!(service.oneshot(keyed("k1")).await.unwrap().status(), StatusCode::OK);
        assert_eq!(standing(&books).await, Standing::charged(7, 1));
    }

    #[tokio::test]
    async fn a_key_that_is_none_is_answered_400() {
        let (books, calls) = (books(), Counter::default());
        let service = layer(&books).layer(hello(&calls));
        let long = "k".repeat(201);
        for key in ["", "\"\"", "\"k", " ", long.as_str(), "\"", "k\u{e9}"] {
            let mut request = request();
            let key = http::HeaderValue::from_bytes(key.as_bytes()).unwrap();
            request.headers_mut().insert(KEY, key.clone());
            let response = service.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{key:?}");
        }
        assert_eq!(calls.get(), 0);
        assert_eq!(standing(&books).await, Standing::untouched());
        let longest = service.oneshot(keyed(&long[1..])).await.unwrap();
        assert_eq!(longest.status(), StatusCode::OK);
    }

    /// Key and event type share one id. A client that makes both long is refused; it is not our
    /// error.
    #[tokio::test]
    async fn a_key_that_is_too_long_with_its_event_type_is_answered_400() {
        let (books, calls) = (books(), Counter::default());
        let layer = layer(&books).event_type_of(|head| head.uri.path().to_owned());
        let mut request = keyed(&"k".repeat(200));
        *request.uri_mut() = format!("/{}", "p".repeat(100)).parse().unwrap();
        let response = layer.layer(hello(&calls)).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn a_key_is_one_customers_own() {
        let (books, calls) = (books(), Counter::default());
        let service = layer(&books).layer(hello(&calls));
        for customer in ["a", "b", "a"] {
            let mut request = keyed("k1");
            request.headers_mut().insert("x-customer", customer.parse().unwrap());
            service.clone().oneshot(request).await.unwrap();
        }
        let events = events(&books).await;
        let customers: Vec<_> = events.iter().map(|event| event.customer().as_str()).collect();
        assert_eq!(customers, ["a", "b"]);
    }

    #[tokio::test]
    async fn a_failure_frees_its_key() {
        let (books, calls) = (books(), Counter::default());
        let failing_first = {
            let calls = calls.clone();
            service_fn(move |_: Request<Empty<Bytes>>| {
                calls.add();
                let code = if calls.get() == 1 { 500 } else { 200 };
                ready(Ok::<_, Infallible>(status(StatusCode::from_u16(code).unwrap())))
            })
        };
        let service = layer(&books).layer(failing_first);
        for expected in [Standing::untouched(), Standing::charged(7, 1), Standing::charged(7, 1)] {
            service.clone().oneshot(keyed("k1")).await.unwrap();
            assert_eq!(standing(&books).await, expected);
        }
        assert_eq!(calls.get(), 3);
    }

    #[tokio::test]
    async fn a_denial_frees_its_key() {
        let (books, calls) = (books(), Counter::default());
        let layer = layer(&books);
        let greedy = layer.clone().estimate(|_| tokens(5_000)).layer(hello(&calls));
        let response = greedy.oneshot(keyed("k1")).await.unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        layer.layer(hello(&calls)).oneshot(keyed("k1")).await.unwrap();
        assert_eq!(standing(&books).await, Standing::charged(7, 1));
    }

    #[tokio::test]
    async fn a_key_used_before_an_outage_is_not_charged_in_it() {
        let (books, calls) = (books(), Counter::default());
        let backend = Scripted::over(&books);
        let layer = layer(&Books::new(backend.clone())).on_failure(FailurePolicy::Open);
        let service = layer.layer(hello(&calls));
        let answers =
            [Answer::Obey, Answer::Fail(ErrorKind::Unavailable), Answer::Fail(ErrorKind::TimedOut)];
        for answer in answers.into_iter().chain(answers.into_iter().rev()) {
            backend.on_check(answer);
            let response = service.clone().oneshot(keyed("k1")).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(standing(&books).await, Standing::charged(7, 1), "{answer:?}");
        }
    }
}

mod two_layers {
    use super::*;

    #[tokio::test]
    async fn record_an_event_each_and_charge_one_balance_once() {
        let books = books();
        let both = LimitryLayer::new(books.clone(), identify(), usage::reported())
            .estimate(|_| tokens(10))
            .charge(CREDITS, price);
        let service = ServiceBuilder::new()
            .layer(both.clone().event_type("outer"))
            .layer(both.event_type("inner"))
            .service(service_fn(|request: Request<Empty<Bytes>>| async move {
                request.extensions().get::<Reporter>().unwrap().add("tokens", 7);
                Ok::<_, Infallible>(ok("hello"))
            }));
        let response = service.oneshot(request()).await.unwrap();
        frames(response.into_body()).await;
        let after = standing(&books).await;
        assert_eq!(after, Standing { credits: 493.into(), ..Standing::recorded(14, 2) });
        for (event, event_type) in events(&books).await.iter().zip(["inner", "outer"]) {
            assert_eq!((event.event_type(), event.usage()), (event_type, &tokens(7)));
        }
    }

    #[tokio::test]
    async fn charge_two_balances_each() {
        let books = builder()
            .default_balance(tower_limitry::NewBalance::new("Images").initial(100))
            .build()
            .unwrap();
        let service = ServiceBuilder::new()
            .layer(layer(&books).charge(CREDITS, price))
            .layer(layer(&books).charge("Images", price))
            .service(hello(&Counter::default()));
        service.oneshot(request()).await.unwrap();
        for (name, left) in [(CREDITS, 493), ("Images", 93)] {
            let balance = books.balance(CUSTOMER, name).await.unwrap().unwrap();
            assert_eq!(balance.current(), left.into());
        }
    }

    #[tokio::test]
    async fn both_end_when_the_inner_refuses_the_service_fails_or_the_client_leaves() {
        let books = books();
        let outer = layer(&books).charge(CREDITS, price);
        let refusing = layer(&books).estimate(|_| tokens(5_000));
        let calls = Counter::default();
        let service = ServiceBuilder::new().layer(outer.clone()).layer(refusing);
        let response = service.service(hello(&calls)).oneshot(request()).await.unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(standing(&books).await, Standing::untouched());

        let failing = service_fn(|_: Request<_>| ready(Err::<Response<Full<Bytes>>, _>(Broken)));
        let service = ServiceBuilder::new().layer(outer.clone()).layer(layer(&books));
        assert!(service.service(failing).oneshot(request()).await.is_err());
        assert_eq!(standing(&books).await, Standing::untouched());

        let hanging = service_fn(|_: Request<Empty<Bytes>>| {
            pending::<Result<Response<Full<Bytes>>, Infallible>>()
        });
        let service = ServiceBuilder::new().layer(outer).layer(layer(&books)).service(hanging);
        let mut answer = Box::pin(service.oneshot(request()));
        assert!(poll_once(&mut answer).is_pending());
        assert_eq!(standing(&books).await.open, 2);
        drop(answer);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn both_release_when_the_handler_says_it_failed() {
        let books = books();
        let service = ServiceBuilder::new().layer(layer(&books)).layer(layer(&books)).service(
            service_fn(|request: Request<Empty<Bytes>>| async move {
                request.extensions().get::<Reporter>().unwrap().fail();
                Ok::<_, Infallible>(ok("hello"))
            }),
        );
        service.oneshot(request()).await.unwrap();
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    /// The limits that each of three layers looked at, as a service between them and the handler sees
    /// it; the one whose backend is away tells of none.
    #[tokio::test]
    async fn tell_each_service_the_decision_of_the_layer_around_it() {
        for away in [None, Some(0), Some(1), Some(2)] {
            let kept: Vec<_> = (0..3)
                .map(|number| {
                    let limit = Limit::per_day(format!("limit-{number}"), "tokens", 100);
                    let books = builder().limit(limit).build().unwrap();
                    let backend = Scripted::over(&books);
                    if away == Some(number) {
                        backend.on_check(Answer::LoseAnswer);
                    }
                    (books, Books::new(backend))
                })
                .collect();
            let layer = |number: usize| {
                LimitryLayer::new(kept[number].1.clone(), identify(), usage::reported())
                    .estimate(|_| tokens(10))
                    .charge(CREDITS, price)
                    .on_failure(FailurePolicy::Open)
                    .check_timeout(Duration::from_millis(1))
                    .headers(tower_limitry::HeaderStyle::Off)
            };
            let looking = |number: usize| {
                move |request: Request<Empty<Bytes>>| {
                    let reporter = request.extensions().get::<Reporter>().unwrap();
                    let id = format!("limit-{number}");
                    let looked = reporter.decision().map(|decision| {
                        assert_eq!(decision.balance().is_some(), number == 0);
                        decision.limits().any(|limit| limit.id() == id)
                    });
                    assert_eq!(
                        looked,
                        (away != Some(number)).then_some(true),
                        "{number}, {away:?}"
                    );
                    reporter.add("tokens", 1);
                    request
                }
            };
            let service = ServiceBuilder::new()
                .layer(layer(0))
                .map_request(looking(0))
                .layer(layer(1))
                .map_request(looking(1))
                .layer(layer(2))
                .map_request(looking(2))
                .service(hello(&Counter::default()));
            let response = service.oneshot(request()).await.unwrap();
            frames(response.into_body()).await;
            for (number, (books, _)) in kept.iter().enumerate() {
                let after = standing(books).await;
                let expected = Standing::recorded(3, 1);
                let credits = if number == 0 { 497 } else { 500 };
                assert_eq!(after, Standing { credits: credits.into(), ..expected }, "{away:?}");
            }
        }
    }

    /// Tries again, once.
    #[derive(Clone)]
    struct Again<S>(S);

    impl<S> Service<Request<Empty<Bytes>>> for Again<S>
    where
        S: Service<Request<Empty<Bytes>>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        S::Response: Send,
    {
        type Response = S::Response;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<S::Response, Infallible>> + Send>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.0.poll_ready(cx)
        }

        fn call(&mut self, request: Request<Empty<Bytes>>) -> Self::Future {
            let (first, second) = (self.0.clone(), self.0.clone());
            Box::pin(async move {
                drop(first.oneshot(request.clone()).await?);
                second.oneshot(request).await
            })
        }
    }

    /// A retry between the layers: the first attempt had claimed the charge, so the second was
    /// neither checked against the balance nor charged.
    #[tokio::test]
    async fn a_retry_between_them_is_charged_for_the_attempt_that_succeeds() {
        let (books, calls) = (books(), Counter::default());
        let failing_first = {
            let calls = calls.clone();
            service_fn(move |_: Request<Empty<Bytes>>| {
                calls.add();
                let code = if calls.get() == 1 { 500 } else { 200 };
                ready(Ok::<_, Infallible>(status(StatusCode::from_u16(code).unwrap())))
            })
        };
        let outer =
            LimitryLayer::new(books.clone(), identify(), |_: &response::Parts| Some(Usage::new()));
        let inner = layer(&books).charge(CREDITS, price);
        let service = outer.layer(Again(inner.layer(failing_first)));
        assert_eq!(service.oneshot(request()).await.unwrap().status(), StatusCode::OK);
        assert_eq!(calls.get(), 2);
        let after = standing(&books).await;
        assert_eq!((after.used, after.credits, after.open), (7.into(), 493.into(), 0));

        let refusing = layer(&books).charge(CREDITS, price).estimate(|_| tokens(600));
        let service = outer_of(&books).layer(Again(refusing.layer(hello(&calls))));
        let response = service.oneshot(request()).await.unwrap();
        assert!(response.status().is_client_error(), "{}", response.status());
        assert_eq!(calls.get(), 2);
    }

    fn outer_of(books: &Books<Engine>) -> LimitryLayer<Engine> {
        LimitryLayer::new(books.clone(), identify(), |_: &response::Parts| Some(Usage::new()))
    }
}

mod extensions {
    use super::*;

    #[tokio::test]
    async fn the_service_finds_decision_and_reporter() {
        let books = books();
        let service = layer(&books).layer(service_fn(|request: Request<Empty<Bytes>>| {
            let reporter = request.extensions().get::<Reporter>().unwrap();
            let decision = reporter.decision().unwrap();
            let daily = decision.limits().next().unwrap();
            assert_eq!(
                (daily.id(), daily.held(), daily.remaining()),
                ("daily", 10.into(), 990.into())
            );
            reporter.add("tokens", 2);
            reporter.add("tokens", 3);
            reporter.dimension("model", "large");
            assert!(request.extensions().get::<Unmetered>().is_none());
            ready(Ok::<_, Infallible>(ok("hello")))
        }));
        let response = service.oneshot(request()).await.unwrap();
        assert!(response.extensions().get::<Unmetered>().is_none());
        // What the handler says wins over what was measured.
        assert_eq!(*events(&books).await[0].usage(), tokens(5).dimension("model", "large"));
    }

    #[tokio::test]
    async fn a_request_that_could_not_be_checked_is_marked_and_so_is_its_response() {
        let backend = Scripted::over(&books());
        backend.on_check(Answer::Fail(ErrorKind::Unavailable));
        let service =
            layer(&Books::new(backend)).layer(service_fn(|request: Request<Empty<Bytes>>| {
                assert!(request.extensions().get::<Unmetered>().is_some());
                let reporter = request.extensions().get::<Reporter>().unwrap();
                assert!(reporter.decision().is_none());
                ready(Ok::<_, Infallible>(ok("hello")))
            }));
        let response = service.oneshot(request()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.extensions().get::<Unmetered>().is_some());
    }

    #[tokio::test]
    async fn a_refusal_can_be_answered_otherwise() {
        let books = books();
        let layer = layer(&books).estimate(|_| tokens(2_000)).refusal(|refusal| match refusal {
            Refusal::Denied(denial) => {
                let body = Bytes::from(denial.kind().as_str());
                Some(Response::builder().status(418).body(body).unwrap())
            }
            _ => None,
        });
        let service = layer.layer(hello(&Counter::default()));
        let response = service.clone().oneshot(request()).await.unwrap();
        assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
        assert_eq!(response.body().size_hint().exact(), Some(9));
        assert_eq!(frames(response.into_body()).await, ["too_large"]);
        let missing = service.oneshot(Request::new(Empty::<Bytes>::new())).await.unwrap();
        assert_eq!(missing.status(), StatusCode::UNAUTHORIZED);
    }
}

mod axum_handlers {
    use axum::Router;
    use axum::body::Body;
    use axum::extract::State;
    use axum::routing::{get, post};
    use tower_limitry::{CheckError, axum::NotMetered};

    use super::*;

    async fn metered(decision: Decision, reporter: Reporter) -> String {
        reporter.set("tokens", 5);
        decision.limits().next().unwrap().remaining().to_string()
    }

    #[tokio::test]
    async fn take_decision_and_reporter_as_arguments() {
        let books = books();
        let app = Router::new().route("/", get(metered)).route_layer(layer(&books));
        let request = request().map(|_| Body::empty());
        let response = app.oneshot(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "990");
        assert_eq!(standing(&books).await, Standing::recorded(5, 1));
    }

    #[tokio::test]
    async fn without_the_layer_their_arguments_are_missing() {
        let app = Router::new().route("/", get(metered));
        let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert!(std::str::from_utf8(&text).unwrap().contains("Decision"), "{text:?}");
        let _: Option<NotMetered> = None;
    }

    #[tokio::test]
    async fn return_the_errors_of_their_own_checks() {
        async fn by_hand(State(books): State<Books>) -> Result<&'static str, CheckError> {
            let permit = books.check(Check::of(CUSTOMER).estimate("tokens", 600)).await?;
            permit.settle(tokens(600)).await?;
            Ok("done")
        }
        let backend = Scripted::over(&books());
        let books = Books::new(backend.clone()).erased();
        let app = Router::new().route("/", post(by_hand)).with_state(books.clone());
        let call = || Request::post("/").body(Body::empty()).unwrap();
        for (answer, status) in [
            (Answer::Obey, 200),
            (Answer::Obey, 429),
            (Answer::Fail(ErrorKind::Unavailable), 503),
            (Answer::Fail(ErrorKind::TimedOut), 503),
            (Answer::Fail(ErrorKind::Conflict), 409),
            (Answer::Fail(ErrorKind::Invalid), 500),
        ] {
            backend.on_check(answer);
            let response = app.clone().oneshot(call()).await.unwrap();
            assert_eq!(response.status(), status, "{answer:?}");
        }
        assert_no_open_holds(&books).await;
    }
}

/// The layer named in a function's return type, and the service in a field.
mod names {
    use super::*;

    fn by_name(books: &Books) -> LimitryLayer {
        LimitryLayer::new(books.clone(), identify(), seven).check_timeout(Duration::from_secs(2))
    }

    struct Route<S> {
        service: Limitry<S>,
    }

    #[tokio::test]
    async fn the_erased_form_works_as_the_other() {
        let books = builder().open("memory:").unwrap();
        let calls = Counter::default();
        let mut route = Route { service: by_name(&books).layer(hello(&calls)) };
        let response = route.service.ready().await.unwrap().call(request()).await.unwrap();
        assert_eq!(frames(response.into_body()).await, ["hello"]);
        assert_eq!(standing(&books).await, Standing::recorded(7, 1));
        let _: &Limitry<_> = &route.service;
        let mut inner = route.service.into_inner();
        inner.ready().await.unwrap().call(request()).await.unwrap();
        assert_eq!(calls.get(), 2);
    }
}
