//! What is ordinary is decided by a shorter way through the same script. Both ways, and memory, are one
//! law.

use std::time::Duration;

use tower_limitry::backend::Permit;
use tower_limitry::engine::{EngineBuilder, ManualClock};
use tower_limitry::policy::Amount;
use tower_limitry::{Books, Check, CheckError, Limit, Meter, NewBalance, Usage};

use crate::redis::fresh;
use crate::support::*;

const CUSTOMERS: [&str; 3] = ["ada", "bob", "eve"];

fn rules(clock: &ManualClock) -> EngineBuilder {
    tower_limitry::Engine::builder()
        .clock(clock.clone())
        .meter(Meter::sum("tokens", "n"))
        .meter(Meter::count("requests"))
        .meter(Meter::max("longest", "n"))
        .limit(Limit::per_minute("minute", "requests", 6))
        .limit(Limit::per_hour("hour", "tokens", 400).alert_at([10, 50, 100]))
        .limit(Limit::per_hour("soft", "tokens", 300).alert_at([100]))
        .limit(Limit::per_day("day", "tokens", u32::MAX))
        .limit(Limit::all_time("ever", "tokens", Amount::MAX))
        .limit(Limit::per_day("longest", "longest", 250))
        .default_balance(NewBalance::new("credits").initial(2_000))
}

/// What one of the books said, for all to see.
async fn ask_for(books: &Books, check: Check) -> (String, Option<Permit>) {
    let (decision, permit) = match books.check(check).await {
        Ok(permit) => (permit.decision().clone(), Some(permit)),
        Err(CheckError::Denied(denial)) => (denial.decision().clone(), None),
        Err(error) => panic!("{error:?}"),
    };
    let limits: Vec<_> = decision
        .limits()
        .map(|limit| (limit.id().to_owned(), limit.used(), limit.held(), limit.is_exceeded()))
        .collect();
    let balance = decision.balance().map(|state| (state.is_exceeded(), state.balance().cloned()));
    (format!("{} {limits:?} {balance:?}", decision.is_allowed()), permit)
}

async fn books_of(books: &Books, customer: &str) -> String {
    let usage = books.usage(customer).await.unwrap();
    let limits: Vec<_> =
        usage.limits().map(|limit| (limit.id().to_owned(), limit.used(), limit.held())).collect();
    let balance = books.balance(customer, "credits").await.unwrap().unwrap();
    format!("{limits:?} {} {}", balance.current(), balance.held())
}

#[tokio::test]
async fn the_ordinary_way_and_the_whole_way_are_one_law() {
    let mut random = Random(seed());
    let (url, prefix) = fresh();
    let clock = noon();
    let options = |name: &str| {
        crate::options(&format!("{prefix}-{name}")).danger_time_of_the_engine().keep_transactions(3)
    };
    let ordinary = options("ordinary").open(&url).unwrap();
    // Holds for longer than a week, and books without events, are not ordinary.
    let long = Duration::from_secs(30 * 24 * 3_600);
    let whole = options("whole").hold_for(long).keep_events(0).open(&url).unwrap();
    let all = [
        rules(&clock).build().unwrap().erased(),
        rules(&clock).build_on(ordinary).unwrap().erased(),
        rules(&clock).build_on(whole).unwrap().erased(),
    ];
    let mut open: Vec<(Vec<Permit>, &str)> = Vec::new();
    for step in 0..times(600, 20_000) {
        let customer = CUSTOMERS[random.below(3) as usize];
        match random.below(10) {
            0..5 => {
                let estimate = [None, Some(1), Some(40), Some(90), Some(500)];
                let estimate = estimate[random.below(5) as usize];
                let charges = random.below(2) == 0;
                let mut answers = Vec::new();
                for books in &all {
                    let mut check = Check::of(customer).event_type("chat");
                    if let Some(estimate) = estimate {
                        check = check.estimate("n", estimate);
                    }
                    if charges {
                        check = check.charge("credits", |usage| usage.value("n"));
                    }
                    answers.push(ask_for(books, check).await);
                }
                let (told, permits): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
                assert_eq!(told[0], told[1], "step {step}: memory, and the ordinary way");
                assert_eq!(told[0], told[2], "step {step}: memory, and the whole way");
                let permits: Vec<_> = permits.into_iter().flatten().collect();
                if !permits.is_empty() {
                    open.push((permits, customer));
                }
            }
            5..9 if !open.is_empty() => {
                let (permits, customer) =
                    open.swap_remove(random.below(open.len() as u64) as usize);
                let sizes = [Amount::from(1), Amount::from(33), Amount::from(90), amount("0.5")];
                let size = match random.below(20) {
                    // Beyond what numbers tell apart; whoever uses so much is out of the ordinary from then on.
                    0 if customer == "eve" => Amount::from_millionths(9_000_000_000_000_001),
                    1 if customer == "eve" => Amount::from_millionths(1_000_000_000_000_001),
                    _ => sizes[random.below(4) as usize],
                };
                let settles = random.below(4) > 0;
                for permit in permits {
                    match settles {
                        true => permit.settle(Usage::of("n", size)).await.unwrap(),
                        false => permit.release().await.unwrap(),
                    };
                }
            }
            _ => {
                // Holds are not told of the time that passes: they would be renewed, or end.
                if open.is_empty() {
                    clock.advance(Duration::from_secs(random.below(4_000)));
                }
            }
        }
        if step % 5 == 0 {
            for customer in CUSTOMERS {
                let expected = books_of(&all[0], customer).await;
                assert_eq!(books_of(&all[1], customer).await, expected, "step {step}: ordinary");
                assert_eq!(books_of(&all[2], customer).await, expected, "step {step}: whole");
            }
        }
    }
}
