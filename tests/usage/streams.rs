//! Streams as they really come.

use proptest::prelude::*;
use tower_limitry::usage;

use super::{EVENTS, JSON, LINES, assert_reads, events, line, read_in, watch};

const PIECE: &str = r#"{"object":"chat.completion.chunk","model":"m","choices":[{"delta":{"content":"x"},"finish_reason":null}]}"#;
const LAST: &str = r#"{"model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#;
const READ: &str = "m 5 2 7 - -";

#[test]
fn lines_may_end_with_lf_cr_or_both() {
    let stream = events(&[PIECE, PIECE, PIECE, PIECE, LAST, "[DONE]"]);
    for end in ["\n", "\r", "\r\n"] {
        assert_reads(EVENTS, stream.replace('\n', end), READ);
    }
    let mixed = format!("data: {PIECE}\r\rdata: {PIECE}\n\r\ndata: {LAST}\r\n\rdata: [DONE]\n\n");
    assert_reads(EVENTS, mixed, READ);
}

#[test]
fn data_may_take_several_lines() {
    let pretty = "id: 7\nevent: x\ndata: {\"usage\": {\ndata:   \"prompt_tokens\": 5,\n: \"usage\": {\ndata\ndata:\"completion_tokens\": 2}}\nretry: 1\n\n";
    assert_reads(EVENTS, pretty, "- 5 2 7 - -");
}

#[test]
fn a_byte_order_mark_and_comments_are_skipped() {
    let comment = format!(": OPENROUTER PROCESSING\n\n: {{\"usage\":{LAST}\n\n: data: {LAST}\n\n");
    assert_reads(EVENTS, format!("\u{feff}data: {LAST}\n\n"), READ);
    assert_reads(EVENTS, format!("\u{feff}{comment}data: {LAST}\n\n{comment}"), READ);
    assert_reads(EVENTS, comment, "unknown");
    assert_reads(JSON, format!("\u{feff} \n{LAST}"), READ);
    assert_reads(LINES, format!("\u{feff}{LAST}\n"), READ);
}

#[test]
fn a_stream_may_end_anywhere() {
    let stream = events(&[PIECE, PIECE, LAST]);
    for cut in 1..=3 {
        assert_reads(EVENTS, &stream[..stream.len() - cut + 1], READ);
    }
    assert_reads(EVENTS, &stream[..stream.len() - 6], "unknown");
    assert_reads(LINES, LAST, READ);
}

#[test]
fn data_after_done_counts() {
    assert_reads(EVENTS, events(&[PIECE, "[DONE]", LAST]), READ);
    assert_reads(EVENTS, events(&[PIECE, LAST, "[DONE]", PIECE, "[DONE]"]), READ);
}

#[test]
fn an_event_that_is_named_message_is_as_one_without_a_name() {
    let pieces = events(&[PIECE; 6]).replace("data:", "event: message\ndata:");
    assert_reads(EVENTS, format!("{pieces}event: message\ndata: {LAST}\n\n"), READ);
    let mut watch = watch(&usage::llm(), EVENTS);
    watch.data(pieces.as_bytes());
    assert_eq!(watch.seen().0.and_then(|usage| usage.value("output_tokens")), Some(6.into()));
}

#[test]
fn other_fields_and_text_are_no_data() {
    let stream = format!("usage: {LAST}\nevent: {LAST}\n data: {LAST}\nDATA: {LAST}\n\n");
    assert_reads(EVENTS, stream, "unknown");
    assert_reads(EVENTS, "data: my usage of tokens\n\ndata: \"usage\":{\n\n", "unknown");
}

#[test]
fn a_bare_error_does_not_disturb_the_stream() {
    let error = r#"{"error":{"message":"overloaded","usage":{"total_tokens":99}}}"#;
    let stream = events(&[PIECE, PIECE, PIECE, LAST]);
    assert_reads(EVENTS, format!("{stream}{error}\n\n"), READ);
    assert_reads(EVENTS, format!("{error}\n\n{stream}"), READ);
    assert_reads(EVENTS, format!("{error}\n{stream}"), READ);
}

#[test]
fn a_wrong_content_type_is_seen_through() {
    assert_reads(JSON, events(&[PIECE, LAST]), READ);
    assert_reads("text/plain", format!(": hi\n\n{}", events(&[LAST])), READ);
    assert_reads(EVENTS, LAST, READ);
    assert_reads(EVENTS, LAST.replace(',', ",\n  "), READ);
    assert_reads("Text/Event-Stream;charset=UTF-8", events(&[LAST]), READ);
    assert_reads("application/vnd.api+json", LAST, READ);
}

#[test]
fn what_is_too_long_to_keep_is_still_read() {
    let text = "usage \\\" tokens { [ \\\\".repeat(10_000);
    let long = LAST.replacen('{', &format!("{{\"text\":\"{text}\","), 1);
    assert!(long.len() > 128 * 1024);
    assert_reads(EVENTS, events(&[PIECE, PIECE, PIECE, PIECE, &long]), READ);
    assert_reads(EVENTS, format!("data: {long}"), READ);
    assert_reads(LINES, format!("{PIECE}\n{PIECE}\n{PIECE}\n{PIECE}\n{long}\n{PIECE}\n"), READ);
    assert_reads(JSON, &long, READ);
    let deep = format!("{{\"deep\":{}{},{}", "[".repeat(100_000), "]".repeat(100_000), &LAST[1..]);
    assert_reads(JSON, deep, READ);
}

#[test]
fn a_client_that_leaves_is_charged_the_pieces_it_got() {
    let seen = |content_type, body: &str| {
        let mut watch = watch(&usage::llm(), content_type);
        body.as_bytes().chunks(7).for_each(|part| watch.data(part));
        let (usage, is_final) = watch.seen();
        (line(usage.as_ref()), is_final)
    };
    let role = r#"{"object":"chat.completion.chunk","model":"m","choices":[{"delta":{"role":"assistant","content":""}}]}"#;
    let chat = [role, PIECE, PIECE, PIECE, PIECE];
    assert_eq!(seen(EVENTS, &events(&chat)), ("m - 4 4 - -".to_owned(), false));
    assert_eq!(seen(EVENTS, &events(&[&chat[..], &[LAST]].concat())), (READ.to_owned(), true));
    let unfinished = format!("{}data: {LAST}\n", events(&chat));
    assert_eq!(seen(EVENTS, &unfinished), (READ.to_owned(), true));
    assert_eq!(seen(EVENTS, ": nothing yet\n\n"), ("unknown".to_owned(), false));

    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"c\",\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\n";
    let piece = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"x\"}}\n\n";
    let message = format!("{start}{}", piece.repeat(5));
    assert_eq!(seen(EVENTS, &message), ("c 9 5 14 - -".to_owned(), false));
    let end = "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":6}}\n\n";
    assert_eq!(seen(EVENTS, &format!("{message}{end}")), ("c 9 6 15 - -".to_owned(), true));

    let waited = format!("{}{}", ": waiting\n\n".repeat(9), events(&chat));
    assert_eq!(seen(EVENTS, &waited), ("m - 4 4 - -".to_owned(), false));

    let line = "{\"model\":\"o\",\"response\":\"x\",\"done\":false}\n";
    assert_eq!(seen(LINES, &line.repeat(6)), ("o - 6 6 - -".to_owned(), false));
    assert_eq!(seen(JSON, LAST), (READ.to_owned(), true));
    assert_eq!(seen(JSON, &LAST[..LAST.len() - 1]), (READ.to_owned(), false));
}

#[test]
fn pieces_are_counted_the_same_in_any_frames() {
    let text = |at: usize| {
        format!(
            "data: {{\"model\":\"m\",\"choices\":[{{\"delta\":{{\"content\":\"{at}\"}}}}]}}\n\n"
        )
    };
    let stream: String = (0..200).map(|at| text(at * at)).collect();
    for chunk in [1, 7, 64, 333, 4096, stream.len()] {
        let mut watch = watch(&usage::llm(), EVENTS);
        stream.as_bytes().chunks(chunk).for_each(|part| watch.data(part));
        assert_eq!(watch.seen().0.and_then(|usage| usage.value("output_tokens")), Some(200.into()));
    }
    let mut watch = watch(&usage::llm(), EVENTS);
    (0..200).for_each(|at| watch.data(text(at * at).as_bytes()));
    assert_eq!(watch.seen().0.and_then(|usage| usage.value("output_tokens")), Some(200.into()));
}

/// Several short events in a frame no longer than an earlier event counted as one.
#[test]
fn pieces_that_share_a_frame_count_each() {
    let text = "x".repeat(400);
    let start = format!("{{\"type\":\"message_start\",\"message\":{{\"model\":\"{text}\"}}}}");
    let piece = r#"{"type":"content_block_delta","delta":{"text":"x"}}"#;
    let mut watch = watch(&usage::llm(), EVENTS);
    watch.data(format!("event: message_start\n{}", events(&[&start])).as_bytes());
    for _ in 0..50 {
        let frame = format!("event: content_block_delta\n{}", events(&[piece])).repeat(3);
        watch.data(frame.as_bytes());
    }
    assert_eq!(watch.seen().0.and_then(|usage| usage.value("output_tokens")), Some(150.into()));
}

#[test]
fn an_error_within_a_stream_is_a_failure() {
    let failed = |content_type, body: &str| {
        let mut watch = watch(&usage::llm(), content_type);
        body.as_bytes().chunks(64).for_each(|part| watch.data(part));
        watch.end();
        watch.has_failed()
    };
    let pieces = events(&[PIECE, PIECE, PIECE, PIECE]);
    assert!(!failed(EVENTS, &pieces));
    assert!(!failed(EVENTS, &events(&[PIECE, LAST, "[DONE]"])));
    assert!(failed(EVENTS, &format!("{pieces}event: error\ndata: {{\"type\":\"error\"}}\n\n")));
    assert!(failed(
        EVENTS,
        &format!("{pieces}data: {{\"error\":{{\"code\":500}}}}\n\ndata: [DONE]\n\n")
    ));
    assert!(failed(EVENTS, &format!("{pieces}{{\"error\":{{\"code\":500}}}}\n\n")));
    assert!(failed(EVENTS, &format!("{pieces}data: {{\"object\":\"error\",\"code\":400}}\n\n")));
    assert!(failed(EVENTS, &format!("{pieces}event: response.failed\ndata: {{}}\n\n")));
    assert!(failed(EVENTS, &format!("{pieces}error: {{\"code\":500,\"message\":\"x\"}}\n\n")));
    assert!(failed(
        EVENTS,
        &format!("{pieces}{}", events(&[r#"{"x_groq":{"id":"r","error":"stopped"}}"#]))
    ));
    let cohere =
        r#"{"type":"message-end","delta":{"error":"x","finish_reason":"ERROR","usage":{}}}"#;
    assert!(failed(EVENTS, &format!("{pieces}event: message-end\n{}", events(&[cohere]))));
    for step in ["response.mcp_call.failed", "thread.run.step.failed"] {
        let of_a_step =
            format!("event: {step}\ndata: {{\"type\":\"{step}\",\"last_error\":{{}}}}\n\n");
        assert!(!failed(EVENTS, &format!("{pieces}{of_a_step}")), "{step}");
        assert!(!failed(EVENTS, &of_a_step), "{step}");
    }
    assert!(failed(LINES, "{\"error\":\"no such model\"}\n"));
    assert!(failed(JSON, "{\"error\":{\"message\":\"x\"}}"));
    for none in ["null", "\"\"", "false"] {
        let with_member = format!("{{\"error\":{none},\"choices\":[]}}");
        assert!(!failed(EVENTS, &events(&[&*with_member; 5])), "{none}");
        assert!(!failed(LINES, &format!("{with_member}\n").repeat(5)), "{none}");
        assert!(!failed(JSON, &with_member), "{none}");
    }
    assert!(!failed(JSON, "{\"error\":null,\"usage\":{\"input_tokens\":1}}"));
}

#[test]
fn an_error_is_noticed_wherever_it_stands_in_its_event() {
    let failed = |content_type, body: &str, cut: usize| {
        let mut watch = watch(&usage::llm(), content_type);
        let (start, end) = body.as_bytes().split_at(cut);
        watch.data(start);
        watch.data(end);
        watch.end();
        watch.has_failed()
    };
    let at_every_cut = |content_type, body: &str| {
        let whole = failed(content_type, body, 0);
        (1..body.len()).for_each(|cut| assert_eq!(failed(content_type, body, cut), whole, "{cut}"));
        whole
    };
    let head =
        r#"{"id":"gen-1","object":"chat.completion.chunk","created":1,"model":"m","provider":"p""#;
    let choice = r#""choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}"#;
    let errors = [
        format!(r#"{head},"error":{{"code":502,"message":"Provider disconnected"}},{choice}"#),
        format!("{head},{}", choice.replace("}]}", r#"}],"error" : "upstream"}"#)),
        format!("{head},{}", choice.replace("}]}", r#"}],"usage":{"total_tokens":3},"error":{}}"#)),
        r#"{"sequence_number":9,"type":"error","code":"server_error","message":"x"}"#.to_owned(),
        r#"{"sequence_number":9,"type":"response.failed","response":{"error":{"code":"x"}}}"#
            .to_owned(),
    ];
    for error in &errors {
        let stream = events(&[PIECE, PIECE, PIECE, PIECE, error, "[DONE]"]);
        assert!(at_every_cut(EVENTS, &stream), "{error}");
        assert!(at_every_cut(LINES, &format!("{PIECE}\n{PIECE}\n{PIECE}\n{PIECE}\n{error}\n")));
        assert!(at_every_cut(JSON, error), "{error}");
        // An event a frame, as most servers send them.
        let mut watch = watch(&usage::llm(), EVENTS);
        for data in [PIECE, PIECE, PIECE, PIECE, error, "[DONE]"] {
            watch.data(events(&[data]).as_bytes());
        }
        assert!(watch.has_failed(), "{error}");
    }
    let content = |text: &str| PIECE.replace("\"x\"", text);
    let none = [
        format!(r#"{head},"error":null,{choice}"#),
        format!(r#"{head},"error":"","errors":[{{}}],"last_error":{{}},{choice}"#),
        content(r#""error""#),
        content(r#""\"error\":{\"code\":500}""#),
        content(r#"[{"type":"error","error":{"code":500}}]"#),
        PIECE.replace("\"delta\":", r#""error":{"code":500},"delta":"#),
    ];
    for data in &none {
        let stream = events(&[PIECE, PIECE, PIECE, PIECE, data, LAST, "[DONE]"]);
        assert!(!at_every_cut(EVENTS, &stream), "{data}");
    }
}

/// Parts of which streams are made, good ones and bad ones.
fn parts() -> impl Strategy<Value = String> {
    let known = [
        "data: ",
        "data:",
        "event: error\n",
        "event: x\r\n",
        ": comment\n",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\",
        ",",
        ":",
        " ",
        "null",
        "\"usage\":",
        "\"model\":\"m\"",
        "1e3",
        "\"prompt_tokens\":5",
        "\"completion_tokens\":",
        "\u{feff}",
        "\"usageMetadata\":{",
        "\"promptTokenCount\":3}",
        "\"eval_count\":4",
        "\"response\":{",
        "\"message\":{\"usage\":{",
        "\"type\":\"message_delta\"",
        "\"type\":\"message_start\"",
        "\"input_tokens\":2",
        "[DONE]",
        LAST,
        PIECE,
    ];
    let known = prop::sample::select(known.map(str::to_owned).to_vec());
    prop_oneof![8 => known, 1 => "[a-z\\\\\"{}]{0,9}", 1 => Just(format!("data: {LAST}\n\n"))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_bytes_read_the_same_in_any_pieces(
        parts in prop::collection::vec(parts(), 0..60),
        noise in prop::collection::vec(any::<u8>(), 0..20),
        cuts in prop::collection::vec(1_usize..40, 1..20),
        content_type in prop::sample::select(vec![JSON, EVENTS, LINES]),
    ) {
        let mut body = parts.concat().into_bytes();
        body.extend(noise);
        let whole = read_in(&usage::llm(), content_type, &body, body.len().max(1));
        let mut watch = watch(&usage::llm(), content_type);
        let mut rest = &body[..];
        for cut in cuts.iter().cycle() {
            let (piece, behind) = rest.split_at(rest.len().min(*cut));
            watch.data(piece);
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(watch.end(), whole);
    }

    #[test]
    fn valid_json_reads_as_serde_reads_it(text in ".{0,40}", before in any::<bool>(), total in 0_u32..) {
        let usage = format!("\"usage\":{{\"total_tokens\":{total}}}");
        let other = format!("{}:[{{\"usage\":1,\"a\":{}}}]", serde_json::json!(format!("k{text}")), serde_json::json!(text));
        let body = if before { format!("{{{usage},{other}}}") } else { format!("{{{other},{usage}}}") };
        let value: serde_json::Value = serde_json::from_str(&body).expect("valid JSON");
        let read = read_in(&usage::llm(), JSON, body.as_bytes(), 3);
        let read = read.and_then(|usage| usage.value("total_tokens"));
        prop_assert_eq!(read.map(|total| total.to_string()), Some(value["usage"]["total_tokens"].to_string()));
    }
}
