//! Connections that come to stay, and senders that take their time.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::*;

/// How many connections are opened at once.
const MANY: usize = 10_200;

/// Lets this process, and those that it starts, open as many files as the system permits. Answers how
/// many.
fn open_files() -> usize {
    let limits = || {
        let text = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let number = |at| line.split_whitespace().nth(at).unwrap().parse().unwrap_or(1 << 20);
        (number(0), number(1))
    };
    let (_, hard): (usize, usize) = limits();
    let to = format!("--nofile={hard}:{hard}");
    let me = format!("--pid={}", std::process::id());
    // Where there is no such program, it goes with what there is.
    let _ = Command::new("prlimit").args([me, to]).status();
    limits().0
}

/// Ten thousand idle connections, half of them in the middle of a head. The server has room for fewer.
#[test]
fn ten_thousand_idle_connections_keep_nobody_out() {
    // Some are for the other tests of this process.
    let many = MANY.min(open_files().saturating_sub(500));
    if many < MANY {
        println!("the system permits {many} connections, not {MANY}");
    }
    let room = (many * 9 / 10).to_string();
    let server = server(&[("LIMITRY_CONNECTIONS", &room)]);
    let before = most_memory(&server);
    let mut idle = Vec::with_capacity(many);
    for nth in 0..many {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        if nth % 2 == 0 {
            // Those that had to make room are closed already.
            let _closed = stream.write_all(b"POST /v1/events/record HTTP/1.1\r\nhost: x\r\nx-a: ");
        }
        idle.push(stream);
        // Also gives the server time to take them: what it does not the system turns away.
        if nth % 500 == 0 {
            serves_the_honest(&server);
        }
    }
    for _ in 0..20 {
        serves_the_honest(&server);
    }
    let each = (most_memory(&server) - before) / many;
    println!("{many} idle connections take {each} bytes each");
    assert!(each < 32 * 1024, "{each} bytes for each connection");
    drop(idle);
    serves_the_honest(&server);
}

#[test]
fn connections_that_ask_for_nothing_are_closed() {
    let server = server(&[("LIMITRY_IDLE_SECONDS", "1")]);
    let connect = || {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(STUCK)).unwrap();
        stream
    };
    let mut silent = connect();
    let mut slow = connect();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nx-a: ").unwrap();
    let mut again = connect();
    again.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert_eq!(status(&mut again), Some(200));
    let mut preface = connect();
    preface.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    for (name, stream) in
        [("silent", &mut silent), ("slow", &mut slow), ("again", &mut again), ("h2", &mut preface)]
    {
        let read = std::io::Read::read_to_end(stream, &mut Vec::new());
        // Closed, in order or not; what is left would be a timeout.
        let timed_out = read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "{name} stays open");
    }
    serves_the_honest(&server);
}

/// A head that comes letter by letter is no more than an idle connection.
#[test]
fn a_head_that_never_ends_is_given_up() {
    let server = server(&[("LIMITRY_IDLE_SECONDS", "1")]);
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nx-a: ").unwrap();
    let began = Instant::now();
    until(|| {
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(b"a").is_err()
    });
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    serves_the_honest(&server);
}

#[test]
fn bodies_that_never_end_are_given_up_and_hold_nobody_up() {
    let server = server(&[]);
    let before = most_memory(&server);
    let head = format!(
        "POST /v1/events/record HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\
         content-length: 2000000\r\n\r\n{{"
    );
    let mut slow: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.set_read_timeout(Some(STUCK)).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    serves_the_honest(&server);
    for stream in &mut slow {
        assert_eq!(status(stream), Some(408));
    }
    serves_the_honest(&server);
    let more = most_memory(&server) - before;
    assert!(more < 48 * 1024 * 1024, "{more} bytes more");
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

fn h2_preface() -> Vec<u8> {
    let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    preface.extend(frame(SETTINGS, 0, 0, &[]));
    preface
}

/// A head over HTTP/2 that goes on for ever, and requests that are taken back as soon as they are made.
#[test]
fn floods_of_frames_are_cut_off() {
    let server = server(&[]);
    let before = most_memory(&server);
    // GET of / by http, from the static table.
    let get = [0x82, 0x84, 0x86];
    let endless = std::iter::once(h2_preface())
        .chain([frame(HEADERS, 0, 1, &get)])
        .chain(std::iter::repeat_n(frame(CONTINUATION, 0, 1, &[0x82; 16_000]), 4_000));
    let reset = (0..200_000_u32).map(|nth| {
        let stream = 2 * nth + 1;
        let mut both = frame(HEADERS, END_HEADERS | END_STREAM, stream, &get);
        both.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
        both
    });
    let floods: [Box<dyn Iterator<Item = Vec<u8>>>; 2] =
        [Box::new(endless), Box::new(std::iter::once(h2_preface()).chain(reset))];
    for flood in floods {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_write_timeout(Some(STUCK)).unwrap();
        let is_cut = flood.into_iter().any(|bytes| stream.write_all(&bytes).is_err());
        assert!(is_cut, "all of it was taken");
        serves_the_honest(&server);
    }
    let more = most_memory(&server) - before;
    assert!(more < 48 * 1024 * 1024, "{more} bytes more");
}
