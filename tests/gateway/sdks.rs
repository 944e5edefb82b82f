//! The Python libraries of OpenAI and Anthropic, with and without the gateway between.

use std::future::ready;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::Response;
use serde_json::{Value, json};
use tower_limitry::engine::Clock;
use tower_limitry::policy::Timestamp;

use crate::models;
use crate::program::{app, config};
use crate::support::*;

async fn model() -> (String, Seen) {
    let seen = Seen::default();
    let noting = seen.clone();
    let url = upstream(move |request: Request| models::answer(request, noting.clone()));
    (url.await, seen)
}

async fn run(arguments: Vec<String>) -> String {
    let run = move || python(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// What the script was told that it used, in the order of its calls.
fn told(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn the_libraries_see_what_they_see_without_it_and_events_say_what_they_were_told() {
    let (url, _) = model().await;
    let gateway = Gateway::start(&url, &[]);
    let told = told(&run(vec!["same".into(), gateway.url(""), url]).await);
    assert!(told.len() > 10, "{told:?}");
    let events = gateway.events(told.len());
    assert_eq!(events.len(), told.len());
    for (event, told) in events.iter().zip(&told) {
        assert_eq!(event["customerId"], told["customer"], "{event}");
        assert_eq!(event["dimensions"], json!({ "model": told["model"] }), "{event}");
        for name in ["input_tokens", "output_tokens", "total_tokens"] {
            assert_eq!(event["values"][name], told[name], "{name} of {event}");
        }
    }
}

#[tokio::test]
async fn streams_are_asked_for_usage_and_clients_see_one_more_chunk() {
    let (url, _) = model().await;
    let gateway = Gateway::start(&url, &[("INCLUDE_USAGE", "1")]);
    let told = told(&run(vec!["usage".into(), gateway.url(""), url]).await);
    assert_eq!(gateway.events(1)[0]["values"]["total_tokens"], told[0]["total_tokens"]);
}

#[tokio::test]
async fn a_full_day_is_their_own_error_and_not_tried_again() {
    let (url, seen) = model().await;
    let gateway = Gateway::start(&url, &[("DAILY_TOKEN_LIMIT", "1000")]);
    run(vec!["denied".into(), gateway.url("")]).await;
    assert_eq!(seen.take().len(), 4, "one for each of four clients");
    assert_eq!(gateway.events(4).len(), 4);
}

#[tokio::test]
async fn without_credits_it_is_their_own_error_and_not_tried_again() {
    let (url, seen) = model().await;
    let gateway = Gateway::start(&url, &[("CREDITS", "10")]);
    run(vec!["poor".into(), gateway.url("")]).await;
    assert!(seen.take().is_empty());
}

/// A clock that stands three seconds before the end of a minute, and goes on when it is told to.
#[derive(Clone, Debug, Default)]
struct LateInTheMinute(Arc<OnceLock<Instant>>);

impl LateInTheMinute {
    fn go_on(&self) {
        self.0.get_or_init(Instant::now);
    }
}

impl Clock for LateInTheMinute {
    fn now(&self) -> Timestamp {
        let late: Timestamp = "2026-03-01T12:00:57Z".parse().unwrap();
        late.saturating_add(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        self.0.get().map_or(Duration::ZERO, Instant::elapsed)
    }
}

/// The example's own service in this process, under that clock.
async fn waits_for_the_next_minute(library: &str) {
    let clock = LateInTheMinute::default();
    let seen = Seen::default();
    let noting = seen.clone();
    let url = upstream(move |request: Request| models::answer(request, noting.clone())).await;
    let variables = |name: &str| match name {
        "UPSTREAM_URL" => Some(url.clone().into()),
        "MINUTE_TOKEN_LIMIT" => Some("100".into()),
        _ => None,
    };
    let config = config::Config::read(variables).unwrap();
    let books = app::engine(&config).clock(clock.clone()).build().unwrap();
    let until_refused = map_response(move |response: Response| {
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            clock.go_on();
        }
        ready(response)
    });
    let gateway = serve(app::app(&config, books.erased()).unwrap().layer(until_refused)).await;
    run(vec!["waits".into(), gateway, library.into()]).await;
    assert_eq!(seen.take().len(), 2, "what is refused goes nowhere");
}

#[tokio::test]
async fn openai_waits_for_the_next_minute() {
    waits_for_the_next_minute("openai").await;
}

#[tokio::test]
async fn anthropic_waits_for_the_next_minute() {
    waits_for_the_next_minute("anthropic").await;
}
