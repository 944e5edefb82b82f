//! What requests meet while the backend cannot answer.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{pending, ready};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode, response};
use http_body_util::{Empty, Full};
use tokio::task::yield_now;
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_limitry::backend::{Admin, Admission, Backend, Settlement, Ticket};
use tower_limitry::policy::{EventId, Timestamp};
use tower_limitry::store::BoxFuture;
use tower_limitry::test_util::{Answer, Call, Scripted};
use tower_limitry::{
    Books, Check, Engine, Error, ErrorKind, FailurePolicy, Limit, LimitryLayer, Reporter, Unmetered,
};

#[path = "support/http.rs"]
mod support;

use support::*;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Every way for a check to stay without an answer.
const OUTAGES: [Answer; 5] = [
    Answer::Fail(ErrorKind::Unavailable),
    Answer::Fail(ErrorKind::TimedOut),
    Answer::Hang,
    Answer::LateAnswer,
    Answer::LoseAnswer,
];

/// Those of them that take the time a check may take.
fn is_slow(outage: Answer) -> bool {
    !matches!(outage, Answer::Fail(_))
}

fn layer<B: Backend>(books: &Books<B>) -> LimitryLayer<B> {
    LimitryLayer::new(books.clone(), identify(), |_: &response::Parts| Some(tokens(7)))
        .estimate(|_| tokens(10))
        .check_timeout(TIMEOUT)
}

fn answering(
    code: StatusCode,
) -> impl Service<
    Request<Empty<Bytes>>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future = std::future::Ready<Answered>,
> + Clone {
    service_fn(move |_: Request<Empty<Bytes>>| ready(Ok(status(code))))
}

/// What one request through the layer is answered, and how long that took.
async fn ask<B: Backend>(layer: &LimitryLayer<B>) -> (StatusCode, Duration) {
    let started = Instant::now();
    let response = layer.layer(answering(StatusCode::OK)).oneshot(request()).await.unwrap();
    let unmetered = response.extensions().get::<Unmetered>().is_some();
    let limited = response.headers().contains_key("ratelimit");
    assert!(!(unmetered && limited), "no budget is told that was not enforced");
    assert_ne!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    (response.status(), started.elapsed())
}

mod each_policy {
    use super::*;

    async fn meets(policy: FailurePolicy, passes: bool) {
        for outage in OUTAGES {
            let books = books();
            let backend = Scripted::over(&books);
            backend.on_check(outage);
            let layer = layer(&Books::new(backend.clone())).on_failure(policy);
            let (status, took) = ask(&layer).await;
            let expected = if passes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            assert_eq!(status, expected, "{outage:?}");
            assert_eq!(took, if is_slow(outage) { TIMEOUT } else { Duration::ZERO }, "{outage:?}");

            // Whatever of the check still arrives places nothing.
            backend.resume();
            yield_now().await;
            let after = if passes { Standing::recorded(7, 1) } else { Standing::untouched() };
            assert_eq!(standing(&books).await, after, "{outage:?}");

            backend.on_check(Answer::Obey);
            assert_eq!(ask(&layer).await, (StatusCode::OK, Duration::ZERO), "it heals, {outage:?}");
            assert_eq!(standing(&books).await.events, after.events + 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn open_lets_through_and_records_once() {
        meets(FailurePolicy::Open, true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn closed_answers_503_and_leaves_nothing() {
        meets(FailurePolicy::Closed, false).await;
    }

    #[tokio::test(start_paused = true)]
    async fn open_for_a_while_lets_through_at_first() {
        meets(FailurePolicy::OpenFor(Duration::from_secs(60)), true).await;
        meets(FailurePolicy::OpenFor(Duration::ZERO), false).await;
    }

    #[tokio::test(start_paused = true)]
    async fn open_up_to_so_many_lets_the_first_through() {
        meets(FailurePolicy::OpenUpTo(1), true).await;
        meets(FailurePolicy::OpenUpTo(0), false).await;
    }

    /// A backend that answers at once that it does not know kept a hold that nobody released.
    #[tokio::test(start_paused = true)]
    async fn leaves_nothing_of_a_check_whose_outcome_is_unknown() {
        for policy in [FailurePolicy::Closed, FailurePolicy::Open] {
            let backend = Scripted::over(&books());
            backend.on_check(Answer::Fail(ErrorKind::TimedOut));
            ask(&layer(&Books::new(backend.clone())).on_failure(policy)).await;
            let ends = match policy {
                FailurePolicy::Open => Call::Settle(tokens(7), None),
                _ => Call::Release,
            };
            assert_eq!(backend.calls()[1..], [ends]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn is_no_matter_of_checks_that_make_no_sense_or_of_ids_in_use() {
        for policy in [FailurePolicy::Open, FailurePolicy::Closed] {
            for (kind, status) in [
                (ErrorKind::Invalid, StatusCode::INTERNAL_SERVER_ERROR),
                (ErrorKind::Conflict, StatusCode::CONFLICT),
            ] {
                let books = books();
                let backend = Scripted::over(&books);
                backend.on_check(Answer::Fail(kind));
                let layer = layer(&Books::new(backend.clone())).on_failure(policy);
                assert_eq!(ask(&layer).await.0, status);
                assert!(!backend.calls().contains(&Call::Release), "nothing was placed");
                assert_eq!(standing(&books).await, Standing::untouched());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn is_open_for_limits_and_closed_as_soon_as_a_balance_is_charged() {
        for outage in OUTAGES {
            let backend = Scripted::over(&books());
            backend.on_check(outage);
            let limits = layer(&Books::new(backend));
            assert_eq!(ask(&limits).await.0, StatusCode::OK);
            let charged = limits.clone().charge(CREDITS, price);
            assert_eq!(ask(&charged).await.0, StatusCode::SERVICE_UNAVAILABLE);
            let chosen = limits.on_failure(FailurePolicy::Open).charge(CREDITS, price);
            assert_eq!(ask(&chosen).await.0, StatusCode::OK);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_an_open_charge_takes_from_the_balance_afterwards() {
        for outage in OUTAGES {
            let books = books();
            let backend = Scripted::over(&books);
            backend.on_check(outage);
            let layer = layer(&Books::new(backend)).charge(CREDITS, price);
            ask(&layer.on_failure(FailurePolicy::Open)).await;
            assert_eq!(standing(&books).await, Standing::charged(7, 1), "{outage:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn open_records_nothing_where_the_request_fails() {
        for outage in OUTAGES {
            let books = books();
            let backend = Scripted::over(&books);
            backend.on_check(outage);
            let layer = layer(&Books::new(backend));
            let failing = layer.layer(answering(StatusCode::BAD_GATEWAY));
            let response = failing.oneshot(request()).await.unwrap();
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
            assert_eq!(standing(&books).await, Standing::untouched(), "{outage:?}");
        }
    }
}

mod an_outage {
    use super::*;

    async fn statuses(layer: &LimitryLayer<Scripted>, requests: usize) -> Vec<u16> {
        let mut statuses = Vec::new();
        for _ in 0..requests {
            statuses.push(ask(layer).await.0.as_u16());
        }
        statuses
    }

    #[tokio::test(start_paused = true)]
    async fn is_counted_anew_once_the_backend_has_answered() {
        let backend = Scripted::over(&books());
        let layer = layer(&Books::new(backend.clone())).on_failure(FailurePolicy::OpenUpTo(2));
        for outage in OUTAGES {
            backend.on_check(outage);
            assert_eq!(statuses(&layer, 4).await, [200, 200, 503, 503], "{outage:?}");
            backend.on_check(Answer::Obey);
            assert_eq!(statuses(&layer, 1).await, [200]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn is_over_when_the_backend_denies() {
        let backend = Scripted::over(&books());
        let layer = layer(&Books::new(backend.clone())).on_failure(FailurePolicy::OpenUpTo(1));
        backend.on_check(Answer::Fail(ErrorKind::Unavailable));
        assert_eq!(statuses(&layer, 2).await, [200, 503]);
        backend.on_check(Answer::Deny);
        let response = layer.layer(answering(StatusCode::OK)).oneshot(request()).await.unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        backend.on_check(Answer::Fail(ErrorKind::Unavailable));
        assert_eq!(statuses(&layer, 2).await, [200, 503]);
    }

    #[tokio::test(start_paused = true)]
    async fn is_open_for_so_long_and_then_closed() {
        let backend = Scripted::over(&books());
        let policy = FailurePolicy::OpenFor(Duration::from_secs(10));
        let layer = layer(&Books::new(backend.clone())).on_failure(policy);
        for _ in 0..2 {
            backend.on_check(Answer::Fail(ErrorKind::Unavailable));
            assert_eq!(statuses(&layer, 2).await, [200, 200]);
            advance(Duration::from_millis(9_999)).await;
            assert_eq!(statuses(&layer, 2).await, [200, 200]);
            advance(Duration::from_millis(1)).await;
            assert_eq!(statuses(&layer, 2).await, [503, 503]);
            advance(Duration::from_secs(3_600)).await;
            assert_eq!(statuses(&layer, 1).await, [503]);
            backend.on_check(Answer::Obey);
            assert_eq!(statuses(&layer, 1).await, [200]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lets_no_more_through_at_once_than_one_by_one() {
        for outage in OUTAGES {
            let backend = Scripted::over(&books());
            backend.on_check(outage);
            let layer = layer(&Books::new(backend)).on_failure(FailurePolicy::OpenUpTo(3));
            let started = Instant::now();
            let tasks: Vec<_> = (0..50)
                .map(|_| {
                    let layer = layer.clone();
                    tokio::spawn(async move { ask(&layer).await.0 })
                })
                .collect();
            let mut passed = 0;
            for task in tasks {
                passed += usize::from(task.await.unwrap() == StatusCode::OK);
            }
            assert_eq!(passed, 3, "{outage:?}");
            assert!(started.elapsed() <= TIMEOUT, "{outage:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn that_flaps_records_every_request_once() {
        let books = books();
        let backend = Scripted::over(&books);
        let layer = layer(&Books::new(backend.clone()));
        for round in 0..100 {
            backend.on_check(match round % 7 {
                0 | 3 => OUTAGES[round % OUTAGES.len()],
                _ => Answer::Obey,
            });
            assert_eq!(ask(&layer).await.0, StatusCode::OK);
            backend.resume();
        }
        yield_now().await;
        assert_eq!(books.open_holds().await.unwrap(), 0);
        assert_eq!(standing(&books).await.used, 700.into());
    }

    #[tokio::test(start_paused = true)]
    async fn is_charged_to_the_limit_when_it_is_over() {
        let books = books();
        let backend = Scripted::over(&books);
        backend.on_check(Answer::Fail(ErrorKind::Unavailable));
        let spend =
            LimitryLayer::new(Books::new(backend.clone()), identify(), |_: &_| Some(tokens(600)));
        for _ in 0..3 {
            assert_eq!(ask(&spend).await.0, StatusCode::OK);
        }
        assert_eq!(standing(&books).await.used, 1_800.into(), "the truth, also above the cap");
        backend.on_check(Answer::Obey);
        let response = spend.layer(answering(StatusCode::OK)).oneshot(request()).await.unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    }

    #[tokio::test(start_paused = true)]
    async fn of_settlements_does_not_reach_the_client() {
        for finish in OUTAGES {
            let backend = Scripted::over(&books());
            backend.on_finish(finish);
            let layer = layer(&Books::new(backend)).settle_timeout(Duration::from_secs(3));
            let (status, took) = ask(&layer).await;
            assert_eq!(status, StatusCode::OK);
            assert!(took <= Duration::from_secs(3), "{finish:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_the_room_for_customers_follows_the_policy() {
        let books =
            builder().memory(tower_limitry::store::Memory::new().max_customers(1)).build().unwrap();
        let layer = layer(&books);
        assert_eq!(ask(&layer).await.0, StatusCode::OK);
        let other = || {
            let request = Request::builder().header("x-customer", "acct_43");
            request.body(Empty::<Bytes>::new()).unwrap()
        };
        for (policy, status) in [(FailurePolicy::Open, 200), (FailurePolicy::Closed, 503)] {
            let layer = layer.clone().on_failure(policy);
            let response = layer.layer(answering(StatusCode::OK)).oneshot(other()).await.unwrap();
            assert_eq!(response.status(), status);
        }
        assert_eq!(ask(&layer).await.0, StatusCode::OK, "nobody known is turned away");
        assert_eq!(standing(&books).await, Standing::recorded(14, 2));
    }
}

/// A check that is on its way for longer than anybody waits for it.
mod a_check_that_arrives_late {
    use super::*;

    /// Sends checks when it is told to, whether or not somebody still waits for the answer.
    #[derive(Clone, Debug)]
    struct Slow {
        engine: Engine,
        on_its_way: Arc<Mutex<VecDeque<Check>>>,
    }

    impl Slow {
        fn over(books: &Books<Engine>) -> Self {
            Self { engine: books.backend().clone(), on_its_way: Arc::default() }
        }

        /// Lets a check arrive at last; answers whether it placed a hold.
        async fn arrive(&self) -> Result<bool, ErrorKind> {
            let check = self.on_its_way.lock().unwrap().pop_front().unwrap();
            let answer = self.engine.check(check).await;
            answer.map(|admission| admission.hold.is_some()).map_err(|error| error.kind())
        }
    }

    impl Backend for Slow {
        type Check = BoxFuture<'static, Result<Admission, Error>>;
        type Finish = <Engine as Backend>::Finish;

        fn check(&self, check: Check) -> Self::Check {
            self.on_its_way.lock().unwrap().push_back(check);
            Box::pin(pending())
        }

        fn settle(&self, settlement: Settlement) -> Self::Finish {
            self.engine.settle(settlement)
        }

        fn release(&self, ticket: Ticket) -> Self::Finish {
            self.engine.release(ticket)
        }

        fn make_id(&self, at: Timestamp) -> EventId {
            self.engine.make_id(at)
        }

        fn now(&self) -> Timestamp {
            Backend::now(&self.engine)
        }

        fn admin(&self) -> &dyn Admin {
            self.engine.admin()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn places_nothing_after_the_request_was_refused() {
        let books = books();
        let slow = Slow::over(&books);
        let layer = layer(&Books::new(slow.clone())).on_failure(FailurePolicy::Closed);
        assert_eq!(ask(&layer).await, (StatusCode::SERVICE_UNAVAILABLE, TIMEOUT));
        assert_eq!(slow.arrive().await, Err(ErrorKind::Conflict));
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test(start_paused = true)]
    async fn places_nothing_after_the_client_has_left() {
        let books = books();
        let slow = Slow::over(&books);
        let service = layer(&Books::new(slow.clone())).layer(answering(StatusCode::OK));
        for polls in 0..2 {
            let mut answer = Box::pin(service.clone().oneshot(request()));
            assert!(poll_once(&mut answer).is_pending());
            for _ in 0..polls {
                assert!(poll_once(&mut answer).is_pending());
            }
            drop(answer);
            assert_eq!(slow.arrive().await, Err(ErrorKind::Conflict));
            assert_eq!(standing(&books).await, Standing::untouched());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn places_nothing_after_the_request_was_recorded() {
        let books = books();
        let slow = Slow::over(&books);
        assert_eq!(ask(&layer(&Books::new(slow.clone()))).await, (StatusCode::OK, TIMEOUT));
        assert_eq!(standing(&books).await, Standing::recorded(7, 1));
        assert_eq!(slow.arrive().await, Ok(false));
        assert_eq!(standing(&books).await, Standing::recorded(7, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn places_nothing_after_the_request_has_failed() {
        let books = books();
        let slow = Slow::over(&books);
        let service = layer(&Books::new(slow.clone())).layer(answering(StatusCode::BAD_GATEWAY));
        assert_eq!(service.oneshot(request()).await.unwrap().status(), StatusCode::BAD_GATEWAY);
        assert_eq!(slow.arrive().await, Err(ErrorKind::Conflict));
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_request_runs_gives_its_hold_to_it() {
        for (code, after) in [
            (StatusCode::OK, Standing::recorded(7, 1)),
            (StatusCode::BAD_GATEWAY, Standing::untouched()),
        ] {
            let books = books();
            let slow = Slow::over(&books);
            let arriving = {
                let (slow, books) = (slow.clone(), books.clone());
                service_fn(move |_: Request<Empty<Bytes>>| {
                    let (slow, books) = (slow.clone(), books.clone());
                    async move {
                        assert_eq!(slow.arrive().await, Ok(true));
                        assert_eq!(standing(&books).await.open, 1);
                        Ok::<_, Infallible>(status(code))
                    }
                })
            };
            let service = layer(&Books::new(slow.clone())).layer(arriving);
            assert_eq!(service.oneshot(request()).await.unwrap().status(), code);
            assert_eq!(standing(&books).await, after);
        }
    }

    /// The second release of one id took the place of the first, whose check then held for ever.
    #[tokio::test(start_paused = true)]
    async fn places_nothing_though_another_of_its_id_was_refused_too() {
        let books = books();
        let slow = Slow::over(&books);
        let layer = layer(&Books::new(slow.clone())).idempotency_key(KEY);
        let service = layer.on_failure(FailurePolicy::Closed).layer(answering(StatusCode::OK));
        for _ in 0..3 {
            let answer = service.clone().oneshot(keyed()).await.unwrap();
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        }
        for _ in 0..3 {
            assert_eq!(slow.arrive().await, Err(ErrorKind::Conflict));
        }
        assert_eq!(standing(&books).await, Standing::untouched());
    }

    /// The request runs unchecked, and is recorded in the window in which it did.
    #[tokio::test(start_paused = true)]
    async fn tells_a_request_that_runs_unchecked_nothing() {
        let clock = clock();
        let limit = Limit::per_minute("minutely", "tokens", 5);
        let books = builder().clock(clock.clone()).limit(limit).build().unwrap();
        let slow = Slow::over(&books);
        let arriving = {
            let slow = slow.clone();
            service_fn(move |request: Request<Empty<Bytes>>| {
                let slow = slow.clone();
                async move {
                    let reporter = request.extensions().get::<Reporter>().unwrap().clone();
                    assert_eq!(slow.arrive().await, Ok(false));
                    assert!(reporter.decision().is_none());
                    Ok::<_, Infallible>(status(StatusCode::OK))
                }
            })
        };
        let service = layer(&Books::new(slow.clone())).layer(arriving);
        let mut answer = Box::pin(service.oneshot(request()));
        assert!(poll_once(&mut answer).is_pending());
        clock.advance(Duration::from_secs(60));
        let response = answer.await.unwrap();
        assert!(response.extensions().get::<Unmetered>().is_some());
        let event = events(&books).await.remove(0);
        let usage = books.usage(CUSTOMER).await.unwrap();
        let minutely = usage.limits().find(|limit| limit.id() == "minutely").unwrap();
        assert!(minutely.window().contains(event.at()));
        assert_eq!(minutely.used(), 7.into());
    }

    #[tokio::test(start_paused = true)]
    async fn in_any_order_with_many_others_leaves_exact_books() {
        let books = books();
        let slow = Slow::over(&books);
        let layer = layer(&Books::new(slow.clone()));
        for round in 0..60 {
            match round % 3 {
                0 => assert_eq!(ask(&layer).await.0, StatusCode::OK),
                1 => {
                    let service = layer.layer(answering(StatusCode::BAD_GATEWAY));
                    service.oneshot(request()).await.unwrap();
                }
                _ => {
                    let closed = layer.clone().on_failure(FailurePolicy::Closed);
                    assert_eq!(ask(&closed).await.0, StatusCode::SERVICE_UNAVAILABLE);
                }
            }
            if round % 2 == 0 {
                assert_ne!(slow.arrive().await, Ok(true));
            }
        }
        while !slow.on_its_way.lock().unwrap().is_empty() {
            assert_ne!(slow.arrive().await, Ok(true));
        }
        assert_eq!(standing(&books).await, Standing::recorded(140, 20));
    }
}

const KEY: HeaderName = HeaderName::from_static("idempotency-key");

fn keyed() -> Request<Empty<Bytes>> {
    let mut request = request();
    request.headers_mut().insert(KEY, "k1".parse().unwrap());
    request
}

/// A repeat whose check stays without answer ends the hold of the first, which then is not counted.
#[tokio::test(start_paused = true)]
async fn a_repeat_that_gives_up_leaves_the_first_its_hold() {
    for outage in [Answer::Fail(ErrorKind::TimedOut), Answer::Hang, Answer::LoseAnswer] {
        let books = books();
        let backend = Scripted::over(&books);
        let layer = layer(&Books::new(backend.clone())).idempotency_key(KEY);
        let layer = layer.on_failure(FailurePolicy::Closed);
        let slow = service_fn(|_: Request<Empty<Bytes>>| async {
            yield_now().await;
            Ok::<_, Infallible>(ok("hello"))
        });
        let service = layer.layer(slow);
        let mut first = Box::pin(service.clone().oneshot(keyed()));
        assert!(matches!(poll_once(&mut first), Poll::Pending));
        backend.on_check(outage);
        let second = service.oneshot(keyed()).await.unwrap();
        assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(first.await.unwrap().status(), StatusCode::OK);
        assert_eq!(standing(&books).await, Standing::recorded(7, 1), "{outage:?}");
    }
}

/// A client repeats with the same key just because it got no answer; it is answered 409.
#[tokio::test(start_paused = true)]
async fn a_key_whose_check_stayed_without_answer_can_be_sent_again() {
    for outage in OUTAGES {
        for code in [StatusCode::OK, StatusCode::BAD_GATEWAY] {
            for policy in [FailurePolicy::Closed, FailurePolicy::Open] {
                let books = books();
                let backend = Scripted::over(&books);
                backend.on_check(outage);
                let layer = layer(&Books::new(backend.clone())).idempotency_key(KEY);
                let layer = layer.on_failure(policy);
                layer.layer(answering(code)).oneshot(keyed()).await.unwrap();
                backend.on_check(Answer::Obey);
                let again = layer.layer(answering(StatusCode::OK)).oneshot(keyed()).await.unwrap();
                assert_eq!(again.status(), StatusCode::OK, "{outage:?}, {code}, {policy:?}");
                assert_eq!(standing(&books).await, Standing::recorded(7, 1));
            }
        }
    }
}
