//! Anthropic's messages, also on Vertex and Bedrock, and those who speak that dialect.
//!
//! `input_tokens` leaves out what was read from the cache and what was written to it. In a stream,
//! `message_start` tells first figures and each `message_delta` overrides those that it names. What a
//! compaction of the context used stands in `iterations` alone, and is billed.

use serde_json::Value;

use super::reading::{Reading, sum_of_known};
use crate::policy::Amount;
use crate::usage::capture::Found;

/// The members of a `usage` object that are read, beside those that OpenAI has too.
pub(super) const USAGE: &[&str] = &[
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens_details/thinking_tokens",
];

/// The iterations, as they are written.
pub(super) const ITERATIONS: &str = "iterations";

/// Whether it is this dialect, rather than OpenAI's responses.
pub(super) fn is_it(found: &Found) -> bool {
    let types = ["message", "message_start", "message_delta"];
    let has_cache = || {
        let caches = ["usage/cache_read_input_tokens", "usage/cache_creation_input_tokens"];
        caches.iter().any(|name| found.has(name))
    };
    types.iter().any(|name| found.is("type", name))
        || (has_cache() && !found.has("usage/prompt_tokens") && !found.has("usage/total_tokens"))
}

pub(super) fn read(found: &Found) -> Option<Reading> {
    let compaction = Compaction::of(found);
    let count = |name: &str| found.count(name);
    let more = |figure: Option<Amount>, more: Amount| figure?.checked_add(more);
    let cached = more(count("usage/cache_read_input_tokens"), compaction.cached);
    let cache_write = more(count("usage/cache_creation_input_tokens"), compaction.cache_write);
    let uncached = more(count("usage/input_tokens"), compaction.input);
    let input = sum_of_known([uncached, cached, cache_write]);
    let output = more(count("usage/output_tokens"), compaction.output);
    Some(Reading {
        input,
        output,
        total: sum_of_known([input, output]),
        cached,
        cache_write,
        reasoning: count("usage/output_tokens_details/thinking_tokens"),
        cost: None,
        is_final: !found.is("type", "message_start"),
    })
}

#[derive(Default)]
struct Compaction {
    input: Amount,
    output: Amount,
    cached: Amount,
    cache_write: Amount,
}

impl Compaction {
    fn of(found: &Found) -> Self {
        let mut sum = Self::default();
        let iterations = found.raw("usage/iterations").map(serde_json::from_str);
        let Some(Ok(iterations)): Option<Result<Vec<Value>, _>> = iterations else { return sum };
        let of_compaction = |entry: &&Value| entry["type"] == "compaction";
        for entry in iterations.iter().filter(of_compaction) {
            let add = |sum: &mut Amount, name: &str| {
                let count = entry[name].as_i64().unwrap_or_default().max(0);
                *sum = sum.saturating_add(Amount::from_millionths(count.saturating_mul(1_000_000)));
            };
            add(&mut sum.input, "input_tokens");
            add(&mut sum.output, "output_tokens");
            add(&mut sum.cached, "cache_read_input_tokens");
            add(&mut sum.cache_write, "cache_creation_input_tokens");
        }
        sum
    }
}
