//! A settlement as a call, and what its answer says.

use redis::Value;

use super::check::kind;
use super::event::{write_event, write_transaction};
use super::link::{CallError, Caller};
use super::registry::Ending;
use super::reply::Reply;
use super::script::{self, ScriptCall};
use super::{Inner, keys};
use crate::Error;
use crate::policy::{Amount, TransactionKind};
use crate::store::{Origin, SettleOperation, SettleOutcome, Settled};

/// How long marks are kept after they were moved last, in days.
const KEEP_MARKS: u64 = 400;

/// A settlement on its way.
pub(super) struct Sent {
    call: ScriptCall,
    caller: Caller,
    _ending: Ending,
}

impl Sent {
    /// `None` when the operation is out of date.
    pub(super) fn of(store: &Inner, operation: &SettleOperation<'_>) -> Option<Self> {
        let SettleOperation { epoch, now, id, customer, .. } = *operation;
        let keys = &store.shared.keys;
        let shard = keys::shard_of(customer.as_str());
        let [own, all] = keys.rollups_of(shard, customer, operation.at);
        let also = [
            keys.within(shard, keys::TRANSACTIONS, customer),
            keys.within(shard, keys::MARKS, customer),
            keys.events(shard),
            own,
            all,
            keys.alerts(shard),
        ];
        let mut call = store.begin(&script::SETTLE, customer, &also, epoch, now)?;
        // After its version was read: see there.
        let rolled = store.shared.rolled();
        let names = store.shared.names();
        let (origin, attempt) = match operation.origin {
            Origin::Held(place) => ("H", place.map(|place| place.0)),
            Origin::Unsure(attempt) => ("U", Some(attempt)),
            // Two processes may take one event back at once.
            Origin::Fresh if operation.reverses => ("U", None),
            Origin::Fresh => ("F", None),
            Origin::Given => ("G", None),
        };
        let at = operation.at.as_nanos();
        call.arg(id.to_string()).arg(origin);
        match attempt {
            Some(attempt) => call.arg(attempt),
            None => call.arg(""),
        };
        let event = write_event(
            id,
            customer,
            operation.event_type,
            operation.usage,
            operation.at,
            operation.reverses,
        );
        call.arg(at)
            .arg(at.div_euclid(1_000))
            .arg(store.horizon())
            .arg(event)
            .arg(store.keep_events)
            .arg(store.keep_events_for.as_millis() as u64);
        match operation.mark {
            Some(mark) => {
                call.arg(mark.producer.to_string()).arg(mark.sequence);
                match mark.previous {
                    Some(previous) => call.arg(previous),
                    None => call.arg(""),
                };
                call.arg(KEEP_MARKS);
            }
            None => drop(call.arg("")),
        }
        match operation.charge {
            Some((balance, amount)) => {
                let kind = match amount.is_negative() {
                    true => TransactionKind::Credit,
                    false => TransactionKind::Debit,
                };
                let size = amount.max(Amount::ZERO.saturating_sub(amount));
                let made =
                    write_transaction(id, balance.name, kind, size, operation.at, (None, None));
                let (initial, _) = super::terms(balance.default);
                call.arg(balance.name).arg(amount.as_millionths()).arg(initial).arg(made);
                call.arg(store.keep_transactions);
            }
            None => drop(call.arg("")),
        }
        rolled.encode(operation, &mut call);
        for line in operation.lines {
            let Some(amount) = line.own(operation.given) else { continue };
            if !line.shares {
                let name = names.get(line.counter as usize)?;
                call.arg(kind(line.aggregation))
                    .arg(format!("{}.{name}", keys::end(&line.window)))
                    .arg(amount.as_millionths());
            }
            if !line.alerts.is_empty() {
                call.arg("a").arg(line.limit.as_str()).arg(line.alerts.len());
                for (percent, due) in &*line.alerts {
                    call.arg(*percent).arg(due.as_millionths());
                }
            }
        }
        let ending = store.registry.ending();
        if matches!(operation.origin, Origin::Held(_) | Origin::Unsure(_)) {
            store.registry.close(id, attempt);
        }
        Some(Self { call, caller: store.caller.clone(), _ending: ending })
    }

    pub(super) async fn answer(self) -> Result<Settled, Error> {
        let end = self.caller.deadline();
        let value = self.call.run(&self.caller, end).await?;
        Ok(read(value)?)
    }
}

fn read(value: Value) -> Result<Settled, CallError> {
    let mut reply = Reply::of(value)?;
    let outcome = match reply.text()?.as_str() {
        "n" => SettleOutcome::Recorded,
        "d" => SettleOutcome::Repeat,
        "t" => SettleOutcome::TooOld,
        "b" => SettleOutcome::Behind,
        "s" | "x" => SettleOutcome::Stale,
        _ => return Err(CallError::Nonsense("an outcome")),
    };
    let mut settled = Settled::nothing(outcome);
    if outcome != SettleOutcome::Recorded {
        return Ok(settled);
    }
    settled.saturated = reply.some_text()?.is_some();
    while !reply.is_over() {
        let limit = reply.text()?.into();
        let percent =
            reply.text()?.parse().map_err(|_| CallError::Nonsense("an alert's percentage"))?;
        settled.alerts.push((limit, percent, reply.amount()?));
    }
    Ok(settled)
}
