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
                assert_eq!(looked, (away != Some(number)).then_some(true), "{number}, {away:?}");
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
