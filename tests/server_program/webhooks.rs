//! The server tells of crossings, whatever becomes of it in between.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::file::fresh;
use crate::support::*;

/// Ids by crossing.
type Told = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// An endpoint, and whether it takes what it hears.
fn endpoint() -> (String, Told, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (told, takes) = (Told::default(), Arc::new(AtomicBool::new(false)));
    let (hears, answers) = (Arc::clone(&told), Arc::clone(&takes));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut heard = Vec::new();
            let mut some = [0; 4096];
            // A body that is no whole JSON is not yet at its end.
            let message = loop {
                match stream.read(&mut some) {
                    Ok(count @ 1..) => heard.extend_from_slice(&some[..count]),
                    _ => break None,
                }
                let text = String::from_utf8_lossy(&heard).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                if let Ok(body) = serde_json::from_str::<Value>(body) {
                    let id = head.lines().find_map(|line| line.strip_prefix("webhook-id: "));
                    break Some((id.unwrap().to_owned(), body));
                }
            };
            let Some((id, body)) = message else { continue };
            let data = &body["data"];
            let name = format!("{} {}", data["customerId"].as_str().unwrap(), data["threshold"]);
            hears.lock().unwrap().entry(name).or_default().push(id);
            let status = if answers.load(Ordering::Relaxed) { "204 Taken" } else { "500 Not now" };
            let answer =
                format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            let _gone = stream.write_all(answer.as_bytes());
        }
    });
    (url, told, takes)
}

#[test]
fn a_killed_server_tells_after_its_restart_under_the_same_id() {
    let (url, told, takes) = endpoint();
    let (books, file) = (format!("sqlite:{}", fresh().display()), fresh());
    let start = || {
        server(&[
            ("LIMITRY_BACKEND", &books),
            ("LIMITRY_WEBHOOK_URL", &url),
            ("LIMITRY_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
            ("LIMITRY_WEBHOOK_FILE", file.to_str().unwrap()),
            ("LIMITRY_WEBHOOK_DANGER_ALLOW_HTTP_AND_PRIVATE_ADDRESSES", "1"),
        ])
    };
    let mut running = start();
    let meter = r#"{"name":"Tokens","aggregation":"sum","field":"values.tokens"}"#;
    let meter = ask(&running, "POST", "/v1/meters", meter).json()["id"].clone();
    let limit = serde_json::json!({
        "name": "Monthly tokens", "meterId": meter, "limitValue": 100, "period": "month",
        "alertThresholds": [75, 100],
    });
    assert_eq!(ask(&running, "POST", "/v1/limits", &limit.to_string()).status, 201);
    let rounds = 5;
    for round in 0..rounds {
        let event = format!(
            r#"{{"customerId":"acct_{round}","eventType":"chat","values":{{"tokens":120}}}}"#
        );
        assert_eq!(ask(&running, "POST", "/v1/events/record", &event).status, 200);
        running.kill();
        running = start();
    }
    takes.store(true, Ordering::Relaxed);
    // Attempts of before may have failed; a restart does not make them come sooner.
    until(|| told.lock().unwrap().len() == 2 * rounds);
    assert!(running.stop(), "it stops in order, whatever still waits");
    for (crossing, ids) in &*told.lock().unwrap() {
        assert!(ids.iter().all(|id| *id == ids[0]), "{crossing} under {ids:?}");
    }
}
