//! A connection is driven near to the requests that use it, and books do not depend on where that is.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tower_limitry::Books;
use tower_limitry::policy::{CustomerId, EventId, Timestamp};
use tower_limitry::store::{HoldKey, Moment, Redis, Store};

use crate::redis::{Server, prefix, until};
use crate::support::*;
use crate::{ever, open, options, tokens};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_io().build().unwrap()
}

/// How many connections the server has, but for the one that asks.
fn connections(server: &Server) -> usize {
    server.ask(&["CLIENT", "LIST", "TYPE", "normal"]).lines().count() - 1
}

/// Spends until the runtime has a connection of its own, and uses it.
fn spend_nearby(runtime: &Runtime, books: &Books, server: &Server) -> u32 {
    let mut spent = 0;
    until("a connection of the runtime", || {
        runtime.block_on(spend(books, "ada", 1));
        spent += 1;
        called(server) == 2
    });
    spent
}

/// How many connections were used for calls last.
fn called(server: &Server) -> usize {
    let all = server.ask(&["CLIENT", "LIST", "TYPE", "normal"]);
    all.lines().filter(|connection| connection.contains("cmd=evalsha")).count()
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

/// Stands between books and server. Through one of its connections nothing comes any more.
struct Proxy {
    url: String,
    hanging: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(server: &Server) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let hanging = Arc::new(AtomicUsize::new(usize::MAX));
        let (port, hangs) = (server.port, Arc::clone(&hanging));
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let (client, server) =
                    (client.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
                let pair = |from: &TcpStream, to: &TcpStream| {
                    (from.try_clone().unwrap(), to.try_clone().unwrap())
                };
                for (mut from, mut to) in [pair(&client, &server), pair(&server, &client)] {
                    let hangs = Arc::clone(&hangs);
                    std::thread::spawn(move || {
                        let mut buffer = [0; 4096];
                        while let Ok(count @ 1..) = from.read(&mut buffer) {
                            if number != hangs.load(Ordering::SeqCst) {
                                let _ = to.write_all(&buffer[..count]);
                            }
                        }
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { url, hanging }
    }

    fn hang(&self, number: usize) {
        self.hanging.store(number, Ordering::SeqCst);
    }
}

#[test]
fn a_hold_is_renewed_though_the_connection_of_the_renewals_hangs_while_the_one_nearby_answers() {
    let server = Server::start();
    let proxy = Proxy::start(&server);
    let store = Redis::options().prefix("p").hold_for(Duration::from_secs(6));
    let store = store.timeout(Duration::from_millis(500)).open(&proxy.url).unwrap();
    let books = tokens().limit(ever(1_000_000)).build_on(store).unwrap().erased();
    let runtime = runtime();
    let spent = spend_nearby(&runtime, &books, &server);
    runtime.block_on(async {
        proxy.hang(0);
        let permit = admitted(&books, ask("ada", 60)).await;
        let due = || {
            let script = "return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')[2] or '0'";
            server.ask(&["EVAL", script, "1", "p:1:{46}:due:ada"]).parse::<u64>().unwrap()
        };
        let first = due();
        until("it is renewed, or has ended", || due() != first);
        assert!(due() > first);
        permit.settle(total(60)).await.unwrap();
        assert_eq!(used_held(&books, "ada", "ever").await, (amount(spent + 60), amount(0)));
    });
}

#[test]
fn what_was_answered_while_the_runtime_was_blocked_is_no_outage() {
    let server = Server::start();
    let time = Duration::from_millis(200);
    let store = Redis::options().prefix("p").timeout(time).open(&server.url()).unwrap();
    let books = tokens().limit(ever(1_000_000)).build_on(store).unwrap().erased();
    let runtime = runtime();
    spend_nearby(&runtime, &books, &server);
    let work = runtime.spawn(async move {
        let checks: Vec<_> = (0..40).map(|_| tokio::spawn(books.check(ask("ada", 1)))).collect();
        // So that they are sent.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let begun = Instant::now();
        // On the runtime's only worker.
        until("all are there, and the time is over", || {
            let script = "return tostring(redis.call('ZCOUNT', KEYS[1], '-inf', '(inf'))";
            server.ask(&["EVAL", script, "1", "p:1:{46}:due:ada"]) == "40"
                && begun.elapsed() > 2 * time
        });
        for check in checks {
            check.await.unwrap().unwrap().release().await.unwrap();
        }
    });
    runtime.block_on(work).unwrap();
}

#[test]
fn a_runtime_that_ends_while_its_connection_is_made_leaves_that_to_the_next_one() {
    let server = Server::start();
    let proxy = Proxy::start(&server);
    let books = open(tokens().limit(ever(1_000_000)), &proxy.url, &prefix());
    let first = runtime();
    proxy.hang(1);
    until("it makes one", || {
        first.block_on(spend(&books, "ada", 1));
        connections(&server) == 2
    });
    drop(first);
    until("its connection is gone", || connections(&server) == 1);
    spend_nearby(&runtime(), &books, &server);
}

#[test]
fn a_call_that_outlives_its_store_is_answered() {
    let server = Server::start();
    let runtime = runtime();
    let (id, customer) = (EventId::new("one").unwrap(), CustomerId::new("ada").unwrap());
    let now = Moment::new(Timestamp::UNIX_EPOCH, Duration::ZERO);
    let release = move |store: &Redis| {
        store.release(HoldKey { id: &id, customer: &customer, place: None, attempt: None }, now)
    };
    let store = options("p").open(&server.url()).unwrap();
    until("a connection of the runtime", || {
        runtime.block_on(async { release(&store).await }).unwrap();
        called(&server) == 2
    });
    // On the runtime's only worker, which reads no answer meanwhile.
    let work = runtime.spawn(async move {
        let late = release(&store);
        drop(store);
        let _ = late.await;
    });
    runtime.block_on(work).unwrap();
}
