//! What requests used, from processes that share one set of books.

use std::time::Duration;

use axum::extract::State;
use uuid::Uuid;

use super::holds::{amount, bounded, ended, event_id};
use super::problem::{Problem, Reply, ok};
use super::request::{Json, customer, named};
use super::{App, Shared};
use crate::backend::{Backend, Delivery, Hold, Name, Producer, Receipt, Settlement, Ticket};
use crate::policy::Timestamp;
use crate::wire::{EndedBody, MarkBody, ResultsBody, SettleBody, SettlementBody, fits, usage};
use crate::{Check, Error, ErrorKind};

/// How early a settlement may come, as the processes' clocks differ.
const MOST_AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

/// Settles each for itself: one that makes no sense is told so, and the others are taken.
pub(super) async fn settle(
    State(app): State<Shared>,
    Json(asked): Json<SettleBody>,
) -> Result<Reply<ResultsBody<EndedBody>>, Problem> {
    bounded("settlements", asked.settlements.len())?;
    let backend = app.books.backend();
    let mut results: Vec<Option<EndedBody>> = Vec::with_capacity(asked.settlements.len());
    let (mut ids, mut settling, mut marked, mut batch) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (at, mut body) in asked.settlements.into_iter().enumerate() {
        let mark = body.mark.take().map(mark).transpose();
        let read = mark.and_then(|mark| Ok((mark, settlement(&app, &body)?)));
        results.push(None);
        match read {
            Err(problem) => results[at] = Some(ended(body.id.clone(), Err(problem))),
            Ok((mark, settlement)) => {
                app.answers.forget([&Name::from(&settlement.hold.ticket)]);
                match mark {
                    // They begin when they are called, so none waits for another's write, and all go
                    // on when the caller goes away.
                    None => settling.push((at, backend.settle(settlement))),
                    Some((producer, sequence, previous)) => {
                        marked.push(at);
                        batch.push(Delivery { settlement, producer, sequence, previous });
                    }
                }
            }
        }
        ids.push(body.id);
    }
    let receipts = deliver(&app, batch).await?;
    for (at, receipt) in marked.into_iter().zip(receipts) {
        results[at] = Some(received(std::mem::take(&mut ids[at]), receipt));
    }
    for (at, finish) in settling {
        let done = finish.await.map_err(Problem::from);
        results[at] = Some(ended(std::mem::take(&mut ids[at]), done));
    }
    ok(ResultsBody { results: results.into_iter().flatten().collect() })
}

/// Those of a queue, in their order, to their end.
async fn deliver(app: &App, batch: Vec<Delivery>) -> Result<Vec<Result<Receipt, Error>>, Problem> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let (count, delivering) = (batch.len(), app.books.backend().settle_many(batch, app.timeout));
    let mut receipts = tokio::spawn(delivering).await.map_err(|_| Problem::internal())?;
    let unanswered = || Err(Error::new(ErrorKind::TimedOut, "the backend did not answer"));
    receipts.resize_with(count, unanswered);
    Ok(receipts)
}

fn received(id: String, receipt: Result<Receipt, Error>) -> EndedBody {
    match receipt {
        Ok(Receipt::Taken) => ended(id, Ok(())),
        Ok(Receipt::Behind) => EndedBody { id, done: false, behind: true, error: None },
        Err(error) => ended(id, Err(error.into())),
    }
}

/// The settlement, as its check named it.
fn settlement(app: &App, body: &SettlementBody) -> Result<Settlement, Problem> {
    event_id(&body.id)?;
    if body.at.duration_since(app.now()) > MOST_AHEAD {
        return Err(Problem::field(
            "at",
            "is more than 24 hours ahead; give the time of the check",
        ));
    }
    let mut check = Check::of(customer(&body.customer_id)?).id(&body.id);
    check.ask_mut().attempt = body.attempt;
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
    let used = usage(&body.values, &body.dimensions);
    fits(&used).map_err(|problem| Problem::field("values", problem))?;
    let ticket = Ticket { check, place: None };
    Ok(Settlement {
        hold: Hold { ticket, at: body.at },
        usage: used,
        charge: charged,
        // A hold from before this process may have ended with the one before it.
        unsure: body.unsure || is_earlier(body.at, app.started),
    })
}

fn is_earlier(at: Timestamp, started: Timestamp) -> bool {
    at < started
}

fn mark(body: MarkBody) -> Result<(Producer, u64, Option<u64>), Problem> {
    let MarkBody { producer, sequence, previous } = body;
    /// What every store keeps exactly.
    const MOST: u64 = 1 << 53;
    let producer =
        Uuid::try_parse(&producer).map_err(|_| Problem::field("mark.producer", "is no UUID"))?;
    if !(1..=MOST).contains(&sequence) || previous.is_some_and(|previous| previous >= sequence) {
        let problem = "is out of order; give 1 to 2^53, above the previous one";
        return Err(Problem::field("mark.sequence", problem));
    }
    Ok((Producer(producer.as_u128()), sequence, previous))
}
