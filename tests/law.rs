//! The promises that only many threads, many customers or odd clocks can break.
//!
//! `LIMITRY_LONG=1` tries much longer. What is tried at random tells its `LIMITRY_SEED`, which gives
//! the same again.

#![cfg(feature = "test-util")]
#![allow(clippy::unwrap_used)]

#[path = "support/shared.rs"]
mod shared;
mod support;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use shared::Shared;
use support::*;
use tower_limitry::policy::{
    Aggregation, Amount, Credit, CustomerId, Debit, EventId, Period, Timestamp, TransactionKind,
    Window,
};
use tower_limitry::store::{
    CheckOperation, HoldKey, HoldTerms, Judged, Line, Memory, Moment, Origin, Outcome,
    SettleOperation, SettleOutcome, Store,
};
use tower_limitry::{Books, Check, CheckError, Engine, ErrorKind, Event, Limit, NewBalance, Usage};

const OPEN: Open = |builder| builder.build().unwrap().erased();

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Runs `work` on so many threads at once.
fn on_threads<T: Send>(threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let together = Barrier::new(threads);
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|number| {
                let (together, work) = (&together, &work);
                scope.spawn(move || {
                    together.wait();
                    work(number)
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

mod never_more_than_the_cap {
    use super::*;

    /// 1,000 tasks ask at once, and go on holding what they got.
    fn admits(estimate: u32, expected: usize) {
        for round in 0..times(20, 1_000) {
            for threads in [1, 2, 8] {
                let books = OPEN(hundred_a_day(&noon()));
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(threads)
                    .build()
                    .unwrap();
                let permits = runtime.block_on(async {
                    let tasks: Vec<_> = (0..1_000)
                        .map(|_| {
                            let books = books.clone();
                            tokio::spawn(
                                async move { books.check(ask("ada", estimate)).await.ok() },
                            )
                        })
                        .collect();
                    let mut permits = Vec::new();
                    for task in tasks {
                        permits.extend(task.await.unwrap());
                    }
                    permits
                });
                assert_eq!(permits.len(), expected, "round {round}, {threads} threads");
                let held = (expected as u32) * estimate;
                block_on(async {
                    let seen = used_held(&books, "ada", "daily").await;
                    assert_eq!(seen, (amount(0), amount(held)));
                    for permit in permits {
                        permit.settle(total(estimate)).await.unwrap();
                    }
                    let seen = used_held(&books, "ada", "daily").await;
                    assert_eq!(seen, (amount(held), amount(0)));
                });
            }
        }
    }

    #[test]
    fn a_thousand_tasks_that_ask_for_1_of_100() {
        admits(1, 100);
    }

    #[test]
    fn a_thousand_tasks_that_ask_for_7_of_100() {
        admits(7, 14);
    }

    /// The same while the admitted settle and release in between: never is more used and held than
    /// the cap, and in the end the cap is used exactly.
    #[test]
    fn tasks_that_settle_and_release_while_others_ask() {
        for _ in 0..times(20, 1_000) {
            let books = OPEN(hundred_a_day(&noon()));
            on_threads(8, |number| {
                block_on(async {
                    for turn in 0..125 {
                        let Ok(permit) = books.check(ask("ada", 7)).await else { continue };
                        let seen = of(permit.decision().limits(), "daily");
                        assert!(seen.used.saturating_add(seen.held) <= amount(100), "{seen:?}");
                        match (number + turn) % 3 {
                            0 => permit.settle(total(7)).await.unwrap(),
                            1 => permit.release().await.unwrap(),
                            _ => drop(permit),
                        }
                    }
                });
            });
            let (used, held) = block_on(used_held(&books, "ada", "daily"));
            assert_eq!((used, held), (amount(98), amount(0)));
        }
    }

    /// 64 threads send the first requests that a customer ever sent.
    #[test]
    fn the_first_requests_of_an_unknown_customer() {
        let shared = Shared::new(Memory::new());
        let books = hundred_a_day(&noon())
            .default_balance(NewBalance::new("credits").initial(50))
            .build_on(shared.clone())
            .unwrap()
            .erased();
        let rounds = times(200, 10_000) as usize;
        let admitted: Vec<_> = (0..rounds).map(|_| AtomicUsize::new(0)).collect();
        let together = Barrier::new(64);
        on_threads(64, |_| {
            block_on(async {
                for (round, admitted) in admitted.iter().enumerate() {
                    together.wait();
                    let check = ask(&format!("acct_{round}"), 9);
                    let check = check.charge("credits", |usage| usage.value("total_tokens"));
                    if let Ok(permit) = books.check(check).await {
                        admitted.fetch_add(1, SeqCst);
                        together.wait();
                        permit.settle(total(9)).await.unwrap();
                    } else {
                        together.wait();
                    }
                }
            });
        });
        block_on(async {
            for (round, admitted) in admitted.iter().enumerate() {
                let customer = format!("acct_{round}");
                assert_eq!(admitted.load(SeqCst), 5, "{customer}");
                assert_eq!(used_held(&books, &customer, "daily").await, (amount(45), amount(0)));
                assert_eq!(current(&books, &customer, "credits").await, amount(5));
            }
            assert_eq!(shared.customers().await.unwrap(), rounds);
        });
    }
}

mod ledger {
    use super::*;

    const CUSTOMERS: usize = 3;
    const WORKERS: usize = 8;

    struct World {
        books: Books,
        clock: tower_limitry::engine::ManualClock,
        /// What each balance must be: every change that was answered.
        expected: [AtomicI64; CUSTOMERS],
        /// How far under its minimum each may be: settled above its hold, or after it ended.
        debt: [AtomicI64; CUSTOMERS],
        overruns: AtomicBool,
    }

    fn name(customer: usize) -> &'static str {
        ["ada", "bob", "eve"][customer]
    }

    impl World {
        fn change(&self, customer: usize, by: i64) {
            self.expected[customer].fetch_add(by, SeqCst);
        }

        async fn look(&self, customer: usize) {
            let balance = self.books.balance(name(customer), "credits").await.unwrap().unwrap();
            // Debt is told before it is made, so it is read after.
            let debt = Amount::from_millionths(self.debt[customer].load(SeqCst));
            assert!(
                balance.available().saturating_add(debt) >= Amount::ZERO,
                "{balance:?} and a debt of {debt}"
            );
        }

        async fn step(
            &self,
            random: &mut Random,
            held: &mut Vec<(usize, i64, bool, tower_limitry::Permit)>,
        ) {
            let customer = random.below(CUSTOMERS as u64) as usize;
            let some = 1 + random.below(40) as i64;
            let amount = Amount::from_millionths(some);
            let overruns = self.overruns.load(SeqCst);
            match random.below(8) {
                0 => {
                    self.books
                        .credit(Credit::new(name(customer), "credits", amount))
                        .await
                        .unwrap();
                    self.change(customer, some);
                }
                1 => {
                    let debit = Debit::new(name(customer), "credits", amount);
                    if self.books.debit(debit).await.unwrap().is_taken() {
                        self.change(customer, -some);
                    }
                }
                2..=4 => {
                    let check = Check::of(name(customer))
                        .estimate("cost", amount)
                        .charge("credits", |usage| usage.value("cost"));
                    let ends = overruns && random.below(3) == 0;
                    let check = if ends { check.hold_for(SECOND) } else { check };
                    match self.books.check(check).await {
                        Ok(permit) => held.push((customer, some, ends, permit)),
                        Err(CheckError::Denied(_)) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
                5..=6 if !held.is_empty() => {
                    let at = random.below(held.len() as u64) as usize;
                    let (customer, estimate, ends, permit) = held.swap_remove(at);
                    if random.below(4) == 0 {
                        return permit.release().await.unwrap();
                    }
                    let most = if overruns { estimate * 2 } else { estimate };
                    let actual = random.below(most as u64 + 1) as i64;
                    let beyond = if ends { actual } else { (actual - estimate).max(0) };
                    self.debt[customer].fetch_add(beyond, SeqCst);
                    let usage = Usage::of("cost", Amount::from_millionths(actual));
                    permit.settle(usage).await.unwrap();
                    self.change(customer, -actual);
                }
                _ if overruns => self.clock.advance(Duration::from_millis(random.below(300))),
                _ => {}
            }
            self.look(customer).await;
        }

        /// While everybody stands still: every balance is the sum of what was answered, and its
        /// ledger leads to it without a gap.
        async fn audit(&self) {
            for customer in 0..CUSTOMERS {
                let balance = self.books.balance(name(customer), "credits").await.unwrap().unwrap();
                let expected = Amount::from_millionths(self.expected[customer].load(SeqCst));
                assert_eq!(balance.current(), expected, "{}", name(customer));
                let transactions = ledger(&self.books, name(customer), "credits", 100).await;
                let mut after = balance.current();
                for transaction in transactions {
                    assert_eq!(transaction.balance_after(), after);
                    after = match transaction.kind() {
                        TransactionKind::Credit => after.saturating_sub(transaction.amount()),
                        TransactionKind::Debit => after.saturating_add(transaction.amount()),
                        _ => Amount::ZERO,
                    };
                }
                assert_eq!(after, Amount::ZERO, "{} is not the sum of its changes", name(customer));
            }
        }
    }

    #[test]
    fn is_the_balance_throughout() {
        let seed = seed();
        let steps = times(200_000, 10_000_000);
        let clock = noon();
        let initial = 1_000_i64;
        let books = Engine::builder()
            .clock(clock.clone())
            .memory(Memory::new().keep_events(1_000))
            .default_balance(NewBalance::new("credits").initial(Amount::from_millionths(initial)))
            .build()
            .unwrap()
            .erased();
        let world = World {
            books,
            clock,
            expected: [(); CUSTOMERS].map(|()| AtomicI64::new(initial)),
            debt: Default::default(),
            overruns: AtomicBool::new(false),
        };
        let stop = Barrier::new(WORKERS);
        let rounds = 20;
        on_threads(WORKERS, |number| {
            let mut random = Random(seed ^ (number as u64) << 32);
            let mut held = Vec::new();
            block_on(async {
                for round in 0..rounds {
                    if round == rounds / 2 {
                        stop.wait();
                        world.overruns.store(true, SeqCst);
                    }
                    for _ in 0..steps / rounds / WORKERS as u64 {
                        world.step(&mut random, &mut held).await;
                    }
                    if stop.wait().is_leader() {
                        world.audit().await;
                    }
                    stop.wait();
                }
            });
        });
        block_on(async {
            world.books.settled().await.unwrap();
            world.audit().await;
            for customer in 0..CUSTOMERS {
                let balance =
                    world.books.balance(name(customer), "credits").await.unwrap().unwrap();
                assert_eq!(balance.held(), Amount::ZERO);
            }
        });
    }
}

mod odd_clocks {
    use super::*;

    fn every_period(clock: &tower_limitry::engine::ManualClock) -> Books {
        let mut builder = tokens(clock);
        for period in Period::ALL {
            builder = builder.limit(Limit::new(period.as_str(), "tokens", period, 10));
        }
        OPEN(builder)
    }

    #[tokio::test]
    async fn set_back_an_hour_no_window_opens_again_and_waits_end() {
        let clock = noon();
        clock.advance(30 * SECOND);
        let books = every_period(&clock);
        spend(&books, "ada", 10).await;
        clock.set(time("2026-03-01T11:00:30Z"));
        for id in Period::ALL.map(Period::as_str) {
            assert_eq!(used(&books, "ada", id).await, amount(10), "{id}");
        }
        denied(&books, Check::of("ada")).await;
        // Time goes on at half speed: the minute that has 30 seconds left ends after 60.
        clock.advance(59 * SECOND);
        assert_eq!(used(&books, "ada", "minute").await, amount(10));
        clock.advance(SECOND);
        assert_eq!(used(&books, "ada", "minute").await, amount(0));
        assert_eq!(used(&books, "ada", "hour").await, amount(10));
        // Two hours later it has caught up, and goes with the clock again.
        clock.advance(2 * HOUR);
        let seen = standing(&books, "ada", "minute").await;
        let now = time("2026-03-01T13:01:30Z");
        assert_eq!(seen.reset, Some(now.as_seconds() + 30));
        assert_eq!(used(&books, "ada", "day").await, amount(10));
    }

    #[tokio::test]
    async fn set_forward_a_year_and_back_no_window_opens_again() {
        let clock = noon();
        let books = every_period(&clock);
        spend(&books, "ada", 10).await;
        clock.set(time("2027-03-01T12:00:00Z"));
        for period in Period::ALL.into_iter().filter(|period| *period != Period::AllTime) {
            assert_eq!(used(&books, "ada", period.as_str()).await, amount(0), "{period}");
        }
        books.record(Event::new("ada", "chat", total(10))).await.unwrap();
        clock.set(time(NOON));
        for id in ["minute", "hour", "day", "week", "month", "annual"] {
            let seen = standing(&books, "ada", id).await;
            assert_eq!(seen.used, amount(10), "{id}");
            assert!(seen.reset.unwrap() > time("2027-03-01T12:00:00Z").as_seconds(), "{id}");
        }
        let denial = denied(&books, ask("bob", 11)).await;
        assert_eq!(denial.retry_after(), None);
        spend(&books, "bob", 10).await;
        clock.set(Timestamp::MIN);
        denied(&books, Check::of("bob")).await;
    }

    #[tokio::test]
    async fn standing_still_waits_are_told_all_the_same() {
        let clock = noon();
        let books = OPEN(tokens(&clock).limit(Limit::per_minute("minute", "tokens", 10)));
        spend(&books, "ada", 10).await;
        for _ in 0..100 {
            assert_eq!(denied(&books, Check::of("ada")).await.retry_after(), Some(MINUTE));
        }
    }

    /// Whatever the clock does, windows follow each other, and what was used in one stays used.
    #[tokio::test]
    async fn jumping_about_no_window_opens_again() {
        let mut random = Random(seed());
        for _ in 0..times(200, 20_000) {
            let clock = noon();
            let books = every_period(&clock);
            let mut newest: BTreeMap<String, (i64, Amount)> = BTreeMap::new();
            for _ in 0..50 {
                match random.below(4) {
                    0 => {
                        let from = time(NOON).saturating_sub(2 * DAY);
                        let by = Duration::from_secs(random.below(4 * 86_400));
                        clock.set(from.saturating_add(by));
                    }
                    1 => clock.advance(Duration::from_secs(random.below(7_200))),
                    2 => clock.advance(Duration::from_millis(random.below(90_000))),
                    _ => {}
                }
                let answer = books.check(ask("ada", 1)).await;
                if let Err(CheckError::Denied(denial)) = &answer {
                    let wait = denial.retry_after();
                    assert!(wait.is_none_or(|wait| wait >= SECOND), "{wait:?}");
                }
                if let Ok(permit) = answer {
                    permit.settle(total(1)).await.unwrap();
                }
                for seen in books.usage("ada").await.unwrap().limits().map(Seen::from) {
                    let end = seen.reset.unwrap_or(i64::MAX);
                    let last = newest.entry(seen.id.clone()).or_insert((end, seen.used));
                    assert!(end >= last.0, "{}: a window opened again", seen.id);
                    assert!(end > last.0 || seen.used >= last.1, "{}: usage was lost", seen.id);
                    assert!(seen.used <= amount(10), "{}: more than the cap", seen.id);
                    *last = (end, seen.used);
                }
            }
        }
    }
}

mod strangers {
    use super::*;

    fn shared(memory: Memory, clock: &tower_limitry::engine::ManualClock) -> (Books, Shared) {
        let shared = Shared::new(memory);
        let builder = hundred_a_day(clock).limit(Limit::per_minute("minute", "tokens", 50));
        let builder = builder.default_balance(NewBalance::new("credits").initial(50));
        (builder.build_on(shared.clone()).unwrap().erased(), shared)
    }

    fn priced(check: Check) -> Check {
        check.charge("credits", |usage| usage.value("total_tokens"))
    }

    #[tokio::test]
    async fn who_only_check_take_no_space() {
        let (books, shared) = shared(Memory::new(), &noon());
        for number in 0..times(100_000, 1_000_000) {
            let customer = format!("acct_{number}");
            match number % 4 {
                0 => drop(admitted(&books, priced(ask(&customer, 5))).await),
                1 => drop(denied(&books, priced(ask(&customer, 51))).await),
                2 => drop(books.preview(ask(&customer, 5)).await.unwrap()),
                _ => drop(books.check(Check::of(&*customer))),
            }
        }
        assert_eq!(shared.customers().await.unwrap(), 0);
        assert_eq!(books.open_holds().await.unwrap(), 0);
    }

    #[tokio::test]
    async fn whose_holds_end_by_themselves_take_no_space() {
        let clock = noon();
        let (books, shared) = shared(Memory::new(), &clock);
        let mut permits = Vec::new();
        for number in 0..times(10_000, 1_000_000) {
            let check = priced(ask(&format!("acct_{number}"), 5));
            permits.push(admitted(&books, check.hold_for(MINUTE)).await);
        }
        clock.advance(MINUTE);
        for number in 0..5_000 {
            books.preview(Check::of(format!("other_{number}"))).await.unwrap();
        }
        assert_eq!(shared.customers().await.unwrap(), 0);
        drop(permits);
        assert_eq!(shared.customers().await.unwrap(), 0);
    }

    /// Others come and go when the windows have ended.
    async fn idle(traffic: impl AsyncFn(&Books, &str)) {
        let clock = noon();
        let (books, shared) = shared(Memory::new(), &clock);
        let many = times(100_000, 1_000_000);
        for number in 0..many {
            books.record(Event::new(format!("acct_{number}"), "chat", total(1))).await.unwrap();
        }
        assert_eq!(shared.customers().await.unwrap() as u64, many);
        clock.advance(DAY);
        for number in 0..many / 5 {
            traffic(&books, &format!("other_{number}")).await;
        }
        clock.advance(DAY);
        for number in 0..many / 5 {
            traffic(&books, &format!("another_{number}")).await;
        }
        let left = shared.customers().await.unwrap() as u64;
        assert!(left <= many / 5, "{left} customers still take up space");
        clock.advance(DAY);
        assert_eq!(books.open_holds().await.unwrap(), 0);
        assert_eq!(shared.customers().await.unwrap(), 0);
    }

    #[tokio::test]
    async fn who_were_recorded_once_are_dropped_while_others_check() {
        idle(async |books, customer| drop(admitted(books, ask(customer, 1)).await)).await;
    }

    #[tokio::test]
    async fn who_were_recorded_once_are_dropped_while_others_are_recorded() {
        idle(async |books, customer| {
            books.record(Event::new(customer, "chat", total(1))).await.unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn whose_events_a_later_limit_counts_are_dropped_too() {
        let clock = noon();
        let shared = Shared::new(Memory::new());
        let books = tokens(&clock).build_on(shared.clone()).unwrap().erased();
        for number in 0..10_000 {
            books.record(Event::new(format!("acct_{number}"), "chat", total(1))).await.unwrap();
        }
        assert_eq!(shared.customers().await.unwrap(), 0);
        books.put_limit(Limit::per_day("daily", "tokens", 100)).await.unwrap();
        assert_eq!(shared.customers().await.unwrap(), 10_000);
        clock.advance(DAY);
        for number in 0..4_000 {
            drop(admitted(&books, ask(&format!("other_{number}"), 1)).await);
        }
        assert_eq!(shared.customers().await.unwrap(), 0);
    }

    #[tokio::test]
    async fn beyond_the_cap_are_refused_and_nobody_known_is_turned_away() {
        let clock = noon();
        let (books, shared) = shared(Memory::new().max_customers(1_000), &clock);
        for number in 0..1_000 {
            spend(&books, &format!("acct_{number}"), 1).await;
        }
        for number in 0..times(100_000, 1_000_000) {
            let error = failed(&books, ask(&format!("stranger_{number}"), 1)).await;
            assert_eq!(error.kind(), ErrorKind::Unavailable);
        }
        assert_eq!(shared.customers().await.unwrap(), 1_000);
        for number in 0..1_000 {
            let customer = format!("acct_{number}");
            assert_eq!(used(&books, &customer, "daily").await, amount(1));
            spend(&books, &customer, 1).await;
        }
        // When their windows have ended there is place for others.
        clock.advance(DAY);
        assert_eq!(books.open_holds().await.unwrap(), 0);
        spend(&books, "stranger_1", 1).await;
    }

    /// Events of two customers are recorded together, when there is place for one more or for none.
    #[test]
    fn at_the_cap_many_are_recorded_together_or_not_at_all() {
        for _ in 0..times(200, 5_000) {
            let (books, shared) = shared(Memory::new().max_customers(9), &noon());
            let one = |number: usize, part: &str| {
                Event::new(format!("acct_{number}_{part}"), "chat", total(1))
            };
            let answers = on_threads(8, |number| {
                block_on(books.record_many(["a", "b", "c"].map(|part| one(number, part)))).is_ok()
            });
            block_on(async {
                for (number, recorded) in answers.into_iter().enumerate() {
                    for part in ["a", "b", "c"] {
                        let seen = used(&books, &format!("acct_{number}_{part}"), "daily").await;
                        assert_eq!(seen, amount(u32::from(recorded)), "{number} {part}");
                    }
                }
                assert!(shared.customers().await.unwrap() <= 9);
            });
        }
    }

    /// A customer who always has a request running passes through many windows.
    #[tokio::test]
    async fn a_customer_who_never_rests_keeps_only_windows_that_last() {
        let clock = noon();
        let shared = Shared::new(Memory::new().keep_events(0));
        let books = tokens(&clock)
            .limit(Limit::per_minute("minute", "tokens", 10).alert_at([50]))
            .on_alert(|_| {})
            .build_on(shared.clone())
            .unwrap()
            .erased();
        let mut running = admitted(&books, ask("ada", 1)).await;
        for _ in 0..2_000 {
            clock.advance(MINUTE);
            let next = admitted(&books, ask("ada", 1)).await;
            running.settle(total(1)).await.unwrap();
            spend(&books, "ada", 6).await;
            running = next;
        }
        running.release().await.unwrap();
        // Its debug form is what there is to see of the store's insides.
        let length = format!("{:?}", shared.0).len();
        assert!(length < 40_000, "{length}: ended windows are kept");
    }
}

/// Names are found without a lock once they are known, and more of them behind one.
#[test]
fn balances_that_threads_name_at_once_are_each_their_own() {
    let name = |number: usize| format!("credits {number}");
    for _ in 0..times(20, 2_000) {
        let books = OPEN(tokens(&noon()));
        on_threads(8, |thread| {
            block_on(async {
                let customer = format!("acct_{thread}");
                // Each in an order of its own, so that all are the first with some name.
                for number in (0..20).map(|turn| (turn + thread * 5) % 20) {
                    let terms = NewBalance::new(name(number)).initial(100 + number as u32);
                    books.create_balance(customer.as_str(), terms).await.unwrap();
                    let check = ask(&customer, number as u32 + 1).event_type("chat");
                    let check = check.charge(name(number), |usage| usage.value("total_tokens"));
                    admitted(&books, check).await.settle(total(thread as u32)).await.unwrap();
                }
            });
        });
        for thread in 0..8 {
            let balances = block_on(books.balances(format!("acct_{thread}"))).unwrap();
            assert_eq!(balances.len(), 20);
            for number in 0..20 {
                let balance = balances.iter().find(|known| known.name() == name(number)).unwrap();
                assert_eq!(balance.current(), amount((100 + number - thread) as u64));
            }
        }
    }
}

mod while_requests_run {
    use super::*;
    use std::sync::Mutex;
    use tower_limitry::backend::Customer;

    const WORKERS: usize = 4;

    /// Limits come and go and the customer moves from zone to zone, and every use counts once.
    #[test]
    fn definitions_change_and_every_use_counts_once() {
        for round in 0..times(10, 500) {
            let clock = noon();
            let cap = 1_000_000;
            let daily = Limit::per_day("daily", "tokens", cap);
            let memory = Memory::new().keep_events(100_000);
            let books = OPEN(tokens(&clock).limit(daily).memory(memory));
            let running = AtomicUsize::new(WORKERS);
            let uses = 300;
            on_threads(WORKERS + 1, |number| {
                block_on(async {
                    if number < WORKERS {
                        for turn in 0..uses {
                            if turn % 2 == 0 {
                                books.record(Event::new("ada", "chat", total(1))).await.unwrap();
                            } else {
                                let check = ask("ada", 2).event_type("chat");
                                let permit = admitted(&books, check).await;
                                permit.settle(total(1)).await.unwrap();
                            }
                        }
                        running.fetch_sub(1, SeqCst);
                        return;
                    }
                    // At least once, however late this thread comes.
                    loop {
                        let hourly = Limit::per_hour("hourly", "tokens", cap);
                        books.put_limit(hourly.clone()).await.unwrap();
                        books.put_limit(hourly.for_customer("ada")).await.unwrap();
                        books.put_customer(Customer::new("ada").zone("Asia/Tokyo")).await.unwrap();
                        books.remove_limit("hourly").await.unwrap();
                        let of_day = Limit::per_day("week", "tokens", cap);
                        books.put_limit(of_day).await.unwrap();
                        books.put_limit(Limit::per_week("week", "tokens", cap)).await.unwrap();
                        books.remove_customer("ada").await.unwrap();
                        if running.load(SeqCst) == 0 {
                            break;
                        }
                    }
                    books.put_limit(Limit::per_hour("hourly", "tokens", cap)).await.unwrap();
                });
            });
            block_on(async {
                let all = amount((WORKERS * uses) as u64);
                for id in ["daily", "hourly", "week"] {
                    let seen = used_held(&books, "ada", id).await;
                    assert_eq!(seen, (all, amount(0)), "round {round}, {id}");
                }
            });
        }
    }

    #[test]
    fn every_alert_is_told_once() {
        for round in 0..times(50, 2_000) {
            let told = Arc::new(Mutex::new(Vec::new()));
            let telling = Arc::clone(&told);
            let limit = Limit::per_day("daily", "tokens", 100).alert_at(1..=100);
            let books = tokens(&noon()).limit(limit).on_alert(move |crossing| {
                telling.lock().unwrap().push(crossing.percent);
            });
            let books = OPEN(books);
            on_threads(8, |_| {
                block_on(async {
                    for _ in 0..15 {
                        books.record(Event::new("ada", "chat", total(1))).await.unwrap();
                    }
                });
            });
            let mut told = std::mem::take(&mut *told.lock().unwrap());
            told.sort_unstable();
            assert_eq!(told, (1..=100).collect::<Vec<u8>>(), "round {round}");
        }
    }
}

mod shutdown {
    use super::*;

    #[test]
    fn under_load_nothing_is_accepted_after_it_and_nothing_is_lost() {
        for round in 0..times(300, 10_000) {
            let books = OPEN(tokens(&noon()).limit(Limit::all_time("ever", "tokens", u32::MAX)));
            let settled = AtomicU64::new(0);
            let at_return = AtomicI64::new(0);
            on_threads(5, |number| {
                block_on(async {
                    if number == 0 {
                        while settled.load(SeqCst) < 20 + round % 7 {
                            thread::yield_now();
                        }
                        books.shutdown(MINUTE).await.unwrap();
                        at_return.store(used(&books, "ada", "ever").await.as_millionths(), SeqCst);
                        return assert_eq!(books.open_holds().await.unwrap(), 0);
                    }
                    loop {
                        match books.check(ask("ada", 3)).await {
                            Ok(permit) => permit.settle(total(1)).await.unwrap(),
                            Err(CheckError::Failed(error)) => {
                                return assert_eq!(error.kind(), ErrorKind::Unavailable);
                            }
                            Err(error) => panic!("{error:?}"),
                        }
                        settled.fetch_add(1, SeqCst);
                    }
                });
            });
            let (used, held) = block_on(used_held(&books, "ada", "ever"));
            assert_eq!((used, held), (amount(settled.load(SeqCst)), amount(0)), "round {round}");
            let at_return = Amount::from_millionths(at_return.load(SeqCst));
            assert_eq!(used, at_return, "round {round}: accepted after the shutdown");
        }
    }
}

/// Every order in which the steps of one hold can reach a store. The steps are atomic, so these are
/// all their interleavings.
mod one_hold {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Step {
        Check,
        Settle,
        SettleUnsure,
        Release,
        Renew,
        Expire,
    }
    use Step::{Check as Ask, Expire, Release, Renew, Settle, SettleUnsure};

    const STEPS: [Step; 6] = [Ask, Settle, SettleUnsure, Release, Renew, Expire];
    const LIFETIME: Duration = MINUTE;

    struct Bench<'a> {
        store: &'a Memory,
        id: EventId,
        customer: CustomerId,
        now: Moment<'static>,
        given: bool,
        attempt: u64,
    }

    impl Bench<'_> {
        fn check(&self, hold: bool) -> (tower_limitry::store::Checked, Judged) {
            let (cap, asked) = (amount(100), Some(amount(10)));
            let line = Line::new(0, Aggregation::Sum, cap, Window::ALL_TIME);
            let mut judged = Judged::default();
            let terms = HoldTerms { lifetime: Some(LIFETIME), remember: self.given };
            let looker = EventId::new("looker").unwrap();
            let operation = CheckOperation {
                epoch: 0,
                now: self.now,
                id: if hold { &self.id } else { &looker },
                attempt: self.attempt,
                customer: &self.customer,
                lines: &[line],
                asked: &[asked],
                judged: std::slice::from_mut(&mut judged),
                balance: None,
                hold: hold.then_some(terms),
                event_type: "request",
                expected: &Usage::new(),
            };
            (block_on(self.store.check(operation)).unwrap(), judged)
        }

        fn settle(&self, origin: Origin) -> SettleOutcome {
            let line = Line::new(0, Aggregation::Sum, Amount::MAX, Window::ALL_TIME);
            let operation = SettleOperation {
                epoch: 0,
                now: self.now,
                id: &self.id,
                customer: &self.customer,
                origin,
                event_type: "request",
                usage: &mut total(7),
                at: time(NOON),
                lines: &[line],
                given: &[Some(amount(7))],
                charge: None,
                reverses: false,
                mark: None,
            };
            block_on(self.store.settle(operation)).unwrap().outcome
        }

        fn key(&self) -> HoldKey<'_> {
            HoldKey { id: &self.id, customer: &self.customer, place: None, attempt: None }
        }

        fn used_held(&self) -> (Amount, Amount) {
            let (_, judged) = self.check(false);
            (judged.used, judged.held)
        }
    }

    /// As when its answer is lost on the way: whatever became of the hold before it was released.
    #[test]
    fn a_check_that_arrives_again_after_its_release_places_nothing() {
        let store = Memory::new();
        for expires in [false, true] {
            let mut bench = Bench {
                store: &store,
                id: EventId::new("order-1").unwrap(),
                customer: CustomerId::new(format!("acct_{expires}")).unwrap(),
                now: Moment::new(time(NOON), Duration::ZERO),
                given: true,
                attempt: 5,
            };
            let place = bench.check(true).0.place;
            if expires {
                bench.now = Moment::new(bench.now.wall(), LIFETIME);
            }
            assert_eq!(bench.used_held().1, amount(if expires { 0 } else { 10 }));
            let key = HoldKey { place, attempt: Some(5), ..bench.key() };
            block_on(store.release(key, bench.now)).unwrap();
            assert_eq!(bench.check(true).0.outcome, Outcome::Released, "expires: {expires}");
            assert_eq!(bench.used_held(), (amount(0), amount(0)));
            bench.attempt = 6;
            assert_eq!(bench.check(true).0.outcome, Outcome::Allowed, "another check");
        }
    }

    /// What must be, told as simply as it can be.
    #[derive(Debug, Default)]
    struct Fate {
        open: bool,
        expired: bool,
        released_before: bool,
        finished: bool,
        counted: u32,
    }

    fn run(store: &Memory, number: usize, steps: &[Step], given: bool) {
        let mut bench = Bench {
            store,
            id: EventId::new("order-1").unwrap(),
            customer: CustomerId::new(format!("acct_{number}")).unwrap(),
            now: Moment::new(time(NOON), Duration::from_secs(number as u64 * 400)),
            given,
            attempt: 0,
        };
        let mut fate = Fate::default();
        for step in steps {
            match step {
                Ask => {
                    let outcome = bench.check(true).0.outcome;
                    let expected = if fate.finished {
                        Outcome::Finished
                    } else if fate.released_before {
                        Outcome::Released
                    } else if fate.open {
                        Outcome::Open
                    } else {
                        Outcome::Allowed
                    };
                    assert_eq!(outcome, expected, "{steps:?}: {fate:?}");
                    fate.open |= outcome == Outcome::Allowed;
                }
                Settle => {
                    let counts = fate.open || fate.expired;
                    let counts = counts && !fate.finished;
                    let outcome = bench.settle(Origin::Held(None));
                    assert_eq!(outcome == SettleOutcome::Recorded, counts, "{steps:?}: {fate:?}");
                    let remembered = given || !fate.open;
                    fate.counted += u32::from(counts);
                    fate.finished |= counts && remembered;
                    fate.expired &= fate.open || !counts;
                    fate.open = false;
                }
                SettleUnsure => {
                    let counts = !fate.finished;
                    let outcome = bench.settle(Origin::Unsure(0));
                    assert_eq!(outcome == SettleOutcome::Recorded, counts, "{steps:?}: {fate:?}");
                    fate.counted += u32::from(counts);
                    fate.finished = true;
                    fate.open = false;
                }
                Release => {
                    block_on(store.release(bench.key(), bench.now)).unwrap();
                    fate.released_before |= match fate.open {
                        // The same check may be sent again, and arrive after this.
                        true => given,
                        false => !fate.expired && !fate.finished,
                    };
                    fate.expired &= fate.open;
                    fate.open = false;
                }
                Renew => {
                    let keys = vec![bench.key()];
                    let lives = block_on(store.renew(keys, LIFETIME, bench.now)).unwrap();
                    assert_eq!(lives, [fate.open], "{steps:?}: {fate:?}");
                }
                Expire => {
                    let Bench { now, .. } = &mut bench;
                    let later = now.wall().saturating_add(LIFETIME);
                    *now = Moment::new(later, now.monotonic() + LIFETIME);
                    fate.expired |= fate.open;
                    fate.open = false;
                }
            }
            let held = if fate.open { 10 } else { 0 };
            let used = 7 * fate.counted;
            assert_eq!(bench.used_held(), (amount(used), amount(held)), "{steps:?}: {fate:?}");
        }
        // An id that was given counts once, whatever happened.
        let attempts = steps.iter().filter(|step| **step == Ask).count();
        if given {
            assert!(fate.counted <= 1, "{steps:?} counted {} times", fate.counted);
        } else {
            assert!(fate.counted as usize <= attempts.max(1), "{steps:?}: {fate:?}");
        }
    }

    #[test]
    fn ends_once_in_every_order_of_its_steps() {
        let store = Memory::new();
        let longest = times(5, 7) as u32;
        let mut number = 0;
        for length in 1..=longest {
            for code in 0..STEPS.len().pow(length) {
                let steps: Vec<_> =
                    (0..length).map(|at| STEPS[code / STEPS.len().pow(at) % STEPS.len()]).collect();
                // Ids that are made are checked once, and their owner knows whether it was answered.
                let count = |step: Step| steps.iter().filter(|known| **known == step).count();
                let one_owner = count(Ask) <= 1 && (count(Settle) == 0 || count(SettleUnsure) == 0);
                for given in [true, false] {
                    if given || one_owner {
                        number += 1;
                        run(&store, number, &steps, given);
                    }
                }
            }
        }
        println!("{number} orders");
    }

    /// Threads race to end one hold. One of them does.
    #[test]
    fn ends_once_though_threads_race_to_end_it() {
        let store = Memory::new();
        let steps = [Settle, SettleUnsure, Release, Settle, SettleUnsure, Release];
        for number in 0..times(1_000, 100_000) as usize {
            let bench = Bench {
                store: &store,
                id: EventId::new("order-1").unwrap(),
                customer: CustomerId::new(format!("acct_{number}")).unwrap(),
                now: Moment::new(time(NOON), Duration::ZERO),
                given: true,
                attempt: 0,
            };
            let (checked, _) = bench.check(true);
            assert_eq!(checked.outcome, Outcome::Allowed);
            let recorded = on_threads(steps.len(), |at| match steps[at] {
                Release => {
                    block_on(store.release(bench.key(), bench.now)).unwrap();
                    false
                }
                Settle => bench.settle(Origin::Held(checked.place)) == SettleOutcome::Recorded,
                _ => bench.settle(Origin::Unsure(0)) == SettleOutcome::Recorded,
            });
            let recorded = recorded.into_iter().filter(|recorded| *recorded).count();
            assert_eq!(recorded, 1, "round {number}");
            assert_eq!(bench.used_held(), (amount(7), amount(0)), "round {number}");
        }
    }

    /// The same through permits, with the check among the racers: it may be released or settled
    /// before it is known.
    #[test]
    fn a_check_that_is_given_up_while_it_is_sent_leaves_nothing() {
        let clock = noon();
        let books = Arc::new(OPEN(hundred_a_day(&clock)));
        for round in 0..times(500, 20_000) {
            let customer = format!("acct_{round}");
            on_threads(4, |number| {
                let check = books.check(ask(&customer, 10));
                if number % 2 == 0 {
                    drop(check);
                } else {
                    drop(block_on(check));
                }
            });
            let seen = block_on(used_held(&books, &customer, "daily"));
            assert_eq!(seen, (amount(0), amount(0)));
        }
    }
}
