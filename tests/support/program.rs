//! Starts a program of `examples/`, asks it over real HTTP, and stops it.

#![allow(dead_code, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// A running program, killed when dropped.
pub(crate) struct Program {
    child: Child,
    address: String,
}

impl Program {
    /// Starts it on a free port and waits until it listens.
    pub(crate) fn start(name: &str) -> Self {
        Self::start_on(name, "memory:")
    }

    /// The same with its books where that URL says.
    pub(crate) fn start_on(name: &str, backend: &str) -> Self {
        Self::start_with(name, &[("LIMITRY_BACKEND", backend)])
    }

    /// The same with these variables.
    pub(crate) fn start_with(name: &str, variables: &[(&str, &str)]) -> Self {
        let mut path = std::env::current_exe().unwrap();
        path.pop();
        path.pop();
        path.push("examples");
        path.push(name);
        let mut command = Command::new(&path);
        command.env("PORT", "0").envs(variables.iter().copied()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("{}: {error}; build it with cargo build --examples", path.display())
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().expect("the program says where it listens").unwrap();
        let address = first
            .strip_prefix("listening on http://")
            .and_then(|rest| rest.split_once(','))
            .map(|(address, _)| address.to_owned())
            .unwrap_or_else(|| panic!("no address in {first:?}"));
        // What follows is for people; it must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// Where it listens: host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The id of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it on the spot, whatever it is doing (SIGKILL).
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        customer: Option<&str>,
        body: &str,
    ) -> Answer {
        self.try_ask(method, path, customer, body).unwrap()
    }

    /// The same; `None` when the program went away before it had answered.
    pub(crate) fn try_ask(
        &self,
        method: &str,
        path: &str,
        customer: Option<&str>,
        body: &str,
    ) -> Option<Answer> {
        let customer = customer.map(|id| ("x-customer-id", id));
        self.try_ask_with(method, path, customer.as_slice(), body)
    }

    /// The same with these headers.
    pub(crate) fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        self.try_ask_with(method, path, headers, body).unwrap()
    }

    fn try_ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<Answer> {
        try_ask_at(&self.address, method, path, headers, body)
    }
}

impl Program {
    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Asks it to stop, and tells whether it did so in order.
    #[cfg(unix)]
    pub(crate) fn stop(mut self) -> bool {
        self.signal("-TERM");
        self.child.wait().unwrap().success()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {:?}", self.body))
    }
}

/// Sends a request and does not care what becomes of it.
pub(crate) fn send(address: &str, path: &str, customer: &str, body: &str) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let _gone = write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nx-customer-id: {customer}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len(),
    );
    let _gone = stream.read_to_string(&mut String::new());
}

/// One request to that address; `None` when nobody is there, or went away before it had answered.
pub(crate) fn try_ask_at(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{headers}\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        address,
        body.len(),
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let answer = Answer { status, headers, body: body.to_owned() };
    let told = answer.header("content-length").map(|length| length.parse().unwrap());
    // Cut off before its end, it was not answered.
    told.is_none_or(|told: usize| told == answer.body.len()).then_some(answer)
}
