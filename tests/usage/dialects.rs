//! What each API tells, in the one convention: model, input, output, total, cached, reasoning.

use tower_limitry::policy::Amount;
use tower_limitry::usage::{self, Measure};

use super::{EVENTS, JSON, LINES, assert_reads, events, line, read, read_by};

#[test]
fn openai_chat_completion() {
    let body = r#"{"id":"c","object":"chat.completion","model":"gpt-x","choices":[{"index":0,"message":{"role":"assistant","content":"\"usage\":{\"total_tokens\":7}"},"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":16,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":4}}}"#;
    assert_reads(JSON, body, "gpt-x 19 10 29 16 4");
}

#[test]
fn openai_chat_stream_tells_usage_in_its_last_chunk() {
    let piece = r#"{"object":"chat.completion.chunk","model":"gpt-x","choices":[{"delta":{"content":"Hi"}}],"usage":null}"#;
    let last = r#"{"object":"chat.completion.chunk","model":"gpt-x","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#;
    assert_reads(EVENTS, events(&[piece, piece, last, "[DONE]"]), "gpt-x 5 2 7 - -");
    assert_reads(EVENTS, events(&[piece, piece, "[DONE]"]), "unknown");
}

#[test]
fn openai_legacy_completion() {
    let body = r#"{"object":"text_completion","model":"babbage","choices":[{"text":"!","finish_reason":"length"}],"usage":{"prompt_tokens":8,"completion_tokens":16,"total_tokens":24}}"#;
    assert_reads(JSON, body, "babbage 8 16 24 - -");
}

#[test]
fn openai_responses_completed_and_incomplete() {
    let body = r#"{"object":"response","status":"completed","model":"gpt-x","output":[],"usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":8},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":64},"total_tokens":123},"tool_usage":{"image_gen":{"input_tokens":999}}}"#;
    assert_reads(JSON, body, "gpt-x 36 87 123 8 64");
    for end in ["completed", "incomplete"] {
        let stream = format!(
            "event: response.created\ndata: {{\"type\":\"response.created\",\"response\":{{\"model\":\"gpt-x\",\"usage\":null}}}}\n\n\
             event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}}\n\n\
             event: response.{end}\ndata: {{\"type\":\"response.{end}\",\"response\":{body}}}\n\n"
        );
        assert_reads(EVENTS, stream, "gpt-x 36 87 123 8 64");
    }
}

#[test]
fn openai_embeddings_have_no_output() {
    let body = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,-2e-3]}],"model":"embed-3","usage":{"prompt_tokens":8,"total_tokens":8}}"#;
    assert_reads(JSON, body, "embed-3 8 - 8 - -");
}

#[test]
fn openai_images_and_audio() {
    let image = r#"{"created":1,"data":[{"b64_json":"AAAA"}],"usage":{"total_tokens":100,"input_tokens":50,"output_tokens":50,"input_tokens_details":{"text_tokens":10,"image_tokens":40}}}"#;
    assert_reads(JSON, image, "- 50 50 100 - -");
    let event = r#"{"type":"image_generation.completed","b64_json":"AA","usage":{"total_tokens":100,"input_tokens":50,"output_tokens":50}}"#;
    assert_reads(EVENTS, events(&[event]), "- 50 50 100 - -");
    let text = r#"{"text":"Hello.","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"audio_tokens":14},"output_tokens":45,"total_tokens":59}}"#;
    assert_reads(JSON, text, "- 14 45 59 - -");
    let seconds = r#"{"text":"Hello.","usage":{"type":"duration","seconds":7}}"#;
    assert_reads(JSON, seconds, "unknown");
}

#[test]
fn azure_begins_with_what_its_filter_says() {
    let filter =
        r#"{"choices":[],"model":"","object":"","prompt_filter_results":[{"prompt_index":0}]}"#;
    let piece = r#"{"choices":[{"delta":{"role":"assistant","content":""}}],"model":"gpt-x"}"#;
    let last = r#"{"choices":[],"model":"gpt-x","usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#;
    assert_reads(EVENTS, events(&[filter, piece, last]), "gpt-x 3 4 7 - -");
}

#[test]
fn anthropic_message_has_its_cache_beside_the_input() {
    let body = r#"{"type":"message","model":"claude-x","content":[{"type":"text","text":"Hi"}],"stop_reason":"end_turn","usage":{"input_tokens":4,"cache_creation_input_tokens":100,"cache_read_input_tokens":2000,"output_tokens":15,"output_tokens_details":{"thinking_tokens":6}}}"#;
    assert_reads(JSON, body, "claude-x 2104 15 2119 2000 6");
    let usage = read(JSON, body).expect("usage");
    assert_eq!(usage.value("cache_write_tokens"), Some(100.into()));
}

#[test]
fn anthropic_deltas_override_each_figure_that_they_name() {
    let start = r#"{"type":"message_start","message":{"type":"message","model":"claude-x","usage":{"input_tokens":9,"cache_read_input_tokens":50,"cache_creation_input_tokens":7,"output_tokens":1}}}"#;
    let piece =
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}"#;
    let delta =
        |usage: &&str| format!(r#"{{"type":"message_delta","delta":{{}},"usage":{usage}}}"#);
    let stream = |usages: &[&str]| {
        let deltas: Vec<_> = usages.iter().map(delta).collect();
        let mut all = vec![start, piece, piece];
        all.extend(deltas.iter().map(String::as_str));
        all.push(r#"{"type":"message_stop"}"#);
        events(&all)
    };
    assert_reads(EVENTS, stream(&[r#"{"output_tokens":12}"#]), "claude-x 66 12 78 50 -");
    let with_zero = r#"{"output_tokens":12,"input_tokens":20,"cache_read_input_tokens":0}"#;
    assert_reads(EVENTS, stream(&[with_zero]), "claude-x 27 12 39 0 -");
    let with_null = r#"{"output_tokens":12,"input_tokens":null}"#;
    let two = [with_null, r#"{"output_tokens":13}"#];
    assert_reads(EVENTS, stream(&two), "claude-x 66 13 79 50 -");
}

#[test]
fn anthropic_compaction_is_billed() {
    let body = r#"{"type":"message","model":"claude-x","usage":{"input_tokens":23000,"output_tokens":1000,"iterations":[{"type":"compaction","input_tokens":180000,"output_tokens":3500},{"type":"message","input_tokens":23000,"output_tokens":1000}]}}"#;
    assert_reads(JSON, body, "claude-x 203000 4500 207500 - -");
}

#[test]
fn gemini_adds_thoughts_and_tools() {
    let body = r#"{"candidates":[{"content":{"parts":[{"text":"Hi"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":20,"candidatesTokenCount":5,"thoughtsTokenCount":30,"toolUsePromptTokenCount":100,"cachedContentTokenCount":16,"totalTokenCount":155},"modelVersion":"gemini-x"}"#;
    assert_reads(JSON, body, "gemini-x 120 35 155 16 30");
    let partial =
        r#"{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":6}}"#;
    assert_reads(JSON, partial, "- 6 - - - -");
}

#[test]
fn gemini_streams_as_events_and_as_one_array() {
    let chunk = |prompt: u32, answer: u32| {
        let total = prompt + answer;
        format!(
            r#"{{"candidates":[{{"content":{{}}}}],"usageMetadata":{{"promptTokenCount":{prompt},"candidatesTokenCount":{answer},"totalTokenCount":{total}}},"modelVersion":"gemini-x"}}"#
        )
    };
    let chunks = [chunk(15, 1), chunk(15, 4), chunk(13, 8)];
    let bare = r#"{"candidates":[{"content":{}}],"usageMetadata":{"trafficType":"ON_DEMAND"}}"#;
    let data: Vec<_> = chunks.iter().map(String::as_str).chain([bare]).collect();
    assert_reads(EVENTS, events(&data), "gemini-x 13 8 21 - -");
    assert_reads(EVENTS, events(&data).replace('\n', "\r\n"), "gemini-x 13 8 21 - -");
    assert_reads(JSON, format!("[{}]", data.join(",\r\n")), "gemini-x 13 8 21 - -");
    assert_reads(JSON, format!("[{}\n]\n", chunks[0]), "gemini-x 15 1 16 - -");
}

#[test]
fn gemini_interactions() {
    let body = r#"{"status":"completed","usage":{"total_tokens":327,"total_input_tokens":267,"total_cached_tokens":0,"total_output_tokens":3,"total_tool_use_tokens":0,"total_thought_tokens":57},"model":"gemini-x"}"#;
    assert_reads(JSON, body, "gemini-x 267 60 327 0 57");
}

#[test]
fn mistral_tells_usage_beside_the_last_content() {
    let piece = r#"{"object":"chat.completion.chunk","model":"mistral-x","choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
    let last = r#"{"object":"chat.completion.chunk","model":"mistral-x","choices":[{"delta":{"content":"."},"finish_reason":"stop"}],"usage":{"prompt_tokens":22,"total_tokens":30,"completion_tokens":8},"p":"abcdef"}"#;
    assert_reads(EVENTS, events(&[piece, last, "[DONE]"]), "mistral-x 22 8 30 - -");
}

#[test]
fn mistral_bills_sound_beside_the_prompt() {
    let body = r#"{"model":"voxtral-x","text":"Hi","usage":{"prompt_audio_seconds":3,"prompt_tokens":3,"total_tokens":389,"completion_tokens":11,"prompt_tokens_details":{"audio_tokens":375}}}"#;
    assert_reads(JSON, body, "voxtral-x 378 11 389 - -");
}

#[test]
fn cohere_versions_1_and_2() {
    let v1 = r#"{"text":"Hi","chat_history":[],"meta":{"api_version":{"version":"1"},"billed_units":{"input_tokens":58,"output_tokens":119},"tokens":{"input_tokens":69,"output_tokens":119}}}"#;
    assert_reads(JSON, v1, "- 69 119 188 - -");
    let v1_stream = format!(
        "{}\n{}\n",
        r#"{"is_finished":false,"event_type":"text-generation","text":"Hi"}"#.to_owned()
            .repeat(6).replace("}{", "}\n{"),
        format_args!(r#"{{"is_finished":true,"event_type":"stream-end","response":{v1}}}"#)
    );
    assert_reads("application/stream+json", v1_stream, "- 69 119 188 - -");
    let v2 = r#"{"id":"c","finish_reason":"COMPLETE","message":{"role":"assistant"},"usage":{"billed_units":{"input_tokens":5,"output_tokens":6},"tokens":{"input_tokens":71,"output_tokens":6}}}"#;
    assert_reads(JSON, v2, "- 71 6 77 - -");
    let v2_end = r#"{"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"billed_units":{"input_tokens":5,"output_tokens":6},"tokens":{"input_tokens":71,"output_tokens":6},"cached_tokens":64}}}"#;
    let v2_delta =
        r#"{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"Hi"}}}}"#;
    assert_reads(EVENTS, events(&[v2_delta, v2_delta, v2_delta, v2_end]), "- 71 6 77 64 -");
    let embedding =
        r#"{"embeddings":{"float":[[0.1]]},"meta":{"billed_units":{"input_tokens":2}}}"#;
    assert_reads(JSON, embedding, "- 2 - 2 - -");
}

#[test]
fn groq_tells_usage_in_its_own_member() {
    let piece = r#"{"object":"chat.completion.chunk","model":"llama-x","choices":[{"delta":{"content":"Hi"}}]}"#;
    let last = r#"{"object":"chat.completion.chunk","model":"llama-x","choices":[{"delta":{},"finish_reason":"stop"}],"x_groq":{"id":"r","usage":{"queue_time":0.1,"prompt_tokens":18,"completion_tokens":26,"total_tokens":44}}}"#;
    assert_reads(EVENTS, events(&[piece, piece, piece, piece, last]), "llama-x 18 26 44 - -");
}

#[test]
fn costs_are_read_where_they_are_told() {
    let cost = |usage: &str| {
        let body = format!(r#"{{"object":"chat.completion","choices":[],{usage}}}"#);
        let usage = read(JSON, body).expect("usage");
        (usage.value("cost"), usage.value("cost_micros"))
    };
    let tokens = r#""prompt_tokens":2,"completion_tokens":1,"total_tokens":3"#;
    let amount = |text: &str| Some(text.parse::<Amount>().expect("an amount"));
    let openrouter = format!(
        r#""usage":{{{tokens},"cost":0.0000036,"cost_details":{{"upstream_inference_cost":null}}}}"#
    );
    assert_eq!(cost(&openrouter), (amount("0.000004"), amount("3.6")));
    let perplexity = format!(
        r#""usage":{{{tokens},"cost":{{"input_tokens_cost":0.00001,"total_cost":0.00501}}}}"#
    );
    assert_eq!(cost(&perplexity), (amount("0.00501"), amount("5010")));
    let xai = format!(r#""usage":{{{tokens},"cost_in_usd_ticks":44168500}}"#);
    assert_eq!(cost(&xai), (amount("0.004417"), amount("4416.85")));
    let venice =
        format!(r#""usage":{{{tokens}}},"cost":{{"diem":0,"usd":0.00015780000000000001}}"#);
    assert_eq!(cost(&venice), (amount("0.000158"), amount("157.8")));
}

#[test]
fn deepseek_and_together_name_the_cache_their_own_way() {
    let body = |usage| {
        format!(
            r#"{{"object":"chat.completion","model":"m","choices":[],"usage":{{"prompt_tokens":359,"completion_tokens":25,"total_tokens":384,{usage}}}}}"#
        )
    };
    assert_reads(
        JSON,
        body(r#""prompt_cache_hit_tokens":256,"prompt_cache_miss_tokens":103"#),
        "m 359 25 384 256 -",
    );
    assert_reads(JSON, body(r#""cached_tokens":256"#), "m 359 25 384 256 -");
}

#[test]
fn reasoning_outside_of_the_completion_is_output() {
    let xai = r#"{"object":"chat.completion","model":"grok-x","choices":[],"usage":{"prompt_tokens":307,"completion_tokens":26,"total_tokens":560,"completion_tokens_details":{"reasoning_tokens":227}}}"#;
    assert_reads(JSON, xai, "grok-x 307 253 560 - 227");
    let google = r#"{"object":"chat.completion","model":"gemini-x","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":10,"total_tokens":119}}"#;
    assert_reads(JSON, google, "gemini-x 9 110 119 - -");
}

#[test]
fn what_is_missing_follows_from_the_total() {
    let of = |usage: &str| format!(r#"{{"model":"m","usage":{{{usage}}}}}"#);
    assert_reads(JSON, of(r#""completion_tokens":4,"total_tokens":10"#), "m 6 4 10 - -");
    assert_reads(JSON, of(r#""prompt_tokens":6,"total_tokens":10"#), "m 6 4 10 - -");
    assert_reads(JSON, of(r#""prompt_tokens":6,"completion_tokens":4"#), "m 6 4 10 - -");
    assert_reads(JSON, of(r#""total_tokens":10"#), "m - - 10 - -");
    assert_reads(JSON, of(r#""prompt_tokens":6"#), "m 6 - - - -");
}

#[test]
fn running_totals_are_never_added_up() {
    let chunk = |answer: u32, finish: &str| {
        format!(
            r#"{{"object":"chat.completion.chunk","model":"sonar","choices":[{{"delta":{{"content":"x"}},"finish_reason":{finish}}}],"usage":{{"prompt_tokens":8,"completion_tokens":{answer},"total_tokens":{}}}}}"#,
            8 + answer
        )
    };
    let chunks = [chunk(1, "null"), chunk(2, "null"), chunk(3, "null"), chunk(5, "\"stop\"")];
    let data: Vec<_> = chunks.iter().map(String::as_str).collect();
    assert_reads(EVENTS, events(&data).replace('\n', "\r\n"), "sonar 8 5 13 - -");
}

#[test]
fn ollama_lines_and_documents() {
    let piece = r#"{"model":"llama","message":{"role":"assistant","content":"Hi"},"done":false}"#;
    let last = r#"{"model":"llama","message":{"content":""},"done":true,"prompt_eval_count":26,"eval_count":298}"#;
    let lines = format!("{piece}\n{piece}\n{piece}\n{piece}\n{last}\n");
    assert_reads(LINES, &lines, "llama 26 298 324 - -");
    assert_reads(JSON, &lines, "llama 26 298 324 - -");
    assert_reads(JSON, last, "llama 26 298 324 - -");
    let all_cached = r#"{"model":"llama","response":"Hi","done":true,"eval_count":79}"#;
    assert_reads(JSON, all_cached, "llama - 79 79 - -");
    let embedded = r#"{"model":"minilm","embeddings":[[0.1,0.2]],"prompt_eval_count":8}"#;
    assert_reads(JSON, embedded, "minilm 8 - 8 - -");
}

#[test]
fn llama_cpp_native_and_chat() {
    let piece =
        r#"{"index":0,"content":"Hi","stop":false,"tokens_predicted":1,"tokens_evaluated":12}"#;
    let last = r#"{"index":0,"content":"","stop":true,"model":"qwen","tokens_predicted":40,"tokens_evaluated":12}"#;
    assert_reads(EVENTS, events(&[piece, piece, piece, piece, last]), "qwen 12 40 52 - -");
    let chat = r#"{"object":"chat.completion.chunk","model":"qwen","choices":[],"timings":{"cache_n":18},"usage":{"completion_tokens":7,"prompt_tokens":19,"prompt_tokens_details":{"cached_tokens":18},"total_tokens":26}}"#;
    assert_reads(EVENTS, events(&[chat]), "qwen 19 7 26 18 -");
}

#[test]
fn bedrock_converse_and_models() {
    let converse = r#"{"output":{"message":{}},"stopReason":"end_turn","usage":{"inputTokens":10,"outputTokens":4,"totalTokens":7365,"cacheReadInputTokens":0,"cacheWriteInputTokens":7351}}"#;
    assert_reads(JSON, converse, "- 7361 4 7365 0 -");
    let nova = r#"{"output":{},"usage":{"inputTokens":7,"outputTokens":53,"totalTokens":60,"cacheReadInputTokenCount":0,"cacheWriteInputTokenCount":0}}"#;
    assert_reads(JSON, nova, "- 7 53 60 0 -");
    let titan = r#"{"inputTextTokenCount":5,"results":[{"tokenCount":55,"outputText":"Hi"}]}"#;
    assert_reads(JSON, titan, "- 5 55 60 - -");
    let llama = r#"{"generation":"Hi","prompt_token_count":5,"generation_token_count":6}"#;
    assert_reads(JSON, llama, "- 5 6 11 - -");
}

#[test]
fn what_looks_like_usage_is_none() {
    let bodies = [
        r#"{"input_tokens":2095}"#,
        r#"{"object":"response.input_tokens","input_tokens":11}"#,
        r#"{"totalTokens":31,"totalBillableCharacters":96}"#,
        r#"{"name":"cachedContents/x","usageMetadata":{"totalTokenCount":9602}}"#,
        r#"{"object":"page","data":[{"results":[{"input_tokens":1000}]}],"usage":{"input_tokens":5}}"#,
        r#"{"object":"batch","model":"m","usage":{"input_tokens":9,"output_tokens":9,"total_tokens":18}}"#,
        r#"{"data":{"label":"k","usage":12.5,"limit":100}}"#,
        r#"{"usage":12.5}"#,
        r#"{"usage":"{\"total_tokens\":7}"}"#,
        r#"{"usage":[{"total_tokens":7}]}"#,
        r#"{"usage":{"web_search_requests":1}}"#,
        r#"{"tool_usage":{"input_tokens":4,"output_tokens":5}}"#,
        r#"{"usage":{"prompt_tokens":null,"completion_tokens":-1}}"#,
        r#"{"results":[{"index":0}],"meta":{"billed_units":{"search_units":1}}}"#,
        r#"{"error":{"message":"too many tokens","usage":{"total_tokens":5}}}"#,
        r#"{"choices":[{"usage":{"total_tokens":5}}]}"#,
        r#"{"done":true}"#,
        "{}",
        "[]",
        "",
        "null",
        "usage",
    ];
    for body in bodies {
        assert_reads(JSON, body, "unknown");
        assert_reads(EVENTS, events(&[body]), "unknown");
        assert_reads(LINES, format!("{body}\n"), "unknown");
    }
}

#[test]
fn alone_by_name_each_reads_its_own() {
    let openai = r#"{"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
    let anthropic = r#"{"usage":{"input_tokens":3,"output_tokens":4,"cache_read_input_tokens":2}}"#;
    let gemini = r#"{"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":4}}"#;
    let ollama = r#"{"prompt_eval_count":3,"eval_count":4}"#;
    let cohere = r#"{"meta":{"tokens":{"input_tokens":3,"output_tokens":4}}}"#;
    let bedrock = r#"{"usage":{"inputTokens":3,"outputTokens":4}}"#;
    let llama_cpp = r#"{"tokens_evaluated":3,"tokens_predicted":4}"#;
    let read = |measure: usage::Llm, body| line(read_by(&measure, JSON, body).as_ref());
    assert_eq!(read(usage::openai(), openai), "- 3 4 7 - -");
    assert_eq!(read(usage::anthropic(), anthropic), "- 5 4 9 2 -");
    assert_eq!(read(usage::gemini(), gemini), "- 3 4 7 - -");
    assert_eq!(read(usage::ollama(), ollama), "- 3 4 7 - -");
    assert_eq!(read(usage::cohere(), cohere), "- 3 4 7 - -");
    assert_eq!(read(usage::bedrock(), bedrock), "- 3 4 7 - -");
    assert_eq!(read(usage::llama_cpp(), llama_cpp), "- 3 4 7 - -");
    assert_eq!(read(usage::openai(), gemini), "unknown");
    assert_eq!(read(usage::ollama(), openai), "unknown");
    assert_eq!(read(usage::gemini(), openai), "unknown");
}

#[test]
fn other_content_is_not_looked_at() {
    let measured = usage::llm().measure(&super::head("text/html"));
    assert_eq!(format!("{measured:?}"), "Missing");
}
