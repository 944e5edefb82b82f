//! More requests at once than there is room for, from several processes.

use std::process::{Command, Stdio};

use tower_limitry::{Books, CheckError, Limit};

use crate::redis::{Server, fresh};
use crate::support::*;
use crate::{ever, open, tokens};

/// How many of so many requests at once are admitted. What is admitted stays held.
async fn rush(books: &Books, customer: &str, requests: usize, estimate: u32) -> usize {
    let asking: Vec<_> = (0..requests)
        .map(|_| {
            let (books, check) = (books.clone(), ask(customer, estimate));
            tokio::spawn(async move {
                match books.check(check).await {
                    Ok(permit) => {
                        std::mem::forget(permit);
                        true
                    }
                    Err(CheckError::Denied(_)) => false,
                    Err(error) => panic!("{error:?}"),
                }
            })
        })
        .collect();
    let mut admitted = 0;
    for asked in asking {
        admitted += usize::from(asked.await.unwrap());
    }
    admitted
}

const URL: &str = "LIMITRY_TEST_REDIS";

/// What a child of the test below does. Run by itself, it has nothing to do.
#[tokio::test]
async fn one_process_of_a_rush() {
    let Ok(url) = std::env::var(URL) else { return };
    let books = open(tokens().limit(ever(100)), &url, "rush");
    let rounds = std::env::var("LIMITRY_TEST_ROUNDS").unwrap().parse::<usize>().unwrap();
    for round in 0..rounds {
        let estimate = if round % 2 == 0 { 1 } else { 7 };
        let count = rush(&books, &format!("acct_{round}"), 120, estimate).await;
        println!("\nadmitted {round} {count}");
    }
}

#[test]
fn three_processes_admit_just_as_many_as_there_is_room_for() {
    let server = Server::start();
    let rounds = times(20, 1_000) as usize;
    let children: Vec<_> = (0..3)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "rush::one_process_of_a_rush", "--nocapture"])
                .envs([(URL, server.url()), ("LIMITRY_TEST_ROUNDS", rounds.to_string())])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut admitted = vec![0; rounds];
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            if let Some(line) = line.strip_prefix("admitted ") {
                let (round, count) = line.split_once(' ').unwrap();
                admitted[round.parse::<usize>().unwrap()] += count.parse::<usize>().unwrap();
            }
        }
    }
    let expected: Vec<_> = (0..rounds).map(|round| if round % 2 == 0 { 100 } else { 14 }).collect();
    assert_eq!(admitted, expected);
}

#[tokio::test]
async fn first_requests_of_an_unknown_customer_are_one_customers() {
    let (url, prefix) = fresh();
    let builder = || tokens().limit(Limit::per_day("daily", "tokens", 10));
    let books = [(); 2].map(|()| open(builder(), &url, &prefix));
    for round in 0..times(50, 10_000) {
        let customer = format!("new_{round}");
        let (one, other) =
            tokio::join!(rush(&books[0], &customer, 32, 1), rush(&books[1], &customer, 32, 1));
        assert_eq!(one + other, 10, "round {round}");
    }
}
