//! Places: bounded, reserved at check, used by the settlement, given back by everything else.

use tower_limitry::backend::Permit;
use tower_limitry::engine::ManualClock;
use tower_limitry::policy::{Credit, Debit, EventId};
use tower_limitry::store::Sqlite;
use tower_limitry::store::sqlite::OwnerlessHolds;
use tower_limitry::{Books, Check, CheckError, Error, ErrorKind, Event, Limit, NewBalance};

use crate::support::*;
use crate::{asked, file};

const PLACES: usize = 65_536;

fn open(clock: &ManualClock, path: &std::path::Path) -> Books {
    open_with(OwnerlessHolds::CostNothing, clock, path)
}

fn open_with(cost: OwnerlessHolds, clock: &ManualClock, path: &std::path::Path) -> Books {
    let store = Sqlite::options().ownerless_holds(cost).open(path).unwrap();
    let builder = tokens(clock)
        .limit(Limit::all_time("ever", "tokens", 1_000_000))
        .default_balance(NewBalance::new("credits").initial(1_000));
    builder.build_on(store).unwrap().erased()
}

/// Admits requests until there is no place for another.
async fn fill(books: &Books) -> Vec<Permit> {
    let mut running = Vec::new();
    loop {
        match books.check(ask("ada", 1)).await {
            Ok(permit) => running.push(permit),
            Err(CheckError::Failed(error)) => {
                assert_busy(&error);
                return running;
            }
            Err(denied) => panic!("{denied:?}"),
        }
    }
}

#[track_caller]
fn assert_busy(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_names(error, &["try again"]);
}

#[tokio::test]
async fn running_requests_have_their_places_and_nobody_else_gets_one() {
    let path = file::fresh();
    let books = open(&noon(), &path);
    let mut running = fill(&books).await;
    assert_eq!(running.len(), PLACES);
    let event = || Event::new("ada", "chat", total(1));
    assert_busy(&books.record(event()).await.unwrap_err());
    assert_busy(&books.credit(Credit::new("ada", "credits", 1)).await.unwrap_err());
    assert_busy(&books.debit(Debit::new("ada", "credits", 1)).await.unwrap_err());
    let terms = NewBalance::new("bonus");
    assert_busy(&books.create_balance("ada", terms).await.unwrap_err());
    assert_eq!(used(&books, "ada", "ever").await, amount(0));

    // A writer that is held up: what is settled stays in its place.
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let settling: Vec<_> =
        running.drain(..100).map(|permit| Box::pin(permit.settle(total(1)))).collect();
    let error = failed(&books, ask("ada", 1)).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    other.execute_batch("ROLLBACK").unwrap();
    for settled in settling {
        settled.await.unwrap();
    }
    assert_eq!(asked::<u32>(&path, "SELECT count(*) FROM event"), 100);
    // Their places are free again, each once.
    assert_eq!(fill(&books).await.len(), 100);
    running.pop().unwrap().release().await.unwrap();
    assert!(books.record(event()).await.unwrap().recorded);
}

#[tokio::test]
async fn no_place_is_lost_and_none_is_free_twice() {
    let (clock, path) = (noon(), file::fresh());
    let books = open(&clock, &path);
    use_and_refuse(&books, &clock).await;
    assert_eq!(fill(&books).await.len(), PLACES);
}

/// While its hold is written, a request has two places.
#[tokio::test]
async fn no_place_is_lost_and_none_is_free_twice_where_holds_are_written() {
    let (clock, path) = (noon(), file::fresh());
    let books = open_with(OwnerlessHolds::CostTheirEstimate, &clock, &path);
    use_and_refuse(&books, &clock).await;
    let (mut running, since) = (fill(&books).await, std::time::Instant::now());
    while running.len() < PLACES - 1 {
        assert!(since.elapsed() < MINUTE, "{} run", running.len());
        running.extend(fill(&books).await);
    }
    assert_eq!((running.len(), fill(&books).await.len()), (PLACES - 1, 0));
}

/// However a request ends, and whatever is refused, exactly its own place is free afterwards.
async fn use_and_refuse(books: &Books, clock: &ManualClock) {
    let given = || ask("ada", 1).id("given");
    drop(admitted(books, given()).await);
    let open = admitted(books, Check::of("ada").id("twice")).await;
    assert_eq!(failed(books, Check::of("ada").id("twice")).await.kind(), ErrorKind::Conflict);
    open.settle(total(1)).await.unwrap();
    assert!(admitted(books, Check::of("ada").id("twice")).await.was_settled());
    denied(books, ask("ada", 2_000_000)).await;
    books.preview(ask("ada", 1)).await.unwrap();
    let event = || Event::new("ada", "chat", total(1)).id("event").at(time(NOON));
    assert!(books.record(event()).await.unwrap().recorded);
    assert!(!books.record(event()).await.unwrap().recorded);
    let credit = || Credit::new("ada", "credits", 1).reference("payment");
    assert!(books.credit(credit()).await.unwrap().applied);
    assert!(!books.credit(credit()).await.unwrap().applied);
    assert!(books.debit(Debit::new("ada", "credits", 1)).await.unwrap().is_taken());
    assert!(!books.debit(Debit::new("ada", "credits", 9_000)).await.unwrap().is_taken());
    books.create_balance("ada", NewBalance::new("bonus")).await.unwrap();
    books.create_balance("ada", NewBalance::new("bonus")).await.unwrap_err();
    let twice = EventId::new("twice").unwrap();
    assert!(books.void("ada", &twice).await.unwrap().recorded);
    assert!(!books.void("ada", &twice).await.unwrap().recorded);
    books.put_limit(Limit::per_day("daily", "tokens", 1_000_000)).await.unwrap();

    // Three whose holds expire: one is settled late, one twice under its id, one never.
    let short = |id: &str| ask("ada", 1).id(id).hold_for(MINUTE);
    let late = admitted(books, short("late")).await;
    let first = admitted(books, short("again")).await;
    let never = admitted(books, short("never")).await;
    clock.advance(2 * MINUTE);
    late.settle(total(1)).await.unwrap();
    let second = admitted(books, short("again")).await;
    first.settle(total(1)).await.unwrap();
    second.settle(total(1)).await.unwrap();
    drop(never);
}

/// Its place went with its hold. Without another one it is told, and not forgotten.
#[tokio::test]
async fn a_settlement_after_its_hold_has_expired_needs_a_place() {
    let (clock, path) = (noon(), file::fresh());
    let books = open(&clock, &path);
    let late = admitted(&books, ask("ada", 1).hold_for(MINUTE)).await;
    let later = admitted(&books, ask("ada", 1).hold_for(MINUTE)).await;
    clock.advance(2 * MINUTE);
    let running = fill(&books).await;
    assert_eq!(running.len(), PLACES);
    assert_busy(&late.settle(total(1)).await.unwrap_err());
    drop(running);
    later.settle(total(1)).await.unwrap();
    assert_eq!(used(&books, "ada", "ever").await, amount(1));
}
