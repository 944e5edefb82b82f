//! What a request may use, by its JSON body.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tower_limitry::{Amount, Usage};

/// Nothing for what neither asks a model nor says how much it may answer.
pub(crate) fn estimate(body: &RawValue) -> Usage {
    let Ok(ask) = serde_json::from_str::<Ask>(body.get()) else { return Usage::new() };
    let most = ask.most_output();
    if most.is_none() && !ask.has_prompt() {
        return Usage::new();
    }
    let prompt = body.get().len().min(MOST_PROMPT_BYTES).div_ceil(BYTES_A_TOKEN) as u64;
    let tokens = most.unwrap_or_default().saturating_mul(ask.answers()).saturating_add(prompt);
    let usage = Usage::of("total_tokens", tokens);
    match ask.model {
        Some(model) => usage.dimension("model", model),
        None => usage,
    }
}

const BYTES_A_TOKEN: usize = 4;

/// What is longer holds pictures or files, whose bytes are no tokens.
const MOST_PROMPT_BYTES: usize = 64 * 1024;

/// The names of OpenAI, Anthropic, Gemini and Ollama.
#[derive(Deserialize)]
struct Ask {
    model: Option<String>,
    max_tokens: Option<Amount>,
    max_completion_tokens: Option<Amount>,
    max_output_tokens: Option<Amount>,
    #[serde(rename = "generationConfig")]
    generation_config: Option<GenerationConfig>,
    options: Option<Options>,
    /// How many answers.
    n: Option<Amount>,
    messages: Option<IgnoredAny>,
    prompt: Option<IgnoredAny>,
    input: Option<IgnoredAny>,
    contents: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct GenerationConfig {
    #[serde(rename = "maxOutputTokens")]
    max_output_tokens: Option<Amount>,
}

#[derive(Deserialize)]
struct Options {
    num_predict: Option<Amount>,
}

impl Ask {
    /// Some take a number below zero for "no bound".
    fn most_output(&self) -> Option<u64> {
        let of_gemini = self.generation_config.as_ref().and_then(|of| of.max_output_tokens);
        let of_ollama = self.options.as_ref().and_then(|of| of.num_predict);
        [self.max_tokens, self.max_completion_tokens, self.max_output_tokens, of_gemini, of_ollama]
            .into_iter()
            .flatten()
            .filter_map(|most| most.floor().try_into().ok())
            .max()
    }

    fn answers(&self) -> u64 {
        self.n.and_then(|n| n.floor().try_into().ok()).unwrap_or(1).max(1)
    }

    fn has_prompt(&self) -> bool {
        [&self.messages, &self.prompt, &self.input, &self.contents].into_iter().any(Option::is_some)
    }
}
