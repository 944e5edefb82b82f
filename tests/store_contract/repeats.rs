//! A change of a balance under one key, told to two servers of the same books, is done once.

use tower_limitry::client::Client;
use tower_limitry::engine::EngineBuilder;
use tower_limitry::policy::Debit;
use tower_limitry::{Books, NewBalance};

use crate::remote::serve;
use crate::support::*;

fn builder() -> EngineBuilder {
    tokens(&noon()).default_balance(NewBalance::new("credits").initial(100))
}

async fn is_done_once(books: Books) {
    // Each knows only the calls that it was sent itself.
    let (one, other, third) = (serve(&books), serve(&books), serve(&books));
    let debit = |amount: u32| Debit::new("ada", "credits", amount);
    let take = async |server: &Client, key: &str, amount: u32| {
        let changed = server.balances().debit_once(key, &debit(amount)).await.unwrap();
        changed.transaction.map(|transaction| transaction.id)
    };
    let first = take(&one, "key", 10).await;
    assert!(first.is_some());
    assert_eq!(take(&other, "key", 10).await, first, "it is the same");
    assert_eq!(current(&books, "ada", "credits").await, amount(90));
    // What was refused was not done, and may be done later.
    assert_eq!(take(&one, "large", 95).await, None);
    books.credit(tower_limitry::policy::Credit::new("ada", "credits", 10)).await.unwrap();
    assert!(take(&other, "large", 95).await.is_some());
    assert_ne!(take(&one, "another", 1).await, first);
    assert_ne!(take(&third, "key", 2).await, first, "of another body it is another call");
    let debit = Debit::new("bob", "credits", 10);
    let of_bob = serve(&books).balances().debit_once("key", &debit).await.unwrap();
    assert_ne!(of_bob.transaction.map(|transaction| transaction.id), first);
    assert_eq!(current(&books, "ada", "credits").await, amount(2));
    assert_eq!(current(&books, "bob", "credits").await, amount(90));
    let amounts: Vec<_> =
        ledger(&books, "ada", "credits", 10).await.iter().map(|made| made.amount()).collect();
    assert_eq!(amounts, [2, 1, 95, 10, 10, 100].map(amount));
}

#[tokio::test]
async fn in_memory() {
    is_done_once(builder().build().unwrap().erased()).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn in_a_file() {
    let store = tower_limitry::store::Sqlite::open(crate::file::fresh()).unwrap();
    is_done_once(builder().build_on(store).unwrap().erased()).await;
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn on_redis() {
    for (url, prefix) in [crate::redis::fresh(), crate::redis::fresh_on_cluster()] {
        let options = tower_limitry::store::Redis::options().prefix(prefix).timeout(MINUTE);
        let store = options.open(&url).unwrap();
        is_done_once(builder().build_on(store).unwrap().erased()).await;
    }
}
