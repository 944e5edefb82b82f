//! What the meter reads in recorded answers of language models, one JSON line for each file.
//!
//! ```text
//! cargo run --example measure -- [--content-type TYPE] [--chunk BYTES] FILE...
//! ```
//!
//! Without `--content-type` the file name's ending tells it: .json, .sse or .ndjson. `--chunk 1` feeds
//! the body byte by byte.

use std::process::ExitCode;

use http::Response;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::{Map, Value, json};
use tower_limitry::Usage;
use tower_limitry::usage::{self, Measure, Measured};

const HELP: &str = "usage: measure [--content-type TYPE] [--chunk BYTES] FILE...";

const VALUES: [&str; 5] =
    ["input_tokens", "output_tokens", "total_tokens", "cached_input_tokens", "reasoning_tokens"];

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let mut code = ExitCode::SUCCESS;
    for file in &options.files {
        match std::fs::read(file) {
            Ok(body) => println!("{}", line(file, options.measure(file, &body))),
            Err(error) => {
                eprintln!("{file}: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

#[derive(Default)]
struct Options {
    content_type: Option<String>,
    chunk: Option<usize>,
    files: Vec<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--content-type" => options.content_type = Some(value()?),
                "--chunk" => {
                    let chunk = value()?.parse().ok().filter(|chunk| *chunk > 0);
                    options.chunk = Some(chunk.ok_or("--chunk needs a number of bytes above 0")?);
                }
                option if option.starts_with("--") => return Err(format!("no option {option}")),
                _ => options.files.push(argument),
            }
        }
        if options.files.is_empty() { Err("no file".to_owned()) } else { Ok(options) }
    }

    /// Feeds the body to the meter as the layer does.
    fn measure(&self, file: &str, body: &[u8]) -> Option<Usage> {
        let mut answer = Response::builder();
        if let Some(content_type) = self.content_type.as_deref().or_else(|| guess(file)) {
            answer = answer.header(CONTENT_TYPE, content_type);
        }
        if body.starts_with(b"\x1f\x8b") {
            answer = answer.header(CONTENT_ENCODING, "gzip");
        }
        let (head, ()) = answer.body(()).ok()?.into_parts();
        match usage::llm().measure(&head) {
            Measured::Body(mut watch) => {
                body.chunks(self.chunk.unwrap_or(usize::MAX)).for_each(|chunk| watch.data(chunk));
                watch.end()
            }
            Measured::Usage(usage) => Some(usage),
            _ => None,
        }
    }
}

fn guess(file: &str) -> Option<&'static str> {
    match file.rsplit_once('.')?.1 {
        "json" => Some("application/json"),
        "sse" => Some("text/event-stream"),
        "ndjson" => Some("application/x-ndjson"),
        _ => Some("application/octet-stream"),
    }
}

fn line(file: &str, usage: Option<Usage>) -> Value {
    let Some(usage) = usage else { return json!({ "file": file, "usage": null }) };
    let mut line = Map::new();
    line.insert("file".into(), file.into());
    if let Some(model) = usage.dimensions().get("model") {
        line.insert("model".into(), model.into());
    }
    for name in VALUES {
        if let Some(amount) = usage.value(name) {
            line.insert(name.into(), json!(amount));
        }
    }
    line.into()
}
