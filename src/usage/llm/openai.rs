//! OpenAI's chat completions, legacy completions, responses, embeddings, images, audio and assistants,
//! and the many who speak that dialect: Azure, Mistral, Groq, OpenRouter, DeepSeek, xAI, Perplexity,
//! vLLM, Together, llama.cpp, Ollama's `/v1`, Gemini's `/openai`.
//!
//! `prompt_tokens` or `input_tokens` include cached ones, `completion_tokens` or `output_tokens`
//! include reasoning, except that xAI, and Google behind this dialect, leave reasoning out of the
//! completion: their total tells.

use super::reading::{Reading, difference, shifted, sum};
use crate::policy::Amount;
use crate::usage::capture::Found;

/// The members of a `usage` object that are read.
pub(super) const USAGE: &[&str] = &[
    "prompt_tokens",
    "completion_tokens",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "prompt_tokens_details/cached_tokens",
    "prompt_tokens_details/cache_write_tokens",
    "prompt_tokens_details/audio_tokens",
    "connector_tokens",
    "prompt_token_details/cached_tokens",
    "input_tokens_details/cached_tokens",
    "input_tokens_details/cache_write_tokens",
    "cached_tokens",
    "num_cached_tokens",
    "prompt_cache_hit_tokens",
    "completion_tokens_details/reasoning_tokens",
    "output_tokens_details/reasoning_tokens",
    "reasoning_tokens",
    "cost",
    "cost/total_cost",
    "cost_in_usd_ticks",
];

pub(super) fn read(found: &Found) -> Option<Reading> {
    if is_report(found) {
        return None;
    }
    let first = |names: &[&str]| names.iter().find_map(|name| found.count(name));
    let mut input = first(&["usage/prompt_tokens", "usage/input_tokens"]);
    let mut output = first(&["usage/completion_tokens", "usage/output_tokens"]);
    let reasoning = first(&[
        "usage/completion_tokens_details/reasoning_tokens",
        "usage/output_tokens_details/reasoning_tokens",
        "usage/reasoning_tokens",
    ]);
    let told = found.count("usage/total_tokens").filter(|total| total.is_positive());
    let total = told.or_else(|| sum(input, output));
    if input.is_none() {
        input = difference(told, output);
    }
    // The total is what is billed, so what it holds beyond the parts was used too: reasoning outside
    // of the completion, or sound or what a search found outside of the prompt.
    let beyond = difference(total, input).and_then(|rest| match output {
        Some(output) => difference(Some(rest), Some(output)),
        None => Some(rest),
    });
    if beyond.is_some_and(Amount::is_positive) {
        let apart = ["usage/prompt_tokens_details/audio_tokens", "usage/connector_tokens"];
        if apart.iter().any(|name| beyond == found.count(name)) {
            input = sum(input, beyond);
        } else {
            output = sum(output.or(Some(Amount::ZERO)), beyond);
        }
    }
    let cached = first(&[
        "usage/prompt_tokens_details/cached_tokens",
        "usage/input_tokens_details/cached_tokens",
        "usage/prompt_token_details/cached_tokens",
        "usage/cached_tokens",
        "usage/num_cached_tokens",
        "usage/prompt_cache_hit_tokens",
        "usage/cache_read_input_tokens",
    ]);
    let cache_write = first(&[
        "usage/prompt_tokens_details/cache_write_tokens",
        "usage/input_tokens_details/cache_write_tokens",
    ]);
    let cost = ["usage/cost", "usage/cost/total_cost", "cost/usd"];
    let cost = cost.into_iter().find(|name| found.count(name).is_some());
    let ticks = || {
        // xAI counts in ten-billionths of a dollar.
        found.count("usage/cost_in_usd_ticks").filter(|ticks| ticks.is_positive())?;
        Some(shifted(found.decimal("usage/cost_in_usd_ticks")?, -10))
    };
    Some(Reading {
        input,
        output,
        total,
        cached,
        cache_write,
        reasoning,
        cost: cost.and_then(|name| found.decimal(name)).map(Into::into).or_else(ticks),
        is_final: !found.has("choices/0") || found.has("choices/0/finish_reason"),
    })
}

/// Reports on the use of other requests.
fn is_report(found: &Found) -> bool {
    let object = found.text("object").unwrap_or_default();
    matches!(&*object, "batch" | "page" | "bucket") || object.starts_with("organization.")
}
