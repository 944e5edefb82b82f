use super::*;

async fn recorded<B>(
    response: Response<B>,
    change: impl FnOnce(LimitryLayer<Engine>) -> LimitryLayer<Engine>,
) -> usize
where
    B: Body<Data = Bytes, Error: std::fmt::Debug> + Send + 'static,
{
    let books = books();
    let response = std::sync::Mutex::new(Some(response));
    let response = Arc::new(response);
    let service = service_fn(move |_: Request<Empty<Bytes>>| {
        ready(Ok::<_, Infallible>(response.lock().unwrap().take().unwrap()))
    });
    let layer = change(layer(&books));
    let response = layer.layer(service).oneshot(request()).await.unwrap();
    frames(response.into_body()).await;
    assert_no_open_holds(&books).await;
    events(&books).await.len()
}

#[tokio::test]
async fn only_2xx_and_101_are_recorded() {
    for (code, events) in [
        (101, 1),
        (200, 1),
        (201, 1),
        (202, 1),
        (204, 1),
        (206, 1),
        (299, 1),
        (301, 0),
        (302, 0),
        (304, 0),
        (307, 0),
        (400, 0),
        (404, 0),
        (409, 0),
        (413, 0),
        (429, 0),
        (499, 0),
        (500, 0),
        (502, 0),
        (503, 0),
        (504, 0),
        (599, 0),
        (999, 0),
    ] {
        let code = StatusCode::from_u16(code).unwrap();
        assert_eq!(recorded(status(code), |layer| layer).await, events, "{code}");
    }
}

fn grpc(steps: impl IntoIterator<Item = Step>) -> Response<Script> {
    let response = Response::builder().header("content-type", "application/grpc+proto");
    response.body(Script::new(steps)).unwrap()
}

#[tokio::test]
async fn a_grpc_call_succeeds_by_its_status_in_headers_or_trailers() {
    let trailers = |status| Step::Trailers(status);
    let zero = [data("x"), trailers(&[("grpc-status", "0")])];
    assert_eq!(recorded(grpc(zero), |layer| layer).await, 1);
    let eight = [data("x"), trailers(&[("grpc-status", "8")])];
    assert_eq!(recorded(grpc(eight), |layer| layer).await, 0);
    let none = [data("x"), trailers(&[("x-sum", "1")])];
    assert_eq!(recorded(grpc(none), |layer| layer).await, 0);
    assert_eq!(recorded(grpc([data("x")]), |layer| layer).await, 0);
    assert_eq!(recorded(grpc([]), |layer| layer).await, 0);
    let says_end = grpc([data("x")]).map(Script::says_end);
    assert_eq!(recorded(says_end, |layer| layer).await, 0);
    for (status, events) in [("0", 1), ("8", 0), ("", 0)] {
        let mut only = grpc([]).map(Script::says_end);
        only.headers_mut().insert("grpc-status", status.parse().unwrap());
        assert_eq!(recorded(only, |layer| layer).await, events, "{status:?}");
    }
}

/// A length that is told does not end a gRPC call: its trailers are still to come.
#[tokio::test]
async fn a_grpc_call_with_a_length_still_ends_with_its_trailers() {
    let zero = [data("xyz"), Step::Trailers(&[("grpc-status", "0")])];
    let mut response = grpc(zero.clone());
    response.headers_mut().insert("content-length", "3".parse().unwrap());
    assert_eq!(recorded(response, |layer| layer).await, 1);
    assert_eq!(recorded(grpc(zero).map(Script::exact), |layer| layer).await, 1);
    let empty = [Step::Trailers(&[("grpc-status", "0")])];
    assert_eq!(recorded(grpc(empty).map(Script::exact), |layer| layer).await, 1);
}

#[tokio::test]
async fn grpc_web_is_judged_by_its_http_status() {
    for (kind, events) in [("application/grpc-web", 1), ("application/grpc;v=1", 0)] {
        let response = Response::builder().header("content-type", kind);
        let response = response.body(Script::new([data("x")])).unwrap();
        assert_eq!(recorded(response, |layer| layer).await, events, "{kind}");
    }
}

#[tokio::test]
async fn the_classification_can_be_replaced() {
    let cached = |head: &response::Parts| match head.status {
        StatusCode::NOT_MODIFIED => Classification::Success,
        _ => Classification::Failure,
    };
    let not_modified = status(StatusCode::NOT_MODIFIED);
    assert_eq!(recorded(not_modified, |layer| layer.classify(cached)).await, 1);
    assert_eq!(recorded(ok("hello"), |layer| layer.classify(cached)).await, 0);
}
