//! Every allowed request ends once: settled, or released, wherever it is cut off.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, response};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use tokio::task::yield_now;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_limitry::backend::Backend;
use tower_limitry::test_util::{Answer, Call, Scripted};
use tower_limitry::usage::{self, Measured, Watch};
use tower_limitry::{
    Amount, Books, Check, Disconnect, Engine, LimitryLayer, MissingUsage, Reporter, ResponseBody,
    Usage,
};

#[path = "support/http.rs"]
mod support;

use support::*;

/// Estimates ten, charges what is reported.
fn reported<B: Backend>(books: &Books<B>) -> LimitryLayer<B> {
    LimitryLayer::new(books.clone(), identify(), usage::reported())
        .estimate(|_| tokens(10))
        .charge(CREDITS, price)
}

/// Answers with a script whose every step reports a token before it is played.
fn streaming(
    make: impl Fn() -> Script + Clone + Send,
) -> impl Service<Request<Empty<Bytes>>, Response = Response<Script>, Error = Infallible, Future: Send>
+ Clone {
    service_fn(move |request: Request<Empty<Bytes>>| {
        let reporter = request.extensions().get::<Reporter>().cloned().unwrap();
        let body = make().on_step(move |_| reporter.add("tokens", 1));
        async move { Ok::<_, Infallible>(Response::new(body)) }
    })
}

fn answering<B: Send + 'static>(
    make: impl Fn() -> Response<B> + Clone + Send,
) -> impl Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible, Future: Send> + Clone
{
    service_fn(move |_: Request<Empty<Bytes>>| {
        let response = make();
        async move { Ok::<_, Infallible>(response) }
    })
}

async fn body_of<S, P, B>(service: S) -> ResponseBody<P, B>
where
    S: Service<Request<Empty<Bytes>>, Response = Response<ResponseBody<P, B>>, Error = Infallible>,
    B: Backend,
{
    service.oneshot(request()).await.unwrap().into_body()
}

mod usage_that_lacks_an_estimated_value {
    use super::*;

    /// After a success that told its bytes, and not the tokens that were estimated.
    async fn after(
        policy: MissingUsage,
        price: fn(&Usage) -> Option<Amount>,
    ) -> (Standing, Vec<Usage>) {
        let books = books();
        let bytes_alone = |_: &response::Parts| Some(Usage::of("bytes", 5));
        let layer = LimitryLayer::new(books.clone(), identify(), bytes_alone)
            .estimate(|_| tokens(10))
            .charge(CREDITS, price)
            .on_missing_usage(policy);
        layer.layer(answering(|| ok("hello"))).oneshot(request()).await.unwrap();
        let recorded = events(&books).await;
        let usage = recorded.iter().map(|event| event.usage().clone()).collect();
        (standing(&books).await, usage)
    }

    /// They counted as nothing.
    #[tokio::test]
    async fn is_charged_the_estimate_of_that_value() {
        let (standing, usage) = after(MissingUsage::ChargeEstimate, price).await;
        assert_eq!(standing, Standing::charged(10, 1));
        assert_eq!(usage, [Usage::of("bytes", 5).and("tokens", 10)]);
    }

    #[tokio::test]
    async fn is_recorded_as_it_is_where_asked_and_charged_if_it_has_a_price() {
        let (standing, usage) = after(MissingUsage::RecordOnly, price).await;
        assert_eq!(standing, Standing::recorded(0, 1));
        assert_eq!(usage, [Usage::of("bytes", 5)]);
        let by_bytes = |usage: &Usage| Some(usage.value("bytes").unwrap_or(1.into()));
        let (standing, _) = after(MissingUsage::RecordOnly, by_bytes).await;
        assert_eq!(standing, Standing { credits: 495.into(), ..Standing::recorded(0, 1) });
    }

    #[tokio::test]
    async fn is_released_where_asked() {
        let (standing, _) = after(MissingUsage::Release, price).await;
        assert_eq!(standing, Standing::untouched());
    }

    #[tokio::test]
    async fn is_an_error_of_who_settles_a_permit_and_charged_the_same() {
        let books = books();
        let ask = || Check::of(CUSTOMER).estimate("tokens", 10);
        let settled = books.check(ask()).await.unwrap().settle(Usage::of("token", 7)).await;
        assert_eq!(settled.unwrap_err().to_string(), "usage: lacks a value that was estimated");
        assert_eq!(standing(&books).await, Standing::recorded(10, 1));
        books.check(ask()).await.unwrap().settle(tokens(0)).await.unwrap();
        assert_eq!(standing(&books).await, Standing::recorded(10, 2));
    }
}

mod a_response_future_that_is_dropped {
    use super::*;

    /// Every way for a check to answer, and how the test moves it on.
    const CHECKS: [Answer; 4] =
        [Answer::Obey, Answer::Hang, Answer::LateAnswer, Answer::LoseAnswer];

    /// Polls the future of a request so many times, with everything that hangs moved on in between,
    /// and drops it. Answers whether it was done before that.
    async fn dropped_after(polls: usize, check: Answer, finish: Answer) -> (bool, Standing) {
        let books = books();
        let backend = Scripted::over(&books);
        backend.on_check(check);
        backend.on_finish(finish);
        let slow = service_fn(|_: Request<Empty<Bytes>>| async {
            for _ in 0..3 {
                yield_now().await;
            }
            Ok::<_, Infallible>(ok("").map(|_| Script::new([]).says_end()))
        });
        let layer =
            LimitryLayer::new(Books::new(backend.clone()), identify(), |_: &_| Some(tokens(7)));
        let layer = layer.estimate(|_| tokens(10)).charge(CREDITS, price);
        let mut service = layer.layer(slow);
        let mut answer = Box::pin(service.ready().await.unwrap().call(request()));
        let mut done = false;
        for _ in 0..polls {
            if poll_once(&mut answer).is_ready() {
                done = true;
                break;
            }
            backend.resume();
            yield_now().await;
        }
        drop(answer);
        // What was handed over may still be on its way.
        for _ in 0..3 {
            yield_now().await;
            backend.resume();
        }
        yield_now().await;
        (done, standing(&books).await)
    }

    #[tokio::test]
    async fn holds_nothing_wherever_it_was() {
        for check in CHECKS {
            for finish in [Answer::Obey, Answer::LateAnswer, Answer::Hang, Answer::LoseAnswer] {
                let mut ended = false;
                for polls in 0..12 {
                    let (done, standing) = dropped_after(polls, check, finish).await;
                    let label = format!("{check:?}, {finish:?}, {polls} polls");
                    assert!(done || !ended, "{label}");
                    ended |= done;
                    // From the moment the service has answered it is recorded, whoever waits.
                    let recorded = standing == Standing::charged(7, 1);
                    assert!(recorded || standing == Standing::untouched(), "{label}: {standing:?}");
                    assert!(recorded || !done, "{label}: {standing:?}");
                }
                let never = check == Answer::LoseAnswer || finish == Answer::LoseAnswer;
                assert_eq!(ended, !never, "{check:?}, {finish:?}");
            }
        }
    }

    /// The check was sent by `call`, and nobody owned its id before the first poll.
    #[tokio::test]
    async fn holds_nothing_when_it_was_never_polled() {
        for check in CHECKS {
            let (done, standing) = dropped_after(0, check, Answer::Obey).await;
            assert!(!done);
            assert_eq!(standing, Standing::untouched(), "{check:?}");
        }
    }

    #[tokio::test]
    async fn releases_while_the_service_runs() {
        let books = books();
        let hanging = service_fn(|_: Request<Empty<Bytes>>| {
            pending::<Result<Response<Script>, Infallible>>()
        });
        let mut answer = Box::pin(reported(&books).layer(hanging).oneshot(request()));
        assert!(poll_once(&mut answer).is_pending());
        assert_eq!(
            standing(&books).await,
            Standing { credits_held: 10.into(), ..Standing::untouched().holding(10) }
        );
        drop(answer);
        assert_eq!(standing(&books).await, Standing::untouched());
    }
}

mod a_handler_that_fails {
    use super::*;

    #[tokio::test]
    async fn by_panicking_releases() {
        let books = books();
        let panicking = service_fn(|_: Request<Empty<Bytes>>| async {
            yield_now().await;
            panic!("the handler panics");
            #[expect(unreachable_code)]
            Ok::<_, Infallible>(ok(""))
        });
        let service = reported(&books).layer(panicking);
        let joined = tokio::spawn(async move { service.oneshot(request()).await.map(drop) }).await;
        assert!(joined.unwrap_err().is_panic());
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn by_panicking_before_it_makes_a_future_releases() {
        let books = books();
        let backend = Scripted::over(&books);
        for check in [Answer::Obey, Answer::LateAnswer] {
            backend.on_check(check);
            let service = reported(&Books::new(backend.clone())).layer(service_fn(
                |_: Request<Empty<Bytes>>| -> std::future::Ready<Result<Response<Script>, Infallible>> {
                    panic!("the handler panics")
                },
            ));
            let task = tokio::spawn(async move { service.oneshot(request()).await.map(drop) });
            yield_now().await;
            backend.resume();
            assert!(task.await.unwrap_err().is_panic());
            assert_eq!(standing(&books).await, Standing::untouched(), "{check:?}");
        }
    }

    #[tokio::test]
    async fn by_an_error_releases() {
        let books = books();
        let failing =
            service_fn(|_: Request<Empty<Bytes>>| async { Err::<Response<Script>, _>(Broken) });
        let answer = reported(&books).layer(failing).oneshot(request()).await;
        assert_eq!(answer.map(drop), Err(Broken));
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test]
    async fn in_its_body_releases() {
        for disconnect in POLICIES {
            let books = books();
            let layer = reported(&books).on_disconnect(disconnect);
            let body = || Script::new([data("a"), data("b"), Step::Fail]);
            let mut body = body_of(layer.layer(streaming(body))).await;
            assert!(body.frame().await.unwrap().is_ok());
            assert!(body.frame().await.unwrap().is_ok());
            assert_eq!(body.frame().await.unwrap().map(drop), Err(Broken));
            assert_eq!(standing(&books).await, Standing::untouched());
            drop(body);
            assert_eq!(standing(&books).await, Standing::untouched(), "{disconnect:?}");
        }
    }

    /// A body that panics is dropped as one whose client has left, and was charged as such.
    #[tokio::test]
    async fn by_panicking_in_its_body_releases() {
        for disconnect in POLICIES {
            let books = books();
            let layer = reported(&books).on_disconnect(disconnect);
            let body = || Script::new([data("a"), Step::Panic]);
            let mut body = body_of(layer.layer(streaming(body))).await;
            let task = tokio::spawn(async move {
                while let Some(frame) = body.frame().await {
                    frame.unwrap();
                }
            });
            assert!(task.await.unwrap_err().is_panic());
            yield_now().await;
            assert_eq!(standing(&books).await, Standing::untouched(), "{disconnect:?}");
        }
    }

    #[tokio::test]
    async fn by_its_own_word_releases() {
        for at_the_end in [false, true] {
            let books = books();
            let service = service_fn(move |request: Request<Empty<Bytes>>| {
                let reporter = request.extensions().get::<Reporter>().cloned().unwrap();
                if !at_the_end {
                    reporter.fail();
                }
                let body = Script::new([data("a")]).on_step(move |step| {
                    reporter.add("tokens", 1);
                    if step == 1 {
                        reporter.fail();
                    }
                });
                async { Ok::<_, Infallible>(Response::new(body)) }
            });
            let body = body_of(reported(&books).layer(service)).await;
            assert_eq!(frames(body).await, ["a"]);
            assert_eq!(standing(&books).await, Standing::untouched());
        }
    }

    #[tokio::test]
    async fn by_its_status_releases_before_the_body() {
        let books = books();
        let failed = || {
            let response = Response::builder().status(StatusCode::BAD_GATEWAY);
            response.body(Script::new([data("a"), data("b")])).unwrap()
        };
        let body = body_of(reported(&books).layer(answering(failed))).await;
        assert_eq!(standing(&books).await, Standing::untouched());
        assert_eq!(frames(body).await, ["a", "b"]);
        assert_eq!(standing(&books).await, Standing::untouched());
    }
}

const POLICIES: [Disconnect; 3] = [
    Disconnect::Settle,
    Disconnect::Release,
    Disconnect::Drain { bytes: 1_000, within: Duration::from_secs(60) },
];

mod a_body_ends {
    use super::*;

    /// Polls until so many frames have come, and looks at the books without polling on.
    async fn after(
        frames: usize,
        response: impl Fn() -> Response<Script> + Clone + Send,
    ) -> Standing {
        let mut standings = Vec::new();
        for disconnect in POLICIES {
            let books = books();
            let reporting = reporting(response.clone());
            let layer = reported(&books).on_disconnect(disconnect);
            let mut body = body_of(layer.layer(reporting)).await;
            for _ in 0..frames {
                body.frame().await.unwrap().unwrap();
            }
            let ended = standing(&books).await;
            assert_eq!(ended.open, 0, "{disconnect:?}");
            drop(body);
            yield_now().await;
            assert_eq!(standing(&books).await, ended, "the drop changes nothing, {disconnect:?}");
            standings.push(ended);
        }
        assert!(standings.iter().all(|standing| *standing == standings[0]), "{standings:?}");
        standings.remove(0)
    }

    fn reporting(
        response: impl Fn() -> Response<Script> + Clone + Send,
    ) -> impl Service<
        Request<Empty<Bytes>>,
        Response = Response<Script>,
        Error = Infallible,
        Future: Send,
    > + Clone {
        service_fn(move |request: Request<Empty<Bytes>>| {
            let reporter = request.extensions().get::<Reporter>().cloned().unwrap();
            let response = response().map(|body| body.on_step(move |_| reporter.add("tokens", 1)));
            async { Ok::<_, Infallible>(response) }
        })
    }

    #[tokio::test]
    async fn with_none() {
        let books = books();
        let body =
            body_of(reported(&books).layer(streaming(|| Script::new([data("a"), data("b")]))))
                .await;
        assert_eq!(frames(body).await, ["a", "b"]);
        assert_eq!(standing(&books).await, Standing::charged(3, 1));
    }

    #[tokio::test]
    async fn with_its_trailers() {
        let body = || {
            let steps = [data("a"), Step::Trailers(&[("x-sum", "1")])];
            Response::new(Script::new(steps))
        };
        assert_eq!(after(2, body).await, Standing::charged(2, 1));
    }

    #[tokio::test]
    async fn with_the_frame_after_which_it_says_so() {
        let body = || Response::new(Script::new([data("a"), data("b")]).says_end());
        assert_eq!(after(2, body).await, Standing::charged(2, 1));
    }

    #[tokio::test]
    async fn with_the_last_byte_of_its_content_length() {
        let body = || {
            let response = Response::builder().header("content-length", "4");
            response.body(Script::new([data("ab"), data(""), data("cd")])).unwrap()
        };
        assert_eq!(after(3, body).await, Standing::charged(3, 1));
    }

    /// A server writes the length and never polls again; the client was charged as if it had left.
    #[tokio::test]
    async fn with_the_last_byte_of_its_exact_size() {
        let body = || Response::new(Script::new([data("ab"), data("cd")]).exact());
        assert_eq!(after(2, body).await, Standing::charged(2, 1));
    }

    #[tokio::test]
    async fn with_none_when_its_content_length_is_no_number_or_more_than_it_sends() {
        for length in ["many", "5", "-4"] {
            let books = books();
            let body = move || {
                let response = Response::builder().header("content-length", length);
                response.body(Script::new([data("abcd")])).unwrap()
            };
            let mut body = body_of(reported(&books).layer(reporting(body))).await;
            body.frame().await.unwrap().unwrap();
            assert_eq!(standing(&books).await.open, 1, "{length}");
            assert!(body.frame().await.is_none());
            assert_eq!(standing(&books).await, Standing::charged(2, 1), "{length}");
        }
    }

    #[tokio::test]
    async fn once_however_often_it_is_polled() {
        let books = books();
        let body = || Script::new([data("a"), Step::Trailers(&[("x-sum", "1")])]);
        let mut body = body_of(reported(&books).layer(streaming(body))).await;
        while body.frame().await.is_some() {}
        assert_eq!(standing(&books).await, Standing::charged(2, 1));
    }
}

mod an_answer_without_body {
    use super::*;

    /// The standing while the response, whose body would panic if it was polled, is there.
    async fn at_head(
        method: Method,
        response: impl Fn() -> Response<Script> + Clone + Send,
    ) -> Standing {
        for check in [Answer::LateAnswer, Answer::Obey] {
            let books = books();
            let backend = Scripted::over(&books);
            backend.on_check(check);
            let layer = reported(&Books::new(backend.clone()));
            let service = layer.layer(answering(response.clone()));
            let mut request = request();
            *request.method_mut() = method.clone();
            let mut answer = Box::pin(service.oneshot(request));
            let response = match poll_once(&mut answer) {
                std::task::Poll::Ready(response) => response.unwrap(),
                std::task::Poll::Pending => {
                    backend.resume();
                    answer.await.unwrap()
                }
            };
            let standing = standing(&books).await;
            assert_eq!(standing.open, 0);
            drop(response);
            assert_eq!(support::standing(&books).await, standing);
            if check == Answer::Obey {
                return standing;
            }
        }
        unreachable!("the last check obeys")
    }

    fn never_polled(status: u16) -> Response<Script> {
        let status = StatusCode::from_u16(status).unwrap();
        Response::builder().status(status).body(Script::new([Step::Panic])).unwrap()
    }

    #[tokio::test]
    async fn ends_at_its_head() {
        for status in [101, 204] {
            let standing = at_head(Method::GET, move || never_polled(status)).await;
            assert_eq!(standing, Standing::charged(10, 1), "{status}");
        }
        assert_eq!(at_head(Method::GET, || never_polled(304)).await, Standing::untouched());
        assert_eq!(at_head(Method::HEAD, || never_polled(200)).await, Standing::charged(10, 1));
        let empty = || Response::new(Script::new([]).says_end());
        assert_eq!(at_head(Method::GET, empty).await, Standing::charged(10, 1));
    }

    #[tokio::test]
    async fn of_no_length_ends_at_its_head() {
        let told = || {
            let response = Response::builder().header("content-length", "0");
            response.body(Script::new([Step::Panic])).unwrap()
        };
        assert_eq!(at_head(Method::GET, told).await, Standing::charged(10, 1));
        let exact = || Response::new(Script::new([Step::Panic]).exact());
        assert_eq!(at_head(Method::GET, exact).await, Standing::charged(10, 1));
    }

    #[tokio::test]
    async fn but_a_tunnel_ends_at_its_head() {
        assert_eq!(at_head(Method::CONNECT, || never_polled(200)).await, Standing::charged(10, 1));
        assert_eq!(at_head(Method::CONNECT, || never_polled(502)).await, Standing::untouched());
    }
}

mod a_client_that_leaves {
    use super::*;

    /// The standing after a client has left a body of three frames after so many of them.
    async fn after(
        frames: usize,
        change: impl Fn(LimitryLayer<Engine>) -> LimitryLayer<Engine>,
    ) -> Standing {
        let books = books();
        let layer = change(reported(&books));
        let body = || Script::new([data("a"), data("b"), data("c"), Step::Stall]);
        let mut body = body_of(layer.layer(streaming(body))).await;
        for _ in 0..frames {
            body.frame().await.unwrap().unwrap();
        }
        assert_eq!(standing(&books).await.open, 1);
        drop(body);
        yield_now().await;
        standing(&books).await
    }

    /// What was reported counted as final, and leaving early was cheap.
    #[tokio::test]
    async fn is_charged_the_estimate_while_less_was_seen() {
        for frames in 0..3 {
            assert_eq!(after(frames, |layer| layer).await, Standing::charged(10, 1), "{frames}");
        }
    }

    #[tokio::test]
    async fn is_charged_what_was_seen_when_that_is_more() {
        for frames in 1..3 {
            let standing = after(frames, |layer| layer.estimate(|_| tokens(1))).await;
            assert_eq!(standing, Standing::charged(frames as u32, 1));
            let standing = after(frames, |layer| layer.estimate(|_| Usage::new())).await;
            assert_eq!(standing, Standing::charged(frames as u32, 1));
        }
    }

    /// Missing usage is for requests that succeeded; leaving early is no way to it.
    #[tokio::test]
    async fn is_charged_the_estimate_whatever_missing_usage_costs() {
        for policy in [MissingUsage::RecordOnly, MissingUsage::Release] {
            let standing = after(0, |layer| layer.on_missing_usage(policy)).await;
            assert_eq!(standing, Standing::charged(10, 1), "{policy:?}");
        }
    }

    #[tokio::test]
    async fn is_charged_nothing_where_that_is_the_policy() {
        for frames in 0..3 {
            let standing = after(frames, |layer| layer.on_disconnect(Disconnect::Release)).await;
            assert_eq!(standing, Standing::untouched());
        }
    }

    #[tokio::test]
    async fn is_charged_what_was_reported_once_that_is_complete() {
        let books = books();
        let service = service_fn(|request: Request<Empty<Bytes>>| {
            let reporter = request.extensions().get::<Reporter>().cloned().unwrap();
            reporter.set("tokens", 3);
            reporter.complete();
            async { Ok::<_, Infallible>(Response::new(Script::new([data("a"), Step::Stall]))) }
        });
        let mut body = body_of(reported(&books).layer(service)).await;
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert_eq!(standing(&books).await, Standing::charged(3, 1));
    }

    #[tokio::test]
    async fn from_a_response_that_failed_is_charged_nothing() {
        let books = books();
        let service = service_fn(|request: Request<Empty<Bytes>>| {
            request.extensions().get::<Reporter>().unwrap().fail();
            async { Ok::<_, Infallible>(Response::new(Script::new([data("a"), Step::Stall]))) }
        });
        drop(body_of(reported(&books).layer(service)).await);
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    struct Counts {
        seen: u64,
        is_final: bool,
    }

    impl Watch for Counts {
        fn data(&mut self, data: &[u8]) {
            self.seen += data.len() as u64;
        }

        fn end(&mut self) -> Option<Usage> {
            Some(tokens(self.seen))
        }

        fn seen(&mut self) -> (Option<Usage>, bool) {
            (Some(tokens(self.seen)), self.is_final)
        }
    }

    struct Counting {
        is_final: bool,
    }

    impl usage::Measure for Counting {
        fn measure(&self, _: &response::Parts) -> Measured {
            Measured::Body(Box::new(Counts { seen: 0, is_final: self.is_final }))
        }
    }

    #[tokio::test]
    async fn is_charged_what_a_watch_has_seen_and_the_estimate_unless_that_is_final() {
        for (is_final, charged) in [(false, 10), (true, 2)] {
            let books = books();
            let layer = LimitryLayer::new(books.clone(), identify(), Counting { is_final });
            let layer = layer.estimate(|_| tokens(10)).charge(CREDITS, price);
            let body = || Response::new(Script::new([data("ab"), Step::Stall]));
            let mut body = body_of(layer.layer(answering(body))).await;
            body.frame().await.unwrap().unwrap();
            drop(body);
            assert_eq!(standing(&books).await, Standing::charged(charged, 1));
        }
    }

    /// The head told the usage of a gRPC call; only the trailers would have told its success.
    #[tokio::test]
    async fn is_charged_what_the_head_told() {
        let books = books();
        let layer =
            LimitryLayer::new(books.clone(), identify(), |_: &response::Parts| Some(tokens(4)));
        let layer = layer.estimate(|_| tokens(10)).charge(CREDITS, price);
        let call = || {
            let response = Response::builder().header("content-type", "application/grpc");
            response.body(Script::new([data("a"), Step::Stall])).unwrap()
        };
        let mut body = body_of(layer.layer(answering(call))).await;
        body.frame().await.unwrap().unwrap();
        assert_eq!(standing(&books).await.open, 1);
        drop(body);
        assert_eq!(standing(&books).await, Standing::charged(4, 1));
    }

    /// Drops happen anywhere.
    #[test]
    fn outside_of_a_runtime_is_charged_all_the_same() {
        for disconnect in POLICIES {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let books = books();
            let layer = reported(&books).on_disconnect(disconnect);
            let body = || Script::new([data("a"), data("b")]);
            let body = runtime.block_on(body_of(layer.layer(streaming(body))));
            drop(body);
            let expected = match disconnect {
                Disconnect::Release => Standing::untouched(),
                _ => Standing::charged(10, 1),
            };
            assert_eq!(runtime.block_on(standing(&books)), expected, "{disconnect:?}");
        }
    }
}

mod draining {
    use super::*;

    fn draining(books: &Books<Engine>, bytes: u64, within: u64) -> LimitryLayer<Engine> {
        let within = Duration::from_secs(within);
        reported(books).on_disconnect(Disconnect::Drain { bytes, within })
    }

    #[tokio::test(start_paused = true)]
    async fn reads_the_rest_and_records_as_if_the_client_had_stayed() {
        let endings: [fn() -> Script; 4] = [
            || Script::new([data("a"), Step::Yield, data("b"), data("c")]),
            || Script::new([data("a"), data("b"), Step::Yield, data("c")]).says_end(),
            || Script::new([data("a"), data("b"), data("c")]).exact(),
            || Script::new([data("a"), data("b"), Step::Trailers(&[("x-sum", "1")])]),
        ];
        for (ending, polls) in endings.into_iter().zip([5, 4, 3, 3]) {
            let books = books();
            let mut body = body_of(draining(&books, 100, 60).layer(streaming(ending))).await;
            body.frame().await.unwrap().unwrap();
            drop(body);
            books.settled().await.unwrap();
            assert_eq!(standing(&books).await, Standing::charged(polls, 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stays_sees_the_same_frames() {
        let books = books();
        let body =
            || Script::new([data("a"), Step::Yield, Step::Trailers(&[("x-sum", "1")])]).exact();
        let body = body_of(draining(&books, 100, 60).layer(streaming(body))).await;
        assert_eq!(body.size_hint().exact(), Some(1));
        assert_eq!(frames(body).await, ["a", r#"{"x-sum": "1"}"#]);
        assert_eq!(standing(&books).await, Standing::charged(1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn stops_after_so_many_bytes() {
        let books = books();
        let body = || Script::new(std::iter::repeat_n(data("abcd"), 100));
        let scripted = draining(&books, 10, 60).layer(streaming(body));
        drop(body_of(scripted).await);
        books.settled().await.unwrap();
        // Three frames of four bytes are beyond ten, and less than the estimate.
        assert_eq!(standing(&books).await, Standing::charged(10, 1));

        let layer = draining(&books, 80, 60);
        drop(body_of(layer.layer(streaming(body))).await);
        books.settled().await.unwrap();
        assert_eq!(standing(&books).await, Standing::charged(31, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn stops_after_so_long() {
        let books = books();
        let body = || Script::new([data("a"), Step::Stall]);
        let started = Instant::now();
        drop(body_of(draining(&books, 100, 60).layer(streaming(body))).await);
        assert_eq!(standing(&books).await.open, 1, "it is still read");
        books.settled().await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 60);
        assert_eq!(standing(&books).await, Standing::charged(10, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_fails_meanwhile_is_released() {
        for failure in [Step::Fail, Step::Panic] {
            let books = books();
            let body = move || Script::new([data("a"), Step::Yield, failure.clone()]);
            drop(body_of(draining(&books, 100, 60).layer(streaming(body))).await);
            books.settled().await.unwrap();
            assert_eq!(standing(&books).await, Standing::untouched());
        }
    }

    #[test]
    fn a_runtime_that_ends_meanwhile_leaves_nothing_open() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let books = books();
        runtime.block_on(async {
            let body = || Script::new([data("a"), Step::Stall]);
            drop(body_of(draining(&books, 100, 60).layer(streaming(body))).await);
        });
        drop(runtime);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(standing(&books)), Standing::charged(10, 1));
    }
}

/// The end of a response waits where the backend records later.
mod a_durable_record {
    use super::*;

    fn durable(books: &Books<Engine>) -> (Scripted, LimitryLayer<Scripted>) {
        let backend = Scripted::over(books);
        backend.on_finish(Answer::LateAnswer);
        let layer = reported(&Books::new(backend.clone())).settle_timeout(Duration::from_secs(5));
        (backend, layer)
    }

    #[tokio::test(start_paused = true)]
    async fn holds_the_last_frame_until_it_is_there() {
        let endings: [fn() -> Script; 5] = [
            || Script::new([data("a"), data("bc"), Step::Trailers(&[("x-sum", "1")])]),
            || Script::new([data("a"), data("bc")]).says_end(),
            || Script::new([data("a"), data("bc")]).exact(),
            || Script::new([data("a"), data("bc")]).exact().says_end(),
            || Script::new([data("a"), data("bc")]),
        ];
        for (case, ending) in endings.into_iter().enumerate() {
            let books = books();
            let (backend, layer) = durable(&books);
            let mut body = body_of(layer.layer(streaming(ending))).await;
            let exact = body.size_hint().exact();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
            let last_is_data = matches!(case, 1..4);
            if !last_is_data {
                assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "bc");
            }
            for _ in 0..3 {
                assert!(poll_frame(&mut body).is_pending(), "case {case}");
                assert!(!body.is_end_stream(), "case {case}");
                let left = if last_is_data { 2 } else { 0 };
                assert_eq!(body.size_hint().lower(), left, "case {case}");
                if exact.is_some() {
                    assert_eq!(body.size_hint().exact(), Some(left), "case {case}");
                }
            }
            backend.resume();
            let last = body.frame().await;
            match case {
                0 => assert!(last.unwrap().unwrap().is_trailers()),
                4 => assert!(last.is_none()),
                _ => assert_eq!(last.unwrap().unwrap().into_data().unwrap(), "bc"),
            }
            if matches!(case, 1 | 3) {
                assert!(body.is_end_stream());
            }
            assert_eq!(standing(&books).await.events, 1);
            assert_eq!(standing(&books).await.open, 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn is_waited_for_at_most_so_long() {
        for finish in [Answer::LateAnswer, Answer::LoseAnswer, Answer::Hang] {
            let books = books();
            let (backend, layer) = durable(&books);
            backend.on_finish(finish);
            let body = || Script::new([data("a"), data("b")]).says_end();
            let body = body_of(layer.layer(streaming(body))).await;
            let started = Instant::now();
            assert_eq!(frames(body).await, ["a", "b"]);
            assert_eq!(started.elapsed().as_secs(), 5, "{finish:?}");
            backend.resume();
            books.settled().await.unwrap();
            assert_eq!(standing(&books).await, Standing::charged(2, 1), "{finish:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn that_fails_ends_the_wait() {
        let books = books();
        let (backend, layer) = durable(&books);
        backend.on_finish(Answer::Fail(tower_limitry::ErrorKind::Unavailable));
        let body = body_of(layer.layer(streaming(|| Script::new([data("a")])))).await;
        let started = Instant::now();
        assert_eq!(frames(body).await, ["a"]);
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_response_without_body_holds_its_head() {
        for status in [StatusCode::OK, StatusCode::NO_CONTENT] {
            let books = books();
            let (backend, layer) = durable(&books);
            let empty = move || {
                let body = Script::new([]).says_end();
                Response::builder().status(status).body(body).unwrap()
            };
            let mut answer = Box::pin(layer.layer(answering(empty)).oneshot(request()));
            for _ in 0..3 {
                assert!(poll_once(&mut answer).is_pending());
            }
            assert_eq!(standing(&books).await, Standing::charged(10, 1), "recorded meanwhile");
            backend.resume();
            let response = answer.await.unwrap();
            assert_eq!(response.status(), status);
            assert!(response.body().is_end_stream());
            assert_eq!(response.body().size_hint().lower(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_usage_known_at_the_head_holds_the_end_of_the_body_alone() {
        let books = books();
        let backend = Scripted::over(&books);
        backend.on_finish(Answer::LateAnswer);
        let known =
            LimitryLayer::new(Books::new(backend.clone()), identify(), |_: &response::Parts| {
                Some(tokens(7))
            });
        let service = known
            .layer(answering(|| Response::new(Script::new([data("a"), data("b")]).says_end())));
        let mut body = body_of(service.clone()).await;
        assert_eq!(standing(&books).await, Standing::recorded(7, 1), "settled at the head");
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        assert!(poll_frame(&mut body).is_pending());
        backend.resume();
        assert_eq!(frames(body).await, ["b"]);

        // The record came while the body was on its way.
        let mut body = body_of(service).await;
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        backend.resume();
        assert_eq!(
            poll_frame(&mut body).map(|frame| frame.is_some()),
            std::task::Poll::Ready(true)
        );
        assert_eq!(standing(&books).await, Standing::recorded(14, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn goes_on_when_the_client_leaves_at_the_end() {
        let books = books();
        let (backend, layer) = durable(&books);
        backend.on_finish(Answer::Hang);
        let mut body =
            body_of(layer.layer(streaming(|| Script::new([data("a")]).says_end()))).await;
        assert!(poll_frame(&mut body).is_pending());
        drop(body);
        yield_now().await;
        backend.resume();
        books.settled().await.unwrap();
        assert_eq!(standing(&books).await, Standing::charged(1, 1));
        let settled = backend.calls().into_iter().filter(|call| *call != Call::Release);
        assert_eq!(settled.filter(|call| matches!(call, Call::Settle(..))).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_release_is_not_waited_for_at_the_head() {
        let books = books();
        let (_backend, layer) = durable(&books);
        let failed = || Response::builder().status(500).body(Script::new([data("a")])).unwrap();
        let started = Instant::now();
        let body = body_of(layer.layer(answering(failed))).await;
        assert_eq!(frames(body).await, ["a"]);
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert_eq!(standing(&books).await, Standing::untouched());
    }
}

#[tokio::test]
async fn a_hold_lives_while_its_response_lives_however_long() {
    let clock = clock();
    let books = builder().clock(clock.clone()).build().unwrap();
    let body = || Script::new([data("a"), Step::Yield, data("b")]);
    let mut body = body_of(reported(&books).layer(streaming(body))).await;
    body.frame().await.unwrap().unwrap();
    clock.advance(Duration::from_secs(30 * 24 * 3_600));
    assert_eq!(books.open_holds().await.unwrap(), 1);
    while body.frame().await.is_some() {}
    let event = &events(&books).await[0];
    assert_eq!(event.at().to_string(), "2026-03-01T12:00:00Z", "the time of the check");
    let after = standing(&books).await;
    assert_eq!((after.used, after.credits, after.open), (0.into(), 496.into(), 0));
}

#[test]
fn a_dimension_whose_key_is_cut_is_there_once() {
    let long = "k".repeat(300);
    let usage = Usage::of("tokens", 1).dimension(&long, "a").dimension(&long, "b");
    assert_eq!(usage.dimensions().iter().map(|(_, text)| text).collect::<Vec<_>>(), ["b"]);
}
