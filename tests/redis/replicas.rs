//! A primary with a replica: found by sentinels, replaced when it is gone, waited for where that is
//! wanted.

use std::time::{Duration, Instant};

use tower_limitry::outbox::Outbox;
use tower_limitry::policy::{Credit, Timestamp};
use tower_limitry::store::Redis;
use tower_limitry::{Books, CheckError, NewBalance};

use crate::redis::{Server, prefix, until};
use crate::support::*;
use crate::{STUCK, ever, tokens};

fn replica_of(primary: &Server) -> Server {
    let replica =
        Server::start_with(&["--save", "", "--replicaof", "127.0.0.1", &primary.port.to_string()]);
    until("the replica follows", || {
        replica.ask(&["INFO", "replication"]).contains("master_link_status:up")
    });
    replica
}

#[tokio::test]
async fn the_primary_that_sentinels_name_is_used_and_so_is_its_successor() {
    let primary = Server::start();
    let replica = replica_of(&primary);
    let watched = primary.port.to_string();
    let settings: [&[&str]; 3] = [
        &["monitor", "main", "127.0.0.1", &watched, "1"],
        &["down-after-milliseconds", "main", "500"],
        &["failover-timeout", "main", "5000"],
    ];
    let sentinel = Server::start_sentinel(&settings, &[]);
    until("the sentinel knows the replica", || {
        sentinel.ask(&["INFO", "sentinel"]).contains("slaves=1")
    });
    // Another that is away does not matter.
    let url = format!("redis-sentinel://127.0.0.1:1,127.0.0.1:{}/main", sentinel.port);
    let store = Redis::options().timeout(Duration::from_millis(500)).open(&url).unwrap();
    let engine = tokens().limit(ever(1_000)).build_on(store).unwrap().backend().clone();
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let outbox = Outbox::builder(engine.clone())
        .backoff(Duration::from_millis(5), Duration::from_millis(100))
        .keep_delivered(HOUR)
        .open(folder.join(format!("{}.outbox", prefix())))
        .await
        .unwrap();
    let books = Books::new(outbox.clone());
    let run = async |count: u32| {
        let (mut done, end) = (0, Instant::now() + 2 * STUCK);
        while done < count {
            match books.check(ask("ada", 1)).await {
                Ok(permit) => {
                    permit.settle(total(1)).await.unwrap();
                    done += 1;
                }
                Err(CheckError::Failed(error)) => {
                    assert!(error.is_transient() && Instant::now() < end, "{error:?}");
                    tokio::task::yield_now().await;
                }
                Err(denied) => panic!("{denied:?}"),
            }
        }
    };
    run(20).await;
    primary.kill();
    run(20).await;
    outbox.flush(2 * STUCK).await.unwrap();
    outbox.replay_delivered(Timestamp::UNIX_EPOCH).await.unwrap();
    outbox.flush(2 * STUCK).await.unwrap();
    assert!(replica.ask(&["INFO", "replication"]).contains("role:master"));
    let usage = Books::new(engine).usage("ada").await.unwrap();
    assert_eq!(of(usage.limits(), "ever").used, amount(40));
}

#[tokio::test]
async fn a_credit_waits_for_replicas_and_no_longer_than_told() {
    let primary = Server::start();
    let open = |replicas: u32, at_most: Duration| {
        let options = crate::options("p").wait_for_replicas(replicas, at_most);
        let store = options.open(&primary.url()).unwrap();
        let builder = tokens().default_balance(NewBalance::new("credits"));
        builder.build_on(store).unwrap().erased()
    };
    // Nobody is there to wait for.
    let books = open(1, Duration::from_millis(50));
    let begun = Instant::now();
    books.credit(Credit::new("ada", "credits", 5)).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(50));
    let replica = replica_of(&primary);
    let books = open(1, STUCK);
    books.credit(Credit::new("ada", "credits", 6)).await.unwrap();
    let field = replica.ask(&[
        "EVAL",
        "return redis.call('HGET', KEYS[1], ARGV[1])",
        "1",
        "p:1:{46}:books:ada",
        "bcredits",
    ]);
    assert_eq!(field, "11000000");
}

const URL: &str = "LIMITRY_TEST_HOLDER";

fn briefly_held(url: &str) -> Books {
    let options = Redis::options().prefix("p").timeout(STUCK).hold_for(Duration::from_secs(2));
    tokens().limit(ever(100)).build_on(options.open(url).unwrap()).unwrap().erased()
}

/// What a child of the test below does until it is killed. Run by itself, it has nothing to do.
#[tokio::test]
async fn one_process_that_holds() {
    let Ok(url) = std::env::var(URL) else { return };
    let _permit = admitted(&briefly_held(&url), ask("ada", 60)).await;
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_hold_is_renewed_while_its_request_runs_and_ends_with_its_process() {
    let server = Server::start();
    let mut holder = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "replicas::one_process_that_holds"])
        .env(URL, server.url())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let due = || {
        let script = "return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')[2] or '0'";
        let due = server.ask(&["EVAL", script, "1", "p:1:{46}:due:ada"]);
        due.parse::<u64>().unwrap()
    };
    until("it holds", || due() > 0);
    let first = due();
    until("it is renewed, and again", || due() > first + 2_500_000);
    let books = briefly_held(&server.url());
    assert_eq!(used_held(&books, "ada", "ever").await, (amount(0), amount(60)));
    holder.kill().unwrap();
    holder.wait().unwrap();
    let end = Instant::now() + STUCK;
    while used_held(&books, "ada", "ever").await.1 != amount(0) {
        assert!(Instant::now() < end, "the hold of a process that is gone stays");
    }
}
