//! What one process changes holds on all of them from their next step on.

use tower_limitry::backend::{Customer, MeterQuery};
use tower_limitry::{Books, Check, Event, Limit, Meter, NewBalance};

use crate::redis::{Server, fresh};
use crate::support::*;
use crate::{ever, open, tokens};

/// Books of three processes.
fn three(builder: impl Fn() -> tower_limitry::engine::EngineBuilder) -> [Books; 3] {
    let (url, prefix) = fresh();
    [(); 3].map(|()| open(builder(), &url, &prefix))
}

#[tokio::test]
async fn usage_holds_and_balances_are_one() {
    let builder =
        || tokens().limit(ever(100)).default_balance(NewBalance::new("credits").initial(50));
    let [one, two, three] = three(builder);
    let check = || ask("ada", 40).charge("credits", |usage| usage.value("total_tokens"));
    let running = admitted(&one, check()).await;
    assert_eq!(used_held(&two, "ada", "ever").await, (amount(0), amount(40)));
    denied(&two, check()).await;
    running.settle(total(30)).await.unwrap();
    assert_eq!(used_held(&three, "ada", "ever").await, (amount(30), amount(0)));
    assert_eq!(current(&three, "ada", "credits").await, amount(20));
}

#[tokio::test]
async fn a_limit_added_on_one_holds_on_all() {
    let [one, two, three] = three(tokens);
    spend(&one, "ada", 60).await;
    spend(&two, "ada", 30).await;
    let running = admitted(&three, ask("ada", 5)).await;
    two.put_limit(ever(100)).await.unwrap();
    for books in [&one, &two, &three] {
        assert_eq!(used(books, "ada", "ever").await, amount(90));
        denied(books, ask("ada", 11)).await;
    }
    running.settle(total(5)).await.unwrap();
    spend(&one, "ada", 5).await;
    for books in [&three, &two, &one] {
        denied(books, Check::of("ada")).await;
    }
    one.put_limit(ever(200)).await.unwrap();
    admitted(&three, ask("ada", 100)).await.release().await.unwrap();
    denied(&three, ask("ada", 101)).await;
    assert!(three.remove_limit("ever").await.unwrap());
    assert_eq!(one.limits().await.unwrap().len(), 1, "it is told with the next step");
    admitted(&one, ask("ada", 1_000)).await.release().await.unwrap();
    assert_eq!(one.limits().await.unwrap(), []);
}

#[tokio::test]
async fn what_was_changed_wins_over_what_programs_define() {
    let (url, prefix) = fresh();
    let builder = || tokens().limit(ever(100)).limit(Limit::per_day("daily", "tokens", 10));
    let one = open(builder(), &url, &prefix);
    one.put_limit(ever(7)).await.unwrap();
    assert!(one.remove_limit("daily").await.unwrap());
    let two = open(builder(), &url, &prefix);
    denied(&two, ask("ada", 8)).await;
    let looked = two.usage("ada").await.unwrap();
    assert_eq!(looked.limits().map(|limit| limit.id().to_owned()).collect::<Vec<_>>(), ["ever"]);
}

#[tokio::test]
async fn meters_and_customers_are_everybodys_too() {
    let [one, two, three] = three(|| tokens().limit(Limit::per_day("daily", "tokens", 100)));
    one.put_meter(Meter::count("calls")).await.unwrap();
    two.usage("ada").await.unwrap();
    two.put_limit(Limit::all_time("calls", "calls", 2)).await.unwrap();
    for books in [&one, &two] {
        books.record(Event::new("ada", "chat", total(1))).await.unwrap();
    }
    denied(&three, Check::of("ada")).await;
    let reading = three.query(MeterQuery::new("calls").customer("ada")).await.unwrap();
    assert_eq!((reading.value, reading.complete), (amount(2), true));

    one.put_customer(Customer::new("ada").zone("Pacific/Apia").metadata("plan", "pro"))
        .await
        .unwrap();
    let everybody = two.usage("bob").await.unwrap().limits().next().unwrap().reset();
    let resets = async |books: &Books| standing(books, "ada", "daily").await.reset;
    assert_ne!(resets(&two).await, everybody);
    assert_eq!(resets(&two).await, resets(&three).await);
    let known = three.customer("ada").await.unwrap().unwrap();
    assert_eq!(known.attached().get("plan").map(String::as_str), Some("pro"));
    assert!(three.remove_customer("ada").await.unwrap());
    assert_eq!(resets(&one).await, everybody);
    assert_eq!(one.customer("ada").await.unwrap(), None);
}

#[tokio::test]
async fn a_limit_that_is_added_under_load_is_exact() {
    let books = three(tokens);
    let mut tasks = Vec::new();
    for task in 0..24 {
        let books = books[task % 3].clone();
        tasks.push(tokio::spawn(async move {
            for round in 0..20 {
                let customer = format!("acct_{}", (task + round) % 4);
                spend(&books, &customer, 1).await;
            }
        }));
    }
    books[1].put_limit(ever(1_000_000)).await.unwrap();
    for task in tasks {
        task.await.unwrap();
    }
    for customer in 0..4 {
        let customer = format!("acct_{customer}");
        for books in &books {
            assert_eq!(used(books, &customer, "ever").await, amount(120), "{customer}");
        }
    }
}

#[tokio::test]
async fn one_event_is_taken_back_once_whoever_does_it() {
    let books = three(|| tokens().limit(ever(100)));
    let recorded = books[0].record(Event::new("ada", "chat", total(40))).await.unwrap();
    let mut voids = Vec::new();
    for number in 0..12 {
        let (books, id) = (books[number % 3].clone(), recorded.id.clone());
        voids.push(tokio::spawn(async move { books.void("ada", &id).await.unwrap() }));
    }
    let mut taken = 0;
    for void in voids {
        taken += usize::from(void.await.unwrap().recorded);
    }
    assert_eq!(taken, 1);
    assert_eq!(used(&books[2], "ada", "ever").await, amount(0));
}

/// A process that counts again keeps others waiting. One that is killed in the middle does so only for
/// a while.
#[tokio::test]
async fn a_recount_that_never_ends_is_not_waited_for() {
    let server = Server::start();
    let books = open(tokens().limit(ever(100)), &server.url(), "p");
    spend(&books, "ada", 1).await;
    let left_behind = "for n = 0, 63 do redis.call('HSET', 'p:1:{' .. n .. '}:shard', 'version', \
                       '!abc:1000') end return 'done'";
    assert_eq!(server.eval(left_behind), "done");
    spend(&books, "ada", 1).await;
    assert_eq!(used(&books, "ada", "ever").await, amount(2));
}

#[tokio::test]
async fn balances_are_listed_over_all_customers_and_their_minimum_can_change() {
    let (url, prefix) = fresh();
    let builder = || tokens().default_balance(NewBalance::new("credits").initial(5));
    let [one, two] = [(); 2].map(|()| open(builder(), &url, &prefix));
    for customer in ["ada", "bob", "eve"] {
        one.record(Event::new(customer, "chat", total(1))).await.unwrap();
    }
    let gold = NewBalance::new("Gold").initial(10).minimum(2).unit("gold coins");
    one.create_balance("eve", gold).await.unwrap();
    let debit = tower_limitry::policy::Debit::new("bob", "credits", 1);
    assert!(one.debit(debit).await.unwrap().is_taken());
    let page = two.all_balances(Default::default()).await.unwrap();
    let owners: Vec<_> = page.items.iter().map(|(customer, _)| customer.as_str()).collect();
    assert!(
        owners.contains(&"bob") && owners.contains(&"eve") && !owners.contains(&"ada"),
        "{owners:?}"
    );
    let changed = two.set_minimum("eve", "Gold", -3).await.unwrap();
    assert_eq!(
        (changed.minimum(), changed.unit(), changed.available()),
        (amount(-3), "gold coins", amount(13))
    );
    let seen = one.balance("eve", "Gold").await.unwrap().unwrap();
    assert_eq!(seen.minimum(), amount(-3));
}

#[tokio::test]
async fn pages_of_events_go_over_all_shards_and_miss_none() {
    use tower_limitry::backend::{EventQuery, PageRequest};
    let (url, prefix) = fresh();
    let books = open(tokens(), &url, &prefix);
    for number in 0..60_u32 {
        let customer = format!("acct_{}", number % 7);
        books.record(Event::new(&*customer, "chat", total(number))).await.unwrap();
    }
    let pages = async |query: EventQuery, length: usize| {
        let (mut found, mut page) = (Vec::new(), PageRequest::first().limit(length));
        loop {
            let answer = books.events(query.clone().page(page)).await.unwrap();
            let tokens =
                answer.items.iter().map(|event| event.usage().value("total_tokens").unwrap());
            found.extend(tokens.map(|tokens| tokens.floor()));
            match answer.next {
                Some(next) => page = PageRequest::first().limit(length).after(next),
                None => return found,
            }
        }
    };
    let all: Vec<i64> = (0..60).rev().collect();
    let own: Vec<i64> = (0..60).rev().filter(|number| number % 7 == 3).collect();
    for length in [1, 7, 60] {
        assert_eq!(pages(EventQuery::new(), length).await, all, "pages of {length}");
        assert_eq!(pages(EventQuery::new().customer("acct_3"), length).await, own);
    }
}

#[tokio::test]
async fn who_adds_a_limit_heeds_those_that_others_added_before() {
    let (url, prefix) = fresh();
    let [one, other] = [(); 2].map(|()| open(tokens(), &url, &prefix));
    one.put_limit(Limit::per_day("daily", "tokens", 10)).await.unwrap();
    // Has taken no step since, and counts anew itself.
    other.put_limit(Limit::per_week("weekly", "tokens", 100)).await.unwrap();
    denied(&other, ask("ada", 11)).await;
}
