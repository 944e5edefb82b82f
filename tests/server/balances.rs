use serde_json::{Value, json};

use crate::support::{Api, NOW};

async fn with_credits(initial: Value) -> (Api, Value) {
    let api = Api::start().await;
    let new = json!({
        "customerId": "acct_42", "name": "ai-credits", "initialBalance": initial, "minimumBalance": 40,
    });
    let made = api.made("/v1/balances", new).await;
    (api, made)
}

fn change(amount: Value) -> Value {
    json!({
        "customerId": "acct_42", "name": "ai-credits", "amount": amount,
        "description": "large-2: 875 tokens", "reference": "evt_5kq",
    })
}

#[tokio::test]
async fn a_balance_is_made_and_read() {
    let (api, made) = with_credits(json!(640)).await;
    let id = made["id"].as_str().unwrap().to_owned();
    let expected = json!({
        "id": id, "projectId": "proj_1", "customerId": "acct_42", "name": "ai-credits",
        "unit": "credits", "currentBalance": 640, "minimumBalance": 40, "availableBalance": 600,
        "dimensionFilters": {}, "createdAt": NOW, "updatedAt": NOW,
    });
    assert_eq!(made, expected);
    assert_eq!(api.get(&format!("/v1/balances/{id}")).await.json(), expected);
    let list = api.get("/v1/balances?customerId=acct_42").await.json();
    assert_eq!(list, json!({ "data": [expected], "nextCursor": null, "hasMore": false }));
    let of_customer = json!({ "balances": [{
        "id": id, "name": "ai-credits", "unit": "credits", "currentBalance": 640,
        "minimumBalance": 40, "availableBalance": 600,
    }] });
    assert_eq!(api.get("/v1/customers/acct_42/balances").await.json(), of_customer);

    let answer =
        api.post("/v1/balances", json!({ "customerId": "acct_42", "name": "ai-credits" })).await;
    assert_eq!(answer.error(), (409, "balance_exists".into()));
    let other = json!({ "customerId": "acct_42", "name": "AI-Credits" });
    assert_eq!(api.post("/v1/balances", other).await.status, 201, "names are compared exactly");
}

#[tokio::test]
async fn balances_of_all_customers_are_listed_by_pages() {
    let api = Api::start().await;
    assert_eq!(api.get("/v1/balances").await.json()["data"], json!([]));
    let mut expected = Vec::new();
    for customer in 0..7 {
        for name in ["credits", "ai:credits", "zeta"].into_iter().take(1 + customer % 3) {
            let new = json!({ "customerId": format!("acct_{customer}"), "name": name });
            api.made("/v1/balances", new).await;
            expected.push((format!("acct_{customer}"), name.to_owned()));
        }
    }
    expected.sort();
    api.record("only_used", 5).await;
    for limit in [1, 2, 3, 5, 100] {
        let mut listed = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = api.get(&format!("/v1/balances?limit={limit}{cursor}")).await.json();
            let data = page["data"].as_array().unwrap();
            assert!(data.len() <= limit);
            listed.extend(data.iter().map(|balance| {
                let text = |name: &str| balance[name].as_str().unwrap().to_owned();
                (text("customerId"), text("name"))
            }));
            assert_eq!(page["hasMore"], !page["nextCursor"].is_null());
            let Some(next) = page["nextCursor"].as_str() else { break };
            cursor = format!("&cursor={}", next.replace(':', "%3A"));
        }
        assert_eq!(listed, expected, "{limit} at a time");
    }
    for cursor in ["x", "5:abc", "-1:a", "99999999999999999999:a", ":", "0:"] {
        let answer = api.get(&format!("/v1/balances?cursor={cursor}")).await;
        assert_eq!(answer.error().0, 400, "{cursor}");
    }
}

#[tokio::test]
async fn what_must_remain_of_a_balance_can_be_changed_and_nothing_else() {
    let (api, made) = with_credits(json!(640)).await;
    let path = format!("/v1/balances/{}", made["id"].as_str().unwrap());
    api.clock.advance(std::time::Duration::from_secs(60));
    let mut expected = made.clone();
    let same = json!({ "name": "ai-credits", "unit": "credits" });
    assert_eq!(api.ask("PUT", &path, same).await.json(), expected);
    expected["minimumBalance"] = json!(-10.5);
    expected["availableBalance"] = json!(650.5);
    expected["updatedAt"] = json!("2026-03-01T12:01:00Z");
    let answer = api.ask("PUT", &path, json!({ "minimumBalance": -10.5 })).await;
    assert_eq!(answer.json(), expected);
    assert_eq!(api.get(&path).await.json(), expected);
    let debit = api.post("/v1/balances/debit", change(json!(650.5))).await.json();
    assert_eq!(debit["balance"]["currentBalance"], json!(-10.5), "debt is allowed now");

    for body in [json!({ "name": "other" }), json!({ "unit": "cents" })] {
        assert_eq!(api.ask("PUT", &path, body).await.error(), (400, "invalid_field_value".into()));
    }
    let none = api.ask("PUT", "/v1/balances/bal_none", json!({})).await;
    assert_eq!(none.error(), (404, "balance_not_found".into()));
    assert_eq!(api.ask("DELETE", &path, json!(null)).await.error(), (409, "balance_kept".into()));
    assert_eq!(api.get(&path).await.status, 200);
}

#[tokio::test]
async fn a_balance_that_everybody_has_keeps_everybodys_terms() {
    let books = tower_limitry::Engine::builder()
        .default_balance(tower_limitry::NewBalance::new("gift").initial(5))
        .build()
        .unwrap();
    let api = Api::over(books.erased(), |server| server).await;
    let list = api.get("/v1/balances?customerId=acct_42").await.json();
    let path = format!("/v1/balances/{}", list["data"][0]["id"].as_str().unwrap());
    let answer = api.ask("PUT", &path, json!({ "minimumBalance": -1 })).await;
    assert_eq!(answer.error().0, 409);
    assert_eq!(api.get(&path).await.json()["minimumBalance"], 0);
}

#[tokio::test]
async fn a_balance_suffices_for_all_that_is_available_and_no_more() {
    let (api, made) = with_credits(json!(640)).await;
    for (amount, sufficient) in [(json!(600), true), (json!(600.000001), false)] {
        let asked = json!({ "customerId": "acct_42", "name": "ai-credits", "amount": amount });
        let expected = json!({
            "balanceId": made["id"], "name": "ai-credits", "unit": "credits", "currentBalance": 640,
            "minimumBalance": 40, "requestedAmount": amount, "sufficient": sufficient,
            "availableBalance": 600,
        });
        assert_eq!(api.post("/v1/balances/check", asked).await.json(), expected);
    }
}

#[tokio::test]
async fn a_debit_takes_the_amount_and_tells_of_it() {
    let (api, made) = with_credits(json!(640)).await;
    let answer = api.post("/v1/balances/debit", change(json!(87.5))).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    let transaction = json!({
        "id": answer["transaction"]["id"], "balanceId": made["id"], "type": "debit", "amount": 87.5,
        "description": "large-2: 875 tokens", "reference": "evt_5kq",
        "createdAt": answer["transaction"]["createdAt"],
    });
    let mut balance = made.clone();
    balance["currentBalance"] = json!(552.5);
    balance["availableBalance"] = json!(512.5);
    balance["updatedAt"] = answer["transaction"]["createdAt"].clone();
    assert_eq!(answer, json!({ "success": true, "transaction": transaction, "balance": balance }));

    let path = format!("/v1/balances/{}/transactions", made["id"].as_str().unwrap());
    let page = api.get(&path).await.json();
    assert_eq!(page["data"][0], transaction);
    assert_eq!(page["data"][1]["type"], "opening");
    assert_eq!(page["hasMore"], false);
}

#[tokio::test]
async fn a_debit_that_is_not_covered_is_an_answer_and_takes_nothing() {
    let (api, made) = with_credits(json!(52)).await;
    let answer = api.post("/v1/balances/debit", change(json!(87.5))).await;
    assert_eq!(answer.status, 200);
    let expected = json!({
        "success": false, "error": "Insufficient balance: 87.5 requested, 12 available",
        "balance": made,
    });
    assert_eq!(answer.json(), expected);
    let path = format!("/v1/balances/{}/transactions", made["id"].as_str().unwrap());
    let kinds: Vec<_> = api.get(&path).await.json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|transaction| transaction["type"].clone())
        .collect();
    assert!(!kinds.contains(&json!("debit")), "{kinds:?}");
}

#[tokio::test]
async fn a_payment_is_credited_once() {
    let (api, _) = with_credits(json!(0)).await;
    for _ in 0..2 {
        let answer = api.post("/v1/balances/credit", change(json!(100.25))).await.json();
        assert_eq!(answer["success"], true);
        assert_eq!(answer["transaction"]["type"], "credit");
        assert_eq!(answer["balance"]["currentBalance"], 100.25);
    }
}

#[tokio::test]
async fn credits_and_debits_are_done_once_for_each_idempotency_key() {
    let (api, _) = with_credits(json!(100)).await;
    let mut body = change(json!(10));
    body.as_object_mut().unwrap().remove("reference");
    for (route, current) in [("debit", 90), ("credit", 100)] {
        let path = format!("/v1/balances/{route}");
        let first = api.post_once("key", &path, body.clone()).await;
        let again = api.post_once("key", &path, body.clone()).await;
        assert_eq!(first.text, again.text);
        assert_eq!(first.json()["balance"]["currentBalance"], current);
        let other = api.post_once("key", &path, change(json!(11))).await;
        assert_eq!(other.error(), (409, "idempotency_mismatch".into()));
    }
}

#[tokio::test]
async fn a_call_that_failed_may_succeed_under_the_same_key() {
    let api = Api::start().await;
    let answer = api.post_once("key", "/v1/balances/debit", change(json!(10))).await;
    assert_eq!(answer.error(), (404, "balance_not_found".into()));
    let new = json!({ "customerId": "acct_42", "name": "ai-credits", "initialBalance": 10 });
    api.made("/v1/balances", new).await;
    let answer = api.post_once("key", "/v1/balances/debit", change(json!(10))).await;
    assert_eq!(answer.json()["success"], true);
}

#[tokio::test]
async fn fifty_debits_at_once_under_one_key_take_once() {
    let (api, made) = with_credits(json!(1_000)).await;
    let calls = (0..50).map(|_| api.post_once("key", "/v1/balances/debit", change(json!(10))));
    for answer in futures_util::future::join_all(calls).await {
        if answer.status != 200 {
            assert_eq!(answer.error(), (409, "idempotency_in_progress".into()));
        }
    }
    let path = format!("/v1/balances/{}", made["id"].as_str().unwrap());
    assert_eq!(api.get(&path).await.json()["currentBalance"], 990);
}

#[tokio::test]
async fn what_is_no_balance_or_no_amount_is_refused() {
    let (api, _) = with_credits(json!(10)).await;
    for route in ["check", "credit", "debit"] {
        let path = format!("/v1/balances/{route}");
        let mut unknown = change(json!(1));
        unknown["name"] = json!("credits");
        assert_eq!(api.post(&path, unknown).await.error(), (404, "balance_not_found".into()));
        for amount in [json!(0), json!(-1), json!("1"), Value::Null] {
            let answer = api.post(&path, change(amount.clone())).await;
            assert_eq!(answer.error(), (400, "invalid_field_value".into()), "{route} {amount}");
        }
        for field in ["customerId", "name", "amount"] {
            let mut body = change(json!(1));
            body.as_object_mut().unwrap().remove(field);
            let answer = api.post(&path, body).await;
            assert_eq!(answer.error(), (400, "missing_required_field".into()), "{route} {field}");
        }
    }
    for (field, text) in [("description", "x".repeat(1_001)), ("reference", "x".repeat(257))] {
        let mut body = change(json!(1));
        body[field] = json!(text);
        let answer = api.post("/v1/balances/credit", body).await;
        assert_eq!(answer.error(), (400, "invalid_field_value".into()), "{field}");
    }
    for id in ["bal_3", "bal_", "x", "bal_MTAwOmFi", "bal_OTk5OTk5OTk5OTk5OTk5OTk5OTk5OnI"] {
        for path in [format!("/v1/balances/{id}"), format!("/v1/balances/{id}/transactions")] {
            assert_eq!(api.get(&path).await.error(), (404, "balance_not_found".into()), "{path}");
        }
    }
    let narrowed = json!({
        "customerId": "acct_42", "name": "narrowed", "dimensionFilters": { "model": "large-2" },
    });
    let answer = api.post("/v1/balances", narrowed).await;
    assert_eq!(answer.error(), (400, "invalid_field_value".into()));
}

#[tokio::test]
async fn a_balance_has_one_id() {
    use base64::Engine as _;
    let (api, made) = with_credits(json!(10)).await;
    let id = made["id"].as_str().unwrap();
    assert_eq!(api.get(&format!("/v1/balances/{id}")).await.status, 200);
    for alias in ["+7:acct_42ai-credits", "007:acct_42ai-credits", "6:acct_42ai-credits"] {
        let alias = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(alias);
        let answer = api.get(&format!("/v1/balances/bal_{alias}")).await;
        assert_eq!(answer.error(), (404, "balance_not_found".into()));
    }
}
