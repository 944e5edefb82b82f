//! Answers as OpenAI and Anthropic give them: the same for the same question.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::support::{Seen, event_stream, json};

/// How many tokens every prompt has.
const PROMPT: u64 = 7;
const WORDS: [&str; 3] = ["Hello", ", ", "world"];

pub(crate) async fn answer(request: Request, seen: Seen) -> Response {
    let (head, body) = seen.note(request).await;
    let ask: Value = serde_json::from_slice(&body).unwrap_or_default();
    let asks_usage = ask["stream_options"]["include_usage"] == true;
    match (head.uri.path(), ask["stream"] == true) {
        ("/v1/chat/completions", false) => json(chat(&ask).to_string()),
        ("/v1/chat/completions", true) => events(&chat_stream(&ask, asks_usage), true),
        ("/v1/responses", false) => json(response(&ask, "completed").to_string()),
        ("/v1/responses", true) => events(&response_stream(&ask), false),
        ("/v1/messages", false) => json(message(&ask).to_string()),
        ("/v1/messages", true) => events(&message_stream(&ask), false),
        ("/v1/messages/count_tokens", _) => json(json!({ "input_tokens": PROMPT }).to_string()),
        ("/v1/models", _) => json(models().to_string()),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// As many as may be.
fn output(ask: &Value) -> u64 {
    let most = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
    most.into_iter().find_map(|name| ask[name].as_u64()).unwrap_or(3)
}

fn models() -> Value {
    json!({ "object": "list", "data": [
        { "id": "large-2", "object": "model", "created": 1_700_000_000, "owned_by": "us" },
    ]})
}

fn chat_usage(ask: &Value) -> Value {
    json!({
        "prompt_tokens": PROMPT,
        "completion_tokens": output(ask),
        "total_tokens": PROMPT + output(ask),
        "prompt_tokens_details": { "cached_tokens": 0, "audio_tokens": 0 },
        "completion_tokens_details": {
            "reasoning_tokens": 1, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    })
}

fn chat(ask: &Value) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000,
        "model": ask["model"], "system_fingerprint": "fp_1", "service_tier": "default",
        "choices": [{
            "index": 0, "finish_reason": "stop", "logprobs": null,
            "message": {
                "role": "assistant", "content": WORDS.concat(), "refusal": null, "annotations": [],
            },
        }],
        "usage": chat_usage(ask),
    })
}

fn chat_stream(ask: &Value, asks_usage: bool) -> Vec<Value> {
    let chunk = |choices: Value| {
        let mut chunk = json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000,
            "model": ask["model"], "system_fingerprint": "fp_1", "choices": choices,
        });
        if asks_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    };
    let choice = |delta: Value, reason: Value| {
        chunk(json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": reason }]))
    };
    let mut chunks = vec![choice(json!({ "role": "assistant", "content": "" }), Value::Null)];
    chunks.extend(WORDS.map(|word| choice(json!({ "content": word }), Value::Null)));
    chunks.push(choice(json!({}), json!("stop")));
    if asks_usage {
        let mut last = chunk(json!([]));
        last["usage"] = chat_usage(ask);
        chunks.push(last);
    }
    chunks
}

fn response(ask: &Value, status: &str) -> Value {
    let is_done = status == "completed";
    let content = json!([{
        "type": "output_text", "text": WORDS.concat(), "annotations": [], "logprobs": [],
    }]);
    let item = json!({
        "id": "msg_1", "type": "message", "status": status, "role": "assistant", "content": content,
    });
    let usage = json!({
        "input_tokens": PROMPT, "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": output(ask), "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": PROMPT + output(ask),
    });
    json!({
        "id": "resp_1", "object": "response", "created_at": 1_700_000_000, "status": status,
        "error": null, "incomplete_details": null, "instructions": null, "metadata": {},
        "max_output_tokens": ask["max_output_tokens"], "model": ask["model"],
        "output": if is_done { json!([item]) } else { json!([]) },
        "parallel_tool_calls": true, "previous_response_id": null, "temperature": 1.0,
        "tool_choice": "auto", "tools": [], "top_p": 1.0, "truncation": "disabled",
        "usage": if is_done { usage } else { Value::Null },
    })
}

fn response_stream(ask: &Value) -> Vec<Value> {
    let mut events = vec![json!({
        "type": "response.created", "sequence_number": 0, "response": response(ask, "in_progress"),
    })];
    for (at, word) in WORDS.into_iter().enumerate() {
        events.push(json!({
            "type": "response.output_text.delta", "sequence_number": at + 1, "item_id": "msg_1",
            "output_index": 0, "content_index": 0, "delta": word, "logprobs": [],
        }));
    }
    events.push(json!({
        "type": "response.completed", "sequence_number": WORDS.len() + 1,
        "response": response(ask, "completed"),
    }));
    events
}

fn message(ask: &Value) -> Value {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": ask["model"],
        "content": [{ "type": "text", "text": WORDS.concat() }],
        "stop_reason": "end_turn", "stop_sequence": null,
        "usage": {
            "input_tokens": PROMPT - 5, "cache_creation_input_tokens": 2,
            "cache_read_input_tokens": 3, "output_tokens": output(ask), "service_tier": "standard",
        },
    })
}

fn message_stream(ask: &Value) -> Vec<Value> {
    let mut start = message(ask);
    start["content"] = json!([]);
    start["stop_reason"] = Value::Null;
    start["usage"]["output_tokens"] = json!(1);
    let mut events = vec![
        json!({ "type": "message_start", "message": start }),
        json!({
            "type": "content_block_start", "index": 0,
            "content_block": { "type": "text", "text": "" },
        }),
        json!({ "type": "ping" }),
    ];
    events.extend(WORDS.map(|word| {
        json!({
            "type": "content_block_delta", "index": 0,
            "delta": { "type": "text_delta", "text": word },
        })
    }));
    events.extend([
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({
            "type": "message_delta", "usage": { "output_tokens": output(ask) },
            "delta": { "stop_reason": "end_turn", "stop_sequence": null },
        }),
        json!({ "type": "message_stop" }),
    ]);
    events
}

fn events(events: &[Value], has_end: bool) -> Response {
    let mut text = String::new();
    for event in events {
        if let Some(name) = event["type"].as_str() {
            text.push_str(&format!("event: {name}\n"));
        }
        text.push_str(&format!("data: {event}\n\n"));
    }
    if has_end {
        text.push_str("data: [DONE]\n\n");
    }
    event_stream(text.into())
}
