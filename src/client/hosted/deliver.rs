//! Settlements as calls of the API: for each its debit, in the order of its customer; then the events
//! of all, in one call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::debts::{Debt, Owed};
use super::record::{has_failed_at, record};
use super::sent::Step;
use super::{Inner, pay};
use crate::backend::{Hold, Settlement};
use crate::client::call::key_of;
use crate::client::{ApiError, Repeat};
use crate::policy::{CustomerId, Debit};
use crate::{Error, ErrorKind, observe};

pub(super) type Outcome = Result<(), Error>;

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

pub(super) fn amount(settlement: &Settlement) -> Option<(&str, crate::policy::Amount)> {
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
    let key = key_of(customer, id);
    let sent = inner.client.balances().debit_within(&key, &debit, left(end));
    let answer = timeout_at(end, sent).await.unwrap_or_else(|_| Err(late()));
    let changed = match answer {
        Ok(changed) => changed,
        Err(error) => {
            if once {
                // One that stays counts as "perhaps done" once more, which it is not.
                let _ = inner.sent.note([(hold, None)]).await;
            }
            let is_suspect = !once && has_failed_at(&error);
            return Err(if is_suspect {
                failed_at(inner, hold, error)
            } else {
                declared(inner, error)
            });
        }
    };
    inner.undebited.taken([hold].into_iter());
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

/// The API failed at a debit. It is set aside once that was so often enough.
fn failed_at(inner: &Inner, hold: &Hold, error: Error) -> Error {
    let now = inner.clock.monotonic();
    match inner.undebited.failed_alone(hold, false, inner.terms.failures, now) {
        None => declared(inner, error),
        Some(failures) => {
            let said = ApiError::of(&error).map_or_else(String::new, ToString::to_string);
            let message = format!(
                "the API failed at the debit, {failures} times while it took others; whether it was \
                 taken is not known, and the event is not recorded: {said}"
            );
            Error::new(ErrorKind::Conflict, message).with_source(error)
        }
    }
}

pub(super) fn is_once(inner: &Inner) -> bool {
    inner.client.http().repeat() == Repeat::AtMostOnce
}

pub(super) fn again(error: &Error) -> Outcome {
    Err(Error::new(error.kind(), error.to_string()))
}

pub(super) fn not_known() -> Error {
    let message = "whether it was done is not known, and it is declared to be done at most once";
    Error::new(ErrorKind::Conflict, message)
}

/// What is not known to be done is not done again, where that was declared.
pub(super) fn declared(inner: &Inner, error: Error) -> Error {
    if error.is_unknown() && is_once(inner) {
        return not_known().with_source(error);
    }
    let Some(api) = ApiError::of(&error) else { return error };
    let kind = match api.status() {
        // Whoever said so: what is too long once is too long for ever.
        413 => ErrorKind::Invalid,
        _ if error.is_transient() => return error,
        _ => error.kind(),
    };
    // In the API's words, for those who look at what was set aside.
    Error::new(kind, format!("{error}: {api}")).with_source(api.clone())
}

/// Whether there is time to send anything: what was not sent was certainly not done.
pub(super) fn in_time(end: Instant) -> Outcome {
    match left(end).is_zero() {
        true => Err(Error::new(ErrorKind::Unavailable, "no time was left to ask the API")),
        false => Ok(()),
    }
}

pub(super) fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

pub(super) fn late() -> Error {
    Error::new(ErrorKind::TimedOut, "the API did not answer in time")
}

pub(super) fn held_back() -> Error {
    Error::new(ErrorKind::Unavailable, "an earlier settlement of the customer has to go first")
}
