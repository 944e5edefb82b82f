//! Row 9: the connection breaks after every byte of a request and of its answer.

use std::sync::Arc;

use futures_util::future::join_all;
use tower_limitry::{Books, CheckError, ErrorKind};

use crate::host::*;
use crate::proxy::{Proxy, Way};
use crate::support::*;

const WAYS: [Way; 2] = [Way::Request, Way::Answer];

/// How long a check and its settlement are, there and back.
async fn lengths(host: &Host) -> [(u64, u64); 2] {
    let proxy = Proxy::before(host.address).await;
    let books = Books::new(remote(client(proxy.address))).erased();
    // The first is longer by nothing: all that is sent is sent again on every connection.
    let permit = admitted(&books, one("nobody-0000")).await;
    let checked = proxy.went();
    permit.settle(total(1)).await.unwrap();
    let settled = proxy.went();
    [checked, (settled.0 - checked.0, settled.1 - checked.1)]
}

/// The client sends again what broke, and it counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_anywhere_and_sent_again_counts_once() {
    let host = Arc::new(Host::start().await);
    let [check, settle] = lengths(&host).await;
    let mut cases = Vec::new();
    for (step, (there, back)) in [(0, check), (1, settle)] {
        for (way, length) in [(Way::Request, there), (Way::Answer, back)] {
            cases.extend((0..length).map(|at| (step, way, at)));
        }
    }
    const LANES: usize = 16;
    let lanes = (0..LANES).map(|lane| {
        let mine: Vec<_> = cases.iter().copied().skip(lane).step_by(LANES).collect();
        let host = Arc::clone(&host);
        tokio::spawn(async move {
            let proxy = Proxy::before(host.address).await;
            let books = Books::new(remote(client(proxy.address))).erased();
            for (step, way, at) in mine {
                let customer = format!("{step}{}-{at:04}", if way == WAYS[0] { 'r' } else { 'a' });
                if step == 0 {
                    proxy.cut(way, at);
                }
                let permit = admitted(&books, one(&customer)).await;
                let seen = used_held(&host.books, &customer, "daily").await;
                assert_eq!(seen, (amount(0), amount(1)), "{customer}");
                if step == 1 {
                    proxy.cut(way, at);
                }
                permit.settle(total(1)).await.unwrap();
                // Answers differ by some bytes.
                proxy.spare();
                let seen = used_held(&host.books, &customer, "daily").await;
                assert_eq!(seen, (amount(1), amount(0)), "{customer}");
                assert_eq!(current(&host.books, &customer, "credits").await, amount(999));
            }
        })
    });
    for lane in join_all(lanes).await {
        lane.unwrap();
    }
    assert_eq!(events(&host.books).await.len(), cases.len() + 1);
}

/// Told once and not sent again, the outcome is unknown and never a refusal; and whatever had
/// arrived, nothing stays held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_is_cut_is_unknown_and_leaves_nothing() {
    let host = Host::start().await;
    let [check, _] = lengths(&host).await;
    let proxy = Proxy::before(host.address).await;
    let process = remote(client(proxy.address).retries(0));
    let books = Books::new(process.clone());
    for (way, length) in [(Way::Request, check.0), (Way::Answer, check.1)] {
        for at in (0..length).step_by(times(7, 1) as usize) {
            let customer = format!("c{}-{at:04}", if way == WAYS[0] { 'r' } else { 'a' });
            proxy.cut(way, at);
            match books.check(one(&customer)).await {
                Err(CheckError::Failed(error)) => {
                    assert_eq!(error.kind(), ErrorKind::TimedOut, "{customer}: {error:?}");
                }
                Err(denied) => panic!("{customer}: {denied:?}"),
                // The answer was a few bytes shorter than the one that was measured.
                Ok(permit) => {
                    assert!(proxy.is_whole(), "{customer}");
                    proxy.spare();
                    drop(permit);
                }
            }
            in_time(process.quiet()).await;
            let open = async || (host.books.open_holds().await.unwrap() == 0).then_some(());
            eventually(open).await;
        }
    }
    assert_eq!(events(&host.books).await.len(), 1, "only the one that was measured");
}

/// The queue delivers again what it does not know to have arrived.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_is_cut_anywhere_counts_once() {
    let host = Host::start().await;
    let [_, settle] = lengths(&host).await;
    let proxy = Proxy::before(host.address).await;
    let process = remote(client(proxy.address).retries(0));
    let outbox = opened(outbox(&process), &crate::file::fresh()).await;
    let books = Books::new(outbox.clone());
    let direct = Books::new(host.process());
    let mut expected = 1;
    // A delivery says more than a settlement by itself.
    for (way, length) in [(Way::Request, settle.0 + 100), (Way::Answer, settle.1)] {
        for at in (0..length).step_by(times(5, 1) as usize) {
            let customer = format!("d{}-{at:04}", if way == WAYS[0] { 'r' } else { 'a' });
            let permit = books.check(one(&customer)).await.unwrap();
            proxy.cut(way, at);
            permit.settle(total(1)).await.unwrap();
            outbox.flush(STUCK).await.unwrap();
            proxy.spare();
            expected += 1;
            let seen = used_held(&host.books, &customer, "daily").await;
            assert_eq!(seen, (amount(1), amount(0)), "{customer}");
        }
    }
    assert_eq!(events(&host.books).await.len(), expected);
    drop(direct);
}
