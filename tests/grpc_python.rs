//! `examples/grpc.rs`, called by Python's grpcio. `./test` builds the one and installs the other.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

#[path = "support/program.rs"]
mod program;
use program::Program;

#[test]
fn grpcio_reads_answers_and_refusals() {
    let program = Program::start("grpc");
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = project.join("target/python/bin/python");
    assert!(python.exists(), "there is no {}: ./test installs it", python.display());
    let output = Command::new(python)
        .arg(project.join("tests/python/grpc_client.py"))
        .arg(program.address())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
