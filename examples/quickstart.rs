//! A metered chat service: 1,000 tokens a day for each customer.
//!
//! ```sh
//! cargo run --example quickstart
//! ```
//!
//! It listens on 127.0.0.1, on the port in `PORT` (3000 unless set), keeps its books where
//! `LIMITRY_BACKEND` says (`memory:` unless set; `sqlite:usage.db` outlives the program, several share
//! `redis://HOST`), and prints three calls to try. `LIMITRY_BACKEND=http://127.0.0.1:8080/v1` with
//! `LIMITRY_API_KEY` keeps them on the server of the example of that name, for any number of such
//! programs, each with a `LIMITRY_OUTBOX` of its own.
//!
//! The customer is taken from `x-customer-id`, which is trusted: in front of a service like this
//! stands a gateway that authenticates the caller, sets that header and strips what clients send.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use tower_limitry::policy::Balance;
use tower_limitry::{
    Books, Engine, Limit, LimitState, LimitryLayer, Meter, Usage, client, customer, usage,
};

mod pretend_model;
use pretend_model::{Answer, ChatRequest, ChatResponse};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let books = Engine::builder()
        .meter(Meter::sum("tokens", "total_tokens").event_type("llm.completion").unit("tokens"))
        .limit(Limit::per_day("daily-tokens", "tokens", 1_000).named("Daily token limit"))
        .open_from_env()
        .await?;
    if let Some(path) = client::outbox_path() {
        eprintln!("settlements wait for the server in {}", path.display());
    }

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, try:\n");
    println!(
        "curl -i http://{address}/v1/chat/completions -H 'x-customer-id: acct_42' \\\n  \
         -H 'content-type: application/json' \\\n  \
         -d '{{\"model\":\"small-1\",\"messages\":[{{\"role\":\"user\",\"content\":\"Say hello\"}}],\"max_tokens\":400}}'\n\
         curl http://{address}/usage -H 'x-customer-id: acct_42'\n\
         curl -i -X POST http://{address}/fail -H 'x-customer-id: acct_42'"
    );
    axum::serve(listener, app(books)).await?;
    Ok(())
}

fn app(books: Books) -> Router {
    let metered =
        LimitryLayer::new(books.clone(), customer::trusted_header("x-customer-id"), measure())
            .event_type("llm.completion")
            .request_json(64 * 1024, |chat: &ChatRequest| {
                Usage::of("total_tokens", chat.upper_bound()).dimension("model", &chat.model)
            });
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/fail", post(fail))
        .route_layer(metered)
        // Routes below the layer are not metered.
        .route("/usage", get(standing))
        .with_state(books)
}

/// What the answer says that it used.
fn measure() -> impl usage::Measure {
    usage::json(1024 * 1024, |answer: &Answer| {
        Some(
            Usage::of("total_tokens", answer.usage.total_tokens)
                .and("input_tokens", answer.usage.prompt_tokens)
                .and("output_tokens", answer.usage.completion_tokens),
        )
    })
}

async fn chat(Json(chat): Json<ChatRequest>) -> Json<ChatResponse> {
    Json(pretend_model::complete(&chat))
}

/// A request that fails records nothing.
async fn fail() -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Standing<'a> {
    customer_id: &'a str,
    allowed: bool,
    limits: Vec<LimitState<'a>>,
    balances: Vec<Balance>,
}

async fn standing(State(books): State<Books>, headers: HeaderMap) -> Response {
    let customer = headers.get("x-customer-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let answer = async {
        let decision = books.usage(customer).await?;
        let balances = books.balances(customer).await?;
        let limits = decision.limits().filter(|limit| !limit.is_private()).collect();
        let allowed = decision.is_allowed();
        let standing = Standing { customer_id: customer, allowed, limits, balances };
        Ok::<_, tower_limitry::Error>(Json(standing).into_response())
    };
    match answer.await {
        Ok(response) => response,
        Err(error) if error.is_transient() => {
            (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}
