use std::fmt;

use super::{Backend, Books, Check, Decision, Denial, Erased, Hold, Settlement, Ticket};
use crate::Error;
#[cfg(doc)]
use crate::ErrorKind;
use crate::observe;
use crate::policy::{EventId, Usage};

/// An allowed check in your hands: settle it, or drop it and it releases.
///
/// ```
/// # use tower_limitry::{Check, Engine, Limit, Meter, Usage};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let books = Engine::builder()
/// #     .meter(Meter::sum("tokens", "total_tokens"))
/// #     .limit(Limit::per_day("daily-tokens", "tokens", 1_000))
/// #     .build()?;
/// # async fn call_model() -> Result<u32, std::io::Error> { Ok(480) }
/// let permit = books.check(Check::of("acct_42").estimate("total_tokens", 500)).await?;
/// let tokens = call_model().await?; // an early return releases
/// permit.settle(Usage::of("total_tokens", tokens)).await?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[must_use = "a permit that is dropped releases its hold and records nothing"]
pub struct Permit<B: Backend = Erased> {
    books: Books<B>,
    decision: Decision,
    hold: Option<Hold>,
    was_settled: bool,
}

impl<B: Backend> Permit<B> {
    pub(crate) fn new(books: Books<B>, decision: Decision, hold: Option<Hold>) -> Self {
        Self { books, decision, was_settled: hold.is_none(), hold }
    }

    /// What was decided, over which limits.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// The id of the hold; `None` when the id given was settled before.
    pub fn id(&self) -> Option<&EventId> {
        self.hold.as_ref().map(Hold::id)
    }

    /// Whether the id given was settled before: settling this permit changes nothing.
    pub fn was_settled(&self) -> bool {
        self.was_settled
    }

    /// The request succeeded: records what it used, charges the balance, gives back what was set
    /// aside, as one step. Resolves once that is as durable as the backend promises; it happens even
    /// if the future is dropped.
    ///
    /// More than the estimate is charged in full, less gives the rest back. Usage that cannot be
    /// counted or priced charges the estimate, and so does each value that was estimated and is not
    /// told: say 0 where that is the truth.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for usage that holds no number, lacks a value that was estimated, or
    /// cannot be priced: it was recorded as far as it goes, and the estimate was charged for the rest.
    /// [`ErrorKind::TooOld`] when the check is more than a week old and its hold ended by itself so
    /// long ago that the books no longer know whether it was settled: nothing was counted now.
    /// Otherwise what the backend says.
    pub fn settle(
        mut self,
        usage: Usage,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<B> {
        let problem = usage.problem().filter(|_| !usage.is_countable()).map(ToString::to_string);
        let mut lack = None;
        let finish = self.hold.take().map(|hold| {
            let (mut settlement, missing) = Settlement::new(hold, Some(usage));
            if missing.is_some() {
                settlement.charge_estimate();
                observe::usage_missing();
            }
            lack = missing;
            self.books.backend().settle(settlement)
        });
        async move {
            if let Some(finish) = finish {
                finish.await?;
            }
            match problem.or(lack.map(str::to_owned)) {
                Some(problem) => Err(Error::invalid("usage", problem)),
                None => Ok(()),
            }
        }
    }

    /// The request failed: gives back what was set aside and records nothing. Dropping the permit
    /// does the same without waiting.
    ///
    /// # Errors
    ///
    /// What the backend says.
    pub fn release(mut self) -> impl Future<Output = Result<(), Error>> + Send + use<B> {
        let finish = self.hold.take().map(|hold| self.books.backend().release(hold.ticket));
        async move {
            match finish {
                Some(finish) => finish.await,
                None => Ok(()),
            }
        }
    }
}

impl<B: Backend> Drop for Permit<B> {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            drop(self.books.backend().release(hold.ticket));
        }
    }
}

impl<B: Backend> fmt::Debug for Permit<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("id", &self.id()).field("decision", &self.decision).finish()
    }
}

/// A check on its way. Dropped before its answer is known, it releases the id, so that a hold which
/// was placed meanwhile goes, and one that would still arrive is not placed.
pub(crate) struct Pending<B: Backend> {
    backend: B,
    ticket: Option<Ticket>,
}

impl<B: Backend> Pending<B> {
    /// Gives the check its id, before it is sent.
    pub(crate) fn new(backend: &B, check: Check) -> (Self, Check) {
        let at = backend.now();
        let mut check = check.stamped(backend.make_id(at));
        check.ask_mut().at = Some(at);
        (Self::sent(backend, &check), check)
    }

    /// For a check that has its id, and was sent.
    pub(crate) fn sent(backend: &B, check: &Check) -> Self {
        Self { backend: backend.clone(), ticket: Some(check.ticket()) }
    }

    /// Somebody else ends the hold from here on, or there is none.
    pub(crate) fn disarm(&mut self) {
        self.ticket = None;
    }

    /// Hands the answer on. When it is unknown whether a hold was placed, the id stays to be
    /// released.
    pub(crate) fn answered<T>(&mut self, answer: Result<T, Error>) -> Result<T, Error> {
        if !answer.as_ref().is_err_and(Error::is_unknown) {
            self.ticket = None;
        }
        answer
    }
}

impl<B: Backend> Drop for Pending<B> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            drop(self.backend.release(ticket));
        }
    }
}

/// Why a check gave no permit.
#[derive(Debug)]
#[non_exhaustive]
pub enum CheckError {
    /// The customer may not: a normal answer.
    Denied(Denial),
    /// It was not decided: our trouble.
    Failed(Error),
}

impl CheckError {
    /// The denial, if it is one.
    pub fn denial(&self) -> Option<&Denial> {
        match self {
            Self::Denied(denial) => Some(denial),
            Self::Failed(_) => None,
        }
    }
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(_) => f.write_str("the check was denied"),
            Self::Failed(_) => f.write_str("the check could not be decided"),
        }
    }
}

impl std::error::Error for CheckError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Denied(denial) => Some(denial),
            Self::Failed(error) => Some(error),
        }
    }
}

impl From<Error> for CheckError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Denial> for CheckError {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}
