//! The end of a settlement or a release: who sees to it that it comes.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::Engine;
use crate::backend::Settlement;
use crate::store::{BoxFuture, SettleOutcome, Store};
use crate::{Error, ErrorKind, observe};

/// Resolves once a settlement or release of an [`Engine`] is as durable as its store promises.
pub struct FinishFuture(Finish);

enum Finish {
    Done(Option<Result<(), Error>>),
    /// It is made, and waited for. The mutex is never locked: it makes the future `Sync`.
    Made(Mutex<BoxFuture<'static, Result<(), Error>>>),
    /// A store that has to wait is driven by a task of its own.
    Handed(oneshot::Receiver<Result<(), Error>>),
}

impl FinishFuture {
    pub(super) fn done(result: Result<(), Error>) -> Self {
        Self(Finish::Done(Some(result)))
    }
}

impl Future for FinishFuture {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            Finish::Done(result) => {
                Poll::Ready(result.take().expect("FinishFuture polled after completion"))
            }
            Finish::Made(made) => {
                made.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx)
            }
            Finish::Handed(answer) => {
                Poll::Ready(ready!(Pin::new(answer).poll(cx)).unwrap_or_else(|_| {
                    let message = "the runtime ended before the store answered";
                    Err(Error::new(ErrorKind::TimedOut, message))
                }))
            }
        }
    }
}

impl fmt::Debug for FinishFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FinishFuture").finish_non_exhaustive()
    }
}

impl<S: Store> Engine<S> {
    /// Waits for a settlement that is made: whoever is given the future does, and a task where nobody
    /// does any more.
    pub(super) fn wait(&self, settlement: Settlement, future: S::Settle) -> FinishFuture {
        let (engine, span) = (self.clone(), observe::Span::current());
        let made = Made(Some(Waiting { engine, settlement, future, span }));
        FinishFuture(Finish::Made(Mutex::new(Box::pin(made))))
    }

    /// Goes on with a settlement that its store could not answer at once.
    pub(super) fn hand_over(
        &self,
        mut settlement: Settlement,
        mut future: S::Settle,
    ) -> FinishFuture {
        let engine = self.clone();
        self.spawn(async move {
            loop {
                let epoch = engine.0.epoch.load(Ordering::Acquire);
                match future.await {
                    Ok(settled) if settled.outcome == SettleOutcome::Stale => {
                        engine.0.reload(epoch).await?;
                        future = engine.0.settle(&mut settlement);
                    }
                    answer => return engine.0.finish(&settlement, answer),
                }
            }
        })
    }

    pub(super) fn spawn(
        &self,
        work: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) -> FinishFuture {
        let Some(runtime) = self.0.runtime() else {
            let message = "a store that waits needs a tokio runtime; build the engine inside one";
            return FinishFuture::done(Err(Error::new(ErrorKind::Unavailable, message)));
        };
        let (sender, answer) = oneshot::channel();
        let span = observe::Span::current();
        runtime.spawn(async move {
            let mut work = pin!(work);
            let done = poll_fn(|cx| span.run(|| work.as_mut().poll(cx))).await;
            // Whether somebody waits for the answer is their choice.
            drop(sender.send(done));
        });
        FinishFuture(Finish::Handed(answer))
    }
}

/// A settlement that is made and will be told, whether or not anybody waits for it.
struct Made<S: Store>(Option<Waiting<S>>);

struct Waiting<S: Store> {
    engine: Engine<S>,
    settlement: Settlement,
    future: S::Settle,
    span: observe::Span,
}

impl<S: Store> Future for Made<S> {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let waiting = &mut self.get_mut().0;
        let made = waiting.as_mut().expect("FinishFuture polled after completion");
        let answer = ready!(Pin::new(&mut made.future).poll(cx));
        let told = made.span.run(|| made.engine.0.finish(&made.settlement, answer));
        *waiting = None;
        Poll::Ready(told)
    }
}

impl<S: Store> Drop for Made<S> {
    fn drop(&mut self) {
        if let Some(Waiting { engine, settlement, future, span }) = self.0.take() {
            span.run(|| drop(engine.hand_over(settlement, future)));
        }
    }
}
