use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Shared;
use super::problem::{Problem, Reply, ok};
use crate::{Error, ErrorKind};

#[derive(Serialize)]
pub(super) struct Health {
    status: &'static str,
}

/// The process answers.
pub(super) async fn alive() -> Result<Reply<Health>, Problem> {
    ok(Health { status: "alive" })
}

/// The books answer, too.
pub(super) async fn ready(State(app): State<Shared>) -> Result<Reply<Health>, Problem> {
    const SOON: Duration = Duration::from_secs(1);
    let asked = tokio::time::timeout(SOON, app.books.open_holds()).await;
    let silent = || Error::new(ErrorKind::Unavailable, "the books do not answer");
    asked.unwrap_or_else(|_| Err(silent())).map_err(|_| silent())?;
    ok(Health { status: "ready" })
}

/// What the program counts, as text for Prometheus.
pub(super) async fn metrics(State(app): State<Shared>) -> Response {
    match &app.metrics {
        Some(render) => {
            let text = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
            (text, render()).into_response()
        }
        None => super::no_route().await.into_response(),
    }
}

/// The OpenAPI document.
pub(super) async fn openapi(State(app): State<Shared>) -> Response {
    ([(CONTENT_TYPE, "application/json")], app.openapi.clone()).into_response()
}
