//! What endpoints are told.

use serde_json::json;
use tower_limitry::engine::ManualClock;
use tower_limitry::{Engine, Event, Limit, Meter, Usage};

use crate::support::*;

#[tokio::test]
async fn a_crossing_is_told_as_limitry_tells_it_and_signed() {
    let (folder, clock, endpoint) = (Folder::new(), ManualClock::at(NOON), Endpoint::start().await);
    let webhooks = hooks(&folder, &clock, &[&endpoint]).start().unwrap();
    let books = alerting(&clock, &webhooks);
    use_up(&books, "acct_42", 76).await;
    webhooks.flush(STUCK).await.unwrap();
    let [heard] = &endpoint.heard()[..] else { panic!("one crossing, one message") };
    assert_eq!(
        heard.json(),
        json!({
            "event": "limit.threshold_reached",
            "timestamp": NOON,
            "data": {
                "customerId": "acct_42", "limitId": "daily", "limitName": "Daily tokens",
                "threshold": 75, "limit": 100, "currentUsage": 76, "percentage": 76,
                "remaining": 24, "period": "day",
                "windowStart": "2026-03-01T00:00:00Z", "windowEnd": "2026-03-02T00:00:00Z",
            },
        })
    );
    assert_eq!(heard.header("content-type"), "application/json");
    assert_eq!(heard.timestamp(), 1_772_366_400);
    assert!(heard.id().starts_with("msg_"));
    assert!(heard.is_signed_by(SECRET));
}

#[tokio::test]
async fn the_whole_limit_is_exceeded_and_what_never_ends_has_no_bounds() {
    let (folder, clock, endpoint) = (Folder::new(), ManualClock::at(NOON), Endpoint::start().await);
    let webhooks = hooks(&folder, &clock, &[&endpoint]).start().unwrap();
    let books = Engine::builder()
        .meter(Meter::sum("cost", "cost"))
        .limit(Limit::all_time("ever", "cost", 3).alert_at([50, 100]))
        .clock(clock.clone())
        .on_alert(webhooks.hook())
        .build()
        .unwrap();
    let dear = Usage::of("cost", "3.1".parse::<tower_limitry::Amount>().unwrap());
    books.record(Event::new("acct_42", "chat", dear)).await.unwrap();
    webhooks.flush(STUCK).await.unwrap();
    let mut told: Vec<_> = endpoint.heard().iter().map(Heard::json).collect();
    told.sort_by_key(|told| told["data"]["threshold"].as_u64());
    let names: Vec<_> = told.iter().map(|told| told["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["limit.threshold_reached", "limit.exceeded"]);
    let data = &told[1]["data"];
    assert_eq!((&data["percentage"], &data["remaining"]), (&json!(103.333333), &json!(0)));
    assert_eq!((&data["windowStart"], &data["windowEnd"]), (&json!(null), &json!(null)));
    assert!(data.as_object().unwrap().contains_key("windowEnd"));
}

#[tokio::test]
async fn every_endpoint_hears_under_one_id_and_by_its_own_secret() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
    let (one, other) = (Endpoint::start().await, Endpoint::start().await);
    let another = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let builder = hooks(&folder, &clock, &[&one]).endpoint(other.url(), another);
    let webhooks = builder.start().unwrap();
    use_up(&alerting(&clock, &webhooks), "acct_42", 80).await;
    webhooks.flush(STUCK).await.unwrap();
    let (one, other) = (one.heard().remove(0), other.heard().remove(0));
    assert_eq!((one.id(), &one.body), (other.id(), &other.body));
    assert!(one.is_signed_by(SECRET) && !one.is_signed_by(another));
    assert!(other.is_signed_by(another) && !other.is_signed_by(SECRET));
}

#[tokio::test]
async fn while_a_secret_is_replaced_both_sign() {
    let (folder, clock, endpoint) = (Folder::new(), ManualClock::at(NOON), Endpoint::start().await);
    let new = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let webhooks = hooks(&folder, &clock, &[])
        .endpoint(endpoint.url(), format!("{new} {SECRET}"))
        .start()
        .unwrap();
    use_up(&alerting(&clock, &webhooks), "acct_42", 80).await;
    webhooks.flush(STUCK).await.unwrap();
    let heard = endpoint.heard().remove(0);
    assert_eq!(heard.header("webhook-signature").split(' ').count(), 2);
    assert!(heard.is_signed_by(new) && heard.is_signed_by(SECRET));
}

#[tokio::test]
async fn each_crossing_has_an_id_of_its_own() {
    let (folder, clock, endpoint) = (Folder::new(), ManualClock::at(NOON), Endpoint::start().await);
    let webhooks = hooks(&folder, &clock, &[&endpoint]).start().unwrap();
    let books = alerting(&clock, &webhooks);
    for _ in 0..2 {
        for customer in ["acct_1", "acct_2"] {
            use_up(&books, customer, 120).await;
        }
        clock.advance(std::time::Duration::from_secs(24 * 3_600));
    }
    webhooks.flush(STUCK).await.unwrap();
    let ids: std::collections::HashSet<_> = endpoint.heard().iter().map(Heard::id).collect();
    assert_eq!(ids.len(), 8, "two customers, two thresholds, two days");
    assert_eq!(endpoint.heard().len(), 8);
}
