//! Row 17: shutting a process down under load leaves nothing of it behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tower_limitry::{Books, CheckError, ErrorKind};

use crate::host::*;
use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_accepted_is_delivered_before_shutdown_returns() {
    for round in 0..times(3, 100) {
        let host = Host::start().await;
        let process = host.process();
        let outbox = opened(outbox(&process), &crate::file::fresh()).await;
        let queue = Books::new(outbox.clone());
        let settled = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..32)
            .map(|task| {
                let (queue, settled) = (queue.clone(), Arc::clone(&settled));
                tokio::spawn(async move {
                    for number in 0.. {
                        match queue.check(one(&format!("acct_{task}"))).await {
                            Ok(permit) if number % 5 == 4 => drop(permit),
                            Ok(permit) => {
                                permit.settle(total(1)).await.unwrap();
                                settled.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(CheckError::Denied(_)) => {}
                            Err(CheckError::Failed(error)) => {
                                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                                return;
                            }
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                })
            })
            .collect();
        let enough = 50 * (usize::try_from(round).unwrap() % 3 + 1);
        eventually(async || (settled.load(Ordering::SeqCst) >= enough).then_some(())).await;
        queue.shutdown(STUCK).await.unwrap();
        assert_eq!(outbox.stats().depth, 0);
        let recorded = events(&host.books).await.len();
        join_all(tasks).await.into_iter().for_each(Result::unwrap);
        assert_eq!(settled.load(Ordering::SeqCst), recorded, "nothing was accepted after that");
        assert_eq!(host.books.open_holds().await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_told_at_the_deadline_and_nothing_is_lost() {
    let host = Host::start().await;
    let process = host.process();
    let path = crate::file::fresh();
    let outbox = opened(outbox(&process), &path).await;
    let queue = Books::new(outbox.clone());
    let permit = queue.check(one("ada")).await.unwrap();
    let kept = host.books.clone();
    let address = host.stop().await;
    permit.settle(total(1)).await.unwrap();
    let error = queue.shutdown(std::time::Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_names(&error, &["1 settlements are not delivered yet"]);
    drop((queue, outbox));

    let host = Host::at(address, kept).await;
    let next = opened(crate::host::outbox(&host.process()), &path).await;
    next.flush(STUCK).await.unwrap();
    assert_eq!(used_held(&host.books, "ada", "daily").await, (amount(1), amount(0)));
}
