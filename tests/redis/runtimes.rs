//! A connection is driven near to the requests that use it, and books do not depend on where that is.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tower_limitry::Books;
use tower_limitry::store::Redis;

use crate::redis::{Server, prefix, until};
use crate::support::*;
use crate::{ever, open, tokens};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_io().build().unwrap()
}

/// How many connections the server has, but for the one that asks.
fn connections(server: &Server) -> usize {
    server.ask(&["CLIENT", "LIST", "TYPE", "normal"]).lines().count() - 1
}

/// Spends until the runtime has a connection of its own.
fn spend_nearby(runtime: &Runtime, books: &Books, server: &Server) -> u32 {
    let mut spent = 0;
    until("a connection of the runtime", || {
        runtime.block_on(spend(books, "ada", 1));
        spent += 1;
        connections(server) == 2
    });
    spent
}

#[test]
fn books_go_on_when_the_runtime_that_used_them_first_has_ended() {
    let server = Server::start();
    let books = open(tokens().limit(ever(1_000_000)), &server.url(), &prefix());
    let mut spent = 0;
    for _ in 0..3 {
        let runtime = runtime();
        spent += spend_nearby(&runtime, &books, &server);
        // Beside it, another one, and one that lives while somebody waits in it.
        self::runtime().block_on(spend(&books, "ada", 1));
        Builder::new_current_thread().build().unwrap().block_on(spend(&books, "ada", 1));
        spent += 2;
        drop(runtime);
        until("its connection is gone", || connections(&server) == 1);
    }
    assert_eq!(runtime().block_on(used(&books, "ada", "ever")), amount(spent));
}

#[test]
fn a_hold_is_renewed_though_the_runtime_of_its_request_is_blocked() {
    let server = Server::start();
    let store = Redis::options().prefix("p").hold_for(Duration::from_secs(1));
    let store = store.open(&server.url()).unwrap();
    let books = tokens().limit(ever(1_000_000)).build_on(store).unwrap().erased();
    let runtime = runtime();
    let spent = spend_nearby(&runtime, &books, &server);
    let work = runtime.spawn(async move {
        let permit = admitted(&books, ask("ada", 60)).await;
        let due = || {
            let script = "return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')[2] or '0'";
            server.ask(&["EVAL", script, "1", "p:1:{46}:due:ada"]).parse::<u64>().unwrap()
        };
        let first = due();
        // On the runtime's only worker.
        until("it is renewed, and again", || due() > first + 2_500_000);
        permit.settle(total(60)).await.unwrap();
        assert_eq!(used_held(&books, "ada", "ever").await, (amount(spent + 60), amount(0)));
    });
    runtime.block_on(work).unwrap();
}

#[test]
fn a_runtime_without_io_is_served_by_another_threads_connection() {
    let server = Server::start();
    let books = open(tokens().limit(ever(1_000_000)), &server.url(), &prefix());
    let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
    for _ in 0..100 {
        runtime.block_on(spend(&books, "ada", 1));
    }
    assert_eq!(runtime.block_on(used(&books, "ada", "ever")), amount(100));
}
