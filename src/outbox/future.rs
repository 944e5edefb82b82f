use std::fmt;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::oneshot;

use super::entry::{self, Entry, RequestKey};
use super::handle::Inner;
use super::places::{Asked, Ending};
use super::{Outbox, WhenFull, queue};
use crate::backend::{Admin, Admission, Backend, Check, Delivery, Receipt, Settlement, Ticket};
use crate::policy::{EventId, Timestamp};
use crate::store::BoxFuture;
use crate::{Error, ErrorKind};

impl<B: Backend> Backend for Outbox<B> {
    type Check = CheckFuture<B>;
    type Finish = FinishFuture<B>;

    fn check(&self, check: Check) -> Self::Check {
        CheckFuture(match self.ask() {
            Ok(place) => Asking::Asked { answer: self.0.backend.check(check), place: Some(place) },
            Err(error) => Asking::Refused(Some(error)),
        })
    }

    fn settle(&self, settlement: Settlement) -> Self::Finish {
        let places = &self.0.queue.places;
        let ending = places.end(&RequestKey::from(entry::ticket(&settlement)));
        if ending.is_none() && !entry::is_unsure(&settlement) {
            // It was settled or released before.
            return FinishFuture::done(Ok(()));
        }
        if ending.as_ref().is_some_and(Ending::had_place) || places.take() {
            self.append(&settlement)
        } else {
            self.drop_settlement(settlement)
        }
    }

    fn settle_many(
        &self,
        batch: Vec<Delivery>,
        within: Duration,
    ) -> BoxFuture<'static, Vec<Result<Receipt, Error>>> {
        self.0.backend.settle_many(batch, within)
    }

    fn release(&self, ticket: Ticket) -> Self::Finish {
        let places = &self.0.queue.places;
        let ending = places.end(&RequestKey::from(&ticket));
        if ending.as_ref().is_some_and(Ending::had_place) {
            places.give_back();
        }
        FinishFuture(Finish::Released(self.0.backend.release(ticket)))
    }

    fn make_id(&self, at: Timestamp) -> EventId {
        self.0.backend.make_id(at)
    }

    fn now(&self) -> Timestamp {
        self.0.backend.now()
    }

    fn admin(&self) -> &dyn Admin {
        self
    }
}

impl<B: Backend> Outbox<B> {
    /// A check may begin, with a place unless it is let on without.
    fn ask(&self) -> Result<Asked, Error> {
        let Inner { queue, when_full, closed, .. } = &*self.0;
        let unavailable = |message| Err(Error::new(ErrorKind::Unavailable, message));
        // First, so that shutting down either sees it or is seen.
        let asked = queue.places.ask();
        if closed.load(Ordering::SeqCst) {
            return Err(Error::closed());
        }
        match when_full {
            WhenFull::Closed if queue.is_failing() => {
                unavailable("the outbox cannot write its file")
            }
            WhenFull::Closed if !asked.has_place() => unavailable("the outbox is full"),
            WhenFull::Closed | WhenFull::Open => Ok(asked),
        }
    }

    fn append(&self, settlement: &Settlement) -> FinishFuture<B> {
        match Entry::new(settlement) {
            Ok(entry) => {
                self.0.backend.queued(settlement);
                let appended = self.0.queue.append(entry, self.0.backend.now());
                FinishFuture(Finish::Appended(appended))
            }
            Err(error) => {
                self.0.queue.places.give_back();
                // Nobody will settle it, so nothing has to stay set aside.
                drop(self.0.backend.release(settlement.hold.ticket.clone()));
                let message = "the settlement cannot be written";
                let error = Error::new(ErrorKind::Invalid, message).with_source(error);
                FinishFuture::done(Err(error))
            }
        }
    }

    fn drop_settlement(&self, settlement: Settlement) -> FinishFuture<B> {
        self.0.queue.count_dropped();
        // What it set aside does not have to wait for its end.
        drop(self.0.backend.release(settlement.into_ticket()));
        let message = "the outbox is full; the settlement was dropped";
        FinishFuture::done(Err(Error::new(ErrorKind::Unavailable, message)))
    }
}

/// The answer to a check, with a place for its settlement.
pub struct CheckFuture<B: Backend>(Asking<B>);

enum Asking<B: Backend> {
    Refused(Option<Error>),
    Asked { answer: B::Check, place: Option<Asked> },
}

impl<B: Backend> fmt::Debug for CheckFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckFuture").finish_non_exhaustive()
    }
}

impl<B: Backend> Future for CheckFuture<B> {
    type Output = Result<Admission, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            Asking::Refused(error) => {
                Poll::Ready(Err(error.take().expect("CheckFuture polled after completion")))
            }
            Asking::Asked { answer, place } => {
                let answer = ready!(Pin::new(answer).poll(cx));
                let place = place.take().expect("CheckFuture polled after completion");
                if let Ok(Admission { hold: Some(hold), .. }) = &answer {
                    place.begin(RequestKey::from(entry::ticket_of(hold)));
                }
                Poll::Ready(answer)
            }
        }
    }
}

/// Resolves once a settlement is in the file, as durably as declared, or the backend has answered a
/// release.
pub struct FinishFuture<B: Backend>(Finish<B>);

enum Finish<B: Backend> {
    Done(Option<Result<(), Error>>),
    Appended(oneshot::Receiver<()>),
    Released(B::Finish),
}

impl<B: Backend> FinishFuture<B> {
    fn done(result: Result<(), Error>) -> Self {
        Self(Finish::Done(Some(result)))
    }
}

impl<B: Backend> fmt::Debug for FinishFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FinishFuture").finish_non_exhaustive()
    }
}

impl<B: Backend> Future for FinishFuture<B> {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            Finish::Done(result) => {
                Poll::Ready(result.take().expect("FinishFuture polled after completion"))
            }
            Finish::Appended(appended) => {
                Poll::Ready(ready!(Pin::new(appended).poll(cx)).map_err(|_| queue::gone()))
            }
            Finish::Released(released) => Pin::new(released).poll(cx),
        }
    }
}
