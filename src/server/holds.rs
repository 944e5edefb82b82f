//! Check with a hold, release and renew, for processes that share one set of books.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::extract::State;

use super::problem::{Answer, Problem, Reply, ok};
use super::request::{Json, customer, named};
use super::standing::held;
use super::{App, Shared};
use crate::backend::{Admission, Backend, Name, Ticket};
use crate::policy::{Amount, EventId};
use crate::wire::{
    ChargeBody, EndedBody, HoldCheck, HoldName, HoldsBody, RenewedBody, ResultsBody, fits, usage,
};
use crate::{Check, Error, ErrorKind};

/// How many holds one call may end or renew.
const MOST_HOLDS: usize = 1_000;
/// How long a hold lives unless told otherwise, and at most, in seconds.
const LIFETIME: u32 = 60;
const LONGEST: u32 = 86_400;

pub(super) async fn check(
    State(app): State<Shared>,
    Json(asked): Json<HoldCheck>,
) -> Result<Answer, Problem> {
    let id = asked.id.as_deref().ok_or_else(|| Problem::missing("missing field `id`"))?;
    let name =
        Name { customer: customer(&asked.customer_id)?, id: event_id(id)?, attempt: asked.attempt };
    let lifetime = lifetime(asked.hold_seconds)?;
    if let Some(answer) = app.answers.find(&name) {
        // Its hold may have ended since.
        let hold = (name.customer.clone(), name.id.clone());
        if app.books.renew(vec![hold], lifetime).await? == [true] {
            return Ok(answer);
        }
        app.answers.forget([&name]);
    }
    let mut check = question(&asked)?.id(id).hold_for(lifetime);
    check.ask_mut().attempt = asked.attempt;
    let mut asked = app.books.backend().check(check.clone());
    let now = Pin::new(&mut asked).poll(&mut Context::from_waker(Waker::noop()));
    if let Poll::Ready(answer) = now {
        return decide(&app, check, name, lifetime, answer).await;
    }
    // Goes on when the caller goes away, so that the answer to a repeat is the same.
    let work = async move { decide(&app, check, name, lifetime, asked.await).await };
    tokio::spawn(work).await.map_err(|_| Problem::internal())?
}

async fn decide(
    app: &App,
    check: Check,
    name: Name,
    lifetime: Duration,
    answer: Result<Admission, Error>,
) -> Result<Answer, Problem> {
    let id = name.id.to_string();
    match answer {
        Ok(Admission { decision, hold }) => {
            let answer = Answer::from(ok(held(&id, &decision, hold.is_some())));
            if hold.is_some() {
                app.answers.keep(name, answer.clone());
            }
            Ok(answer)
        }
        // Requests that are told apart by number: it is another one.
        Err(error) if error.kind() == ErrorKind::Conflict && name.attempt == 0 => {
            let held = app.books.renew(vec![(name.customer, name.id)], lifetime).await?;
            if held != [true] {
                let message = "the id was released; ask under a new one";
                return Err(Problem::conflict("hold_released", message));
            }
            // A repeat whose answer is kept no longer.
            repeated(app, &id, check).await
        }
        Err(error) => Err(error.into()),
    }
}

/// The answer to a check whose hold is open: allowed. What it asks is among what is held, so nothing
/// that a preview says refuses it.
async fn repeated(app: &App, id: &str, check: Check) -> Result<Answer, Problem> {
    const WITHIN: &str = "within";
    let decision = app.books.preview(check).await?;
    let mut body = held(id, &decision, true);
    for limit in &mut body.limits {
        (limit.exceeded, limit.verdict) = (false, WITHIN.into());
    }
    if let Some(balance) = &mut body.balance {
        (balance.sufficient, balance.verdict) = (true, WITHIN.into());
    }
    (body.allowed, body.settled, body.retry_after, body.reason) = (true, false, None, None);
    Ok(ok(body).into())
}

/// What is asked, without an id.
pub(super) fn question(asked: &HoldCheck) -> Result<Check, Problem> {
    let expected = usage(&asked.values, &asked.dimensions);
    fits(&expected).map_err(|problem| Problem::field("values", problem))?;
    let mut check = Check::of(customer(&asked.customer_id)?).expect(expected);
    if let Some(event_type) = &asked.event_type {
        named("eventType", event_type)?;
        check = check.event_type(event_type);
    }
    if let Some(charge) = &asked.charge {
        let amount = amount(charge)?;
        check = check.charge(&charge.balance, move |_| amount);
    }
    Ok(check)
}

pub(super) async fn release(
    State(app): State<Shared>,
    Json(asked): Json<HoldsBody>,
) -> Result<Reply<ResultsBody<EndedBody>>, Problem> {
    let names = names(&asked.holds)?;
    app.answers.forget(&names);
    let backend = app.books.backend();
    // They begin when they are called, and go on when the caller goes away.
    let begun: Vec<_> = names
        .iter()
        .map(|Name { customer, id, attempt }| {
            let mut check = Check::of(customer).id(id.to_string());
            check.ask_mut().attempt = *attempt;
            (id.to_string(), backend.release(Ticket { check, place: None }))
        })
        .collect();
    let mut results = Vec::with_capacity(begun.len());
    for (id, finish) in begun {
        results.push(ended(id, finish.await.map_err(Problem::from)));
    }
    ok(ResultsBody { results })
}

pub(super) fn ended(id: String, result: Result<(), Problem>) -> EndedBody {
    let error = result.err().map(Problem::detail);
    EndedBody { id, done: error.is_none(), behind: false, error }
}

pub(super) async fn renew(
    State(app): State<Shared>,
    Json(asked): Json<HoldsBody>,
) -> Result<Reply<ResultsBody<RenewedBody>>, Problem> {
    let lifetime = lifetime(asked.hold_seconds)?;
    let holds: Vec<_> =
        names(&asked.holds)?.into_iter().map(|name| (name.customer, name.id)).collect();
    let ids: Vec<_> = holds.iter().map(|(_, id)| id.to_string()).collect();
    let live = app.books.renew(holds, lifetime).await?;
    let results = ids.into_iter().zip(live).map(|(id, live)| RenewedBody { id, live });
    ok(ResultsBody { results: results.collect() })
}

fn names(holds: &[HoldName]) -> Result<Vec<Name>, Problem> {
    bounded("holds", holds.len())?;
    let name = |hold: &HoldName| {
        let (customer, id) = (customer(&hold.customer_id)?, event_id(&hold.id)?);
        Ok(Name { customer, id, attempt: hold.attempt })
    };
    holds.iter().map(name).collect()
}

pub(super) fn bounded(field: &str, length: usize) -> Result<(), Problem> {
    match length <= MOST_HOLDS {
        true => Ok(()),
        false => Err(Problem::field(field, format!("are {length}; give at most {MOST_HOLDS}"))),
    }
}

pub(super) fn event_id(id: &str) -> Result<EventId, Problem> {
    EventId::new(id).map_err(|error| Problem::field("id", error))
}

fn lifetime(seconds: Option<u32>) -> Result<Duration, Problem> {
    match seconds.unwrap_or(LIFETIME) {
        seconds @ 1..=LONGEST => Ok(Duration::from_secs(seconds.into())),
        seconds => Err(Problem::field("holdSeconds", format!("is {seconds}; give 1 to {LONGEST}"))),
    }
}

/// The price, if it is told.
pub(super) fn amount(charge: &ChargeBody) -> Result<Option<Amount>, Problem> {
    named("charge.balance", &charge.balance)?;
    match charge.amount.map(|amount| amount.0) {
        Some(amount) if amount.is_negative() => {
            Err(Problem::field("charge.amount", format!("is {amount}; give 0 or more")))
        }
        amount => Ok(amount),
    }
}
