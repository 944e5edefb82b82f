//! Bodies that pass compressed are read through a decoder on the side.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::Response;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::Value;
use tower_limitry::Usage;
use tower_limitry::usage::{self, Measure, Measured, Watch};

use super::{events, line};

const LAST: &str = r#"{"model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#;
const READ: &str = "m 5 2 7 - -";

/// `{"model":"m","usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}`
const BROTLI: &str = "1b4f00808cc374a33d7f84726c561182db525f8887638b86743c6a7beab0f439c6e9a03e9c6f8bce32f830397cde88cc3c9c4649df63f43dd57f8f3c1e99878822182390f5";
/// The same, with a checksum.
const ZSTD: &str = "28b52ffd2450450200e4037b226d6f64656c223a226d222c227573616765223a7b2270726f6d70745f746f6b656e73223a352c22636f6d706c6574696f6e322c22746f74616c377d7d0200340b9f2c2614d4e8480f";

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("hex"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("hex")).collect()
}

fn watch(encoding: &str, content_type: &str) -> Option<Box<dyn Watch>> {
    let response = Response::builder()
        .header("content-encoding", encoding)
        .header("content-type", content_type)
        .body(());
    let (head, ()) = response.expect("a valid head").into_parts();
    match usage::llm().measure(&head) {
        Measured::Body(watch) => Some(watch),
        _ => None,
    }
}

fn read(encoding: &str, content_type: &str, body: &[u8]) -> String {
    let read_in = |chunk| -> Option<Usage> {
        let mut watch = watch(encoding, content_type)?;
        body.chunks(chunk).for_each(|part| watch.data(part));
        watch.end()
    };
    let whole = read_in(body.len().max(1));
    assert!([1, 7, 4096].into_iter().all(|chunk| read_in(chunk) == whole));
    line(whole.as_ref())
}

/// A stream larger than any block or window of deflate.
fn stream() -> String {
    let pieces: Vec<_> = (0..5_000)
        .map(|at| {
            format!(
                "{{\"model\":\"m\",\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}",
                at * 7919
            )
        })
        .collect();
    let mut data: Vec<_> = pieces.iter().map(String::as_str).collect();
    data.extend([LAST, "[DONE]"]);
    events(&data)
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}

#[test]
fn gzip_and_both_kinds_of_deflate() {
    let text = stream();
    let events = "text/event-stream";
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(text.as_bytes()).expect("memory");
    let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
    raw.write_all(text.as_bytes()).expect("memory");
    assert_eq!(read("gzip", events, &gzip(&text)), READ);
    assert_eq!(read("GZip", events, &gzip(&text)), READ);
    assert_eq!(read("deflate", events, &zlib.finish().expect("memory")), READ);
    assert_eq!(read("deflate", events, &raw.finish().expect("memory")), READ);
    let (half, rest) = text.split_at(text.len() / 2);
    assert_eq!(read("gzip", events, &[gzip(half), gzip(rest)].concat()), READ);
}

#[test]
fn brotli_and_zstd() {
    let json = "application/json";
    assert_eq!(read("br", json, &bytes(BROTLI)), READ);
    assert_eq!(read("zstd", json, &bytes(ZSTD)), READ);
    let stream = compress_to_vec(stream().as_bytes(), CompressionLevel::Fastest);
    assert_eq!(read("zstd", "text/event-stream", &stream), READ);
    let skippable = b"\x53\x2a\x4d\x18\x05\0\0\0usage";
    assert_eq!(read("zstd", json, &[&skippable[..], &bytes(ZSTD), skippable].concat()), READ);
}

#[test]
fn what_cannot_be_decoded_is_unknown() {
    let json = "application/json";
    for encoding in ["gzip", "deflate", "br", "zstd"] {
        assert_eq!(read(encoding, json, LAST.as_bytes()), "unknown", "{encoding}");
        assert_eq!(read(encoding, json, b""), "unknown", "{encoding}");
        assert_eq!(read(encoding, json, &[0; 300]), "unknown", "{encoding}");
    }
    assert!(watch("compress", json).is_none());
    assert!(watch("gzip, br", json).is_none());
    assert_eq!(read("identity", json, LAST.as_bytes()), READ);
    // A window of 2 GiB.
    assert_eq!(read("zstd", json, b"\x28\xb5\x2f\xfd\x00\xa8\x01\0\0"), "unknown");
    let whole = gzip(&stream());
    assert_eq!(read("gzip", "text/event-stream", &whole[..whole.len() / 2]), "unknown");
    assert_eq!(read("gzip", "text/event-stream", &whole[..whole.len() - 8]), READ);
}

/// Four bytes can make 128 KiB: a mebibyte of them took everybody's time for minutes.
#[test]
fn what_grows_beyond_all_measure_is_read_no_further() {
    let block = |kind: u32, length: usize, content: &[u8]| {
        let header = (length as u32) << 3 | kind;
        [&header.to_le_bytes()[..3], content].concat()
    };
    let blanks = block(0b010, 128 * 1024, b" ");
    let last = block(0b001, LAST.len(), LAST.as_bytes());
    let frame = |count| [&b"\x28\xb5\x2f\xfd\x00\x38"[..], &blanks.repeat(count), &last].concat();
    assert_eq!(read("zstd", "application/json", &frame(4)), READ);
    assert_eq!(read("zstd", "application/json", &frame(100)), "unknown");
}

#[test]
fn a_json_body_is_read_too() {
    let json =
        usage::json(1024, |answer: &Value| Some(Usage::of("pages", answer["pages"].as_u64()?)));
    let (head, ()) = Response::builder()
        .header("content-encoding", "gzip")
        .body(())
        .expect("a head")
        .into_parts();
    let Measured::Body(mut watch) = json.measure(&head) else { panic!("not from the body") };
    watch.data(&gzip(r#"{"pages":3}"#));
    assert_eq!(watch.end(), Some(Usage::of("pages", 3)));
}

#[test]
fn a_client_that_leaves_is_charged_what_was_decoded() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&stream().as_bytes()[..100_000]).expect("memory");
    encoder.flush().expect("memory");
    let mut watch = watch("gzip", "text/event-stream").expect("read from the body");
    watch.data(encoder.get_ref());
    let (seen, is_final) = watch.seen();
    // The last one has begun.
    let pieces = stream()[..100_000].matches("data: {").count();
    let expected = Usage::of("output_tokens", pieces).value("output_tokens");
    assert_eq!((seen.and_then(|usage| usage.value("output_tokens")), is_final), (expected, false));
}
