//! Every example of the API's description, sent and read as it is written there.

use futures_util::StreamExt;
use serde_json::{Value, json};
use tower_limitry::backend::MeterQuery;
use tower_limitry::client::{ApiError, Client, CustomerTerms, StandingQuery};
use tower_limitry::policy::{Credit, Debit, Period};
use tower_limitry::{Amount, ErrorKind, Event, Limit, Meter, NewBalance, Usage};

use crate::support::{Reply, Script};

/// Lets a client ask a server that gives this answer, and compares what it sent.
async fn asks<T>(
    answer: Value,
    (method, path, body): (&str, &str, Value),
    ask: impl AsyncFnOnce(Client) -> T,
) -> T {
    let script = Script::start([Reply::json(200, &answer)]).await;
    let result = ask(script.client()).await;
    let seen = script.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!((&*seen[0].method, &*seen[0].path), (method, path));
    let sent = if seen[0].body.is_empty() { Value::Null } else { seen[0].json() };
    assert_eq!(sent, body);
    result
}

#[tokio::test]
async fn a_check_of_limits() {
    let answer = json!({ "allowed": false, "reason": "limit_exceeded", "limits": [
        { "id": "lmt_m1", "name": "Monthly tokens", "meterId": "mtr_tok", "period": "month",
          "limit": 500000, "used": 123456, "remaining": 376544, "exceeded": false, "reset": 1775001600 },
        { "id": "lmt_s1", "name": "Seats", "meterId": "mtr_seat", "period": "all_time",
          "limit": 5, "used": 5, "remaining": 0, "exceeded": true, "reset": null },
    ] });
    let body = json!({ "customerId": "acct_42", "dimensions": { "model": "small-1" } });
    let standing = asks(answer, ("POST", "/v1/limits/check", body), async |client| {
        let query = StandingQuery::of("acct_42").dimension("model", "small-1");
        client.limits().check(query).await.unwrap()
    })
    .await;
    assert!(!standing.allowed);
    let [month, seats] = &standing.limits[..] else { panic!("{standing:?}") };
    assert_eq!((month.reset, month.remaining), (Some(1_775_001_600), 376_544.into()));
    assert_eq!((seats.reset, seats.exceeded, seats.period), (None, true, Period::AllTime));
}

#[tokio::test]
async fn a_check_of_limits_without_what_is_not_always_there() {
    let answer = json!({ "allowed": true, "limits": [
        { "id": "lmt_m1", "period": "month", "limit": 10, "used": 12.5, "resetsAt": "2026-04-01" },
    ] });
    let asked = ("POST", "/v1/limits/check", json!({ "dimensions": {} }));
    let standing = asks(answer, asked, async |client| {
        client.limits().check(StandingQuery::of_all()).await.unwrap()
    })
    .await;
    let limit = &standing.limits[0];
    assert_eq!((limit.remaining, limit.exceeded, limit.reset), (Amount::ZERO, true, None));
}

#[tokio::test]
async fn a_limit() {
    let body = json!({
        "name": "Daily tokens on large-2", "meterId": "mtr_tok", "limitValue": 20000, "period": "day",
        "customerId": "acct_42", "dimensionFilters": { "model": "large-2" }, "alertThresholds": [75, 100],
    });
    let mut answer = body.clone();
    answer["id"] = json!("lmt_9a");
    answer["projectId"] = json!("proj_1");
    answer["createdAt"] = json!("2026-03-01T09:00:00Z");
    answer["updatedAt"] = json!("2026-03-01T09:00:00Z");
    let limit = Limit::per_day("any", "mtr_tok", 20_000)
        .named("Daily tokens on large-2")
        .for_customer("acct_42")
        .dimension("model", "large-2")
        .alert_at([75, 100]);
    let made = asks(answer, ("POST", "/v1/limits", body), async |client| {
        client.limits().create(&limit).await.unwrap()
    })
    .await;
    assert_eq!(made.item.id(), "lmt_9a");
    assert_eq!(made.created_at, Some("2026-03-01T09:00:00Z".parse().unwrap()));
    let again = format!("{limit:?}").replace("\"any\"", "\"lmt_9a\"");
    assert_eq!(format!("{:?}", made.item), again);
}

#[tokio::test]
async fn a_meter_and_what_it_reads() {
    let body = json!({
        "name": "Tokens", "aggregation": "sum", "field": "values.tokens",
        "eventFilter": { "eventType": "llm.completion", "dimensions": { "feature": "chat", "model": "large-2" } },
    });
    let mut answer = body.clone();
    answer["id"] = json!("mtr_tok");
    answer["projectId"] = json!("proj_1");
    answer["description"] = json!(null);
    answer["createdAt"] = json!("2026-01-05T08:00:00Z");
    answer["updatedAt"] = json!("2026-01-05T08:00:00Z");
    let meter = Meter::sum("any", "tokens")
        .named("Tokens")
        .event_type("llm.completion")
        .dimension("feature", "chat")
        .dimension("model", "large-2");
    let made = asks(answer, ("POST", "/v1/meters", body), async |client| {
        client.meters().create(&meter).await.unwrap()
    })
    .await;
    assert_eq!(format!("{:?}", made.item), format!("{meter:?}").replace("\"any\"", "\"mtr_tok\""));

    let global = json!({ "data": [{
        "id": "mtr_total_tokens", "projectId": null, "name": "total_tokens", "description": null,
        "aggregation": "count", "field": "*", "eventFilter": {}, "createdAt": "2026-01-05T08:00:00Z",
        "updatedAt": "2026-01-05T08:00:00Z",
    }], "nextCursor": null, "hasMore": false });
    let listed = asks(global, ("GET", "/v1/meters", Value::Null), async |client| {
        client.meters().list().all().await.unwrap()
    })
    .await;
    assert_eq!((listed[0].project.as_ref(), listed[0].item.field()), (None, None));

    let body = json!({
        "customerId": "acct_42", "dimensions": {}, "startDate": "2026-03-01T00:00:00Z",
        "endDate": "2026-04-01T00:00:00Z",
    });
    let answer = json!({ "meterId": "mtr_tok", "meterName": "Tokens", "value": 123456, "aggregation": "sum" });
    let reading = asks(answer, ("POST", "/v1/meters/mtr_tok/query", body), async |client| {
        let query = MeterQuery::new("mtr_tok")
            .customer("acct_42")
            .from("2026-03-01T00:00:00Z".parse().unwrap())
            .until("2026-04-01T00:00:00Z".parse().unwrap());
        client.meters().query(query).await.unwrap()
    })
    .await;
    assert_eq!((reading.value, reading.complete), (123_456.into(), true));
}

#[tokio::test]
async fn an_event() {
    let body = json!({
        "customerId": "acct_42", "eventType": "llm.completion",
        "values": { "tokens": 812, "cost_cents": 3 }, "dimensions": { "model": "large-2" },
        "timestamp": "2026-03-02T10:15:00Z", "idempotencyKey": "req-1",
    });
    let answer = json!({ "id": "evt_5kq", "recorded": true });
    let recorded = asks(answer, ("POST", "/v1/events/record", body), async |client| {
        let usage = Usage::of("tokens", 812).and("cost_cents", 3).dimension("model", "large-2");
        let at = "2026-03-02T10:15:00Z".parse().unwrap();
        let event = Event::new("acct_42", "llm.completion", usage).id("req-1").at(at);
        client.events().record(&event).await.unwrap()
    })
    .await;
    assert_eq!((recorded.id.to_string(), recorded.recorded), ("evt_5kq".to_owned(), true));
}

#[tokio::test]
async fn a_batch_of_events() {
    let event = |customer: &str, count: u32| {
        json!({
            "customerId": customer, "eventType": "seat.count", "values": { "count": count },
            "dimensions": {}, "timestamp": "2026-03-02T10:15:00Z", "idempotencyKey": customer,
        })
    };
    let body = json!({ "events": [event("acct_42", 4), event("acct_43", 9)] });
    let asked = ("POST", "/v1/events/batch", body);
    let count = asks(json!({ "count": 2 }), asked, async |client| {
        let at = "2026-03-02T10:15:00Z".parse().unwrap();
        let events = [("acct_42", 4), ("acct_43", 9)].map(|(customer, seats)| {
            Event::new(customer, "seat.count", Usage::of("count", seats)).id(customer).at(at)
        });
        client.events().record_many(&events).await.unwrap()
    })
    .await;
    assert_eq!(count, 2);
}

fn balance(current: Value) -> Value {
    json!({
        "id": "bal_3", "projectId": "proj_1", "customerId": "acct_42", "name": "ai-credits",
        "unit": "credits", "currentBalance": current, "minimumBalance": 40, "dimensionFilters": {},
        "createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-03-02T10:15:01Z",
    })
}

#[tokio::test]
async fn a_balance() {
    let body = json!({
        "customerId": "acct_42", "name": "ai-credits", "unit": "credits", "initialBalance": 640,
        "minimumBalance": 40, "dimensionFilters": {},
    });
    let made = asks(balance(json!(640)), ("POST", "/v1/balances", body), async |client| {
        let terms = NewBalance::new("ai-credits").initial(640).minimum(40);
        client.balances().create("acct_42", &terms).await.unwrap()
    })
    .await;
    assert_eq!((&*made.id, made.balance.available()), ("bal_3", 600.into()));

    let body =
        json!({ "customerId": "acct_42", "name": "ai-credits", "amount": 100, "dimensions": {} });
    let answer = json!({
        "balanceId": "bal_3", "name": "ai-credits", "unit": "credits", "currentBalance": 640,
        "minimumBalance": 40, "requestedAmount": 100, "sufficient": true, "availableBalance": 600,
    });
    let checked = asks(answer, ("POST", "/v1/balances/check", body), async |client| {
        client.balances().check("acct_42", "ai-credits", 100).await.unwrap()
    })
    .await;
    assert!(checked.sufficient);
    assert_eq!((checked.requested, checked.balance.available()), (100.into(), 600.into()));

    let answer = json!({ "balances": [{
        "id": "bal_3", "name": "ai-credits", "unit": "credits", "currentBalance": 552.5,
        "minimumBalance": 40, "availableBalance": 500,
    }] });
    let asked = ("GET", "/v1/customers/acct_42/balances", Value::Null);
    let of =
        asks(answer, asked, async |client| client.balances().of("acct_42").await.unwrap()).await;
    assert_eq!(of[0].customer.as_str(), "acct_42");
    assert_eq!(of[0].balance.held(), "12.5".parse().unwrap(), "what is not available is held");
}

#[tokio::test]
async fn a_credit_and_a_debit() {
    let body = json!({
        "customerId": "acct_42", "name": "ai-credits", "amount": 87.5,
        "description": "large-2: 875 tokens", "reference": "evt_5kq",
    });
    let transaction = |kind| {
        json!({
            "id": "txn_8", "balanceId": "bal_3", "type": kind, "amount": 87.5,
            "description": "large-2: 875 tokens", "reference": "evt_5kq", "createdAt": "2026-03-02T10:15:01Z",
        })
    };
    let answer = |kind| json!({ "success": true, "transaction": transaction(kind), "balance": balance(json!(552.5)) });
    let path = "/v1/balances/debit";
    let debit = Debit::new("acct_42", "ai-credits", "87.5")
        .description("large-2: 875 tokens")
        .reference("evt_5kq");
    let debited = asks(answer("debit"), ("POST", path, body.clone()), async |client| {
        client.balances().debit(&debit).await.unwrap()
    })
    .await;
    assert!(debited.success);
    assert_eq!(debited.transaction.unwrap().amount, "87.5".parse().unwrap());
    assert_eq!(debited.balance.unwrap().balance.available(), "512.5".parse().unwrap());

    let refused =
        json!({ "success": false, "error": "Insufficient balance: 87.5 requested, 12 available" });
    let refused = asks(refused, ("POST", path, body.clone()), async |client| {
        client.balances().debit(&debit).await.unwrap()
    })
    .await;
    assert!(!refused.success && refused.transaction.is_none() && refused.balance.is_none());

    let credit = Credit::new("acct_42", "ai-credits", "87.5")
        .description("large-2: 875 tokens")
        .reference("evt_5kq");
    let asked = ("POST", "/v1/balances/credit", body);
    let credited = asks(answer("promotion"), asked, async |client| {
        client.balances().credit(&credit).await.unwrap()
    })
    .await;
    assert_eq!(credited.transaction.unwrap().kind, None, "a kind that is not known is none");
}

#[tokio::test]
async fn a_customer() {
    let body = json!({
        "externalId": "acct_42", "name": "Example Ltd", "billingCycleStart": "2026-01-31T00:00:00Z",
        "timezone": "Europe/Vienna", "metadata": { "plan": "team" },
    });
    let mut answer = body.clone();
    answer["id"] = json!("cust_k2");
    answer["projectId"] = json!("proj_1");
    answer["email"] = json!(null);
    answer["createdAt"] = json!("2026-01-31T09:30:00Z");
    answer["updatedAt"] = json!("2026-01-31T09:30:00Z");
    let made = asks(answer, ("POST", "/v1/customers", body), async |client| {
        let terms = CustomerTerms::new()
            .name(Some("Example Ltd".into()))
            .billing_cycle_start("2026-01-31T00:00:00Z")
            .timezone(Some("Europe/Vienna".into()))
            .metadata(json!({ "plan": "team" }).as_object().unwrap().clone());
        client.customers().create("acct_42", terms).await.unwrap()
    })
    .await;
    assert_eq!((&*made.id, made.email), ("cust_k2", None));
    assert_eq!(made.metadata["plan"], "team");
}

#[tokio::test]
async fn an_error() {
    let answer = json!({ "error": { "code": "meter_not_found", "message": "Meter mtr_7 does not exist.", "status": 404 } });
    let script = Script::start([Reply::json(404, &answer)]).await;
    let error = script.client().meters().get("mtr_7").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let told = ApiError::of(&error).unwrap();
    assert_eq!((told.status(), told.code()), (404, Some("meter_not_found")));
}

#[tokio::test]
async fn a_page_with_nothing() {
    let answer = json!({ "data": [], "nextCursor": null, "hasMore": false });
    let script = Script::start([Reply::json(200, &answer)]).await;
    let client = script.client();
    let all: Vec<_> = client.meters().list().collect().await;
    assert!(all.is_empty());
    assert_eq!(script.seen().len(), 1);
}
