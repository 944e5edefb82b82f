//! Row 3: however many processes ask, a limit lets through what it allows.

use futures_util::future::join_all;
use tower_limitry::{Books, CheckError};

use crate::host::*;
use crate::support::*;

/// So many processes with so many tasks each, for a limit of 100.
async fn race(processes: usize, tasks: usize, estimate: u32) {
    let host = Host::start().await;
    let processes: Vec<_> = (0..processes).map(|_| Books::new(host.process()).erased()).collect();
    let checks = processes.iter().flat_map(|books| (0..tasks).map(move |_| books));
    let answers = join_all(checks.map(|books| books.check(ask("ada", estimate)))).await;
    let mut permits = Vec::new();
    for answer in answers {
        match answer {
            Ok(permit) => permits.push(permit),
            Err(CheckError::Denied(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(permits.len() as u32, 100 / estimate);
    let held = 100 / estimate * estimate;
    assert_eq!(used_held(&host.books, "ada", "daily").await, (amount(0), amount(held)));
    join_all(permits.into_iter().map(|permit| permit.settle(total(estimate)))).await;
    assert_eq!(used_held(&host.books, "ada", "daily").await, (amount(held), amount(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_never_spend_more_than_one_limit_allows() {
    for _ in 0..times(5, 200) {
        race(3, 100, 1).await;
        race(3, 100, 7).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_never_spend_more_than_there_are_credits() {
    let host = Host::start().await;
    let processes: Vec<_> = (0..3).map(|_| Books::new(host.process()).erased()).collect();
    let check = || {
        tower_limitry::Check::of("ada")
            .estimate("cost", 30)
            .charge("credits", |usage| usage.value("cost"))
    };
    let checks = processes.iter().flat_map(|books| (0..50).map(move |_| books.check(check())));
    let permits: Vec<_> = join_all(checks).await.into_iter().filter_map(Result::ok).collect();
    assert_eq!(permits.len(), 33, "1,000 credits at 30 each");
    let balance = host.books.balance("ada", "credits").await.unwrap().unwrap();
    assert_eq!((balance.held(), balance.available()), (amount(990), amount(10)));
    let used = || tower_limitry::Usage::of("cost", 20);
    join_all(permits.into_iter().map(|permit| permit.settle(used()))).await;
    assert_eq!(current(&host.books, "ada", "credits").await, amount(1_000 - 33 * 20));
}
