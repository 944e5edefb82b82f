//! What the API tells after its books were opened again.

use std::time::Duration;

use serde_json::{Value, json};
use tower_limitry::engine::ManualClock;
use tower_limitry::server::Definitions;
use tower_limitry::store::Sqlite;
use tower_limitry::{Books, Engine};

use crate::file::fresh;
use crate::support::{Api, NOW};

fn open(path: &std::path::Path, clock: &ManualClock) -> Books {
    let store = Sqlite::options().open(path).unwrap();
    Engine::builder().clock(clock.clone()).build_on(store).unwrap().erased()
}

#[tokio::test]
async fn terms_and_times_survive_a_restart() {
    let (path, clock) = (fresh(), ManualClock::at(NOW));
    let books = open(&path, &clock);
    let file: Definitions = r#"
        [meters.calls]
        name = "Calls"
        aggregation = "count"
        field = "*"
    "#
    .parse()
    .unwrap();
    file.apply(&books).await.unwrap();
    let api = Api::over(books, |server| server).await;
    let new = json!({ "name": "Tokens", "aggregation": "sum", "field": "values.tokens" });
    let meter = api.made("/v1/meters", new).await;
    let new = json!({
        "name": "Daily", "meterId": meter["id"], "limitValue": 10, "period": "day",
    });
    let limit = api.made("/v1/limits", new).await;
    let customer = api.made("/v1/customers", json!({ "externalId": "acct_42" })).await;
    let new = json!({ "customerId": "acct_42", "name": "credits", "initialBalance": 20 });
    let balance = api.made("/v1/balances", new).await;
    let debit =
        json!({ "customerId": "acct_42", "name": "credits", "amount": 7, "description": "" });
    api.post("/v1/balances/debit", debit).await;
    let path_of = |kind: &str, made: &Value| format!("/v1/{kind}/{}", made["id"].as_str().unwrap());
    let paths = [
        path_of("meters", &meter),
        path_of("limits", &limit),
        path_of("customers", &customer),
        "/v1/meters/calls".to_owned(),
    ];

    clock.advance(Duration::from_secs(60));
    for path in &paths[..3] {
        assert_eq!(api.ask("PUT", path, json!({ "name": "Changed" })).await.status, 200);
    }
    let mut before = Vec::new();
    for path in &paths {
        let told = api.get(path).await.json();
        assert_eq!(told["createdAt"], NOW, "{path}");
        let updated = if path.ends_with("calls") { NOW } else { "2026-03-01T12:01:00Z" };
        assert_eq!(told["updatedAt"], updated, "{path}");
        before.push(told);
    }
    let balance = path_of("balances", &balance);
    let lowered = api.ask("PUT", &balance, json!({ "minimumBalance": -3 })).await;
    assert_eq!(lowered.json()["availableBalance"], 16);
    api.books.shutdown(Duration::from_secs(30)).await.unwrap();
    drop(api);

    clock.advance(Duration::from_secs(3_600));
    let api = Api::over(open_again(&path, &clock).await, |server| server).await;
    file.apply(&api.books).await.unwrap();
    let told = api.get(&balance).await.json();
    let terms = ["currentBalance", "minimumBalance", "availableBalance"].map(|of| told[of].clone());
    assert_eq!(terms, [json!(13), json!(-3), json!(16)]);
    for (path, before) in paths.iter().zip(before) {
        assert_eq!(api.get(path).await.json(), before);
    }
    let file: Definitions =
        "[meters.calls]\nname = \"All\"\naggregation = \"count\"\nfield = \"*\"".parse().unwrap();
    file.apply(&api.books).await.unwrap();
    let told = api.get("/v1/meters/calls").await.json();
    assert_eq!(
        (&told["createdAt"], &told["updatedAt"]),
        (&NOW.into(), &"2026-03-01T13:01:00Z".into())
    );
}

#[tokio::test]
async fn a_repeat_after_a_restart_counts_nothing_more() {
    let (path, clock) = (fresh(), ManualClock::at(NOW));
    let api = Api::over(open(&path, &clock), |server| server).await;
    let new = json!({ "name": "Tokens", "aggregation": "sum", "field": "values.tokens" });
    let meter = api.made("/v1/meters", new).await;
    let new = json!({ "customerId": "acct_42", "name": "credits", "initialBalance": 20 });
    let balance = api.made("/v1/balances", new).await;
    let event = json!({ "customerId": "acct_42", "eventType": "chat", "values": { "tokens": 5 } });
    let mut own = event.clone();
    own["idempotencyKey"] = json!("of its own");
    let credit = json!({
        "customerId": "acct_42", "name": "credits", "amount": 7, "description": "", "reference": "pay-1",
    });
    let record = "/v1/events/record";
    assert_eq!(api.post_once("key", record, event.clone()).await.json()["recorded"], true);
    assert_eq!(api.post(record, own.clone()).await.json()["recorded"], true);
    let credited = api.post("/v1/balances/credit", credit.clone()).await.json();
    assert_eq!(credited["success"], true);
    api.books.shutdown(Duration::from_secs(30)).await.unwrap();
    drop(api);

    clock.advance(Duration::from_secs(3_600));
    let api = Api::over(open_again(&path, &clock).await, |server| server).await;
    assert_eq!(api.post_once("key", record, event).await.json()["recorded"], false);
    assert_eq!(api.post(record, own).await.json()["recorded"], false);
    let again = api.post("/v1/balances/credit", credit.clone()).await.json();
    assert_eq!(again["transaction"], credited["transaction"]);
    let mut other = credit;
    other["amount"] = json!(8);
    let other = api.post("/v1/balances/credit", other).await;
    assert_eq!(other.error(), (409, "reference_credited".into()));
    let query = format!("/v1/meters/{}/query", meter["id"].as_str().unwrap());
    assert_eq!(api.post(&query, json!({})).await.json()["value"], 10);
    let balance = format!("/v1/balances/{}", balance["id"].as_str().unwrap());
    assert_eq!(api.get(&balance).await.json()["currentBalance"], 27);
}

#[tokio::test]
async fn a_change_of_a_balance_is_done_once_under_its_key_over_a_restart() {
    let (path, clock) = (fresh(), ManualClock::at(NOW));
    let api = Api::over(open(&path, &clock), |server| server).await;
    let new = json!({ "customerId": "acct_42", "name": "credits", "initialBalance": 20 });
    let balance = api.made("/v1/balances", new).await;
    let change = |amount: u64| json!({ "customerId": "acct_42", "name": "credits", "amount": amount, "description": "" });
    let changes = [
        ("/v1/balances/debit", change(7)),
        ("/v1/balances/credit", change(5)),
        ("/v1/x/balances/debit", change(3)),
        ("/v1/x/balances/credit", change(2)),
    ];
    let mut before = Vec::new();
    for (path, body) in &changes {
        before.push(api.post_once("key", path, body.clone()).await.json());
    }
    api.books.shutdown(Duration::from_secs(30)).await.unwrap();
    drop(api);

    clock.advance(Duration::from_secs(3_600));
    let api = Api::over(open_again(&path, &clock).await, |server| server).await;
    for ((path, body), before) in changes.iter().zip(&before) {
        let again = api.post_once("key", path, body.clone()).await.json();
        for told in ["success", "applied", "transaction"] {
            assert_eq!(again[told], before[told], "{told} of {path}");
        }
    }
    let balance = format!("/v1/balances/{}", balance["id"].as_str().unwrap());
    assert_eq!(api.get(&balance).await.json()["currentBalance"], 17);
    let listed = api.get(&format!("{balance}/transactions")).await.json();
    let id = before[0]["transaction"]["id"].as_str().unwrap();
    assert_eq!(listed["data"].as_array().unwrap().len(), 5, "and the opening: {listed}");
    assert_eq!(id.parse::<uuid::Uuid>().unwrap().to_string(), id, "an id as all others");

    // A day later the key is good for another call.
    clock.advance(Duration::from_secs(23 * 3_600));
    let api = Api::over(api.books.clone(), |server| server).await;
    let later = api.post_once("key", changes[0].0, changes[0].1.clone()).await.json();
    assert_ne!(later["transaction"]["id"], id);
    let again = Api::over(api.books.clone(), |server| server).await;
    let again = again.post_once("key", changes[0].0, changes[0].1.clone()).await.json();
    assert_eq!(again["transaction"], later["transaction"]);
    assert_eq!(api.get(&balance).await.json()["currentBalance"], 10);
    let other = api.post_once("another key", changes[0].0, changes[0].1.clone()).await.json();
    assert_ne!(other["transaction"]["id"], id);

    // And what nobody can ask for any more is not kept.
    clock.advance(Duration::from_secs(3_600));
    let third = api.post_once("third key", changes[1].0, changes[1].1.clone()).await;
    assert_eq!(third.status, 200);
    let file = rusqlite::Connection::open(&path).unwrap();
    let known: u32 = file.query_row("SELECT count(*) FROM once", [], |row| row.get(0)).unwrap();
    assert_eq!(known, 3);
}

/// Once the server before has let go of the file.
async fn open_again(path: &std::path::Path, clock: &ManualClock) -> Books {
    let opened = async {
        loop {
            match Sqlite::options().open(path) {
                Ok(store) => return store,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let store = tokio::time::timeout(Duration::from_secs(30), opened).await.unwrap();
    Engine::builder().clock(clock.clone()).build_on(store).unwrap().erased()
}
