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
