use serde_json::{Value, json};

use crate::support::{Api, NOW};

#[tokio::test]
async fn customers_are_made_read_changed_and_removed() {
    let api = Api::start().await;
    let new = json!({
        "externalId": "acct/42", "name": "Example Ltd", "billingCycleStart": "2026-01-31T00:00:00Z",
        "timezone": "Europe/Vienna", "metadata": { "plan": "team", "seats": [1, { "a": null }] },
    });
    let made = api.made("/v1/customers", new.clone()).await;
    let id = made["id"].as_str().unwrap().to_owned();
    let mut expected = json!({
        "id": id, "projectId": "proj_1", "externalId": "acct/42", "name": "Example Ltd", "email": null,
        "billingCycleStart": "2026-01-31T00:00:00Z", "timezone": "Europe/Vienna",
        "metadata": { "plan": "team", "seats": [1, { "a": null }] },
        "createdAt": NOW, "updatedAt": NOW,
    });
    assert_eq!(made, expected);
    assert_eq!(api.get(&format!("/v1/customers/{id}")).await.json(), expected);
    assert_eq!(api.get("/v1/customers/acct%2F42").await.json(), expected, "by either id");
    assert_eq!(api.post("/v1/customers", new).await.error(), (409, "customer_exists".into()));

    let change = json!({ "name": null, "email": "a@example.com", "metadata": { "plan": "free" } });
    let changed = api.ask("PUT", &format!("/v1/customers/{id}"), change).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    expected["name"] = Value::Null;
    expected["email"] = json!("a@example.com");
    expected["metadata"] = json!({ "plan": "free" });
    assert_eq!(changed.json(), expected);
    let list = api.get("/v1/customers").await.json();
    assert_eq!(list, json!({ "data": [expected], "nextCursor": null, "hasMore": false }));

    let path = format!("/v1/customers/{id}");
    assert_eq!(api.ask("DELETE", &path, Value::Null).await.status, 204);
    for method in ["GET", "PUT", "DELETE"] {
        let answer = api.ask(method, &path, Value::Null).await;
        assert_eq!(answer.error(), (404, "customer_not_found".into()));
    }
}

#[tokio::test]
async fn a_customer_is_metered_under_either_id() {
    let api = Api::start().await;
    let made = api.made("/v1/customers", json!({ "externalId": "acct_42" })).await;
    api.record(made["id"].as_str().unwrap(), 5).await;
    api.record("acct_42", 6).await;
    let answer = api.post("/v1/limits/check", json!({ "customerId": made["id"] })).await.json();
    assert_eq!(answer["limits"][0]["used"], 11);
}

/// An id that reads as the API's own of somebody else must not reach their books.
#[tokio::test]
async fn no_customer_is_made_whose_id_is_another_ones_in_the_api() {
    let api = Api::start().await;
    let named = |id: &str| json!({ "externalId": id });
    let made = api.made("/v1/customers", named("ada")).await;
    let taken = api.post("/v1/customers", named(made["id"].as_str().unwrap())).await;
    assert_eq!(taken.error(), (409, "customer_exists".into()));
    // The other way round: "cust_Ym9i" is what the API calls bob.
    api.made("/v1/customers", named("cust_Ym9i")).await;
    let taken = api.post("/v1/customers", named("bob")).await;
    assert_eq!(taken.error(), (409, "customer_exists".into()));
    api.made("/v1/customers", named("cust_1")).await;
}

#[tokio::test]
async fn days_begin_in_the_customers_zone_and_months_on_the_billing_day() {
    let api = Api::start().await;
    let new = json!({
        "externalId": "acct_42", "billingCycleStart": "2026-01-31", "timezone": "Europe/Vienna",
    });
    let made = api.made("/v1/customers", new).await;
    assert_eq!(made["billingCycleStart"], "2026-01-30T23:00:00Z", "a date is its midnight there");
    let monthly = json!({ "name": "m", "meterId": "tokens", "limitValue": 5, "period": "month" });
    api.made("/v1/limits", monthly).await;
    let answer = api.post("/v1/limits/check", json!({ "customerId": "acct_42" })).await.json();
    let reset = |period: &str| {
        let limits = answer["limits"].as_array().unwrap();
        limits.iter().find(|limit| limit["period"] == period).unwrap()["reset"].clone()
    };
    assert_eq!(reset("day"), 1772406000, "2026-03-01T23:00:00Z");
    assert_eq!(reset("month"), 1774908000, "2026-03-30T22:00:00Z");
    let other = api.post("/v1/limits/check", json!({ "customerId": "acct_1" })).await.json();
    let limits = other["limits"].as_array().unwrap();
    assert!(limits.iter().any(|limit| limit["reset"] == 1775001600), "the first, in UTC: {other}");
}

#[tokio::test]
async fn a_customer_that_makes_no_sense_is_refused() {
    let api = Api::start().await;
    for (field, value) in [
        ("externalId", json!("")),
        ("externalId", json!("x".repeat(257))),
        ("email", json!("nobody")),
        ("timezone", json!("Mars/Olympus")),
        ("billingCycleStart", json!("soon")),
        ("metadata", json!("text")),
        ("metadata", json!({ "limitry:name": "x" })),
    ] {
        let mut body = json!({ "externalId": "acct_42" });
        body[field] = value;
        let answer = api.post("/v1/customers", body.clone()).await;
        assert_eq!(answer.error(), (400, "invalid_field_value".into()), "{body}");
    }
    let answer = api.post("/v1/customers", Value::Null).await;
    assert_eq!(answer.error(), (400, "missing_required_field".into()));
    assert_eq!(api.get("/v1/customers/acct_42").await.status, 404);
}

#[tokio::test]
async fn the_project_is_told() {
    let api = Api::start().await;
    assert_eq!(api.get("/v1/project").await.json()["id"], "proj_1");
}

#[tokio::test]
async fn any_text_is_an_id_also_in_a_path() {
    let api = Api::start().await;
    for (id, path) in [
        ("Zoë 東京", "Zo%C3%AB%20%E6%9D%B1%E4%BA%AC"),
        ("a/b", "a%2Fb"),
        ("..", "%2E%2E"),
        ("50%", "50%25"),
        ("a?b#c", "a%3Fb%23c"),
        ("new\nline", "new%0Aline"),
    ] {
        let made = api.made("/v1/customers", json!({ "externalId": id })).await;
        let read = api.get(&format!("/v1/customers/{path}")).await;
        assert_eq!((read.status, read.json()), (200, made), "{id:?}");
        let balance = json!({ "customerId": id, "name": id, "initialBalance": 5 });
        let balance = api.made("/v1/balances", balance).await;
        let told = api.get(&format!("/v1/customers/{path}/balances")).await.json();
        assert_eq!(told["balances"][0]["id"], balance["id"]);
        let removed = api.ask("DELETE", &format!("/v1/customers/{path}"), Value::Null).await;
        assert_eq!(removed.status, 204);
    }
    for broken in ["%FF", "%C3%28"] {
        let answer = api.get(&format!("/v1/customers/{broken}")).await;
        assert_eq!(answer.error(), (400, "invalid_field_value".into()), "{broken}");
    }
}
