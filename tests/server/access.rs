//! Who is let in, and what strangers may send.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_limitry::server::ApiKeys;
use tower_limitry::test_util::{Answer, Scripted};
use tower_limitry::{Books, ErrorKind};

use crate::support::{Api, KEY};

#[tokio::test]
async fn every_route_asks_for_a_key() {
    let api = Api::start_with(|server| server.revoked_key("old")).await;
    let wrong = format!("Bearer {KEY}x");
    let basic = format!("Basic {KEY}");
    for (authorization, code) in [
        (None, "missing_api_key"),
        (Some(""), "invalid_api_key"),
        (Some("Bearer "), "invalid_api_key"),
        (Some(&*wrong), "invalid_api_key"),
        (Some(&*basic), "invalid_api_key"),
        (Some("Bearer old"), "expired_api_key"),
    ] {
        let headers: Vec<_> =
            authorization.map(|value| ("authorization", value)).into_iter().collect();
        for (method, path) in [
            ("POST", "/v1/limits/check"),
            ("GET", "/v1/limits"),
            ("POST", "/v1/events/record"),
            ("DELETE", "/v1/limits/daily"),
            ("POST", "/v1/x/check"),
            ("GET", "/v1/none"),
            ("GET", "/"),
            ("GET", "//v1/limits"),
            ("GET", "/healthz/"),
        ] {
            let answer = api.send(method, path, &headers, "{}").await;
            assert_eq!(answer.error(), (401, code.into()), "{method} {path}");
            assert!(!answer.text.contains(KEY), "{}", answer.text);
        }
    }
    assert_eq!(api.get("/v1/limits").await.json()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_is_for_one_project() {
    let api = Api::start().await;
    let bearer = format!("bearer {KEY}");
    let headers = |project| [("authorization", &*bearer), ("x-project", project)];
    assert_eq!(api.send("GET", "/v1/limits", &headers("proj_1"), "").await.status, 200);
    let answer = api.send("GET", "/v1/limits", &headers("proj_2"), "").await;
    assert_eq!(answer.error(), (403, "insufficient_permissions".into()));
}

#[tokio::test]
async fn health_asks_for_no_key() {
    let api = Api::start().await;
    for path in ["/healthz", "/readyz"] {
        let answer = api.send("GET", path, &[], "").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_body_that_is_no_object_is_an_invalid_request() {
    let api = Api::start().await;
    let bearer = format!("Bearer {KEY}");
    let deep = format!("{{\"dimensions\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for body in ["{", " ", "\n", "[]", "5", "nonsense", "\u{0}", "{\"customerId\":\"a\"} {}", &deep]
    {
        let headers = [("authorization", &*bearer)];
        let answer = api.send("POST", "/v1/limits/check", &headers, body.to_owned()).await;
        assert_eq!(answer.status, 400);
        let (_, code) = answer.error();
        assert!(code == "invalid_request" || code == "invalid_field_value", "{code}");
    }
    let not_text = bytes::Bytes::from_static(b"{\"customerId\":\"\xff\"}");
    let answer =
        api.send("POST", "/v1/limits/check", &[("authorization", &bearer)], not_text).await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_before_it_is_read() {
    let api = Api::start_with(|server| server.most_body(1_000)).await;
    let event = |filler: usize| {
        json!({
            "customerId": "acct_42", "eventType": "chat", "properties": { "p": "x".repeat(filler) },
        })
    };
    assert_eq!(api.post("/v1/events/record", event(900)).await.status, 200);
    let answer = api.post("/v1/events/record", event(1_000)).await;
    assert_eq!(answer.error(), (413, "payload_too_large".into()));

    // Told to be huge, and nothing of it is sent.
    let mut stream = TcpStream::connect(api.address()).await.unwrap();
    let head = format!(
        "POST /v1/events/record HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\
         content-length: 100000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn a_slow_sender_is_given_up_and_the_next_request_served() {
    let api = Api::start_with(|server| server.timeout(Duration::from_millis(50))).await;
    let mut stream = TcpStream::connect(api.address()).await.unwrap();
    let head = format!(
        "POST /v1/events/record HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\
         content-length: 10\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
    assert_eq!(api.get("/v1/limits").await.status, 200);
}

#[tokio::test]
async fn bodies_that_arrive_share_a_bounded_room() {
    let api = Api::start_with(|server| server.most_body(1_000)).await;
    let mut slow = Vec::new();
    for _ in 0..65 {
        let mut stream = TcpStream::connect(api.address()).await.unwrap();
        let head = format!(
            "POST /v1/limits/check HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\
             content-length: 1000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[b' '; 999]).await.unwrap();
        slow.push(stream);
    }
    // One of those that came after the room was full hears of it.
    let body = json!({ "customerId": "a".repeat(100) });
    let full = async {
        loop {
            let answer = api.post("/v1/limits/check", body.clone()).await;
            if answer.status != 200 {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), full).await.expect("there is no end");
    assert_eq!(answer.error(), (503, "unavailable".into()));
    assert_eq!(answer.headers["retry-after"], "1");
    drop(slow);
    let free = async {
        while api.post("/v1/limits/check", body.clone()).await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), free).await.expect("there is room again");
}

#[tokio::test]
async fn what_is_no_route_or_no_method_is_told_in_the_envelope() {
    let api = Api::start().await;
    for path in ["/v1/none", "/v1/limits/a/b", "/v1", "/", "/v1/../etc/passwd", "/v1//limits"] {
        assert_eq!(api.get(path).await.error(), (404, "route_not_found".into()), "{path}");
    }
    let answer = api.ask("PATCH", "/v1/limits/daily", Value::Null).await;
    assert_eq!(answer.error(), (405, "method_not_allowed".into()));
    for id in ["%00", "%2e%2e%2f", "%ff", &"x".repeat(5_000)] {
        let answer = api.get(&format!("/v1/limits/{id}")).await;
        assert!([400, 404].contains(&answer.error().0), "{id}");
    }
}

#[tokio::test]
async fn requests_have_ids() {
    let api = Api::start().await;
    let made = api.get("/v1/limits").await;
    assert!(made.headers["x-request-id"].to_str().unwrap().starts_with("req_"));
    let given = api.send("GET", "/v1/limits", &[("x-request-id", "trace-7")], "").await;
    assert_eq!(given.headers["x-request-id"], "trace-7", "also on refusals");
    assert_eq!(given.status, 401);
    let unsound = api.send("GET", "/healthz", &[("x-request-id", "with space")], "").await;
    assert!(unsound.headers["x-request-id"].to_str().unwrap().starts_with("req_"));
}

#[tokio::test]
async fn an_error_tells_the_id_of_its_request() {
    let api = Api::start().await;
    let answer = api.get("/v1/limits/none").await;
    let id = answer.headers["x-request-id"].to_str().unwrap();
    assert_eq!(answer.json()["error"]["requestId"], id);
    for (path, status) in [("/v1/limits", 401), ("/none", 401)] {
        let answer = api.send("GET", path, &[("x-request-id", "trace-7")], "").await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.json()["error"]["requestId"], "trace-7");
    }
}

#[tokio::test]
async fn keys_change_while_the_server_runs() {
    let keys = ApiKeys::new();
    keys.replace(["march", KEY]);
    let api = Api::start_with(|server| server.keys(keys.clone())).await;
    let status = async |key: &str| {
        let bearer = format!("Bearer {key}");
        let answer = api.send("GET", "/v1/limits", &[("authorization", &bearer)], "").await;
        match answer.status {
            200 => "let in".to_owned(),
            _ => answer.error().1,
        }
    };
    assert_eq!(status("march").await, "let in");
    assert_eq!(status("april").await, "invalid_api_key");
    keys.replace(["april", KEY]);
    assert_eq!(status("march").await, "expired_api_key");
    assert_eq!(status("april").await, "let in");
    assert_eq!(status(KEY).await, "let in");
    keys.replace(["march"]);
    assert_eq!(status("march").await, "let in", "one that is given again is a key again");
    assert_eq!(status("april").await, "expired_api_key");
    assert!(!format!("{keys:?}").contains("march"));
}

#[tokio::test]
async fn a_key_that_calls_too_often_waits() {
    let api = Api::start_with(|server| server.key("other").most_calls(3, 5)).await;
    let other = [("authorization", "Bearer other")];
    for _ in 0..3 {
        assert_eq!(api.get("/v1/limits").await.status, 200);
    }
    let answer = api.get("/v1/limits").await;
    assert_eq!(answer.error(), (429, "rate_limit_exceeded".into()));
    assert_eq!(answer.headers["retry-after"], "60");
    assert_eq!(api.send("GET", "/v1/limits", &other, "").await.status, 200, "each key for itself");
    assert_eq!(api.send("GET", "/healthz", &[], "").await.status, 200);

    api.clock.advance(Duration::from_secs(59));
    assert_eq!(api.get("/v1/limits").await.headers["retry-after"], "1");
    api.clock.advance(Duration::from_secs(1));
    for _ in 0..2 {
        assert_eq!(api.get("/v1/limits").await.status, 200);
    }
    let answer = api.get("/v1/limits").await;
    assert_eq!(answer.status, 429, "five a day");
    assert_eq!(answer.headers["retry-after"], (12 * 3_600 - 60).to_string());
    assert_eq!(api.send("GET", "/v1/none", &[], "").await.status, 401, "strangers use up nothing");
}

#[tokio::test]
async fn books_that_are_closed_are_unavailable_and_no_denial() {
    let api = Api::start().await;
    api.books.shutdown(Duration::from_secs(1)).await.unwrap();
    let check = json!({ "id": "a", "customerId": "acct_42" });
    let answer = api.post("/v1/x/check", check).await;
    assert_eq!(answer.error(), (503, "unavailable".into()));
    assert_eq!(answer.headers["retry-after"], "1");
}

#[tokio::test]
async fn a_backend_that_hangs_or_fails_is_told_from_one_that_refuses() {
    let scripted = Scripted::new();
    let api = Api::over(Books::new(scripted.clone()).erased(), |server| {
        server.timeout(Duration::from_millis(50))
    });
    let api = api.await;
    let check = |id: &str| json!({ "id": id, "customerId": "acct_42" });
    for (scripted_answer, expected) in [
        (Answer::Fail(ErrorKind::Unavailable), (503, "unavailable")),
        (Answer::Fail(ErrorKind::TimedOut), (504, "timeout")),
        (Answer::Hang, (504, "timeout")),
    ] {
        scripted.on_check(scripted_answer);
        let answer = api.post("/v1/x/check", check("r-1")).await;
        assert_eq!(answer.error(), (expected.0, expected.1.to_owned()));
    }
    scripted.on_check(Answer::Obey);
    scripted.on_finish(Answer::Fail(ErrorKind::Unavailable));
    let settlement = json!({ "id": "r-2", "customerId": "acct_42", "at": "2026-03-01T12:00:00Z" });
    let answer = api.post("/v1/x/settle", json!({ "settlements": [settlement] })).await.json();
    assert_eq!(answer["results"][0]["done"], false);
    assert_eq!(answer["results"][0]["error"]["code"], "unavailable");
    scripted.resume();
}

#[tokio::test]
async fn metrics_are_what_the_program_renders() {
    let api = Api::start().await;
    assert_eq!(api.send("GET", "/metrics", &[], "").await.error(), (404, "route_not_found".into()));
    let api = Api::start_with(|server| server.metrics(|| "answers 42\n".into())).await;
    let answer = api.send("GET", "/metrics", &[], "").await;
    assert_eq!((answer.status, &*answer.text), (200, "answers 42\n"));
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
}

#[tokio::test]
async fn the_document_names_every_route_and_only_forms_that_it_defines() {
    let api = Api::start().await;
    let document = api.send("GET", "/openapi.json", &[], "").await;
    assert_eq!(document.status, 200);
    let json = document.json();
    assert_eq!(json["openapi"], "3.1.0");
    let paths = json["paths"].as_object().unwrap();
    assert_eq!(paths.values().map(|path| path.as_object().unwrap().len()).sum::<usize>(), 59);
    for (path, operations) in paths {
        for method in operations.as_object().unwrap().keys() {
            let path = path.replace("{id}", "none");
            let answer = api.ask(&method.to_uppercase(), &path, Value::Null).await;
            assert_ne!(answer.status, 405, "{method} {path}");
            if answer.status == 404 {
                assert_ne!(answer.error().1, "route_not_found", "{method} {path}");
            }
        }
    }
    for reference in document.text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(json["components"]["schemas"][name].is_object(), "{name}");
    }
    let new_limit = &json["components"]["schemas"]["NewLimit"];
    assert_eq!(new_limit["required"], json!(["name", "meterId", "limitValue", "period"]));
}

#[tokio::test]
async fn headers_that_are_given_twice_are_refused() {
    let api = Api::start().await;
    let bearer = format!("Bearer {KEY}");
    for (one, other) in [(&*bearer, "Bearer other"), ("Bearer other", &bearer), (&bearer, &bearer)]
    {
        let headers = [("authorization", one), ("authorization", other)];
        let answer = api.send("GET", "/v1/project", &headers, "").await;
        assert_eq!(answer.error(), (401, "invalid_api_key".into()));
    }
    let headers = [("authorization", &*bearer), ("x-project", "proj_1"), ("x-project", "other")];
    let answer = api.send("GET", "/v1/project", &headers, "").await;
    assert_eq!(answer.error(), (403, "insufficient_permissions".into()));
    let headers =
        [("authorization", &*bearer), ("idempotency-key", "one"), ("idempotency-key", "other")];
    let event = r#"{"customerId":"acct_42","eventType":"chat"}"#;
    let answer = api.send("POST", "/v1/events/record", &headers, event).await;
    assert_eq!(answer.error(), (400, "invalid_field_value".into()));
    assert_eq!(api.get("/v1/events").await.json()["data"], serde_json::json!([]));
}

#[tokio::test]
async fn a_key_is_known_however_its_scheme_is_written_and_only_whole() {
    let api = Api::start().await;
    for known in ["Bearer", "bearer", "BEARER"] {
        let header = format!("{known} {KEY}");
        let answer = api.send("GET", "/v1/project", &[("authorization", &header)], "").await;
        assert_eq!(answer.status, 200, "{header}");
    }
    let shorter = &KEY[..KEY.len() - 1];
    for wrong in [
        format!("Bearer {shorter}"),
        format!("Bearer {KEY}x"),
        format!("Bearer {}", KEY.to_uppercase()),
        format!("Bearer {KEY} {KEY}"),
        format!("Bearer {KEY},"),
        format!("Bearer{KEY}"),
        format!("Basic {KEY}"),
        KEY.to_owned(),
        "Bearer".to_owned(),
    ] {
        let answer = api.send("GET", "/v1/project", &[("authorization", &wrong)], "").await;
        assert_eq!(answer.error(), (401, "invalid_api_key".into()), "{wrong}");
    }
}

#[tokio::test]
async fn a_connection_whose_request_was_not_read_to_its_end_is_told_to_close() {
    let api = Api::start().await;
    for (route, key, status, closes) in [
        ("/v1/limits/check", "wrong", 401, true),
        ("/v1/nowhere", KEY, 404, true),
        ("/v1/project", KEY, 405, true),
        ("/v1/limits/check", KEY, 200, false),
    ] {
        let mut stream = TcpStream::connect(api.address()).await.unwrap();
        let head = format!(
            "POST {route} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 2\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        if !closes {
            stream.write_all(b"{}").await.unwrap();
        }
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).to_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{answer}");
        assert_eq!(answer.contains("\r\nconnection: close\r\n"), closes, "{answer}");
    }
}
