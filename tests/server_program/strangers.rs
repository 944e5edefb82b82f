//! Requests that no honest client sends: clear answers, bounded memory, and the next one is served.

use std::iter::{once, repeat_n};

use crate::support::*;

const MIB: usize = 1024 * 1024;

/// What the server may need beyond what it has at rest, whatever is sent.
const MORE: usize = 48 * MIB;

#[test]
fn without_a_key_nobody_is_let_in_and_nothing_is_read() {
    let server = server(&[("LIMITRY_REVOKED_API_KEYS", "old")]);
    let before = most_memory(&server);
    let body = || "x".repeat(MIB);
    for (authorization, code) in [
        (None, "missing_api_key"),
        (Some("Bearer wrong"), "invalid_api_key"),
        (Some("Bearer old"), "expired_api_key"),
        (Some("Basic abc"), "invalid_api_key"),
    ] {
        let headers: Vec<_> =
            authorization.map(|value| ("authorization", value)).into_iter().collect();
        for path in ["/v1/events/record", "/v1/none", "/"] {
            let answer = server.ask_with("POST", path, &headers, "{}");
            assert_eq!(answer.status, 401);
            assert_eq!(answer.json()["error"]["code"], code);
        }
    }
    // A hundred megabytes of a stranger, told beforehand or not.
    let told = "POST /v1/events/record HTTP/1.1\r\nhost: x\r\ncontent-length: 104857600\r\n\r\n";
    let sent = once(told.into()).chain(repeat_n(body().into_bytes(), 100));
    // Closed while it still sends, it may not hear the answer.
    assert!(matches!(send_raw(&server, sent), Some(401) | None));
    let chunk = format!("{MIB:x}\r\n{}\r\n", body());
    let head = "POST /v1/events/record HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let sent = once(head.into()).chain(repeat_n(chunk.into_bytes(), 100));
    assert!(matches!(send_raw(&server, sent), Some(401) | None));
    serves_the_honest(&server);
    let more = most_memory(&server) - before;
    assert!(more < MORE, "{more} bytes more");
}

#[test]
fn a_hundred_megabytes_of_a_key_holder_are_refused_and_not_kept() {
    let server = server(&[]);
    let before = most_memory(&server);
    let auth = format!("authorization: Bearer {KEY}\r\n");
    let told = format!(
        "POST /v1/events/record HTTP/1.1\r\nhost: x\r\n{auth}content-length: 104857600\r\n\r\n"
    );
    assert_eq!(send_raw(&server, once(told.into_bytes())), Some(413), "before any of it is sent");
    let head = format!(
        "POST /v1/events/record HTTP/1.1\r\nhost: x\r\n{auth}transfer-encoding: chunked\r\n\r\n"
    );
    let chunk = format!("{MIB:x}\r\n{}\r\n", " ".repeat(MIB));
    let sent = once(head.into_bytes()).chain(repeat_n(chunk.into_bytes(), 100));
    assert!(matches!(send_raw(&server, sent), Some(413) | None));
    serves_the_honest(&server);
    let more = most_memory(&server) - before;
    assert!(more < MORE, "{more} bytes more");
}

#[test]
fn json_that_is_nested_deeply_brings_nobody_down() {
    let server = server(&[]);
    let before = most_memory(&server);
    let deep = 900_000;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let count = deep / open.len();
        for path in ["/v1/events/record", "/v1/customers", "/v1/limits/check", "/v1/x/settle"] {
            for field in ["properties", "metadata", "dimensions", "unknown", "values"] {
                let body =
                    format!("{{\"{field}\":{}1{}}}", open.repeat(count), close.repeat(count));
                let answer = ask(&server, "POST", path, &body);
                // What nobody reads may be nested as it likes.
                assert!([200, 400].contains(&answer.status), "{path} {field}: {}", answer.body);
            }
        }
    }
    serves_the_honest(&server);
    let more = most_memory(&server) - before;
    assert!(more < MORE, "{more} bytes more");
}

#[test]
fn header_bombs_are_refused() {
    let server = server(&[]);
    let before = most_memory(&server);
    let request = |headers: String| format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    for headers in [
        format!("x-a: {}\r\n", "a".repeat(MIB)),
        "x-a: b\r\n".repeat(10_000),
        format!("{}: b\r\n", "a".repeat(100_000)),
        "a".repeat(MIB),
    ] {
        let status = send_raw(&server, once(request(headers).into_bytes()));
        assert!(matches!(status, Some(400 | 431) | None), "{status:?}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(MIB));
    let status = send_raw(&server, once(long.into_bytes()));
    assert!(matches!(status, Some(414 | 431) | None), "{status:?}");
    serves_the_honest(&server);
    let more = most_memory(&server) - before;
    assert!(more < MORE, "{more} bytes more");
}

#[test]
fn tricks_with_paths_and_lines_are_client_errors() {
    let server = server(&[]);
    for line in [
        "GET /v1/../../etc/passwd HTTP/1.1",
        "GET /v1/limits/..%2f..%2fetc%2fpasswd HTTP/1.1",
        "GET /v1/limits/%00 HTTP/1.1",
        "GET /v1/limits/%ff%fe HTTP/1.1",
        "GET /v1/limits/%zz HTTP/1.1",
        "GET //v1//limits HTTP/1.1",
        "GET /V1/LIMITS HTTP/1.1",
        "GET /v1/limits;a=b HTTP/1.1",
        "GET /v1/limits?limit=1&limit=2 HTTP/1.1",
        "GET /v1/limits?limit=-1 HTTP/1.1",
        "GET /v1/limits?cursor=%ff HTTP/1.1",
        "GET http://example.com/v1/none HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT example.com:443 HTTP/1.1",
        "TRACE /v1/limits HTTP/1.1",
        "GET /v1/limits HTTP/9.9",
        "GET",
        "\u{0}\u{1}\u{2}",
        "GET /v1/limits\u{0} HTTP/1.1",
    ] {
        let request = format!("{line}\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n");
        let status = send_raw(&server, once(request.into_bytes()));
        let is_refused = status.is_none_or(|status| (400..500).contains(&status));
        // A cursor may be any text, and a page after it empty.
        assert!(is_refused || line.contains("cursor"), "{line:?}: {status:?}");
    }
    // Two lengths, or both a length and chunks, are how requests are smuggled past a proxy.
    for lengths in [
        "content-length: 2\r\ncontent-length: 3\r\n",
        "content-length: 2\r\ntransfer-encoding: chunked, identity\r\n",
        "content-length: -1\r\n",
        "content-length: 99999999999999999999999\r\n",
        "transfer-encoding: cow\r\n",
    ] {
        let request = format!(
            "POST /v1/limits/check HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n{lengths}\r\n{{}}"
        );
        let status = send_raw(&server, once(request.into_bytes()));
        assert!(matches!(status, Some(400..500) | None), "{lengths:?}: {status:?}");
    }
    serves_the_honest(&server);
}
