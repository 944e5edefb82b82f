//! What the API cannot do, each as the docs of [`Hosted`] tell it.

use serde_json::json;
use tower_limitry::backend::{Customer, EventQuery, PageRequest, TransactionQuery};
use tower_limitry::policy::{Debit, Debited};
use tower_limitry::{Amount, Books, CheckError, Error, ErrorKind, Event, Limit, Meter};

use super::*;
use crate::support::{Reply, Script};

fn unsupported<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(error.to_string().contains("Limitry's API"), "{error}");
}

#[tokio::test]
async fn several_processes_can_overspend_by_what_runs_in_the_others() {
    let service = Service::start().await;
    let (one, other) = (Books::new(service.hosted().await), Books::new(service.hosted().await));
    let first = allowed(&one, chat("bob", 1_000)).await;
    let second = allowed(&other, chat("bob", 1_000)).await;
    first.settle(tokens(1_000)).await.unwrap();
    second.settle(tokens(1_000)).await.unwrap();
    assert_eq!(service.used("bob").await, 2_000.into());
    // What one has settled holds back the others.
    denied(&one, chat("bob", 1)).await;
    denied(&other, chat("bob", 1)).await;
}

#[tokio::test]
async fn an_id_of_ones_own_is_known_while_it_is_on_its_way() {
    let service = Service::start().await;
    let (hosted, file) = (service.hosted().await, File::new("ids"));
    let (outbox, books) = queued(&hosted, &file).await;
    let permit = allowed(&books, chat("bob", 1).id("order-7")).await;
    let CheckError::Failed(twice) = books.check(chat("bob", 1).id("order-7")).await.unwrap_err()
    else {
        panic!("two requests under one id")
    };
    assert_eq!(twice.kind(), ErrorKind::Conflict);
    service.gate.set("events/batch", Way::Shut);
    permit.settle(tokens(5)).await.unwrap();
    let again = allowed(&books, chat("bob", 1).id("order-7")).await;
    assert!(again.was_settled());
    service.gate.open();
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    let later = allowed(&books, chat("bob", 1).id("order-7")).await;
    assert!(!later.was_settled(), "the API does not tell");
    later.settle(tokens(5)).await.unwrap();
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!(service.used("bob").await, 5.into(), "but counts it once");
}

#[tokio::test]
async fn events_are_not_taken_back_and_transactions_are_read_elsewhere() {
    let service = Service::start().await;
    let books = Books::new(service.hosted().await);
    let recorded = books.record(Event::new("bob", "chat", tokens(5))).await.unwrap();
    unsupported(books.void("bob", &recorded.id).await);
    unsupported(books.transactions(TransactionQuery::new("ann", "credits")).await);
    // An outbox in between says no less.
    let file = File::new("void");
    let (_outbox, books) = queued(books.backend(), &file).await;
    unsupported(books.void("bob", &recorded.id).await);
}

#[tokio::test]
async fn definitions_are_changed_here_and_made_by_the_client() {
    let service = Service::start().await;
    let books = Books::new(service.hosted().await);
    unsupported(books.put_meter(Meter::count("calls")).await);
    unsupported(books.put_limit(Limit::per_day("calls-a-day", "tokens", 5)).await);
    books.put_limit(Limit::per_day("daily", "tokens", 50).for_customer("bob")).await.unwrap();
    let limits = books.limits().await.unwrap();
    assert_eq!(limits.iter().map(|limit| limit.id()).collect::<Vec<_>>(), ["daily", "seats"]);
    assert_eq!((limits[0].cap(), limits[0].customer()), (Some(50.into()), Some("bob")));
    books.put_meter(Meter::sum("tokens", "tokens").event_type("chat").named("T")).await.unwrap();
    let meters = books.meters().await.unwrap();
    assert_eq!(meters.iter().map(|meter| meter.name()).collect::<Vec<_>>(), ["seats", "T"]);
    assert!(books.remove_limit("daily").await.unwrap());
    assert!(!books.remove_limit("daily").await.unwrap());
    assert!(!books.remove_meter("calls").await.unwrap());
    assert_eq!(books.remove_meter("seats").await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn limits_that_are_narrowed_are_told_to_checks_that_name_their_dimensions() {
    let service = Service::start().await;
    let large = Limit::per_day("large", "tokens", 100).dimension("model", "large");
    service.books.put_limit(large).await.unwrap();
    let books = Books::new(service.hosted().await);
    let standing = books.usage("bob").await.unwrap();
    assert_eq!(standing.limits().map(|limit| limit.id()).collect::<Vec<_>>(), ["daily", "seats"]);
    let preview = books.preview(chat("bob", 5).dimension("model", "large")).await.unwrap();
    assert_eq!(preview.limits().map(|limit| limit.id()).collect::<Vec<_>>(), ["daily", "large"]);
    assert_eq!(books.open_holds().await.unwrap(), 0);
}

#[tokio::test]
async fn a_batch_tells_no_repeats_and_counts_none() {
    let service = Service::start().await;
    let books = Books::new(service.hosted().await);
    let now = tower_limitry::policy::Timestamp::from(std::time::SystemTime::now());
    let events: Vec<_> =
        (0..3).map(|n| Event::new("bob", "chat", tokens(1)).id(format!("e-{n}")).at(now)).collect();
    for _ in 0..2 {
        let recorded = books.record_many(events.clone()).await.unwrap();
        assert!(recorded.iter().all(|recorded| recorded.recorded));
        assert_eq!(recorded[2].id.to_string(), "e-2");
    }
    assert_eq!(service.used("bob").await, 3.into());
    let query = EventQuery::new().customer("bob").page(PageRequest::first().limit(2));
    let page = books.events(query).await.unwrap();
    assert_eq!((page.items.len(), page.next.is_some()), (2, true));
}

#[tokio::test]
async fn customers_and_balances_are_kept_as_far_as_the_api_knows_them() {
    let service = Service::start().await;
    let books = Books::new(service.hosted().await);
    assert_eq!(books.customer("bob").await.unwrap(), None);
    let bob = Customer::new("bob").zone("Europe/Vienna").metadata("plan", "team");
    books.put_customer(bob.clone()).await.unwrap();
    books.put_customer(bob.metadata("seats", "5")).await.unwrap();
    let known = books.customer("bob").await.unwrap().unwrap();
    assert_eq!((known.time_zone(), &*known.attached()["seats"]), (Some("Europe/Vienna"), "5"));
    assert_eq!(books.customers(PageRequest::first()).await.unwrap().items, [known]);
    assert!(books.remove_customer("bob").await.unwrap());
    assert!(!books.remove_customer("bob").await.unwrap());

    let made = books.create_balance("bob", NewBalance::new("credits").initial(5)).await.unwrap();
    assert_eq!(made.available(), 5.into());
    let changed = books.set_minimum("bob", "credits", 1).await.unwrap();
    assert_eq!(changed.available(), 4.into());
    let all = books.all_balances(PageRequest::first()).await.unwrap().items;
    let names: Vec<_> = all.iter().map(|(id, balance)| (id.as_str(), balance.name())).collect();
    assert_eq!(names, [("ann", "credits"), ("bob", "credits")]);
    let debited = books.debit(Debit::new("bob", "credits", 2)).await.unwrap();
    let Debited::Taken { transaction, balance } = debited else { panic!("{debited:?}") };
    assert_eq!((transaction.amount(), transaction.balance_after()), (2.into(), 3.into()));
    assert_eq!(balance.current(), 3.into());
    assert!(!books.debit(Debit::new("bob", "credits", 4)).await.unwrap().is_taken());
}

/// A meter that cannot be read leaves the decision to the service.
#[tokio::test]
async fn a_limit_of_which_nothing_is_known_refuses_when_the_api_says_so() {
    let standing = |exceeded: bool| {
        let limit = json!({
            "id": "lmt \"odd\"", "name": "Odd", "meterId": "mtr_hidden", "period": "month", "limit": 10,
            "used": 3, "remaining": 7, "exceeded": exceeded, "reset": 4_102_444_800_i64,
        });
        Reply::json(200, &json!({ "allowed": !exceeded, "limits": [limit] }))
    };
    let unknown = Reply::error(404, "meter_not_found", &[]);
    let script = Script::start([standing(false), unknown, standing(true)]).await;
    let hosted = Hosted::builder(&script.client()).open().await.unwrap();
    let books = Books::new(hosted);
    let permit = allowed(&books, chat("bob", 100)).await;
    let limit = permit.decision().limits().next().unwrap();
    assert_eq!((limit.used(), limit.held()), (3.into(), Amount::ZERO));
    let denial = denied(&books, chat("bob", 1)).await;
    assert_eq!(denial.decision().limits().next().unwrap().name(), "Odd");
}
