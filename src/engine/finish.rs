//! The end of a settlement or a release: who sees to it that it comes.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::Engine;
use crate::backend::Settlement;
use crate::store::{BoxFuture, SettleOutcome, Store};
use crate::{Error, ErrorKind, observe};

/// Resolves once a settlement or release of an [`Engine`] is as durable as its store promises.
pub struct FinishFuture(Finish);

enum Finish {
    Done(Option<Result<(), Error>>),
    /// It is on its way, and whoever waits for it sees to it.
    Waited(Waited),
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
            Finish::Waited(waited) => waited.poll(cx),
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
    /// Waits for a settlement that is on its way: whoever is given the future does, and a task where
    /// nobody does any more.
    pub(super) fn wait(&self, settlement: Settlement, future: S::Settle) -> FinishFuture {
        let work: Work = Box::pin(self.clone().told(settlement, future));
        let (runtime, span) = (self.0.runtime(), observe::Span::current());
        FinishFuture(Finish::Waited(Waited { work: Mutex::new(Some(work)), runtime, span }))
    }

    /// Goes on with a settlement that its store could not answer at once.
    pub(super) fn hand_over(&self, settlement: Settlement, future: S::Settle) -> FinishFuture {
        self.spawn(self.clone().told(settlement, future))
    }

    /// What comes of a settlement, resolved anew where definitions have changed meanwhile.
    async fn told(self, mut settlement: Settlement, mut future: S::Settle) -> Result<(), Error> {
        loop {
            let epoch = self.0.epoch.load(Ordering::Acquire);
            match future.await {
                Ok(settled) if settled.outcome == SettleOutcome::Stale => {
                    self.0.reload(epoch).await?;
                    future = self.0.settle(&mut settlement);
                }
                answer => return self.0.finish(&settlement, answer),
            }
        }
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
            let done = within(&span, work).await;
            // Whether somebody waits for the answer is their choice.
            drop(sender.send(done));
        });
        FinishFuture(Finish::Handed(answer))
    }
}

type Work = BoxFuture<'static, Result<(), Error>>;

/// A settlement that comes to its end, whether or not anybody waits for it.
struct Waited {
    /// The mutex is never locked: it makes the future `Sync`.
    work: Mutex<Option<Work>>,
    runtime: Option<Handle>,
    span: observe::Span,
}

impl Waited {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Self { work, span, .. } = self;
        let left = work.get_mut().unwrap_or_else(PoisonError::into_inner);
        let work = left.as_mut().expect("FinishFuture polled after completion");
        let told = ready!(span.run(|| work.as_mut().poll(cx)));
        *left = None;
        Poll::Ready(told)
    }
}

impl Drop for Waited {
    fn drop(&mut self) {
        let work = self.work.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(work), Some(runtime)) = (work, &self.runtime) {
            let span = self.span.clone();
            runtime.spawn(async move { within(&span, work).await });
        }
    }
}

async fn within<F: Future>(span: &observe::Span, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| span.run(|| work.as_mut().poll(cx))).await
}
