//! Limits and prepaid credits together: check the limits, check the credits, run the request, debit
//! what it really cost, record the event. Once with the layer, once by hand with a permit.
//!
//! ```sh
//! cargo run --example prepaid
//! ```
//!
//! Every customer begins with 500 "AI Credits"; a token costs one. Listens, keeps its books and
//! identifies as the quickstart does. On a server, the balance is one of its definitions:
//!
//! ```toml
//! [balances."AI Credits"]
//! initialBalance = 500
//! ```

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tower_limitry::backend::TransactionQuery;
use tower_limitry::policy::{Amount, Credit};
use tower_limitry::{
    Books, Check, CheckError, Engine, Limit, LimitryLayer, Meter, NewBalance, Refusal, Usage,
    client, customer, usage,
};

mod pretend_model;
use pretend_model::{Answer, ChatRequest, ChatResponse};

const CREDITS: &str = "AI Credits";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let books = Engine::builder()
        .meter(Meter::sum("tokens", "total_tokens").event_type("llm.completion").unit("tokens"))
        .limit(Limit::per_day("daily-tokens", "tokens", 1_000).named("Daily token limit"))
        .default_balance(NewBalance::new(CREDITS).initial(500))
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
         -d '{{\"messages\":[{{\"role\":\"user\",\"content\":\"Say hello\"}}],\"max_tokens\":400}}'\n\
         curl http://{address}/topup -H 'x-customer-id: acct_42' \\\n  \
         -H 'content-type: application/json' -d '{{\"amount\":250,\"reference\":\"payment-1\"}}'\n\
         curl http://{address}/transactions -H 'x-customer-id: acct_42'"
    );
    axum::serve(listener, app(books)).await?;
    Ok(())
}

fn app(books: Books) -> Router {
    let measure = usage::json(1024 * 1024, |answer: &Answer| {
        Some(Usage::of("total_tokens", answer.usage.total_tokens))
    });
    let metered = LimitryLayer::new(books.clone(), customer::trusted_header(CUSTOMER), measure)
        .event_type("llm.completion")
        .request_json(64 * 1024, |chat: &ChatRequest| Usage::of("total_tokens", chat.upper_bound()))
        .charge(CREDITS, price);
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route_layer(metered)
        .route("/by-hand/v1/chat/completions", post(chat_by_hand))
        .route("/topup", post(top_up))
        .route("/transactions", get(transactions))
        .with_state(books)
}

/// A credit for each token.
fn price(usage: &Usage) -> Option<Amount> {
    usage.value("total_tokens")
}

async fn chat(Json(chat): Json<ChatRequest>) -> Json<ChatResponse> {
    Json(pretend_model::complete(&chat))
}

/// The same with a permit: an early return gives back what was set aside.
async fn chat_by_hand(
    State(books): State<Books>,
    headers: HeaderMap,
    Json(chat): Json<ChatRequest>,
) -> Result<Json<ChatResponse>, Response> {
    let check = Check::of(customer_of(&headers))
        .event_type("llm.completion")
        .estimate("total_tokens", chat.upper_bound())
        .charge(CREDITS, price);
    let permit = books.check(check).await.map_err(refused)?;
    let answer = pretend_model::complete(&chat);
    let used = Usage::of("total_tokens", answer.usage.total_tokens);
    permit.settle(used).await.map_err(failed)?;
    Ok(Json(answer))
}

#[derive(Deserialize)]
struct TopUp {
    amount: Amount,
    /// The payment. Delivered twice, it pays once.
    reference: String,
}

async fn top_up(
    State(books): State<Books>,
    headers: HeaderMap,
    Json(top_up): Json<TopUp>,
) -> Result<Response, Response> {
    let credit = Credit::new(customer_of(&headers), CREDITS, top_up.amount)
        .description("top-up")
        .reference(top_up.reference);
    let credited = books.credit(credit).await.map_err(failed)?;
    Ok(Json(credited.balance).into_response())
}

async fn transactions(
    State(books): State<Books>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let query = TransactionQuery::new(customer_of(&headers), CREDITS);
    let page = books.transactions(query).await.map_err(failed)?;
    Ok(Json(page.items).into_response())
}

const CUSTOMER: &str = "x-customer-id";

fn customer_of(headers: &HeaderMap) -> &str {
    headers.get(CUSTOMER).and_then(|id| id.to_str().ok()).unwrap_or_default()
}

/// As the layer would answer it.
fn refused(error: CheckError) -> Response {
    Refusal::from(error).response().map(Body::from)
}

fn failed(error: tower_limitry::Error) -> Response {
    let status = if error.is_transient() {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::BAD_REQUEST
    };
    (status, error.to_string()).into_response()
}
