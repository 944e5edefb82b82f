//! A server that is away, hangs, is slow, takes no writes or has no memory left: each is told as what it
//! is, within the time, and forgotten once the server is well.

use std::time::{Duration, Instant};

use tower_limitry::backend::Permit;
use tower_limitry::store::Redis;
use tower_limitry::{Books, Check, CheckError, Error, ErrorKind, NewBalance};

use crate::redis::{Server, until};
use crate::support::*;
use crate::{ever, tokens};

const TIMEOUT: Duration = Duration::from_millis(200);

/// What a loaded machine may take on top of the time that was set.
const GRACE: Duration = Duration::from_secs(5);

/// Opens the books, on a loaded machine not at the first attempt.
fn open(server: &Server) -> Books {
    let end = Instant::now() + GRACE;
    loop {
        let builder =
            tokens().limit(ever(1_000)).default_balance(NewBalance::new("credits").initial(500));
        let store = Redis::options().timeout(TIMEOUT).open(&server.url());
        match store.map(|store| builder.build_on(store)) {
            Ok(Ok(books)) => return books.erased(),
            failed => assert!(Instant::now() < end, "{failed:?}"),
        }
    }
}

fn charged() -> Check {
    ask("ada", 1).charge("credits", |usage| usage.value("total_tokens"))
}

/// Checks, and says what came of it and that it did not take too long.
async fn asked(books: &Books) -> Result<Permit, Error> {
    let begun = Instant::now();
    let answer = books.check(charged()).await;
    assert!(begun.elapsed() < TIMEOUT + GRACE, "{:?}", begun.elapsed());
    match answer {
        Ok(permit) => Ok(permit),
        Err(CheckError::Failed(error)) => Err(error),
        Err(denied) => panic!("an outage is no refusal: {denied:?}"),
    }
}

/// Until checks are answered again.
async fn well_again(books: &Books) {
    let end = Instant::now() + crate::STUCK;
    loop {
        match asked(books).await {
            Ok(permit) => return permit.settle(total(1)).await.unwrap(),
            Err(error) => assert!(Instant::now() < end, "{error:?}"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable_and_is_found_again() {
    let server =
        Server::start_with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    let books = open(&server);
    asked(&books).await.unwrap().settle(total(5)).await.unwrap();
    let running = asked(&books).await.unwrap();
    server.kill();
    let error = asked(&books).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    // Once it is known to be away, nothing is waited for.
    while asked(&books).await.unwrap_err().kind() != ErrorKind::Unavailable {
        tokio::task::yield_now().await;
    }
    server.run();
    well_again(&books).await;
    // It kept its books: the request that ran all the while settles, once.
    running.settle(total(7)).await.unwrap();
    assert_eq!(used(&books, "ada", "ever").await, amount(13));
    assert_eq!(current(&books, "ada", "credits").await, amount(487));
}

#[tokio::test]
async fn a_server_that_hangs_is_not_waited_for_and_its_holds_do_not_stay() {
    let server = Server::start();
    let books = open(&server);
    asked(&books).await.unwrap().settle(total(1)).await.unwrap();
    server.signal("STOP");
    for _ in 0..3 {
        let error = asked(&books).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
    }
    server.signal("CONT");
    well_again(&books).await;
    // What was sent meanwhile has been taken by now, the releases of it, too.
    let end = Instant::now() + crate::STUCK;
    while used_held(&books, "ada", "ever").await.1 != amount(0) {
        assert!(Instant::now() < end, "a hold stays that nobody has");
    }
    assert_eq!(used(&books, "ada", "ever").await, amount(2));
}

#[tokio::test]
async fn a_server_that_is_slow_now_and_then_counts_each_settlement_once() {
    let server = Server::start();
    let books = open(&server);
    let mut settled = 0;
    let mut unknown = 0;
    for _ in 0..10 {
        let Ok(permit) = asked(&books).await else { continue };
        server.ask(&["CONFIG", "SET", "slowlog-max-len", "1"]);
        // The server does nothing for longer than the time.
        server.signal("STOP");
        let settling = permit.settle(total(1));
        let answer = settling.await;
        server.signal("CONT");
        match answer {
            Ok(()) => settled += 1,
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                unknown += 1;
            }
        }
        well_again(&books).await;
        settled += 1;
    }
    let used = used(&books, "ada", "ever").await.floor();
    assert!((settled..=settled + unknown).contains(&used), "{settled} {unknown} {used}");
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_unavailable() {
    let (primary, server) = (Server::start(), Server::start());
    let books = open(&server);
    asked(&books).await.unwrap().settle(total(1)).await.unwrap();
    server.ask(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
    let error = asked(&books).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    server.ask(&["REPLICAOF", "NO", "ONE"]);
    well_again(&books).await;
}

#[tokio::test]
async fn a_server_without_memory_is_unavailable_and_changes_nothing() {
    let server = Server::start();
    let books = open(&server);
    asked(&books).await.unwrap().settle(total(1)).await.unwrap();
    let running = asked(&books).await.unwrap();
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = asked(&books).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(used_held(&books, "ada", "ever").await, (amount(1), amount(1)));
    running.settle(total(1)).await.unwrap();
    assert_eq!(used_held(&books, "ada", "ever").await, (amount(2), amount(0)));
}

#[tokio::test]
async fn a_server_that_is_busy_or_loading_is_unavailable() {
    let server = Server::start();
    let books = open(&server);
    server.ask(&["CONFIG", "SET", "busy-reply-threshold", "1"]);
    let url = server.port;
    let busy = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", url)).unwrap();
        let script =
            "local t = redis.call('TIME')[1] + 3 while redis.call('TIME')[1] + 0 < t do end";
        let wire = format!("*3\r\n$4\r\nEVAL\r\n${}\r\n{script}\r\n$1\r\n0\r\n", script.len());
        std::io::Write::write_all(&mut stream, wire.as_bytes()).unwrap();
        let mut answer = [0; 1];
        std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
    });
    until("it is busy", || server.ask(&["PING"]).starts_with("-BUSY") || busy.is_finished());
    if !busy.is_finished() {
        let error = asked(&books).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
    }
    busy.join().unwrap();
    well_again(&books).await;
}

#[tokio::test]
async fn nobody_waits_for_a_server_that_is_not_there() {
    let port = crate::redis::free_port();
    let begun = Instant::now();
    let opened = Redis::options().timeout(TIMEOUT).open(&format!("redis://127.0.0.1:{port}"));
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(begun.elapsed() < TIMEOUT + GRACE);
    for url in ["redis:/x", "http://x", "redis-sentinel://127.0.0.1", "redis://:x"] {
        let error = Redis::open(url).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unavailable),
            "{url}: {error:?}"
        );
    }
    let error = Redis::open("http://user:secret@x").unwrap_err();
    assert!(!format!("{error:?}").contains("secret"));
}

/// A check waited for as long as another process kept the books to itself, ten seconds and more.
#[tokio::test]
async fn a_recount_by_another_process_keeps_no_check_waiting_and_loses_no_settlement() {
    let server = Server::start();
    let books = open(&server);
    let running = asked(&books).await.unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let until = (now + Duration::from_secs(8)).as_millis();
    let keep = format!(
        "for n = 0, 63 do redis.call('HSET', 'limitry:1:{{' .. n .. '}}:shard', 'version', \
         '!abc:{until}') end return 'done'"
    );
    assert_eq!(server.eval(&keep), "done");
    let (refused, settled) = tokio::join!(asked(&books), running.settle(total(3)));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
    settled.unwrap();
    assert_eq!(used(&books, "ada", "ever").await, amount(3));
    well_again(&books).await;
}

/// As when one node of a cluster is away: the first that failed ended the round for all.
#[tokio::test]
async fn a_hold_that_cannot_be_renewed_leaves_others_alone() {
    let server = Server::start();
    let store = crate::options("p").hold_for(Duration::from_secs(6)).open(&server.url()).unwrap();
    let books = tokens().limit(ever(10)).build_on(store).unwrap().erased();
    let mut running = Vec::new();
    for number in 0..220 {
        running.push(admitted(&books, ask(&format!("acct_{number:03}"), 3)).await);
    }
    let spoil = "for _, key in ipairs(redis.call('KEYS', 'p:1:*:due:acct_00*')) do \
                 redis.call('SET', key, 'spoiled') end return 'done'";
    assert_eq!(server.eval(spoil), "done");
    let seconds = || server.eval("return redis.call('TIME')[1]").parse::<u64>().unwrap();
    let begun = seconds();
    while seconds() < begun + 8 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for number in 10..220 {
        let customer = format!("acct_{number:03}");
        assert_eq!(used_held(&books, &customer, "ever").await, (amount(0), amount(3)));
    }
}
