//! Webhooks are not sent to what only this machine or this network reaches.

use std::time::Duration;

use tower_limitry::engine::ManualClock;
use tower_limitry::webhooks::Webhooks;

use crate::support::*;

#[tokio::test]
async fn a_host_that_leads_to_this_machine_is_never_connected_to() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // A name passes when it is given, as where it leads may change; it is looked at when it is used.
    let webhooks = Webhooks::open(folder.file())
        .endpoint(format!("https://localhost:{port}/"), SECRET)
        .clock(clock.clone())
        .start()
        .unwrap();
    use_up(&alerting(&clock, &webhooks), "acct_42", 80).await;
    webhooks.flush(STUCK).await.unwrap();
    assert_eq!(webhooks.stats().unwrap().waiting, 1, "it failed, and is tried again");
    let connected = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
    assert!(connected.is_err(), "nobody came");
}
