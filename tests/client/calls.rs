//! Every call, against the server of this crate.

use serde_json::json;
use tower_limitry::backend::{EventQuery, MeterQuery, PageRequest};
use tower_limitry::client::{CustomerTerms, LimitChange, MeterChange, StandingQuery};
use tower_limitry::policy::{Credit, Debit, Period, TransactionKind};
use tower_limitry::{Amount, ErrorKind, Event, Limit, Meter, NewBalance, Usage};

use crate::support::{Api, NOW};

fn tokens(customer: &str, amount: u64) -> Event {
    let usage = Usage::of("tokens", amount).dimension("model", "large-2");
    Event::new(customer, "llm.completion", usage).at(NOW.parse().unwrap())
}

#[tokio::test]
async fn limits_are_made_listed_read_changed_and_removed() {
    let Api { client, .. } = Api::start().await;
    let limits = client.limits();
    let new = Limit::per_month("large", "tokens", "20000.5")
        .named("Large model")
        .for_customer("acct_42")
        .dimension("model", "large-2")
        .alert_at([75, 100]);
    let made = limits.create(&new).await.unwrap();
    assert!(made.item.id().starts_with("lmt_"));
    assert_eq!(made.project.as_deref(), Some("proj_1"));
    assert!(made.created_at.is_some() && made.updated_at.is_some());
    let limit = made.item.clone();
    assert_eq!((limit.name(), limit.meter()), ("Large model", "tokens"));
    assert_eq!((limit.period(), limit.cap()), (Period::Month, Some("20000.5".parse().unwrap())));
    assert_eq!(limit.customer(), Some("acct_42"));
    assert_eq!(limit.dimensions().get("model"), Some("large-2"));

    assert_eq!(limits.get(limit.id()).await.unwrap(), made);
    let mut ids = Vec::new();
    let mut pages = limits.list();
    while let Some(limit) = pages.next().await {
        ids.push(limit.unwrap().item.id().to_owned());
    }
    assert_eq!(ids, ["daily", limit.id()]);
    let own = limits.list_of("acct_42").all().await.unwrap();
    assert_eq!(own, [made]);

    let change = LimitChange::new()
        .name("Large models")
        .cap(30_000)
        .period(Period::Day)
        .for_everybody()
        .dimensions([("model", "large-3")])
        .alert_at([]);
    let changed = limits.update(limit.id(), change).await.unwrap().item;
    assert_eq!((changed.name(), changed.cap()), ("Large models", Some(30_000.into())));
    assert_eq!((changed.period(), changed.customer()), (Period::Day, None));
    assert_eq!(changed.dimensions().get("model"), Some("large-3"));
    assert_eq!(changed.meter(), "tokens", "what is not named stays");

    limits.delete(limit.id()).await.unwrap();
    let gone = limits.get(limit.id()).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(limits.delete(limit.id()).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_check_tells_where_a_customer_stands() {
    let Api { client, .. } = Api::start().await;
    client.events().record(&tokens("acct_42", 1_000)).await.unwrap();
    let standing = client.limits().check(StandingQuery::of("acct_42")).await.unwrap();
    assert!(!standing.allowed);
    let limit = &standing.limits[0];
    assert_eq!((&*limit.id, &*limit.name, &*limit.meter), ("daily", "Daily tokens", "tokens"));
    assert_eq!((limit.limit, limit.used), (1_000.into(), 1_000.into()));
    assert_eq!((limit.remaining, limit.exceeded), (Amount::ZERO, true));
    assert_eq!((limit.period, limit.reset), (Period::Day, Some(1_772_409_600)));
    assert!(client.limits().check(StandingQuery::of("acct_43")).await.unwrap().allowed);
    assert!(!client.limits().check(StandingQuery::of_all()).await.unwrap().allowed);
    let nobody = client.limits().check(StandingQuery::of("")).await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn meters_are_made_listed_read_changed_and_removed() {
    let Api { client, .. } = Api::start().await;
    let meters = client.meters();
    let new = Meter::max("peak", "streams")
        .named("Peak")
        .described("streams at once")
        .event_type("stream")
        .dimension("region", "eu");
    let made = meters.create(&new).await.unwrap();
    let id = made.item.id().to_owned();
    assert!(id.starts_with("mtr_"));
    let mut expected = serde_json::Map::new();
    expected
        .insert("made".into(), json!(format!("{:?}", new).replace("\"peak\"", &format!("{id:?}"))));
    assert_eq!(json!({ "made": format!("{:?}", made.item) }), json!(expected));
    assert_eq!(meters.get(&id).await.unwrap(), made);
    let all = meters.list().all().await.unwrap();
    assert_eq!(all.iter().map(|meter| meter.item.id()).collect::<Vec<_>>(), [&id, "tokens"]);

    let change = MeterChange::new().name("Calls").description(None).counting(&Meter::count("any"));
    let changed = meters.update(&id, change).await.unwrap().item;
    assert_eq!((changed.name(), changed.field()), ("Calls", None));
    meters.delete(&id).await.unwrap();
    assert_eq!(meters.get(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
    let in_use = meters.delete("tokens").await.unwrap_err();
    assert_eq!(in_use.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn events_are_recorded_once_listed_and_read_by_meters() {
    let Api { client, .. } = Api::start().await;
    let first = tokens("acct_42", 812).id("evt-1");
    let recorded = client.events().record(&first).await.unwrap();
    assert_eq!((recorded.id.to_string(), recorded.recorded), ("evt-1".to_owned(), true));
    client.events().record(&first).await.unwrap();
    let batch: Vec<_> = (0..1_000).map(|n| tokens("acct_43", 1).id(format!("b-{n}"))).collect();
    assert_eq!(client.events().record_many(&batch).await.unwrap(), 1_000);
    assert_eq!(client.events().record_many(&batch).await.unwrap(), 1_000);
    let many: Vec<_> = (0..1_001).map(|_| tokens("acct_43", 1)).collect();
    assert_eq!(client.events().record_many(&many).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(client.events().record_many([]).await.unwrap(), 0);

    let of = |customer| MeterQuery::new("tokens").customer(customer);
    assert_eq!(client.meters().query(of("acct_42")).await.unwrap().value, 812.into());
    let now = NOW.parse().unwrap();
    let ranged = of("acct_43").dimension("model", "large-2").from(now);
    assert_eq!(client.meters().query(ranged).await.unwrap().value, 1_000.into());
    let reading = client.meters().query(of("acct_43").until(now)).await.unwrap();
    assert_eq!((reading.value, reading.complete), (Amount::ZERO, true));

    let listed = client.events().list(EventQuery::new().customer("acct_43")).all().await.unwrap();
    assert_eq!(listed.len(), 1_000);
    assert!(listed.iter().all(|event| event.customer().as_str() == "acct_43"));
    let page = PageRequest::first().limit(7);
    let query = EventQuery::new().customer("acct_43").event_type("llm.completion").page(page);
    let page = client.events().page(query.clone()).await.unwrap();
    assert_eq!((page.items.len(), page.next.is_some()), (7, true));
    let event = &page.items[0];
    assert_eq!((event.event_type(), event.at()), ("llm.completion", now));
    assert_eq!(event.usage().values().get("tokens"), Some(Amount::ONE));
    assert_eq!(event.usage().dimensions().get("model"), Some("large-2"));
    let next = query.page(PageRequest::first().limit(7).after(page.next.unwrap()));
    let next = client.events().page(next).await.unwrap();
    assert_ne!(next.items[0].id(), page.items[0].id());
    assert_eq!(
        client.events().list(EventQuery::new().event_type("none")).all().await.unwrap().len(),
        0
    );
}

#[tokio::test]
async fn balances_are_made_checked_credited_debited_and_listed() {
    let Api { client, .. } = Api::start().await;
    let balances = client.balances();
    let terms = NewBalance::new("ai-credits").initial(640).minimum(40);
    let made = balances.create("acct_42", &terms).await.unwrap();
    assert_eq!((made.customer.as_str(), made.balance.available()), ("acct_42", 600.into()));
    assert_eq!((made.balance.name(), made.balance.unit()), ("ai-credits", "credits"));
    let exists = balances.create("acct_42", &terms).await.unwrap_err();
    assert_eq!(exists.kind(), ErrorKind::Conflict);

    let enough = balances.check("acct_42", "ai-credits", 600).await.unwrap();
    assert!(enough.sufficient && enough.balance_id == made.id);
    assert!(!balances.check("acct_42", "ai-credits", "600.000001").await.unwrap().sufficient);
    let unknown = balances.check("acct_42", "none", 1).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);

    let credit =
        Credit::new("acct_42", "ai-credits", "0.25").reference("pay-1").description("paid");
    for _ in 0..2 {
        let credited = balances.credit(&credit).await.unwrap();
        assert_eq!(credited.balance.unwrap().balance.current(), "640.25".parse().unwrap());
    }
    let debit = Debit::new("acct_42", "ai-credits", "87.5").reference("evt-1");
    for _ in 0..2 {
        let debited = balances.debit_once("evt-1", &debit).await.unwrap();
        assert!(debited.success);
        assert_eq!(debited.balance.unwrap().balance.current(), "552.75".parse().unwrap());
    }
    let refused = balances.debit(&Debit::new("acct_42", "ai-credits", 1_000)).await.unwrap();
    assert!(!refused.success && refused.transaction.is_none());
    assert!(refused.error.unwrap().contains("1000 requested"));

    let of = balances.of("acct_42").await.unwrap();
    let listed = balances.list("acct_42").all().await.unwrap();
    assert_eq!(of[0].balance, listed[0].balance);
    assert_eq!(balances.get(&made.id).await.unwrap().balance, listed[0].balance);
    let all = balances.list_all().all().await.unwrap();
    assert_eq!(all.iter().map(|found| found.customer.as_str()).collect::<Vec<_>>(), ["acct_42"]);
    let changed = balances.set_minimum(&made.id, "-0.5").await.unwrap();
    assert_eq!(changed.balance.available(), "553.25".parse().unwrap());
    let transactions = balances.transactions(&made.id).all().await.unwrap();
    let kinds: Vec<_> = transactions.iter().map(|change| change.kind.unwrap()).collect();
    use TransactionKind::{Credit as In, Debit as Out, Opening};
    assert_eq!(kinds, [Out, In, Opening]);
    assert_eq!(transactions[0].reference.as_deref(), Some("evt-1"));
    assert_eq!(transactions[1].description.as_deref(), Some("paid"));
}

#[tokio::test]
async fn customers_are_made_listed_read_changed_and_forgotten() {
    let Api { client, .. } = Api::start().await;
    let customers = client.customers();
    let metadata = json!({ "plan": "team", "seats": 5 }).as_object().unwrap().clone();
    let terms = || {
        CustomerTerms::new()
            .name(Some("Example Ltd".into()))
            .billing_cycle_start("2026-01-31T00:00:00Z")
            .timezone(Some("Europe/Vienna".into()))
            .metadata(metadata.clone())
    };
    let made = customers.create("acct/42 ü", terms()).await.unwrap();
    assert_eq!(made.external_id.as_str(), "acct/42 ü");
    assert_eq!((made.name.as_deref(), made.email.as_deref()), (Some("Example Ltd"), None));
    assert_eq!(made.billing_cycle_start, Some("2026-01-31T00:00:00Z".parse().unwrap()));
    assert_eq!((made.timezone.as_deref(), &made.metadata), (Some("Europe/Vienna"), &metadata));
    let again = customers.create("acct/42 ü", terms()).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);

    assert_eq!(customers.get("acct/42 ü").await.unwrap(), made);
    assert_eq!(customers.get(&made.id).await.unwrap(), made);
    assert_eq!(customers.list().all().await.unwrap(), std::slice::from_ref(&made));
    let change = CustomerTerms::new().email(Some("a@example.com".into())).timezone(None);
    let changed = customers.update("acct/42 ü", change).await.unwrap();
    assert_eq!((changed.email.as_deref(), changed.timezone), (Some("a@example.com"), None));
    assert_eq!(changed.name, made.name, "what is not named stays");
    customers.delete("acct/42 ü").await.unwrap();
    assert_eq!(customers.get("acct/42 ü").await.unwrap_err().kind(), ErrorKind::NotFound);
    for trick in ["..", ".", ""] {
        assert_eq!(customers.delete(trick).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn a_list_of_many_pages_is_fetched_as_it_is_asked_for() {
    use futures_util::StreamExt;
    let Api { client, books, .. } = Api::start().await;
    for n in 0..120 {
        books.put_limit(Limit::per_day(format!("l-{n:03}"), "tokens", 5)).await.unwrap();
    }
    let listed: Vec<_> = client.limits().list().collect().await;
    assert_eq!(listed.len(), 121);
    let ids: Vec<_> = listed.into_iter().map(|limit| limit.unwrap().item.id().to_owned()).collect();
    assert!(ids.is_sorted());
}

#[tokio::test]
async fn the_project_tells_its_id() {
    let Api { client, .. } = Api::start().await;
    assert_eq!(client.project().await.unwrap().id, "proj_1");
}

#[test]
fn what_a_program_keeps_can_be_shared() {
    fn is_shared<T: Clone + std::fmt::Debug + Send + Sync + 'static>() {}
    fn is_sent<T: std::fmt::Debug + Send + Unpin + 'static>() {}
    is_shared::<tower_limitry::client::Client>();
    is_shared::<tower_limitry::client::ClientBuilder>();
    is_shared::<tower_limitry::client::Hosted>();
    is_shared::<tower_limitry::client::HostedBuilder>();
    is_sent::<tower_limitry::client::HostedCheck>();
    is_sent::<tower_limitry::client::HostedFinish>();
    is_sent::<tower_limitry::client::Pages<tower_limitry::client::CustomerRecord>>();
}
