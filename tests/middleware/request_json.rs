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
    // Nobody measured the images.
    assert_eq!(usage, tokens(7).and("images", 2).dimension("kind", "chat"));
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
