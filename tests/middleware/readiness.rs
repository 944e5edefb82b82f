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
    let failing = service_fn(|_: Request<_>| ready(Err::<Response<Full<Bytes>>, Broken>(Broken)));
    let answer = layer(&books).layer(failing).oneshot(request()).await;
    assert_eq!(answer.map(|response| response.status()), Err(Broken));
    assert_eq!(standing(&books).await, Standing::untouched());
}
