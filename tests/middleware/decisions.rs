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
