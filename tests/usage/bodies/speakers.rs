//! Those who speak OpenAI's dialect, each with its own accent.

use crate::{EVENTS, JSON, assert_reads, events, read};

/// A stream of four pieces with this as their last members, and these further chunks.
fn stream(model: &str, members: &str, last: &[&str]) -> String {
    let piece = format!(
        r#"{{"id":"1","object":"chat.completion.chunk","created":1,"model":"{model}","choices":[{{"index":0,"delta":{{"content":"Hi"}},"finish_reason":null}}]{members}}}"#
    );
    let mut data = vec![&*piece; 4];
    data.extend(last);
    data.push("[DONE]");
    events(&data)
}

#[test]
fn groq_tells_it_twice() {
    let usage = r#"{"queue_time":0.04,"prompt_tokens":38,"prompt_time":0.001,"completion_tokens":6,"completion_time":0.01,"total_tokens":44,"total_time":0.011}"#;
    let last = format!(
        r#"{{"object":"chat.completion.chunk","model":"llama-x","system_fingerprint":"fp_1","choices":[{{"index":0,"delta":{{}},"finish_reason":"stop"}}],"x_groq":{{"id":"req_1","usage":{usage}}}}}"#
    );
    let again = format!(
        r#"{{"object":"chat.completion.chunk","model":"llama-x","choices":[],"usage":{usage},"x_groq":{{"id":"req_1"}}}}"#
    );
    assert_reads(EVENTS, stream("llama-x", "", &[&last]), "llama-x 38 6 44 - -");
    assert_reads(EVENTS, stream("llama-x", "", &[&last, &again]), "llama-x 38 6 44 - -");
    let body = format!(
        r#"{{"object":"chat.completion","model":"llama-x","choices":[],"usage":{usage},"usage_breakdown":{{"models":[{{"model":"other","usage":{{"total_tokens":1}}}}]}},"x_groq":{{"id":"req_1"}}}}"#
    );
    assert_reads(JSON, body, "llama-x 38 6 44 - -");
}

#[test]
fn openrouter_comments_and_costs() {
    let last = r#"{"id":"gen-1","provider":"Anthropic","model":"anthropic/claude-x","object":"chat.completion.chunk","created":1,"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null,"native_finish_reason":null}],"usage":{"prompt_tokens":12000,"completion_tokens":82,"total_tokens":12082,"cost":0.0123456789,"is_byok":false,"prompt_tokens_details":{"cached_tokens":10318,"cache_write_tokens":512,"audio_tokens":0},"cost_details":{"upstream_inference_cost":null,"upstream_inference_prompt_cost":0.01},"completion_tokens_details":{"reasoning_tokens":30,"image_tokens":0}}}"#;
    let comments = ": OPENROUTER PROCESSING\n\n".repeat(5);
    let body = format!("{comments}{}", stream("anthropic/claude-x", "", &[last]));
    assert_reads(EVENTS, &body, "anthropic/claude-x 12000 82 12082 10318 30");
    let usage = read(EVENTS, &body).expect("usage");
    let written = usage.value("cache_write_tokens").map(|amount| amount.to_string());
    let cost = usage.value("cost_micros").map(|amount| amount.to_string());
    assert_eq!((written.as_deref(), cost.as_deref()), (Some("512"), Some("12345.6789")));
}

#[test]
fn deepseek_keeps_the_connection_alive() {
    let usage = r#""usage":{"prompt_tokens":17,"completion_tokens":160,"total_tokens":177,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":140},"prompt_cache_hit_tokens":0,"prompt_cache_miss_tokens":17}"#;
    let last = format!(
        r#"{{"object":"chat.completion.chunk","model":"deepseek-reasoner","choices":[{{"index":0,"delta":{{"content":"","reasoning_content":null}},"finish_reason":"stop"}}],{usage}}}"#
    );
    let body = format!(
        ": keep-alive\n\n: keep-alive\n\n{}",
        stream("deepseek-reasoner", ",\"usage\":null", &[&last])
    );
    assert_reads(EVENTS, body, "deepseek-reasoner 17 160 177 0 140");
    // While a plain answer is worked on, empty lines come.
    let body = format!(
        "\n\n\n\n{{\"object\":\"chat.completion\",\"model\":\"deepseek-reasoner\",\"choices\":[],{usage}}}"
    );
    assert_reads(JSON, body, "deepseek-reasoner 17 160 177 0 140");
}

#[test]
fn xai_and_its_responses() {
    let usage = r#"{"prompt_tokens":41,"completion_tokens":104,"total_tokens":560,"prompt_tokens_details":{"text_tokens":41,"audio_tokens":0,"image_tokens":0,"cached_tokens":8},"completion_tokens_details":{"reasoning_tokens":415,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0},"num_sources_used":0}"#;
    let each = format!(",\"usage\":{usage}");
    let body = stream("grok-x", &each, &[]);
    assert_reads(EVENTS, body, "grok-x 41 519 560 8 415");
    let response = r#"{"object":"response","status":"completed","model":"grok-x","output":[],"usage":{"input_tokens":41,"input_tokens_details":{"cached_tokens":8},"output_tokens":519,"output_tokens_details":{"reasoning_tokens":415},"total_tokens":560,"num_server_side_tools_used":1}}"#;
    assert_reads(JSON, response, "grok-x 41 519 560 8 415");
}

#[test]
fn perplexity_repeats_running_totals() {
    let chunk = |output: u32| {
        format!(
            r#"{{"id":"1","model":"sonar-pro","created":1,"usage":{{"prompt_tokens":14,"completion_tokens":{output},"total_tokens":{},"search_context_size":"low","citation_tokens":9000,"num_search_queries":2}},"citations":["https://example.com/usage"],"object":"chat.completion.chunk","choices":[{{"index":0,"finish_reason":null,"message":{{"role":"assistant","content":"x"}},"delta":{{"role":"assistant","content":"x"}}}}]}}"#,
            14 + output
        )
    };
    let chunks: Vec<_> = [1, 2, 3, 5, 8, 13].map(chunk).into();
    let data: Vec<_> = chunks.iter().map(String::as_str).collect();
    assert_reads(EVENTS, events(&data).replace('\n', "\r\n"), "sonar-pro 14 13 27 - -");
}

#[test]
fn vllm_tells_as_it_goes() {
    let running = r#","usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3}"#;
    let last = r#"{"object":"chat.completion.chunk","model":"m","choices":[],"usage":{"prompt_tokens":9,"total_tokens":25,"completion_tokens":16,"prompt_tokens_details":null}}"#;
    assert_reads(EVENTS, stream("m", running, &[last]), "m 9 16 25 - -");
    assert_reads(EVENTS, stream("m", running, &[]), "m 9 3 12 - -");
    let body = r#"{"id":"1","object":"text_completion","model":"m","choices":[{"index":0,"text":"x","logprobs":null,"finish_reason":"length","stop_reason":null,"prompt_logprobs":null}],"service_tier":null,"usage":{"prompt_tokens":9,"total_tokens":25,"completion_tokens":16,"prompt_tokens_details":null},"kv_transfer_params":null}"#;
    assert_reads(JSON, body, "m 9 16 25 - -");
}

#[test]
fn together_and_mistral_beside_the_last_content() {
    let together = r#"{"object":"chat.completion.chunk","model":"m","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"eos","seed":7,"delta":{"token_id":128009,"role":"assistant","content":"","tool_calls":null}}],"usage":{"prompt_tokens":41,"completion_tokens":15,"total_tokens":56,"cached_tokens":0}}"#;
    assert_reads(EVENTS, stream("m", ",\"usage\":null", &[together]), "m 41 15 56 0 -");
    let mistral = r#"{"object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"content":""},"finish_reason":"length"}],"usage":{"prompt_tokens":12,"total_tokens":22,"completion_tokens":10,"num_cached_tokens":4,"prompt_tokens_details":{"cached_tokens":4}},"p":"abcdefghijklm"}"#;
    assert_reads(EVENTS, stream("m", ",\"p\":\"abcd\"", &[mistral]), "m 12 10 22 4 -");
}

#[test]
fn mistral_connectors_are_input() {
    let body = r#"{"object":"conversation.response","conversation_id":"conv_1","outputs":[{"type":"message.output","model":"mistral-x","content":"Hi"}],"usage":{"prompt_tokens":188,"completion_tokens":55,"total_tokens":7355,"connector_tokens":7112,"connectors":{"web_search":1}}}"#;
    assert_reads(JSON, body, "- 7300 55 7355 - -");
    let done = r#"{"type":"conversation.response.done","created_at":"2025-09-01T00:00:00Z","usage":{"prompt_tokens":188,"completion_tokens":55,"total_tokens":7355,"connector_tokens":7112,"connectors":{"web_search":1}}}"#;
    let delta = r#"{"type":"message.output.delta","content":"Hi","model":"mistral-x"}"#;
    assert_reads(EVENTS, events(&[delta, delta, delta, delta, done]), "mistral-x 7300 55 7355 - -");
}

#[test]
fn llama_cpp_chat_stream_with_timings() {
    let end = r#"{"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"created":1,"id":"1","model":"qwen","object":"chat.completion.chunk"}"#;
    let last = r#"{"choices":[],"created":1,"id":"1","model":"qwen","object":"chat.completion.chunk","usage":{"completion_tokens":7,"prompt_tokens":19,"total_tokens":26,"prompt_tokens_details":{"cached_tokens":18}},"timings":{"cache_n":18,"prompt_n":1,"prompt_ms":28.5,"predicted_n":7,"predicted_ms":210.1}}"#;
    assert_reads(EVENTS, stream("qwen", "", &[end, last]), "qwen 19 7 26 18 -");
}
