//! What does the layer cost for each request, over a bare axum router and beside `tower_governor`?
//!
//! ```text
//! cargo bench --bench layer                  time, as ratios
//! cargo bench --bench layer -- http          rates over a socket
//! cargo bench --bench layer -- run CASE N [CUSTOMERS]   one case, for benches/instructions
//! ```

use std::thread;
use std::time::{Duration, Instant};

mod cases;
mod http_rate;

use cases::{Case, Client};

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] | ["time"] => time(),
        ["http"] => http_rate::compare(),
        ["run", case, requests] => run(case, requests, "10000"),
        ["run", case, requests, customers] => run(case, requests, customers),
        _ => panic!("time | http | run CASE N [CUSTOMERS]"),
    }
}

/// Nanoseconds that each case adds to a request, and their ratio to what its rival adds.
fn time() {
    println!("customers  threads  case              ns/request   added   of tower_governor's");
    for customers in [1, 10_000, 1_000_000] {
        let routers = Case::ALL.map(|case| {
            let router = case.router();
            Client::new(router.clone(), customers, 1).meet_everybody();
            router
        });
        for threads in [1, 2] {
            const ROUNDS: usize = 15;
            const REQUESTS: u64 = 20_000;
            let mut rounds = [const { Vec::new() }; Case::ALL.len()];
            // Taking turns, so that what else the machine does meets every case.
            for round in 0..ROUNDS {
                for (router, times) in routers.iter().zip(&mut rounds) {
                    let seed = round as u64;
                    times.push(run_on(threads, seed, router, customers, REQUESTS));
                }
            }
            let medians = rounds.map(|mut times| {
                times.sort_unstable();
                times[ROUNDS / 2].as_secs_f64() * 1e9 / REQUESTS as f64
            });
            let added = |case: Case| medians[case as usize] - medians[Case::Bare as usize];
            for case in Case::ALL {
                println!(
                    "{customers:>9}  {threads:>7}  {:<16}  {:>10.0}  {:>6.0}   {:>6.2}",
                    case.name(),
                    medians[case as usize],
                    added(case),
                    added(case) / added(rival(case)),
                );
            }
        }
    }
}

/// What a case has to be measured against: `tower_governor`, with headers if it has headers.
fn rival(case: Case) -> Case {
    match case {
        Case::FullWithHeaders | Case::GovernorWithHeaders => Case::GovernorWithHeaders,
        _ => Case::Governor,
    }
}

/// How long it takes until every thread has made so many requests.
fn run_on(
    threads: u64,
    seed: u64,
    router: &axum::Router,
    customers: u64,
    requests: u64,
) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 1..threads {
            let mut client = Client::new(router.clone(), customers, seed * threads + thread);
            scope.spawn(move || client.run(requests));
        }
        Client::new(router.clone(), customers, seed * threads).run(requests);
    });
    start.elapsed()
}

/// One case, so many times, to be counted from outside.
fn run(case: &str, requests: &str, customers: &str) {
    let named = Case::ALL.into_iter().find(|known| known.name() == case);
    let case = named.expect("the name of a case");
    let customers = customers.parse().expect("a number of customers");
    let mut client = Client::new(case.router(), customers, 1);
    client.meet_everybody();
    client.run(requests.parse().expect("a number of requests"));
}
