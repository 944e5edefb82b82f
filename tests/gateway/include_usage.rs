//! `INCLUDE_USAGE=1`: streams of OpenAI's dialect are asked for what they used.

use axum::body::Body;

use crate::support::*;

const WITHOUT: [&str; 9] = [
    r#"{"messages":[]}"#,
    r#"{"stream":false,"messages":[]}"#,
    r#"{"stream":null}"#,
    r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
    r#"{"stream":true,"stream_options":{"include_usage":false}}"#,
    r#"{"stream":true,"stream_options":{"include_usage":null}}"#,
    r#"{"stream":true,"stream_options":7}"#,
    r#"[true,{}]"#,
    "no { JSON",
];

const ASKED: [(&str, &str); 6] = [
    (r#"{"stream":true}"#, r#"{"stream_options":{"include_usage":true},"stream":true}"#),
    (
        // To the letter otherwise.
        " {\n  \"temperature\": 1.0, \"seed\": 9007199254740993, \"z\": 1, \"a\": \"{\u{e9}\\u00e9\", \"stream\" : true}\n",
        " {\"stream_options\":{\"include_usage\":true},\n  \"temperature\": 1.0, \"seed\": 9007199254740993, \"z\": 1, \"a\": \"{\u{e9}\\u00e9\", \"stream\" : true}\n",
    ),
    (
        r#"{"stream_options":null,"stream":true}"#,
        r#"{"stream_options":{"include_usage":true},"stream":true}"#,
    ),
    (
        r#"{"stream_options":{ },"stream":true}"#,
        r#"{"stream_options":{"include_usage":true },"stream":true}"#,
    ),
    (
        r#"{"stream":true,"stream_options": {"include_obfuscation":false}}"#,
        r#"{"stream":true,"stream_options": {"include_usage":true,"include_obfuscation":false}}"#,
    ),
    (
        r#"{"o":{"stream_options":{}},"stream":true,"stream_options":{}}"#,
        r#"{"o":{"stream_options":{}},"stream":true,"stream_options":{"include_usage":true}}"#,
    ),
];

/// What the upstream gets of a body, with the length that it was told.
async fn forwarded(gateway: &Gateway, seen: &Seen, path: &str, body: &str) -> String {
    for client in [http1(), http2()] {
        let request = post(gateway.url(path), body.to_owned());
        assert_eq!(read(client.request(request).await.unwrap()).await.0, 200);
    }
    let [one, other] = seen.take().try_into().unwrap();
    assert_eq!(one.body, other.body);
    assert_eq!(one.headers["content-length"], one.body.len().to_string());
    String::from_utf8(one.body.into()).unwrap()
}

#[tokio::test]
async fn a_stream_that_does_not_say_is_asked_and_everything_else_is_left_alone() {
    let (url, seen) = upstream_answering(ten_tokens).await;
    let gateway = Gateway::start(&url, &[("INCLUDE_USAGE", "1")]);
    for path in [CHAT, "/v1/completions", "/openai/deployments/gpt/chat/completions?api-version=1"]
    {
        for (body, asked) in ASKED {
            assert_eq!(forwarded(&gateway, &seen, path, body).await, asked);
            serde_json::from_str::<serde_json::Value>(asked).unwrap();
        }
        for body in WITHOUT {
            assert_eq!(forwarded(&gateway, &seen, path, body).await, body);
        }
    }
    for path in ["/v1/responses", MESSAGES] {
        assert_eq!(forwarded(&gateway, &seen, path, ASKED[0].0).await, ASKED[0].0);
    }
}

#[tokio::test]
async fn unless_told_to_nothing_is_asked() {
    let (url, seen) = upstream_answering(ten_tokens).await;
    let gateway = Gateway::start(&url, &[]);
    assert_eq!(forwarded(&gateway, &seen, CHAT, ASKED[0].0).await, ASKED[0].0);
}

#[tokio::test]
async fn what_cannot_be_read_passes_unchanged() {
    let (url, seen) = upstream_answering(ten_tokens).await;
    let gateway = Gateway::start(&url, &[("INCLUDE_USAGE", "1")]);
    let long = format!(r#"{{"stream":true,"prompt":"{}"}}"#, "x".repeat(2 * 1024 * 1024));
    assert!(forwarded(&gateway, &seen, CHAT, &long).await == long);

    // In frames, and with no length told.
    let (pieces, body) = in_pieces();
    let sent = long.clone();
    tokio::spawn(async move {
        for chunk in sent.as_bytes().chunks(100_000) {
            pieces.send(piece(chunk.to_vec())).await.unwrap();
        }
    });
    assert_eq!(ask(post(gateway.url(CHAT), body)).await.0, 200);
    assert!(seen.take()[0].body == long);

    let mut request = post(gateway.url(CHAT), Body::from(ASKED[0].0));
    request.headers_mut().insert("content-encoding", "zstd".parse().unwrap());
    assert_eq!(ask(request).await.0, 200);
    assert_eq!(seen.take()[0].body, ASKED[0].0);
}
