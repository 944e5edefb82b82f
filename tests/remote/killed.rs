//! The server is killed under load and started again over its file: afterwards the books say what
//! happened, to the unit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::future::join_all;
use tower_limitry::policy::Credit;
use tower_limitry::{Books, CheckError, Limit, Meter, NewBalance, Usage};

use crate::host::*;
use crate::program::Program;
use crate::support::*;

const CUSTOMERS: usize = 8;
const FIRST: u32 = 100_000;

fn start(address: std::net::SocketAddr, file: &std::path::Path) -> Program {
    let (listen, books) = (address.to_string(), format!("sqlite:{}", file.display()));
    Program::start_with(
        "server",
        &[("LISTEN", &listen), ("LIMITRY_API_KEYS", KEY), ("LIMITRY_BACKEND", &books)],
    )
}

/// The answer is not heard, as the server is killed. Asked again, it once recorded a batch anew, for
/// it knew the batch and not its events.
#[tokio::test]
async fn a_batch_under_a_key_counts_once_though_its_server_was_killed() {
    let file = crate::file::fresh();
    let any = "127.0.0.1:0".parse().unwrap();
    let event = |tokens: u32| serde_json::json!({ "customerId": "ada", "eventType": "chat", "values": { "total_tokens": tokens } });
    let batch = serde_json::json!({ "events": [event(5), event(7), event(7)] }).to_string();
    let other = serde_json::json!({ "events": [event(1)] }).to_string();
    let bearer = format!("Bearer {KEY}");
    let post = |server: &Program, key: &str, body: &str| {
        let headers = [("authorization", &*bearer), ("idempotency-key", key)];
        let answer = server.ask_with("POST", "/v1/events/batch", &headers, body);
        assert_eq!(answer.status, 200);
        answer.body
    };
    let mut server = start(any, &file);
    let first = post(&server, "monday", &batch);
    server.kill();
    let mut server = start(any, &file);
    assert_eq!(post(&server, "monday", &batch), first);
    let admin = || Books::new(remote(client(server.address().parse().unwrap()))).erased();
    assert_eq!(events(&admin()).await.len(), 3);
    // Another key, or another body, is another batch.
    post(&server, "tuesday", &batch);
    assert_eq!(events(&admin()).await.len(), 6);
    server.kill();
    let mut server = start(any, &file);
    post(&server, "monday", &other);
    let admin = Books::new(remote(client(server.address().parse().unwrap()))).erased();
    assert_eq!(events(&admin).await.len(), 7);
    server.kill();
}

/// What came of one customer, as the processes know it.
#[derive(Default)]
struct Known {
    succeeded: AtomicU64,
    used: AtomicU64,
    credited: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_under_load_has_what_happened_and_nothing_else() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let file = crate::file::fresh();
    let mut server = start(address, &file);

    let admin = Books::new(remote(client(address))).erased();
    admin.put_meter(Meter::sum("tokens", "total_tokens")).await.unwrap();
    admin.put_limit(Limit::per_day("daily", "tokens", 10_000_000)).await.unwrap();
    for customer in 0..CUSTOMERS {
        let terms = NewBalance::new("paid").initial(FIRST);
        admin.create_balance(format!("acct_{customer}"), terms).await.unwrap();
    }

    let known: Arc<Vec<Known>> = Arc::new((0..CUSTOMERS).map(|_| Known::default()).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let mut outboxes = Vec::new();
    let mut tasks = Vec::new();
    for process in 0..2 {
        let outbox = opened(outbox(&remote(client(address))), &crate::file::fresh()).await;
        let queue = Books::new(outbox.clone());
        outboxes.push(outbox);
        for customer in 0..CUSTOMERS {
            let (queue, known) = (queue.clone(), Arc::clone(&known));
            let stop = Arc::clone(&stop);
            let mut random = Random(seed() ^ (process * CUSTOMERS + customer) as u64);
            tasks.push(tokio::spawn(async move {
                let name = format!("acct_{customer}");
                for number in 0_u64.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    if number % 20 == 19 {
                        // A payment is sent until its answer comes.
                        let payment = format!("payment-{process}-{number}");
                        let credit = || Credit::new(&*name, "paid", 7).reference(payment.as_str());
                        while queue.credit(credit()).await.is_err() {}
                        known[customer].credited.fetch_add(7, Ordering::SeqCst);
                    }
                    let check = ask(&name, 5).charge("paid", |usage| usage.value("total_tokens"));
                    match queue.check(check).await {
                        Ok(permit) if random.below(4) == 0 => drop(permit),
                        Ok(permit) => {
                            let used = 1 + random.below(9);
                            permit.settle(Usage::of("total_tokens", used)).await.unwrap();
                            known[customer].succeeded.fetch_add(1, Ordering::SeqCst);
                            known[customer].used.fetch_add(used, Ordering::SeqCst);
                        }
                        Err(CheckError::Failed(_)) => tokio::task::yield_now().await,
                        Err(denied) => panic!("{denied:?}"),
                    }
                }
            }));
        }
    }

    let total = || known.iter().map(|known| known.succeeded.load(Ordering::SeqCst)).sum::<u64>();
    for _ in 0..times(4, 100) {
        let before = total();
        eventually(async || (total() >= before + 100).then_some(())).await;
        server.kill();
        server = tokio::task::block_in_place(|| start(address, &file));
    }
    let before = total();
    eventually(async || (total() >= before + 50).then_some(())).await;
    stop.store(true, Ordering::SeqCst);
    join_all(tasks).await.into_iter().for_each(Result::unwrap);
    for outbox in &outboxes {
        outbox.flush(STUCK).await.unwrap();
        assert_eq!(outbox.stats().set_aside, 0);
        in_time(outbox.backend().quiet()).await;
    }

    assert_eq!(events(&admin).await.len() as u64, total(), "events are successful requests");
    eventually(async || (admin.open_holds().await.unwrap() == 0).then_some(())).await;
    for (customer, known) in known.iter().enumerate() {
        let name = format!("acct_{customer}");
        let used = known.used.load(Ordering::SeqCst);
        let credited = known.credited.load(Ordering::SeqCst);
        assert_eq!(used_held(&admin, &name, "daily").await, (amount(used), amount(0)), "{name}");
        let expected = u64::from(FIRST) + credited - used;
        assert_eq!(current(&admin, &name, "paid").await, amount(expected), "{name}");
        let ledger = ledger(&admin, &name, "paid", 100).await;
        assert_eq!(ledger[0].balance_after(), amount(expected), "{name}");
    }
    server.kill();
}
