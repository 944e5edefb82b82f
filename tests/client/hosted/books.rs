//! Many requests beside each other, over a way that is shut or loses answers now and then: in the end
//! the books are right to the unit.

use std::hash::{BuildHasher, RandomState};

use tower_limitry::Amount;
use tower_limitry::client::Debt;

use super::*;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % u64::from(bound)) as u32
    }
}

/// Runs requests of these customers until all are over and delivered. Each really uses up to `factor`
/// times what it was expected to. Answers what each customer has used, and what is owed.
async fn run(service: &Service, factor: u32, name: &str) -> (HashMap<String, u32>, Vec<Debt>) {
    let seed = RandomState::new().hash_one(0_u8);
    println!("seed {seed}");
    let hosted = Hosted::builder(&service.client())
        .check_timeout(Duration::from_secs(30))
        .collect_every(Duration::from_millis(20))
        .open()
        .await
        .unwrap();
    let file = File::new(name);
    let (outbox, books) = queued(&hosted, &file).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8_u64 {
        let (books, mut random) = (books.clone(), Random(seed ^ task));
        tasks.spawn(async move {
            let mut used = Vec::new();
            for _ in 0..40 {
                let customer = ["ann", "bob", "eve"][random.below(3) as usize];
                let expected = 1 + random.below(20);
                let Ok(permit) = books.check(paid(customer, expected)).await else { continue };
                tokio::task::yield_now().await;
                if random.below(4) > 0 {
                    let really = random.below(expected * factor + 1);
                    permit.settle(tokens(really)).await.unwrap();
                    used.push((customer.to_owned(), really));
                }
            }
            used
        });
    }
    let (gate, mut random) = (service.gate.clone(), Random(seed ^ 99));
    let trouble = tokio::spawn(async move {
        loop {
            let path = ["balances/debit", "events/batch"][random.below(2) as usize];
            gate.set(path, [Way::Shut, Way::Lost][random.below(2) as usize]);
            gate.more(random.below(12)).await;
            gate.open();
            gate.more(random.below(12)).await;
        }
    });
    let mut sums = HashMap::new();
    for (customer, used) in tasks.join_all().await.into_iter().flatten() {
        *sums.entry(customer).or_default() += used;
    }
    trouble.abort();
    let _ = trouble.await;
    service.gate.open();
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    hosted.collect_debts().await;
    assert_eq!(outbox.stats().set_aside, 0);
    assert_eq!(books.open_holds().await.unwrap(), 0);
    (sums, hosted.debts())
}

async fn with_three() -> Service {
    let service = Service::start().await;
    for customer in ["bob", "eve"] {
        let terms = NewBalance::new("credits").initial(100);
        service.books.create_balance(customer, terms).await.unwrap();
    }
    service
}

#[tokio::test]
async fn nobody_overspends_and_everything_is_counted_once() {
    let service = with_three().await;
    let (sums, debts) = run(&service, 1, "books").await;
    assert_eq!(debts, []);
    for customer in ["ann", "bob", "eve"] {
        let used = Amount::from(sums.get(customer).copied().unwrap_or(0));
        assert_eq!(service.used(customer).await, used);
        let left = Amount::from(100).saturating_sub(used);
        assert_eq!(service.credits(customer).await, left);
        assert!(!left.is_negative(), "{customer} has spent {used} of 100");
    }
}

#[tokio::test]
async fn what_costs_more_than_there_is_is_owed_to_the_unit() {
    let service = with_three().await;
    let (sums, debts) = run(&service, 6, "overruns").await;
    for customer in ["ann", "bob", "eve"] {
        let used = Amount::from(sums.get(customer).copied().unwrap_or(0));
        assert_eq!(service.used(customer).await, used);
        let of = debts.iter().filter(|debt| debt.customer.as_str() == customer);
        let owed = of.fold(Amount::ZERO, |sum, debt| sum.saturating_add(debt.owed));
        let credits = service.credits(customer).await;
        assert!(!credits.is_negative());
        assert_eq!(credits.saturating_sub(owed), Amount::from(100).saturating_sub(used));
        assert!(credits == Amount::ZERO || owed == Amount::ZERO, "what is there is taken");
    }
}
