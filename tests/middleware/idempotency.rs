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

/// A key that is chosen well must not make one use look like another's repeat.
#[tokio::test]
async fn a_key_is_of_its_own_event_type_alone() {
    let (books, calls) = (books(), Counter::default());
    for (event_type, key) in [
        ("chat", "large:k1"),
        ("chat:large", "k1"),
        ("chat%3Alarge", "k1"),
        ("void", "k1"),
        ("%void", "k1"),
    ] {
        for _ in 0..2 {
            let service = layer(&books).event_type(event_type).layer(hello(&calls));
            let response = service.oneshot(keyed(key)).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{event_type}");
        }
    }
    assert_eq!(standing(&books).await, Standing::charged(35, 5));
}
