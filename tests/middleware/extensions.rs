use super::*;

#[tokio::test]
async fn the_service_finds_decision_and_reporter() {
    let books = books();
    let service = layer(&books).layer(service_fn(|request: Request<Empty<Bytes>>| {
        let reporter = request.extensions().get::<Reporter>().unwrap();
        let decision = reporter.decision().unwrap();
        let daily = decision.limits().next().unwrap();
        assert_eq!((daily.id(), daily.held(), daily.remaining()), ("daily", 10.into(), 990.into()));
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
