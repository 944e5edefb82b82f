//! A settlement as a call, and what its answer says.

use redis::Value;
use smallvec::{SmallVec, smallvec};

use super::check::kind;
use super::event::{write_event, write_transaction};
use super::link::{CallError, Caller};
use super::registry::Ending;
use super::reply::Reply;
use super::script::ScriptCall;
use super::{Inner, keys};
use crate::Error;
use crate::policy::{Amount, TransactionKind};
use crate::store::{Origin, SettleOperation, SettleOutcome, Settled};

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
        let mut also: SmallVec<[String; 6]> = smallvec![keys.events(shard), own, all];
        if operation.mark.is_some() {
            also.push(keys.within(shard, keys::MARKS, customer));
        }
        if operation.charge.is_some() {
            also.push(keys.within(shard, keys::TRANSACTIONS, customer));
        }
        if operation.lines.iter().any(|line| !line.alerts.is_empty()) {
            also.push(keys.alerts(shard));
        }
        let is_ordinary = matches!(operation.origin, Origin::Held(Some(_)))
            && store.terms.keep_events > 0
            && operation.lines.iter().all(|line| line.aggregation.adds());
        let scripts = &store.scripts;
        let script = if is_ordinary { &scripts.settle } else { &scripts.whole_settle };
        let mut call = store.begin(script, customer, &also, epoch, now)?;
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
        call.arg(id.write(&mut [0; 36])).arg(origin);
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
        call.arg(operation.at.as_nanos()).arg(event);
        match operation.mark {
            Some(mark) => {
                call.arg(mark.producer.to_string()).arg(mark.sequence);
                match mark.previous {
                    Some(previous) => call.arg(previous),
                    None => call.arg(""),
                };
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
            }
            None => drop(call.arg("")),
        }
        rolled.encode(operation, &mut call);
        let (mut told, mut digits) = (None, itoa::Buffer::new());
        for line in operation.lines {
            let Some(amount) = line.own(operation.given) else { continue };
            if !line.shares {
                let what = (kind(line.aggregation), amount);
                if told != Some(what) {
                    call.arg(what.0).arg(amount.as_millionths());
                    told = Some(what);
                }
                call.pieces(&keys::Count::of(line, &names)?.pieces(&mut digits));
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
    // The ordinary outcome is told alone.
    if matches!(&value, Value::BulkString(text) if text == b"n") {
        return Ok(Settled::nothing(SettleOutcome::Recorded));
    }
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
