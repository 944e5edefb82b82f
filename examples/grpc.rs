//! A metered gRPC service: 100 tokens a day and 3 streams a minute for each customer.
//!
//! ```sh
//! cargo run --example grpc
//! ```
//!
//! It listens on 127.0.0.1, on the port in `PORT` (50051 unless set), prints a call to try with
//! `grpcurl`, and calls itself until it is refused, to show what a client sees.
//!
//! The customer is taken from the metadata `x-customer-id`, which is trusted: in front of a service
//! like this stands a gateway that authenticates the caller, sets it and strips what clients send.

use futures_util::{StreamExt, stream};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, async_trait};
use tonic_types::StatusExt;
use tower_limitry::{Engine, Limit, LimitryLayer, Meter, Reporter, Usage, customer, usage};

#[path = "pretend_model/grpc.rs"]
mod pretend_model;
use pretend_model::{Answer, Answers, Model, ModelClient, ModelServer, Prompt, STREAM};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let books = Engine::builder()
        .meter(Meter::sum("tokens", "total_tokens").unit("tokens"))
        .meter(Meter::count("streams").event_type("model.stream"))
        .limit(Limit::per_day("daily-tokens", "tokens", 100).named("Daily token limit"))
        .limit(Limit::per_minute("streams", "streams", 3).named("Streams a minute"))
        .build()?;

    let metered =
        LimitryLayer::new(books, customer::trusted_header("x-customer-id"), usage::reported())
            .event_type_of(|call| match call.uri.path() {
                STREAM => "model.stream",
                _ => "model.complete",
            })
            // Set aside while a call runs.
            .estimate(|_| Usage::of("total_tokens", MOST_WORDS))
            // Health checks and reflection are nobody's.
            .skip(|call| call.uri.path().starts_with("/grpc."));

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ModelServer<Pretend>>().await;
    let server = Server::builder()
        .layer(metered)
        .add_service(health_service)
        .add_service(ModelServer::new(Pretend));

    let port = std::env::var("PORT").unwrap_or_else(|_| "50051".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let address = listener.local_addr()?;
    println!(
        "listening on http://{address}, try:\n\n\
         grpcurl -plaintext -import-path examples/pretend_model -proto model.proto \\\n  \
         -H 'x-customer-id: acct_42' -d '{{\"text\":\"Say hello\",\"max_words\":20}}' \\\n  \
         {address} pretend.v1.Model/Complete\n"
    );
    let serving = tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    show(ModelClient::new(channel)).await?;
    Ok(serving.await??)
}

/// The most words that are answered at once.
const MOST_WORDS: u32 = 50;

struct Pretend;

#[async_trait]
impl Model for Pretend {
    async fn complete(&self, request: Request<Prompt>) -> Result<Response<Answer>, Status> {
        let reporter = request.extensions().get::<Reporter>().cloned().unwrap_or_default();
        let words = words(request.get_ref())?;
        reporter.add("total_tokens", words);
        Ok(Response::new(Answer { text: vec!["word"; words as usize].join(" ") }))
    }

    /// Reports word for word: a client that leaves has used what it got, and at least the estimate.
    async fn stream(&self, request: Request<Prompt>) -> Result<Response<Answers>, Status> {
        let reporter = request.extensions().get::<Reporter>().cloned().unwrap_or_default();
        let words = stream::iter(0..words(request.get_ref())?).map(move |_| {
            reporter.add("total_tokens", 1);
            Ok(Answer { text: "word".into() })
        });
        Ok(Response::new(words.boxed()))
    }
}

/// A call that fails records nothing.
fn words(prompt: &Prompt) -> Result<u32, Status> {
    match prompt.text.as_str() {
        "" => Err(Status::invalid_argument("there is no text")),
        _ => Ok(prompt.max_words.min(MOST_WORDS)),
    }
}

/// What a client sees.
async fn show(mut client: ModelClient) -> Result<(), Box<dyn std::error::Error>> {
    let prompt = || {
        let mut request = Request::new(Prompt { text: "Say hello".into(), max_words: 20 });
        request.metadata_mut().insert("x-customer-id", "acct_1".parse().expect("is ASCII"));
        request
    };
    let mut answers = client.stream(prompt()).await?.into_inner();
    let mut words = 0;
    while answers.message().await?.is_some() {
        words += 1;
    }
    println!("a stream of {words} words");
    let refused = loop {
        match client.complete(prompt()).await {
            Ok(answer) => {
                let limits = answer.metadata().get("ratelimit");
                println!("an answer; {}", limits.map_or("?", |text| text.to_str().unwrap_or("?")));
            }
            Err(status) => break status,
        }
    };
    println!("refused: {:?}: {}", refused.code(), refused.message());
    let details = refused.get_error_details();
    for violation in details.quota_failure().iter().flat_map(|failure| &failure.violations) {
        println!(
            "  {} has used up {} ({}, {} {:?})",
            violation.subject,
            violation.quota_id,
            violation.description,
            violation.quota_value,
            violation.quota_dimensions,
        );
    }
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        println!("  try again in {} s", delay.as_secs());
    }
    if let Some(info) = details.error_info() {
        println!("  {} of {}", info.reason, info.domain);
    }
    Ok(())
}
