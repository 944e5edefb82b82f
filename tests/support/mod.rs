//! What the tests of the books have in common.

#![allow(dead_code)]

use std::time::Duration;

use tower_limitry::backend::{PageRequest, Permit, TransactionQuery};
use tower_limitry::engine::{EngineBuilder, ManualClock};
use tower_limitry::policy::{Amount, Timestamp, ToAmount, Transaction};
use tower_limitry::{
    Books, Check, CheckError, Denial, Engine, Error, ErrorKind, Limit, LimitState, Meter,
};

/// Opens fresh books on the store under test.
pub(crate) type Open = fn(EngineBuilder) -> Books;

/// A Sunday.
pub(crate) const NOON: &str = "2026-03-01T12:00:00Z";

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn noon() -> ManualClock {
    ManualClock::at(NOON)
}

#[track_caller]
pub(crate) fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[track_caller]
pub(crate) fn amount(value: impl ToAmount) -> Amount {
    value.to_amount().unwrap()
}

/// An engine with one meter: `tokens`, the sum of `total_tokens`.
pub(crate) fn tokens(clock: &ManualClock) -> EngineBuilder {
    Engine::builder().clock(clock.clone()).meter(Meter::sum("tokens", "total_tokens"))
}

/// The same with one limit: 100 a day.
pub(crate) fn hundred_a_day(clock: &ManualClock) -> EngineBuilder {
    tokens(clock).limit(Limit::per_day("daily", "tokens", 100))
}

/// One limit as somebody saw it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) id: String,
    pub(crate) cap: Amount,
    pub(crate) used: Amount,
    pub(crate) held: Amount,
    pub(crate) remaining: Amount,
    pub(crate) exceeded: bool,
    pub(crate) complete: bool,
    pub(crate) reset: Option<i64>,
}

impl From<LimitState<'_>> for Seen {
    fn from(state: LimitState<'_>) -> Self {
        Self {
            id: state.id().into(),
            cap: state.limit(),
            used: state.used(),
            held: state.held(),
            remaining: state.remaining(),
            exceeded: state.is_exceeded(),
            complete: state.is_complete(),
            reset: state.reset(),
        }
    }
}

/// Where a customer stands on one limit.
#[track_caller]
pub(crate) fn of<'a>(limits: impl Iterator<Item = LimitState<'a>>, id: &str) -> Seen {
    let found = limits.map(Seen::from).find(|seen| seen.id == id);
    found.unwrap_or_else(|| panic!("limit {id:?} was not looked at"))
}

pub(crate) async fn standing(books: &Books, customer: &str, id: &str) -> Seen {
    of(books.usage(customer).await.unwrap().limits(), id)
}

/// What was used and is held on one limit.
pub(crate) async fn used_held(books: &Books, customer: &str, id: &str) -> (Amount, Amount) {
    let seen = standing(books, customer, id).await;
    (seen.used, seen.held)
}

pub(crate) async fn used(books: &Books, customer: &str, id: &str) -> Amount {
    standing(books, customer, id).await.used
}

pub(crate) async fn current(books: &Books, customer: &str, name: &str) -> Amount {
    books.balance(customer, name).await.unwrap().expect("a balance of that name").current()
}

pub(crate) async fn admitted(books: &Books, check: Check) -> Permit {
    match books.check(check).await {
        Ok(permit) => permit,
        Err(error) => panic!("not admitted: {error:?}"),
    }
}

pub(crate) async fn denied(books: &Books, check: Check) -> Denial {
    match books.check(check).await {
        Ok(permit) => panic!("admitted: {permit:?}"),
        Err(CheckError::Denied(denial)) => denial,
        Err(error) => panic!("neither admitted nor denied: {error:?}"),
    }
}

pub(crate) async fn failed(books: &Books, check: Check) -> Error {
    match books.check(check).await {
        Err(CheckError::Failed(error)) => error,
        answer => panic!("did not fail: {answer:?}"),
    }
}

/// A check for so many tokens.
pub(crate) fn ask(customer: &str, tokens: impl ToAmount) -> Check {
    Check::of(customer).estimate("total_tokens", tokens)
}

pub(crate) fn total(tokens: impl ToAmount) -> tower_limitry::Usage {
    tower_limitry::Usage::of("total_tokens", tokens)
}

/// Checks without an estimate and settles so many tokens.
pub(crate) async fn spend(books: &Books, customer: &str, tokens: impl ToAmount) {
    admitted(books, Check::of(customer)).await.settle(total(tokens)).await.unwrap();
}

#[track_caller]
pub(crate) fn assert_invalid(error: &Error, parts: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_names(error, parts);
}

#[track_caller]
pub(crate) fn assert_names(error: &impl std::fmt::Display, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} does not tell {part:?}");
    }
}

/// All transactions of a balance, newest first, read in pages of `length`.
pub(crate) async fn ledger(
    books: &Books,
    customer: &str,
    name: &str,
    length: usize,
) -> Vec<Transaction> {
    let mut all = Vec::new();
    let mut page = PageRequest::first().limit(length);
    loop {
        let query = TransactionQuery::new(customer, name).page(page);
        let answer = books.transactions(query).await.unwrap();
        all.extend(answer.items);
        match answer.next {
            Some(cursor) => page = PageRequest::first().limit(length).after(cursor),
            None => return all,
        }
    }
}

/// `LIMITRY_LONG=1` takes the large number.
pub(crate) fn times(gate: u64, long: u64) -> u64 {
    if std::env::var_os("LIMITRY_LONG").is_some_and(|value| value != "0") { long } else { gate }
}

/// A seed for a test that tries at random: told when it begins, taken from `LIMITRY_SEED` to try
/// the same again.
pub(crate) fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    let given = std::env::var("LIMITRY_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0_u8));
    println!("LIMITRY_SEED={seed}");
    seed
}

/// Small and good enough: SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
