//! What is no usage of this request, however much it looks like it.

use crate::{EVENTS, JSON, LINES, assert_reads, events};

#[test]
fn reports_and_jobs() {
    let bodies = [
        r#"{"object":"page","data":[{"object":"bucket","start_time":1,"end_time":2,"results":[{"object":"organization.usage.completions.result","input_tokens":1000,"output_tokens":500,"num_model_requests":5}]}],"has_more":false}"#,
        r#"{"object":"organization.usage.completions.result","model":"m","usage":{"input_tokens":5,"output_tokens":5,"total_tokens":10}}"#,
        r#"{"data":[{"starting_at":"2025-08-01T00:00:00Z","results":[{"uncached_input_tokens":1500,"cache_read_input_tokens":200,"output_tokens":500}]}],"has_more":false,"next_page":null}"#,
        r#"{"object":"fine_tuning.job","model":"m","trained_tokens":5768,"usage_metrics":null,"status":"succeeded"}"#,
        r#"{"id":"batch_1","object":"batch","endpoint":"/v1/responses","status":"completed","model":"m","request_counts":{"total":2,"completed":2,"failed":0},"usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3}}"#,
        r#"{"id":"msgbatch_1","type":"message_batch","processing_status":"ended","request_counts":{"processing":0,"succeeded":2}}"#,
        r#"{"object":"list","data":[{"object":"chat.completion","model":"m","usage":{"total_tokens":9}}],"has_more":false}"#,
        r#"{"data":{"id":"gen-1","model":"m","tokens_prompt":10,"tokens_completion":25,"native_tokens_prompt":10,"usage":0.0015,"total_cost":0.0015}}"#,
        r#"{"data":{"label":"k","usage":25.5,"usage_daily":2.5,"limit":100,"limit_remaining":74.5}}"#,
    ];
    for body in bodies {
        assert_reads(JSON, body, "unknown");
    }
    let results = concat!(
        r#"{"custom_id":"a","result":{"type":"succeeded","message":{"type":"message","model":"m","usage":{"input_tokens":10,"output_tokens":34}}}}"#,
        "\n",
        r#"{"id":"batch_req_1","custom_id":"b","response":{"status_code":200,"body":{"object":"chat.completion","model":"m","usage":{"prompt_tokens":22,"completion_tokens":2,"total_tokens":24}}},"error":null}"#,
        "\n",
    );
    assert_reads(LINES, results, "unknown");
}

#[test]
fn counting_tokenizing_moderating_and_ranking() {
    let bodies = [
        r#"{"input_tokens":2095,"context_management":{"original_input_tokens":70000}}"#,
        r#"{"object":"response.input_tokens","input_tokens":11}"#,
        r#"{"inputTokens":42}"#,
        r#"{"count":5,"max_model_len":4096,"tokens":[1,15043,29892,3186,29991],"token_strs":null}"#,
        r#"{"tokens":[8466,5169],"token_strings":["token","ize"],"meta":{"api_version":{"version":"1"}}}"#,
        r#"{"id":"modr-1","model":"omni-moderation-latest","results":[{"flagged":false,"categories":{"hate":false},"category_scores":{"hate":1.2e-5}}]}"#,
        r#"{"id":"r1","results":[{"index":1,"relevance_score":0.98}],"meta":{"api_version":{"version":"2"},"billed_units":{"search_units":1}}}"#,
        r#"{"usage":{"topicPolicyUnits":1,"contentPolicyUnits":1,"wordPolicyUnits":0},"action":"NONE","outputs":[],"assessments":[]}"#,
        r#"{"pages":[{"index":0,"markdown":"usage: 5 tokens"}],"model":"mistral-ocr","usage_info":{"pages_processed":1,"doc_size_bytes":3002}}"#,
        r#"{"models":[{"name":"llama","size":1,"details":{"parameter_size":"8B"}}]}"#,
    ];
    for body in bodies {
        assert_reads(JSON, body, "unknown");
    }
}

#[test]
fn answers_that_only_talk_of_usage() {
    let text = r#"{"object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"```json\n{\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n```"},"finish_reason":"stop"}]}"#;
    assert_reads(JSON, text, "unknown");
    let parsed = r#"{"object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","parsed":{"usage":{"total_tokens":3}},"usage":{"total_tokens":3}},"usage":{"total_tokens":3},"finish_reason":"stop"}],"tool_usage":{"total_tokens":3}}"#;
    assert_reads(JSON, parsed, "unknown");
    let piece = r#"{"object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"content":"data: {\"usage\":{\"total_tokens\":3}}\n\n"},"finish_reason":null}],"usage":null}"#;
    assert_reads(EVENTS, events(&[piece, piece, piece, piece, piece, "[DONE]"]), "unknown");
    let result = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"usage":{"total_tokens":3}}}"#;
    assert_reads(JSON, result, "unknown");
}
