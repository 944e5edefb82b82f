//! Anthropic.

use crate::{EVENTS, JSON, assert_reads};

fn stream(events: &[(&str, &str)]) -> String {
    events.iter().map(|(name, data)| format!("event: {name}\ndata: {data}\n\n")).collect()
}

const START: &str = r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":2679,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":3,"service_tier":"standard"}}}"#;
const PING: (&str, &str) = ("ping", r#"{"type": "ping"}"#);
const DELTA: (&str, &str) = (
    "content_block_delta",
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"I"}}"#,
);
const STOP: (&str, &str) = ("message_stop", r#"{"type":"message_stop"}"#);

#[test]
fn what_was_written_to_the_cache_is_counted_once() {
    let body = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","content":[{"type":"text","text":"Hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":21,"cache_creation_input_tokens":188086,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":188000,"ephemeral_1h_input_tokens":86},"output_tokens":393,"service_tier":"standard","server_tool_use":{"web_search_requests":2,"web_fetch_requests":0},"inference_geo":"not_available"},"container":null,"context_management":{"applied_edits":[{"type":"clear_tool_uses_20250919","cleared_input_tokens":50000}]}}"#;
    assert_reads(JSON, body, "claude-x 188107 393 188500 0 -");
}

#[test]
fn a_search_on_the_server_raises_the_input_at_the_end() {
    let tool = r#"{"type":"content_block_start","index":1,"content_block":{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{}}}"#;
    let found = r#"{"type":"content_block_start","index":2,"content_block":{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":[{"type":"web_search_result","title":"\"usage\": {\"input_tokens\": 1}","usage":{"input_tokens":1}}]}}"#;
    let delta = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"input_tokens":10682,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":510,"server_tool_use":{"web_search_requests":1}}}"#;
    let events = [
        ("message_start", START),
        PING,
        DELTA,
        DELTA,
        ("content_block_start", tool),
        ("content_block_start", found),
        PING,
        DELTA,
        ("content_block_stop", r#"{"type":"content_block_stop","index":2}"#),
        ("message_delta", delta),
        STOP,
    ];
    assert_reads(EVENTS, stream(&events), "claude-x 10682 510 11192 0 -");
    assert_reads(EVENTS, stream(&events).replace('\n', "\r\n"), "claude-x 10682 510 11192 0 -");
    // Without the lines that name events, and with blanks as some proxies put them.
    let data: Vec<_> = events.iter().map(|(_, data)| data.replace("\":", "\": ")).collect();
    let data: Vec<_> = data.iter().map(String::as_str).collect();
    assert_reads(EVENTS, crate::events(&data), "claude-x 10682 510 11192 0 -");
}

#[test]
fn several_deltas_are_running_totals() {
    let delta = |output: u32| {
        format!(r#"{{"type":"message_delta","delta":{{}},"usage":{{"output_tokens":{output}}}}}"#)
    };
    let (first, second) = (delta(40), delta(89));
    let events = [
        ("message_start", START),
        DELTA,
        ("message_delta", &first),
        DELTA,
        ("message_delta", &second),
        STOP,
    ];
    assert_reads(EVENTS, stream(&events), "claude-x 2679 89 2768 0 -");
}

#[test]
fn a_stream_that_is_cut_has_told_its_input() {
    let events = [("message_start", START), PING, DELTA, DELTA, DELTA, DELTA];
    assert_reads(EVENTS, stream(&events), "claude-x 2679 3 2682 0 -");
    assert_reads(EVENTS, stream(&events[1..]), "unknown");
}

#[test]
fn thinking_and_signatures_are_no_figures() {
    let thinking = r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"tokens: \"output_tokens\":5"}}"#;
    let signature = r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"EqQBCgIYAhIM1gbcDa9GJwZA2b3h"}}"#;
    let delta = r#"{"type":"message_delta","delta":{"stop_reason":"max_tokens"},"usage":{"output_tokens":1024,"output_tokens_details":{"thinking_tokens":900}}}"#;
    let events = [
        ("message_start", START),
        ("content_block_delta", thinking),
        ("content_block_delta", thinking),
        ("content_block_delta", signature),
        ("message_delta", delta),
        STOP,
    ];
    assert_reads(EVENTS, stream(&events), "claude-x 2679 1024 3703 0 900");
}
