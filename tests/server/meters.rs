use serde_json::{Value, json};

use crate::support::{Api, NOW};

#[tokio::test]
async fn meters_are_made_read_changed_and_removed() {
    let api = Api::start().await;
    let filter = json!({
        "eventType": "llm.completion", "dimensions": { "model": "large-2", "feature": "chat" },
    });
    let new = json!({
        "name": "Tokens", "aggregation": "sum", "field": "values.tokens", "eventFilter": filter,
    });
    let made = api.made("/v1/meters", new).await;
    let id = made["id"].as_str().unwrap().to_owned();
    let mut expected = json!({
        "id": id, "projectId": "proj_1", "name": "Tokens", "description": null, "aggregation": "sum",
        "field": "values.tokens", "eventFilter": filter, "createdAt": NOW, "updatedAt": NOW,
    });
    assert_eq!(made, expected);
    let path = format!("/v1/meters/{id}");
    assert_eq!(api.get(&path).await.json(), expected);

    let change =
        json!({ "aggregation": "count", "field": "*", "description": "calls", "eventFilter": {} });
    let changed = api.ask("PUT", &path, change).await;
    expected["aggregation"] = json!("count");
    expected["field"] = json!("*");
    expected["description"] = json!("calls");
    expected["eventFilter"] = json!({});
    assert_eq!(changed.json(), expected);
    assert_eq!(api.get("/v1/meters").await.json()["data"].as_array().unwrap().len(), 2);

    assert_eq!(api.ask("DELETE", &path, Value::Null).await.status, 204);
    for method in ["GET", "PUT", "DELETE"] {
        let answer = api.ask(method, &path, Value::Null).await;
        assert_eq!(answer.error(), (404, "meter_not_found".into()));
    }
}

#[tokio::test]
async fn a_meter_that_a_limit_reads_is_not_removed() {
    let api = Api::start().await;
    let answer = api.ask("DELETE", "/v1/meters/tokens", Value::Null).await;
    assert_eq!(answer.error(), (409, "meter_in_use".into()));
}

#[tokio::test]
async fn a_meter_is_read_over_any_range() {
    let api = Api::start().await;
    for (at, tokens) in [("2026-02-27T10:00:00Z", 5), ("2026-02-28T10:00:00+01:00", 7)] {
        let event = json!({
            "customerId": "acct_42", "eventType": "chat", "values": { "tokens": tokens },
            "dimensions": { "model": "large-2" }, "timestamp": at,
        });
        assert_eq!(api.post("/v1/events/record", event).await.status, 200);
    }
    api.record("acct_43", 100).await;
    for (query, value) in [
        (Value::Null, json!(112)),
        (json!({ "customerId": "acct_42" }), json!(12)),
        (json!({ "dimensions": { "model": "large-2" } }), json!(12)),
        (json!({ "customerId": "acct_42", "startDate": "2026-02-28T00:00:00Z" }), json!(7)),
        (json!({ "customerId": "acct_42", "endDate": "2026-02-28T09:00:00Z" }), json!(5)),
    ] {
        let answer = api.post("/v1/meters/tokens/query", query.clone()).await;
        let expected = json!({
            "meterId": "tokens", "meterName": "Tokens", "value": value, "aggregation": "sum",
            "complete": true,
        });
        assert_eq!(answer.json(), expected, "{query}");
    }
    let answer = api.post("/v1/meters/none/query", Value::Null).await;
    assert_eq!(answer.error(), (404, "meter_not_found".into()));
    let backwards = json!({ "startDate": NOW, "endDate": "2026-02-01T00:00:00Z" });
    let answer = api.post("/v1/meters/tokens/query", backwards).await;
    assert_eq!(answer.error(), (400, "invalid_field_value".into()));
    let answer = api.post("/v1/meters/tokens/query", json!({ "startDate": "yesterday" })).await;
    assert_eq!(answer.error(), (400, "invalid_field_value".into()));
}

#[tokio::test]
async fn an_empty_window_reads_nothing_and_a_count_of_a_value_only_events_with_it() {
    let api = Api::start().await;
    api.record("acct_42", 5).await;
    for (aggregation, field, value) in [
        ("count", "*", 1),
        ("count", "values.tokens", 1),
        ("count", "values.seats", 0),
        ("latest", "values.seats", 0),
        ("max", "values.seats", 0),
    ] {
        let new = json!({ "name": "x", "aggregation": aggregation, "field": field });
        let id = api.made("/v1/meters", new).await["id"].as_str().unwrap().to_owned();
        let read = api.post(&format!("/v1/meters/{id}/query"), Value::Null).await.json();
        assert_eq!(read["value"], value, "{aggregation} of {field}");
    }
}

#[tokio::test]
async fn a_meter_that_makes_no_sense_is_refused() {
    let api = Api::start().await;
    for (aggregation, field) in [
        ("sum", "*"),
        ("sum", "tokens"),
        ("max", "values."),
        ("mean", "values.tokens"),
        ("count", ""),
    ] {
        let new = json!({ "name": "x", "aggregation": aggregation, "field": field });
        let answer = api.post("/v1/meters", new).await;
        assert_eq!(answer.error(), (400, "invalid_field_value".into()), "{aggregation} of {field}");
    }
    let answer = api.post("/v1/meters", json!({ "name": "x", "aggregation": "sum" })).await;
    assert_eq!(answer.error(), (400, "missing_required_field".into()));
}
