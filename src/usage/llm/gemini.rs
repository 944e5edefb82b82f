//! Gemini's `generateContent`, its stream and its interactions, also on Vertex.
//!
//! `candidatesTokenCount` leaves out thoughts, `promptTokenCount` what the prompts of tools used. In a
//! stream each chunk tells all by then; the last one counts, also where it tells less.

use super::reading::{Reading, difference, sum, sum_of_known};
use crate::policy::Amount;
use crate::usage::capture::Found;

/// The members of `usageMetadata` that are read, beside the fact that it is there.
pub(super) const USAGE_METADATA: &[&str] = &[
    "promptTokenCount",
    "candidatesTokenCount",
    "responseTokenCount",
    "totalTokenCount",
    "thoughtsTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
];

/// The members of an interaction's `usage` that are read.
pub(super) const USAGE: &[&str] = &[
    "total_input_tokens",
    "total_output_tokens",
    "total_cached_tokens",
    "total_thought_tokens",
    "total_tool_use_tokens",
];

pub(super) fn is_it(found: &Found) -> bool {
    found.has("usageMetadata") || is_interaction(found)
}

fn is_interaction(found: &Found) -> bool {
    found.has("usage/total_input_tokens") || found.has("usage/total_output_tokens")
}

pub(super) fn read(found: &Found) -> Option<Reading> {
    let of = if is_interaction(found) { interaction } else { generated };
    let Figures { prompt, tools, answer, thoughts, cached, total } = of(found);
    // A cache that was made tells only its own total.
    prompt.or(answer).or(thoughts)?;
    let output = sum_of_known([answer, thoughts]);
    let with_tools = sum_of_known([prompt, tools]);
    let is_without = total.is_some() && total == sum(prompt, output);
    let input = if is_without { prompt } else { with_tools };
    let rest = difference(total, input);
    let output = if rest > output && rest > Some(Amount::ZERO) { rest } else { output };
    Some(Reading {
        input: input.or_else(|| difference(total, output)),
        output,
        total: total.or_else(|| sum(input, output)),
        cached,
        cache_write: None,
        reasoning: thoughts,
        cost: None,
        is_final: !found.has("candidates") || found.has("candidates/0/finishReason"),
    })
}

struct Figures {
    prompt: Option<Amount>,
    tools: Option<Amount>,
    answer: Option<Amount>,
    thoughts: Option<Amount>,
    cached: Option<Amount>,
    total: Option<Amount>,
}

fn generated(found: &Found) -> Figures {
    let count = |name: &str| found.count(name);
    let answer = count("usageMetadata/candidatesTokenCount");
    Figures {
        prompt: count("usageMetadata/promptTokenCount"),
        tools: count("usageMetadata/toolUsePromptTokenCount"),
        answer: answer.or_else(|| count("usageMetadata/responseTokenCount")),
        thoughts: count("usageMetadata/thoughtsTokenCount"),
        cached: count("usageMetadata/cachedContentTokenCount"),
        total: count("usageMetadata/totalTokenCount"),
    }
}

fn interaction(found: &Found) -> Figures {
    let count = |name: &str| found.count(name);
    Figures {
        prompt: count("usage/total_input_tokens"),
        tools: count("usage/total_tool_use_tokens"),
        answer: count("usage/total_output_tokens"),
        thoughts: count("usage/total_thought_tokens"),
        cached: count("usage/total_cached_tokens"),
        total: count("usage/total_tokens"),
    }
}
