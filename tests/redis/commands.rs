//! What a step asks of the server: no command more than it needs.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tower_limitry::engine::EngineBuilder;
use tower_limitry::{Books, Check, Limit, Meter, NewBalance, Usage};

use crate::redis::Server;
use crate::support::*;
use crate::{open, tokens};

const STEPS: u64 = 64;

/// How often each command was run since the last time.
fn commands(server: &Server) -> BTreeMap<String, u64> {
    let told = server.ask(&["INFO", "commandstats"]);
    let calls = told.lines().filter_map(|line| {
        let (command, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((command.to_owned(), rest.split(',').next()?.parse().ok()?))
    });
    let calls = calls.collect();
    server.ask(&["CONFIG", "RESETSTAT"]);
    calls
}

fn quarter() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    now.as_secs() / 900
}

fn check() -> Check {
    Check::of("ada").event_type("chat").estimate("total_tokens", 40)
}

async fn step(books: &Books, check: Check) {
    admitted(books, check).await.settle(Usage::of("total_tokens", 33)).await.unwrap();
}

/// All that a check and its settlement ask for, and how often in so many of them.
async fn asked_by(builder: EngineBuilder, charges: bool, held: bool) -> BTreeMap<String, u64> {
    let server = Server::start();
    let books = open(builder, &server.url(), "p");
    let check = || match charges {
        true => check().charge("credits", |usage| usage.value("total_tokens")),
        false => check(),
    };
    let other = held.then_some(admitted(&books, check()).await);
    // The first of a customer tells keys how long they live.
    for _ in 0..4 {
        step(&books, check()).await;
    }
    let mut asked = loop {
        let begun = quarter();
        commands(&server);
        for _ in 0..STEPS {
            step(&books, check()).await;
        }
        let asked = commands(&server);
        // The first event of a quarter of an hour asks for more.
        if quarter() == begun {
            break asked;
        }
    };
    drop(other);
    // Of others than steps, and of some steps alone: ids whose time is over, and events that are too many.
    let seldom = ["info", "config|resetstat", "zrem", "zrangebyscore", "xlen"];
    for (command, most) in seldom.into_iter().zip([1, 1, STEPS * 2, STEPS * 2, STEPS]) {
        let times = asked.remove(command).unwrap_or_default();
        assert!(times <= most, "{command}: {times} times");
    }
    asked
}

fn each(commands: &[(&str, u64)]) -> BTreeMap<String, u64> {
    commands.iter().map(|(command, times)| ((*command).to_owned(), times * STEPS)).collect()
}

const ORDINARY: [(&str, u64); 10] = [
    ("evalsha", 2),
    ("hdel", 1),
    ("hget", 2),
    ("hincrby", 2),
    ("hmget", 2),
    ("hset", 2),
    ("time", 2),
    ("xadd", 1),
    ("zadd", 2),
    ("zmscore", 1),
];

#[tokio::test]
async fn a_step_takes_no_command_more_than_it_needs_however_many_limits_there_are() {
    let limits = |builder: EngineBuilder| {
        builder
            .limit(Limit::per_month("month", "tokens", u32::MAX))
            .limit(Limit::per_day("day", "tokens", u32::MAX))
            .limit(Limit::per_day("shared", "tokens", 1_000_000).alert_at([90]))
    };
    let one = tokens().limit(Limit::per_month("month", "tokens", u32::MAX));
    assert_eq!(asked_by(one, false, false).await, each(&ORDINARY));
    assert_eq!(asked_by(limits(tokens()), false, false).await, each(&ORDINARY));
    // While another request holds something, too.
    assert_eq!(asked_by(limits(tokens()), false, true).await, each(&ORDINARY));
    let mut with_balance = ORDINARY.to_vec();
    with_balance.push(("rpush", 1));
    let credits = || NewBalance::new("credits").initial(1_000_000);
    for held in [false, true] {
        let builder = limits(tokens()).default_balance(credits());
        assert_eq!(asked_by(builder, true, held).await, each(&with_balance));
    }
    // What is set aside and given is not the same on all.
    let mut two_meters = ORDINARY.to_vec();
    two_meters[3].1 = 4;
    let builder = limits(tokens()).meter(Meter::count("requests")).limit(Limit::per_day(
        "requests",
        "requests",
        u32::MAX,
    ));
    assert_eq!(asked_by(builder, false, false).await, each(&two_meters));
}
