//! The server against its own OpenAPI document: made-up requests, sound and unsound, find no answer
//! that the document does not describe, no 5xx, and nothing unsound that is taken.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

#[path = "support/program.rs"]
mod program;
use program::Program;

#[test]
fn made_up_requests_find_no_answer_outside_the_document() {
    let variables = [("LISTEN", "127.0.0.1:0"), ("LIMITRY_API_KEYS", "fuzz")];
    let server = Program::start_with("server", &variables);
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
    let is_long = std::env::var_os("LIMITRY_LONG").is_some_and(|value| value != "0");
    let (examples, seed) = if is_long { ("200", None) } else { ("5", Some("--seed=42")) };
    let output = Command::new(&python)
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/schemathesis.toml"))
        .arg("run")
        .arg(format!("http://{}/openapi.json", server.address()))
        .args(["-H", "Authorization: Bearer fuzz", "--phases", "coverage,fuzzing"])
        .args(["--max-examples", examples, "--generation-database", "none", "--no-color"])
        .args(seed)
        .output();
    let output = output.unwrap_or_else(|error| {
        panic!("{}: {error}; ./test installs it", python.display());
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let honest = server.ask_with("GET", "/v1/project", &[("authorization", "Bearer fuzz")], "");
    assert_eq!(honest.status, 200, "and the next honest request is served");
}
