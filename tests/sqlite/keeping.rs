//! What is let go in time, what stays, and copies of it.

use tower_limitry::backend::{EventQuery, MeterQuery};
use tower_limitry::store::sqlite::{Sqlite, backup};
use tower_limitry::{Books, Check, ErrorKind, Event, Limit, NewBalance};

use crate::support::*;
use crate::{asked, assert_sound_at, file};

fn chat(customer: &str, tokens: u32, at: &str) -> Event {
    Event::new(customer, "chat", total(tokens).dimension("model", "large")).at(time(at))
}

/// Until the writer has let go of what is old, which it does in its own time.
pub(crate) async fn until_kept(books: &Books, events: usize) {
    let since = std::time::Instant::now();
    while books.events(EventQuery::new()).await.unwrap().items.len() > events {
        assert!(since.elapsed() < MINUTE, "events are not let go");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn old_events_are_let_go_and_what_they_came_to_stays() {
    let (clock, path) = (noon(), file::fresh());
    let open = || Sqlite::options().keep_events_for(7 * DAY).open(&path).unwrap();
    let builder = || hundred_a_day(&clock).limit(Limit::all_time("ever", "tokens", 1_000));
    let books = builder().build_on(open()).unwrap().erased();
    for (tokens, at) in
        [(1, "2026-03-01T11:00:00Z"), (2, "2026-03-01T11:14:59Z"), (4, "2026-03-01T11:15:00Z")]
    {
        books.record(chat("ada", tokens, at).id(tokens.to_string())).await.unwrap();
    }
    clock.advance(8 * DAY);
    books.record(chat("ada", 8, "2026-03-09T12:00:00Z")).await.unwrap();
    // The next look is some seconds away, or a start.
    drop(books);
    let books = builder().build_on(open()).unwrap().erased();
    books.record(chat("ada", 16, "2026-03-09T12:00:00Z")).await.unwrap();
    until_kept(&books, 2).await;

    assert_eq!(used(&books, "ada", "ever").await, amount(31));
    let rollups = "SELECT json_group_array(json_array(customer, starts, events, amounts)) \
                   FROM (SELECT * FROM rollups ORDER BY starts)";
    assert_eq!(
        asked::<String>(&path, rollups),
        r#"[["ada","2026-03-01 11:00:00",2,"{\"total_tokens\":3}"],"#.to_owned()
            + r#"["ada","2026-03-01 11:15:00",1,"{\"total_tokens\":4}"]]"#
    );
    // An id is known as long as its event; an older one is not counted again.
    let again = books.record(chat("ada", 1, "2026-03-01T11:00:00Z").id("1")).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::TooOld);
    assert!(!books.query(MeterQuery::new("tokens")).await.unwrap().complete);
    assert_sound_at(&path, time("2026-03-09T12:00:00Z"));

    // A limit added now says that it does not know all, also after a restart.
    books.put_limit(Limit::per_month("monthly", "tokens", 100)).await.unwrap();
    let seen = standing(&books, "ada", "monthly").await;
    assert_eq!((seen.used, seen.complete), (amount(24), false));
    drop(books);
    let books = builder().build_on(open()).unwrap().erased();
    let seen = standing(&books, "ada", "monthly").await;
    assert_eq!((seen.used, seen.complete), (amount(24), false));
    assert_eq!(used(&books, "ada", "ever").await, amount(31));
}

/// The file goes on numbering, so that an older one in its place is still seen to be older.
#[tokio::test]
async fn what_follows_events_that_were_all_let_go_comes_after_them() {
    let (clock, path) = (noon(), file::fresh());
    let open = || Sqlite::options().keep_events_for(7 * DAY).open(&path);
    let books = hundred_a_day(&clock).build_on(open().unwrap()).unwrap().erased();
    for tokens in [1, 2, 4] {
        books.record(chat("ada", tokens, "2026-03-01T11:00:00Z")).await.unwrap();
    }
    drop(books);
    let older = std::fs::read(&path).unwrap();
    clock.advance(8 * DAY);
    let books = hundred_a_day(&clock).build_on(open().unwrap()).unwrap().erased();
    assert!(books.check(Check::of("ada")).await.is_ok());
    until_kept(&books, 0).await;
    drop(books);
    let books = hundred_a_day(&clock).build_on(open().unwrap()).unwrap().erased();
    books.record(chat("ada", 8, "2026-03-09T12:00:00Z")).await.unwrap();
    drop(books);
    assert_eq!(asked::<u32>(&path, "SELECT sequence FROM event"), 4);

    let newer = std::fs::read(&path).unwrap();
    std::fs::write(&path, older).unwrap();
    let error = open().unwrap_err();
    assert!(error.to_string().contains("an older copy is in its place"), "{error}");
    std::fs::write(&path, newer).unwrap();
    let books = hundred_a_day(&clock).build_on(open().unwrap()).unwrap().erased();
    assert_eq!(used(&books, "ada", "daily").await, amount(8));
}

#[tokio::test]
async fn a_backup_is_taken_while_the_books_are_in_use() {
    let (clock, path, copy) = (noon(), file::fresh(), file::fresh());
    let builder = || hundred_a_day(&clock).default_balance(NewBalance::new("credits").initial(50));
    let books = builder().build_on(Sqlite::open(&path).unwrap()).unwrap().erased();
    let charged = || Check::of("ada").charge("credits", |usage| usage.value("total_tokens"));
    admitted(&books, charged()).await.settle(total(7)).await.unwrap();
    backup(&path, &copy).unwrap();
    assert_eq!(backup(&path, &copy).unwrap_err().kind(), ErrorKind::Conflict);
    admitted(&books, charged()).await.settle(total(1)).await.unwrap();

    assert_sound_at(&copy, time(NOON));
    let copied = builder().build_on(Sqlite::open(&copy).unwrap()).unwrap().erased();
    assert_eq!(used(&copied, "ada", "daily").await, amount(7));
    assert_eq!(current(&copied, "ada", "credits").await, amount(43));
    spend(&copied, "ada", 2).await;
    assert_eq!(used(&books, "ada", "daily").await, amount(8));
}

/// Everything that was accepted is in the file when shutting down returns.
#[tokio::test]
async fn shutdown_under_load_leaves_nothing_behind() {
    let (clock, path) = (noon(), file::fresh());
    let builder = hundred_a_day(&clock).limit(Limit::all_time("ever", "tokens", 1_000_000));
    let books = builder.build_on(Sqlite::open(&path).unwrap()).unwrap().erased();
    let mut settled = 0;
    for number in 0..500 {
        let Ok(permit) = books.check(Check::of(format!("acct_{number}"))).await else { break };
        // Nobody waits for the answer.
        drop(permit.settle(total(1)));
        settled += 1;
    }
    books.shutdown(MINUTE).await.unwrap();
    assert_eq!(settled, 500);
    assert_eq!(asked::<u32>(&path, "SELECT count(*) FROM event"), settled);
    let error = books.check(Check::of("late")).await.unwrap_err();
    assert!(format!("{error:?}").contains("closed"));
}
