//! What does reading usage from a stream cost, beside not reading it, beside the least a reader could
//! do (search each chunk for every `"usage"`), and beside parsing each event?
//!
//! ```text
//! cargo bench --bench usage --features llm [-- NAME...]
//! ```
//!
//! Each row is the median of many runs over the same bytes, all in one process, one after the other.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use memchr::memmem::Finder;
use serde::Deserialize;
use tower_limitry::Usage;
use tower_limitry::usage::{self, Measure, Measured, Watch};

const EVENTS: usize = 2_000;

fn main() {
    println!("{:<34} {:>9} {:>9} {:>9} {:>8}", "", "chunks", "ns/chunk", "GB/s", "of scan");
    let openai = openai_events();
    stream("OpenAI, an event a frame", &openai);
    stream("OpenAI, 16 KiB frames", &rechunked(&openai, 16 * 1024));
    let anthropic = anthropic_events();
    stream("Anthropic, an event a frame", &anthropic);
    stream("Anthropic, 16 KiB frames", &rechunked(&anthropic, 16 * 1024));
    body("embeddings, 16 MB", &embeddings());
    body("chat, 16 MB of escaped text", &long_chat());
    body("chat with log probabilities, 16 MB", &log_probabilities());
    allocations("OpenAI", &openai);
    allocations("Anthropic", &anthropic);
}

/// A stream of events.
fn stream(name: &str, chunks: &[Bytes]) {
    if is_left_out(name) {
        return;
    }
    let bytes = chunks.iter().map(Bytes::len).sum();
    let usage = measured("text/event-stream", chunks);
    assert_eq!(usage.and_then(|usage| usage.value("output_tokens")), Some(2_000.into()));
    let finder = Finder::new("\"usage\"");
    let times = medians([
        &mut || chunks.iter().for_each(|chunk| drop(black_box(chunk.clone()))),
        &mut || {
            for chunk in chunks {
                black_box(finder.find_iter(black_box(chunk)).count());
            }
        },
        &mut || {
            let mut watch = watch("text/event-stream");
            chunks.iter().for_each(|chunk| watch.data(black_box(chunk)));
            black_box(watch.end());
        },
        &mut || {
            for chunk in chunks {
                parse_each(black_box(chunk));
            }
        },
    ]);
    report(name, ["pass through", "memmem scan", "this", "serde_json"], times, chunks.len(), bytes);
}

/// One JSON body, in frames of 16 KiB.
fn body(name: &str, whole: &Bytes) {
    if is_left_out(name) {
        return;
    }
    let chunks = rechunked(std::slice::from_ref(whole), 16 * 1024);
    let usage = measured("application/json", &chunks);
    assert_eq!(usage.and_then(|usage| usage.value("total_tokens")), Some(2_009.into()));
    let finder = Finder::new("\"usage\"");
    let times = medians([
        &mut || chunks.iter().for_each(|chunk| drop(black_box(chunk.clone()))),
        &mut || {
            for chunk in &chunks {
                black_box(finder.find_iter(black_box(chunk)).count());
            }
        },
        &mut || {
            let mut watch = watch("application/json");
            chunks.iter().for_each(|chunk| watch.data(black_box(chunk)));
            black_box(watch.end());
        },
        &mut || {
            let mut body = Vec::new();
            chunks.iter().for_each(|chunk| body.extend_from_slice(chunk));
            black_box(serde_json::from_slice::<Event>(&body).expect("valid JSON"));
        },
    ]);
    let ways = ["pass through", "memmem scan", "this", "serde_json, collected"];
    report(name, ways, times, chunks.len(), whole.len());
}

fn is_left_out(name: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    words.peek().is_some() && !words.any(|word| name.contains(&word))
}

fn report(name: &str, ways: [&str; 4], times: [Duration; 4], chunks: usize, bytes: usize) {
    println!("{name}");
    for (way, time) in ways.into_iter().zip(times) {
        let nanos = time.as_nanos() as f64;
        println!(
            "  {way:<32} {chunks:>9} {:>9.1} {:>9.2} {:>8.2}",
            nanos / chunks as f64,
            bytes as f64 / nanos,
            nanos / times[1].as_nanos() as f64,
        );
    }
}

fn allocations(name: &str, chunks: &[Bytes]) {
    // Neither the first events, which tell the model, nor the last ones, which tell the usage.
    let mut watch = watch("text/event-stream");
    let (early, rest) = chunks.split_at(10);
    early.iter().for_each(|chunk| watch.data(chunk));
    let rest = &rest[..rest.len() - 10];
    let info = allocation_counter::measure(|| rest.iter().for_each(|chunk| watch.data(chunk)));
    println!("{name}: {} allocations for {} frames without usage", info.count_total, rest.len());
    assert_eq!(info.count_total, 0);
}

fn watch(content_type: &str) -> Box<dyn Watch> {
    let head = Response::builder().header("content-type", content_type).body(());
    let (head, ()) = head.expect("a valid head").into_parts();
    match usage::llm().measure(&head) {
        Measured::Body(watch) => watch,
        other => unreachable!("{other:?}"),
    }
}

fn measured(content_type: &str, chunks: &[Bytes]) -> Option<Usage> {
    let mut watch = watch(content_type);
    chunks.iter().for_each(|chunk| watch.data(chunk));
    watch.end()
}

/// The median of each, run in turns.
fn medians<const N: usize>(mut ways: [&mut dyn FnMut(); N]) -> [Duration; N] {
    let mut times: [Vec<Duration>; N] = std::array::from_fn(|_| Vec::new());
    let start = Instant::now();
    while times[0].len() < 7 || (start.elapsed() < Duration::from_secs(3) && times[0].len() < 501) {
        for (way, times) in ways.iter_mut().zip(&mut times) {
            let start = Instant::now();
            way();
            times.push(start.elapsed());
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

/// What a user would write: the struct of an event, parsed for each.
#[derive(Deserialize)]
#[allow(dead_code)]
struct Event {
    model: Option<String>,
    usage: Option<EventUsage>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct EventUsage {
    total_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

fn parse_each(chunk: &[u8]) {
    for line in chunk.split(|byte| *byte == b'\n') {
        if let Some(data) = line.strip_prefix(b"data: ")
            && let Ok(event) = serde_json::from_slice::<Event>(data)
        {
            black_box(event);
        }
    }
}

fn openai_events() -> Vec<Bytes> {
    let head = r#"{"id":"chatcmpl-CAbCdEfGhIjKlMnOpQrStUvWxYz0","object":"chat.completion.chunk","created":1757000000,"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_8bda4d3a2c","#;
    let piece = |word: &str| {
        format!(
            "data: {head}\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{word}\"}},\"logprobs\":null,\"finish_reason\":null}}],\"usage\":null,\"obfuscation\":\"aB3xY9\"}}\n\n"
        )
    };
    let mut events: Vec<Bytes> =
        (0..EVENTS).map(|at| piece(&format!(" word{at}")).into()).collect();
    events.push(
        format!("data: {head}\"choices\":[],\"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":2000,\"total_tokens\":2009}}}}\n\n")
            .into(),
    );
    events.push("data: [DONE]\n\n".into());
    events
}

fn anthropic_events() -> Vec<Bytes> {
    let mut events: Vec<Bytes> = vec![
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_01\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-sonnet-4-5\",\"content\":[],\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n".into(),
        "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n".into(),
    ];
    let piece = |at| {
        format!(
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\" word{at}\"}}}}\n\n"
        )
    };
    events.extend((0..EVENTS).map(|at| piece(at).into()));
    events.push("event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":2000}}\n\n".into());
    events.push("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n".into());
    events
}

const USAGE: &str = r#""usage":{"prompt_tokens":9,"completion_tokens":2000,"total_tokens":2009}}"#;

fn embeddings() -> Bytes {
    let vector: Vec<String> = (0..1536).map(|at| format!("-0.0{:07}", at * 6113)).collect();
    let vector = vector.join(",");
    let entry = format!(r#"{{"object":"embedding","index":0,"embedding":[{vector}]}}"#);
    let entries = vec![entry.as_str(); 16_000_000 / entry.len()].join(",");
    format!(r#"{{"object":"list","data":[{entries}],"model":"embed-3",{USAGE}"#).into()
}

fn long_chat() -> Bytes {
    let text =
        r#"He said: \"no\".\n\n\tAnd then \u00e9t cetera, in a line of text of usual length.\n"#;
    let text = text.repeat(16_000_000 / text.len());
    format!(r#"{{"model":"gpt-4o","choices":[{{"message":{{"content":"{text}"}},"finish_reason":"stop"}}],{USAGE}"#)
        .into()
}

fn log_probabilities() -> Bytes {
    let token =
        r#"{"token":" word","logprob":-0.0123,"bytes":[32,119,111,114,100],"top_logprobs":[]}"#;
    let tokens = vec![token; 16_000_000 / token.len()].join(",");
    format!(r#"{{"model":"gpt-4o","choices":[{{"logprobs":{{"content":[{tokens}]}},"finish_reason":"stop"}}],{USAGE}"#)
        .into()
}

fn rechunked(chunks: &[Bytes], size: usize) -> Vec<Bytes> {
    let all = Bytes::from(chunks.concat());
    (0..all.len()).step_by(size).map(|at| all.slice(at..all.len().min(at + size))).collect()
}
