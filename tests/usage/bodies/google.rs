//! Gemini and Vertex.

use crate::{EVENTS, JSON, assert_reads, events};

#[test]
fn thoughts_a_cache_and_tools_at_once() {
    let body = r#"{
  "candidates": [
    {
      "content": { "parts": [ { "functionCall": { "name": "usage", "args": { "usageMetadata": { "promptTokenCount": 1 } } }, "thoughtSignature": "CvcQ" } ], "role": "model" },
      "finishReason": "STOP",
      "index": 0
    }
  ],
  "usageMetadata": {
    "promptTokenCount": 4113,
    "candidatesTokenCount": 20,
    "totalTokenCount": 4350,
    "cachedContentTokenCount": 4096,
    "toolUsePromptTokenCount": 150,
    "promptTokensDetails": [ { "modality": "TEXT", "tokenCount": 4113 } ],
    "cacheTokensDetails": [ { "modality": "TEXT", "tokenCount": 4096 } ],
    "thoughtsTokenCount": 67
  },
  "modelVersion": "gemini-x",
  "responseId": "abc"
}
"#;
    assert_reads(JSON, body, "gemini-x 4263 87 4350 4096 67");
}

fn chunks() -> [String; 5] {
    let chunk = |text: &str, end: &str, usage: &str| {
        format!(
            r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}],"role":"model"}},"index":0{end}}}],"usageMetadata":{{{usage}}},"modelVersion":"gemini-x"}}"#
        )
    };
    let thinking = r#""promptTokenCount":8,"totalTokenCount":50,"thoughtsTokenCount":42"#;
    let first = r#""promptTokenCount":8,"candidatesTokenCount":3,"totalTokenCount":53,"thoughtsTokenCount":42"#;
    let last = r#""promptTokenCount":8,"candidatesTokenCount":25,"totalTokenCount":75,"thoughtsTokenCount":42"#;
    [
        chunk("", "", thinking),
        chunk("", "", thinking),
        chunk("He", "", first),
        chunk("y", "", first),
        chunk(".", r#","finishReason":"MAX_TOKENS""#, last),
    ]
}

#[test]
fn a_stream_thinks_first() {
    let chunks = chunks();
    let data: Vec<_> = chunks.iter().map(String::as_str).collect();
    assert_reads(EVENTS, events(&data), "gemini-x 8 67 75 - 42");
    assert_reads(JSON, format!("[{}]", data.join("\n,\r\n")), "gemini-x 8 67 75 - 42");
    // Cut: what was told by then.
    assert_reads(EVENTS, events(&data[..3]), "gemini-x 8 45 53 - 42");
    assert_reads(JSON, format!("[{}\n,", data[..2].join("\n,")), "gemini-x 8 42 50 - 42");
}

#[test]
fn a_prompt_that_is_blocked_has_no_output() {
    let body = r#"{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"},"usageMetadata":{"promptTokenCount":7,"totalTokenCount":7,"promptTokensDetails":[{"modality":"TEXT","tokenCount":7}]},"modelVersion":"gemini-x"}"#;
    assert_reads(JSON, body, "gemini-x 7 - 7 - -");
}

#[test]
fn a_wrapped_answer() {
    let body = r#"{"response":{"candidates":[{"content":{"parts":[]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":1,"totalTokenCount":10,"trafficType":"PROVISIONED_THROUGHPUT"},"modelVersion":"gemini-x"}}"#;
    assert_reads(JSON, body, "gemini-x 9 1 10 - -");
    assert_reads(EVENTS, events(&[body]), "gemini-x 9 1 10 - -");
}

#[test]
fn what_counts_tokens_or_describes_a_cache_is_no_usage() {
    let bodies = [
        r#"{"totalTokens":31,"cachedContentTokenCount":20,"promptTokensDetails":[{"modality":"TEXT","tokenCount":31}]}"#,
        r#"{"name":"cachedContents/x","model":"models/gemini-x","usageMetadata":{"totalTokenCount":9602},"expireTime":"2026-01-01T00:00:00Z"}"#,
        r#"{"predictions":[{"embeddings":{"statistics":{"truncated":false,"token_count":4},"values":[0.1]}}],"metadata":{"billableCharacterCount":20}}"#,
        r#"{"embedding":{"values":[0.013168523,-0.008711934]}}"#,
        r#"[{"error":{"code":429,"message":"Resource exhausted","status":"RESOURCE_EXHAUSTED"}}]"#,
    ];
    for body in bodies {
        assert_reads(JSON, body, "unknown");
    }
}
