//! Check with a hold, settle, release and renew, for processes that share one set of books.

use std::time::Duration;

use axum::extract::State;

use super::customers::resolve;
use super::problem::{Problem, Reply, ok};
use super::request::{Json, named, usage};
use super::{App, Shared};
use crate::backend::{
    Admission, Backend, BalanceState, Decision, Denial, Hold, Settlement, Ticket,
};
use crate::policy::{Amount, CustomerId, EventId, Timestamp};
use crate::wire::{
    ChargeBody, EndedBody, HeldBalance, HeldLimit, HoldCheck, HoldCheckBody, HoldName, HoldsBody,
    RenewedBody, ResultsBody, SettleBody, SettlementBody,
};
use crate::{Check, Error, ErrorKind};

/// How many holds one call may end or renew.
const MOST_HOLDS: usize = 1_000;
/// How long a hold lives unless told otherwise, and at most, in seconds.
const LIFETIME: u32 = 60;
const LONGEST: u32 = 3_600;
/// How early a settlement may come, as the processes' clocks differ.
const MOST_AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) async fn check(
    State(app): State<Shared>,
    Json(asked): Json<HoldCheck>,
) -> Result<Reply<HoldCheckBody>, Problem> {
    let id = event_id(&asked.id)?;
    let customer = resolve(&app, &asked.customer_id).await?;
    let lifetime = lifetime(asked.hold_seconds)?;
    let mut check = Check::of(&customer)
        .id(&asked.id)
        .expect(usage(&asked.values, &asked.dimensions)?)
        .hold_for(lifetime);
    if let Some(event_type) = &asked.event_type {
        named("eventType", event_type)?;
        check = check.event_type(event_type);
    }
    if let Some(charge) = &asked.charge {
        let amount = amount(charge)?;
        check = check.charge(&charge.balance, move |_| amount);
    }
    // Goes on when the caller goes away, so that the answer to a repeat is the same.
    let shared = app.clone();
    let work = async move { decide(&shared, check, customer, id, lifetime).await };
    let answer = tokio::spawn(work).await.map_err(|_| Problem::internal())??;
    ok(answer)
}

async fn decide(
    app: &App,
    check: Check,
    customer: CustomerId,
    id: EventId,
    lifetime: Duration,
) -> Result<HoldCheckBody, Problem> {
    match app.books.backend().check(check.clone()).await {
        Ok(Admission { decision, hold }) => Ok(body(&id, decision, hold.is_some())),
        Err(error) if error.kind() == ErrorKind::Conflict => {
            // Either the hold is open and this is a repeat, or the id was released.
            let held = app.books.renew(vec![(customer, id.clone())], lifetime).await?;
            if held != [true] {
                let message = "the id was released; ask under a new one";
                return Err(Problem::conflict("hold_released", message));
            }
            let decision = app.books.preview(check).await?;
            // What it asks is among what is held, so nothing that this says refuses it.
            let mut body = body(&id, decision, true);
            body.limits.iter_mut().for_each(|limit| limit.exceeded = false);
            body.balance.iter_mut().for_each(|balance| balance.sufficient = true);
            Ok(HoldCheckBody { allowed: true, retry_after: None, reason: None, ..body })
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn settle(
    State(app): State<Shared>,
    Json(asked): Json<SettleBody>,
) -> Result<Reply<ResultsBody<EndedBody>>, Problem> {
    bounded(asked.settlements.len())?;
    let mut settlements = Vec::with_capacity(asked.settlements.len());
    for body in asked.settlements {
        let id = body.id.clone();
        settlements.push((id, settlement(&app, body).await?));
    }
    // They begin when they are called, so none waits for another's write, and all go on when the
    // caller goes away.
    let backend = app.books.backend();
    let begun: Vec<_> =
        settlements.into_iter().map(|(id, one)| (id, backend.settle(one))).collect();
    ended(begun).await
}

pub(super) async fn release(
    State(app): State<Shared>,
    Json(asked): Json<HoldsBody>,
) -> Result<Reply<ResultsBody<EndedBody>>, Problem> {
    let mut tickets = Vec::new();
    for (customer, id) in holds(&app, &asked.holds).await? {
        let check = Check::of(&customer).id(id.to_string());
        tickets.push((id.to_string(), Ticket { check, place: None }));
    }
    let backend = app.books.backend();
    let begun: Vec<_> = tickets.into_iter().map(|(id, one)| (id, backend.release(one))).collect();
    ended(begun).await
}

async fn ended<F>(begun: Vec<(String, F)>) -> Result<Reply<ResultsBody<EndedBody>>, Problem>
where
    F: Future<Output = Result<(), Error>>,
{
    let mut results = Vec::with_capacity(begun.len());
    for (id, finish) in begun {
        let error = finish.await.err().map(|error| Problem::from(error).detail());
        results.push(EndedBody { id, done: error.is_none(), error });
    }
    ok(ResultsBody { results })
}

pub(super) async fn renew(
    State(app): State<Shared>,
    Json(asked): Json<HoldsBody>,
) -> Result<Reply<ResultsBody<RenewedBody>>, Problem> {
    let lifetime = lifetime(asked.hold_seconds)?;
    let holds = holds(&app, &asked.holds).await?;
    let ids: Vec<_> = holds.iter().map(|(_, id)| id.to_string()).collect();
    let live = app.books.renew(holds, lifetime).await?;
    let results = ids.into_iter().zip(live).map(|(id, live)| RenewedBody { id, live });
    ok(ResultsBody { results: results.collect() })
}

/// The settlement, as its check named it.
async fn settlement(app: &App, body: SettlementBody) -> Result<Settlement, Problem> {
    event_id(&body.id)?;
    if body.at.duration_since(app.now()) > MOST_AHEAD {
        return Err(Problem::field(
            "at",
            "is more than 24 hours ahead; give the time of the check",
        ));
    }
    let customer = resolve(app, &body.customer_id).await?;
    let mut check = Check::of(&customer).id(&body.id);
    if let Some(event_type) = &body.event_type {
        named("eventType", event_type)?;
        check = check.event_type(event_type);
    }
    let mut charged = None;
    if let Some(charge) = &body.charge {
        charged = amount(charge)?;
        if charged.is_none() {
            return Err(Problem::missing("missing field `amount` of `charge`"));
        }
        check = check.charge(&charge.balance, move |_| charged);
    }
    let ticket = Ticket { check, place: None };
    Ok(Settlement {
        hold: Hold { ticket, at: body.at },
        usage: usage(&body.values, &body.dimensions)?,
        charge: charged,
        // A hold from before this process may have ended with the one before it.
        unsure: body.unsure || is_earlier(body.at, app.started),
    })
}

fn is_earlier(at: Timestamp, started: Timestamp) -> bool {
    at < started
}

async fn holds(app: &App, names: &[HoldName]) -> Result<Vec<(CustomerId, EventId)>, Problem> {
    bounded(names.len())?;
    let mut holds = Vec::with_capacity(names.len());
    for name in names {
        holds.push((resolve(app, &name.customer_id).await?, event_id(&name.id)?));
    }
    Ok(holds)
}

fn bounded(length: usize) -> Result<(), Problem> {
    match length <= MOST_HOLDS {
        true => Ok(()),
        false => {
            let problem = format!("are {length}; give at most {MOST_HOLDS}");
            Err(Problem::field("holds", problem))
        }
    }
}

fn event_id(id: &str) -> Result<EventId, Problem> {
    EventId::new(id).map_err(|error| Problem::field("id", error))
}

fn lifetime(seconds: Option<u32>) -> Result<Duration, Problem> {
    match seconds.unwrap_or(LIFETIME) {
        seconds @ 1..=LONGEST => Ok(Duration::from_secs(seconds.into())),
        seconds => Err(Problem::field("holdSeconds", format!("is {seconds}; give 1 to {LONGEST}"))),
    }
}

/// The price, if it is told.
fn amount(charge: &ChargeBody) -> Result<Option<Amount>, Problem> {
    named("charge.balance", &charge.balance)?;
    match charge.amount.map(|amount| amount.0) {
        Some(amount) if amount.is_negative() => {
            Err(Problem::field("charge.amount", format!("is {amount}; give 0 or more")))
        }
        amount => Ok(amount),
    }
}

fn body(id: &EventId, decision: Decision, held: bool) -> HoldCheckBody {
    let allowed = decision.is_allowed();
    let limits = decision.limits().map(|limit| HeldLimit {
        id: limit.id().to_owned(),
        name: limit.name().to_owned(),
        meter_id: limit.meter().to_owned(),
        period: limit.period().as_str(),
        limit: limit.limit(),
        used: limit.used(),
        held: limit.held(),
        remaining: limit.remaining(),
        exceeded: limit.is_exceeded(),
        reset: limit.reset(),
        private: limit.is_private(),
    });
    HoldCheckBody {
        id: id.to_string(),
        allowed,
        at: decision.at(),
        held,
        settled: allowed && !held,
        retry_after: decision.retry_after().map(|wait| wait.as_secs()),
        limits: limits.collect(),
        balance: decision.balance().map(|state: &BalanceState| HeldBalance {
            name: state.name().to_owned(),
            sufficient: !state.is_exceeded(),
            available_balance: state.balance().map(|balance| balance.available()),
        }),
        reason: Denial::new(decision).map(|denial| denial.kind().as_str()),
    }
}
