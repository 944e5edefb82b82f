//! Bedrock: Converse, Nova, Titan, Llama, and the metrics that it adds to the last event of a stream.
//!
//! `inputTokens` leaves out what was read from the cache and what was written to it.

use super::reading::{Reading, sum, sum_of_known};
use crate::usage::capture::Found;

/// The members of `usage` that are read.
pub(super) const USAGE: &[&str] = &[
    "inputTokens",
    "outputTokens",
    "totalTokens",
    "cacheReadInputTokens",
    "cacheReadInputTokenCount",
    "cacheWriteInputTokens",
    "cacheWriteInputTokenCount",
];

/// Members at the top that are read.
pub(super) const TOP: &[&str] = &[
    "amazon-bedrock-invocationMetrics/inputTokenCount",
    "amazon-bedrock-invocationMetrics/outputTokenCount",
    "amazon-bedrock-invocationMetrics/cacheReadInputTokenCount",
    "amazon-bedrock-invocationMetrics/cacheWriteInputTokenCount",
    "inputTextTokenCount",
    "results/0/tokenCount",
    "prompt_token_count",
    "generation_token_count",
];

pub(super) fn read(found: &Found) -> Option<Reading> {
    let first = |names: &[&str]| names.iter().find_map(|name| found.count(name));
    let uncached = first(&[
        "usage/inputTokens",
        "amazon-bedrock-invocationMetrics/inputTokenCount",
        "inputTextTokenCount",
        "prompt_token_count",
    ]);
    let output = first(&[
        "usage/outputTokens",
        "amazon-bedrock-invocationMetrics/outputTokenCount",
        "results/0/tokenCount",
        "generation_token_count",
    ]);
    let cached = first(&[
        "usage/cacheReadInputTokens",
        "usage/cacheReadInputTokenCount",
        "amazon-bedrock-invocationMetrics/cacheReadInputTokenCount",
    ]);
    let cache_write = first(&[
        "usage/cacheWriteInputTokens",
        "usage/cacheWriteInputTokenCount",
        "amazon-bedrock-invocationMetrics/cacheWriteInputTokenCount",
    ]);
    uncached.or(output)?;
    let total = found.count("usage/totalTokens");
    // A total that leaves the cache out says that the input has it in.
    let is_inclusive = total.is_some() && total == sum(uncached, output);
    let input = if is_inclusive { uncached } else { sum_of_known([uncached, cached, cache_write]) };
    Some(Reading {
        input,
        output,
        total: total.or_else(|| sum_of_known([input, output])),
        cached,
        cache_write,
        is_final: true,
        ..Reading::default()
    })
}
