//! What is read again while the server runs.

use crate::file::fresh;
use crate::program::Program;
use crate::support::until;

fn status(server: &Program, key: &str) -> (u16, String) {
    let bearer = format!("Bearer {key}");
    let answer = server.ask_with("GET", "/v1/limits", &[("authorization", &bearer)], "");
    let code = answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned();
    (answer.status, code)
}

#[test]
fn a_key_that_is_gone_from_the_file_is_revoked() {
    let file = fresh();
    std::fs::write(&file, "march\n\nboth\n").unwrap();
    let path = file.to_str().unwrap();
    let server = Program::start_with(
        "server",
        &[("LISTEN", "127.0.0.1:0"), ("LIMITRY_API_KEYS_FILE", path)],
    );
    assert_eq!(status(&server, "march").0, 200);
    assert_eq!(status(&server, "april"), (401, "invalid_api_key".into()));
    std::fs::write(&file, "april\nboth\n").unwrap();
    server.signal("-HUP");
    until(|| status(&server, "april").0 == 200);
    assert_eq!(status(&server, "march"), (401, "expired_api_key".into()));
    assert_eq!(status(&server, "both").0, 200);

    // A file without keys would lock everybody out; it leaves everything as it is.
    std::fs::write(&file, "\n").unwrap();
    server.signal("-HUP");
    std::fs::write(&file, "may\n").unwrap();
    server.signal("-HUP");
    until(|| status(&server, "may").0 == 200);
    assert_eq!(status(&server, "april"), (401, "expired_api_key".into()));
    assert!(server.stop());
}

#[test]
fn a_file_that_makes_no_sense_leaves_all_files_as_they_were() {
    let (keys, definitions) = (fresh(), fresh());
    std::fs::write(&keys, "march\n").unwrap();
    std::fs::write(&definitions, "").unwrap();
    let server = Program::start_with(
        "server",
        &[
            ("LISTEN", "127.0.0.1:0"),
            ("LIMITRY_API_KEYS_FILE", keys.to_str().unwrap()),
            ("LIMITRY_DEFINITIONS", definitions.to_str().unwrap()),
        ],
    );
    assert_eq!(status(&server, "march").0, 200);
    std::fs::write(&keys, "april\n").unwrap();
    std::fs::write(&definitions, "[limits.daily]\nname = \"Daily\"").unwrap();
    server.signal("-HUP");
    let meter = "[meters.calls]\nname = \"Calls\"\naggregation = \"count\"\nfield = \"*\"";
    std::fs::write(&keys, "march\nmay\n").unwrap();
    std::fs::write(&definitions, meter).unwrap();
    server.signal("-HUP");
    until(|| status(&server, "may").0 == 200);
    assert_eq!(status(&server, "april"), (401, "invalid_api_key".into()), "it was never taken");
    assert!(server.stop());
}

#[test]
fn a_key_that_is_named_as_revoked_stays_so() {
    let file = fresh();
    std::fs::write(&file, "leaked\nmarch\n").unwrap();
    let server = Program::start_with(
        "server",
        &[
            ("LISTEN", "127.0.0.1:0"),
            ("LIMITRY_API_KEYS_FILE", file.to_str().unwrap()),
            ("LIMITRY_REVOKED_API_KEYS", "leaked"),
        ],
    );
    assert_eq!(status(&server, "leaked"), (401, "expired_api_key".into()));
    std::fs::write(&file, "leaked\nmarch\napril\n").unwrap();
    server.signal("-HUP");
    until(|| status(&server, "april").0 == 200);
    assert_eq!(status(&server, "leaked"), (401, "expired_api_key".into()));
    assert!(server.stop());
}
