//! How often does a request allocate, and what does a customer take?
//!
//! ```text
//! cargo bench --bench allocations             allocations of a request
//! cargo bench --bench allocations -- memory   bytes for each customer
//! ```
//!
//! A program of its own: counting would slow the others down.

#[path = "layer/cases.rs"]
mod cases;

use cases::{Case, Client};

fn main() {
    match std::env::args().skip(1).find(|argument| argument != "--bench").as_deref() {
        None => allocations(),
        Some("memory") => memory(),
        Some(_) => panic!("give memory or nothing"),
    }
}

/// How often a request of a known customer allocates, and how many bytes.
fn allocations() {
    println!("case              allocations   bytes   (a request, beyond the bare router)");
    let mut bare = (0.0, 0.0);
    for case in Case::ALL {
        const REQUESTS: u64 = 20_000;
        let mut client = Client::new(case.router(), 1_000, 1);
        client.meet_everybody();
        // The list of events is full, and grows no more.
        client.run(REQUESTS);
        let counted = allocation_counter::measure(|| client.run(REQUESTS));
        let per_request = |count: u64| count as f64 / REQUESTS as f64;
        let (count, bytes) = (per_request(counted.count_total), per_request(counted.bytes_total));
        if case == Case::Bare {
            bare = (count, bytes);
        }
        println!("{:<16}  {:>11.2}  {:>6.0}", case.name(), count - bare.0, bytes - bare.1);
    }
}

/// What a customer takes who has five counters, a balance and no open hold.
fn memory() {
    println!("case              bytes/customer");
    for case in [Case::Full, Case::Governor] {
        const CUSTOMERS: u64 = 1_000_000;
        let mut client = Client::new(case.router(), CUSTOMERS, 1);
        let counted = allocation_counter::measure(|| client.meet_everybody());
        println!("{:<16}  {:>14.1}", case.name(), counted.bytes_current as f64 / CUSTOMERS as f64);
    }
}
