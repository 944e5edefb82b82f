//! Settlements as calls of the API: for each its debit, in the order of its customer; then the events
//! of all, in one call.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::debts::{Debt, Owed};
use super::sent::Step;
use super::{Inner, pay};
use crate::backend::{Hold, Settlement};
use crate::client::{ApiError, CountAnswer, Events, Repeat, Told};
use crate::policy::{CustomerId, Debit};
use crate::{Error, ErrorKind, observe};

type Outcome = Result<(), Error>;

/// Customers who are charged at the same time.
const BESIDE: usize = 16;

/// Settles all, one answer for each in their order. Once one of a customer fails in a way that may
/// pass, nothing later of theirs is taken.
pub(super) async fn deliver(
    inner: &Arc<Inner>,
    batch: Vec<Settlement>,
    within: Duration,
) -> Vec<Outcome> {
    let end = Instant::now() + within;
    {
        let mut ledger = inner.ledger();
        batch.iter().for_each(|settlement| ledger.going(settlement));
    }
    inner.ended.notify_waiters();
    let batch = Arc::new(batch);
    let mut outcomes = charge(inner, &batch, end).await;
    let charged: Vec<usize> = (0..batch.len()).filter(|at| outcomes[*at].is_ok()).collect();
    for (at, mut outcome) in record(inner, &batch, charged, end).await {
        let hold = &batch[at].hold;
        if outcome.is_ok() && inner.debts.has(hold.customer(), hold.id()) {
            let noted = note_recorded(inner, hold, end).await;
            // Otherwise it is delivered again, and this is tried again; what may be sent only once
            // is rather remembered for too long.
            if !is_once(inner) {
                outcome = noted;
            }
        }
        outcomes[at] = outcome;
    }
    let (until, now) = (inner.told_by(), inner.clock.monotonic());
    let mut ledger = inner.ledger();
    for (settlement, outcome) in batch.iter().zip(&mut outcomes) {
        let ticket = &settlement.hold.ticket;
        match outcome {
            Ok(()) => ledger.delivered(ticket, until, now),
            Err(error) if error.is_transient() => ledger.failed(ticket),
            Err(_) => ledger.forget(ticket, now),
        }
    }
    outcomes
}

/// Between payments, which write down the same debt.
async fn note_recorded(inner: &Inner, hold: &Hold, end: Instant) -> Outcome {
    let noted = async {
        let _paying = inner.paying.lock().await;
        inner.debts.recorded(hold.customer(), hold.id()).await
    };
    timeout_at(end, noted).await.unwrap_or_else(|_| Err(late()))
}

/// The debits: customers beside each other, each one's in order.
async fn charge(inner: &Arc<Inner>, batch: &Arc<Vec<Settlement>>, end: Instant) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = batch.iter().map(|_| Ok(())).collect();
    let mut queues: HashMap<&CustomerId, Vec<usize>> = HashMap::new();
    for (at, settlement) in batch.iter().enumerate() {
        queues.entry(settlement.hold.customer()).or_default().push(at);
    }
    let is_charged = |at: &usize| amount(&batch[*at]).is_some();
    queues.retain(|_, queue| queue.iter().any(is_charged));
    let (mut tasks, room) = (JoinSet::new(), Arc::new(Semaphore::new(BESIDE)));
    for queue in queues.into_values() {
        let (own, batch, room) = (Arc::clone(inner), Arc::clone(batch), Arc::clone(&room));
        for at in &queue {
            // Until it is told otherwise, also by a task that panics.
            outcomes[*at] = Err(late());
        }
        tasks.spawn_on(
            async move {
                let _room = room.acquire().await;
                let mut answers = Vec::with_capacity(queue.len());
                let mut stopped = false;
                for at in queue {
                    let outcome = match stopped {
                        true => Err(held_back()),
                        false => debit(&own, &batch[at], end).await,
                    };
                    stopped |= outcome.as_ref().is_err_and(Error::is_transient);
                    answers.push((at, outcome));
                }
                answers
            },
            &inner.runtime,
        );
    }
    while let Some(answers) = tasks.join_next().await {
        for (at, outcome) in answers.unwrap_or_default() {
            outcomes[at] = outcome;
        }
    }
    outcomes
}

fn amount(settlement: &Settlement) -> Option<(&str, crate::policy::Amount)> {
    let charge = settlement.hold.check().ask().charge.as_ref()?;
    let amount = settlement.charge.filter(|amount| amount.is_positive())?;
    Some((&charge.balance, amount))
}

/// Charges one settlement. What the balance does not cover becomes a debt.
async fn debit(inner: &Arc<Inner>, settlement: &Settlement, end: Instant) -> Outcome {
    let Some((balance, amount)) = amount(settlement) else { return Ok(()) };
    let (ticket, id) = (&settlement.hold.ticket, settlement.hold.id());
    let customer = settlement.hold.customer();
    if inner.ledger().is_charged(ticket) || inner.debts.has(customer, id) {
        return Ok(());
    }
    let (once, hold) = (is_once(inner), &settlement.hold);
    match inner.sent.step(hold).filter(|_| once) {
        Some(Step::Debiting) => {
            inner.sent.note([(hold, None)]).await?;
            return Err(not_known());
        }
        Some(Step::Debited | Step::Recording) => return Ok(()),
        None => {}
    }
    in_time(end)?;
    if once {
        inner.sent.note([(hold, Some(Step::Debiting))]).await?;
    }
    let description = settlement.hold.check().ask().recorded_as();
    let debit =
        Debit::new(customer, balance, amount).description(description).reference(id.to_string());
    let id_text = id.to_string();
    let sent = inner.client.balances().debit_within(&id_text, &debit, left(end));
    let answer = timeout_at(end, sent).await.unwrap_or_else(|_| Err(late()));
    let changed = match answer {
        Ok(changed) => changed,
        Err(error) => {
            if once {
                // One that stays counts as "perhaps done" once more, which it is not.
                let _ = inner.sent.note([(hold, None)]).await;
            }
            return Err(declared(inner, error));
        }
    };
    if !changed.success {
        let debt = Debt {
            customer: customer.clone(),
            balance: balance.into(),
            id: id.clone(),
            owed: amount,
            since: settlement.hold.at(),
        };
        let owed = Owed::new(debt);
        inner.debts.keep(owed.clone()).await?;
        observe::debt();
        pay::tell(inner, &owed);
    }
    inner.ledger().charged(ticket, inner.told_by());
    if once {
        inner.sent.note([(hold, Some(Step::Debited))]).await?;
    }
    if !changed.success {
        // What is there is taken now; the rest when there is something again.
        let _ = timeout_at(end, pay::pay(inner, customer, &balance.into())).await;
    }
    Ok(())
}

/// The events, in as few calls as there can be: one that cannot be taken is found by halves.
async fn record(
    inner: &Inner,
    batch: &[Settlement],
    all: Vec<usize>,
    end: Instant,
) -> Vec<(usize, Outcome)> {
    let mut outcomes = Vec::with_capacity(all.len());
    let once = is_once(inner);
    let (before, all): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|at| once && inner.sent.step(&batch[*at].hold) == Some(Step::Recording));
    if !before.is_empty() {
        let noted = inner.sent.note(before.iter().map(|at| unrecorded(&batch[*at]))).await;
        let outcome = || noted.as_ref().map_or_else(again, |_| Err(not_known()));
        outcomes.extend(before.iter().map(|at| (*at, outcome())));
    }
    let mut parts: Vec<Vec<usize>> = all.chunks(Events::MOST).rev().map(<[_]>::to_vec).collect();
    let mut stopped: HashSet<&CustomerId> = HashSet::new();
    while let Some(part) = parts.pop() {
        let (held, part): (Vec<_>, Vec<_>) =
            part.into_iter().partition(|at| stopped.contains(batch[*at].hold.customer()));
        outcomes.extend(held.into_iter().map(|at| (at, Err(held_back()))));
        if part.is_empty() {
            continue;
        }
        match send(inner, batch, &part, end).await {
            Ok(()) => outcomes.extend(part.into_iter().map(|at| (at, Ok(())))),
            Err(error) if is_too_long(&error) && part.len() > 1 => parts.extend(halves(&part)),
            Err(error) if error.is_transient() || part.len() == 1 => {
                if error.is_transient() {
                    stopped.extend(part.iter().map(|at| batch[*at].hold.customer()));
                }
                outcomes.extend(part.iter().map(|at| (*at, again(&error))));
            }
            Err(_) => parts.extend(halves(&part)),
        }
    }
    outcomes
}

/// The later half, and the earlier one on top of it.
fn halves(part: &[usize]) -> [Vec<usize>; 2] {
    let (first, second) = part.split_at(part.len() / 2);
    [second.to_vec(), first.to_vec()]
}

/// Whoever said so, fewer at once may pass.
fn is_too_long(error: &Error) -> bool {
    ApiError::of(error).is_some_and(|api| api.status() == 413)
}

async fn send(inner: &Inner, batch: &[Settlement], part: &[usize], end: Instant) -> Outcome {
    let events: Vec<Told<'_>> = part.iter().map(|at| told(&batch[*at])).collect();
    let call = inner.client.batch(&events)?.within(left(end));
    in_time(end)?;
    let once = is_once(inner);
    if once {
        let holds = part.iter().map(|at| (&batch[*at].hold, Some(Step::Recording)));
        inner.sent.note(holds).await?;
    }
    // Only the API's own answer says that they are recorded.
    let answer = timeout_at(end, inner.client.http().fetch::<CountAnswer>(call)).await;
    let answer = answer.unwrap_or_else(|_| Err(late()));
    if once {
        let is_done = answer.is_ok();
        let stands = |at: &usize| match is_done {
            true => (&batch[*at].hold, None),
            false => unrecorded(&batch[*at]),
        };
        // One that stays counts as "perhaps done" once more, which it is not.
        let _ = inner.sent.note(part.iter().map(stands)).await;
    }
    answer.map(drop).map_err(|error| declared(inner, error))
}

fn told(settlement: &Settlement) -> Told<'_> {
    Told {
        id: settlement.hold.id().clone(),
        customer: settlement.hold.customer(),
        event_type: settlement.hold.check().ask().recorded_as(),
        usage: &settlement.usage,
        at: settlement.hold.at(),
    }
}

/// Where it stands before its event is sent.
fn unrecorded(settlement: &Settlement) -> (&Hold, Option<Step>) {
    (&settlement.hold, amount(settlement).map(|_| Step::Debited))
}

fn is_once(inner: &Inner) -> bool {
    inner.client.http().repeat() == Repeat::AtMostOnce
}

fn again(error: &Error) -> Outcome {
    Err(Error::new(error.kind(), error.to_string()))
}

fn not_known() -> Error {
    let message = "whether it was done is not known, and it is declared to be done at most once";
    Error::new(ErrorKind::Conflict, message)
}

/// What is not known to be done is not done again, where that was declared.
fn declared(inner: &Inner, error: Error) -> Error {
    if error.is_unknown() && is_once(inner) {
        return not_known().with_source(error);
    }
    match ApiError::of(&error) {
        // In the API's words, for those who look at what was set aside.
        Some(api) if !error.is_transient() => {
            Error::new(error.kind(), format!("{error}: {api}")).with_source(api.clone())
        }
        _ => error,
    }
}

/// Whether there is time to send anything: what was not sent was certainly not done.
fn in_time(end: Instant) -> Outcome {
    match left(end).is_zero() {
        true => Err(Error::new(ErrorKind::Unavailable, "no time was left to ask the API")),
        false => Ok(()),
    }
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

fn late() -> Error {
    Error::new(ErrorKind::TimedOut, "the API did not answer in time")
}

fn held_back() -> Error {
    Error::new(ErrorKind::Unavailable, "an earlier settlement of the customer has to go first")
}
