//! OpenAI and Azure.

use crate::{EVENTS, JSON, assert_reads, events};

#[test]
fn chat_with_the_keys_in_another_order_pretty_printed() {
    let body = r#"{
        "usage": {
            "completion_tokens_details": { "accepted_prediction_tokens": 3, "rejected_prediction_tokens": 2, "audio_tokens": 0, "reasoning_tokens": 64 },
            "total_tokens": 118,
            "prompt_tokens_details": { "audio_tokens": 0, "cached_tokens": 0 },
            "completion_tokens": 99,
            "prompt_tokens": 19
        },
        "choices": [ { "message": { "content": "\u007b\"usage\": {\"total_tokens\": 1}}", "role": "assistant" }, "finish_reason": "stop", "index": 0 } ],
        "service_tier": "default",
        "model": "o4\u002dmini",
        "object": "chat.completion"
    }"#;
    assert_reads(JSON, body, "o4-mini 19 99 118 0 64");
    assert_reads(JSON, body.replace('\n', "\r\n"), "o4-mini 19 99 118 0 64");
}

#[test]
fn chat_that_calls_a_tool_with_usage_in_its_arguments() {
    let body = r#"{"object":"chat.completion","model":"gpt-x","choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"report","arguments":"{\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1,\"total_tokens\":2}}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":82,"completion_tokens":17,"total_tokens":99}}"#;
    assert_reads(JSON, body, "gpt-x 82 17 99 - -");
    let head = r#""object":"chat.completion.chunk","model":"gpt-x""#;
    let piece = |arguments: &str| {
        format!(
            r#"{{{head},"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":0,"function":{{"arguments":"{arguments}"}}}}]}},"finish_reason":null}}],"usage":null}}"#
        )
    };
    let pieces = [r#"{\""#, r#"usage\":{\"total_"#, r#"tokens\":"#, "7}}"].map(piece);
    let end = format!(
        r#"{{{head},"choices":[{{"index":0,"delta":{{}},"finish_reason":"tool_calls"}}],"usage":null}}"#
    );
    let last = format!(
        r#"{{{head},"choices":[],"usage":{{"prompt_tokens":82,"completion_tokens":17,"total_tokens":99}}}}"#
    );
    let mut data: Vec<_> = pieces.iter().map(String::as_str).collect();
    data.extend([&*end, &*last, "[DONE]"]);
    assert_reads(EVENTS, events(&data), "gpt-x 82 17 99 - -");
    assert_reads(EVENTS, events(&data[..data.len() - 2]), "unknown");
}

#[test]
fn legacy_completion_stream() {
    let piece = r#"{"id":"cmpl-1","object":"text_completion","created":1,"choices":[{"text":" a","index":0,"logprobs":null,"finish_reason":null}],"model":"gpt-3.5-turbo-instruct","usage":null}"#;
    let last = r#"{"id":"cmpl-1","object":"text_completion","created":1,"choices":[],"model":"gpt-3.5-turbo-instruct","usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}"#;
    let stream = events(&[piece, piece, piece, piece, last, "[DONE]"]);
    assert_reads(EVENTS, &stream, "gpt-3.5-turbo-instruct 5 7 12 - -");
    assert_reads(EVENTS, stream.replace('\n', "\r\n"), "gpt-3.5-turbo-instruct 5 7 12 - -");
}

fn named_events(events: &[&str]) -> String {
    let name = |event: &str| {
        let rest = event.split_once("\"type\":\"").expect("a type").1;
        rest.split_once('"').expect("text").0.to_owned()
    };
    events.iter().map(|event| format!("event: {}\ndata: {event}\n\n", name(event))).collect()
}

#[test]
fn responses_that_end_early() {
    let created = r#"{"type":"response.created","sequence_number":0,"response":{"object":"response","status":"in_progress","error":null,"incomplete_details":null,"model":"gpt-x","output":[],"usage":null}}"#;
    let delta = r#"{"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_1","delta":"Hi"}"#;
    let incomplete = r#"{"type":"response.incomplete","sequence_number":9,"response":{"object":"response","status":"incomplete","error":null,"incomplete_details":{"reason":"max_output_tokens"},"model":"gpt-x","output":[{"type":"message","content":[{"type":"output_text","text":"Hi"}]}],"usage":{"input_tokens":26,"input_tokens_details":{"cached_tokens":0},"output_tokens":64,"output_tokens_details":{"reasoning_tokens":48},"total_tokens":90}}}"#;
    let failed = r#"{"type":"response.failed","sequence_number":9,"response":{"object":"response","status":"failed","error":{"code":"server_error","message":"The model failed."},"model":"gpt-x","output":[],"usage":null}}"#;
    let start = [created, delta, delta, delta, delta];
    assert_reads(
        EVENTS,
        named_events(&[&start[..], &[incomplete]].concat()),
        "gpt-x 26 64 90 0 48",
    );
    assert_reads(EVENTS, events(&[&start[..], &[incomplete]].concat()), "gpt-x 26 64 90 0 48");
    assert_reads(EVENTS, named_events(&[&start[..], &[failed]].concat()), "unknown");
    assert_reads(EVENTS, named_events(&start), "unknown");
}

#[test]
fn a_response_with_tools_and_their_outputs() {
    let body = r#"{"id":"resp_1","object":"response","created_at":1,"status":"completed","error":null,"model":"gpt-x","output":[{"type":"mcp_call","name":"stats","output":"{\"usage\":{\"input_tokens\":7,\"output_tokens\":8,\"total_tokens\":15}}"},{"type":"function_call","arguments":"{}","usage":{"total_tokens":5}},{"type":"message","content":[{"type":"output_text","text":"Done","annotations":[]}]}],"tools":[{"type":"function","name":"usage","parameters":{"type":"object","properties":{"usage":{"type":"object","properties":{"total_tokens":{"type":"integer"}}}}}}],"metadata":{"usage":"none"},"usage":{"input_tokens":328,"input_tokens_details":{"cached_tokens":256},"output_tokens":52,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":380},"user":null}"#;
    assert_reads(JSON, body, "gpt-x 328 52 380 256 0");
}

#[test]
fn embeddings_of_several_texts_in_base64() {
    let body = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":"zczMPQ=="},{"object":"embedding","index":1,"embedding":"zczMPg=="}],"model":"text-embedding-3-large","usage":{"prompt_tokens":11,"total_tokens":11}}"#;
    assert_reads(JSON, body, "text-embedding-3-large 11 - 11 - -");
}

#[test]
fn images_tell_what_their_input_was_made_of() {
    let edited = r#"{"created":1,"background":"opaque","data":[{"b64_json":"iVBORw0KGgo="}],"output_format":"png","quality":"low","size":"1024x1024","usage":{"input_tokens":389,"input_tokens_details":{"image_tokens":323,"text_tokens":66,"cached_tokens":64},"output_tokens":272,"output_tokens_details":{"image_tokens":272,"text_tokens":0},"total_tokens":661}}"#;
    assert_reads(JSON, edited, "- 389 272 661 64 -");
    let partial =
        r#"{"type":"image_edit.partial_image","b64_json":"iVBORw0KGgo=","partial_image_index":0}"#;
    let done = r#"{"type":"image_edit.completed","b64_json":"iVBORw0KGgo=","usage":{"total_tokens":661,"input_tokens":389,"output_tokens":272,"input_tokens_details":{"text_tokens":66,"image_tokens":323}}}"#;
    assert_reads(EVENTS, named_events(&[partial, done]), "- 389 272 661 - -");
}

#[test]
fn transcripts_and_speech() {
    let delta = r#"{"type":"transcript.text.delta","delta":"Hel"}"#;
    let done = r#"{"type":"transcript.text.done","text":"Hello.","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":0,"audio_tokens":14},"output_tokens":45,"total_tokens":59}}"#;
    assert_reads(EVENTS, events(&[delta, delta, delta, delta, done]), "- 14 45 59 - -");
    let audio = r#"{"type":"speech.audio.delta","audio":"UklGRg=="}"#;
    let spoken = r#"{"type":"speech.audio.done","usage":{"input_tokens":14,"output_tokens":101,"total_tokens":115}}"#;
    assert_reads(EVENTS, events(&[audio, audio, audio, audio, spoken]), "- 14 101 115 - -");
    let seconds = r#"{"task":"transcribe","language":"english","duration":8.47,"text":"Hello.","segments":[{"id":0,"tokens":[50364,2425],"avg_logprob":-0.28}],"usage":{"type":"duration","seconds":9}}"#;
    assert_reads(JSON, seconds, "unknown");
}

#[test]
fn azure_filters_before_within_and_after() {
    let before = r#"{"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}}}]}"#;
    let piece = r#"{"choices":[{"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}},"delta":{"content":"Hi"},"finish_reason":null,"index":0,"logprobs":null}],"created":1,"id":"chatcmpl-1","model":"gpt-4o-2024-11-20","object":"chat.completion.chunk","system_fingerprint":"fp_1","usage":null}"#;
    let usage = r#"{"choices":[],"created":1,"id":"chatcmpl-1","model":"gpt-4o-2024-11-20","object":"chat.completion.chunk","system_fingerprint":"fp_1","usage":{"completion_tokens":2,"completion_tokens_details":{"reasoning_tokens":0},"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":0},"total_tokens":11}}"#;
    let after = r#"{"choices":[{"content_filter_offsets":{"check_offset":44,"start_offset":44,"end_offset":198},"content_filter_results":{},"finish_reason":null,"index":0}],"created":0,"id":"","model":"","object":"","usage":null}"#;
    let stream = events(&[before, piece, piece, piece, piece, usage, after, "[DONE]"]);
    assert_reads(EVENTS, stream, "gpt-4o-2024-11-20 9 2 11 0 0");
    let body = r#"{"choices":[{"content_filter_results":{"hate":{"filtered":false}},"finish_reason":"stop","index":0,"message":{"content":"Hi","role":"assistant"}}],"model":"gpt-4o","object":"chat.completion","prompt_filter_results":[{"prompt_index":0}],"usage":{"completion_tokens":2,"prompt_tokens":9,"total_tokens":11}}"#;
    assert_reads(JSON, body, "gpt-4o 9 2 11 - -");
}
