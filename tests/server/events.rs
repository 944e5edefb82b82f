use serde_json::{Value, json};

use crate::support::Api;

async fn used(api: &Api, customer: &str) -> Value {
    let answer = api.post("/v1/limits/check", json!({ "customerId": customer })).await;
    answer.json()["limits"][0]["used"].clone()
}

#[tokio::test]
async fn an_event_is_recorded_counted_and_listed() {
    let api = Api::start().await;
    let event = json!({
        "customerId": "acct_42", "eventType": "llm.completion",
        "values": { "tokens": 812, "cost_cents": 3.25 }, "dimensions": { "model": "large-2" },
        "properties": { "trace": "t-9", "deep": [{ "er": null }] }, "timestamp": "2026-03-01T10:15:00Z",
    });
    let answer = api.post("/v1/events/record", event).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let id = answer.json()["id"].clone();
    assert_eq!(answer.json(), json!({ "id": id, "recorded": true }));
    assert_eq!(used(&api, "acct_42").await, 812, "the next check sees it");

    let page = api.get("/v1/events").await.json();
    let item = json!({
        "id": id, "customerId": "acct_42", "eventType": "llm.completion",
        "values": { "cost_cents": 3.25, "tokens": 812 }, "dimensions": { "model": "large-2" },
        "timestamp": "2026-03-01T10:15:00Z",
    });
    assert_eq!(page, json!({ "data": [item], "nextCursor": null, "hasMore": false }));
}

#[tokio::test]
async fn events_are_listed_by_customer_and_type_the_newest_first() {
    let api = Api::start().await;
    for (customer, tokens) in [("acct_1", 1), ("acct_2", 2), ("acct_1", 3)] {
        api.record(customer, tokens).await;
    }
    let tokens = |page: &Value| -> Vec<u64> {
        let data = page["data"].as_array().unwrap().iter();
        data.map(|event| event["values"]["tokens"].as_u64().unwrap()).collect()
    };
    let own = api.get("/v1/events?customerId=acct_1&eventType=llm.completion").await.json();
    assert_eq!(tokens(&own), [3, 1]);
    assert_eq!(tokens(&api.get("/v1/events?eventType=other").await.json()), [0; 0]);
    let first = api.get("/v1/events?limit=2").await.json();
    assert_eq!((tokens(&first), &first["hasMore"]), (vec![3, 2], &json!(true)));
    let cursor = first["nextCursor"].as_str().unwrap();
    let last = api.get(&format!("/v1/events?limit=2&cursor={cursor}")).await.json();
    assert_eq!((tokens(&last), &last["nextCursor"]), (vec![1], &Value::Null));
    let answer = api.get("/v1/events?cursor=none").await;
    assert_eq!(answer.error(), (400, "invalid_field_value".into()));
}

#[tokio::test]
async fn a_batch_is_recorded_whole_or_not_at_all() {
    let api = Api::start().await;
    let event = |customer: &str, value: Value| json!({ "customerId": customer, "eventType": "llm.completion", "values": { "tokens": value } });
    let batch = json!({ "events": [event("acct_1", json!(4)), event("acct_2", json!(9))] });
    let answer = api.post("/v1/events/batch", batch).await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "count": 2 })));

    for wrong in
        [event("", json!(1)), event("acct_1", json!("1")), json!({ "customerId": "acct_1" })]
    {
        let answer = api
            .post("/v1/events/batch", json!({ "events": [event("acct_1", json!(4)), wrong] }))
            .await;
        assert_eq!(answer.status, 400);
    }
    assert_eq!(used(&api, "acct_1").await, 4);

    let events = |count: usize| json!({ "events": vec![event("acct_3", json!(0.5)); count] });
    let answer = api.post("/v1/events/batch", events(1_001)).await;
    assert_eq!(answer.error(), (400, "invalid_field_value".into()));
    assert_eq!(api.post("/v1/events/batch", events(1_000)).await.json(), json!({ "count": 1000 }));
    assert_eq!(used(&api, "acct_3").await, 500);
    let answer = api.post("/v1/events/batch", Value::Null).await;
    assert_eq!(answer.error(), (400, "missing_required_field".into()));
}

#[tokio::test]
async fn an_event_that_makes_no_sense_is_refused() {
    let api = Api::start().await;
    let whole = json!({ "customerId": "acct_42", "eventType": "chat", "values": { "tokens": 1 } });
    for field in ["customerId", "eventType"] {
        let mut body = whole.clone();
        body.as_object_mut().unwrap().remove(field);
        let answer = api.post("/v1/events/record", body).await;
        assert_eq!(answer.error(), (400, "missing_required_field".into()));
    }
    let many: serde_json::Map<_, _> = (0..101).map(|at| (format!("v{at}"), json!(at))).collect();
    for (field, value) in [
        ("customerId", json!("")),
        ("eventType", json!("")),
        ("eventType", json!("x".repeat(257))),
        ("values", json!({ "tokens": "1" })),
        ("values", json!({ "tokens": null })),
        ("values", json!({ "tokens": true })),
        ("values", json!({ "tokens": 1e40 })),
        ("values", json!({ "": 1 })),
        ("values", json!(many)),
        ("dimensions", json!({ "model": 2 })),
        ("properties", json!("text")),
        ("timestamp", json!("2026-03-01")),
        ("timestamp", json!("2026-03-02T12:00:01Z")),
    ] {
        let mut body = whole.clone();
        body[field] = value;
        let answer = api.post("/v1/events/record", body.clone()).await;
        assert_eq!(answer.error(), (400, "invalid_field_value".into()), "{body}");
    }
    assert_eq!(used(&api, "acct_42").await, 0);
    let mut ahead = whole;
    ahead["timestamp"] = json!("2026-03-02T12:00:00Z");
    assert_eq!(api.post("/v1/events/record", ahead).await.status, 200, "24 hours ahead are taken");
}

#[tokio::test]
async fn a_late_event_counts_in_the_window_of_its_time() {
    let api = Api::start().await;
    let event = json!({
        "customerId": "acct_42", "eventType": "chat", "values": { "tokens": 7 },
        "timestamp": "2026-02-28T23:59:59.999Z",
    });
    assert_eq!(api.post("/v1/events/record", event).await.json()["recorded"], true);
    assert_eq!(used(&api, "acct_42").await, 0);
}

#[tokio::test]
async fn an_event_counts_once_for_each_idempotency_key() {
    let api = Api::start().await;
    let event = |tokens: u64| json!({ "customerId": "acct_42", "eventType": "chat", "values": { "tokens": tokens } });
    let first = api.post_once("key-1", "/v1/events/record", event(5)).await;
    assert_eq!(first.json()["recorded"], true);
    api.clock.advance(std::time::Duration::from_secs(3_600));
    let again = api.post_once("key-1", "/v1/events/record", event(5)).await;
    assert_eq!(again.text, first.text);
    let other = api.post_once("key-1", "/v1/events/record", event(6)).await;
    assert_eq!(other.error(), (409, "idempotency_mismatch".into()));
    assert_eq!(used(&api, "acct_42").await, 5);

    let mut in_body = event(5);
    in_body["idempotencyKey"] = json!("key-2");
    let first = api.post("/v1/events/record", in_body.clone()).await;
    assert_eq!(first.json()["recorded"], true);
    assert_eq!(api.post("/v1/events/record", in_body.clone()).await.text, first.text);
    in_body["values"]["tokens"] = json!(6);
    let other = api.post("/v1/events/record", in_body).await;
    assert_eq!(other.error(), (409, "idempotency_mismatch".into()));
    assert_eq!(used(&api, "acct_42").await, 10);

    let batch = json!({ "events": [event(1), event(1)] });
    for _ in 0..2 {
        let answer = api.post_once("key-3", "/v1/events/batch", batch.clone()).await;
        assert_eq!(answer.json(), json!({ "count": 2 }));
    }
    assert_eq!(used(&api, "acct_42").await, 12);
    let answer = api.post_once("", "/v1/events/record", event(1)).await;
    assert_eq!(answer.error(), (400, "invalid_field_value".into()));
}

#[tokio::test]
async fn an_old_event_under_a_key_is_not_counted_twice_by_accident() {
    let api = Api::start().await;
    let event = json!({
        "customerId": "acct_42", "eventType": "chat", "values": { "tokens": 5 },
        "timestamp": "2026-03-01T00:00:00Z", "idempotencyKey": "late",
    });
    let answer = api.post("/v1/events/record", event).await;
    assert_eq!(answer.error(), (409, "too_old".into()), "these books remember ten minutes");
    assert_eq!(used(&api, "acct_42").await, 0);
}

#[tokio::test]
async fn numbers_at_the_edges_are_read_exactly_or_refused() {
    let api = Api::start().await;
    let send = async |number: &str| {
        let event = format!(
            r#"{{"customerId":"acct_42","eventType":"chat","values":{{"tokens":{number}}}}}"#
        );
        let bearer = format!("Bearer {}", crate::support::KEY);
        let headers = [("authorization", &*bearer)];
        api.send("POST", "/v1/events/record", &headers, event).await
    };
    for nothing in ["0", "-0", "-0.0", "1e-7", "5.759166499319742e-29", "1e-99999999999999999999"] {
        assert_eq!(send(nothing).await.status, 200, "{nothing}");
        assert_eq!(used(&api, "acct_42").await, 0, "{nothing}");
    }
    for (number, total) in [("0.000001", json!(0.000001)), ("1E2", json!(100.000001))] {
        assert_eq!(send(number).await.status, 200, "{number}");
        assert_eq!(used(&api, "acct_42").await, total, "{number}");
    }
    for wrong in ["1e13", "-1e13", "1e308", "1e99999999999999999999", "9223372036854.775808"] {
        let answer = send(wrong).await;
        assert_eq!(answer.error(), (400, "invalid_field_value".into()), "{wrong}");
    }
    for wrong in ["NaN", "Infinity", "01", "+1", ".5", "1.", "0x10"] {
        assert_eq!(send(wrong).await.error(), (400, "invalid_request".into()), "{wrong}");
    }
}
