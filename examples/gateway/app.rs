//! The books, and the line in the stack.

use std::convert::Infallible;
use std::io;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Method;
use axum::http::request::Parts;
use serde_json::value::RawValue;
use tower::{Layer, ServiceExt, service_fn};
use tower_limitry::backend::Erased;
use tower_limitry::customer::{self, Identify};
use tower_limitry::engine::EngineBuilder;
use tower_limitry::request::ReadJson;
use tower_limitry::{
    Books, CustomerId, DenialStyle, Engine, Limit, LimitryLayer, Meter, NewBalance, usage,
};

use super::config::Config;
use super::estimate::estimate;
use super::forward::Upstream;

/// The longest request that is read for what it may use, in bytes.
pub(crate) const MOST_READ: usize = 1024 * 1024;

pub(crate) const CUSTOMER: &str = "x-customer-id";
const CREDITS: &str = "credits";

pub(crate) fn engine(config: &Config) -> EngineBuilder {
    let mut engine =
        Engine::builder().meter(Meter::sum("tokens", "total_tokens").unit("tokens")).limit(
            Limit::per_day("daily-tokens", "tokens", config.daily_tokens)
                .named("Daily token limit"),
        );
    if let Some(tokens) = config.minute_tokens {
        let limit = Limit::per_minute("minute-tokens", "tokens", tokens);
        engine = engine.limit(limit.named("Minute token limit"));
    }
    if let Some(credits) = config.credits {
        engine = engine.default_balance(NewBalance::new(CREDITS).initial(credits));
    }
    engine
}

pub(crate) fn app(config: &Config, books: Books) -> io::Result<Router> {
    let upstream = Upstream::new(config)?;
    let forward = service_fn(move |request: Request<_>| {
        let upstream = upstream.clone();
        async move { Ok::<_, Infallible>(upstream.forward(request.map(Body::new)).await) }
    });
    let metered = metered(config, books);
    // One and the same metering; refusals are told as the client understands them.
    let openai = metered.clone().denial_style(DenialStyle::OpenAi).layer(forward.clone());
    let anthropic = metered.denial_style(DenialStyle::Anthropic).layer(forward);
    Ok(Router::new().fallback(move |request: Request| {
        let metered = if speaks_anthropic(&request) { &anthropic } else { &openai };
        metered.clone().oneshot(request)
    }))
}

fn metered(config: &Config, books: Books) -> LimitryLayer<Erased, ReadJson> {
    let metered = LimitryLayer::new(books, identify(), usage::llm())
        .event_type("llm.completion")
        .skip(is_free)
        .request_json::<Box<RawValue>, _>(MOST_READ, |body| estimate(body));
    match config.credits {
        Some(_) => metered.charge(CREDITS, |usage| usage.value("total_tokens")),
        None => metered,
    }
}

/// By name where it is told, else by the key.
fn identify() -> impl Fn(&Parts) -> Option<CustomerId> {
    let name = customer::trusted_header(CUSTOMER);
    let bearer = customer::bearer_key();
    let key = customer::header_key("x-api-key");
    move |head| match head.headers.contains_key(CUSTOMER) {
        true => name.identify(head),
        false => bearer.identify(head).or_else(|| key.identify(head)),
    }
}

/// Requests that use no tokens.
fn is_free(head: &Parts) -> bool {
    const FREE: [&str; 6] =
        ["count_tokens", "countTokens", "input_tokens", "moderations", "files", "uploads"];
    let last = head.uri.path().rsplit(['/', ':']).next();
    head.method != Method::POST || last.is_some_and(|last| FREE.contains(&last))
}

fn speaks_anthropic(request: &Request) -> bool {
    let path = request.uri().path();
    let is_messages = path.strip_prefix("/v1/messages");
    is_messages.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        || request.headers().contains_key("anthropic-version")
}
