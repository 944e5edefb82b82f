//! A file that somebody changed by hand is found out.

use tower_limitry::policy::Credit;
use tower_limitry::store::sqlite::{Sqlite, verify};
use tower_limitry::{Check, ErrorKind, Event, Limit, Meter, NewBalance};

use crate::file;
use crate::support::*;

#[tokio::test]
async fn what_was_changed_by_hand_is_found() {
    let path = file::fresh();
    let builder = hundred_a_day(&noon())
        .meter(Meter::latest("seats", "seats").event_type("seat.count"))
        .limit(Limit::all_time("seats", "seats", 10).dimension("plan", "gold"))
        .default_balance(NewBalance::new("credits").initial(100));
    let books = builder.build_on(Sqlite::open(&path).unwrap()).unwrap().erased();
    let charged = Check::of("ada").charge("credits", |usage| usage.value("total_tokens"));
    admitted(&books, charged).await.settle(total(3)).await.unwrap();
    books.credit(Credit::new("ada", "credits", 20)).await.unwrap();
    for (seats, plan) in [(4, "gold"), (5, "gold"), (9, "silver")] {
        let seats = tower_limitry::Usage::of("seats", seats).dimension("plan", plan);
        books.record(Event::new("bob", "seat.count", seats)).await.unwrap();
    }
    let compared = verify(&path, time(NOON)).unwrap();
    assert_eq!((compared.checked, compared.found), (3, vec![]));

    let file = rusqlite::Connection::open(&path).unwrap();
    for change in [
        "UPDATE usage SET value = value + 1 WHERE latest IS NULL",
        "UPDATE usage SET value = 0 WHERE latest IS NOT NULL",
        "UPDATE ledger SET amount = -2000000 WHERE amount = -3000000",
    ] {
        file.execute_batch(change).unwrap();
    }
    let mut found: Vec<_> =
        verify(&path, time(NOON)).unwrap().found.iter().map(ToString::to_string).collect();
    found.sort();
    assert_eq!(found.len(), 3, "{found:#?}");
    assert_names(&found[0], &["\"credits\"", "\"ada\"", "says 117, should say 118"]);
    assert_names(&found[1], &["seats", "\"bob\"", "says 0, should say 5"]);
    assert_names(&found[2], &["total_tokens", "\"ada\"", "says 3.000001, should say 3"]);
}

/// Sums that do not fit are held at the largest amount, by the books and by who verifies them: that is
/// no difference, and no error either.
#[tokio::test]
async fn what_goes_beyond_the_largest_amount_is_reckoned_as_the_books_do() {
    let path = file::fresh();
    let most = "9000000000000";
    let builder = tokens(&noon())
        .limit(Limit::all_time("ever", "tokens", 1))
        .default_balance(NewBalance::new("credits").initial(5));
    let books = builder.build_on(Sqlite::open(&path).unwrap()).unwrap().erased();
    let charged = || Check::of("ada").charge("credits", |usage| usage.value("total_tokens"));
    let all = [admitted(&books, charged()).await, admitted(&books, charged()).await];
    for (permit, next) in all.into_iter().zip([1, 2]) {
        permit.settle(total(amount(most))).await.unwrap();
        assert_eq!(verify(&path, time(NOON)).unwrap().found, [], "after {next}");
    }
    let compared = verify(&path, time(NOON)).unwrap();
    assert_eq!((compared.checked, compared.found), (2, vec![]));
    let least = current(&books, "ada", "credits").await;
    assert_eq!(least, tower_limitry::Amount::MIN);
    // From there it goes on.
    books.credit(Credit::new("ada", "credits", 7)).await.unwrap();
    let void = books.events(Default::default()).await.unwrap().items[0].id().clone();
    books.void("ada", &void).await.unwrap();
    assert_eq!(verify(&path, time(NOON)).unwrap().found, []);
}

#[test]
fn what_is_no_file_of_ours_is_not_verified() {
    let path = file::fresh();
    std::fs::write(&path, "dear diary, ".repeat(20)).unwrap();
    assert_eq!(verify(&path, time(NOON)).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(verify(file::fresh(), time(NOON)).unwrap_err().kind(), ErrorKind::Unavailable);
}
