//! What stands behind the layer: the one trait, and one handle over every implementation.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::policy::{EventId, Timestamp};
use crate::store::BoxFuture;
use crate::{Error, ErrorKind};

mod admin;
mod books;
mod check;
mod decision;
mod delivery;
mod erased;
pub(crate) mod permit;
mod settlement;

pub use crate::policy::{Customer, Producer};
pub(crate) use admin::sound_event;
pub use admin::{
    Admin, EventQuery, MeterQuery, MeterReading, Page, PageRequest, Recorded, TransactionQuery,
};
pub use books::Books;
pub(crate) use check::{Ask, Charge, Flight};
pub use check::{Check, DEFAULT_EVENT_TYPE};
pub(crate) use decision::{Answer, Judgements, whole_seconds};
pub use decision::{BalanceState, Decision, Denial, DenialKind, LimitState};
pub use delivery::{Delivery, Receipt};
pub use erased::{Erased, ErasedFinish};
pub use permit::{CheckError, Permit};
#[cfg(any(feature = "client", feature = "server"))]
pub(crate) use settlement::Name;
pub use settlement::{Hold, Settlement, Ticket};

/// Decides and keeps the books, here or elsewhere.
///
/// [`check`](Self::check), [`settle`](Self::settle) and [`release`](Self::release) begin when they
/// are called, not when their future is first polled, and dropping the future does not undo them: a
/// settlement may be handed over from a destructor, outside of any runtime. An implementation that
/// has to wait for somebody keeps a place for the settlement of every check that it allows.
///
/// Named futures keep the request path free of boxes; [`Erased`] boxes them for a backend that is
/// chosen at run time.
///
/// Implement it to wrap another backend. To keep books of your own, implement
/// [`Store`](crate::store::Store) and build an [`Engine`](crate::Engine) on it.
pub trait Backend: Clone + fmt::Debug + Send + Sync + 'static {
    /// The answer to [`check`](Self::check).
    type Check: Future<Output = Result<Admission, Error>> + Send + Unpin + 'static;
    /// Resolves once a settlement or release is as durable as the backend promises.
    type Finish: Future<Output = Result<(), Error>> + Send + Unpin + 'static;

    /// Decides over all limits that apply and the balance, and sets the estimate aside, as one
    /// atomic step.
    ///
    /// Whoever asked releases what may have been placed when the answer is unknown: the layer and
    /// [`Books::check`] do, also when they are dropped before it. So a backend that wraps another
    /// hands such an error on, and does not send the same check again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when it was not decided, [`ErrorKind::TimedOut`] when that is not
    /// known, [`ErrorKind::Invalid`] for a check that makes no sense, [`ErrorKind::Conflict`] for an
    /// id that is in use right now.
    fn check(&self, check: Check) -> Self::Check;

    /// Records what was used, charges the balance and drops the hold, as one atomic step. Counts
    /// once for each id, and never refuses.
    fn settle(&self, settlement: Settlement) -> Self::Finish;

    /// Settles what was kept in a queue: one answer for each, in their order, within that time or
    /// [`ErrorKind::TimedOut`].
    ///
    /// Those of one customer are taken in their order. Once one fails in a way that may pass
    /// ([`Error::is_transient`]), nothing later of that customer may be taken. One that fails for
    /// good is passed over.
    ///
    /// Unless implemented, each is [settled](Self::settle) by itself, and a repeat is known by its
    /// id alone. A target that takes many in one call, or knows repeats by [marks](Delivery),
    /// implements it.
    fn settle_many(
        &self,
        batch: Vec<Delivery>,
        within: Duration,
    ) -> BoxFuture<'static, Vec<Result<Receipt, Error>>> {
        Box::pin(delivery::settle_each(self.clone(), batch, within))
    }

    /// A queue before this backend has taken the settlement, and will deliver it: from here on what
    /// was used counts, and no longer what was set aside. Of use to a backend that counts here what
    /// is not there yet; the others do nothing.
    fn queued(&self, settlement: &Settlement) {
        let _ = settlement;
    }

    /// Drops the hold and records nothing. For an id whose check has not arrived, sees to it that it
    /// places nothing.
    fn release(&self, ticket: Ticket) -> Self::Finish;

    /// A new id for a check of that time.
    fn make_id(&self, at: Timestamp) -> EventId;

    /// The time of the books.
    fn now(&self) -> Timestamp;

    /// Everything that is not on the path of a request.
    fn admin(&self) -> &dyn Admin;
}

/// The answer to a [`Check`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Admission {
    /// What was decided, over which limits.
    pub decision: Decision,
    /// The hold to settle or release. `None` when it was refused, and when the id given was settled
    /// before, so that there is nothing to charge again.
    pub hold: Option<Hold>,
}

impl Error {
    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Unavailable, "the books are being closed; nothing new is taken")
    }
}
