//! Several processes that share one set of books.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Api, KEY, NOW};

fn check(id: &str, tokens: u64) -> Value {
    json!({
        "id": id, "customerId": "acct_42", "eventType": "llm.completion",
        "values": { "tokens": tokens }, "holdSeconds": 30,
    })
}

fn settlement(id: &str, tokens: u64) -> Value {
    json!({ "settlements": [{
        "id": id, "customerId": "acct_42", "at": NOW, "eventType": "llm.completion",
        "values": { "tokens": tokens },
    }] })
}

fn hold(id: &str) -> Value {
    json!({ "holds": [{ "id": id, "customerId": "acct_42" }] })
}

async fn standing(api: &Api) -> (Value, usize) {
    let answer = api.post("/v1/limits/check", json!({ "customerId": "acct_42" })).await.json();
    (answer["limits"][0]["used"].clone(), api.books.open_holds().await.unwrap())
}

#[tokio::test]
async fn a_check_holds_its_estimate_and_a_settlement_records_what_was_used() {
    let api = Api::start().await;
    let answer = api.post("/v1/x/check", check("r-1", 600)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let expected = json!({
        "id": "r-1", "allowed": true, "at": NOW, "held": true, "settled": false, "retryAfter": null,
        "reason": null, "balance": null,
        "limits": [{
            "id": "daily", "name": "Daily tokens", "meterId": "tokens", "period": "day",
            "limit": 1000, "used": 0, "held": 600, "remaining": 400, "exceeded": false,
            "verdict": "within", "complete": true, "reset": 1772409600, "private": false,
            "window": { "start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z" },
        }],
    });
    assert_eq!(answer.json(), expected);

    let denied = api.post("/v1/x/check", check("r-2", 500)).await.json();
    assert_eq!((&denied["allowed"], &denied["held"]), (&json!(false), &json!(false)));
    assert_eq!((&denied["reason"], &denied["retryAfter"]), (&json!("limit_exceeded"), &json!(1)));

    let settled = api.post("/v1/x/settle", settlement("r-1", 700)).await.json();
    assert_eq!(settled, json!({ "results": [{ "id": "r-1", "done": true }] }));
    assert_eq!(standing(&api).await, (json!(700), 0));
}

#[tokio::test]
async fn each_step_can_be_repeated_under_its_id_and_changes_nothing_more() {
    let api = Api::start().await;
    for _ in 0..3 {
        let answer = api.post("/v1/x/check", check("r-1", 600)).await.json();
        assert_eq!((&answer["allowed"], &answer["held"]), (&json!(true), &json!(true)), "{answer}");
        assert_eq!(answer["limits"][0]["held"], 600);
        assert_eq!(answer["limits"][0]["exceeded"], false);
    }
    for _ in 0..3 {
        api.post("/v1/x/settle", settlement("r-1", 100)).await;
        assert_eq!(standing(&api).await, (json!(100), 0));
    }
    let again = api.post("/v1/x/check", check("r-1", 600)).await.json();
    assert_eq!(again["allowed"], true);
    assert_eq!((&again["held"], &again["settled"]), (&json!(false), &json!(true)));
    api.post("/v1/x/release", hold("r-1")).await;
    assert_eq!(standing(&api).await, (json!(100), 0));

    api.post("/v1/x/check", check("r-2", 600)).await;
    for _ in 0..2 {
        let answer = api.post("/v1/x/release", hold("r-2")).await.json();
        assert_eq!(answer, json!({ "results": [{ "id": "r-2", "done": true }] }));
        assert_eq!(standing(&api).await, (json!(100), 0));
    }
}

#[tokio::test]
async fn a_release_that_overtakes_its_check_keeps_it_from_holding() {
    let api = Api::start().await;
    api.post("/v1/x/release", hold("r-1")).await;
    let answer = api.post("/v1/x/check", check("r-1", 600)).await;
    assert_eq!(answer.error(), (409, "hold_released".into()));
    assert_eq!(standing(&api).await, (json!(0), 0));
}

#[tokio::test]
async fn a_hold_lives_as_long_as_it_is_renewed_and_is_settled_after_its_end() {
    let api = Api::start().await;
    api.post("/v1/x/check", check("r-1", 600)).await;
    let renewed = |live: bool| json!({ "results": [{ "id": "r-1", "live": live }] });
    for _ in 0..3 {
        api.clock.advance(Duration::from_secs(25));
        let mut body = hold("r-1");
        body["holdSeconds"] = json!(30);
        assert_eq!(api.post("/v1/x/renew", body).await.json(), renewed(true));
    }
    api.clock.advance(Duration::from_secs(31));
    assert_eq!(api.post("/v1/x/renew", hold("r-1")).await.json(), renewed(false));
    assert_eq!(standing(&api).await, (json!(0), 0));
    for _ in 0..2 {
        api.post("/v1/x/settle", settlement("r-1", 50)).await;
        assert_eq!(standing(&api).await, (json!(50), 0));
    }
}

#[tokio::test]
async fn a_settlement_from_before_the_server_started_is_recorded_once() {
    let api = Api::start().await;
    let mut early = settlement("r-0", 70);
    early["settlements"][0]["at"] = json!("2026-03-01T11:59:59Z");
    for _ in 0..2 {
        api.post("/v1/x/settle", early.clone()).await;
        assert_eq!(standing(&api).await, (json!(70), 0));
    }
}

#[tokio::test]
async fn a_charge_is_held_and_taken_also_below_the_minimum() {
    let api = Api::start().await;
    let new = json!({ "customerId": "acct_42", "name": "credits", "initialBalance": 100 });
    let id = api.made("/v1/balances", new).await["id"].as_str().unwrap().to_owned();
    let mut asked = check("r-1", 10);
    asked["charge"] = json!({ "balance": "credits", "amount": 60.5 });
    let answer = api.post("/v1/x/check", asked.clone()).await.json();
    let balance = json!({
        "name": "credits", "sufficient": true, "verdict": "within", "unit": "credits",
        "currentBalance": 100, "minimumBalance": 0, "held": 60.5, "availableBalance": 39.5,
    });
    assert_eq!(answer["balance"], balance);
    asked["id"] = json!("r-2");
    let denied = api.post("/v1/x/check", asked.clone()).await.json();
    assert_eq!((&denied["allowed"], &denied["reason"]), (&json!(false), &json!("balance_short")));
    asked["charge"]["balance"] = json!("none");
    let denied = api.post("/v1/x/check", asked).await.json();
    assert_eq!(denied["reason"], "no_balance");

    let mut used = settlement("r-1", 10);
    used["settlements"][0]["charge"] = json!({ "balance": "credits", "amount": 120.25 });
    for _ in 0..2 {
        api.post("/v1/x/settle", used.clone()).await;
        let balance = api.get(&format!("/v1/balances/{id}")).await.json();
        assert_eq!(balance["currentBalance"], -20.25, "an overrun is debt");
    }
}

#[tokio::test]
async fn fifty_checks_at_once_hold_exactly_what_the_limit_allows() {
    let api = Api::start().await;
    let ids: Vec<_> = (0..50).map(|at| format!("r-{at}")).collect();
    let calls = ids.iter().map(|id| api.post("/v1/x/check", check(id, 100)));
    let answers = futures_util::future::join_all(calls).await;
    let allowed = answers.iter().filter(|answer| answer.json()["allowed"] == true).count();
    assert_eq!((allowed, api.books.open_holds().await.unwrap()), (10, 10));
}

#[tokio::test]
async fn a_caller_that_goes_away_finds_the_answer_when_it_asks_again() {
    use tokio::io::AsyncWriteExt;

    let api = Api::start().await;
    let body = check("r-1", 600).to_string();
    let mut stream = tokio::net::TcpStream::connect(api.address()).await.unwrap();
    let request = format!(
        "POST /v1/x/check HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    drop(stream);
    let answer = api.post("/v1/x/check", check("r-1", 600)).await.json();
    assert_eq!(answer["allowed"], true);
    assert_eq!(api.books.open_holds().await.unwrap(), 1);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_holds_nothing() {
    let api = Api::start().await;
    for (field, value) in [
        ("id", json!("")),
        ("customerId", json!("")),
        ("eventType", json!("")),
        ("values", json!({ "tokens": -1 })),
        ("values", json!({ "tokens": "1" })),
        ("holdSeconds", json!(0)),
        ("holdSeconds", json!(86_401)),
        ("charge", json!({ "balance": "credits", "amount": -1 })),
    ] {
        let mut body = check("r-1", 1);
        body[field] = value;
        let answer = api.post("/v1/x/check", body.clone()).await;
        assert_eq!(answer.error(), (400, "invalid_field_value".into()), "{body}");
    }
    let mut ahead = settlement("r-1", 1);
    ahead["settlements"][0]["at"] = json!("2026-03-03T00:00:00Z");
    let answer = api.post("/v1/x/settle", ahead).await.json();
    let result = &answer["results"][0];
    assert_eq!(
        (&result["done"], &result["error"]["code"]),
        (&json!(false), &json!("invalid_field_value"))
    );
    let many = json!({ "holds": vec![json!({ "id": "r", "customerId": "c" }); 1_001] });
    for path in ["/v1/x/release", "/v1/x/renew"] {
        let answer = api.post(path, many.clone()).await;
        assert_eq!(answer.error(), (400, "invalid_field_value".into()), "{path}");
    }
    assert_eq!(standing(&api).await, (json!(0), 0));
}

/// Its original time included, although the clock went on.
#[tokio::test]
async fn a_repeated_check_is_answered_as_the_first() {
    let api = Api::start().await;
    let first = api.post("/v1/x/check", check("r-1", 600)).await.text;
    api.clock.advance(Duration::from_secs(5));
    api.record("acct_42", 100).await;
    assert_eq!(api.post("/v1/x/check", check("r-1", 600)).await.text, first);
}

/// Two requests of one id, told apart by their numbers: the second is told that it is running, and
/// letting go of the second leaves the first alone.
#[tokio::test]
async fn requests_of_one_id_are_told_apart_by_their_numbers() {
    let api = Api::start().await;
    let numbered = |attempt: u64| {
        let mut body = check("r-1", 600);
        body["attempt"] = json!(attempt);
        body
    };
    let first = api.post("/v1/x/check", numbered(7)).await;
    assert_eq!(first.json()["held"], true);
    assert_eq!(api.post("/v1/x/check", numbered(7)).await.text, first.text);
    assert_eq!(api.post("/v1/x/check", numbered(8)).await.error(), (409, "conflict".into()));
    let mut second = hold("r-1");
    second["holds"][0]["attempt"] = json!(8);
    api.post("/v1/x/release", second).await;
    assert_eq!(standing(&api).await, (json!(0), 1));
    assert_eq!(api.post("/v1/x/check", numbered(8)).await.error(), (409, "conflict".into()));
}

#[tokio::test]
async fn a_check_that_arrives_again_after_its_release_places_nothing() {
    let api = Api::start().await;
    api.post("/v1/x/check", check("r-1", 600)).await;
    api.post("/v1/x/release", hold("r-1")).await;
    let again = api.post("/v1/x/check", check("r-1", 600)).await;
    assert_eq!(again.error(), (409, "hold_released".into()));
    assert_eq!(standing(&api).await, (json!(0), 0));
}

fn marked(id: &str, sequence: u64, previous: Option<u64>) -> Value {
    let mut one = settlement(id, 10)["settlements"][0].clone();
    let producer = "0199aaaa-0000-7000-8000-000000000001";
    one["mark"] = json!({ "producer": producer, "sequence": sequence, "previous": previous });
    one
}

/// Above its mark it counts without a hold, at or below it is a repeat, and one whose predecessor is
/// not known is told so, with all of its customer after it.
#[tokio::test]
async fn what_comes_from_a_queue_goes_by_its_marks() {
    let api = Api::start().await;
    let deliver = async |settlements: Vec<Value>| {
        let answer = api.post("/v1/x/settle", json!({ "settlements": settlements })).await.json();
        answer["results"].as_array().unwrap().clone()
    };
    let done = |id: &str| json!({ "id": id, "done": true });
    let behind = |id: &str| json!({ "id": id, "done": false, "behind": true });
    assert_eq!(
        deliver(vec![marked("r-1", 3, None), marked("r-2", 5, Some(3))]).await,
        [done("r-1"), done("r-2")]
    );
    assert_eq!(standing(&api).await.0, json!(20));
    assert_eq!(deliver(vec![marked("r-9", 4, None)]).await, [done("r-9")], "a repeat by its place");
    assert_eq!(standing(&api).await.0, json!(20));
    let late = vec![marked("r-4", 9, Some(8)), marked("r-5", 10, None)];
    assert_eq!(deliver(late).await, [behind("r-4"), behind("r-5")]);
    assert_eq!(standing(&api).await.0, json!(20));
}

#[tokio::test]
async fn of_many_settlements_one_that_makes_no_sense_costs_the_others_nothing() {
    let api = Api::start().await;
    let one = |id: &str| settlement(id, 10)["settlements"][0].clone();
    for id in ["r-1", "r-2", "r-3"] {
        api.post("/v1/x/check", check(id, 10)).await;
    }
    let mut wrong = one("r-2");
    wrong["charge"] = json!({ "balance": "credits" });
    let body = json!({ "settlements": [one("r-1"), wrong, one("r-3")] });
    let answer = api.post("/v1/x/settle", body).await.json();
    let done: Vec<_> =
        answer["results"].as_array().unwrap().iter().map(|one| &one["done"]).collect();
    assert_eq!(done, [true, false, true]);
    assert_eq!(answer["results"][1]["error"]["code"], "missing_required_field");
    assert_eq!(standing(&api).await, (json!(20), 1));
    for mark in [
        json!({ "producer": "x", "sequence": 1 }),
        json!({
            "producer": "0199aaaa-0000-7000-8000-000000000001", "sequence": 0
        }),
    ] {
        let mut wrong = one("r-2");
        wrong["mark"] = mark;
        let answer = api.post("/v1/x/settle", json!({ "settlements": [wrong] })).await.json();
        assert_eq!(answer["results"][0]["error"]["code"], "invalid_field_value");
    }
}

#[tokio::test]
async fn a_repeated_check_whose_hold_has_ended_is_not_told_that_it_holds() {
    let api = Api::start().await;
    api.post("/v1/x/check", check("r-1", 600)).await;
    api.clock.advance(Duration::from_secs(31));
    let other = json!({
        "id": "r-2", "customerId": "acct_42", "eventType": "llm.completion",
        "values": { "tokens": 900 }, "holdSeconds": 300,
    });
    assert_eq!(api.post("/v1/x/check", other).await.json()["held"], true);
    let again = api.post("/v1/x/check", check("r-1", 600)).await;
    assert_ne!(again.json()["held"], true, "900 of 1,000 are held by another: {}", again.text);
    assert_eq!(standing(&api).await, (json!(0), 1));
}

#[tokio::test]
async fn a_check_that_is_repeated_renews_its_hold() {
    let api = Api::start().await;
    for _ in 0..3 {
        let answer = api.post("/v1/x/check", check("r-1", 600)).await.json();
        assert_eq!((&answer["held"], &answer["limits"][0]["held"]), (&json!(true), &json!(600)));
        api.clock.advance(Duration::from_secs(20));
    }
    assert_eq!(standing(&api).await, (json!(0), 1));
}
