//! What a request may use, by its JSON body.

use std::collections::HashMap;

use serde_json::value::RawValue;
use tower_limitry::policy::AmountError;
use tower_limitry::{Amount, Usage};

/// Nothing for what neither asks a model nor says how much it may answer.
pub(crate) fn estimate(body: &RawValue) -> Usage {
    let ask = members(body);
    let most = most_output(&ask);
    if most.is_none() && !PROMPTS.iter().any(|name| ask.contains_key(*name)) {
        return Usage::new();
    }
    let answers = number(&ask, "n").unwrap_or(1).max(1);
    let prompt = body.get().len().min(MOST_PROMPT_BYTES).div_ceil(BYTES_A_TOKEN) as u64;
    let tokens = most.unwrap_or_default().saturating_mul(answers).saturating_add(prompt);
    let usage = Usage::of("total_tokens", tokens);
    let model = ask.get("model").and_then(|model| serde_json::from_str::<String>(model.get()).ok());
    match model {
        Some(model) => usage.dimension("model", model),
        None => usage,
    }
}

const BYTES_A_TOKEN: usize = 4;

/// What is longer holds pictures or files, whose bytes are no tokens.
const MOST_PROMPT_BYTES: usize = 64 * 1024;

const PROMPTS: [&str; 4] = ["messages", "prompt", "input", "contents"];

/// The members of an object that are not null. Each is read by itself, and of those of one name the
/// last one: what makes no sense here may still be understood upstream, and must not pass for nothing.
type Members<'a> = HashMap<String, &'a RawValue>;

fn members(json: &RawValue) -> Members<'_> {
    let mut members: Members<'_> = serde_json::from_str(json.get()).unwrap_or_default();
    members.retain(|_, value| value.get() != "null");
    members
}

/// By the names of OpenAI, Anthropic, Gemini and Ollama.
fn most_output(ask: &Members<'_>) -> Option<u64> {
    let within = |object, name| number(&members(ask.get(object)?), name);
    ["max_tokens", "max_completion_tokens", "max_output_tokens"]
        .into_iter()
        .map(|name| number(ask, name))
        .chain([within("generationConfig", "maxOutputTokens"), within("options", "num_predict")])
        .flatten()
        .max()
}

/// Some take a number below zero for "no bound".
fn number(members: &Members<'_>, name: &str) -> Option<u64> {
    match members.get(name)?.get().trim_matches('"').parse::<Amount>() {
        Ok(number) => number.floor().try_into().ok(),
        Err(AmountError::Overflow { negative: false }) => Some(u64::MAX),
        Err(_) => None,
    }
}
