//! Every example of the API's description, sent as it is written there and answered as it says there.

use serde_json::{Value, json};
use tower_limitry::engine::ManualClock;
use tower_limitry::{Engine, Limit, Meter};

use crate::support::{Answer, Api};

/// The books of the examples, at this time.
async fn at(now: &str) -> Api {
    let books = Engine::builder()
        .meter(Meter::sum("mtr_tok", "tokens").named("Tokens").event_type("llm.completion"))
        .meter(Meter::latest("mtr_seat", "count"))
        .limit(Limit::per_month("lmt_m1", "mtr_tok", 500_000).named("Monthly tokens"))
        .limit(Limit::all_time("lmt_s1", "mtr_seat", 5).named("Seats"))
        .clock(ManualClock::at(now))
        .build()
        .unwrap();
    Api::over(books.erased(), |server| server).await
}

/// What is made by the server: ids of its own, and its times.
const MADE: [&str; 7] =
    ["id", "balanceId", "createdAt", "updatedAt", "requestId", "message", "availableBalance"];

/// The example as it stands there, except for what the server makes.
#[track_caller]
fn alike(answer: &Answer, status: u16, example: &Value) {
    assert_eq!(answer.status, status, "{}", answer.text);
    let mut told = answer.json();
    same(&mut told, example);
    assert_eq!(&told, example);
}

fn same(told: &mut Value, example: &Value) {
    if let (Value::Object(told), Value::Object(example)) = (&mut *told, example) {
        for name in MADE {
            match example.get(name) {
                // A text is there, and no more is known of it.
                Some(value) if told.get(name).is_some_and(|told| is_alike(told, value)) => {
                    told.insert(name.into(), value.clone());
                }
                Some(_) => {}
                // Beside what is described.
                None => drop(told.remove(name)),
            }
        }
        told.iter_mut()
            .for_each(|(name, told)| same(told, example.get(name).unwrap_or(&Value::Null)));
    } else if let (Value::Array(told), Value::Array(example)) = (told, example) {
        told.iter_mut().zip(example).for_each(|(told, example)| same(told, example));
    }
}

fn is_alike(told: &Value, example: &Value) -> bool {
    match (told, example) {
        (Value::String(told), Value::String(_)) => !told.is_empty(),
        (told, example) => told == example,
    }
}

async fn recorded(api: &Api, values: Value, event_type: &str) {
    let event = json!({ "customerId": "acct_42", "eventType": event_type, "values": values });
    assert_eq!(api.post("/v1/events/record", event).await.status, 200);
}

#[tokio::test]
async fn a_check_of_limits() {
    let api = at("2026-03-20T08:00:00Z").await;
    recorded(&api, json!({ "tokens": 123_456 }), "llm.completion").await;
    recorded(&api, json!({ "count": 5 }), "seat.count").await;
    let asked = json!({ "customerId": "acct_42", "dimensions": { "model": "small-1" } });
    let answer = api.post("/v1/limits/check", asked).await;
    // Those that refuse come first.
    let example = json!({
      "allowed": false,
      "limits": [
        { "id": "lmt_s1", "name": "Seats", "meterId": "mtr_seat", "period": "all_time",
          "limit": 5, "used": 5, "remaining": 0, "exceeded": true, "reset": null },
        { "id": "lmt_m1", "name": "Monthly tokens", "meterId": "mtr_tok", "period": "month",
          "limit": 500000, "used": 123456, "remaining": 376544, "exceeded": false, "reset": 1775001600 }
      ]
    });
    assert_eq!((answer.status, answer.json()), (200, example));
}

#[tokio::test]
async fn an_error_and_a_page_with_nothing() {
    let api = at("2026-03-01T09:00:00Z").await;
    let error = json!({ "error": { "code": "meter_not_found", "message": "Meter mtr_7 does not exist.", "status": 404 } });
    alike(&api.get("/v1/meters/mtr_7").await, 404, &error);
    let page = json!({ "data": [], "nextCursor": null, "hasMore": false });
    for list in ["events", "balances", "customers"] {
        assert_eq!(api.get(&format!("/v1/{list}")).await.json(), page, "{list}");
    }
}

#[tokio::test]
async fn a_limit() {
    let api = at("2026-03-01T09:00:00Z").await;
    let asked = json!({ "name": "Daily tokens on large-2", "meterId": "mtr_tok", "limitValue": 20000, "period": "day",
      "customerId": "acct_42", "dimensionFilters": { "model": "large-2" }, "alertThresholds": [75, 100] });
    let example = json!({ "id": "lmt_9a", "projectId": "proj_1", "name": "Daily tokens on large-2", "meterId": "mtr_tok",
      "limitValue": 20000, "period": "day", "customerId": "acct_42", "dimensionFilters": { "model": "large-2" },
      "alertThresholds": [75, 100], "createdAt": "2026-03-01T09:00:00Z", "updatedAt": "2026-03-01T09:00:00Z" });
    let made = api.post("/v1/limits", asked.clone()).await;
    alike(&made, 201, &example);
    assert_eq!(made.json()["createdAt"], example["createdAt"]);
    let path = format!("/v1/limits/{}", made.json()["id"].as_str().unwrap());
    alike(&api.get(&path).await, 200, &example);
    alike(&api.ask("PUT", &path, asked).await, 200, &example);
}

#[tokio::test]
async fn a_meter_and_what_it_reads() {
    let api = at("2026-03-20T08:00:00Z").await;
    let asked = json!({ "name": "Tokens", "aggregation": "sum", "field": "values.tokens",
      "eventFilter": { "eventType": "llm.completion", "dimensions": { "model": "large-2", "feature": "chat" } } });
    let example = json!({ "id": "mtr_tok", "projectId": "proj_1", "name": "Tokens", "description": null, "aggregation": "sum",
      "field": "values.tokens", "eventFilter": { "eventType": "llm.completion", "dimensions": { "model": "large-2", "feature": "chat" } },
      "createdAt": "2026-01-05T08:00:00Z", "updatedAt": "2026-01-05T08:00:00Z" });
    let made = api.post("/v1/meters", asked.clone()).await;
    alike(&made, 201, &example);
    let path = format!("/v1/meters/{}", made.json()["id"].as_str().unwrap());
    alike(&api.get(&path).await, 200, &example);
    alike(&api.ask("PUT", &path, asked).await, 200, &example);

    recorded(&api, json!({ "tokens": 123_456 }), "llm.completion").await;
    let asked = json!({ "customerId": "acct_42", "startDate": "2026-03-01T00:00:00Z", "endDate": "2026-04-01T00:00:00Z" });
    let mut read = api.post("/v1/meters/mtr_tok/query", asked).await.json();
    // Beside what is described.
    assert_eq!(read.as_object_mut().unwrap().remove("complete"), Some(json!(true)));
    assert_eq!(
        read,
        json!({ "meterId": "mtr_tok", "meterName": "Tokens", "value": 123456, "aggregation": "sum" })
    );
}

#[tokio::test]
async fn events() {
    let api = at("2026-03-02T10:15:01Z").await;
    let asked = json!({ "customerId": "acct_42", "eventType": "llm.completion", "values": { "tokens": 812, "cost_cents": 3 },
      "dimensions": { "model": "large-2" }, "properties": { "trace": "t-9" }, "timestamp": "2026-03-02T10:15:00Z" });
    let answer = api.post("/v1/events/record", asked).await;
    alike(&answer, 200, &json!({ "id": "evt_5kq", "recorded": true }));
    let asked = json!({ "events": [ { "customerId": "acct_42", "eventType": "seat.count", "values": { "count": 4 } },
                { "customerId": "acct_43", "eventType": "seat.count", "values": { "count": 9 } } ] });
    let answer = api.post("/v1/events/batch", asked).await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "count": 2 })));
}

#[tokio::test]
async fn balances() {
    let api = at("2026-03-02T10:15:01Z").await;
    api.made("/v1/balances", json!({ "customerId": "acct_42", "name": "ai-credits", "initialBalance": 640, "minimumBalance": 40 })).await;
    let asked = json!({ "customerId": "acct_42", "name": "ai-credits", "amount": 100 });
    let answer = api.post("/v1/balances/check", asked).await;
    let example = json!({ "balanceId": "bal_3", "name": "ai-credits", "unit": "credits", "currentBalance": 640, "minimumBalance": 40,
      "requestedAmount": 100, "sufficient": true, "availableBalance": 600 });
    alike(&answer, 200, &example);
    assert_eq!(answer.json()["availableBalance"], 600);

    let asked = json!({ "customerId": "acct_42", "name": "ai-credits", "amount": 87.5, "description": "large-2: 875 tokens", "reference": "evt_5kq" });
    let example = json!({ "success": true,
      "transaction": { "id": "txn_8", "balanceId": "bal_3", "type": "debit", "amount": 87.5,
                       "description": "large-2: 875 tokens", "reference": "evt_5kq", "createdAt": "2026-03-02T10:15:01Z" },
      "balance": { "id": "bal_3", "projectId": "proj_1", "customerId": "acct_42", "name": "ai-credits", "unit": "credits",
                   "currentBalance": 552.5, "minimumBalance": 40, "dimensionFilters": {},
                   "createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-03-02T10:15:01Z" } });
    let answer = api.post("/v1/balances/debit", asked.clone()).await;
    alike(&answer, 200, &example);
    assert_eq!(answer.json()["transaction"]["createdAt"], "2026-03-02T10:15:01Z");

    let example = json!({ "balances": [ { "id": "bal_3", "name": "ai-credits", "unit": "credits", "currentBalance": 552.5,
                      "minimumBalance": 40, "availableBalance": 512.5 } ] });
    let answer = api.get("/v1/customers/acct_42/balances").await;
    alike(&answer, 200, &example);
    assert_eq!(answer.json()["balances"][0]["availableBalance"], 512.5);

    let answer = api.post("/v1/balances/credit", asked).await.json();
    assert_eq!(
        (&answer["success"], &answer["transaction"]["type"]),
        (&json!(true), &json!("credit"))
    );
    assert_eq!(answer["balance"]["currentBalance"], 640);

    let spent =
        json!({ "customerId": "acct_42", "name": "ai-credits", "amount": 588, "description": "" });
    assert_eq!(api.post("/v1/balances/debit", spent).await.json()["success"], true);
    let asked = json!({ "customerId": "acct_42", "name": "ai-credits", "amount": 87.5, "description": "large-2: 875 tokens", "reference": "evt_5kq" });
    let mut refused = api.post("/v1/balances/debit", asked).await.json();
    // Beside what the example has: the balance as it stays.
    let balance = refused.as_object_mut().unwrap().remove("balance").unwrap();
    assert_eq!(balance["currentBalance"], 52);
    assert_eq!(
        refused,
        json!({ "success": false, "error": "Insufficient balance: 87.5 requested, 12 available" })
    );
}

#[tokio::test]
async fn a_customer() {
    let api = at("2026-01-31T09:30:00Z").await;
    let asked = json!({ "externalId": "acct_42", "name": "Example Ltd", "billingCycleStart": "2026-01-31T00:00:00Z",
      "timezone": "Europe/Vienna", "metadata": { "plan": "team" } });
    let example = json!({ "id": "cust_k2", "projectId": "proj_1", "externalId": "acct_42", "name": "Example Ltd", "email": null,
      "billingCycleStart": "2026-01-31T00:00:00Z", "timezone": "Europe/Vienna", "metadata": { "plan": "team" },
      "createdAt": "2026-01-31T09:30:00Z", "updatedAt": "2026-01-31T09:30:00Z" });
    let made = api.post("/v1/customers", asked).await;
    alike(&made, 201, &example);
    let made = made.json();
    assert_eq!(
        (&made["createdAt"], &made["updatedAt"]),
        (&example["createdAt"], &example["updatedAt"])
    );
    for id in ["acct_42", made["id"].as_str().unwrap()] {
        alike(&api.get(&format!("/v1/customers/{id}")).await, 200, &example);
    }
}
