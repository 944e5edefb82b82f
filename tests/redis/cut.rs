//! A connection that is cut after any byte of a request or an answer: the outcome is unknown or known to
//! be nothing, and asking again under the same id counts once.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tower_limitry::outbox::Outbox;
use tower_limitry::policy::Credit;
use tower_limitry::store::Redis;
use tower_limitry::{Books, CheckError, Event, NewBalance};

use crate::loss::file;
use crate::redis::{Server, prefix};
use crate::support::*;
use crate::{STUCK, ever, tokens};

/// Stands between books and server, and cuts everything off after so many bytes of one direction.
struct Proxy {
    port: u16,
    /// How many bytes may still pass towards the server, and back.
    left: [Arc<AtomicI64>; 2],
    /// How many connections there are.
    open: Arc<AtomicUsize>,
}

const FREE: i64 = i64::MAX / 2;

impl Proxy {
    fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = [FREE, FREE].map(|bytes| Arc::new(AtomicI64::new(bytes)));
        let passing = left.clone();
        let open = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&open);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                // Who comes while everything is cut off waits until it no longer is.
                while passing.iter().any(|left| left.load(Ordering::SeqCst) < FREE / 2) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", server)))
                else {
                    continue;
                };
                count.fetch_add(1, Ordering::SeqCst);
                let pair = |from: &TcpStream, to: &TcpStream| {
                    (from.try_clone().unwrap(), to.try_clone().unwrap())
                };
                let ways = [pair(&client, &server), pair(&server, &client)];
                for (direction, (from, to)) in ways.into_iter().enumerate() {
                    let (left, count) = (Arc::clone(&passing[direction]), Arc::clone(&count));
                    std::thread::spawn(move || {
                        pass(from, to, &left);
                        if direction == 0 {
                            count.fetch_sub(1, Ordering::SeqCst);
                        }
                    });
                }
            }
        });
        Self { port, left, open }
    }

    fn cut_after(&self, direction: usize, bytes: i64) {
        self.left[direction].store(bytes, Ordering::SeqCst);
    }

    fn heal(&self) {
        self.left.iter().for_each(|left| left.store(FREE, Ordering::SeqCst));
    }

    /// How many bytes have passed since it was healed.
    fn passed(&self, direction: usize) -> i64 {
        FREE - self.left[direction].load(Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, left: &AtomicI64) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let before = left.fetch_sub(count as i64, Ordering::SeqCst);
        let pass = before.clamp(0, count as i64) as usize;
        if to.write_all(&buffer[..pass]).is_err() || pass < count {
            break;
        }
    }
    // Both ways, so that neither side waits for more.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

async fn open(server: &Server, proxy: &Proxy) -> Books {
    let store = Redis::options().prefix(prefix()).timeout(Duration::from_secs(20));
    let _ = server;
    let store = store.open(&format!("redis://127.0.0.1:{}", proxy.port)).unwrap();
    tokens().limit(ever(1_000_000)).build_on(store).unwrap().erased()
}

/// Until the connections are there again, our own and the one near to this runtime: what the next call
/// takes is all that passes then.
async fn healed(books: &Books, proxy: &Proxy) {
    proxy.heal();
    let end = Instant::now() + STUCK;
    loop {
        match books.usage("nobody").await {
            Ok(_) if proxy.open.load(Ordering::SeqCst) == 2 => break,
            Ok(_) => {}
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
        assert!(Instant::now() < end);
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_event_that_is_sent_again_after_any_cut_counts_once() {
    let server = Server::start();
    let proxy = Proxy::start(server.port);
    let books = open(&server, &proxy).await;
    let event = |number: i64| {
        let now = std::time::SystemTime::now().into();
        Event::new("ada", "chat", total(1)).id(format!("row-{number:06}")).at(now)
    };
    spend(&books, "ada", 1).await;
    healed(&books, &proxy).await;
    proxy.heal();
    books.record(event(0)).await.unwrap();
    let sizes = [proxy.passed(0), proxy.passed(1)];
    let (mut counted, mut cut) = (2, 0);
    for (direction, size) in sizes.into_iter().enumerate() {
        for bytes in 0..size {
            let this = event(counted);
            proxy.cut_after(direction, bytes);
            // The last bytes may be more than this one has: times are not all of one length.
            if let Err(error) = books.record(this.clone()).await {
                assert!(error.is_transient(), "{error:?}");
                cut += 1;
            }
            healed(&books, &proxy).await;
            books.record(this).await.unwrap();
            counted += 1;
        }
    }
    assert!(cut > 300, "{cut}");
    assert_eq!(used(&books, "ada", "ever").await.floor(), counted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_check_that_is_cut_at_any_byte_leaves_no_hold() {
    let server = Server::start();
    let proxy = Proxy::start(server.port);
    let books = open(&server, &proxy).await;
    admitted(&books, ask("ada", 5)).await.release().await.unwrap();
    healed(&books, &proxy).await;
    proxy.heal();
    let permit = admitted(&books, ask("ada", 5)).await;
    let sizes = [proxy.passed(0), proxy.passed(1)];
    permit.release().await.unwrap();
    for (direction, size) in sizes.into_iter().enumerate() {
        for bytes in 0..size {
            proxy.cut_after(direction, bytes);
            match books.check(ask("ada", 5)).await {
                Err(CheckError::Failed(error)) => assert!(error.is_transient(), "{error:?}"),
                // Times are not all of one length, and what is left may cut this.
                Ok(permit) => drop(permit.release().await),
                Err(denied) => panic!("{denied:?}"),
            }
            healed(&books, &proxy).await;
        }
    }
    // What was let go of while there was no connection ends by itself; nothing of it was recorded.
    assert_eq!(used(&books, "ada", "ever").await, amount(0));
    let fresh = admitted(&books, ask("ada", 5)).await;
    fresh.settle(total(5)).await.unwrap();
    assert_eq!(used(&books, "ada", "ever").await, amount(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_settlement_that_is_cut_at_any_byte_is_delivered_once() {
    let server = Server::start();
    let proxy = Proxy::start(server.port);
    let store = Redis::options().prefix(prefix()).timeout(Duration::from_secs(20));
    let store = store.open(&format!("redis://127.0.0.1:{}", proxy.port)).unwrap();
    let builder = tokens().limit(ever(1_000_000));
    let builder = builder.default_balance(NewBalance::new("credits").initial(1_000_000));
    let engine = builder.build_on(store).unwrap().backend().clone();
    let wait = Duration::from_millis(1);
    let outbox = Outbox::builder(engine.clone()).backoff(wait, wait).open(file()).await.unwrap();
    let (direct, books) = (Books::new(engine).erased(), Books::new(outbox.clone()).erased());
    let check = || ask("ada", 5).charge("credits", |usage| usage.value("total_tokens"));
    let (mut settled, cuts) = (0, AtomicUsize::new(0));
    let mut settle = async |cut: Option<(usize, i64)>| {
        let permit = admitted(&books, check()).await;
        healed(&direct, &proxy).await;
        proxy.heal();
        if let Some((direction, bytes)) = cut {
            proxy.cut_after(direction, bytes);
        }
        permit.settle(total(2)).await.unwrap();
        settled += 1;
        if cut.is_some() {
            // Until it was cut, or came through in fewer bytes.
            let end = Instant::now() + STUCK;
            while proxy.open.load(Ordering::SeqCst) == 2 && outbox.stats().depth > 0 {
                assert!(Instant::now() < end);
                tokio::task::yield_now().await;
            }
            if proxy.open.load(Ordering::SeqCst) < 2 {
                cuts.fetch_add(1, Ordering::Relaxed);
            }
            proxy.heal();
        }
        outbox.flush(STUCK).await.unwrap();
        settled
    };
    settle(None).await;
    settle(None).await;
    let sizes = [proxy.passed(0), proxy.passed(1)];
    let every = times(7, 1) as usize;
    for (direction, size) in sizes.into_iter().enumerate() {
        for bytes in (0..size).step_by(every) {
            let settled = settle(Some((direction, bytes))).await;
            healed(&direct, &proxy).await;
            let seen = used_held(&direct, "ada", "ever").await;
            assert_eq!(seen, (amount(2 * settled), amount(0)), "{direction} {bytes}");
        }
    }
    let cuts = cuts.load(Ordering::Relaxed) as i64;
    assert!(cuts > sizes.iter().sum::<i64>() / every as i64 / 2, "{cuts} of {sizes:?}");
    let left = current(&direct, "ada", "credits").await;
    let settled = settle(None).await;
    assert_eq!(left, amount(1_000_000 - 2 * (settled - 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_credit_that_is_cut_at_any_byte_is_there_once_under_its_reference() {
    let server = Server::start();
    let proxy = Proxy::start(server.port);
    let books = open(&server, &proxy).await;
    books.create_balance("ada", NewBalance::new("credits")).await.unwrap();
    let credit = |number: i64| Credit::new("ada", "credits", 3).reference(format!("{number:06}"));
    healed(&books, &proxy).await;
    proxy.heal();
    books.credit(credit(0)).await.unwrap();
    let sizes = [proxy.passed(0), proxy.passed(1)];
    let (mut credited, mut cut) = (1, 0);
    for (direction, size) in sizes.into_iter().enumerate() {
        for bytes in (0..size).step_by(times(5, 1) as usize) {
            proxy.cut_after(direction, bytes);
            if let Err(error) = books.credit(credit(credited)).await {
                assert!(error.is_transient(), "{error:?}");
                cut += 1;
            }
            healed(&books, &proxy).await;
            books.credit(credit(credited)).await.unwrap();
            credited += 1;
        }
    }
    assert!(cut > credited / 2, "{cut} of {credited}");
    assert_eq!(current(&books, "ada", "credits").await, amount(3 * credited));
}
