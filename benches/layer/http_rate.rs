//! Rates over a socket: the same server, bare and under the layer, taking turns.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::cases::Case;

const CONNECTIONS: usize = 8;
const ROUND: Duration = Duration::from_secs(1);
const ROUNDS: usize = 15;

/// Prints how many requests a second each server answers, and the ratio of their medians.
pub(crate) fn compare() {
    let runtime = Runtime::new().expect("a runtime");
    let cases = [Case::Bare, Case::Full, Case::FullWithHeaders];
    let servers = cases.map(|case| serve(&runtime, case));
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (server, rates) in servers.iter().zip(&mut rates) {
            rates.push(rate(*server));
        }
    }
    let medians = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[ROUNDS / 2]
    });
    println!("case              requests/s   of the bare router's");
    for (case, median) in cases.into_iter().zip(medians) {
        println!("{:<16}  {median:>10.0}   {:>6.3}", case.name(), median / medians[0]);
    }
}

fn serve(runtime: &Runtime, case: Case) -> SocketAddr {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let address = listener.local_addr().expect("an address");
    runtime.spawn(async move { axum::serve(listener, case.router()).await });
    address
}

/// Requests a second over a few connections that are kept alive.
fn rate(server: SocketAddr) -> f64 {
    let start = Instant::now();
    let answered: u64 = thread::scope(|scope| {
        let connections: Vec<_> =
            (0..CONNECTIONS).map(|customer| scope.spawn(move || ask(server, customer))).collect();
        connections.into_iter().map(|asked| asked.join().expect("no panic")).sum()
    });
    answered as f64 / start.elapsed().as_secs_f64()
}

/// One request after the other.
fn ask(server: SocketAddr, customer: usize) -> u64 {
    let mut connection = TcpStream::connect(server).expect("a connection");
    connection.set_nodelay(true).expect("an open socket");
    let request =
        format!("GET / HTTP/1.1\r\nhost: localhost\r\nx-customer: customer-{customer:015}\r\n\r\n");
    let start = Instant::now();
    let mut answered = 0;
    let mut answer = [0; 4096];
    while start.elapsed() < ROUND {
        connection.write_all(request.as_bytes()).expect("an open connection");
        let mut length = 0;
        while !answer[..length].ends_with(b"\r\n\r\nok") {
            let read = connection.read(&mut answer[length..]).expect("an open connection");
            assert!(read > 0, "the server closed the connection");
            length += read;
        }
        answered += 1;
    }
    answered
}
