//! What passes, and what does not, both ways.

use std::io::Write as _;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, Version};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::*;

/// One request to the letter, and the answer to the letter.
async fn raw(gateway: &Gateway, request: &str) -> String {
    let mut stream = TcpStream::connect(&gateway.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn everything_passes_but_what_concerns_one_connection() {
    let (url, seen) = upstream_answering(|| {
        Response::builder()
            .status(299)
            .header("connection", "x-hop")
            .header("keep-alive", "timeout=5")
            .header("proxy-authenticate", "Basic")
            .header("x-hop", "1")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("x-request-id", "req_1")
            .body("{}".into())
            .unwrap()
    })
    .await;
    let gateway = Gateway::start(&format!("{url}/base/"), &[]);
    let answer = raw(
        &gateway,
        "PATCH /v1/threads/a%2Fb?x=1&y=%20 HTTP/1.1\r\n\
         host: gateway.example\r\n\
         connection: close, X-Named\r\n\
         x-named: 1\r\n\
         keep-alive: timeout=5\r\n\
         proxy-authorization: Basic secret\r\n\
         te: trailers, deflate\r\n\
         upgrade: websocket\r\n\
         x-customer-id: acct_1\r\n\
         authorization: Bearer sk-secret\r\n\
         accept-encoding: gzip, br\r\n\
         x-twice: 1\r\n\
         x-twice: 2\r\n\
         content-length: 5\r\n\r\nhello",
    )
    .await;
    let got = &seen.take()[0];
    assert_eq!((&got.method, &*got.target), (&Method::PATCH, "/base/v1/threads/a%2Fb?x=1&y=%20"));
    assert_eq!(&*got.body, b"hello");
    let mut headers: Vec<_> =
        got.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    headers.sort_unstable();
    assert_eq!(
        headers,
        [
            ("accept-encoding", "gzip, br"),
            ("authorization", "Bearer sk-secret"),
            ("content-length", "5"),
            ("host", url.strip_prefix("http://").unwrap()),
            ("te", "trailers"),
            ("x-twice", "1"),
            ("x-twice", "2"),
        ]
    );

    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 299"), "{head}");
    assert_eq!(body, "{}");
    for told in ["set-cookie: a=1", "set-cookie: b=2", "x-request-id: req_1", "content-length: 2"] {
        assert!(head.contains(told), "{head}");
    }
    for kept_back in ["x-hop", "keep-alive", "proxy-", "timeout"] {
        assert!(!head.contains(kept_back), "{head}");
    }
}

#[tokio::test]
async fn a_request_without_a_path_goes_nowhere() {
    let (url, seen) = upstream_answering(ten_tokens).await;
    let gateway = Gateway::start(&url, &[]);
    for line in ["OPTIONS * HTTP/1.1", "CONNECT evil.example:443 HTTP/1.1"] {
        let answer =
            raw(&gateway, &format!("{line}\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    // The host that a client names is not where it goes.
    let line = "GET http://evil.example/v1/models HTTP/1.1";
    let answer =
        raw(&gateway, &format!("{line}\r\nhost: evil.example\r\nconnection: close\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let got = seen.take();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].target, "/v1/models");
    assert_eq!(got[0].headers["host"], url.strip_prefix("http://").unwrap());
}

#[tokio::test]
async fn http2_and_trailers_pass_both_ways() {
    let seen = Seen::default();
    let noting = seen.clone();
    let url = upstream(move |request: Request| {
        let seen = noting.clone();
        async move {
            let (_, body) = request.into_parts();
            let sent = body.collect().await.unwrap().trailers().cloned();
            seen.note(Request::new(Body::empty())).await;
            let mut trailers = HeaderMap::new();
            trailers.insert("x-checksum", sent.unwrap_or_default()["x-sum"].clone());
            let answer = Full::from("{}").with_trailers(async move { Some(Ok(trailers)) });
            json(Body::new(answer))
        }
    })
    .await;
    let gateway = Gateway::start(&url, &[("UPSTREAM_HTTP2", "1")]);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("abc"));
    let body = Full::from("{}").with_trailers(async move { Some(Ok(trailers)) });
    let response = http2().request(post(gateway.url(CHAT), Body::new(body))).await.unwrap();
    assert_eq!((response.status(), response.version()), (200.try_into().unwrap(), Version::HTTP_2));
    let trailers = response.into_body().collect().await.unwrap().trailers().cloned().unwrap();
    assert_eq!(trailers["x-checksum"], "abc");
    assert_eq!(seen.take().len(), 1);
}

#[tokio::test]
async fn each_side_speaks_its_own_version() {
    let (url, seen) = upstream_answering(ten_tokens).await;
    for (variable, version) in [("0", Version::HTTP_11), ("1", Version::HTTP_2)] {
        let gateway = Gateway::start(&url, &[("UPSTREAM_HTTP2", variable)]);
        for client in [http1(), http2()] {
            let request = post(gateway.url("/v1/chat/completions?a=1"), "{}");
            let (status, headers, _) = read(client.request(request).await.unwrap()).await;
            assert_eq!(status, 200);
            assert!(headers["ratelimit"].to_str().unwrap().starts_with("\"daily-tokens\";r="));
            let got = &seen.take()[0];
            assert_eq!((got.version, &*got.target), (version, "/v1/chat/completions?a=1"));
            assert_eq!(&*got.body, b"{}");
        }
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_compressed_answer_passes_as_it_is_and_is_read_on_the_side() {
    fn compressed() -> Vec<u8> {
        let usage = r#"{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}"#;
        gzip(&format!(r#"{{"object":"chat.completion","model":"small-1","usage":{usage}}}"#))
    }
    let (url, _) = upstream_answering(|| {
        let mut answer = crate::support::json(compressed());
        answer.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
        answer
    })
    .await;
    let gateway = Gateway::start(&url, &[]);
    let response = http1().request(post(gateway.url(CHAT), "{}")).await.unwrap();
    let (_, headers, body) = read(response).await;
    assert_eq!(headers["content-encoding"], "gzip");
    assert_eq!(body, compressed());
    assert_eq!(gateway.events(1)[0]["values"]["total_tokens"], 10);
}

#[tokio::test]
async fn an_error_of_the_upstream_passes_unchanged_and_is_not_recorded() {
    let url = upstream(|request: Request| async move {
        let status: u16 = request.uri().path().trim_start_matches('/').parse().unwrap();
        let body = match status {
            200 => r#"{"usage":{"total_tokens":5}}"#,
            _ => r#"{"error":{"message":"no"},"usage":{"total_tokens":5}}"#,
        };
        let mut answer = (axum::http::StatusCode::from_u16(status).unwrap(), body).into_response();
        answer.headers_mut().insert("retry-after", HeaderValue::from_static("7"));
        answer
    })
    .await;
    let gateway = Gateway::start(&url, &[]);
    for status in [400, 401, 404, 429, 500, 503, 529] {
        let (given, headers, body) = ask(post(gateway.url(&format!("/{status}")), "{}")).await;
        assert_eq!((given, &headers["retry-after"]), (status, &HeaderValue::from_static("7")));
        assert_eq!(body["error"]["message"], "no");
    }
    ask(post(gateway.url("/200"), "{}")).await;
    assert_eq!(gateway.events(1).len(), 1);
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_502_and_not_recorded() {
    // The port is nobody's any more.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gateway = Gateway::start(&format!("http://{address}"), &[("DAILY_TOKEN_LIMIT", "1000")]);
    for path in [CHAT, MESSAGES] {
        let (status, _, body) = ask(post(gateway.url(path), r#"{"max_tokens":900}"#)).await;
        assert_eq!(status, 502, "nothing stays set aside: {body}");
        assert_eq!(body["type"], "error");
        assert_eq!(body["error"]["message"], "The upstream cannot be reached.");
    }
    let app = Router::new().fallback(|| async { ten_tokens() });
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    assert_eq!(ask(post(gateway.url(CHAT), "{}")).await.0, 200);
    assert_eq!(gateway.events(1).len(), 1);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_upstream_that_takes_no_connection_is_504() {
    // Nobody accepts, and the queue is full: what comes then is not answered at all.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(connection) =
        timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        waiting.push(connection.unwrap());
    }
    let gateway = Gateway::start(&format!("http://{address}"), &[("CONNECT_TIMEOUT", "1")]);
    let (status, _, body) = ask(post(gateway.url(CHAT), "{}")).await;
    assert_eq!(status, 504, "{body}");
}
