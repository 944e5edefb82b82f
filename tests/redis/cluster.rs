//! A cluster: customers on all of its nodes, and a primary that is killed under load.

use std::time::{Duration, Instant};

use tower_limitry::outbox::Outbox;
use tower_limitry::policy::Timestamp;
use tower_limitry::store::Redis;
use tower_limitry::{Books, CheckError, Limit};

use crate::redis::{Cluster, fresh_on_cluster, prefix};
use crate::support::*;
use crate::{STUCK, ever, open, tokens};

#[tokio::test]
async fn definitions_and_counters_are_one_on_all_nodes() {
    let (url, prefix) = fresh_on_cluster();
    let [one, two] = [(); 2].map(|()| open(tokens(), &url, &prefix));
    for number in 0..40 {
        spend(&one, &format!("acct_{number}"), 10).await;
    }
    two.put_limit(ever(15)).await.unwrap();
    for number in 0..40 {
        let customer = format!("acct_{number}");
        assert_eq!(used(&one, &customer, "ever").await, amount(10), "{customer}");
        spend(&two, &customer, 5).await;
        denied(&one, ask(&customer, 1)).await;
    }
}

#[tokio::test]
async fn odd_customers_are_at_home_anywhere() {
    let (url, prefix) = fresh_on_cluster();
    let books = open(tokens().limit(Limit::per_day("daily", "tokens", 100)), &url, &prefix);
    for odd in ["{", "}", "{}", "a{b}c", "}{", "{17}", "ü\u{fe0f}", " ", "*"] {
        spend(&books, odd, 100).await;
        denied(&books, ask(odd, 1)).await;
    }
}

/// The primary of some of the customers is killed while they work, and its replica takes over. What
/// it had not handed on is delivered again.
#[tokio::test]
async fn books_are_whole_after_a_failover_under_load() {
    for _ in 0..times(1, 200) {
        failover().await;
    }
}

async fn failover() {
    let cluster = Cluster::start();
    let options = Redis::options().prefix(prefix()).timeout(Duration::from_secs(1));
    let end = Instant::now() + STUCK;
    // Where much else runs, six servers may take longer to answer first.
    let engine = loop {
        let store = options.clone().open(&cluster.url());
        if let Some(Ok(engine)) =
            store.ok().map(|store| tokens().limit(ever(1_000_000)).build_on(store))
        {
            break engine.backend().clone();
        }
        assert!(Instant::now() < end, "the cluster does not answer");
    };
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let outbox = Outbox::builder(engine.clone())
        .backoff(Duration::from_millis(5), Duration::from_millis(100))
        .delivery_timeout(Duration::from_secs(5))
        .keep_delivered(HOUR)
        .open(folder.join(format!("{}.outbox", prefix())))
        .await
        .unwrap();
    let books = Books::new(outbox.clone());
    let each = 30;
    let customers: Vec<String> = (0..12).map(|number| format!("acct_{number}")).collect();
    let tasks: Vec<_> = customers
        .iter()
        .map(|customer| {
            let (books, customer) = (books.clone(), customer.clone());
            tokio::spawn(async move {
                let end = Instant::now() + 2 * STUCK;
                let mut done = 0;
                while done < each {
                    match books.check(ask(&customer, 1)).await {
                        Ok(permit) => {
                            permit.settle(total(1)).await.unwrap();
                            done += 1;
                        }
                        Err(CheckError::Failed(error)) => {
                            assert!(error.is_transient(), "{error:?}");
                            assert!(Instant::now() < end, "{error:?}");
                            tokio::task::yield_now().await;
                        }
                        Err(denied) => panic!("{denied:?}"),
                    }
                }
            })
        })
        .collect();
    // In the middle of it.
    while outbox.stats().kept < 60 {
        tokio::task::yield_now().await;
    }
    cluster.nodes[0].kill();
    for task in tasks {
        task.await.unwrap();
    }
    outbox.flush(2 * STUCK).await.unwrap();
    outbox.replay_delivered(Timestamp::UNIX_EPOCH).await.unwrap();
    outbox.flush(2 * STUCK).await.unwrap();
    let books = Books::new(engine);
    for customer in &customers {
        let usage = books.usage(customer).await.unwrap();
        assert_eq!(of(usage.limits(), "ever").used.floor(), each, "{customer}");
    }
}
