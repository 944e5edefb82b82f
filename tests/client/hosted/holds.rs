//! What running requests set aside, and what is on its way, counts before the service tells of it.

use tower_limitry::backend::DenialKind;
use tower_limitry::policy::Timestamp;
use tower_limitry::{Amount, Books, Check, ErrorKind, Limit};

use super::*;
use crate::support::soon;

#[tokio::test]
async fn a_request_is_checked_counted_and_charged() {
    let service = Service::start().await;
    let books = Books::new(service.hosted().await);
    let permit = allowed(&books, paid("ann", 60)).await;
    let decision = permit.decision().clone();
    let limit = decision.limits().next().unwrap();
    assert_eq!((limit.id(), limit.name(), limit.meter()), ("daily", "Daily tokens", "tokens"));
    assert_eq!(
        (limit.limit(), limit.used(), limit.held()),
        (1_000.into(), Amount::ZERO, 60.into())
    );
    assert_eq!(limit.remaining(), 940.into());
    let window = limit.window();
    assert!(window.contains(decision.at()) && window.length_seconds() == Some(86_400));
    let balance = decision.balance().unwrap().balance().unwrap().clone();
    assert_eq!((balance.current(), balance.held()), (100.into(), 60.into()));
    assert_eq!(service.used("ann").await, Amount::ZERO, "a check counts nothing");
    permit.settle(tokens(45)).await.unwrap();
    assert_eq!((service.used("ann").await, service.credits("ann").await), (45.into(), 55.into()));
    assert_eq!(books.open_holds().await.unwrap(), 0);
    assert_eq!(books.backend().debts(), []);
}

#[tokio::test]
async fn no_number_of_requests_beside_each_other_overspends() {
    let service = Service::start().await;
    let books = Books::new(service.hosted().await);
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let books = books.clone();
        asked.spawn(async move { books.check(chat("bob", 100)).await });
    }
    let answers = soon(asked.join_all()).await;
    let (permits, denials): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((permits.len(), denials.len()), (10, 30));
    for denial in denials {
        let denial = denial.unwrap_err();
        // Only running requests stand in the way, so the wait is short.
        assert_eq!(denial.denial().unwrap().retry_after(), Some(Duration::from_secs(1)));
    }
    for (at, permit) in permits.into_iter().enumerate() {
        match at % 2 {
            0 => permit.unwrap().settle(tokens(100)).await.unwrap(),
            _ => drop(permit),
        }
    }
    assert_eq!(service.used("bob").await, 500.into());
    let more: Vec<_> = (0..6).map(|_| books.check(chat("bob", 100))).collect();
    let mut allowed = Vec::new();
    for check in more {
        allowed.extend(check.await);
    }
    assert_eq!(allowed.len(), 5, "what was released is there again");
}

#[tokio::test]
async fn a_balance_is_not_overspent_either() {
    let service = Service::start().await;
    let books = Books::new(service.hosted().await);
    let first = allowed(&books, paid("ann", 60)).await;
    let denial = denied(&books, paid("ann", 60)).await;
    assert_eq!(denial.kind(), DenialKind::BalanceShort);
    let second = allowed(&books, paid("ann", 40)).await;
    let nothing = Check::of("ann").event_type("chat").charge("credits", |_| None);
    assert_eq!(denied(&books, nothing).await.kind(), DenialKind::BalanceShort);
    first.settle(tokens(60)).await.unwrap();
    second.settle(tokens(10)).await.unwrap();
    assert_eq!(service.credits("ann").await, 30.into());
    drop(allowed(&books, paid("ann", 30)).await);
    let nobody = denied(&books, paid("bob", 1)).await;
    assert_eq!(nobody.kind(), DenialKind::NoBalance);
}

#[tokio::test]
async fn what_waits_in_the_outbox_counts_as_it_was_used() {
    let service = Service::start().await;
    let (hosted, file) = (service.hosted().await, File::new("waits"));
    let (outbox, books) = queued(&hosted, &file).await;
    service.gate.set("events/batch", Way::Shut);
    for _ in 0..3 {
        // It costs more than was asked.
        allowed(&books, chat("bob", 100)).await.settle(tokens(300)).await.unwrap();
    }
    assert_eq!(service.used("bob").await, Amount::ZERO, "the service knows nothing yet");
    drop(allowed(&books, chat("bob", 100)).await);
    let denial = denied(&books, chat("bob", 101)).await;
    assert_eq!(denial.kind(), DenialKind::LimitExceeded);
    let standing = books.usage("bob").await.unwrap();
    let daily = standing.limits().find(|limit| limit.id() == "daily").unwrap();
    assert_eq!(daily.used().saturating_add(daily.held()), 900.into());
    service.gate.open();
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!(service.used("bob").await, 900.into());
    let standing = books.usage("bob").await.unwrap();
    let daily = standing.limits().find(|limit| limit.id() == "daily").unwrap();
    assert_eq!((daily.used(), daily.held()), (900.into(), Amount::ZERO), "and not twice");
}

#[tokio::test]
async fn charges_that_wait_count_too() {
    let service = Service::start().await;
    let (hosted, file) = (service.hosted().await, File::new("charges"));
    let (outbox, books) = queued(&hosted, &file).await;
    service.gate.set("balances/debit", Way::Shut);
    allowed(&books, paid("ann", 1)).await.settle(tokens(70)).await.unwrap();
    assert_eq!(denied(&books, paid("ann", 31)).await.kind(), DenialKind::BalanceShort);
    let balance = books.balance("ann", "credits").await.unwrap().unwrap();
    assert_eq!(balance.available(), 30.into());
    assert_eq!(service.credits("ann").await, 100.into());
    service.gate.open();
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!(service.credits("ann").await, 30.into());
    drop(allowed(&books, paid("ann", 30)).await);
}

#[tokio::test]
async fn a_service_that_tells_late_is_given_its_time() {
    let service = Service::start().await;
    let hosted = Hosted::builder(&service.client())
        .visible_after(Duration::from_secs(3_600))
        .open()
        .await
        .unwrap();
    let books = Books::new(hosted);
    allowed(&books, chat("bob", 400)).await.settle(tokens(400)).await.unwrap();
    // The service may tell of it or not: it is not spent a second time.
    assert!(denied(&books, chat("bob", 201)).await.retry_after().is_some());
    drop(allowed(&books, chat("bob", 200)).await);
}

#[tokio::test]
async fn only_limits_that_such_a_request_moves_refuse_it() {
    let service = Service::start().await;
    let books = Books::new(service.hosted().await);
    let seats = tower_limitry::Event::new("bob", "seat", Usage::of("seats", 5));
    books.record(seats).await.unwrap();
    let permit = allowed(&books, chat("bob", 10)).await;
    assert_eq!(permit.decision().limits().map(|limit| limit.id()).collect::<Vec<_>>(), ["daily"]);
    let seat = Check::of("bob").event_type("seat").estimate("seats", 6);
    assert_eq!(denied(&books, seat).await.kind(), DenialKind::TooLarge);
    let anything = denied(&books, Check::of("bob")).await;
    assert_eq!(anything.decision().limits().next().unwrap().id(), "seats");
}

#[tokio::test]
async fn a_limit_that_is_narrowed_counts_what_it_is_narrowed_to() {
    let service = Service::start().await;
    let large = Limit::per_day("large", "tokens", 100).dimension("model", "large");
    service.books.put_limit(large).await.unwrap();
    let (hosted, file) = (service.hosted().await, File::new("narrowed"));
    let (_outbox, books) = queued(&hosted, &file).await;
    service.gate.set("events/batch", Way::Shut);
    let of = |model: &str, amount| chat("bob", amount).dimension("model", model);
    allowed(&books, of("small", 50)).await.settle(tokens(90)).await.unwrap();
    allowed(&books, of("large", 50)).await.settle(tokens(30)).await.unwrap();
    let running = allowed(&books, of("large", 50)).await;
    let denial = denied(&books, of("large", 21)).await;
    assert_eq!(denial.decision().limits().next().unwrap().id(), "large");
    drop(allowed(&books, of("large", 20)).await);
    drop(running);
}

#[tokio::test]
async fn a_hold_ends_by_itself_where_it_was_told_to() {
    let service = Service::start().await;
    // The service goes by its own clock, and does not take what is old.
    let now = Timestamp::from(std::time::SystemTime::now()).to_string();
    let clock = tower_limitry::engine::ManualClock::at(&now);
    let hosted = Hosted::builder(&service.client()).clock(clock.clone()).open().await.unwrap();
    let books = Books::new(hosted);
    let minute = Duration::from_secs(60);
    let permit = allowed(&books, paid("ann", 100).hold_for(minute)).await;
    let of = vec![("ann".parse().unwrap(), permit.id().unwrap().clone())];
    clock.advance(minute / 2);
    assert_eq!(books.renew(of.clone(), minute).await.unwrap(), [true]);
    clock.advance(minute - Duration::from_secs(1));
    assert_eq!(books.open_holds().await.unwrap(), 1);
    assert_eq!(denied(&books, paid("ann", 1)).await.kind(), DenialKind::BalanceShort);
    clock.advance(Duration::from_secs(1));
    assert_eq!(books.renew(of, minute).await.unwrap(), [false]);
    let next = allowed(&books, paid("ann", 90)).await;
    // Settling after that still records.
    permit.settle(tokens(10)).await.unwrap();
    assert_eq!(service.credits("ann").await, 90.into());
    drop(next);
}

#[tokio::test]
async fn a_check_that_is_dropped_on_its_way_holds_nothing() {
    let service = Service::start().await;
    let books = Books::new(service.hosted().await);
    service.gate.set("limits/check", Way::Stuck);
    let asked = tokio::time::timeout(Duration::from_millis(20), books.check(chat("bob", 1_000)));
    assert!(asked.await.is_err());
    service.gate.open();
    assert_eq!(books.open_holds().await.unwrap(), 0);
    drop(allowed(&books, chat("bob", 1_000)).await);
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_unavailable_within_the_time_for_a_check() {
    let service = Service::start().await;
    let hosted = Hosted::builder(&service.client()).check_timeout(Duration::from_millis(50));
    let books = Books::new(hosted.open().await.unwrap());
    for path in ["limits/check", "balances/check"] {
        service.gate.set(path, Way::Stuck);
        let error = soon(books.check(paid("ann", 1))).await.unwrap_err();
        let tower_limitry::CheckError::Failed(error) = error else { panic!("{error:?}") };
        assert!(error.is_transient(), "{error:?}");
        service.gate.open();
    }
    service.gate.set("limits/check", Way::Shut);
    let error = books.check(paid("ann", 1)).await.unwrap_err();
    let tower_limitry::CheckError::Failed(error) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn shutting_down_takes_nothing_new_and_waits_for_what_runs() {
    let service = Service::start().await;
    let books = Books::new(service.hosted().await);
    let permit = allowed(&books, chat("bob", 1)).await;
    let late = books.shutdown(Duration::from_millis(10)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::TimedOut);
    assert!(books.check(chat("bob", 1)).await.is_err());
    let (down, settled) =
        tokio::join!(books.shutdown(Duration::from_secs(60)), permit.settle(tokens(1)));
    down.unwrap();
    settled.unwrap();
    assert_eq!(service.used("bob").await, 1.into());
}
