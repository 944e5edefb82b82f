//! A settlement without an outbox: a delivery of its own, tried for some seconds.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::Inner;
use super::deliver::deliver;
use crate::backend::Settlement;
use crate::{Error, ErrorKind};

/// Resolves once the API has taken a settlement, or it was given up.
pub struct HostedFinish(Finish);

enum Finish {
    Done(Option<Result<(), Error>>),
    Settling(JoinHandle<Result<(), Error>>),
}

impl HostedFinish {
    pub(super) fn done(result: Result<(), Error>) -> Self {
        Self(Finish::Done(Some(result)))
    }
}

impl fmt::Debug for HostedFinish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostedFinish").finish_non_exhaustive()
    }
}

impl Future for HostedFinish {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match &mut self.0 {
            Finish::Done(result) => result.take().expect("HostedFinish polled after completion"),
            Finish::Settling(task) => ready!(Pin::new(task).poll(cx)).unwrap_or_else(|_| {
                let message = "the runtime ended before the API answered";
                Err(Error::new(ErrorKind::TimedOut, message))
            }),
        })
    }
}

/// Settles by itself.
pub(super) fn settle(inner: &Arc<Inner>, settlement: Settlement) -> HostedFinish {
    let settling = Settling::begin(inner);
    inner.ledger().used(&settlement);
    inner.ended.notify_waiters();
    HostedFinish(Finish::Settling(inner.runtime.spawn(attempts(settling, settlement))))
}

/// A settlement that nothing before this backend keeps: who closes the books waits for it.
struct Settling(Arc<Inner>);

impl Settling {
    fn begin(inner: &Arc<Inner>) -> Self {
        inner.settling.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(inner))
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.0.settling.fetch_sub(1, Ordering::SeqCst);
        self.0.ended.notify_waiters();
    }
}

async fn attempts(settling: Settling, settlement: Settlement) -> Result<(), Error> {
    const PAUSE: Duration = Duration::from_millis(200);
    let inner = &settling.0;
    let end = Instant::now() + inner.terms.settle;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut outcomes = deliver(inner, vec![settlement.clone()], left).await;
        let outcome = outcomes.pop().unwrap_or(Ok(()));
        let may_pass = outcome.as_ref().is_err_and(Error::is_transient);
        if !may_pass || Instant::now() + PAUSE >= end {
            if may_pass {
                // Nobody tries any longer.
                let now = inner.clock.monotonic();
                inner.ledger().forget(&settlement.hold.ticket, now);
                inner.suspects.forget(&settlement.hold);
                inner.undebited.forget(&settlement.hold);
            }
            return outcome;
        }
        sleep(PAUSE).await;
    }
}
