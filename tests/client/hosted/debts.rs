//! Work that cost more than was left.

use std::sync::{Arc, Mutex};

use tower_limitry::backend::DenialKind;
use tower_limitry::client::Debt;
use tower_limitry::policy::Credit;
use tower_limitry::{Amount, Books, ErrorKind};

use super::*;

fn credit(amount: u32) -> Credit {
    Credit::new("ann", "credits", amount)
}

fn owed(hosted: &Hosted) -> Vec<Amount> {
    hosted.debts().iter().map(|debt| debt.owed).collect()
}

/// Opens a backend that does not collect by itself before the test is over.
async fn patient(service: &Service, file: Option<&File>) -> (Hosted, Arc<Mutex<Vec<Debt>>>) {
    let told = Arc::<Mutex<Vec<Debt>>>::default();
    let noting = Arc::clone(&told);
    let mut builder = Hosted::builder(&service.client())
        .collect_every(Duration::from_secs(3_600))
        .on_debt(move |debt| noting.lock().unwrap().push(debt.clone()));
    if let Some(file) = file {
        builder = builder.debts(file.0.clone());
    }
    (builder.open().await.unwrap(), told)
}

#[tokio::test]
async fn what_is_left_is_taken_and_the_rest_is_owed_until_credits_come() {
    let service = Service::start().await;
    let (hosted, told) = patient(&service, None).await;
    let books = Books::new(hosted.clone());
    let permit = allowed(&books, paid("ann", 50)).await;
    let id = permit.id().unwrap().clone();
    permit.settle(tokens(130)).await.unwrap();
    assert_eq!(service.credits("ann").await, Amount::ZERO, "what was there is taken");
    assert_eq!(service.used("ann").await, 130.into(), "the event tells the truth");
    let debt = &hosted.debts()[0];
    assert_eq!((debt.owed, &debt.id, &*debt.balance), (30.into(), &id, "credits"));
    assert_eq!(debt.customer.as_str(), "ann");

    let balance = books.balance("ann", "credits").await.unwrap().unwrap();
    assert_eq!(balance.current(), (-30).into());
    assert_eq!(denied(&books, paid("ann", 1)).await.kind(), DenialKind::BalanceShort);

    let credited = books.credit(credit(10)).await.unwrap();
    assert_eq!((owed(&hosted), credited.balance.current()), (vec![20.into()], (-20).into()));
    assert_eq!(service.credits("ann").await, Amount::ZERO);
    let credited = books.credit(credit(100)).await.unwrap();
    assert_eq!((owed(&hosted), credited.balance.current()), (vec![], 80.into()));
    assert_eq!(service.credits("ann").await, 80.into());
    drop(allowed(&books, paid("ann", 80)).await);
    let told: Vec<_> = told.lock().unwrap().iter().map(|debt| debt.owed).collect();
    assert_eq!(told, [130.into(), 30.into(), 20.into(), Amount::ZERO]);
}

#[tokio::test]
async fn a_check_that_finds_credits_from_elsewhere_takes_what_is_owed() {
    let service = Service::start().await;
    let (hosted, _) = patient(&service, None).await;
    let books = Books::new(hosted.clone());
    allowed(&books, paid("ann", 50)).await.settle(tokens(130)).await.unwrap();
    // Somebody pays in, and this process is not told.
    service.books.credit(credit(100)).await.unwrap();
    assert_eq!(denied(&books, paid("ann", 71)).await.kind(), DenialKind::BalanceShort);
    until(async || hosted.debts().is_empty()).await;
    assert_eq!(service.credits("ann").await, 70.into());
    drop(allowed(&books, paid("ann", 70)).await);
}

#[tokio::test]
async fn debts_are_tried_again_by_and_by() {
    let service = Service::start().await;
    let hosted = Hosted::builder(&service.client())
        .collect_every(Duration::from_millis(10))
        .open()
        .await
        .unwrap();
    let books = Books::new(hosted.clone());
    for _ in 0..3 {
        let check =
            Check::of("ann").event_type("chat").charge("credits", |usage| usage.value("tokens"));
        // Their order is that of their settlements.
        if let Ok(permit) = books.check(check).await {
            permit.settle(tokens(150)).await.unwrap();
        }
    }
    assert_eq!(owed(&hosted), [50.into()]);
    service.books.credit(credit(70)).await.unwrap();
    until(async || hosted.debts().is_empty()).await;
    assert_eq!(service.credits("ann").await, 20.into());
}

#[tokio::test]
async fn debts_in_a_file_are_there_after_a_restart_and_belong_to_one_process() {
    let (service, file) = (Service::start().await, File::new("debts"));
    {
        let (hosted, _) = patient(&service, Some(&file)).await;
        let books = Books::new(hosted.clone());
        allowed(&books, paid("ann", 50)).await.settle(tokens(130)).await.unwrap();
        assert_eq!(owed(&hosted), [30.into()]);
        let second = Hosted::builder(&service.client()).debts(file.0.clone()).open().await;
        assert_eq!(second.unwrap_err().kind(), ErrorKind::Conflict);
        drop((hosted, books));
    }
    let hosted = reopened(&service, &file).await;
    assert_eq!(owed(&hosted), [30.into()]);
    let books = Books::new(hosted.clone());
    books.credit(credit(100)).await.unwrap();
    assert_eq!(service.credits("ann").await, 70.into());
    assert_eq!(owed(&hosted), []);
}

/// The answer to the debit that takes what is left is lost: it goes again as it was.
#[tokio::test]
async fn a_part_whose_taking_is_unknown_is_taken_once() {
    let service = Service::start().await;
    let (hosted, _) = patient(&service, None).await;
    let books = Books::new(hosted.clone());
    allowed(&books, paid("ann", 50)).await.settle(tokens(130)).await.unwrap();
    service.books.credit(credit(10)).await.unwrap();
    service.gate.set("balances/debit", Way::Lost);
    hosted.collect_debts().await;
    assert_eq!(owed(&hosted), [30.into()], "nothing is known of it");
    assert_eq!(service.credits("ann").await, Amount::ZERO, "but it was done");
    service.gate.open();
    service.books.credit(credit(5)).await.unwrap();
    hosted.collect_debts().await;
    assert_eq!(owed(&hosted), [15.into()]);
    assert_eq!(service.credits("ann").await, Amount::ZERO);
}

/// The process ended after the debt was paid and before the event was recorded. The service answers
/// the repeated debit as it did before, "refused", and that once made the debt anew.
#[tokio::test]
async fn a_debt_that_was_paid_is_not_owed_again_when_its_event_is_delivered_late() {
    let (service, file, queue) =
        (Service::start().await, File::new("late"), File::new("late-queue"));
    service.gate.set("events/batch", Way::Shut);
    {
        let (hosted, _) = patient(&service, Some(&file)).await;
        let (_outbox, books) = queued(&hosted, &queue).await;
        allowed(&books, paid("ann", 50)).await.settle(tokens(130)).await.unwrap();
        until(async || owed(&hosted) == [30.into()]).await;
        books.credit(credit(50)).await.unwrap();
        assert_eq!(owed(&hosted), []);
        assert_eq!(service.credits("ann").await, 20.into());
    }
    let hosted = reopened(&service, &file).await;
    let outbox = reopened_queue(&hosted, &queue).await;
    service.gate.open();
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!(service.used("ann").await, 130.into());
    assert_eq!((owed(&hosted), service.credits("ann").await), (vec![], 20.into()));
    hosted.collect_debts().await;
    assert_eq!(service.credits("ann").await, 20.into());
}

/// Tries until no task of the one before has the file.
async fn reopened(service: &Service, file: &File) -> Hosted {
    let open = || {
        Hosted::builder(&service.client())
            .collect_every(Duration::from_secs(3_600))
            .debts(file.0.clone())
            .open()
    };
    free(open).await
}

async fn reopened_queue(hosted: &Hosted, file: &File) -> Outbox<Hosted> {
    let open = || {
        Outbox::builder(hosted.clone())
            .backoff(Duration::from_millis(5), Duration::from_millis(20))
            .open(file.0.clone())
    };
    free(open).await
}

/// Declared by the user: a debit that may have been done is not sent again, and what it asked for
/// counts as paid.
#[tokio::test]
async fn at_most_once_holds_for_what_is_owed_too() {
    let service = Service::start().await;
    let client = Client::builder(KEY)
        .base_url(&service.url)
        .repeat(tower_limitry::client::Repeat::AtMostOnce)
        .build()
        .unwrap();
    let hosted =
        Hosted::builder(&client).collect_every(Duration::from_secs(3_600)).open().await.unwrap();
    let books = Books::new(hosted.clone());
    allowed(&books, paid("ann", 50)).await.settle(tokens(130)).await.unwrap();
    service.books.credit(credit(10)).await.unwrap();
    service.gate.set("balances/debit", Way::Lost);
    let before = service.gate.calls("balances/debit");
    hosted.collect_debts().await;
    hosted.collect_debts().await;
    assert_eq!(service.gate.calls("balances/debit") - before, 1);
    assert_eq!((owed(&hosted), service.credits("ann").await), (vec![20.into()], Amount::ZERO));
}

/// "Not now" is not "perhaps": a debit that was certainly not done once counted as paid.
#[tokio::test]
async fn at_most_once_still_owes_what_was_certainly_not_taken() {
    let service = Service::start().await;
    let client = Client::builder(KEY)
        .base_url(&service.url)
        .repeat(tower_limitry::client::Repeat::AtMostOnce)
        .retries(0)
        .build()
        .unwrap();
    let hosted =
        Hosted::builder(&client).collect_every(Duration::from_secs(3_600)).open().await.unwrap();
    let books = Books::new(hosted.clone());
    allowed(&books, paid("ann", 50)).await.settle(tokens(130)).await.unwrap();
    service.books.credit(credit(10)).await.unwrap();
    service.gate.set("balances/debit", Way::Shut);
    hosted.collect_debts().await;
    hosted.collect_debts().await;
    assert_eq!(owed(&hosted), [30.into()]);
    service.gate.open();
    hosted.collect_debts().await;
    assert_eq!((owed(&hosted), service.credits("ann").await), (vec![20.into()], Amount::ZERO));
}

#[tokio::test]
async fn a_file_of_another_kind_is_not_touched() {
    let (service, file) = (Service::start().await, File::new("other"));
    std::fs::write(&file.0, "the novel of a lifetime, and no database at all, in many words")
        .unwrap();
    let before = std::fs::read(&file.0).unwrap();
    let opened = Hosted::builder(&service.client()).debts(file.0.clone()).open().await;
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(std::fs::read(&file.0).unwrap(), before);
}
