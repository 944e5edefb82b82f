//! Prepaid balances: what a request may take, what it leaves, and what the ledger says.

use tower_limitry::backend::DenialKind;
use tower_limitry::backend::{PageRequest, TransactionQuery};
use tower_limitry::policy::{Credit, Debit, Debited, TransactionKind};
use tower_limitry::{Books, Check, ErrorKind, NewBalance, Usage};

use crate::support::*;

const CREDITS: &str = "AI Credits";

fn credits(open: Open, terms: NewBalance) -> Books {
    open(tokens(&noon()).default_balance(terms))
}

fn with(open: Open, initial: i32) -> Books {
    credits(open, NewBalance::new(CREDITS).initial(initial))
}

/// Half a credit for each token.
fn priced(check: Check) -> Check {
    check.charge(CREDITS, |usage| {
        let tokens = usage.value("total_tokens")?;
        Some(tower_limitry::policy::Amount::from_millionths(tokens.as_millionths() / 2))
    })
}

pub(crate) async fn every_customer_has_the_default(open: Open) {
    let books = credits(open, NewBalance::new(CREDITS).initial(50).minimum(-5).unit("cents"));
    for _ in 0..2 {
        let balances = books.balances("ada").await.unwrap();
        assert_eq!(balances.len(), 1);
        let balance = &balances[0];
        assert_eq!((balance.name(), balance.unit()), (CREDITS, "cents"));
        assert_eq!((balance.current(), balance.minimum()), (amount(50), amount(-5)));
        assert_eq!((balance.held(), balance.available()), (amount(0), amount(55)));
    }
    assert_eq!(books.balance("ada", "ai credits").await.unwrap(), None);
}

pub(crate) async fn the_price_of_the_estimate_is_held_and_of_the_usage_is_charged(open: Open) {
    let books = with(open, 50);
    let permit = admitted(&books, priced(ask("ada", 80))).await;
    let seen = permit.decision().balance().unwrap();
    assert!(!seen.is_exceeded());
    assert_eq!(seen.name(), CREDITS);
    let balance = seen.balance().unwrap();
    assert_eq!((balance.current(), balance.held()), (amount(50), amount(40)));
    assert_eq!(balance.available(), amount(10));

    let denial = denied(&books, priced(ask("ada", 21))).await;
    assert_eq!((denial.kind(), denial.retry_after()), (DenialKind::BalanceShort, Some(SECOND)));
    permit.settle(total(60)).await.unwrap();
    let balance = books.balance("ada", CREDITS).await.unwrap().unwrap();
    assert_eq!((balance.current(), balance.held()), (amount(20), amount(0)));
    let denial = denied(&books, priced(ask("ada", 41))).await;
    assert_eq!((denial.kind(), denial.retry_after()), (DenialKind::BalanceShort, None));
    assert!(denial.decision().balance().unwrap().is_exceeded());
    admitted(&books, priced(ask("ada", 40))).await.settle(total(40)).await.unwrap();
    assert_eq!(current(&books, "ada", CREDITS).await, amount(0));
}

pub(crate) async fn without_an_estimate_something_must_be_left(open: Open) {
    let books = with(open, 1);
    let permit = admitted(&books, priced(Check::of("ada"))).await;
    assert_eq!(permit.decision().balance().unwrap().balance().unwrap().held(), amount(0));
    permit.settle(total(2)).await.unwrap();
    assert_eq!(denied(&books, priced(Check::of("ada"))).await.kind(), DenialKind::BalanceShort);
}

pub(crate) async fn an_overrun_becomes_debt_and_refuses_the_next(open: Open) {
    let books = with(open, 10);
    admitted(&books, priced(ask("ada", 10))).await.settle(total(100)).await.unwrap();
    let balance = books.balance("ada", CREDITS).await.unwrap().unwrap();
    assert_eq!((balance.current(), balance.available()), (amount(-40), amount(-40)));
    denied(&books, priced(Check::of("ada"))).await;
    denied(&books, priced(ask("ada", 0))).await;

    books.credit(Credit::new("ada", CREDITS, 40)).await.unwrap();
    denied(&books, priced(Check::of("ada"))).await;
    books.credit(Credit::new("ada", CREDITS, "0.000001")).await.unwrap();
    admitted(&books, priced(Check::of("ada"))).await.release().await.unwrap();
}

pub(crate) async fn a_minimum_below_nothing_allows_debt(open: Open) {
    let books = credits(open, NewBalance::new(CREDITS).minimum(-10));
    denied(&books, priced(ask("ada", 21))).await;
    admitted(&books, priced(ask("ada", 20))).await.settle(total(20)).await.unwrap();
    assert_eq!(current(&books, "ada", CREDITS).await, amount(-10));
    denied(&books, priced(Check::of("ada"))).await;
}

pub(crate) async fn a_minimum_above_nothing_keeps_a_reserve(open: Open) {
    let books = credits(open, NewBalance::new(CREDITS).initial(30).minimum(20));
    denied(&books, priced(ask("ada", 21))).await;
    let refused = books.debit(Debit::new("ada", CREDITS, "10.000001")).await.unwrap();
    assert!(!refused.is_taken());
    admitted(&books, priced(ask("ada", 20))).await.settle(total(20)).await.unwrap();
    assert_eq!(current(&books, "ada", CREDITS).await, amount(20));
    denied(&books, priced(Check::of("ada"))).await;
}

pub(crate) async fn a_balance_that_is_missing_is_denied_for_its_own_reason(open: Open) {
    let books = with(open, 10);
    let denial = denied(&books, Check::of("ada").charge("Gold", |_| Some(amount(1)))).await;
    assert_eq!((denial.kind(), denial.retry_after()), (DenialKind::NoBalance, None));
    let seen = denial.decision().balance().unwrap();
    assert_eq!((seen.name(), seen.balance()), ("Gold", None));
    assert!(seen.is_exceeded());
    assert_eq!(books.open_holds().await.unwrap(), 0);
}

pub(crate) async fn a_price_that_cannot_be_told_is_missing_and_never_nothing(open: Open) {
    let books = with(open, 10);
    // The estimate has a price, the usage has none: the estimate is charged.
    let settled = admitted(&books, priced(ask("ada", 8))).await.settle(Usage::of("other", 3)).await;
    assert_eq!(
        settled.unwrap_err().to_string(),
        "usage: cannot be priced; give every value that the price needs",
    );
    assert_eq!(current(&books, "ada", CREDITS).await, amount(6));
    let event = books.events(Default::default()).await.unwrap().items.remove(0);
    assert_eq!(event.usage().value("other"), Some(amount(3)));

    // Below nothing is no price either, and neither is a panic.
    let below = ask("ada", 1).charge(CREDITS, |usage| {
        Some(if usage.value("total_tokens") == Some(amount(1)) { amount(2) } else { amount(-5) })
    });
    admitted(&books, below).await.settle(total(3)).await.unwrap_err();
    assert_eq!(current(&books, "ada", CREDITS).await, amount(4));
    let panics = ask("ada", 1).charge(CREDITS, |usage| {
        assert_eq!(usage.value("total_tokens"), Some(amount(1)), "a panic of the test's own");
        Some(amount(1))
    });
    admitted(&books, panics).await.settle(total(2)).await.unwrap_err();
    assert_eq!(current(&books, "ada", CREDITS).await, amount(3));
}

pub(crate) async fn the_balance_may_depend_on_the_request(open: Open) {
    let books = open(
        tokens(&noon())
            .default_balance(NewBalance::new("text").initial(10))
            .default_balance(NewBalance::new("image").initial(20)),
    );
    for (name, left) in [("text", 5), ("image", 15)] {
        let check = ask("ada", 5).charge(name, |usage| usage.value("total_tokens"));
        admitted(&books, check).await.settle(total(5)).await.unwrap();
        assert_eq!(current(&books, "ada", name).await, amount(left));
    }
    let names: Vec<_> = books.balances("ada").await.unwrap();
    let names: Vec<_> = names.iter().map(|balance| balance.name()).collect();
    assert_eq!(names, ["image", "text"]);
}

pub(crate) async fn a_balance_is_created_once(open: Open) {
    let books = with(open, 10);
    let gold = || NewBalance::new("Gold").initial(5).minimum(-1).unit("coins");
    let made = books.create_balance("ada", gold()).await.unwrap();
    assert_eq!((made.name(), made.unit()), ("Gold", "coins"));
    assert_eq!((made.current(), made.available()), (amount(5), amount(6)));

    let error = books.create_balance("ada", gold().initial(99)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_names(&error, &["Gold"]);
    let error = books.create_balance("ada", NewBalance::new(CREDITS)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_names(&error, &[CREDITS, "credit it instead"]);

    assert_eq!(current(&books, "ada", "Gold").await, amount(5));
    assert_eq!(books.balance("bob", "Gold").await.unwrap(), None);
    books.create_balance("bob", gold().initial(1)).await.unwrap();
    assert_eq!(current(&books, "bob", "Gold").await, amount(1));
}

pub(crate) async fn a_credit_with_a_reference_is_taken_once_for_ever(open: Open) {
    let clock = noon();
    let books = open(tokens(&clock).default_balance(NewBalance::new(CREDITS)));
    let payment = |amount: u32| Credit::new("ada", CREDITS, amount).reference("pay_1");
    let first = books.credit(payment(10).description("a top-up")).await.unwrap();
    assert!(first.applied);
    assert_eq!(first.balance.current(), amount(10));
    let made = first.transaction.unwrap();
    assert_eq!((made.kind(), made.amount()), (TransactionKind::Credit, amount(10)));
    assert_eq!((made.description(), made.reference()), (Some("a top-up"), Some("pay_1")));

    for days in [0, 1, 400] {
        clock.advance(days * DAY);
        let again = books.credit(payment(10)).await.unwrap();
        assert!(!again.applied);
        assert_eq!(again.balance.current(), amount(10));
        assert_eq!(again.transaction.unwrap().id(), made.id());
    }
    assert!(books.credit(Credit::new("ada", CREDITS, 10)).await.unwrap().applied);
    assert!(
        books.credit(Credit::new("bob", CREDITS, 10).reference("pay_1")).await.unwrap().applied
    );
    assert_eq!(current(&books, "ada", CREDITS).await, amount(20));
    assert_eq!(current(&books, "bob", CREDITS).await, amount(10));
}

pub(crate) async fn a_repeated_credit_is_answered_with_its_own_transaction(open: Open) {
    let books = open(
        tokens(&noon())
            .default_balance(NewBalance::new("gold"))
            .default_balance(NewBalance::new("silver")),
    );
    let credit = |name: &str, amount: u32| Credit::new("ada", name, amount).reference("pay_1");
    let gold = books.credit(credit("gold", 1)).await.unwrap().transaction.unwrap();
    books.credit(credit("silver", 2)).await.unwrap();
    let again = books.credit(credit("gold", 1)).await.unwrap();
    assert!(!again.applied);
    assert_eq!(again.transaction, Some(gold));
}

pub(crate) async fn a_debit_is_taken_whole_or_not_at_all(open: Open) {
    let books = with(open, 10);
    let debit = |amount: &str| Debit::new("ada", CREDITS, amount).reference("order");
    let refused = books.debit(debit("10.000001")).await.unwrap();
    assert_eq!(refused.balance().current(), amount(10));
    assert!(matches!(refused, Debited::Refused { .. }));
    let Debited::Taken { transaction, balance } = books.debit(debit("4")).await.unwrap() else {
        panic!("refused");
    };
    assert_eq!((transaction.kind(), transaction.amount()), (TransactionKind::Debit, amount(4)));
    assert_eq!((transaction.balance_after(), balance.current()), (amount(6), amount(6)));
    assert_eq!((transaction.reference(), transaction.balance()), (Some("order"), CREDITS));
    assert!(books.debit(debit("4")).await.unwrap().is_taken());
    assert!(!books.debit(debit("4")).await.unwrap().is_taken());
    assert_eq!(current(&books, "ada", CREDITS).await, amount(2));
    assert_eq!(ledger(&books, "ada", CREDITS, 50).await.len(), 3);
}

pub(crate) async fn a_debit_leaves_alone_what_is_held(open: Open) {
    let books = with(open, 10);
    let permit = admitted(&books, priced(ask("ada", 16))).await;
    assert!(!books.debit(Debit::new("ada", CREDITS, 3)).await.unwrap().is_taken());
    let taken = books.debit(Debit::new("ada", CREDITS, 2)).await.unwrap();
    assert_eq!((taken.balance().held(), taken.balance().available()), (amount(8), amount(0)));
    permit.release().await.unwrap();
    assert!(books.debit(Debit::new("ada", CREDITS, 3)).await.unwrap().is_taken());
}

pub(crate) async fn an_unknown_balance_is_not_found(open: Open) {
    let books = with(open, 10);
    let credit = books.credit(Credit::new("ada", "Gold", 1)).await.unwrap_err();
    let debit = books.debit(Debit::new("ada", "Gold", 1)).await.unwrap_err();
    let query = TransactionQuery::new("ada", "Gold");
    let transactions = books.transactions(query).await.unwrap_err();
    for error in [credit, debit, transactions] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_names(&error, &["Gold", "create it first"]);
    }
    assert_eq!(books.balance("ada", "Gold").await.unwrap(), None);
}

pub(crate) async fn transactions_are_paged_newest_first_and_begin_with_the_opening(open: Open) {
    let books = with(open, 100);
    let opening = |tx: &tower_limitry::policy::Transaction| {
        (tx.kind(), tx.amount(), tx.balance_after())
            == (TransactionKind::Opening, amount(100), amount(100))
    };
    let untouched = ledger(&books, "ada", CREDITS, 50).await;
    assert_eq!(untouched.len(), 1);
    assert!(opening(&untouched[0]));

    let permit = admitted(&books, priced(ask("ada", 10))).await;
    let id = permit.id().unwrap().clone();
    books.credit(Credit::new("ada", CREDITS, 20)).await.unwrap();
    books.credit(Credit::new("bob", CREDITS, 1)).await.unwrap();
    books.debit(Debit::new("ada", CREDITS, 30)).await.unwrap();
    permit.settle(total(10)).await.unwrap();

    for length in [1, 2, 3, 50] {
        let all = ledger(&books, "ada", CREDITS, length).await;
        let after: Vec<_> = all.iter().map(|tx| tx.balance_after()).collect();
        assert_eq!(after, [85, 90, 120, 100].map(amount), "pages of {length}");
        assert!(opening(&all[3]), "pages of {length}");
        assert_eq!((all[0].id(), all[0].amount()), (&id, amount(5)), "pages of {length}");
        assert!(all.iter().all(|tx| tx.customer().as_str() == "ada"));
    }
    let query = TransactionQuery::new("ada", CREDITS).page(PageRequest::first().after("x"));
    assert_invalid(&books.transactions(query).await.unwrap_err(), &["cursor"]);
}

pub(crate) async fn the_opening_is_found_behind_the_very_first_change(open: Open) {
    let books = with(open, 100);
    books.credit(Credit::new("ada", CREDITS, 1)).await.unwrap();
    for length in [1, 2] {
        let kinds: Vec<_> =
            ledger(&books, "ada", CREDITS, length).await.iter().map(|tx| tx.kind()).collect();
        assert_eq!(kinds, [TransactionKind::Credit, TransactionKind::Opening], "by {length}");
    }
}

pub(crate) async fn a_credit_beyond_the_largest_amount_is_an_error(open: Open) {
    let books = with(open, 10);
    let most = tower_limitry::policy::Amount::MAX;
    let error = books.credit(Credit::new("ada", CREDITS, most).reference("x")).await.unwrap_err();
    assert_invalid(&error, &["amount", "largest amount"]);
    assert_eq!(current(&books, "ada", CREDITS).await, amount(10));
    // The reference is still good.
    let credit = Credit::new("ada", CREDITS, 1).reference("x");
    assert!(books.credit(credit).await.unwrap().applied);
}

pub(crate) async fn what_must_remain_of_a_balance_can_be_changed(open: Open) {
    let books = with(open, 10);
    books.create_balance("ada", NewBalance::new("own").initial(50).unit("cents")).await.unwrap();
    books.create_balance("bob", NewBalance::new("own").initial(50)).await.unwrap();
    let own = |tokens: u32| ask("ada", tokens).charge("own", |usage| usage.value("total_tokens"));
    let running = admitted(&books, own(30)).await;

    let balance = books.set_minimum("ada", "own", 15).await.unwrap();
    assert_eq!((balance.name(), balance.unit()), ("own", "cents"));
    assert_eq!((balance.current(), balance.minimum()), (amount(50), amount(15)));
    let told = books.balance("ada", "own").await.unwrap().unwrap();
    assert_eq!((told.held(), told.available()), (amount(30), amount(5)));
    denied(&books, own(6)).await;
    assert!(!books.debit(Debit::new("ada", "own", 6)).await.unwrap().is_taken());
    running.settle(total(40)).await.unwrap();
    let told = books.balance("ada", "own").await.unwrap().unwrap();
    assert_eq!((told.current(), told.available()), (amount(10), amount(-5)));

    for _ in 0..2 {
        let balance = books.set_minimum("ada", "own", -20).await.unwrap();
        assert_eq!((balance.current(), balance.available()), (amount(10), amount(30)));
    }
    assert!(books.debit(Debit::new("ada", "own", 30)).await.unwrap().is_taken());
    let ledger = ledger(&books, "ada", "own", 50).await;
    assert_eq!(ledger.len(), 3, "terms are no transaction: {ledger:?}");
    let other = books.balance("bob", "own").await.unwrap().unwrap();
    assert_eq!((other.minimum(), other.current()), (amount(0), amount(50)));

    for (customer, name, kind) in [
        ("ada", CREDITS, ErrorKind::Conflict),
        ("ada", "Own", ErrorKind::NotFound),
        ("cid", "own", ErrorKind::NotFound),
        ("", "own", ErrorKind::Invalid),
    ] {
        let error = books.set_minimum(customer, name, 1).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{customer} {name}");
    }
    assert_eq!(books.balance("ada", CREDITS).await.unwrap().unwrap().minimum(), amount(0));
}

pub(crate) async fn balances_of_everybody_are_paged_by_customer_and_name(open: Open) {
    let books = with(open, 10);
    let none = books.all_balances(PageRequest::first()).await.unwrap();
    assert!(none.items.is_empty() && none.next.is_none());
    for (customer, name) in
        [("bob", "z"), ("ada", "b"), ("ada", "a"), ("bob", "A"), ("bo", "b:z"), ("bob", "b:z")]
    {
        books.create_balance(customer, NewBalance::new(name).initial(1)).await.unwrap();
    }
    books.credit(Credit::new("cid", CREDITS, 1)).await.unwrap();
    // Who was only looked at has nothing of their own.
    books.balances("dan").await.unwrap();
    books.usage("eve").await.unwrap();

    let expected = [
        ("ada", CREDITS),
        ("ada", "a"),
        ("ada", "b"),
        ("bo", CREDITS),
        ("bo", "b:z"),
        ("bob", "A"),
        ("bob", CREDITS),
        ("bob", "b:z"),
        ("bob", "z"),
        ("cid", CREDITS),
    ];
    for length in [1, 2, 3, 4, 9, 10, 100] {
        let (mut all, mut page) = (Vec::new(), PageRequest::first().limit(length));
        loop {
            let told = books.all_balances(page).await.unwrap();
            assert!((1..=length).contains(&told.items.len()), "pages of {length}");
            all.extend(told.items);
            let Some(next) = told.next else { break };
            page = PageRequest::first().limit(length).after(next);
        }
        let names: Vec<_> =
            all.iter().map(|(customer, balance)| (customer.as_str(), balance.name())).collect();
        assert_eq!(names, expected, "pages of {length}");
        assert_eq!(all[9].1.current(), amount(11));
    }
    for cursor in ["", "x", "9:ada"] {
        let page = PageRequest::first().after(cursor);
        assert_invalid(&books.all_balances(page).await.unwrap_err(), &["cursor"]);
    }
}
