//! The layer in a tonic server, over real HTTP/2.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::routing::post;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt, future, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::service::{LayerExt, Routes};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status, Streaming, async_trait};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_limitry::backend::{Backend, EventQuery};
use tower_limitry::engine::{EngineBuilder, ManualClock};
use tower_limitry::policy::Debit;
use tower_limitry::test_util::{Answer as Scripting, Scripted, assert_no_open_holds};
use tower_limitry::{
    Amount, Books, Check, CheckError, Disconnect, Engine, ErrorKind, Event, FailurePolicy, Limit,
    LimitryLayer, Meter, MissingUsage, NewBalance, Refusal, Reporter, Usage, customer, grpc, usage,
};

#[path = "../examples/pretend_model/grpc.rs"]
mod pretend_model;
use pretend_model::{Answer, Answers, COMPLETE, Model, ModelClient, ModelServer, Prompt};

const CUSTOMER: &str = "acct_42";

/// Half a minute before the day ends: 100 tokens a day, of which nothing is used, and 500 credits.
fn builder() -> EngineBuilder {
    Engine::builder()
        .clock(ManualClock::at("2026-03-01T23:59:30Z"))
        .meter(Meter::sum("tokens", "tokens"))
        .limit(Limit::per_day("daily", "tokens", 100).named("Daily tokens"))
        .default_balance(NewBalance::new("AI Credits").initial(500))
}

fn books() -> Books<Engine> {
    builder().build().unwrap()
}

fn tokens(amount: u32) -> Usage {
    Usage::of("tokens", amount)
}

/// Estimates ten tokens, and takes what the handler reports. The event type is the method's name.
fn metered<B: Backend>(books: &Books<B>) -> LimitryLayer<B> {
    measured(books, usage::reported())
}

fn measured<B: Backend>(books: &Books<B>, measure: impl usage::Measure) -> LimitryLayer<B> {
    LimitryLayer::new(books.clone(), customer::trusted_header("x-customer"), measure)
        .event_type_of(|call| call.uri.path().rsplit('/').next().unwrap_or_default().to_owned())
        .estimate(|_| tokens(10))
        .skip(|call| call.uri.path().starts_with("/grpc."))
}

/// Uses as many tokens as words are asked for, and does what the text says.
#[derive(Clone, Default)]
struct Pretend {
    /// Opens for what comes after "hold".
    gate: Arc<Notify>,
}

fn reporter<T>(request: &Request<T>) -> Reporter {
    request.extensions().get::<Reporter>().cloned().unwrap_or_default()
}

fn answer(text: &str) -> Answer {
    Answer { text: text.into() }
}

#[async_trait]
impl Model for Pretend {
    async fn complete(&self, request: Request<Prompt>) -> Result<Response<Answer>, Status> {
        reporter(&request).add("tokens", request.get_ref().max_words);
        match request.get_ref().text.as_str() {
            "fail" => Err(Status::internal("as asked")),
            "hang" => future::pending().await,
            text => Ok(Response::new(answer(text))),
        }
    }

    async fn stream(&self, request: Request<Prompt>) -> Result<Response<Answers>, Status> {
        let reporter = reporter(&request);
        let Prompt { text, max_words } = request.into_inner();
        let spoken = reporter.clone();
        let words = move || {
            let reporter = spoken.clone();
            stream::iter(0..max_words).map(move |_| {
                reporter.add("tokens", 1);
                Ok(answer("word"))
            })
        };
        Ok(Response::new(match text.as_str() {
            "fail" => words().chain(stream::iter([Err(Status::data_loss("as asked"))])).boxed(),
            "hold" => {
                let gate = Arc::clone(&self.gate);
                let opened = async move { gate.notified().await }.into_stream();
                words().chain(opened.flat_map(move |()| words())).boxed()
            }
            "told" => {
                let told = stream::once(async move {
                    reporter.complete();
                    Ok(answer("end"))
                });
                words().chain(told).chain(stream::pending()).boxed()
            }
            _ => words().boxed(),
        }))
    }

    async fn collect(
        &self,
        request: Request<Streaming<Prompt>>,
    ) -> Result<Response<Answer>, Status> {
        let reporter = reporter(&request);
        let mut prompts = request.into_inner();
        while let Some(prompt) = prompts.message().await? {
            reporter.add("tokens", prompt.max_words);
        }
        Ok(Response::new(answer("collected")))
    }

    async fn chat(&self, request: Request<Streaming<Prompt>>) -> Result<Response<Answers>, Status> {
        let reporter = reporter(&request);
        let answers = request.into_inner().map(move |prompt| {
            let prompt = prompt?;
            reporter.add("tokens", prompt.max_words);
            if prompt.text == "fail" {
                return Err(Status::aborted("as asked"));
            }
            Ok(answer(&prompt.text))
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// One message, as it is sent.
fn encoded(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.encoded_len() as u32);
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}

/// An answer by hand: a message, and these trailers if there are any.
fn raw(trailers: &'static [(&'static str, &'static str)]) -> http::Response<axum::body::Body> {
    let mut frames = vec![Frame::data(encoded(&answer("raw")))];
    if !trailers.is_empty() {
        frames.push(Frame::trailers(headers(trailers)));
    }
    let body = StreamBody::new(stream::iter(frames.into_iter().map(Ok::<_, Infallible>)));
    let mut response = http::Response::new(axum::body::Body::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("x-in-head", HeaderValue::from_static("5"));
    response
}

fn headers(headers: &[(&'static str, &'static str)]) -> HeaderMap {
    let entries = headers.iter().map(|(name, value)| {
        (http::HeaderName::from_static(name), HeaderValue::from_static(value))
    });
    entries.collect()
}

const TRAILERS: &str = "/raw.v1.Raw/Trailers";
const NO_STATUS: &str = "/raw.v1.Raw/NoStatus";
const FAILED: &str = "/raw.v1.Raw/Failed";
const TRAILERS_ONLY: &str = "/raw.v1.Raw/TrailersOnly";

/// The model, a health service, and answers that no tonic handler gives.
async fn routes(model: Pretend) -> Routes {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ModelServer<Pretend>>().await;
    let mut routes = Routes::new(ModelServer::new(model)).add_service(health_service);
    let router = std::mem::take(routes.axum_router_mut());
    *routes.axum_router_mut() = router
        .route(
            TRAILERS,
            post(async || raw(&[("grpc-status", "0"), ("x-tokens", "7"), ("x-other", "3")])),
        )
        .route(NO_STATUS, post(async || raw(&[])))
        .route(FAILED, post(async || raw(&[("grpc-status", "13"), ("x-tokens", "7")])))
        .route(
            TRAILERS_ONLY,
            post(async || {
                let mut response = http::Response::new(axum::body::Body::empty());
                *response.headers_mut() = headers(&[
                    ("content-type", "application/grpc"),
                    ("grpc-status", "0"),
                    ("x-tokens", "4"),
                ]);
                response
            }),
        );
    routes
}

/// A free port, and a client that will find what listens there.
async fn port() -> (TcpIncoming, Channel) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (TcpIncoming::from(listener), Channel::from_shared(url).unwrap().connect_lazy())
}

/// A server with this layer around all of it.
async fn serve_model<B: Backend>(layer: LimitryLayer<B>, model: Pretend) -> Channel {
    let (incoming, channel) = port().await;
    let server = Server::builder().layer(layer).add_routes(routes(model).await);
    tokio::spawn(server.serve_with_incoming(incoming));
    channel
}

async fn serve<B: Backend>(layer: LimitryLayer<B>) -> ModelClient {
    ModelClient::new(serve_model(layer, Pretend::default()).await)
}

fn of_customer<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-customer", CUSTOMER.parse().unwrap());
    request
}

fn prompt(text: &str, max_words: u32) -> Request<Prompt> {
    of_customer(message(text, max_words))
}

fn message(text: &str, max_words: u32) -> Prompt {
    Prompt { text: text.into(), max_words }
}

/// What was recorded: event types with their tokens, oldest first. Asserts that nothing is held, and
/// that the limit tells the same.
async fn recorded<B: Backend>(books: &Books<B>) -> Vec<(String, Option<Amount>)> {
    assert_no_open_holds(books).await;
    let mut events = books.events(EventQuery::new()).await.unwrap().items;
    events.reverse();
    let events = events.iter().map(|event| {
        assert_eq!(event.customer().as_str(), CUSTOMER);
        (event.event_type().to_owned(), event.usage().value("tokens"))
    });
    let events = Vec::from_iter(events);
    let used = events.iter().filter_map(|(_, tokens)| *tokens);
    let used = used.fold(Amount::ZERO, |sum, tokens| sum.checked_add(tokens).unwrap());
    let standing = books.usage(CUSTOMER).await.unwrap();
    for limit in standing.limits() {
        assert_eq!((limit.used(), limit.held()), (used, Amount::ZERO));
    }
    events
}

fn event(event_type: &str, tokens: u32) -> (String, Option<Amount>) {
    (event_type.into(), Some(tokens.into()))
}

/// Waits until the server has noticed that a client is gone.
async fn settled(books: &Books<Engine>) {
    let all_ended = async {
        while books.open_holds().await.unwrap() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), all_ended).await.expect("a hold stays open");
}

async fn all(mut answers: Streaming<Answer>) -> (usize, Result<(), Status>) {
    let mut count = 0;
    loop {
        match answers.message().await {
            Ok(Some(_)) => count += 1,
            Ok(None) => return (count, Ok(())),
            Err(status) => return (count, Err(status)),
        }
    }
}

mod calls {
    use super::*;

    #[tokio::test]
    async fn a_unary_call_is_recorded_by_its_report() {
        let books = books();
        let mut client = serve(metered(&books)).await;
        let answer = client.complete(prompt("hello", 12)).await.unwrap();
        assert_eq!(answer.get_ref().text, "hello");
        // The limit stands in the metadata, with the call's own hold.
        let limit = answer.metadata().get("ratelimit").unwrap().to_str().unwrap();
        assert_eq!(limit, "\"daily\";r=90;t=30");
        assert_eq!(recorded(&books).await, [event("Complete", 12)]);
    }

    #[tokio::test]
    async fn a_call_that_fails_is_not_recorded() {
        let books = books();
        let mut client = serve(metered(&books)).await;
        let status = client.complete(prompt("fail", 12)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Internal, "as asked"));
        assert_eq!(client.unary(FAILED, prompt("", 1)).await.unwrap_err().code(), Code::Internal);
        let unknown = client.unary("/pretend.v1.Model/Unknown", prompt("", 1)).await.unwrap_err();
        assert_eq!(unknown.code(), Code::Unimplemented);
        assert_eq!(recorded(&books).await, []);
    }

    #[tokio::test]
    async fn a_server_stream_is_recorded_at_its_end() {
        let books = books();
        let mut client = serve(metered(&books)).await;
        let answers = client.stream(prompt("hello", 30)).await.unwrap().into_inner();
        let (count, end) = all(answers).await;
        assert_eq!(count, 30);
        end.unwrap();
        assert_eq!(recorded(&books).await, [event("Stream", 30)]);
    }

    #[tokio::test]
    async fn a_server_stream_that_fails_at_its_end_is_not_recorded() {
        let books = books();
        let mut client = serve(metered(&books)).await;
        let (count, end) = all(client.stream(prompt("fail", 30)).await.unwrap().into_inner()).await;
        assert_eq!((count, end.unwrap_err().code()), (30, Code::DataLoss));
        assert_eq!(recorded(&books).await, []);
    }

    #[tokio::test]
    async fn a_client_stream_is_recorded() {
        let books = books();
        let mut client = serve(metered(&books)).await;
        let prompts = stream::iter([message("one", 5), message("two", 6), message("three", 7)]);
        let answer = client.collect(of_customer(prompts)).await.unwrap();
        assert_eq!(answer.get_ref().text, "collected");
        assert_eq!(recorded(&books).await, [event("Collect", 18)]);
    }

    #[tokio::test]
    async fn a_bidirectional_stream_is_recorded_as_it_was_when_it_ends() {
        let books = books();
        let mut client = serve(metered(&books)).await;
        let (prompts, queue) = tokio::sync::mpsc::unbounded_channel::<Prompt>();
        let queue = stream::unfold(queue, async |mut queue| Some((queue.recv().await?, queue)));
        let mut answers = client.chat(of_customer(queue)).await.unwrap().into_inner();
        for text in ["one", "two", "three"] {
            prompts.send(message(text, 20)).unwrap();
            assert_eq!(answers.message().await.unwrap(), Some(answer(text)));
            let standing = books.usage(CUSTOMER).await.unwrap();
            let daily = standing.limits().next().unwrap();
            assert_eq!((daily.used(), daily.held()), (0.into(), 10.into()));
        }
        drop(prompts);
        assert_eq!(answers.message().await.unwrap(), None);
        assert_eq!(recorded(&books).await, [event("Chat", 60)]);
    }

    #[tokio::test]
    async fn a_bidirectional_stream_that_fails_is_not_recorded() {
        let books = books();
        let mut client = serve(metered(&books)).await;
        let prompts = stream::iter([message("one", 20), message("fail", 20)]);
        let (count, end) = all(client.chat(of_customer(prompts)).await.unwrap().into_inner()).await;
        assert_eq!((count, end.unwrap_err().code()), (1, Code::Aborted));
        assert_eq!(recorded(&books).await, []);
    }

    #[tokio::test]
    async fn a_call_without_a_status_has_failed() {
        let books = books();
        let mut client = serve(measured(&books, |_: &http::response::Parts| Some(tokens(7)))).await;
        let _lost = client.unary(NO_STATUS, prompt("", 1)).await;
        assert_eq!(recorded(&books).await, []);
    }

    #[tokio::test]
    async fn success_may_be_told_in_trailers_that_are_headers() {
        let books = books();
        let mut client = serve(measured(&books, usage::grpc_trailer("x-tokens", "tokens"))).await;
        // It is a success without a message, at which a client of unary calls stumbles.
        client.unary(TRAILERS_ONLY, prompt("", 1)).await.unwrap_err();
        assert_eq!(recorded(&books).await, [event("TrailersOnly", 4)]);
    }

    #[tokio::test]
    async fn health_and_reflection_pass() {
        let books = books();
        let channel = serve_model(metered(&books), Pretend::default()).await;
        let mut health = HealthClient::new(channel.clone());
        let service = "pretend.v1.Model".to_owned();
        let answer = health.check(HealthCheckRequest { service }).await.unwrap();
        assert_eq!(answer.get_ref().status(), tonic_health::ServingStatus::Serving.into());
        assert!(!answer.metadata().contains_key("ratelimit"));
        let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        let anybody = Request::new(message("", 1));
        let status = ModelClient::new(channel).unary(reflection, anybody).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "it came through");
        assert_eq!(recorded(&books).await, []);
    }
}

mod measures {
    use super::*;

    #[tokio::test]
    async fn a_trailer_tells() {
        let books = books();
        let mut client = serve(measured(&books, usage::grpc_trailer("x-tokens", "tokens"))).await;
        client.unary(TRAILERS, prompt("", 1)).await.unwrap();
        assert_eq!(recorded(&books).await, [event("Trailers", 7)]);
    }

    #[tokio::test]
    async fn a_closure_over_the_trailers_tells() {
        let books = books();
        let number = |trailers: &HeaderMap, name: &str| -> Option<u32> {
            trailers.get(name)?.to_str().ok()?.parse().ok()
        };
        let sum = move |trailers: &HeaderMap| {
            Some(tokens(number(trailers, "x-tokens")? + number(trailers, "x-other")?))
        };
        let mut client = serve(measured(&books, usage::grpc_trailers(sum))).await;
        client.unary(TRAILERS, prompt("", 1)).await.unwrap();
        assert_eq!(recorded(&books).await, [event("Trailers", 10)]);
    }

    #[tokio::test]
    async fn a_closure_over_the_head_tells_and_waits_for_the_status() {
        let books = books();
        let in_head = |head: &http::response::Parts| {
            Some(Usage::of("tokens", head.headers.get("x-in-head")?.to_str().ok()?))
        };
        let mut client = serve(measured(&books, in_head)).await;
        client.unary(TRAILERS, prompt("", 1)).await.unwrap();
        client.unary(FAILED, prompt("", 1)).await.unwrap_err();
        assert_eq!(recorded(&books).await, [event("Trailers", 5)]);
    }

    #[tokio::test]
    async fn messages_are_counted() {
        let books = books();
        // What the handler reports would win over what is counted.
        let pretend = Pretend::default();
        let silent = service_fn(move |mut request: http::Request<Body>| {
            request.extensions_mut().remove::<Reporter>();
            ModelServer::new(pretend.clone()).oneshot(request)
        });
        let layered = measured(&books, usage::grpc_messages("tokens")).layer(silent);
        let mut client = serve_routes(layered).await;
        let (count, _) = all(client.stream(prompt("hello", 33)).await.unwrap().into_inner()).await;
        assert_eq!(count, 33);
        client.complete(prompt("hello", 50)).await.unwrap();
        assert_eq!(recorded(&books).await, [event("Stream", 33), event("Complete", 1)]);
    }

    #[tokio::test]
    async fn a_trailer_that_is_missing_is_missing_usage() {
        for (policy, expected) in [
            (MissingUsage::ChargeEstimate, vec![event("Trailers", 10)]),
            (MissingUsage::RecordOnly, vec![("Trailers".into(), None)]),
            (MissingUsage::Release, vec![]),
        ] {
            let books = books();
            let measure = usage::grpc_trailer("x-elsewhere", "tokens");
            let mut client = serve(measured(&books, measure).on_missing_usage(policy)).await;
            client.unary(TRAILERS, prompt("", 1)).await.unwrap();
            assert_eq!(recorded(&books).await, expected);
        }
    }

    /// A service that is no tonic service as a whole.
    async fn serve_routes<S>(service: S) -> ModelClient
    where
        S: tower::Service<http::Request<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send,
    {
        let (incoming, channel) = port().await;
        let service =
            service.map_request(|request: http::Request<axum::body::Body>| request.map(Body::new));
        let routes = Routes::from(axum::Router::new().fallback_service(service));
        tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming(incoming));
        ModelClient::new(channel)
    }
}

mod clients_that_leave {
    use super::*;

    /// Reads three messages of a stream that waits after them, and leaves.
    async fn leave(client: &mut ModelClient, text: &str) {
        let mut answers = client.stream(prompt(text, 3)).await.unwrap().into_inner();
        for _ in 0..3 {
            answers.message().await.unwrap().unwrap();
        }
        if text == "told" {
            answers.message().await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn they_are_charged_the_estimate_at_least() {
        let books = books();
        let mut client = serve(metered(&books)).await;
        leave(&mut client, "hold").await;
        settled(&books).await;
        assert_eq!(recorded(&books).await, [event("Stream", 10)]);
    }

    #[tokio::test]
    async fn they_are_charged_what_was_reported_once_that_is_complete() {
        let books = books();
        let mut client = serve(metered(&books)).await;
        leave(&mut client, "told").await;
        settled(&books).await;
        assert_eq!(recorded(&books).await, [event("Stream", 3)]);
    }

    #[tokio::test]
    async fn they_get_it_for_nothing_if_so_told() {
        let books = books();
        let mut client = serve(metered(&books).on_disconnect(Disconnect::Release)).await;
        leave(&mut client, "hold").await;
        settled(&books).await;
        assert_eq!(recorded(&books).await, []);
    }

    #[tokio::test]
    async fn the_rest_is_read_without_them() {
        let books = books();
        let drain = Disconnect::Drain { bytes: 1 << 20, within: Duration::from_secs(60) };
        let model = Pretend::default();
        let layer = metered(&books).on_disconnect(drain).estimate(|_| tokens(1));
        let mut client = ModelClient::new(serve_model(layer, model.clone()).await);
        leave(&mut client, "hold").await;
        // The server has noticed that the client is gone once it has answered the next call.
        client.complete(prompt("fail", 1)).await.unwrap_err();
        model.gate.notify_one();
        settled(&books).await;
        assert_eq!(recorded(&books).await, [event("Stream", 6)]);
    }

    #[tokio::test]
    async fn a_deadline_before_the_head_releases() {
        let books = books();
        let mut client = serve(metered(&books)).await;
        let mut request = prompt("hang", 3);
        request.set_timeout(Duration::from_millis(20));
        client.complete(request).await.unwrap_err();
        settled(&books).await;
        assert_eq!(recorded(&books).await, []);
    }
}

mod refusals {
    use super::*;

    /// The wait in `RetryInfo`, and what `grpc-retry-pushback-ms` says.
    fn waits(status: &Status) -> (Option<u64>, Option<&str>) {
        let details = status.get_error_details();
        let delay = details.retry_info().and_then(|info| info.retry_delay);
        let pushback = status.metadata().get("grpc-retry-pushback-ms");
        (delay.map(|delay| delay.as_secs()), pushback.map(|pushback| pushback.to_str().unwrap()))
    }

    fn reason(status: &Status) -> String {
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.domain, "tower-limitry");
        info.reason.clone()
    }

    async fn spend(books: &Books<Engine>, amount: u32) {
        books.record(Event::new(CUSTOMER, "Complete", tokens(amount))).await.unwrap();
    }

    #[tokio::test]
    async fn a_limit_refuses_with_its_details() {
        let books = builder()
            .limit(
                Limit::per_hour("big-model", "tokens", "95.5")
                    .named("Großes Modell, 100 %\n")
                    .dimension("model", "large-2"),
            )
            .build()
            .unwrap();
        spend(&books, 95).await;
        let large = tokens(95).dimension("model", "large-2");
        books.record(Event::new(CUSTOMER, "Complete", large)).await.unwrap();
        let layer = metered(&books).estimate(|_| tokens(1).dimension("model", "large-2"));
        let mut client = serve(layer).await;

        let status = client.complete(prompt("hello", 1)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status.message(),
            "The limit \"Daily tokens\" of 100 is reached. Please try again in 30s."
        );
        assert_eq!(reason(&status), "QUOTA_EXCEEDED");
        assert_eq!(waits(&status), (Some(30), Some("30000")));
        let details = status.get_error_details();
        let violations = &details.quota_failure().unwrap().violations;
        let daily = &violations[0];
        assert_eq!(daily.subject, "customer:acct_42");
        assert_eq!(daily.description, "Daily tokens");
        assert_eq!(daily.quota_metric, "tokens");
        assert_eq!(daily.quota_id, "daily");
        assert_eq!(daily.quota_value, 100);
        assert_eq!(daily.quota_dimensions, dimensions(&[("period", "day")]));
        let big = &violations[1];
        assert_eq!(big.quota_id, "big-model");
        assert_eq!(big.description, "Großes Modell, 100 %\n");
        assert_eq!(big.quota_value, 95);
        let expected = dimensions(&[("period", "hour"), ("model", "large-2")]);
        assert_eq!(big.quota_dimensions, expected);
        assert_eq!(violations.len(), 2);
        // All that stands in headers over HTTP stands in the trailers.
        assert!(status.metadata().contains_key("ratelimit"));
    }

    fn dimensions(entries: &[(&str, &str)]) -> HashMap<String, String> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[tokio::test]
    async fn a_message_arrives_in_any_script() {
        let named = Limit::per_day("daily", "tokens", 1).named("Tägliche 100 % \u{1F600}\n");
        let builder = Engine::builder().meter(Meter::sum("tokens", "tokens")).limit(named);
        let books = builder.build().unwrap();
        spend(&books, 1).await;
        let mut client = serve(metered(&books).estimate(|_| tokens(1))).await;
        let status = client.complete(prompt("hello", 1)).await.unwrap_err();
        let expected = "The limit \"Tägliche 100 % \u{1F600}\\n\" of 1 is reached.";
        assert!(status.message().starts_with(expected), "{}", status.message());
    }

    #[tokio::test]
    async fn a_long_wait_tells_clients_not_to_retry_by_themselves() {
        let monthly = Limit::per_month("monthly", "tokens", 50);
        let books = builder().limit(monthly).build().unwrap();
        spend(&books, 50).await;
        let mut client = serve(metered(&books)).await;
        let status = client.complete(prompt("hello", 1)).await.unwrap_err();
        assert_eq!(waits(&status), (Some(30 * 86_400 + 30), Some("-1")));
    }

    #[tokio::test]
    async fn a_call_that_never_fits_is_not_told_to_wait() {
        let books = books();
        let mut client = serve(metered(&books).estimate(|_| tokens(101))).await;
        let status = client.complete(prompt("hello", 1)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(reason(&status), "QUOTA_EXCEEDED");
        assert_eq!(waits(&status), (None, Some("-1")));
        assert_eq!(recorded(&books).await, []);
    }

    #[tokio::test]
    async fn calls_at_the_same_time_do_not_overspend_together() {
        let books = books();
        let client = serve(metered(&books)).await;
        let calls = (0..50).map(|call| {
            let mut client = client.clone();
            async move {
                match call % 2 {
                    0 => client.complete(prompt("hello", 10)).await.map(drop),
                    _ => all(client.stream(prompt("hello", 10)).await?.into_inner()).await.1,
                }
            }
        });
        let answers = future::join_all(calls).await;
        let refused = answers.into_iter().filter_map(Result::err);
        let codes = Vec::from_iter(refused.map(|status| status.code()));
        assert_eq!(codes, [Code::ResourceExhausted; 40]);
        assert_eq!(recorded(&books).await.len(), 10);
    }

    #[tokio::test]
    async fn a_private_limit_is_not_named() {
        let secret = Limit::per_day("secret", "tokens", 5).named("Secret").private();
        let books = builder().limit(secret).build().unwrap();
        let mut client = serve(metered(&books).estimate(|_| tokens(5))).await;
        client.complete(prompt("hello", 5)).await.unwrap();
        let status = client.complete(prompt("hello", 5)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_error_details().quota_failure().unwrap().violations.len(), 0);
        let everything = format!("{status:?} {}", String::from_utf8_lossy(status.details()));
        assert!(!everything.to_lowercase().contains("secret"), "{everything}");
    }

    #[tokio::test]
    async fn a_balance_refuses() {
        let books = books();
        let charged = metered(&books).charge("AI Credits", |usage| usage.value("tokens"));
        let mut client = serve(charged.estimate(|_| tokens(100))).await;
        books.debit(Debit::new(CUSTOMER, "AI Credits", 450)).await.unwrap();
        let status = client.stream(prompt("hello", 1)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "The prepaid balance is too low.");
        assert_eq!(reason(&status), "INSUFFICIENT_BALANCE");
        assert_eq!(waits(&status), (None, Some("-1")));
        let details = status.get_error_details();
        let violation = &details.quota_failure().unwrap().violations[0];
        assert_eq!(violation.subject, "customer:acct_42");
        assert_eq!(violation.description, "AI Credits");
        assert_eq!(violation.quota_id, "");
        assert_eq!(recorded(&books).await, []);
    }

    #[tokio::test]
    async fn a_call_without_a_customer_is_unauthenticated() {
        let books = books();
        let mut client = serve(metered(&books)).await;
        let status = client.complete(Request::new(message("hello", 1))).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert_eq!(status.message(), "The request does not say who the customer is.");
        assert_eq!(reason(&status), "MISSING_CUSTOMER");
        assert_eq!(waits(&status), (None, None));
        assert_eq!(recorded(&books).await, []);
    }

    #[tokio::test]
    async fn a_call_that_cannot_be_checked_is_unavailable() {
        let backend = Scripted::over(&books());
        let books = Books::new(backend.clone());
        let mut client = serve(metered(&books).on_failure(FailurePolicy::Closed)).await;
        backend.on_check(Scripting::Fail(ErrorKind::Unavailable));
        let status = client.complete(prompt("hello", 1)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(reason(&status), "LIMITER_UNAVAILABLE");
        assert_eq!(waits(&status), (Some(5), Some("5000")));
        assert!(!status.metadata().contains_key("ratelimit"));
        backend.on_check(Scripting::Obey);
        client.complete(prompt("hello", 8)).await.unwrap();
        assert_eq!(recorded(&books).await, [event("Complete", 8)]);
    }

    #[tokio::test]
    async fn a_slow_check_refuses_as_well() {
        let engine = books();
        spend(&engine, 100).await;
        let backend = Scripted::over(&engine);
        backend.on_check(Scripting::LateAnswer);
        let books = Books::new(backend.clone());
        let client = serve(metered(&books).check_timeout(Duration::from_secs(60))).await;
        let asked = tokio::spawn(async move { client.clone().complete(prompt("hello", 1)).await });
        while !asked.is_finished() {
            backend.resume();
            tokio::task::yield_now().await;
        }
        assert_eq!(asked.await.unwrap().unwrap_err().code(), Code::ResourceExhausted);
        assert_eq!(recorded(&books).await, [event("Complete", 100)]);
    }

    #[tokio::test]
    async fn a_call_with_the_key_of_one_that_runs_is_aborted() {
        let books = books();
        let model = Pretend::default();
        let key = http::HeaderName::from_static("idempotency-key");
        let layer = metered(&books).idempotency_key(key);
        let mut client = ModelClient::new(serve_model(layer, model.clone()).await);
        let keyed = |text| {
            let mut request = prompt(text, 3);
            request.metadata_mut().insert("idempotency-key", "once".parse().unwrap());
            request
        };
        let mut first = client.stream(keyed("hold")).await.unwrap().into_inner();
        first.message().await.unwrap().unwrap();
        let status = client.stream(keyed("again")).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Aborted, "IN_PROGRESS"));
        assert_eq!(waits(&status), (None, None));
        model.gate.notify_one();
        all(first).await.1.unwrap();
        assert_eq!(recorded(&books).await, [event("Stream", 6)]);
    }

    #[tokio::test]
    async fn on_the_wire_a_refusal_is_trailers_only() {
        let never = service_fn(async |_: http::Request<Body>| -> Result<_, Infallible> {
            panic!("a refused call reaches the service");
            #[allow(unreachable_code)]
            Ok(http::Response::new(Body::empty()))
        });
        for content_type in ["application/grpc", "application/grpc+proto", "application/grpc;x=y"] {
            let call = http::Request::post(COMPLETE)
                .header(CONTENT_TYPE, content_type)
                .body(Body::empty())
                .unwrap();
            let response = metered(&books()).layer(never).oneshot(call).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert!(response.body().is_end_stream());
            let headers = response.headers();
            assert_eq!(headers.len(), 4, "{headers:?}");
            assert_eq!(headers["content-type"], "application/grpc");
            assert_eq!(headers["grpc-status"], "16");
            assert_eq!(headers["grpc-message"], "The request does not say who the customer is.");
            let details = headers["grpc-status-details-bin"].to_str().unwrap();
            assert!(!details.contains('='), "without padding");
        }
    }

    #[tokio::test]
    async fn a_handler_that_checks_by_itself_answers_the_same() {
        let books = books();
        let check = Check::of(CUSTOMER).estimate("tokens", 101);
        let Err(error @ CheckError::Denied(_)) = books.check(check).await else { panic!() };
        let refused = grpc::response(&Refusal::from(error));
        let status = Status::from_header_map(refused.headers()).unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(reason(&status), "QUOTA_EXCEEDED");

        for (refusal, code, told) in [
            (Refusal::MissingCustomer, Code::Unauthenticated, "MISSING_CUSTOMER"),
            (Refusal::Unavailable, Code::Unavailable, "LIMITER_UNAVAILABLE"),
            (Refusal::Conflict, Code::Aborted, "IN_PROGRESS"),
            (Refusal::InvalidIdempotencyKey, Code::InvalidArgument, "INVALID_IDEMPOTENCY_KEY"),
            (Refusal::Misconfigured, Code::Internal, "MISCONFIGURED"),
        ] {
            let status = Status::from_header_map(grpc::response(&refusal).headers()).unwrap();
            assert_eq!((status.code(), reason(&status).as_str()), (code, told));
        }
    }
}

mod places {
    use super::*;

    #[tokio::test]
    async fn around_one_service_of_several() {
        let books = books();
        let (incoming, channel) = port().await;
        let (_health, health_service) = tonic_health::server::health_reporter();
        let server = Server::builder()
            .add_service(metered(&books).named_layer(ModelServer::new(Pretend::default())))
            .add_service(health_service);
        tokio::spawn(server.serve_with_incoming(incoming));
        let mut client = ModelClient::new(channel.clone());
        client.complete(prompt("hello", 100)).await.unwrap();
        let status = client.complete(prompt("hello", 1)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        let mut health = HealthClient::new(channel);
        health.check(HealthCheckRequest::default()).await.unwrap();
        assert_eq!(recorded(&books).await, [event("Complete", 100)]);
    }

    #[tokio::test]
    async fn around_grpc_and_json_on_one_port_and_one_budget() {
        let books = books();
        let json = async |request: axum::extract::Request| {
            request.extensions().get::<Reporter>().unwrap().add("tokens", 40);
            "{}"
        };
        let routes = routes(Pretend::default()).await;
        let app = routes.into_axum_router().route("/json", post(json)).layer(metered(&books));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, app.clone()).into_future());
        let mut client = ModelClient::new(Channel::from_shared(url).unwrap().connect_lazy());

        let ask = || {
            let request = http::Request::post("/json").header("x-customer", CUSTOMER);
            app.clone().oneshot(request.body(axum::body::Body::empty()).unwrap())
        };
        client.complete(prompt("hello", 50)).await.unwrap();
        let answer = ask().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "{}");
        client.complete(prompt("hello", 10)).await.unwrap();
        let status = client.complete(prompt("hello", 1)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(ask().await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
        let expected = [event("Complete", 50), event("json", 40), event("Complete", 10)];
        assert_eq!(recorded(&books).await, expected);
    }
}

mod grpc_web {
    use super::*;
    use tonic_web::GrpcWebLayer;

    /// The trailers are a frame of the body, behind the flag 0x80.
    async fn call<S, P>(service: S, request: Request<Prompt>) -> (http::response::Parts, Bytes)
    where
        S: tower::Service<http::Request<Body>, Response = http::Response<P>>,
        S::Error: std::fmt::Debug,
        P: http_body::Body<Data = Bytes>,
        P::Error: std::fmt::Debug,
    {
        let (metadata, _, message) = request.into_parts();
        let body = http_body_util::Full::new(encoded(&message));
        let mut call = http::Request::post(COMPLETE).body(Body::new(body)).unwrap();
        *call.headers_mut() = metadata.into_headers();
        for name in ["content-type", "accept"] {
            let value = HeaderValue::from_static("application/grpc-web+proto");
            call.headers_mut().insert(http::HeaderName::from_static(name), value);
        }
        let (head, body) = service.oneshot(call).await.unwrap().into_parts();
        (head, body.collect().await.unwrap().to_bytes())
    }

    fn assert_hello(head: &http::response::Parts, body: &Bytes) {
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(head.headers["content-type"], "application/grpc-web+proto");
        let message = encoded(&answer("hello"));
        let trailers = body.strip_prefix(&message[..]).unwrap();
        assert_eq!(trailers[0], 0x80);
        assert!(trailers[5..].starts_with(b"grpc-status:0"), "{trailers:?}");
    }

    #[tokio::test]
    async fn the_translation_outside_shows_the_layer_plain_grpc() {
        let books = books();
        let service =
            GrpcWebLayer::new().layer(metered(&books).layer(ModelServer::new(Pretend::default())));
        let (head, _) = call(service.clone(), prompt("fail", 5)).await;
        assert_eq!(head.headers["grpc-status"], "13");
        let (head, body) = call(service.clone(), prompt("hello", 95)).await;
        assert_hello(&head, &body);
        let (head, body) = call(service, prompt("hello", 5)).await;
        assert_eq!(head.status, StatusCode::OK);
        let status = Status::from_header_map(&head.headers).unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted, "{body:?}");
        assert!(status.get_error_details().quota_failure().is_some());
        assert_eq!(recorded(&books).await, [event("Complete", 95)]);
    }

    /// Browsers' clients read the HTTP status of an answer that is no grpc-web.
    #[tokio::test]
    async fn the_translation_inside_passes_unchanged() {
        let books = books();
        let service =
            metered(&books).layer(GrpcWebLayer::new().layer(ModelServer::new(Pretend::default())));
        let (head, body) = call(service.clone(), prompt("hello", 95)).await;
        assert_hello(&head, &body);
        assert_eq!(recorded(&books).await, [event("Complete", 95)]);
        let (head, _) = call(service, prompt("hello", 5)).await;
        assert_eq!(head.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(recorded(&books).await, [event("Complete", 95)]);
    }

    /// A failure that stands in the headers was taken for a success, by its HTTP status 200.
    #[tokio::test]
    async fn a_failure_told_in_the_headers_is_not_recorded() {
        let books = books();
        let service =
            metered(&books).layer(GrpcWebLayer::new().layer(ModelServer::new(Pretend::default())));
        let (head, _) = call(service, prompt("fail", 20)).await;
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(head.headers["grpc-status"], "13");
        assert_eq!(recorded(&books).await, []);
    }
}
