use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{Problem, Shared};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Around every route: names the request, asks for the key, ends what takes too long.
pub(super) async fn guard(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let id = request.headers().get(REQUEST_ID).filter(|id| is_sound(id)).cloned();
    let id = id.or_else(|| HeaderValue::try_from(app.make_id("req_")).ok());
    let admitted = match request.uri().path().starts_with("/v1/") {
        true => app.keys.admit(request.headers(), &app.project),
        false => Ok(()),
    };
    let mut response = match admitted {
        Ok(()) => {
            // Once for the request to arrive and once for the answer.
            tokio::time::timeout(app.timeout.saturating_mul(2), next.run(request))
                .await
                .unwrap_or_else(|_| Problem::timeout(StatusCode::GATEWAY_TIMEOUT).into_response())
        }
        Err(problem) => problem.into_response(),
    };
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Whether a caller's id can be told on.
fn is_sound(id: &HeaderValue) -> bool {
    (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}
