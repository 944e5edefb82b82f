//! Who is metered, for what, and how those are refused who may no more.

use axum::extract::Request;
use serde_json::{Value, json};

use crate::support::*;

fn chat(gateway: &Gateway, customer: &str, max_tokens: u32) -> Request {
    let body = json!({ "model": "asked-1", "messages": [], "max_tokens": max_tokens }).to_string();
    let mut request = post(gateway.url(CHAT), body);
    request.headers_mut().insert("x-customer-id", customer.parse().unwrap());
    request
}

#[tokio::test]
async fn an_event_is_printed_as_it_was_recorded() {
    let (url, _) = upstream_answering(ten_tokens).await;
    let gateway = Gateway::start(&url, &[]);
    assert_eq!(ask(chat(&gateway, "acct_1", 50)).await.0, 200);
    let events = gateway.events(1);
    let (id, time) = (events[0]["id"].as_str().unwrap(), events[0]["timestamp"].as_str().unwrap());
    assert_eq!(id.len(), 36, "a UUID");
    assert!(time.ends_with('Z'), "{time}");
    assert_eq!(
        events[0],
        json!({
            "id": id,
            "customerId": "acct_1",
            "eventType": "llm.completion",
            "values": { "input_tokens": 7, "output_tokens": 3, "total_tokens": 10 },
            "dimensions": { "model": "small-1" },
            "timestamp": time,
        })
    );
}

#[tokio::test]
async fn without_a_name_each_key_is_a_customer_and_none_is_printed() {
    let (url, seen) = upstream_answering(ten_tokens).await;
    let gateway = Gateway::start(&url, &[]);
    for (name, value) in [
        ("authorization", "Bearer sk-secret"),
        ("x-api-key", "sk-secret"),
        ("authorization", "Bearer sk-other"),
    ] {
        let mut request = chat(&gateway, "", 5);
        request.headers_mut().remove("x-customer-id");
        request.headers_mut().insert(name, value.parse().unwrap());
        assert_eq!(ask(request).await.0, 200);
        assert_eq!(seen.take()[0].headers[name], value, "the upstream needs it");
    }
    let events = gateway.events(3);
    let customers: Vec<&str> =
        events.iter().map(|event| event["customerId"].as_str().unwrap()).collect();
    assert_eq!(customers[0], customers[1]);
    assert_ne!(customers[0], customers[2]);
    assert!(customers.iter().all(|customer| customer.starts_with("key_")), "{customers:?}");
}

#[tokio::test]
async fn nobody_is_refused_as_the_client_understands_it() {
    let (url, seen) = upstream_answering(ten_tokens).await;
    let gateway = Gateway::start(&url, &[]);
    for (path, version, kind) in [
        (CHAT, None, "invalid_request_error"),
        ("/v1/messagesque", None, "invalid_request_error"),
        (MESSAGES, None, "authentication_error"),
        ("/anthropic/messages", Some("2023-06-01"), "authentication_error"),
    ] {
        let mut request = post(gateway.url(path), "{}");
        request.headers_mut().remove("x-customer-id");
        if let Some(version) = version {
            request.headers_mut().insert("anthropic-version", version.parse().unwrap());
        }
        let (status, _, body) = ask(request).await;
        assert_eq!((status, &body["error"]["type"]), (401, &json!(kind)), "{path}: {body}");
    }
    // An empty name is not a reason to charge the key.
    let mut request = chat(&gateway, "", 5);
    request.headers_mut().insert("authorization", "Bearer sk-secret".parse().unwrap());
    assert_eq!(ask(request).await.0, 401);
    assert!(seen.take().is_empty());
}

#[tokio::test]
async fn what_uses_no_tokens_passes_unmetered() {
    let (url, seen) = upstream_answering(ten_tokens).await;
    let gateway = Gateway::start(&url, &[]);
    for (method, path) in [
        ("GET", "/v1/models"),
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/files/file_1"),
        ("POST", "/v1/files"),
        ("POST", "/v1/messages/count_tokens"),
        ("POST", "/v1beta/models/gemini:countTokens?key=secret"),
        ("POST", "/v1/responses/input_tokens"),
    ] {
        let request = Request::builder().method(method).uri(gateway.url(path));
        let request = request.body(r#"{"model":"m","messages":[]}"#.into()).unwrap();
        assert_eq!(ask(request).await.0, 200, "{method} {path}");
    }
    assert_eq!(seen.take().len(), 7);
    assert_eq!(ask(chat(&gateway, "last", 1)).await.0, 200);
    let events = gateway.events(1);
    assert_eq!((events.len(), &events[0]["customerId"]), (1, &json!("last")));
}

#[tokio::test]
async fn what_a_request_may_use_is_set_aside_in_every_dialect() {
    let (url, seen) = upstream_answering(ten_tokens).await;
    let gateway = Gateway::start(&url, &[("DAILY_TOKEN_LIMIT", "1000")]);
    let asking = |most: Value| {
        [
            (CHAT, json!({ "messages": [], "max_tokens": most })),
            (CHAT, json!({ "messages": [], "max_completion_tokens": most })),
            ("/v1/responses", json!({ "input": "Say hello", "max_output_tokens": most })),
            (MESSAGES, json!({ "messages": [], "max_tokens": most })),
            (
                "/v1beta/models/g:generateContent",
                json!({ "contents": [], "generationConfig": { "maxOutputTokens": most } }),
            ),
            ("/api/chat", json!({ "messages": [], "options": { "num_predict": most } })),
        ]
    };
    for (path, body) in asking(json!(1_000)) {
        let (status, headers, answer) = ask(post(gateway.url(path), body.to_string())).await;
        assert_eq!(status, 429, "{body}: a thousand, and the prompt");
        assert_eq!(headers["x-should-retry"], "false", "it never fits");
        assert!(answer["error"]["message"].as_str().unwrap().contains("asks for more"), "{answer}");
    }
    // Each is 4 bytes a token.
    for (length, expected) in [(4 * 1_001, 429), (4 * 900, 200)] {
        let body = json!({ "input": "" }).to_string();
        let body = body.replace("\"\"", &format!("{:?}", "x".repeat(length - body.len())));
        assert_eq!(ask(post(gateway.url("/v1/embeddings"), body)).await.0, expected);
    }
    let body = json!({ "messages": [], "max_tokens": 200, "n": 5 }).to_string();
    assert_eq!(ask(post(gateway.url(CHAT), body)).await.0, 429);
    assert_eq!(seen.take().len(), 1, "what is refused goes nowhere");
    // What makes no sense beside it, or comes again, does not hide how much is asked for.
    for most in [
        r#""max_tokens":1000,"options":"none""#,
        r#""max_tokens":1000,"n":[],"model":7"#,
        r#""max_tokens":1,"max_tokens":1000"#,
        r#""max_tokens":1e30"#,
    ] {
        let (status, _, answer) = ask(post(gateway.url(CHAT), format!("{{{most}}}"))).await;
        assert_eq!(status, 429, "{most}: {answer}");
    }
    assert!(seen.take().is_empty());
    for bound in [json!(500), json!(-1), json!(null), json!(0.5)] {
        for (path, body) in asking(bound) {
            let (status, _, answer) = ask(post(gateway.url(path), body.to_string())).await;
            assert_eq!(status, 200, "{body}: {answer}");
        }
    }
}

#[tokio::test]
async fn an_answer_without_usage_costs_what_was_set_aside() {
    let (url, _) = upstream_answering(|| crate::support::json(r#"{"choices":[]}"#)).await;
    let gateway = Gateway::start(&url, &[]);
    let body = r#"{"model":"asked-1","messages":[],"max_tokens":50}"#;
    assert_eq!(body.len(), 49);
    ask(post(gateway.url(CHAT), body)).await;
    // It neither asks a model nor says how much may be answered.
    ask(post(gateway.url("/v1/vector_stores"), r#"{"name":"docs"}"#)).await;
    let events = gateway.events(2);
    assert_eq!(events[0]["values"], json!({ "total_tokens": 50 + 13 }));
    assert_eq!(events[0]["dimensions"], json!({ "model": "asked-1" }));
    assert_eq!(events[1]["values"], json!({}));
}

#[tokio::test]
async fn credits_run_out_and_each_dialect_says_so() {
    let (url, seen) = upstream_answering(ten_tokens).await;
    let gateway = Gateway::start(&url, &[("CREDITS", "25.5")]);
    for expected in [200, 200, 200, 429] {
        // Charged ten each, and checked for one and the prompt of none at all.
        let mut request = chat(&gateway, "acct_1", 0);
        *request.body_mut() = r#"{"max_tokens":1}"#.into();
        let (status, headers, body) = ask(request).await;
        assert_eq!(status, expected, "{body}");
        if status == 429 {
            assert_eq!(body["error"]["code"], "insufficient_quota");
            assert_eq!(headers["x-should-retry"], "false");
        }
    }
    let mut request = post(gateway.url(MESSAGES), r#"{"max_tokens":1}"#);
    request.headers_mut().insert("x-customer-id", "acct_1".parse().unwrap());
    assert_eq!(ask(request).await.2["error"]["type"], "billing_error");
    assert_eq!(seen.take().len(), 3);
    assert_eq!(ask(chat(&gateway, "acct_2", 25)).await.0, 429, "with its prompt it is too much");
    assert_eq!(gateway.events(3).len(), 3);
}
