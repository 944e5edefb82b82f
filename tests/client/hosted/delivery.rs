//! How settlements reach the service.

use tower_limitry::client::Repeat;
use tower_limitry::engine::ManualClock;
use tower_limitry::{Amount, ErrorKind};

use super::*;

#[tokio::test]
async fn many_events_go_in_one_call() {
    let service = Service::start().await;
    let (hosted, file) = (service.hosted().await, File::new("many"));
    let (outbox, books) = queued(&hosted, &file).await;
    service.gate.set("events/batch", Way::Shut);
    for n in 0..300 {
        let customer = format!("c-{}", n % 7);
        allowed(&books, chat(&customer, 1)).await.settle(tokens(1)).await.unwrap();
    }
    service.gate.open();
    let before = service.gate.calls("events/batch");
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    assert!(service.gate.calls("events/batch") - before <= 40, "in batches");
    assert_eq!(service.gate.calls("events/record"), 0);
    let mut all = Amount::ZERO;
    for n in 0..7 {
        all = all.saturating_add(service.used(&format!("c-{n}")).await);
    }
    assert_eq!(all, 300.into());
}

/// The service knows ids, and not whose they are: the second debit of an id was once refused.
#[tokio::test]
async fn one_id_of_two_customers_is_charged_to_both() {
    let service = Service::start().await;
    service.books.create_balance("bob", NewBalance::new("credits").initial(100)).await.unwrap();
    let hosted = service.hosted().await;
    let books = Books::new(hosted.clone());
    for customer in ["ann", "bob"] {
        let permit = allowed(&books, paid(customer, 20).id("order-7")).await;
        permit.settle(tokens(120)).await.unwrap();
        assert_eq!(
            (service.used(customer).await, service.credits(customer).await),
            (120.into(), Amount::ZERO)
        );
    }
    let owed: Vec<_> = hosted.debts().iter().map(|debt| debt.owed).collect();
    assert_eq!(owed, [20.into(), 20.into()]);
}

/// A proxy loses every answer for a while; the service does each thing once.
#[tokio::test]
async fn what_is_not_known_to_be_done_is_done_once() {
    let service = Service::start().await;
    let (hosted, file) = (service.hosted().await, File::new("lost"));
    let (outbox, books) = queued(&hosted, &file).await;
    service.gate.set("balances/debit", Way::Lost);
    service.gate.set("events/batch", Way::Lost);
    for _ in 0..4 {
        allowed(&books, paid("ann", 20)).await.settle(tokens(20)).await.unwrap();
    }
    until(async || service.gate.calls("balances/debit") >= 6).await;
    service.gate.ways.lock().unwrap().remove("/v1/balances/debit");
    until(async || service.gate.calls("events/batch") >= 3).await;
    service.gate.open();
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!((service.used("ann").await, service.credits("ann").await), (80.into(), 20.into()));
    assert_eq!(outbox.stats().set_aside, 0);
    assert_eq!(hosted.debts(), []);
}

#[tokio::test]
async fn an_event_that_the_service_refuses_is_set_aside_and_the_others_go_on() {
    let service = Service::start().await;
    let (hosted, file) = (service.hosted().await, File::new("refused"));
    let (outbox, books) = queued(&hosted, &file).await;
    service.gate.set("events/batch", Way::Shut);
    for n in 0..20 {
        let mut usage = tokens(1);
        if n == 13 {
            // More than the service takes.
            usage = (0..101).fold(usage, |usage, at| usage.and(format!("v{at}"), 1));
        }
        allowed(&books, chat("bob", 1)).await.settle(usage).await.unwrap();
    }
    service.gate.open();
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!(service.used("bob").await, 19.into());
    let aside = outbox.set_aside(0, 10).await.unwrap();
    assert_eq!(aside.len(), 1);
    assert!(aside[0].reason.contains("invalid_field_value"), "{}", aside[0].reason);
    // What will not be recorded does not count here either.
    let standing = books.usage("bob").await.unwrap();
    let daily = standing.limits().find(|limit| limit.id() == "daily").unwrap();
    assert_eq!((daily.used(), daily.held()), (19.into(), Amount::ZERO));
}

/// Declared by the user: the service does not know ids, and nothing may be done twice.
#[tokio::test]
async fn at_most_once_sets_aside_what_it_does_not_know_to_be_done() {
    let service = Service::start().await;
    let client =
        Client::builder(KEY).base_url(&service.url).repeat(Repeat::AtMostOnce).build().unwrap();
    let hosted = Hosted::builder(&client).open().await.unwrap();
    let file = File::new("once");
    let (outbox, books) = queued(&hosted, &file).await;
    let permit = allowed(&books, paid("ann", 20)).await;
    service.gate.set("balances/debit", Way::Lost);
    permit.settle(tokens(20)).await.unwrap();
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!(service.gate.calls("balances/debit"), 1);
    assert_eq!(service.credits("ann").await, 80.into());
    let aside = outbox.set_aside(0, 10).await.unwrap();
    assert!(aside[0].reason.contains("not known"), "{}", aside[0].reason);
}

#[tokio::test]
async fn without_an_outbox_a_settlement_is_tried_and_then_given_up() {
    let service = Service::start().await;
    let hosted = Hosted::builder(&service.client())
        .settle_timeout(Duration::from_millis(300))
        .open()
        .await
        .unwrap();
    let books = Books::new(hosted);
    service.gate.set("events/batch", Way::Shut);
    let error = allowed(&books, chat("bob", 1)).await.settle(tokens(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let standing = books.usage("bob").await.unwrap();
    let daily = standing.limits().find(|limit| limit.id() == "daily").unwrap();
    assert_eq!((daily.used(), daily.held()), (Amount::ZERO, Amount::ZERO));
    service.gate.open();
    allowed(&books, chat("bob", 1)).await.settle(tokens(2)).await.unwrap();
    assert_eq!(service.used("bob").await, 2.into());
}

/// Answers of 200 that were not the service's once counted as "recorded", and the events were gone.
#[tokio::test]
async fn a_page_for_people_is_not_taken_for_the_word_of_the_service() {
    let service = Service::start().await;
    let (hosted, file) = (service.hosted().await, File::new("portal"));
    let (outbox, books) = queued(&hosted, &file).await;
    for path in ["balances/debit", "events/batch"] {
        service.gate.set(path, Way::Portal);
        let before = service.gate.calls(path);
        allowed(&books, paid("ann", 20)).await.settle(tokens(20)).await.unwrap();
        until(async || service.gate.calls(path) >= before + 2).await;
        service.gate.open();
        outbox.flush(Duration::from_secs(60)).await.unwrap();
    }
    assert_eq!((service.used("ann").await, service.credits("ann").await), (40.into(), 60.into()));
    assert_eq!(outbox.stats().set_aside, 0);
}

/// A batch that a proxy found too long was once sent as it was for ever, and everybody in it waited.
#[tokio::test]
async fn a_batch_that_is_too_long_for_a_proxy_goes_in_parts() {
    let service = Service::start().await;
    let (hosted, file) = (service.hosted().await, File::new("narrow"));
    let (outbox, books) = queued(&hosted, &file).await;
    service.gate.set("events/batch", Way::Shut);
    for n in 0..60 {
        let customer = format!("c-{}", n % 3);
        allowed(&books, chat(&customer, 1)).await.settle(tokens(1)).await.unwrap();
    }
    service.gate.set("events/batch", Way::Narrow(2_000));
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    for n in 0..3 {
        assert_eq!(service.used(&format!("c-{n}")).await, 20.into());
    }
    assert_eq!(outbox.stats().set_aside, 0);
}

/// Sent alone it was once refused as too long for ever, and everything of its customer waited behind it.
#[tokio::test]
async fn what_is_too_long_by_itself_is_set_aside_and_the_next_goes_on() {
    let service = Service::start().await;
    let (hosted, file) = (service.hosted().await, File::new("too-long"));
    let (outbox, books) = queued(&hosted, &file).await;
    service.gate.set("events/batch", Way::Narrow(1_000));
    let long = (0..90).fold(tokens(1), |usage, at| usage.and(format!("value-{at}"), 1));
    allowed(&books, chat("bob", 1)).await.settle(long).await.unwrap();
    allowed(&books, chat("bob", 1)).await.settle(tokens(1)).await.unwrap();
    service.gate.set("balances/debit", Way::Narrow(10));
    allowed(&books, paid("ann", 1)).await.settle(tokens(1)).await.unwrap();
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!(service.used("bob").await, 1.into());
    let aside = outbox.set_aside(0, 10).await.unwrap();
    let reasons: Vec<&str> = aside.iter().map(|aside| &*aside.reason).collect();
    assert!(reasons.len() == 2 && reasons.iter().all(|why| why.contains("413")), "{reasons:?}");
}

/// The service failed at one event, and so at all that were sent with it, for ever.
#[tokio::test]
async fn an_event_at_which_the_service_fails_is_set_aside_and_the_others_go_on() {
    let service = Service::start().await;
    let (hosted, file) = (service.hosted().await, File::new("poison"));
    let (outbox, books) = queued(&hosted, &file).await;
    service.gate.set("events/batch", Way::Shut);
    for n in 0..200 {
        let customer = format!("c-{}", n % 4);
        let mut usage = tokens(1).and("n", n);
        if n == 57 {
            usage = usage.and("poison", 1);
        }
        allowed(&books, chat(&customer, 1)).await.settle(usage).await.unwrap();
    }
    service.gate.set("events/batch", Way::Fails("poison"));
    let others = ["c-0", "c-2", "c-3"];
    until(async || {
        let mut all = true;
        for customer in others {
            all &= service.used(customer).await == 50.into();
        }
        all
    })
    .await;
    // What came before it is taken, and what follows waits for it.
    until(async || service.used("c-1").await == 14.into()).await;
    assert_eq!(outbox.stats().set_aside, 0, "it may pass");
    let mut more = 0;
    while outbox.stats().set_aside == 0 {
        more += 1;
        allowed(&books, chat("c-0", 1)).await.settle(tokens(1)).await.unwrap();
        let calls = service.gate.calls("events/batch");
        until(async || service.gate.calls("events/batch") >= calls + 2).await;
    }
    assert!((5..50).contains(&more), "set aside after ten failures: {more}");
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    let aside = outbox.set_aside(0, 10).await.unwrap();
    assert_eq!(aside.len(), 1);
    let why = &aside[0].reason;
    assert!(why.contains("10 times") && why.contains("status 500"), "{why}");
    // All others were counted once, and of each customer in their order.
    assert_eq!(service.used("c-1").await, 49.into());
    let query = tower_limitry::backend::EventQuery::new().customer("c-1");
    let kept = service.books.events(query).await.unwrap().items;
    let order: Vec<_> = kept.iter().rev().map(|event| event.usage().value("n").unwrap()).collect();
    let sent: Vec<Amount> = (0..200).filter(|n| n % 4 == 1 && *n != 57).map(Amount::from).collect();
    assert_eq!(order, sent);
    // Once the service can take it, it is there to be sent again.
    service.gate.open();
    outbox.replay_all().await.unwrap();
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!(service.used("c-1").await, 50.into());
}

/// The service failed at one debit, and its customer waited behind it for ever.
#[tokio::test]
async fn a_debit_at_which_the_service_fails_is_set_aside_and_its_customer_goes_on() {
    let service = Service::start().await;
    service.books.create_balance("bob", NewBalance::new("credits").initial(1_000)).await.unwrap();
    let (hosted, file) = (service.hosted().await, File::new("undebited"));
    let (outbox, books) = queued(&hosted, &file).await;
    let poison = paid("ann", 1).id("poison");
    service.gate.set("balances/debit", Way::Fails("poison"));
    allowed(&books, paid("ann", 1)).await.settle(tokens(1)).await.unwrap();
    allowed(&books, poison).await.settle(tokens(10)).await.unwrap();
    allowed(&books, paid("ann", 1)).await.settle(tokens(2)).await.unwrap();
    until(async || service.credits("ann").await == 99.into()).await;
    service.gate.more(20).await;
    assert_eq!(outbox.stats().set_aside, 0, "the service may fail at all debits");
    let mut more = 0;
    while outbox.stats().set_aside == 0 {
        more += 1;
        allowed(&books, paid("bob", 1)).await.settle(tokens(1)).await.unwrap();
        let calls = service.gate.calls("balances/debit");
        let tried = || service.gate.calls("balances/debit") >= calls + 2;
        until(async || tried() || outbox.stats().set_aside > 0).await;
    }
    assert!((5..50).contains(&more), "set aside after ten failures: {more}");
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    let aside = outbox.set_aside(0, 10).await.unwrap();
    assert_eq!(aside.len(), 1);
    let why = &aside[0].reason;
    assert!(why.contains("10 times") && why.contains("status 500"), "{why}");
    assert_eq!((service.credits("ann").await, service.used("ann").await), (97.into(), 3.into()));
    assert_eq!(service.used("bob").await, more.into());
    // Once the service can take it, it is there to be sent again.
    service.gate.open();
    outbox.replay_all().await.unwrap();
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!((service.credits("ann").await, service.used("ann").await), (87.into(), 13.into()));
}

#[tokio::test]
async fn a_service_that_fails_at_everything_has_nothing_set_aside() {
    let service = Service::start().await;
    let hosted = Hosted::builder(&service.client()).give_up_after(1).open().await.unwrap();
    let file = File::new("everything");
    let (outbox, books) = queued(&hosted, &file).await;
    service.gate.set("events/batch", Way::Fails(""));
    for n in 0..100 {
        let customer = format!("c-{}", n % 5);
        allowed(&books, chat(&customer, 1)).await.settle(tokens(1)).await.unwrap();
    }
    service.gate.more(50).await;
    assert_eq!(outbox.stats().set_aside, 0);
    service.gate.open();
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!(outbox.stats().set_aside, 0);
    for n in 0..5 {
        assert_eq!(service.used(&format!("c-{n}")).await, 20.into());
    }
}

/// Nothing tells whether the service fails at all or at this one, so it gets as long as ids are known.
#[tokio::test]
async fn an_event_that_has_nothing_beside_it_is_set_aside_after_a_day() {
    let service = Service::start().await;
    let now = tower_limitry::policy::Timestamp::from(std::time::SystemTime::now());
    let clock = ManualClock::at(&now.to_string());
    let hosted = Hosted::builder(&service.client()).clock(clock.clone()).open().await.unwrap();
    let file = File::new("alone");
    let (outbox, books) = queued(&hosted, &file).await;
    service.gate.set("events/batch", Way::Fails("poison"));
    allowed(&books, chat("bob", 1)).await.settle(tokens(1).and("poison", 1)).await.unwrap();
    allowed(&books, chat("bob", 1)).await.settle(tokens(1)).await.unwrap();
    service.gate.more(20).await;
    clock.advance(Duration::from_secs(86_399));
    service.gate.more(5).await;
    assert_eq!(outbox.stats().set_aside, 0);
    clock.advance(Duration::from_secs(1));
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!((outbox.stats().set_aside, service.used("bob").await), (1, 1.into()));
}

/// Once it was sent again in halves, though it may have been done.
#[tokio::test]
async fn at_most_once_sends_a_batch_once() {
    let service = Service::start().await;
    let client = Client::builder(KEY).base_url(&service.url).repeat(Repeat::AtMostOnce);
    let hosted = Hosted::builder(&client.retries(0).build().unwrap()).open().await.unwrap();
    let file = File::new("batch-once");
    let (outbox, books) = queued(&hosted, &file).await;
    service.gate.set("events/batch", Way::Shut);
    for _ in 0..4 {
        allowed(&books, chat("bob", 1)).await.settle(tokens(1)).await.unwrap();
    }
    // Until all go together.
    service.gate.more(3).await;
    service.gate.set("events/batch", Way::Lost);
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!(service.gate.calls_by("events/batch", Way::Lost), 1);
    assert_eq!((outbox.stats().set_aside, service.used("bob").await), (4, 4.into()));
}

/// What there was no time to send once counted as "perhaps done".
#[tokio::test]
async fn at_most_once_goes_on_trying_what_was_not_sent() {
    const MANY: u32 = 40;
    let service = Service::start().await;
    for n in 0..MANY {
        let terms = NewBalance::new("credits").initial(10);
        service.books.create_balance(format!("c-{n}"), terms).await.unwrap();
    }
    let client =
        Client::builder(KEY).base_url(&service.url).repeat(Repeat::AtMostOnce).build().unwrap();
    let hosted = Hosted::builder(&client).open().await.unwrap();
    let file = File::new("unsent");
    let outbox = Outbox::builder(hosted.clone())
        .backoff(Duration::from_secs(5), Duration::from_secs(5))
        .delivery_timeout(Duration::from_millis(500))
        .open(file.0.clone())
        .await
        .unwrap();
    let books = Books::new(outbox.clone());
    let mut permits = Vec::new();
    for n in 0..MANY {
        permits.push(allowed(&books, paid(&format!("c-{n}"), 1)).await);
    }
    service.gate.set("balances/debit", Way::Stuck);
    for permit in permits {
        permit.settle(tokens(1)).await.unwrap();
    }
    until(async || outbox.stats().set_aside >= 17).await;
    service.gate.open();
    outbox.flush(Duration::from_secs(60)).await.unwrap();
    let calls = service.gate.calls("balances/debit");
    let mut charged = 0;
    for n in 0..MANY {
        charged += usize::from(service.credits(&format!("c-{n}")).await == 9.into());
    }
    let aside = outbox.stats().set_aside;
    assert_eq!((charged + aside, calls), (MANY as usize, MANY as usize), "each was sent once");
    assert!(charged > 0, "most were not sent while nobody answered");
}

/// Over a restart, too: once a process that started again sent everything that waited anew.
#[tokio::test]
async fn at_most_once_is_at_most_once_over_a_restart() {
    let service = Arc::new(Service::start().await);
    let files = Arc::new((File::new("sent-debts"), File::new("sent")));
    // A process that ends between debit and event, and one that ends while the event is on its way.
    for (way, aside) in [(Way::Shut, 0), (Way::Stuck, 1)] {
        service.gate.set("events/batch", way);
        let debits = service.gate.calls("balances/debit");
        let (there, its_files) = (Arc::clone(&service), Arc::clone(&files));
        let process = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(one_settlement(&there, &its_files, way));
            runtime.shutdown_background();
        });
        process.await.unwrap();
        let (hosted, outbox) = once(&service, &files).await;
        service.gate.open();
        outbox.flush(Duration::from_secs(60)).await.unwrap();
        assert_eq!(service.gate.calls("balances/debit") - debits, 1, "{way:?}");
        assert_eq!(service.used("ann").await, 20.into(), "{way:?}");
        assert_eq!(outbox.stats().set_aside, aside, "{way:?}");
        // Whoever has looked and found nothing sends the event, and only that.
        outbox.replay_all().await.unwrap();
        outbox.flush(Duration::from_secs(60)).await.unwrap();
        assert_eq!(service.gate.calls("balances/debit") - debits, 1, "{way:?}");
        drop((hosted, outbox));
    }
    assert_eq!((service.used("ann").await, service.credits("ann").await), (40.into(), 60.into()));
}

async fn one_settlement(service: &Service, files: &(File, File), way: Way) {
    let (hosted, outbox) = once(service, files).await;
    let books = Books::new(outbox);
    let batches = service.gate.calls("events/batch");
    allowed(&books, paid("ann", 20)).await.settle(tokens(20)).await.unwrap();
    until(async || service.gate.calls("events/batch") > batches).await;
    if way == Way::Shut {
        // The answer was heard: it waits again, and is not on its way any more.
        until(async || {
            let standing = Books::new(hosted.clone()).usage("ann").await.unwrap();
            standing.limits().any(|limit| limit.id() == "daily" && limit.used() == 20.into())
        })
        .await;
    }
}

/// A process that sends nothing twice, once nobody else has its files.
async fn once(service: &Service, (debts, queue): &(File, File)) -> (Hosted, Outbox<Hosted>) {
    const LONG: Duration = Duration::from_secs(3_600);
    let builder = Client::builder(KEY).base_url(&service.url).repeat(Repeat::AtMostOnce);
    let client = builder.retries(0).build().unwrap();
    free(async || {
        let hosted = Hosted::builder(&client).debts(debts.0.clone()).open().await?;
        let builder = Outbox::builder(hosted.clone()).backoff(LONG, LONG);
        Ok((hosted, builder.open(queue.0.clone()).await?))
    })
    .await
}
