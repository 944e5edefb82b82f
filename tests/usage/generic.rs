//! Usage of any API, without code or with little.

use std::time::Duration;

use http::{HeaderMap, Response};
use serde::Deserialize;
use tower_limitry::usage::{self, Measure, Measured};
use tower_limitry::{Amount, Usage};

use super::{EVENTS, JSON, LINES, events, head, read_by, watch};

#[test]
fn a_json_pointer_reads_bodies_events_and_lines() {
    let pages = usage::json_pointer("/usage/pages");
    let read = |content_type, body: String| read_by(&pages, content_type, body);
    let body = r#"{"id":1,"pages":9,"usage":{"pages":12.5,"x":{"pages":3}}}"#;
    let expected = Some(Usage::of("pages", "12.5"));
    assert_eq!(read(JSON, body.to_owned()), expected);
    assert_eq!(read(EVENTS, events(&[r#"{"usage":{"pages":1}}"#, body, "{}", "[DONE]"])), expected);
    assert_eq!(read(LINES, format!("{{\"usage\":{{\"pages\":1}}}}\n{body}\n{{}}\n")), expected);
    assert_eq!(read(JSON, r#"{"usage":{"pages":"12.5"}}"#.to_owned()), expected);
    assert_eq!(read(JSON, r#"{"usage":{"pages":"many"}}"#.to_owned()), None);
    assert_eq!(read(JSON, r#"{"usage":{"pages":null}}"#.to_owned()), None);
    assert_eq!(read(JSON, r#"[{"usage":{"pages":1}}]"#.to_owned()), None);
}

/// As PHP escapes slashes and Python what is not ASCII. Such members were not found.
#[test]
fn keys_may_be_escaped() {
    let measure = usage::json_pointer("/größe/a~1b").value("quoted", "/a\"b");
    let body = r#"{"gr\u00f6\u00dfe":{"a\/b":7},"a\"b":8}"#;
    let expected = Some(Usage::of("a/b", 7).and("quoted", 8));
    assert_eq!(read_by(&measure, JSON, body), expected);
    assert_eq!(read_by(&measure, EVENTS, events(&[body])), expected);
    assert_eq!(read_by(&measure, LINES, format!("{body}\n")), expected);
    assert_eq!(read_by(&measure, JSON, r#"{"größe":{"a/b":7},"a\u0022b":8}"#), expected);
    let llm = read_by(&usage::llm(), JSON, r#"{"\u0075sage":{"total_tokens":9}}"#);
    assert_eq!(llm, Some(Usage::of("total_tokens", 9)));
}

/// It was as if it were not there.
#[test]
fn a_number_that_is_too_large_is_held_at_the_largest() {
    let nanoseconds = usage::json_pointer("/total_duration");
    let usage = read_by(&nanoseconds, JSON, r#"{"total_duration":14400000000000}"#).expect("usage");
    assert_eq!(usage.value("total_duration"), Some(Amount::MAX));
    assert!(usage.problem().is_some());
    let usage = read_by(&usage::json_pointer("/n"), LINES, "{\"n\":1}\n{\"n\":1e400}\n");
    assert_eq!(usage.and_then(|usage| usage.value("n")), Some(Amount::MAX));
}

#[test]
fn several_pointers_read_several_values() {
    let measure = usage::json_pointer("/meta/a~1b")
        .value("seconds", "/results/1/seconds")
        .value("first", "/results/0/seconds")
        .dimension("model", "/model");
    let body = r#"{"model":"m\"1","results":[{"seconds":0.25},{"seconds":1.5},{"seconds":9}],"meta":{"a/b":7}}"#;
    let usage = read_by(&measure, JSON, body).expect("usage");
    assert_eq!(usage.value("a/b"), Some(7.into()));
    assert_eq!(usage.value("seconds").map(|amount| amount.to_string()), Some("1.5".to_owned()));
    assert_eq!(usage.value("first").map(|amount| amount.to_string()), Some("0.25".to_owned()));
    assert_eq!(usage.dimensions().get("model"), Some("m\"1"));
    let stream = events(&[r#"{"model":"m"}"#, r#"{"results":[{"seconds":2}]}"#]);
    let usage = read_by(&measure, EVENTS, stream).expect("usage");
    assert_eq!(
        (usage.value("first"), usage.dimensions().get("model")),
        (Some(2.into()), Some("m"))
    );
}

#[test]
#[should_panic(expected = "begins with `/`")]
fn a_pointer_that_is_none_is_told_at_once() {
    let _ = usage::json_pointer("usage.total");
}

#[test]
fn a_closure_reads_the_final_object() {
    #[derive(Deserialize)]
    struct Done {
        pages: u64,
    }
    let measure = usage::final_json(100, |done: &Done| Some(Usage::of("pages", done.pages)));
    let expected = Some(Usage::of("pages", 3));
    assert_eq!(read_by(&measure, JSON, r#"{"pages":3}"#), expected);
    assert_eq!(
        read_by(&measure, EVENTS, events(&[r#"{"pages":1}"#, r#"{"pages":3}"#, "[DONE]"])),
        expected
    );
    assert_eq!(read_by(&measure, LINES, "{\"pages\":1}\n{\"pages\":3}\n"), expected);
    let long = format!("{{\"pages\":3,\"text\":\"{}\"}}", "x".repeat(100));
    assert_eq!(read_by(&measure, JSON, &long), None);
    assert_eq!(read_by(&measure, LINES, format!("{{\"pages\":1}}\n{long}\n")), None);
}

#[test]
fn headers_trailers_and_constants() {
    let response = Response::builder().header("x-credits", " 2.5 ").body(()).expect("a valid head");
    let (head, ()) = response.into_parts();
    let usage = |measure: &usage::Field| match measure.measure(&head) {
        Measured::Usage(usage) => Some(usage),
        Measured::Body(mut watch) => {
            watch.data(b"body");
            let mut trailers = HeaderMap::new();
            trailers.insert("x-tokens", 7.into());
            watch.trailers(&trailers);
            watch.end()
        }
        _ => None,
    };
    assert_eq!(usage(&usage::header("x-credits", "credits")), Some(Usage::of("credits", "2.5")));
    assert_eq!(usage(&usage::header("x-other", "credits")), None);
    assert_eq!(usage(&usage::trailer("x-tokens", "tokens")), Some(Usage::of("tokens", 7)));
    assert_eq!(usage(&usage::trailer("x-other", "tokens")), None);
    let constant = usage::constant("calls", 1).measure(&head);
    assert!(matches!(constant, Measured::Usage(usage) if usage == Usage::of("calls", 1)));
}

#[test]
fn bytes_and_frames_are_counted() {
    let count = |measure: usage::Count| {
        let mut watch = watch(&measure, "application/grpc");
        for frame in [&b"\0\0\0\0\x01a\0\0"[..], b"", b"\0\0\x02b", b"c"] {
            watch.data(frame);
        }
        watch.end()
    };
    assert_eq!(count(usage::bytes_out("bytes")), Some(Usage::of("bytes", 13)));
    assert_eq!(count(usage::frames("frames")), Some(Usage::of("frames", 3)));
}

#[tokio::test(start_paused = true)]
async fn time_is_measured_from_the_start() {
    let mut head = head(JSON);
    head.extensions.insert(usage::Started::now());
    tokio::time::advance(Duration::from_millis(1500)).await;
    let Measured::Body(mut watch) = usage::duration("seconds").measure(&head) else {
        panic!("not at the end");
    };
    tokio::time::advance(Duration::from_millis(250)).await;
    assert_eq!(watch.end(), Some(Usage::of("seconds", "1.75")));
}

#[test]
fn two_measures_make_one() {
    let both = (usage::llm(), (usage::bytes_out("bytes"), usage::constant("calls", 1)));
    let body = r#"{"model":"m","usage":{"total_tokens":7}}"#;
    let usage = read_by(&both, JSON, body).expect("usage");
    assert_eq!(usage.value("total_tokens"), Some(7.into()));
    assert_eq!(usage.value("bytes"), Usage::of("bytes", body.len()).value("bytes"));
    assert_eq!(usage.value("calls"), Some(1.into()));
    assert_eq!(usage.dimensions().get("model"), Some("m"));
}
