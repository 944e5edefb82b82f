use serde_json::{Value, json};

use crate::support::{Api, NOW};

#[tokio::test]
async fn a_check_tells_where_the_customer_stands() {
    let api = Api::start().await;
    api.record("acct_42", 400).await;
    let answer = api.post("/v1/limits/check", json!({ "customerId": "acct_42" })).await;
    assert_eq!(answer.status, 200);
    let expected = json!({
        "allowed": true,
        "limits": [{
            "id": "daily", "name": "Daily tokens", "meterId": "tokens", "period": "day",
            "limit": 1000, "used": 400, "remaining": 600, "exceeded": false, "reset": 1772409600,
        }],
    });
    assert_eq!(answer.json(), expected);
    let again = api.post("/v1/limits/check", json!({ "customerId": "acct_42" })).await;
    assert_eq!(again.json(), expected, "a check counts nothing");
}

#[tokio::test]
async fn a_limit_is_exceeded_once_it_is_reached_and_never_below_nothing_is_left() {
    let api = Api::start().await;
    for (tokens, exceeded, remaining) in [(999, false, 1), (1, true, 0), (5, true, 0)] {
        api.record("acct_42", tokens).await;
        let answer = api.post("/v1/limits/check", json!({ "customerId": "acct_42" })).await.json();
        assert_eq!(answer["allowed"], !exceeded);
        assert_eq!(answer["limits"][0]["exceeded"], exceeded);
        assert_eq!(answer["limits"][0]["remaining"], remaining);
    }
    let answer = api.post("/v1/limits/check", json!({ "customerId": "acct_42" })).await.json();
    assert_eq!(answer["limits"][0]["used"], 1005, "what was used is told as it is");
}

#[tokio::test]
async fn where_no_limit_matches_everything_is_allowed() {
    let api = Api::start().await;
    assert_eq!(api.ask("DELETE", "/v1/limits/daily", Value::Null).await.status, 204);
    let answer = api.post("/v1/limits/check", json!({ "customerId": "nobody" })).await;
    assert_eq!(answer.json(), json!({ "allowed": true, "limits": [] }));
}

#[tokio::test]
async fn a_check_without_a_customer_looks_at_everybody_together() {
    let api = Api::start().await;
    api.record("acct_1", 600).await;
    api.record("acct_2", 400).await;
    for body in [Value::Null, json!({})] {
        let answer = api.post("/v1/limits/check", body).await.json();
        assert_eq!(answer["allowed"], false);
        assert_eq!(answer["limits"][0]["used"], 1000);
    }
    let own = json!({
        "name": "Own", "meterId": "tokens", "limitValue": 10, "period": "month", "customerId": "acct_1",
    });
    api.made("/v1/limits", own).await;
    let answer = api.post("/v1/limits/check", Value::Null).await.json();
    assert_eq!(answer["limits"].as_array().unwrap().len(), 1, "those for everybody alone");
}

#[tokio::test]
async fn a_narrowed_limit_is_looked_at_by_checks_that_name_its_dimensions() {
    let api = Api::start().await;
    let narrowed = json!({
        "name": "Large", "meterId": "tokens", "limitValue": 1, "period": "day",
        "dimensionFilters": { "model": "large-2" },
    });
    let id = api.made("/v1/limits", narrowed).await["id"].clone();
    let event = json!({
        "customerId": "acct_42", "eventType": "llm.completion", "values": { "tokens": 5 },
        "dimensions": { "model": "large-2" },
    });
    api.post("/v1/events/record", event).await;
    let check = |dimensions: Value| json!({ "customerId": "acct_42", "dimensions": dimensions });
    let answer = api.post("/v1/limits/check", check(json!({ "model": "large-2" }))).await.json();
    assert_eq!(answer["allowed"], false);
    assert_eq!(answer["limits"][0]["id"], id, "those that refuse come first");
    for other in [json!({}), json!({ "model": "Large-2" })] {
        let answer = api.post("/v1/limits/check", check(other)).await.json();
        assert_eq!(answer["allowed"], true);
        assert_eq!(answer["limits"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_customers_own_limit_stands_in_for_everybodys() {
    let api = Api::start().await;
    let own = json!({
        "name": "Deal", "meterId": "tokens", "limitValue": 9000, "period": "day", "customerId": "acct_42",
    });
    api.made("/v1/limits", own).await;
    api.record("acct_42", 1_500).await;
    let answer = api.post("/v1/limits/check", json!({ "customerId": "acct_42" })).await.json();
    assert_eq!(answer["allowed"], true);
    assert_eq!(answer["limits"].as_array().unwrap().len(), 1);
    assert_eq!(answer["limits"][0]["limit"], 9000);
}

#[tokio::test]
async fn limits_are_made_read_changed_and_removed() {
    let api = Api::start().await;
    let made = api
        .made(
            "/v1/limits",
            json!({
                "name": "Daily tokens on large-2", "meterId": "tokens", "limitValue": 20000,
                "period": "day", "customerId": "acct_42", "dimensionFilters": { "model": "large-2" },
                "alertThresholds": [75, 100],
            }),
        )
        .await;
    let id = made["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("lmt_"));
    let expected = json!({
        "id": id, "projectId": "proj_1", "name": "Daily tokens on large-2", "meterId": "tokens",
        "limitValue": 20000, "period": "day", "customerId": "acct_42",
        "dimensionFilters": { "model": "large-2" }, "alertThresholds": [75, 100],
        "createdAt": NOW, "updatedAt": NOW,
    });
    assert_eq!(made, expected);
    let path = format!("/v1/limits/{id}");
    assert_eq!(api.get(&path).await.json(), expected);

    api.clock.advance(std::time::Duration::from_secs(60));
    let change = json!({ "limitValue": 30000.5, "customerId": null, "alertThresholds": null });
    let changed = api.ask("PUT", &path, change).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    let mut expected = expected;
    expected["limitValue"] = json!(30000.5);
    expected["customerId"] = Value::Null;
    expected["alertThresholds"] = Value::Null;
    expected["updatedAt"] = json!("2026-03-01T12:01:00Z");
    assert_eq!(changed.json(), expected, "what is absent stays");
    assert_eq!(api.get(&path).await.json(), expected);

    assert_eq!(api.ask("DELETE", &path, Value::Null).await.status, 204);
    for method in ["GET", "PUT", "DELETE"] {
        let answer = api.ask(method, &path, Value::Null).await;
        assert_eq!(answer.error(), (404, "limit_not_found".into()));
    }
}

#[tokio::test]
async fn a_raised_limit_keeps_its_usage() {
    let api = Api::start().await;
    api.record("acct_42", 1_000).await;
    api.ask("PUT", "/v1/limits/daily", json!({ "limitValue": 1500 })).await;
    let answer = api.post("/v1/limits/check", json!({ "customerId": "acct_42" })).await.json();
    assert_eq!(answer["limits"][0]["used"], 1000);
    assert_eq!(answer["allowed"], true);
}

#[tokio::test]
async fn limits_are_listed_by_pages() {
    let api = Api::start().await;
    for value in 1..=4 {
        let customer = if value % 2 == 0 { json!("acct_42") } else { Value::Null };
        let new = json!({
            "name": "One", "meterId": "tokens", "limitValue": value, "period": "month",
            "customerId": customer,
        });
        api.made("/v1/limits", new).await;
    }
    let mut seen = Vec::new();
    let mut path = "/v1/limits?limit=2".to_owned();
    loop {
        let page = api.get(&path).await.json();
        let data = page["data"].as_array().unwrap().clone();
        assert!(data.len() <= 2);
        seen.extend(data.into_iter().map(|limit| limit["id"].as_str().unwrap().to_owned()));
        assert_eq!(page["hasMore"], !page["nextCursor"].is_null());
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        path = format!("/v1/limits?limit=2&cursor={cursor}");
    }
    assert_eq!(seen.len(), 5);
    let mut each_once = seen.clone();
    each_once.sort();
    each_once.dedup();
    assert_eq!(seen, each_once);

    let own = api.get("/v1/limits?customerId=acct_42").await.json();
    assert_eq!(own["data"].as_array().unwrap().len(), 2);
    for wrong in ["0", "101", "-1", "many"] {
        let answer = api.get(&format!("/v1/limits?limit={wrong}")).await;
        assert_eq!(answer.error(), (400, "invalid_field_value".into()), "{wrong}");
    }
}

#[tokio::test]
async fn a_limit_that_makes_no_sense_is_refused() {
    let api = Api::start().await;
    let whole = json!({ "name": "x", "meterId": "tokens", "limitValue": 5, "period": "day" });
    for field in ["name", "meterId", "limitValue", "period"] {
        let mut body = whole.clone();
        body.as_object_mut().unwrap().remove(field);
        let answer = api.post("/v1/limits", body).await;
        assert_eq!(answer.error(), (400, "missing_required_field".into()));
        assert!(answer.text.contains(field), "{}", answer.text);
    }
    for (field, value) in [
        ("name", json!("")),
        ("limitValue", json!(0)),
        ("limitValue", json!(-5)),
        ("limitValue", json!("5")),
        ("limitValue", json!(1e300)),
        ("period", json!("fortnight")),
        ("customerId", json!("")),
        ("customerId", json!("x".repeat(257))),
        ("dimensionFilters", json!({ "a key": "x" })),
        ("dimensionFilters", json!({ "model": "x".repeat(257) })),
        ("dimensionFilters", json!({ "model": 5 })),
        ("alertThresholds", json!([0])),
        ("alertThresholds", json!([101])),
        ("alertThresholds", json!([1.5])),
    ] {
        let mut body = whole.clone();
        body[field] = value;
        let answer = api.post("/v1/limits", body.clone()).await;
        assert_eq!(answer.error(), (400, "invalid_field_value".into()), "{body}");
    }
    let answer = api
        .post(
            "/v1/limits",
            json!({ "name": "x", "meterId": "none", "limitValue": 5, "period": "day" }),
        )
        .await;
    assert_eq!(answer.error(), (404, "meter_not_found".into()));
    assert_eq!(api.get("/v1/limits").await.json()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn null_changes_nothing_where_it_means_nothing() {
    let api = Api::start().await;
    let limit = api.get("/v1/limits/daily").await.json();
    for field in ["name", "meterId", "limitValue", "period", "dimensionFilters"] {
        let answer = api.ask("PUT", "/v1/limits/daily", json!({ field: null })).await;
        assert_eq!(answer.error(), (400, "invalid_field_value".into()), "{field}");
    }
    assert_eq!(api.get("/v1/limits/daily").await.json(), limit);
    let same = api.ask("PUT", "/v1/limits/daily", json!({ "customerId": null })).await;
    assert_eq!(same.json(), limit);

    let meter = api.get("/v1/meters/tokens").await.json();
    for field in ["name", "aggregation", "field", "eventFilter"] {
        let answer = api.ask("PUT", "/v1/meters/tokens", json!({ field: null })).await;
        assert_eq!(answer.error(), (400, "invalid_field_value".into()), "{field}");
    }
    assert_eq!(api.get("/v1/meters/tokens").await.json(), meter);

    let customer = api.made("/v1/customers", json!({ "externalId": "acct_42", "name": "A" })).await;
    for field in ["billingCycleStart", "metadata"] {
        let answer = api.ask("PUT", "/v1/customers/acct_42", json!({ field: null })).await;
        assert_eq!(answer.error(), (400, "invalid_field_value".into()), "{field}");
    }
    assert_eq!(api.get("/v1/customers/acct_42").await.json(), customer);
    let unnamed = api.ask("PUT", "/v1/customers/acct_42", json!({ "name": null })).await.json();
    assert_eq!(unnamed["name"], Value::Null);
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended_also_when_that_is_gone() {
    let api = Api::start().await;
    let new = json!({ "name": "x", "meterId": "tokens", "limitValue": 5, "period": "hour" });
    let mut ids = vec!["daily".to_owned()];
    for _ in 0..4 {
        ids.push(api.made("/v1/limits", new.clone()).await["id"].as_str().unwrap().to_owned());
    }
    ids.sort();
    let page = api.get("/v1/limits?limit=2").await.json();
    let cursor = page["nextCursor"].as_str().unwrap();
    let gone = api.ask("DELETE", &format!("/v1/limits/{}", ids[1]), Value::Null).await;
    assert_eq!(gone.status, 204);
    let page = api.get(&format!("/v1/limits?limit=100&cursor={cursor}")).await.json();
    let rest: Vec<_> = page["data"].as_array().unwrap().iter().map(|limit| &limit["id"]).collect();
    assert_eq!(rest, ids[2..].iter().collect::<Vec<_>>());
    assert_eq!((&page["hasMore"], &page["nextCursor"]), (&json!(false), &Value::Null));

    for query in ["limit=0", "limit=101", "limit=-1", "limit=many", "limit=", "limit=1&limit=2"] {
        let answer = api.get(&format!("/v1/limits?{query}")).await;
        assert_eq!(answer.error(), (400, "invalid_field_value".into()), "{query}");
    }
}

#[tokio::test]
async fn unknown_members_of_a_request_are_passed_over() {
    let api = Api::start().await;
    let asked = json!({ "customerId": "acct_42", "meterId": "tokens", "amount": 5, "new": [{}] });
    let answer = api.post("/v1/limits/check", asked).await;
    assert_eq!((answer.status, &answer.json()["allowed"]), (200, &json!(true)));
    let event = json!({
        "customerId": "acct_42", "eventType": "chat", "values": { "tokens": 5 }, "value": "five",
    });
    assert_eq!(api.post("/v1/events/record", event).await.json()["recorded"], true);
}

#[tokio::test]
async fn a_change_in_mid_period_counts_the_kept_events_again() {
    let api = Api::start().await;
    let record = async |at: &str, values: Value| {
        let event = json!({
            "customerId": "acct_42", "eventType": "chat", "values": values, "timestamp": at,
        });
        assert_eq!(api.post("/v1/events/record", event).await.json()["recorded"], true);
    };
    let used = async || {
        let answer = api.post("/v1/limits/check", json!({ "customerId": "acct_42" })).await.json();
        answer["limits"][0]["used"].clone()
    };
    let change = async |path: &str, change: Value| {
        let answer = api.ask("PUT", path, change).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    };
    api.made("/v1/customers", json!({ "externalId": "acct_42" })).await;
    record("2026-02-28T23:30:00Z", json!({ "tokens": 1, "images": 10 })).await;
    record("2026-03-01T11:30:00Z", json!({ "tokens": 2, "images": 20 })).await;
    record("2026-03-01T12:00:00Z", json!({ "tokens": 4, "images": 40 })).await;
    assert_eq!(used().await, 6);
    change("/v1/customers/acct_42", json!({ "timezone": "Europe/Vienna" })).await;
    assert_eq!(used().await, 7, "it was past midnight there");
    change("/v1/meters/tokens", json!({ "field": "values.images" })).await;
    assert_eq!(used().await, 70);
    change("/v1/limits/daily", json!({ "period": "hour" })).await;
    assert_eq!(used().await, 40);
    change("/v1/limits/daily", json!({ "period": "month" })).await;
    change("/v1/customers/acct_42", json!({ "billingCycleStart": "2026-01-01" })).await;
    assert_eq!(used().await, 70);
    change("/v1/customers/acct_42", json!({ "billingCycleStart": "2026-01-15" })).await;
    assert_eq!(used().await, 70);
    change("/v1/meters/tokens", json!({ "eventFilter": { "eventType": "image" } })).await;
    assert_eq!(used().await, 0);
}
