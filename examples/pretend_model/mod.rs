//! A pretend model that speaks OpenAI's chat completions: it counts words, and answers with as many
//! as it may.

use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
pub(crate) struct ChatRequest {
    #[serde(default)]
    pub(crate) model: String,
    pub(crate) messages: Vec<Message>,
    #[serde(default = "sixteen")]
    pub(crate) max_tokens: u64,
}

#[derive(Deserialize)]
pub(crate) struct Message {
    #[serde(default)]
    content: serde_json::Value,
}

#[derive(Serialize)]
pub(crate) struct ChatResponse {
    id: &'static str,
    object: &'static str,
    model: String,
    choices: [Choice; 1],
    pub(crate) usage: Tokens,
}

#[derive(Serialize)]
struct Choice {
    index: u32,
    message: serde_json::Value,
    finish_reason: &'static str,
}

#[derive(Clone, Copy, Deserialize, Serialize)]
pub(crate) struct Tokens {
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) total_tokens: u64,
}

/// The part of an answer that tells what it used.
#[derive(Deserialize)]
pub(crate) struct Answer {
    pub(crate) usage: Tokens,
}

impl ChatRequest {
    /// The words in the messages: texts, and parts of type `text`.
    pub(crate) fn words(&self) -> u64 {
        let count = |text: &str| text.split_whitespace().count() as u64;
        let words = self.messages.iter().map(|message| match &message.content {
            serde_json::Value::String(text) => count(text),
            serde_json::Value::Array(parts) => {
                parts.iter().filter_map(|part| part.get("text")?.as_str()).map(count).sum()
            }
            _ => 0,
        });
        words.sum()
    }

    /// What the answer can use at most.
    pub(crate) fn upper_bound(&self) -> u64 {
        self.words().saturating_add(self.max_tokens)
    }
}

pub(crate) fn complete(chat: &ChatRequest) -> ChatResponse {
    // The longest answer that is written out; beyond that only the count goes on.
    let written = chat.max_tokens.min(64) as usize;
    ChatResponse {
        id: "chatcmpl-pretend",
        object: "chat.completion",
        model: chat.model.clone(),
        choices: [Choice {
            index: 0,
            message: serde_json::json!({
                "role": "assistant",
                "content": vec!["word"; written].join(" "),
            }),
            finish_reason: "length",
        }],
        usage: Tokens {
            prompt_tokens: chat.words(),
            completion_tokens: chat.max_tokens,
            total_tokens: chat.upper_bound(),
        },
    }
}

fn sixteen() -> u64 {
    16
}
