//! Bedrock's binary event streams.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use tower_limitry::usage::{self, Measure, Measured};

use super::{line, read_by, read_in, watch};

const MESSAGES: &str = "application/vnd.amazon.eventstream";

fn message(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut names = Vec::new();
    for (name, value) in headers {
        names.push(u8::try_from(name.len()).expect("a short name"));
        names.extend_from_slice(name.as_bytes());
        names.push(7);
        names.extend_from_slice(&u16::try_from(value.len()).expect("a short value").to_be_bytes());
        names.extend_from_slice(value.as_bytes());
    }
    framed(&names, payload)
}

fn framed(headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let number = |length: usize| u32::try_from(length).expect("short").to_be_bytes();
    let mut message = number(16 + headers.len() + payload.len()).to_vec();
    message.extend_from_slice(&number(headers.len()));
    message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
    message.extend_from_slice(headers);
    message.extend_from_slice(payload);
    message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
    message
}

fn event(name: &str, payload: &str) -> Vec<u8> {
    let headers =
        [(":event-type", name), (":content-type", "application/json"), (":message-type", "event")];
    message(&headers, payload.as_bytes())
}

/// A model's own event.
fn chunk(event_of_model: &str) -> Vec<u8> {
    let wrapped = format!("{{\"bytes\":\"{}\",\"p\":\"abcd\"}}", STANDARD.encode(event_of_model));
    event("chunk", &wrapped)
}

fn exception() -> Vec<u8> {
    let headers = [(":exception-type", "throttlingException"), (":message-type", "exception")];
    message(&headers, br#"{"message":"Too many requests"}"#)
}

fn conversation() -> Vec<Vec<u8>> {
    let piece = event(
        "contentBlockDelta",
        r#"{"contentBlockIndex":0,"delta":{"text":"\"usage\":{\"totalTokens\":1}"},"p":"abc"}"#,
    );
    vec![
        event("messageStart", r#"{"p":"ab","role":"assistant"}"#),
        piece.clone(),
        piece.clone(),
        piece,
        event("contentBlockStop", r#"{"contentBlockIndex":0,"p":"a"}"#),
        event("messageStop", r#"{"p":"a","stopReason":"end_turn"}"#),
        event(
            "metadata",
            r#"{"metrics":{"latencyMs":300},"p":"abcdef","usage":{"inputTokens":12,"outputTokens":30,"totalTokens":42,"cacheReadInputTokens":0}}"#,
        ),
    ]
}

fn invocation(delta_usage: &str, metrics: &str) -> Vec<u8> {
    let start = r#"{"type":"message_start","message":{"type":"message","model":"claude-x","usage":{"input_tokens":9,"cache_read_input_tokens":50,"output_tokens":1}}}"#;
    let piece =
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}"#;
    let delta = format!("{{\"type\":\"message_delta\",\"delta\":{{}},\"usage\":{delta_usage}}}");
    let stop =
        format!("{{\"type\":\"message_stop\",\"amazon-bedrock-invocationMetrics\":{metrics}}}");
    [start, piece, piece, &delta, &stop].map(chunk).concat()
}

fn reads(body: &[u8]) -> String {
    line(read_by(&usage::bedrock(), MESSAGES, body).as_ref())
}

#[test]
fn a_conversation_tells_usage_in_its_metadata() {
    let stream = conversation().concat();
    assert_eq!(reads(&stream), "- 12 30 42 0 -");
    for cut in 0..stream.len() {
        let mut watch = watch(&usage::bedrock(), MESSAGES);
        watch.data(&stream[..cut]);
        watch.data(&stream[cut..]);
        assert!(!watch.has_failed());
        assert_eq!(line(watch.end().as_ref()), "- 12 30 42 0 -", "{cut}");
    }
    assert_eq!(reads(&stream[..stream.len() - 1]), "unknown");
    assert_eq!(reads(b""), "unknown");
}

#[test]
fn a_models_own_events_are_unwrapped() {
    let metrics = r#"{"inputTokenCount":9,"outputTokenCount":12,"invocationLatency":2033}"#;
    let told = invocation(r#"{"output_tokens":12}"#, metrics);
    assert_eq!(reads(&told), "claude-x 59 12 71 50 -");
    let titan = [
        r#"{"outputText":"Hi","index":0,"totalOutputTextTokenCount":null,"completionReason":null,"inputTextTokenCount":5}"#,
        r#"{"outputText":"!","index":0,"totalOutputTextTokenCount":3,"completionReason":"FINISH","inputTextTokenCount":null,"amazon-bedrock-invocationMetrics":{"inputTokenCount":5,"outputTokenCount":3}}"#,
    ];
    assert_eq!(reads(&titan.map(chunk).concat()), "- 5 3 8 - -");
    let openai = r#"{"object":"chat.completion.chunk","model":"gpt-oss","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#;
    assert_eq!(reads(&chunk(openai)), "gpt-oss 5 2 7 - -");
}

#[test]
fn headers_may_be_of_any_type() {
    let types: [(u8, &[u8]); 10] = [
        (0, b""),
        (1, b""),
        (2, b"\x01"),
        (3, b"\x01\x02"),
        (4, b"\x01\x02\x03\x04"),
        (5, b"\x01\x02\x03\x04\x05\x06\x07\x08"),
        (6, b"\x00\x02ab"),
        (7, b"\x00\x00"),
        (8, b"\x01\x02\x03\x04\x05\x06\x07\x08"),
        (9, b"0123456789abcdef"),
    ];
    let payload = br#"{"usage":{"inputTokens":1,"outputTokens":2,"totalTokens":3}}"#;
    let header = |(kind, value): &(u8, &[u8])| [b"\x01x", &[*kind][..], value].concat();
    let headers: Vec<_> = types.iter().flat_map(header).collect();
    assert_eq!(reads(&framed(&headers, payload)), "- 1 2 3 - -");
    assert_eq!(reads(&framed(b"\x01x\x0a", payload)), "unknown");
    assert_eq!(reads(&framed(b"\x09x", payload)), "unknown");
}

#[test]
fn an_exception_is_a_failure() {
    let failed = |stream: &[u8]| {
        let mut watch = watch(&usage::bedrock(), MESSAGES);
        stream.chunks(5).for_each(|part| watch.data(part));
        watch.end();
        watch.has_failed()
    };
    let pieces = conversation()[..3].concat();
    assert!(!failed(&pieces));
    assert!(failed(&[pieces.clone(), exception()].concat()));
    let error = message(&[(":message-type", "error"), (":error-code", "InternalFailure")], b"");
    assert!(failed(&[pieces.clone(), error].concat()));
    let of_model = chunk(r#"{"type":"error","error":{"type":"overloaded_error"}}"#);
    assert!(failed(&[pieces.clone(), of_model].concat()));
    let unfinished = &exception()[..40];
    assert!(!failed(&[&pieces[..], unfinished].concat()));
}

#[test]
fn what_is_wrong_ends_the_reading() {
    let messages = conversation();
    let (last, first) = messages.split_last().expect("messages");
    let first = first.concat();
    for at in 0..last.len() {
        let mut wrong = last.clone();
        wrong[at] ^= 0x41;
        assert_eq!(reads(&[&first[..], &wrong, last].concat()), "unknown", "{at}");
    }
    for (length, headers) in
        [(15_u32, 0_u32), (0, 0), (16, 1), (u32::MAX, u32::MAX), (40, u32::MAX)]
    {
        let mut wrong = [length.to_be_bytes(), headers.to_be_bytes()].concat();
        wrong.extend_from_slice(&crc32fast::hash(&wrong).to_be_bytes());
        wrong.extend_from_slice(&[0; 64]);
        assert_eq!(reads(&[&wrong[..], last].concat()), "unknown", "{length} {headers}");
    }
}

#[test]
fn a_message_too_long_to_keep_is_skipped() {
    let long = format!("{{\"usage\":{{\"totalTokens\":1}},\"x\":\"{}\"}}", "x".repeat(256 * 1024));
    let long = event("metadata", &long);
    assert_eq!(reads(&long), "unknown");
    assert_eq!(reads(&[long, conversation().concat()].concat()), "- 12 30 42 0 -");
}

#[test]
fn a_client_that_leaves_is_charged_its_pieces() {
    let seen = |stream: &[u8]| {
        let mut watch = watch(&usage::bedrock(), MESSAGES);
        stream.chunks(7).for_each(|part| watch.data(part));
        let (usage, is_final) = watch.seen();
        (line(usage.as_ref()), is_final)
    };
    assert_eq!(seen(&conversation()[..5].concat()), ("- - 3 3 - -".to_owned(), false));
    assert_eq!(seen(&conversation().concat()), ("- 12 30 42 0 -".to_owned(), true));
}

#[test]
fn others_leave_binary_streams_alone() {
    for measure in [usage::llm(), usage::openai(), usage::anthropic()] {
        assert!(matches!(measure.measure(&super::head(MESSAGES)), Measured::Missing));
    }
    let pointer = usage::json_pointer("/usage/totalTokens");
    let usage = read_by(&pointer, MESSAGES, conversation().concat()).expect("usage");
    assert_eq!(usage.value("totalTokens"), Some(42.into()));
}

proptest! {
    #[test]
    fn any_bytes_read_the_same_in_any_pieces(
        wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        noise in prop::collection::vec(any::<u8>(), 0..40),
        chunk in 1_usize..90,
    ) {
        let mut stream = conversation().concat();
        for (at, byte) in wrong {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        stream.extend(noise);
        let whole = read_in(&usage::bedrock(), MESSAGES, &stream, stream.len());
        prop_assert_eq!(read_in(&usage::bedrock(), MESSAGES, &stream, chunk), whole);
    }
}
