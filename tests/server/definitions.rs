//! Meters, limits and customers from a file.

use serde_json::json;
use tower_limitry::ErrorKind;
use tower_limitry::server::Definitions;

use crate::support::{Api, NOW};

const FILE: &str = r#"
    [meters.calls]
    name = "Calls"
    aggregation = "count"
    field = "*"
    eventFilter = { eventType = "llm.completion" }

    [limits.daily]
    name = "Daily tokens"
    meterId = "tokens"
    limitValue = 5_000.5
    period = "day"

    [customers.acct_42]
    name = "Example Ltd"
    timezone = "Europe/Vienna"
    metadata = { plan = "team" }
"#;

#[tokio::test]
async fn a_file_is_applied_and_again_after_a_change_and_usage_is_kept() {
    let api = Api::start().await;
    api.record("acct_42", 400).await;
    let definitions: Definitions = FILE.parse().unwrap();
    definitions.apply(&api.books).await.unwrap();
    let limit = api.get("/v1/limits/daily").await.json();
    assert_eq!((&limit["limitValue"], &limit["meterId"]), (&json!(5000.5), &json!("tokens")));
    assert_eq!(
        api.get("/v1/meters/calls").await.json()["eventFilter"]["eventType"],
        "llm.completion"
    );
    assert_eq!(api.get("/v1/meters/tokens").await.status, 200, "what is not named stays");
    let customer = api.get("/v1/customers/acct_42").await.json();
    assert_eq!(customer["metadata"], json!({ "plan": "team" }));
    assert_eq!(
        (&customer["createdAt"], &customer["billingCycleStart"]),
        (&json!(NOW), &json!(NOW))
    );

    api.clock.advance(std::time::Duration::from_secs(60));
    definitions.apply(&api.books).await.unwrap();
    assert_eq!(api.get("/v1/customers/acct_42").await.json(), customer, "nothing changed");
    let raised: Definitions = FILE.replace("5_000.5", "9000").parse().unwrap();
    raised.apply(&api.books).await.unwrap();
    let answer = api.post("/v1/limits/check", json!({ "customerId": "acct_42" })).await.json();
    assert_eq!(
        (&answer["limits"][0]["limit"], &answer["limits"][0]["used"]),
        (&json!(9000), &json!(400))
    );
}

#[tokio::test]
async fn a_file_that_makes_no_sense_names_its_table() {
    for (wrong, named) in [
        ("[limits", "TOML"),
        ("[limit.daily]", "limit"),
        ("[meters.tokens]\nname = \"x\"", "meters.tokens"),
        ("[meters.tokens]\nname = \"x\"\naggregation = \"mean\"\nfield = \"*\"", "meters.tokens"),
        ("meters = 5", "meters"),
        (
            "[limits.daily]\nname = \"x\"\nmeterId = \"tokens\"\nlimitValue = 5\nperiod = \"day\"\n\
             dimensionFilter = { model = \"large-2\" }",
            "\"dimensionFilter\"",
        ),
        (
            "[meters.tokens]\nname = \"x\"\naggregation = \"count\"\nfield = \"*\"\n\
             eventFilter = { type = \"chat\" }",
            "\"type\"",
        ),
        ("[customers.a]\nzone = \"Europe/Vienna\"", "\"zone\""),
        ("[customers.a]\nemail = \"nobody\"", "customers.a"),
    ] {
        let error = wrong.parse::<Definitions>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(named), "{error}");
    }
    let api = Api::start().await;
    let unknown = FILE.replace("\"tokens\"", "\"none\"");
    let error = unknown.parse::<Definitions>().unwrap().apply(&api.books).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_date_may_be_written_as_toml_writes_dates() {
    let api = Api::start().await;
    let file = "[customers.date]\nbillingCycleStart = 2026-01-31\n\
                [customers.time]\nbillingCycleStart = 2026-01-31T09:30:00Z";
    file.parse::<Definitions>().unwrap().apply(&api.books).await.unwrap();
    for (id, start) in [("date", "2026-01-31T00:00:00Z"), ("time", "2026-01-31T09:30:00Z")] {
        let told = api.get(&format!("/v1/customers/{id}")).await.json();
        assert_eq!(told["billingCycleStart"], start);
    }
}

#[tokio::test]
async fn a_limit_that_is_gone_from_the_file_stays_until_it_is_removed() {
    let api = Api::start().await;
    FILE.parse::<Definitions>().unwrap().apply(&api.books).await.unwrap();
    let limits = api.get("/v1/limits").await.json();
    "".parse::<Definitions>().unwrap().apply(&api.books).await.unwrap();
    assert_eq!(api.get("/v1/limits").await.json(), limits);
}
