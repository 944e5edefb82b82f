//! What is ordinary is decided by a shorter way through the same script. Both ways, and memory, are one
//! law.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tower_limitry::backend::{Decision, Permit};
use tower_limitry::engine::{EngineBuilder, ManualClock};
use tower_limitry::policy::{Amount, Credit};
use tower_limitry::{Books, Check, CheckError, Event, Limit, Meter, NewBalance, Usage};

use crate::redis::{Server, fresh};
use crate::support::*;

const CUSTOMERS: [&str; 3] = ["ada", "bob |#{b}", "ève 1 2"];
/// The first two are everybody's, the third is only there once it is created, and the last never is.
const BALANCES: [&str; 4] = ["credits", "gifts", "own |ü# 1", "none"];
const UNITS: [&str; 6] = ["credits", "", "US dollars", " lead", "€ |#", "-5 "];
/// Where floats end, and what is beyond.
const LARGE: [i64; 8] = [
    1,
    8_999_999_999_999_999,
    9_000_000_000_000_000,
    (1 << 53) - 1,
    1 << 53,
    (1 << 53) + 1,
    1 << 58,
    1 << 60,
];

fn large(random: &mut Random) -> Amount {
    Amount::from_millionths(LARGE[random.below(LARGE.len() as u64) as usize])
}

async fn books_of(books: &Books, customer: &str) -> String {
    let usage = books.usage(customer).await.unwrap();
    let mut limits: Vec<_> =
        usage.limits().map(|limit| (limit.id().to_owned(), limit.used(), limit.held())).collect();
    limits.sort();
    let balances = books.balances(customer).await.unwrap();
    format!("{limits:?} {balances:?}")
}

/// How often the server has run a command.
fn calls(server: &Server, command: &str) -> u64 {
    let told = server.ask(&["INFO", "commandstats"]);
    let own = told.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    own.map_or(0, |text| text.split(',').next().unwrap().parse().unwrap())
}

fn rules(clock: &ManualClock, told: &Told) -> EngineBuilder {
    let told = Arc::clone(told);
    tower_limitry::Engine::builder()
        .clock(clock.clone())
        .on_alert(move |crossing| told.lock().unwrap().push(format!("{crossing:?}")))
        .meter(Meter::sum("tokens", "n"))
        .meter(Meter::sum("pages", "pages"))
        .meter(Meter::sum("mass", "mass"))
        .meter(Meter::count("requests"))
        .meter(Meter::max("longest", "n").event_type("slow"))
        .meter(Meter::latest("newest", "n").event_type("slow"))
        .limit(Limit::per_minute("minute", "requests", 6))
        .limit(Limit::per_hour("hour", "tokens", 900).alert_at([10, 50, 100]))
        .limit(Limit::per_hour("soft", "tokens", 700).alert_at([100]))
        .limit(Limit::per_hour("of-x", "tokens", 300).dimension("model", "x"))
        .limit(Limit::per_day("pages", "pages", 400).alert_at([20]))
        .limit(Limit::per_day("day", "tokens", u32::MAX))
        .limit(Limit::all_time("ever", "tokens", Amount::MAX))
        .limit(Limit::all_time("mass", "mass", Amount::MAX))
        .limit(Limit::per_day("heavy", "mass", Amount::from_millionths(1 << 60)))
        .limit(Limit::per_day("longest", "longest", 250))
        .limit(Limit::per_hour("newest", "newest", 250))
        .default_balance(NewBalance::new("credits").initial(4_000))
        .default_balance(NewBalance::new("gifts").initial(300).minimum(-50))
}

type Told = Arc<Mutex<Vec<String>>>;

/// What is in each of the books.
async fn all_of_books(books: &[Books; 3], customer: &str) -> [String; 3] {
    let mut all = [(); 3].map(|()| String::new());
    for (books, text) in books.iter().zip(&mut all) {
        let ledger: Vec<_> = ledger(books, customer, "credits", 100)
            .await
            .into_iter()
            .take(3)
            .map(|made| (made.amount(), made.balance_after()))
            .collect();
        *text = format!("{} {ledger:?}", books_of(books, customer).await);
    }
    all
}

#[tokio::test]
async fn the_ordinary_way_and_the_whole_way_are_one_law() {
    let mut random = Random(seed());
    let (server, clock) = (Server::start(), noon());
    let options = |prefix: &str| {
        let options = crate::options(prefix).keep_transactions(40).hold_for(12 * HOUR);
        options.danger_time_of_the_engine()
    };
    let told: [Told; 3] = Default::default();
    // Holds for longer than half a day, and books without events, are not ordinary.
    let (url, prefix) = fresh();
    let whole = options(&prefix).hold_for(30 * DAY).keep_events(0).open(&url).unwrap();
    let build = |store, told| rules(&clock, told).build_on(store).unwrap().erased();
    let ordinary = || options("ordinary").open(&server.url()).unwrap();
    let mut all = [
        rules(&clock, &told[0]).build().unwrap().erased(),
        build(ordinary(), &told[1]),
        build(whole, &told[2]),
    ];
    // Another process, which shares the books.
    let mut other = build(ordinary(), &told[1]);
    let mut open: Vec<(Vec<Permit>, &str, bool, Option<Amount>)> = Vec::new();
    let (mut cap, mut era) = (5_000, 0);
    for step in 0..times(1_500, 30_000) {
        if random.below(2) == 0 {
            std::mem::swap(&mut all[1], &mut other);
        }
        let customer = CUSTOMERS[random.below(3) as usize];
        let model = ["x", "y"][random.below(2) as usize];
        match random.below(20) {
            0..9 => {
                let slow = random.below(12) == 0;
                let event_type = [None, Some("chat"), Some("slow")]
                    [if slow { 2 } else { random.below(2) as usize }];
                let estimate = [None, Some(0), Some(1), Some(40), Some(90)];
                let estimate = estimate[random.below(5) as usize];
                let (charge, pages, named) = (random.below(8), random.below(6), random.below(4));
                let mass = (random.below(8) == 0).then(|| large(&mut random));
                let (charged, looks) = (random.below(4), random.below(6) == 0);
                let (dimension, id) = (random.below(3), random.below(6));
                let brief = random.below(8) == 0;
                let mut answers = Vec::new();
                for books in &all {
                    let mut check = Check::of(customer);
                    if let Some(event_type) = event_type {
                        check = check.event_type(event_type);
                    }
                    if dimension == 0 {
                        check = check.dimension("model", model);
                    }
                    if let Some(estimate) = estimate {
                        check = check.estimate("n", estimate);
                    }
                    if pages == 0 && estimate.is_some() {
                        check = check.estimate("pages", 7);
                    }
                    if let Some(mass) = mass {
                        check = check.estimate("mass", mass);
                    }
                    if let Some(name) = BALANCES.get(charge as usize) {
                        let what = if charged == 0 && mass.is_some() { "mass" } else { "n" };
                        check = check.charge(name, move |usage| usage.value(what));
                    }
                    if brief {
                        check = check.hold_for(3 * MINUTE);
                    }
                    if named == 0 {
                        check = check.id(format!("id-{era}-{id}"));
                    }
                    if looks {
                        let seen = books.preview(check).await.map_err(|error| error.kind());
                        answers.push((format!("{:?}", seen.as_ref().map(shown)), None));
                        continue;
                    }
                    answers.push(match books.check(check.clone()).await {
                        Err(CheckError::Failed(error)) => (format!("{:?}", error.kind()), None),
                        Err(CheckError::Denied(denial)) => (shown(denial.decision()), None),
                        Ok(permit) => (shown(permit.decision()), Some(permit)),
                        Err(error) => panic!("{error:?}"),
                    });
                }
                let (told, permits): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
                assert_eq!(told[0], told[1], "step {step}: memory, and the ordinary way");
                assert_eq!(told[0], told[2], "step {step}: memory, and the whole way");
                let permits: Vec<_> = permits.into_iter().flatten().collect();
                if !permits.is_empty() {
                    open.push((permits, customer, pages == 0, mass));
                }
            }
            9..18 if !open.is_empty() => {
                let (permits, customer, pages, mass) =
                    open.swap_remove(random.below(open.len() as u64) as usize);
                let sizes = [Amount::from(0), Amount::from(33), Amount::from(90), amount("0.5")];
                let size = match random.below(50) {
                    0 if customer == CUSTOMERS[2] => Amount::from_millionths(9_000_000_000_000_001),
                    1 if customer == CUSTOMERS[2] => Amount::from_millionths(1_000_000_000_000_001),
                    _ => sizes[random.below(4) as usize],
                };
                let (settles, dimension) = (random.below(6) > 0, random.below(3));
                let mut outcomes = Vec::new();
                for permit in permits {
                    let mut usage = Usage::of("n", size);
                    if dimension == 0 {
                        usage = usage.dimension("model", model);
                    }
                    if pages {
                        usage = usage.and("pages", 9);
                    }
                    if let Some(mass) = mass {
                        usage = usage.and("mass", mass);
                    }
                    outcomes.push(match settles {
                        true => permit.settle(usage).await.map(drop).map_err(|error| error.kind()),
                        false => permit.release().await.map(drop).map_err(|error| error.kind()),
                    });
                }
                assert_eq!(outcomes[0], outcomes[1], "step {step}: memory, and the ordinary way");
                assert_eq!(outcomes[0], outcomes[2], "step {step}: memory, and the whole way");
            }
            18 => match random.below(6) {
                0 => {
                    let id = format!("id-{era}-{}", random.below(6));
                    let mut outcomes = Vec::new();
                    for books in &all {
                        let event = Event::new(customer, "chat", Usage::of("n", 11)).id(&id);
                        let recorded = books.record(event).await;
                        outcomes.push(recorded.map(|made| made.recorded).map_err(|e| e.kind()));
                    }
                    assert_eq!(outcomes[0], outcomes[1], "step {step}: memory, and ordinary");
                    assert_eq!(outcomes[0], outcomes[2], "step {step}: memory, and whole");
                }
                1 => {
                    // The same counter under another cap.
                    cap += 1;
                    for books in &all {
                        let limit = Limit::per_hour("more", "tokens", cap);
                        books.put_limit(limit).await.unwrap();
                    }
                }
                2 => {
                    for books in &all {
                        books.credit(Credit::new(customer, "credits", 100)).await.unwrap();
                    }
                }
                3 => {
                    let name = BALANCES[random.below(3) as usize];
                    let terms = NewBalance::new(name)
                        .unit(UNITS[random.below(UNITS.len() as u64) as usize])
                        .initial(
                            [amount(0), amount(3_000), large(&mut random)]
                                [random.below(3) as usize],
                        )
                        .minimum([amount(0), amount(-70), amount(40)][random.below(3) as usize]);
                    let mut outcomes = Vec::new();
                    for books in &all {
                        let opened = books.create_balance(customer, terms.clone()).await;
                        outcomes.push(opened.map_err(|error| error.kind()));
                    }
                    assert_eq!(outcomes[0], outcomes[1], "step {step}: memory, and ordinary");
                    assert_eq!(outcomes[0], outcomes[2], "step {step}: memory, and whole");
                }
                4 => {
                    let name = BALANCES[random.below(3) as usize];
                    let minimum = [amount(-90), amount(0), amount(500)][random.below(3) as usize];
                    let mut outcomes = Vec::new();
                    for books in &all {
                        let changed = books.set_minimum(customer, name, minimum).await;
                        outcomes.push(changed.map_err(|error| error.kind()));
                    }
                    assert_eq!(outcomes[0], outcomes[1], "step {step}: memory, and ordinary");
                    assert_eq!(outcomes[0], outcomes[2], "step {step}: memory, and whole");
                }
                _ => {}
            },
            _ => {
                clock.advance(Duration::from_secs(random.below(400)));
                // Some remember ids for longer than they have to.
                era += 1;
                // Holds of either process live on.
                other.usage(customer).await.unwrap();
            }
        }
        if step % 5 == 0 {
            for customer in CUSTOMERS {
                let [expected, ordinary, whole] = all_of_books(&all, customer).await;
                assert_eq!(ordinary, expected, "step {step}: ordinary");
                assert_eq!(whole, expected, "step {step}: whole");
            }
            let told = told.each_ref().map(|told| {
                let mut told = told.lock().unwrap().clone();
                told.sort();
                told
            });
            assert_eq!(told[1], told[2], "step {step}: alerts of either way");
        }
    }
    for key in server.keys().iter().filter(|key| server.ask(&["TTL", key]) == ":-1") {
        let kind = key.trim_start_matches("ordinary:1:").trim_start_matches(|c| c != ':');
        let stays = ["definitions", ":shard", ":alerts", ":books", ":transactions"];
        let stays = stays.iter().any(|name| kind.starts_with(name) || key.ends_with(name));
        assert!(stays, "{key} has no end");
    }
    // Only the whole way looks how long keys live, and at the length of the stream each time.
    let [settled, whole, checked, told] =
        ["xadd", "xlen", "zmscore", "pttl"].map(|command| calls(&server, command));
    println!("{whole} of {settled} settlements and {told} of {checked} checks were not ordinary");
    assert!(5 * whole < 4 * settled, "{whole} of {settled} settlements were out of the ordinary");
    assert!(2 * told < checked, "{told} of {checked} checks were out of the ordinary");
}

/// What one of the books said, for all to see.
fn shown(decision: &Decision) -> String {
    let mut limits: Vec<_> = decision
        .limits()
        .map(|limit| (limit.id().to_owned(), limit.used(), limit.held(), limit.is_exceeded()))
        .collect();
    limits.sort();
    let balance = decision.balance().map(|state| (state.is_exceeded(), state.balance().cloned()));
    format!("{} {limits:?} {balance:?}", decision.is_allowed())
}
