use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, post};
use tower_limitry::{CheckError, axum::NotMetered};

use super::*;

async fn metered(decision: Decision, reporter: Reporter) -> String {
    reporter.set("tokens", 5);
    decision.limits().next().unwrap().remaining().to_string()
}

#[tokio::test]
async fn take_decision_and_reporter_as_arguments() {
    let books = books();
    let app = Router::new().route("/", get(metered)).route_layer(layer(&books));
    let request = request().map(|_| Body::empty());
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "990");
    assert_eq!(standing(&books).await, Standing::recorded(5, 1));
}

#[tokio::test]
async fn without_the_layer_their_arguments_are_missing() {
    let app = Router::new().route("/", get(metered));
    let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert!(std::str::from_utf8(&text).unwrap().contains("Decision"), "{text:?}");
    let _: Option<NotMetered> = None;
}

#[tokio::test]
async fn return_the_errors_of_their_own_checks() {
    async fn by_hand(State(books): State<Books>) -> Result<&'static str, CheckError> {
        let permit = books.check(Check::of(CUSTOMER).estimate("tokens", 600)).await?;
        permit.settle(tokens(600)).await?;
        Ok("done")
    }
    let backend = Scripted::over(&books());
    let books = Books::new(backend.clone()).erased();
    let app = Router::new().route("/", post(by_hand)).with_state(books.clone());
    let call = || Request::post("/").body(Body::empty()).unwrap();
    for (answer, status) in [
        (Answer::Obey, 200),
        (Answer::Obey, 429),
        (Answer::Fail(ErrorKind::Unavailable), 503),
        (Answer::Fail(ErrorKind::TimedOut), 503),
        (Answer::Fail(ErrorKind::Conflict), 409),
        (Answer::Fail(ErrorKind::Invalid), 500),
    ] {
        backend.on_check(answer);
        let response = app.clone().oneshot(call()).await.unwrap();
        assert_eq!(response.status(), status, "{answer:?}");
    }
    assert_no_open_holds(&books).await;
}
