//! What requests leave in memory.
#![cfg(feature = "test-util")]
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::*;
use tower_limitry::store::Memory;

/// Each left a note of when its hold would expire, until then.
#[test]
fn a_hold_that_was_settled_leaves_nothing_until_it_would_have_expired() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let memory = Memory::new().keep_events(0);
    let books = hundred_a_day(&noon()).memory(memory).build().unwrap().erased();
    let requests = |count: usize| {
        runtime.block_on(async {
            for _ in 0..count {
                let check = ask("ada", 1).hold_for(Duration::MAX);
                let permit = admitted(&books, check).await;
                let key = (permit.decision().customer().clone(), permit.id().unwrap().clone());
                books.renew(vec![key], 100 * DAY).await.unwrap();
                permit.settle(total(0)).await.unwrap();
            }
        });
    };
    requests(200);
    let left = allocation_counter::measure(|| requests(20_000)).bytes_current;
    assert!(left < 20_000, "{left} bytes");
}
