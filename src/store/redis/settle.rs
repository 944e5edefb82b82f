//! A settlement as a call, and what its answer says.

use redis::Value;
use smallvec::{SmallVec, smallvec};

use super::check::kind;
use super::event::{write_event, write_transaction};
use super::keys::Fields;
use super::link::{CallError, Caller};
use super::registry::{Ending, Held};
use super::reply::Reply;
use super::script::ScriptCall;
use super::{Inner, keys};
use crate::Error;
use crate::policy::{Aggregation, Amount, TransactionKind};
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
        let version = store.version(shard, epoch)?;
        // After the version was read: see there.
        let rolled = store.shared.rolled();
        let rolled = rolled.given(operation);
        let is_ordinary = matches!(operation.origin, Origin::Held(Some(_)))
            && store.terms.keep_events > 0
            && rolled.adds()
            && operation.lines.iter().all(|line| line.aggregation.adds());
        let scripts = &store.scripts;
        let script = if is_ordinary { &scripts.settle } else { &scripts.whole_settle };
        let mut call = store.begin_under(script, (customer, shard), &also, &version, now);
        let names = store.shared.names();
        let mut lines = Counted::of(operation, &names)?;
        let counts = rolled.len() as u64 * 65_536 + lines.len() as u64;
        let (marked, charged) = (operation.mark.is_some(), operation.charge.is_some());
        call.arg((counts * 2 + u64::from(marked)) * 2 + u64::from(charged));
        let (origin, attempt) = match operation.origin {
            Origin::Held(place) => ("", place.map(|place| place.0)),
            Origin::Unsure(attempt) => ("U", Some(attempt)),
            // Two processes may take one event back at once.
            Origin::Fresh if operation.reverses => ("U", None),
            Origin::Fresh => ("F", None),
            Origin::Given => ("G", None),
        };
        let ending = store.registry.ending();
        let held = match operation.origin {
            Origin::Held(_) | Origin::Unsure(_) => store.registry.close(id, attempt),
            Origin::Fresh | Origin::Given => None,
        };
        match (&held, attempt) {
            (Some(held), Some(_)) if origin.is_empty() => drop(call.arg(&*held.text)),
            (_, Some(attempt)) => {
                call.pieces(&[origin, itoa::Buffer::new().format(attempt), "|"]);
            }
            (_, None) => drop(call.arg(origin)),
        }
        let held = held.filter(|held| match (&held.balance, operation.charge) {
            (Some((name, _)), Some((balance, _))) => name == balance.name,
            // Of a balance that is not charged now.
            (Some(_), None) => false,
            (None, _) => true,
        });
        let event = write_event(
            id,
            customer,
            operation.event_type,
            operation.usage,
            operation.at,
            operation.reverses,
        );
        call.arg(operation.at.as_nanos()).arg(event);
        if let Some(mark) = operation.mark {
            call.arg(mark.producer.to_string()).arg(mark.sequence);
            match mark.previous {
                Some(previous) => call.arg(previous),
                None => call.arg(""),
            };
        }
        encode_charge(operation, held.as_ref(), &mut call);
        rolled.encode(&mut call);
        Counted::encode(&lines, held.as_ref(), &mut call);
        encode_alerts(operation, &mut call);
        for line in &mut lines {
            call.arg(line.fields.used());
        }
        if let Some((balance, _)) = operation.charge {
            call.pieces(&["b", balance.name]).arg("last");
        }
        call.pieces(&[keys::HOLD, id.write(&mut [0; 36])]);
        for line in &mut lines {
            call.arg(line.fields.held());
        }
        if let Some((balance, _)) = operation.charge {
            call.pieces(&["g", balance.name]);
        }
        Some(Self { call, caller: store.caller.clone(), _ending: ending })
    }

    pub(super) async fn answer(self) -> Result<Settled, Error> {
        let end = self.caller.deadline();
        let value = self.call.run(&self.caller, end).await?;
        Ok(read(value)?)
    }
}

/// The charge of a balance, and what the hold set aside of that.
fn encode_charge(operation: &SettleOperation<'_>, held: Option<&Held>, call: &mut ScriptCall) {
    let Some((balance, amount)) = operation.charge else { return };
    let kind = match amount.is_negative() {
        true => TransactionKind::Credit,
        false => TransactionKind::Debit,
    };
    let size = amount.max(Amount::ZERO.saturating_sub(amount));
    let made =
        write_transaction(operation.id, balance.name, kind, size, operation.at, (None, None));
    let [initial, _] = super::terms(balance.default);
    call.arg(amount.as_millionths()).amount(initial);
    let aside = |held: &Held| held.balance.as_ref().map_or(Amount::ZERO, |(_, amount)| *amount);
    call.amount(held.map(aside)).arg(made);
}

/// The limits that alert, by the places of their counters.
fn encode_alerts(operation: &SettleOperation<'_>, call: &mut ScriptCall) {
    let mut place = 0;
    for line in operation.lines.iter().filter(|line| line.own(operation.given).is_some()) {
        place += usize::from(!line.shares);
        if line.alerts.is_empty() {
            continue;
        }
        call.arg(place).arg(line.limit.as_str()).arg(line.alerts.len());
        for (percent, due) in &*line.alerts {
            call.arg(*percent).arg(due.as_millionths());
        }
    }
}

/// A counter and what it is given.
struct Counted {
    place: keys::Place,
    fields: Fields,
    kind: &'static str,
    given: Amount,
}

impl Counted {
    /// `None` where nobody knows a counter.
    fn of(operation: &SettleOperation<'_>, names: &[Box<str>]) -> Option<SmallVec<[Self; 4]>> {
        let lines = operation.lines.iter().filter(|line| !line.shares);
        lines
            .filter_map(|line| Some((line, line.own(operation.given)?)))
            .map(|(line, given)| {
                let place = keys::place(line);
                let fields = Fields::of(place, names)?;
                Some(Self { place, fields, kind: kind(line.aggregation), given })
            })
            .collect()
    }

    /// What each is given, and what the hold set aside on it.
    fn encode(lines: &[Self], held: Option<&Held>, call: &mut ScriptCall) {
        let aside = |line: &Self| {
            let own = held?.lines.iter().find(|(place, _)| *place == line.place);
            Some(own.map_or(Amount::ZERO, |(_, amount)| *amount))
        };
        // Where it set something aside on others, too, that has to be looked up.
        let asides: SmallVec<[_; 4]> = lines.iter().map(aside).collect();
        let found = asides.iter().flatten().filter(|amount| amount.is_positive()).count();
        let is_known = held.is_some_and(|held| held.lines.len() == found);
        let text = |aside: Option<Amount>, call: &mut ScriptCall| {
            call.amount(aside.filter(|_| is_known));
        };
        let (given, aside) = match lines {
            [] => (Amount::ZERO, Some(Amount::ZERO)),
            [first, ..] => (first.given, asides[0]),
        };
        let one = |(line, own): (&Self, &Option<Amount>)| {
            line.kind == kind(Aggregation::Sum) && line.given == given && *own == aside
        };
        if lines.iter().zip(&asides).all(one) {
            call.arg(given.as_millionths());
            return text(aside, call);
        }
        call.arg("").arg("");
        for (line, aside) in lines.iter().zip(asides) {
            call.arg(line.kind).arg(line.given.as_millionths());
            text(aside, call);
        }
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
