//! A check: what the API tells of limits and balance, both asked at once, and what is known here.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::judge::{self, Found, FoundBalance, Question};
use super::ledger::{Asked, Known, Tick, Use};
use super::{Inner, pay};
use crate::backend::{Admission, Answer, Check, Hold, Ticket};
use crate::client::error::heard;
use crate::client::{LimitStanding, Standing, StandingQuery};
use crate::policy::{Amount, CustomerId, Dimensions, Timestamp};
use crate::{Error, ErrorKind};

/// The answer to a check.
pub struct HostedCheck(Asking);

enum Asking {
    Refused(Option<Error>),
    Sent { sent: Sent, check: Option<Check>, answer: JoinHandle<Result<Told, Error>> },
}

impl fmt::Debug for HostedCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostedCheck").finish_non_exhaustive()
    }
}

/// A check on its way. What is delivered while it is may be missing in its answer.
pub(super) struct Sent {
    inner: Arc<Inner>,
    customer: CustomerId,
    began: Tick,
    at: Timestamp,
}

impl Sent {
    pub(super) fn begin(inner: &Arc<Inner>, check: &Check) -> Self {
        let customer = check.ask().customer.clone();
        let at = check.ask().at.unwrap_or_else(|| inner.clock.now());
        let began = inner.ledger().begin(&customer);
        Self { inner: Arc::clone(inner), customer, began, at }
    }

    pub(super) fn asked(&self) -> Asked {
        Asked { began: self.began, now: self.inner.clock.monotonic() }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let now = self.inner.clock.monotonic();
        self.inner.ledger().end(&self.customer, self.began, now);
    }
}

/// What the API told.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) limits: Vec<Found>,
    pub(super) balance: Option<FoundBalance>,
}

/// Sends the check.
pub(super) fn send(inner: &Arc<Inner>, check: Check) -> HostedCheck {
    let check = match prepare(inner, check) {
        Ok(check) => check,
        Err(error) => return HostedCheck(Asking::Refused(Some(error))),
    };
    let sent = Sent::begin(inner, &check);
    let answer = inner.runtime.spawn(ask(Arc::clone(inner), check.clone()));
    HostedCheck(Asking::Sent { sent, check: Some(check), answer })
}

fn prepare(inner: &Inner, check: Check) -> Result<Check, Error> {
    if inner.is_closed() {
        return Err(Error::closed());
    }
    check.ask().validate()?;
    let has_id = check.ask().has_id();
    Ok(if has_id { check } else { check.stamped(inner.client.make_id(inner.clock.now())) })
}

/// Asks the API, within one time for everything.
pub(super) async fn ask(inner: Arc<Inner>, check: Check) -> Result<Told, Error> {
    let end = Instant::now() + inner.terms.check;
    let dimensions = check.ask().expected.dimensions();
    let asked = async {
        // Begun first, so that both are under way at once.
        let balance = inner.runtime.spawn(balance(Arc::clone(&inner), check.clone(), end));
        let limits = limits(&inner, &check, dimensions, end).await?;
        Ok(Told { limits, balance: balance.await.unwrap_or_else(|_| Err(runtime_ended()))? })
    };
    let late = |_| {
        let message = format!("the API did not answer in time ({:?})", inner.terms.check);
        // Checks reserve nothing there, so nothing can have been done.
        Err(Error::new(ErrorKind::Unavailable, message))
    };
    let told: Result<Told, Error> = timeout_at(end, asked).await.unwrap_or_else(late);
    told.map_err(|error| match error.is_unknown() {
        true => Error::new(ErrorKind::Unavailable, error.to_string()).with_source(error),
        false => heard(error),
    })
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

async fn limits(
    inner: &Inner,
    check: &Check,
    dimensions: &Dimensions,
    end: Instant,
) -> Result<Vec<Found>, Error> {
    let mut query = StandingQuery::of(&check.ask().customer);
    for (key, text) in dimensions.iter() {
        query = query.dimension(key, text);
    }
    let standing: Standing = inner.client.limits().check_within(query, Some(left(end))).await?;
    let mut found = Vec::with_capacity(standing.limits.len());
    for each in standing.limits {
        found.push(find(inner, each, dimensions.is_empty()).await?);
    }
    Ok(found)
}

async fn find(inner: &Inner, standing: LimitStanding, is_plain: bool) -> Result<Found, Error> {
    let now = inner.clock.monotonic();
    let meter = inner.meters.get(&inner.client, &standing.meter, now).await?;
    // A limit that is narrowed does not match a check without dimensions.
    let narrowed = match is_plain {
        true => Dimensions::new(),
        false => {
            let limit = inner.limits.get(&inner.client, &standing.id, now).await?;
            limit.map(|limit| limit.dimensions().clone()).unwrap_or_default()
        }
    };
    Ok(Found { standing, meter, narrowed })
}

async fn balance(
    inner: Arc<Inner>,
    check: Check,
    end: Instant,
) -> Result<Option<FoundBalance>, Error> {
    let ask = check.ask();
    let Some(charge) = &ask.charge else { return Ok(None) };
    // The API answers how the balance stands only to those who ask for something.
    const SOMETHING: Amount = Amount::from_millionths(1);
    let asked = judge::price(ask).filter(|price| price.is_positive()).unwrap_or(SOMETHING);
    let checked =
        inner.client.balances().check_within(&ask.customer, &charge.balance, asked, left(end));
    let told = match checked.await {
        Ok(told) => Some(told.balance),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    // Looked at after the answer: what is paid meanwhile counts, here or there.
    let debt = inner.debts.of(&ask.customer, &charge.balance);
    Ok(Some(FoundBalance { told, debt }))
}

impl Future for HostedCheck {
    type Output = Result<Admission, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Asking::Refused(error) => {
                Poll::Ready(Err(error.take().expect("HostedCheck polled after completion")))
            }
            Asking::Sent { sent, check, answer } => {
                let told = ready!(Pin::new(answer).poll(cx));
                let check = check.take().expect("HostedCheck polled after completion");
                let told = told.unwrap_or_else(|_| Err(runtime_ended()));
                Poll::Ready(told.and_then(|told| admit(sent, check, told)))
            }
        }
    }
}

fn runtime_ended() -> Error {
    Error::new(ErrorKind::Unavailable, "the runtime ended before the API answered")
}

/// Judges and, if all have room, holds: one step.
fn admit(sent: &Sent, check: Check, told: Told) -> Result<Admission, Error> {
    let Sent { inner, at, .. } = sent;
    let ask = check.ask();
    pay_soon(inner, &told);
    let asked = sent.asked();
    let question = Question { ask, at: *at, asked, shows_all: false };
    let mut ledger = inner.ledger();
    // Only an id of a caller's own can be known.
    match ask.given.then(|| ledger.known(&ask.customer, &ask.id, asked.now)).flatten() {
        Some(Known::Running) => {
            let message = "a request with the same id is running; wait for its answer";
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        Some(Known::Used) => {
            let answer = Answer::told(Arc::default(), *at, Vec::new(), None);
            drop(ledger);
            return Ok(Admission { decision: check.answered(|_| answer), hold: None });
        }
        None => {}
    }
    let mut answer = judge::judge(question, told.limits, told.balance, &ledger);
    let allowed = answer.allowed;
    if allowed {
        let ends = ask.lifetime.map(|lifetime| asked.now.saturating_add(lifetime));
        ledger.place(&ask.customer, Use::of_check(&check, *at, ends));
        judge::hold(&mut answer, ask);
    }
    drop(ledger);
    let decision = check.answered(|_| answer);
    let ticket = Ticket { check: decision.check(), place: None };
    let hold = allowed.then_some(Hold { ticket, at: *at });
    Ok(Admission { decision, hold })
}

/// A balance that has something, and is owed something, pays.
fn pay_soon(inner: &Arc<Inner>, told: &Told) {
    let has = |found: &&FoundBalance| {
        found.debt.is_positive()
            && found.told.as_ref().is_some_and(|balance| balance.available().is_positive())
    };
    if told.balance.as_ref().filter(has).is_some() {
        let inner = Arc::clone(inner);
        inner.runtime.clone().spawn(async move { pay::collect(&inner).await });
    }
}
