//! Definitions that several processes change at once.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::Runtime;
use tower_limitry::backend::{Customer, MeterQuery};
use tower_limitry::policy::{Amount, Period};
use tower_limitry::{Books, Check, Engine, ErrorKind, Event, Limit, Meter};

use crate::redis::{Server, fresh, until};
use crate::support::*;
use crate::{ever, open, tokens};

const CUSTOMERS: [&str; 3] = ["ada", "bob", "eve"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_that_two_processes_add_at_once_hold_on_both() {
    for round in 0..times(20, 400) {
        let (url, prefix) = fresh();
        let [one, other] = [(); 2].map(|()| open(tokens(), &url, &prefix));
        let daily = one.put_limit(Limit::per_day("daily", "tokens", 10));
        let weekly = other.put_limit(Limit::per_week("weekly", "tokens", 100));
        let (daily, weekly) = tokio::join!(daily, weekly);
        daily.unwrap();
        weekly.unwrap();
        for books in [&one, &other] {
            let judged = judged_by(books, "ada").await;
            assert_eq!(judged.len(), 2, "round {round}: {judged:?}");
        }
    }
}

#[tokio::test]
async fn a_limit_that_comes_back_counts_what_those_recorded_who_never_knew_it() {
    let (url, prefix) = fresh();
    let one = open(tokens(), &url, &prefix);
    one.put_limit(ever(10)).await.unwrap();
    spend(&one, "ada", 1).await;
    assert!(one.remove_limit("ever").await.unwrap());
    let later = open(tokens(), &url, &prefix);
    spend(&later, "ada", 8).await;
    one.put_limit(ever(10)).await.unwrap();
    for books in [&one, &later] {
        denied(books, ask("ada", 2)).await;
    }
}

#[tokio::test]
async fn whoever_was_killed_while_it_changed_something_is_not_waited_for_for_long() {
    let server = Server::start();
    let books = open(tokens(), &server.url(), "limitry");
    // As another process leaves it that is killed, but for the ten seconds.
    server.ask(&["SET", CHANGING, "another", "PX", "300"]);
    books.put_limit(ever(10)).await.unwrap();
    denied(&books, ask("ada", 11)).await;
    assert_eq!(server.ask(&["EXISTS", CHANGING]).trim(), ":0");
}

#[tokio::test]
async fn what_is_taken_back_leaves_a_highest_that_another_process_has_just_begun_to_look_at() {
    let (url, prefix) = fresh();
    let builder = || tokens().meter(Meter::max("peak", "total_tokens"));
    let [one, other] = [(); 2].map(|()| open(builder(), &url, &prefix));
    one.record(Event::new("ada", "chat", total(3))).await.unwrap();
    let highest = one.record(Event::new("ada", "chat", total(8))).await.unwrap().id;
    other.put_limit(Limit::all_time("peak", "peak", 100)).await.unwrap();
    one.void("ada", &highest).await.unwrap();
    for books in [&one, &other] {
        assert_eq!(used(books, "ada", "peak").await, amount(3));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_back_while_a_limit_is_added_is_not_its_highest() {
    for round in 0..times(20, 400) {
        let (url, prefix) = fresh();
        let builder = || tokens().meter(Meter::max("peak", "total_tokens"));
        let [one, other] = [(); 2].map(|()| open(builder(), &url, &prefix));
        one.record(Event::new("ada", "chat", total(3))).await.unwrap();
        let highest = one.record(Event::new("ada", "chat", total(8))).await.unwrap().id;
        let (voided, put) = tokio::join!(
            one.void("ada", &highest),
            other.put_limit(Limit::all_time("peak", "peak", 100)),
        );
        voided.unwrap();
        put.unwrap();
        for books in [&one, &other] {
            assert_eq!(used(books, "ada", "peak").await, amount(3), "round {round}");
        }
    }
}

#[tokio::test]
async fn a_customer_whom_another_process_described_is_removed() {
    let (url, prefix) = fresh();
    let [one, other] = [(); 2].map(|()| open(tokens(), &url, &prefix));
    one.put_customer(Customer::new("ada").zone("Pacific/Apia")).await.unwrap();
    assert!(other.remove_customer("ada").await.unwrap());
    assert!(!other.remove_customer("ada").await.unwrap());
    assert!(!one.remove_customer("ada").await.unwrap());
}

#[tokio::test]
async fn whoever_does_not_know_what_a_limit_counts_refuses_to_go_on_without_it() {
    let (url, prefix) = fresh();
    let [one, other] = [tokens(), Engine::builder()].map(|engine| open(engine, &url, &prefix));
    one.put_limit(ever(10)).await.unwrap();
    for _ in 0..3 {
        failed(&other, ask("ada", 1)).await;
    }
    one.put_meter(Meter::sum("tokens", "total_tokens")).await.unwrap();
    denied(&other, ask("ada", 11)).await;
}

#[tokio::test]
async fn a_meter_that_is_removed_elsewhere_stays_where_a_limit_reads_it() {
    let (url, prefix) = fresh();
    let one = open(tokens(), &url, &prefix);
    let other = open(tokens().limit(ever(10)), &url, &prefix);
    assert!(one.remove_meter("tokens").await.unwrap());
    denied(&other, ask("ada", 11)).await;
    let later = open(tokens().limit(ever(10)), &url, &prefix);
    denied(&later, ask("ada", 11)).await;
}

#[tokio::test]
async fn a_customer_without_limits_of_their_own_any_more_counts_on_what_all_do() {
    let (url, prefix) = fresh();
    let one = open(tokens(), &url, &prefix);
    one.put_limit(ever(10)).await.unwrap();
    one.put_limit(Limit::per_year("own", "tokens", 5).for_customer("ada")).await.unwrap();
    assert!(one.remove_limit("own").await.unwrap());
    assert!(one.remove_limit("ever").await.unwrap());
    spend(&one, "ada", 8).await;
    let later = open(tokens().limit(Limit::all_time("always", "tokens", 10)), &url, &prefix);
    denied(&later, ask("ada", 3)).await;
}

/// What a process leaves that is killed after it has written a limit and before it has counted.
#[tokio::test]
async fn what_was_not_counted_to_its_end_is_counted_with_the_next_change() {
    for own in [false, true] {
        let server = Server::start();
        let [one, other] = [(); 2].map(|()| open(tokens(), &server.url(), "limitry"));
        spend(&one, "ada", 8).await;
        let ever = if own { ever(10).for_customer("ada") } else { ever(10) };
        one.put_limit(ever).await.unwrap();
        server.eval(
            "for _, key in ipairs(redis.call('KEYS', '*:books:ada')) do redis.call('DEL', key) end \
             for _, row in ipairs({'counted:', 'counted:ada'}) do \
               if redis.call('HEXISTS', 'limitry:1:definitions', row) == 1 then \
                 redis.call('HSET', 'limitry:1:definitions', row, '') end end return 'done'",
        );
        other.put_limit(Limit::per_day("daily", "tokens", 100)).await.unwrap();
        let later = open(tokens(), &server.url(), "limitry");
        for books in [&one, &other, &later] {
            assert_eq!(used(books, "ada", "ever").await, amount(8), "own: {own}");
            assert_eq!(used(books, "ada", "daily").await, amount(8), "own: {own}");
        }
    }
}

const CHANGING: &str = "limitry:1:changing";

#[tokio::test]
async fn an_engine_is_built_on_the_thread_that_a_change_was_begun_on() {
    let server = Server::start();
    let one = open(tokens(), &server.url(), "limitry");
    let begun = one.clone();
    let change = tokio::spawn(async move { begun.put_limit(ever(10)).await });
    tokio::task::yield_now().await;
    until("a change", || server.ask(&["EXISTS", CHANGING]).trim() == ":1");
    let other = open(tokens(), &server.url(), "limitry");
    change.await.unwrap().unwrap();
    for books in [&one, &other] {
        denied(books, ask("ada", 11)).await;
    }
}

#[test]
fn a_change_is_made_to_its_end_though_the_runtime_ends_that_asked_for_it() {
    let server = Server::start();
    let [asked, other] = [(); 2].map(|()| Runtime::new().unwrap());
    let books = open(tokens(), &server.url(), "limitry");
    other.block_on(spend(&books, "ada", 8));
    let begun = books.clone();
    server.ask(&["CLIENT", "PAUSE", "500", "WRITE"]);
    asked.spawn(async move { begun.put_limit(ever(10)).await });
    until("a change that waits", || server.ask(&["CLIENT", "LIST"]).contains(" flags=b "));
    drop(asked);
    until("a limit", || {
        server.ask(&["HEXISTS", "limitry:1:definitions", "limit:ever"]).trim() == ":1"
    });
    until("the end of the change", || server.ask(&["EXISTS", CHANGING]).trim() == ":0");
    for books in [&books, &open(tokens(), &server.url(), "limitry")] {
        assert_eq!(other.block_on(used(books, "ada", "ever")), amount(8));
    }
}

/// Limits, meters and customers change under load, on three processes at once, and others begin meanwhile.
/// Then all of them judge alike, as one does that has just begun, and what was used is what was spent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_processes_change_at_once_is_one_for_all_of_them() {
    let mut random = Random(seed());
    for _ in 0..times(2, 40) {
        let (url, prefix) = fresh();
        let begin = || open(tokens().meter(Meter::max("peak", "total_tokens")), &url, &prefix);
        let books = [(); 3].map(|()| begin());
        let spent = CUSTOMERS.map(|_| AtomicU64::new(0));
        for round in 0..20 {
            let [one, two, three] = &books;
            let changes = [(); 3].map(|()| Change::any(&mut random));
            let told = format!("round {round}: {changes:?}");
            let [first, second, third] = changes;
            let another = async {
                let begun = tokio::task::block_in_place(begin);
                work(&begun, &spent, round).await;
            };
            tokio::join!(
                first.make(one),
                second.make(two),
                third.make(three),
                work(one, &spent, 0),
                work(two, &spent, 1),
                work(three, &spent, 2),
                another,
            );
            let begun = begin();
            for (customer, spent) in CUSTOMERS.iter().zip(&spent) {
                let spent = Amount::from(spent.load(Ordering::Relaxed) as u32);
                let known = judged_by(&begun, customer).await;
                for (id, _, used, _) in &known {
                    // The highest that was not taken back is one token.
                    let is_so = match &**id {
                        "a" | "b" | "c" => *used == spent,
                        "peak" => *used == amount(1),
                        _ => *used == spent || *used == amount(1),
                    };
                    assert!(is_so, "{told}: {customer}, {id}: {used} of {spent}");
                }
                let counted = counted(&begun, customer).await;
                for (process, books) in books.iter().enumerate() {
                    let told = format!("{told}: {customer}, process {process}");
                    assert_eq!(judged_by(books, customer).await, known, "{told}");
                    assert_eq!(self::counted(books, customer).await, counted, "{told}");
                }
                assert!(
                    counted
                        .is_none_or(|found| found == (spent, true) || found == (amount(1), true)),
                    "{told}: {customer}: {counted:?} of {spent}",
                );
            }
        }
    }
}

#[derive(Debug)]
enum Change {
    Put(Limit),
    Remove(&'static str),
    Measure(Meter),
    Forgo,
    Describe(Customer),
    Forget(&'static str),
}

impl Change {
    fn any(random: &mut Random) -> Self {
        let (id, meter) = [
            ("a", "tokens"),
            ("b", "tokens"),
            ("c", "tokens"),
            ("peak", "peak"),
            ("called", "calls"),
        ][random.below(5) as usize];
        let customer = CUSTOMERS[random.below(3) as usize];
        match random.below(10) {
            0..4 => {
                let period = [Period::Annual, Period::AllTime][random.below(2) as usize];
                let cap = 1_000_000 + random.below(1_000) as u32;
                let limit = Limit::new(id, meter, period, cap);
                Self::Put(if random.below(4) == 0 { limit.for_customer(customer) } else { limit })
            }
            4 => Self::Remove(id),
            5 => {
                let zone = ["Pacific/Apia", "Europe/Oslo", "UTC"][random.below(3) as usize];
                Self::Describe(Customer::new(customer).zone(zone))
            }
            6 => Self::Forget(customer),
            7 => Self::Forgo,
            _ => Self::Measure(match random.below(3) {
                0 => Meter::count("calls"),
                1 => Meter::sum("calls", "total_tokens"),
                _ => Meter::max("calls", "total_tokens"),
            }),
        }
    }

    async fn make(self, books: &Books) {
        match self {
            Self::Put(limit) => match books.put_limit(limit.clone()).await {
                Ok(()) => {}
                Err(error) => assert_eq!(limit.meter(), "calls", "{error:?}"),
            },
            Self::Remove(id) => drop(books.remove_limit(id).await.unwrap()),
            Self::Measure(meter) => books.put_meter(meter).await.unwrap(),
            Self::Forgo => {
                if let Err(error) = books.remove_meter("calls").await {
                    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
                }
            }
            Self::Describe(customer) => books.put_customer(customer).await.unwrap(),
            Self::Forget(customer) => drop(books.remove_customer(customer).await.unwrap()),
        }
    }
}

/// Some requests of each customer, and one that is taken back.
async fn work(books: &Books, spent: &[AtomicU64; 3], process: usize) {
    for number in 0..6 {
        let customer = (number + process) % 3;
        spend(books, CUSTOMERS[customer], 1).await;
        spent[customer].fetch_add(1, Ordering::Relaxed);
        if number == process % 6 {
            let high = Event::new(CUSTOMERS[customer], "chat", total(7));
            let id = books.record(high).await.unwrap().id;
            books.void(CUSTOMERS[customer], &id).await.unwrap();
        }
    }
}

/// What the meter that comes and goes comes to, and whether that is complete.
async fn counted(books: &Books, customer: &str) -> Option<(Amount, bool)> {
    let reading = books.query(MeterQuery::new("calls").customer(customer)).await;
    reading.ok().map(|reading| (reading.value, reading.complete))
}

/// The limits that the next check of a customer is judged by.
async fn judged_by(books: &Books, customer: &str) -> Vec<(String, Amount, Amount, String)> {
    let permit = admitted(books, Check::of(customer)).await;
    let of = |limit: tower_limitry::backend::LimitState<'_>| {
        (limit.id().to_owned(), limit.limit(), limit.used(), format!("{:?}", limit.reset()))
    };
    let mut judged: Vec<_> = permit.decision().limits().map(of).collect();
    permit.release().await.unwrap();
    judged.sort();
    judged
}
