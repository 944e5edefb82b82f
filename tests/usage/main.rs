//! Usage read from bodies, whole and in pieces of any size.

mod bodies;
mod bytes_in;
#[cfg(feature = "decompress")]
mod compressed;
mod dialects;
mod generic;
mod layer;
mod messages;
mod streams;

use http::Response;
use http::response::Parts;
use tower_limitry::Usage;
use tower_limitry::usage::{self, Measure, Measured, Watch};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const LINES: &str = "application/x-ndjson";

fn head(content_type: &str) -> Parts {
    let response = Response::builder().header("content-type", content_type).body(());
    response.expect("a valid head").into_parts().0
}

fn watch(measure: &impl Measure, content_type: &str) -> Box<dyn Watch> {
    match measure.measure(&head(content_type)) {
        Measured::Body(watch) => watch,
        other => panic!("not from the body: {other:?}"),
    }
}

/// What is read of a body that comes in pieces of this size.
fn read_in(measure: &impl Measure, content_type: &str, body: &[u8], chunk: usize) -> Option<Usage> {
    let mut watch = watch(measure, content_type);
    body.chunks(chunk).for_each(|part| watch.data(part));
    watch.end()
}

/// What is read of a body, the same whatever pieces it comes in.
fn read_by(measure: &impl Measure, content_type: &str, body: impl AsRef<[u8]>) -> Option<Usage> {
    let body = body.as_ref();
    let whole = read_in(measure, content_type, body, body.len().max(1));
    for chunk in [1, 7, 4096] {
        let pieces = read_in(measure, content_type, body, chunk);
        assert_eq!(pieces, whole, "in pieces of {chunk}");
    }
    whole
}

fn read(content_type: &str, body: impl AsRef<[u8]>) -> Option<Usage> {
    read_by(&usage::llm(), content_type, body)
}

/// The figures in one line: model, input, output, total, cached, reasoning.
fn line(usage: Option<&Usage>) -> String {
    let Some(usage) = usage else { return "unknown".to_owned() };
    let names = [
        "input_tokens",
        "output_tokens",
        "total_tokens",
        "cached_input_tokens",
        "reasoning_tokens",
    ];
    let mut line = usage.dimensions().get("model").unwrap_or("-").to_owned();
    for name in names {
        line.push(' ');
        line.push_str(&usage.value(name).map_or("-".to_owned(), |amount| amount.to_string()));
    }
    line
}

#[track_caller]
fn assert_reads(content_type: &str, body: impl AsRef<[u8]>, expected: &str) {
    assert_eq!(line(read(content_type, body).as_ref()), expected);
}

/// Events with these data.
fn events(data: &[&str]) -> String {
    data.iter().map(|data| format!("data: {data}\n\n")).collect()
}
