use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::program::{Answer, Program};

pub(crate) const KEY: &str = "limitry_sk_of_the_tests";
/// Longer than anything takes that ends at all.
pub(crate) const STUCK: Duration = Duration::from_secs(60);

/// A server with one key, and these variables.
pub(crate) fn server(variables: &[(&str, &str)]) -> Program {
    let mut all = vec![("LISTEN", "127.0.0.1:0"), ("LIMITRY_API_KEYS", KEY)];
    all.extend(variables);
    Program::start_with("server", &all)
}

pub(crate) fn ask(server: &Program, method: &str, path: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {KEY}");
    server.ask_with(method, path, &[("authorization", &bearer)], body)
}

/// Whoever has a key and asks as one should is served, and soon.
pub(crate) fn serves_the_honest(server: &Program) {
    let began = Instant::now();
    let answer = ask(server, "POST", "/v1/limits/check", r#"{"customerId":"acct_42"}"#);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(began.elapsed() < Duration::from_secs(20), "after {:?}", began.elapsed());
}

/// The most memory that it has had so far, in bytes.
pub(crate) fn most_memory(server: &Program) -> usize {
    let path = format!("/proc/{}/status", server.id());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<usize>().unwrap() * 1024
}

/// Sends these bytes, as far as they are taken, and tells the status of the answer, if one came.
pub(crate) fn send_raw(server: &Program, bytes: impl Iterator<Item = Vec<u8>>) -> Option<u16> {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(STUCK)).unwrap();
    stream.set_write_timeout(Some(STUCK)).unwrap();
    for chunk in bytes {
        // It may have heard enough.
        if stream.write_all(&chunk).is_err() {
            break;
        }
    }
    let _gone = stream.shutdown(Shutdown::Write);
    status(&mut stream)
}

/// The status of the answer on this connection, if one comes.
pub(crate) fn status(stream: &mut TcpStream) -> Option<u16> {
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).ok()?;
    std::str::from_utf8(&answer).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

/// Waits until that is so.
pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < STUCK, "it does not come to be so");
        std::thread::sleep(Duration::from_millis(5));
    }
}
