//! Amounts are exact over all 64 bits, though scripts reckon in floats.

use tower_limitry::policy::{Amount, Credit, Debit};
use tower_limitry::{Books, Check, Event, Limit, Meter, NewBalance, Usage};

use crate::redis::fresh;
use crate::support::*;

/// Around where floats end (2^53), where limbs carry, and at both ends.
fn edges() -> Vec<Amount> {
    let mut edges = Vec::new();
    let limbs = 1_000_000_000_i64;
    for middle in [0, limbs, 9_000_000 * limbs, 1 << 53, 10_i64.pow(15), 1 << 62, i64::MAX - 1] {
        for near in [-1, 0, 1] {
            edges.extend([middle + near, -(middle + near)]);
        }
    }
    edges.extend([i64::MIN, i64::MAX]);
    edges.into_iter().map(Amount::from_millionths).collect()
}

async fn everywhere(books: &Books, customer: &str, one: Amount, other: Amount) -> String {
    let record = async |amount: Amount| {
        books.record(Event::new(customer, "chat", Usage::of("n", amount))).await.unwrap();
    };
    record(one).await;
    record(other).await;
    let check = Check::of(customer).event_type("chat");
    let preview = async |asked: Amount| {
        let asked = if asked.is_positive() { asked } else { Amount::ONE };
        let seen = books.preview(check.clone().estimate("n", asked)).await.unwrap();
        seen.limits()
            .map(|limit| format!("{}{}", limit.id(), limit.is_exceeded()))
            .collect::<Vec<_>>()
    };
    let refused = (preview(one).await, preview(other).await);
    let usage = books.usage(customer).await.unwrap();
    let limits: Vec<_> =
        usage.limits().map(|limit| (limit.id().to_owned(), limit.used())).collect();
    let credit = async |amount: Amount| {
        let credited = books.credit(Credit::new(customer, "credits", amount)).await;
        credited.map(|credited| credited.balance.current()).map_err(|error| error.kind())
    };
    let debit = async |amount: Amount| {
        let debited = books.debit(Debit::new(customer, "credits", amount)).await;
        debited.map(|debited| debited.is_taken()).map_err(|error| error.kind())
    };
    let changes = (credit(one).await, credit(other).await, debit(one).await, debit(other).await);
    let balance = books.balance(customer, "credits").await.unwrap().unwrap();
    format!("{refused:?} {limits:?} {changes:?} {balance:?}")
}

#[tokio::test]
async fn sums_and_comparisons_are_those_of_memory_at_every_edge() {
    let builder = || {
        let cap = Amount::from_millionths(1 << 53);
        tower_limitry::Engine::builder()
            .clock(noon())
            .meter(Meter::sum("sum", "n"))
            .meter(Meter::max("max", "n"))
            .limit(Limit::all_time("sum", "sum", cap))
            .limit(Limit::all_time("most", "sum", Amount::MAX))
            .limit(Limit::per_day("max", "max", cap))
            .default_balance(NewBalance::new("credits").initial(7))
    };
    let memory = builder().build().unwrap().erased();
    let (url, prefix) = fresh();
    let store = crate::options(&prefix).danger_time_of_the_engine().open(&url).unwrap();
    let redis = builder().build_on(store).unwrap().erased();
    let edges = edges();
    for (at, one) in edges.iter().enumerate() {
        // Each with a few, and all of them over the run.
        for step in [0, 1, 7, 13] {
            let other = edges[(at * 5 + step) % edges.len()];
            let customer = format!("acct_{at}_{step}");
            let expected = everywhere(&memory, &customer, *one, other).await;
            let found = everywhere(&redis, &customer, *one, other).await;
            assert_eq!(found, expected, "{} and {}", one.as_millionths(), other.as_millionths());
        }
    }
}

/// A sum of whole thousands was written with a second minus within, and was no number any more.
#[tokio::test]
async fn debts_of_whole_thousands_are_exact_beyond_what_a_float_can_tell() {
    let (url, prefix) = fresh();
    let debt = NewBalance::new("credits").initial(-9_000_000_000_i64).minimum(-10_i64.pow(12));
    let builder = crate::tokens().limit(crate::ever(1)).default_balance(debt);
    let books = crate::open(builder, &url, &prefix);
    for (taken, left) in [(9_000_000_000_i64, -18_000_000_000_i64), (1_000, -18_000_001_000)] {
        books.debit(Debit::new("ada", "credits", taken)).await.unwrap();
        assert_eq!(current(&books, "ada", "credits").await, amount(left));
    }
    for used_by_then in [-9_000_000_000_i64, -18_000_000_000] {
        books.record(Event::new("ada", "chat", total(-9_000_000_000_i64))).await.unwrap();
        assert_eq!(used(&books, "ada", "ever").await, amount(used_by_then));
    }
}

#[tokio::test]
async fn holds_are_exact_beyond_what_a_float_can_tell() {
    let (url, prefix) = fresh();
    let cap = Amount::from_millionths((1 << 60) + 1);
    let limit = Limit::all_time("ever", "tokens", cap);
    let books = crate::open(crate::tokens().limit(limit), &url, &prefix);
    let large = Amount::from_millionths(1 << 60);
    let held = admitted(&books, ask("ada", large)).await;
    denied(&books, ask("ada", Amount::from_millionths(2))).await;
    let last = admitted(&books, ask("ada", Amount::from_millionths(1))).await;
    held.release().await.unwrap();
    assert_eq!(used_held(&books, "ada", "ever").await.1, Amount::from_millionths(1));
    last.settle(total(Amount::from_millionths(1))).await.unwrap();
    assert_eq!(used_held(&books, "ada", "ever").await, (Amount::from_millionths(1), Amount::ZERO));
}
