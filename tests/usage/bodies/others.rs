//! Cohere, Ollama, llama.cpp and Bedrock.

use crate::{EVENTS, JSON, LINES, assert_reads};

#[test]
fn cohere_second_version_stream() {
    let stream = [
        (
            "message-start",
            r#"{"id":"c1","type":"message-start","delta":{"message":{"role":"assistant","content":[],"tool_plan":"","tool_calls":[],"citations":[]}}}"#,
        ),
        (
            "content-start",
            r#"{"type":"content-start","index":0,"delta":{"message":{"content":{"type":"text","text":""}}}}"#,
        ),
        (
            "content-delta",
            r#"{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"tokens"}}}}"#,
        ),
        (
            "content-delta",
            r#"{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"!"}}}}"#,
        ),
        ("content-end", r#"{"type":"content-end","index":0}"#),
        (
            "message-end",
            r#"{"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"billed_units":{"input_tokens":3,"output_tokens":12},"tokens":{"input_tokens":502,"output_tokens":14},"cached_tokens":480}}}"#,
        ),
    ];
    let body: String =
        stream.iter().map(|(name, data)| format!("event: {name}\ndata: {data}\n\n")).collect();
    assert_reads(EVENTS, &body, "- 502 14 516 480 -");
    assert_reads(EVENTS, format!("{body}data: [DONE]\n\n"), "- 502 14 516 480 -");
}

#[test]
fn cohere_with_billed_units_alone() {
    let embedded = r#"{"id":"c1","embeddings":{"float":[[0.1,0.2]]},"texts":["hello"],"meta":{"api_version":{"version":"2"},"billed_units":{"input_tokens":2}},"response_type":"embeddings_by_type"}"#;
    assert_reads(JSON, embedded, "- 2 - 2 - -");
    let generated = r#"{"id":"c1","generations":[{"id":"g1","text":" Hi","finish_reason":"COMPLETE"}],"prompt":"x","meta":{"api_version":{"version":"1"},"billed_units":{"input_tokens":8,"output_tokens":20}}}"#;
    assert_reads(JSON, generated, "- 8 20 28 - -");
}

#[test]
fn ollama_thinks_and_calls_tools() {
    let lines = concat!(
        r#"{"model":"qwen3","created_at":"2025-01-01T00:00:00Z","message":{"role":"assistant","content":"","thinking":"eval_count"},"done":false}"#,
        "\r\n",
        r#"{"model":"qwen3","created_at":"2025-01-01T00:00:01Z","message":{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{"prompt_eval_count":1,"eval_count":2}}}]},"done":false}"#,
        "\r\n",
        r#"{"model":"qwen3","created_at":"2025-01-01T00:00:02Z","message":{"role":"assistant","content":"Hi"},"done":false}"#,
        "\r\n\r\n",
        r#"{"model":"qwen3","created_at":"2025-01-01T00:00:03Z","message":{"role":"assistant","content":""},"done_reason":"stop","done":true,"total_duration":500000000,"load_duration":60000000,"prompt_eval_count":14,"prompt_eval_duration":10000000,"eval_count":120,"eval_duration":400000000}"#,
    );
    assert_reads(LINES, lines, "qwen3 14 120 134 - -");
    assert_reads(LINES, &lines[..lines.len() - 120], "unknown");
    let body = "{\n  \"model\": \"all-minilm\",\n  \"embeddings\": [[0.01, -0.02]],\n  \"total_duration\": 14143917,\n  \"prompt_eval_count\": 8\n}\n";
    assert_reads(JSON, body, "all-minilm 8 - 8 - -");
}

#[test]
fn llama_cpp_completion() {
    let body = r#"{"index":0,"content":"Hi","tokens":[],"id_slot":0,"stop":true,"model":"qwen","tokens_predicted":7,"tokens_evaluated":12,"generation_settings":{"n_predict":7},"prompt":"x","has_new_line":false,"truncated":false,"stop_type":"limit","timings":{"cache_n":8,"prompt_n":4,"predicted_n":7}}"#;
    assert_reads(JSON, body, "qwen 12 7 19 8 -");
}

#[test]
fn bedrock_converse_with_a_trace() {
    let body = r#"{"metrics":{"latencyMs":1275},"output":{"message":{"content":[{"toolUse":{"toolUseId":"t","name":"usage","input":{"usage":{"inputTokens":1,"outputTokens":1,"totalTokens":2}}}}],"role":"assistant"}},"stopReason":"tool_use","trace":{"guardrail":{"inputAssessment":{"x":{"invocationMetrics":{"usage":{"topicPolicyUnits":1}}}}}},"usage":{"cacheReadInputTokenCount":1024,"cacheReadInputTokens":1024,"cacheWriteInputTokenCount":0,"cacheWriteInputTokens":0,"inputTokens":30,"outputTokens":628,"serverToolUsage":{},"totalTokens":1682}}"#;
    assert_reads(JSON, body, "- 1054 628 1682 1024 -");
    let embedded =
        r#"{"embedding":[0.1,0.2],"embeddingsByType":{"float":[0.1,0.2]},"inputTextTokenCount":6}"#;
    assert_reads(JSON, embedded, "- 6 - 6 - -");
}
