//! Webhooks are not sent to what only this machine or this network reaches.

use std::time::Duration;

use tower_limitry::ErrorKind;
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
        .endpoint(format!("https://localhost.:{port}/"), SECRET)
        .endpoint(format!("https://LOCALHOST:{port}/loud"), SECRET)
        .endpoint(format!("https://example.com@localhost:{port}/"), SECRET)
        .clock(clock.clone())
        .start()
        .unwrap();
    use_up(&alerting(&clock, &webhooks), "acct_42", 80).await;
    webhooks.flush(STUCK).await.unwrap();
    assert_eq!(webhooks.stats().unwrap().waiting, 4, "they failed, and are tried again");
    let connected = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
    assert!(connected.is_err(), "nobody came");
}

#[tokio::test]
async fn an_address_that_only_we_reach_is_refused_however_it_is_written() {
    let folder = Folder::new();
    for host in [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "017700000001",
        "%31%32%37.0.0.1",
        "\u{2460}\u{2461}\u{2466}.0.0.1",
        "0",
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "2852039166",
        "192.168.1.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:a9fe:a9fe]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::10.0.0.1]",
        "[64:ff9b:1::8.8.8.8]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "user:password@127.0.0.1",
        "8.8.8.8@127.0.0.1",
    ] {
        let builder = Webhooks::open(folder.file()).endpoint(format!("https://{host}/"), SECRET);
        let error = builder.start().map(drop).expect_err(host);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{host}");
    }
}
