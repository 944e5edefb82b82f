//! Bodies that take their time, are large, or end too early.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use futures_util::StreamExt;
use http_body_util::{BodyExt, BodyStream};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::*;

fn words(words: &str) -> String {
    format!(
        "data: {{\"model\":\"small-1\",\"choices\":[{{\"delta\":{{\"content\":\"{words}\"}}}}]}}\n\n"
    )
}

const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\
                     \"completion_tokens\":3,\"total_tokens\":10}}\n\ndata: [DONE]\n\n";

/// An upstream that streams what each test tells it to.
async fn streaming() -> (String, mpsc::Receiver<Pieces>) {
    let (streams, started) = mpsc::channel(8);
    let url = upstream(move |_: Request| {
        let streams = streams.clone();
        async move {
            let (pieces, body) = in_pieces();
            streams.send(pieces).await.unwrap();
            event_stream(body)
        }
    });
    (url.await, started)
}

#[tokio::test]
async fn each_piece_of_a_stream_passes_at_once() {
    let (url, mut started) = streaming().await;
    for variable in ["0", "1"] {
        let gateway = Gateway::start(&url, &[("UPSTREAM_HTTP2", variable)]);
        for client in [http1(), http2()] {
            let request = post(gateway.url(CHAT), r#"{"stream":true}"#);
            let mut answer = client.request(request).await.unwrap().into_body();
            let pieces = started.recv().await.unwrap();
            for sent in [words("one"), words("two"), USAGE.to_owned()] {
                pieces.send(piece(sent.clone())).await.unwrap();
                let mut got = Vec::new();
                while got.len() < sent.len() {
                    got.extend(answer.frame().await.unwrap().unwrap().into_data().unwrap());
                }
                assert_eq!(got, sent.as_bytes());
            }
            drop(pieces);
            assert!(answer.collect().await.unwrap().to_bytes().is_empty());
        }
        let events = gateway.events(2);
        assert!(events.iter().all(|event| event["values"]["total_tokens"] == 10), "{events:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_recorded_with_what_it_saw() {
    let (url, mut started) = streaming().await;
    let gateway = Gateway::start(&url, &[]);
    for client in [http1(), http2()] {
        // No estimate: neither a prompt nor a bound.
        let request = post(gateway.url(CHAT), r#"{"stream":true}"#);
        let mut answer = client.request(request).await.unwrap().into_body();
        let pieces = started.recv().await.unwrap();
        for sent in ["one", "two", "three"] {
            pieces.send(piece(words(sent))).await.unwrap();
            answer.frame().await.unwrap().unwrap();
        }
        drop((answer, client));
        // The upstream is let go, too.
        pieces.closed().await;
    }
    for event in gateway.events(2) {
        assert_eq!(event["values"], json!({ "output_tokens": 3, "total_tokens": 3 }));
        assert_eq!(event["dimensions"], json!({ "model": "small-1" }));
    }
}

#[tokio::test]
async fn an_upstream_that_breaks_off_breaks_the_answer_off_and_is_not_recorded() {
    let (url, mut started) = streaming().await;
    for variable in ["0", "1"] {
        let gateway = Gateway::start(&url, &[("UPSTREAM_HTTP2", variable)]);
        for client in [http1(), http2()] {
            let request = post(gateway.url(CHAT), r#"{"stream":true}"#);
            let mut answer = client.request(request).await.unwrap().into_body();
            let pieces = started.recv().await.unwrap();
            pieces.send(piece(words("one"))).await.unwrap();
            assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), words("one"));
            pieces.send(Err(Broken)).await.unwrap();
            assert!(answer.frame().await.unwrap().is_err(), "it is not taken for the end");
        }
        // What follows is the first event.
        let request = post(gateway.url("/last"), r#"{"stream":true}"#);
        let answer = http1().request(request).await.unwrap();
        let pieces = started.recv().await.unwrap();
        pieces.send(piece(USAGE)).await.unwrap();
        drop(pieces);
        read(answer).await;
        assert_eq!(gateway.events(1)[0]["values"]["total_tokens"], 10);
        assert_eq!(gateway.events(1).len(), 1);
    }
}

const MEBIBYTE: usize = 1024 * 1024;
const LARGE: usize = 256 * MEBIBYTE;

/// Sends its first part, waits for a word that it has arrived, and sends the rest.
fn large_upload(mut arrived: mpsc::Receiver<()>) -> Body {
    let (pieces, body) = in_pieces();
    tokio::spawn(async move {
        let mebibyte = Bytes::from(vec![b' '; MEBIBYTE]);
        for at in 0..LARGE / MEBIBYTE {
            if at == 4 {
                arrived.recv().await.unwrap();
            }
            pieces.send(piece(mebibyte.clone())).await.unwrap();
        }
    });
    body
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn large_bodies_stream_through_little_memory() {
    let (first, arrived) = mpsc::channel(1);
    let url = upstream(move |request: Request| {
        let first = first.clone();
        async move { counted_and_as_much_again(request, first).await }
    })
    .await;
    let gateway = Gateway::start(&url, &[("INCLUDE_USAGE", "1")]);
    let response = http1().request(post(gateway.url(CHAT), large_upload(arrived))).await.unwrap();
    assert_eq!(response.headers()["x-received"], LARGE.to_string());
    let mut answer = BodyStream::new(response.into_body());
    let mut length = 0;
    while let Some(frame) = answer.next().await {
        length += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(length, LARGE);
    let peak = gateway.peak_memory();
    assert!(peak < 64 * MEBIBYTE as u64, "{} MiB", peak / MEBIBYTE as u64);
}

async fn counted_and_as_much_again(request: Request, first: mpsc::Sender<()>) -> Response {
    let mut body = BodyStream::new(request.into_body());
    let mut received = 0;
    while let Some(frame) = body.next().await {
        if received == 0 {
            first.send(()).await.unwrap();
        }
        received += frame.unwrap().into_data().unwrap().len();
    }
    let (pieces, body) = in_pieces();
    tokio::spawn(async move {
        for _ in 0..LARGE / MEBIBYTE {
            pieces.send(piece(vec![b' '; MEBIBYTE])).await.unwrap();
        }
    });
    let answer = Response::builder().header("content-type", "audio/mpeg");
    answer.header("x-received", received).body(body).unwrap()
}

#[tokio::test]
async fn running_answers_end_before_the_program_does() {
    let (url, mut started) = streaming().await;
    let mut gateway = Gateway::start(&url, &[]);
    let request = post(gateway.url(CHAT), r#"{"stream":true}"#);
    let mut answer = http1().request(request).await.unwrap().into_body();
    let pieces = started.recv().await.unwrap();
    pieces.send(piece(words("one"))).await.unwrap();
    answer.frame().await.unwrap().unwrap();

    gateway.terminate();
    let address: std::net::SocketAddr = gateway.address.parse().unwrap();
    until("nobody is let in any more", || std::net::TcpStream::connect(address).err());
    pieces.send(piece(USAGE)).await.unwrap();
    drop(pieces);
    let rest = answer.collect().await.unwrap().to_bytes();
    assert_eq!(rest, USAGE);
    assert!(gateway.ended().success());
    assert_eq!(gateway.events(1)[0]["values"]["total_tokens"], 10);
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let (url, mut started) = streaming().await;
    let mut gateway = Gateway::start(&url, &[]);
    let request = post(gateway.url(CHAT), r#"{"stream":true}"#);
    let answer = http1().request(request).await.unwrap();
    let _running = started.recv().await.unwrap();
    gateway.terminate();
    let address: std::net::SocketAddr = gateway.address.parse().unwrap();
    until("nobody is let in any more", || std::net::TcpStream::connect(address).err());
    gateway.terminate();
    assert_eq!(gateway.ended().code(), Some(1));
    drop(answer);
}

#[tokio::test]
async fn nobody_has_to_hear_the_events() {
    let (url, _) = upstream_answering(ten_tokens).await;
    let gateway = Gateway::start_unheard(&url, &[]);
    for left in ["1000000", "999990", "999980"] {
        let (status, headers, _) = ask(post(gateway.url(CHAT), "{}")).await;
        assert_eq!(status, 200);
        assert!(headers["ratelimit"].to_str().unwrap().contains(&format!(";r={left};")));
    }
}

/// A pipe holds 64 KiB, and those who answered waited for the rest to be read.
#[tokio::test]
async fn a_reader_that_stops_stops_no_answers_and_gets_all_events_in_the_end() {
    const MANY: usize = 1_000;
    let (url, _) = upstream_answering(ten_tokens).await;
    let mut gateway = Gateway::start_unread(&url, &[]);
    let client = http1();
    for _ in 0..MANY {
        let asked = client.request(post(gateway.url(CHAT), "{}"));
        let answer = timeout(LONG, asked).await.expect("it waits for nobody").unwrap();
        assert_eq!(read(answer).await.0, 200);
    }
    gateway.terminate();
    gateway.read_events();
    assert!(gateway.ended().success());
    assert_eq!(gateway.events(MANY).len(), MANY);
}
