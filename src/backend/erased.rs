use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Admin, Admission, Backend, Check, Delivery, Receipt, Settlement, Ticket};
use crate::Error;
use crate::policy::{EventId, Timestamp};
use crate::store::BoxFuture;

/// Any backend behind one type: for one that is chosen at run time, and for naming the layer.
#[derive(Clone)]
pub struct Erased(Arc<dyn AnyBackend>);

impl Erased {
    /// Hides the type of a backend.
    pub fn new<B: Backend>(backend: B) -> Self {
        Self(Arc::new(backend))
    }
}

impl fmt::Debug for Erased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Backend for Erased {
    type Check = BoxFuture<'static, Result<Admission, Error>>;
    type Finish = ErasedFinish;

    fn check(&self, check: Check) -> Self::Check {
        self.0.check(check)
    }

    fn settle(&self, settlement: Settlement) -> Self::Finish {
        ErasedFinish(Mutex::new(self.0.settle(settlement)))
    }

    fn settle_many(
        &self,
        batch: Vec<Delivery>,
        within: Duration,
    ) -> BoxFuture<'static, Vec<Result<Receipt, Error>>> {
        self.0.settle_many(batch, within)
    }

    fn queued(&self, settlement: &Settlement) {
        self.0.queued(settlement);
    }

    fn release(&self, ticket: Ticket) -> Self::Finish {
        ErasedFinish(Mutex::new(self.0.release(ticket)))
    }

    fn make_id(&self, at: Timestamp) -> EventId {
        self.0.make_id(at)
    }

    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn admin(&self) -> &dyn Admin {
        self.0.admin()
    }
}

/// Resolves once a settlement or release is as durable as the backend promises.
///
/// The mutex is never locked. It makes the future, and with it a response's body, `Sync`, which some
/// combinators of bodies ask for.
pub struct ErasedFinish(Mutex<BoxFuture<'static, Result<(), Error>>>);

impl fmt::Debug for ErasedFinish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErasedFinish").finish_non_exhaustive()
    }
}

impl Future for ErasedFinish {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx)
    }
}

trait AnyBackend: fmt::Debug + Send + Sync {
    fn check(&self, check: Check) -> BoxFuture<'static, Result<Admission, Error>>;
    fn settle(&self, settlement: Settlement) -> BoxFuture<'static, Result<(), Error>>;
    fn settle_many(
        &self,
        batch: Vec<Delivery>,
        within: Duration,
    ) -> BoxFuture<'static, Vec<Result<Receipt, Error>>>;
    fn queued(&self, settlement: &Settlement);
    fn release(&self, ticket: Ticket) -> BoxFuture<'static, Result<(), Error>>;
    fn make_id(&self, at: Timestamp) -> EventId;
    fn now(&self) -> Timestamp;
    fn admin(&self) -> &dyn Admin;
}

impl<B: Backend> AnyBackend for B {
    fn check(&self, check: Check) -> BoxFuture<'static, Result<Admission, Error>> {
        Box::pin(Backend::check(self, check))
    }

    fn settle(&self, settlement: Settlement) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(Backend::settle(self, settlement))
    }

    fn settle_many(
        &self,
        batch: Vec<Delivery>,
        within: Duration,
    ) -> BoxFuture<'static, Vec<Result<Receipt, Error>>> {
        Backend::settle_many(self, batch, within)
    }

    fn queued(&self, settlement: &Settlement) {
        Backend::queued(self, settlement);
    }

    fn release(&self, ticket: Ticket) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(Backend::release(self, ticket))
    }

    fn make_id(&self, at: Timestamp) -> EventId {
        Backend::make_id(self, at)
    }

    fn now(&self) -> Timestamp {
        Backend::now(self)
    }

    fn admin(&self) -> &dyn Admin {
        Backend::admin(self)
    }
}
