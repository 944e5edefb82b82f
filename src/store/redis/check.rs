//! A check as a call, and what its answer says.

use std::time::Duration;

use compact_str::CompactString;
use redis::Value;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::keys::Fields;
use super::link::{CallError, Caller};
use super::registry::{Held, Opening};
use super::script::ScriptCall;
use super::{Inner, keys, reply};
use crate::Error;
use crate::policy::{
    Aggregation, Amount, Balance, NewBalance, Room, Verdict, judge_balance, judge_limit, room,
};
use crate::store::{
    BalanceAsk, CheckOperation, Checked, Judged, JudgedBalance, Line, Outcome, Place,
};

/// A check on its way.
pub(super) struct Asked {
    call: ScriptCall,
    caller: Caller,
    end: Instant,
    lines: SmallVec<[AskedLine; 4]>,
    balance: Option<AskedBalance>,
    attempt: u64,
    holds: bool,
    opening: Option<Opening>,
}

struct AskedLine {
    aggregation: Aggregation,
    cap: Amount,
    asked: Option<Amount>,
    holds: Amount,
}

struct AskedBalance {
    name: CompactString,
    default: Option<NewBalance>,
    asked: Option<Amount>,
}

impl Asked {
    /// `None` when the operation is out of date.
    pub(super) fn of(store: &Inner, operation: &CheckOperation<'_>) -> Option<Self> {
        let lifetime = operation.hold.map(|terms| store.lifetime(terms.lifetime));
        let is_ordinary = lifetime.is_some_and(|time| time <= BRIEF) && has_room(operation);
        let scripts = &store.scripts;
        let script = if is_ordinary { &scripts.check } else { &scripts.whole_check };
        let mut call =
            store.begin(script, operation.customer, &[], operation.epoch, operation.now)?;
        let names = store.shared.names();
        let (mut id, mut digits) = ([0; 36], itoa::Buffer::new());
        let id = operation.id.write(&mut id);
        call.arg(2 * operation.lines.len() + usize::from(operation.balance.is_some()));
        call.pieces(&["R", digits.format(operation.attempt), keys::HOLD, id]);
        match lifetime {
            Some(lifetime) => call.arg(lifetime.as_micros() as u64),
            None => call.arg(""),
        };
        let fields = operation.lines.iter().map(|line| Fields::of(keys::place(line), &names));
        let mut fields: SmallVec<[_; 4]> = fields.collect::<Option<_>>()?;
        let text = hold(operation, &mut fields);
        call.arg(&*text);
        let same = same(operation);
        call.amount(same);
        let balance = operation.balance.map(|ask| AskedBalance::encode(ask, &mut call));
        for line in operation.lines {
            match room_of(line, operation.asked) {
                Room::Any => call.arg(ANY),
                Room::AtMost(amount) => call.arg(amount.as_millionths()),
                Room::None => call.arg("none"),
            };
            if same.is_some() {
                continue;
            }
            call.amount(held_on(line, operation.asked));
        }
        let name = operation.balance.map(|ask| ask.balance.name);
        for fields in &mut fields {
            call.arg(fields.used());
        }
        if let Some(name) = name {
            call.pieces(&["b", name]);
        }
        call.pieces(&[keys::HOLD, id]);
        for fields in &mut fields {
            call.arg(fields.held());
        }
        if let Some(name) = name {
            call.pieces(&["g", name]).pieces(&["m", name]);
        }
        let opening = operation.hold.map(|terms| {
            let ends =
                terms.lifetime.map(|lifetime| operation.now.monotonic().saturating_add(lifetime));
            store.registry.open(
                operation.id,
                operation.attempt,
                operation.customer,
                ends,
                Held::of(operation, text),
            )
        });
        Some(Self {
            call,
            caller: store.caller.clone(),
            end: store.caller.deadline(),
            lines: operation
                .lines
                .iter()
                .map(|line| AskedLine::of(line, operation.asked))
                .collect(),
            balance,
            attempt: operation.attempt,
            holds: operation.hold.is_some(),
            opening,
        })
    }

    pub(super) async fn answer(self) -> Result<Checked, Error> {
        let Self { call, caller, end, lines, balance, attempt, holds, opening } = self;
        let value = call.run(&caller, end).await?;
        let checked = read(value, &lines, balance, attempt, holds)?;
        if let Some(opening) = opening.filter(|_| checked.place.is_some()) {
            opening.leave();
        }
        Ok(checked)
    }
}

impl AskedLine {
    fn of(line: &Line, asked: &[Option<Amount>]) -> Self {
        let asked = line.own(asked);
        let Line { aggregation, cap, .. } = *line;
        Self { aggregation, cap, asked, holds: line.holds(asked) }
    }
}

impl AskedBalance {
    fn encode(ask: BalanceAsk<'_>, call: &mut ScriptCall) -> Self {
        let asked = ask.asked;
        let default = ask.balance.default;
        let [initial, minimum] = super::terms(default);
        call.amount(asked).amount(initial).amount(minimum);
        Self { name: ask.balance.name.into(), default: default.cloned(), asked }
    }
}

/// Holds for longer than half a day need their keys told how long to live.
const BRIEF: Duration = Duration::from_secs(12 * 3_600);

/// Room for whatever is: more than an amount can be.
const ANY: &str = "99999999999999999999";

fn room_of(line: &Line, asked: &[Option<Amount>]) -> Room {
    room(line.aggregation, line.cap, line.own(asked))
}

/// Whether there is room on every line for whoever has used nothing. The ordinary check takes that for
/// granted.
fn has_room(operation: &CheckOperation<'_>) -> bool {
    operation.lines.iter().all(|line| match room_of(line, operation.asked) {
        Room::Any => true,
        Room::AtMost(amount) => !amount.is_negative(),
        Room::None => false,
    })
}

/// What is set aside on every line, where that is the same.
fn same(operation: &CheckOperation<'_>) -> Option<Amount> {
    let mut amounts = operation.lines.iter().map(|line| held_on(line, operation.asked));
    let first = amounts.next()??;
    amounts.all(|amount| amount == Some(first)).then_some(first)
}

/// What is set aside on a line; once where several share a counter.
fn held_on(line: &Line, asked: &[Option<Amount>]) -> Option<Amount> {
    Some(line.holds(line.own(asked))).filter(|amount| amount.is_positive() && !line.shares)
}

impl Held {
    fn of(operation: &CheckOperation<'_>, text: Box<[u8]>) -> Self {
        let lines = operation.lines.iter().filter_map(|line| {
            let amount = held_on(line, operation.asked)?;
            Some((keys::place(line), amount))
        });
        Self { text, lines: lines.collect(), balance: asked_of(operation) }
    }
}

/// What is set aside of the balance.
fn asked_of(operation: &CheckOperation<'_>) -> Option<(CompactString, Amount)> {
    let ask = operation.balance?;
    let asked = ask.asked.filter(|asked| asked.is_positive())?;
    Some((ask.balance.name.into(), asked))
}

/// A hold, as the books have it: see `lua/customer.lua`.
fn hold(operation: &CheckOperation<'_>, fields: &mut [Fields]) -> Box<[u8]> {
    let mut text = Vec::with_capacity(256);
    let mut digits = itoa::Buffer::new();
    text.extend_from_slice(digits.format(operation.attempt).as_bytes());
    text.push(b'|');
    for (line, fields) in operation.lines.iter().zip(fields) {
        if let Some(amount) = held_on(line, operation.asked) {
            text.extend_from_slice(fields.held());
            text.push(b'|');
            text.extend_from_slice(digits.format(amount.as_millionths()).as_bytes());
            text.push(b'|');
        }
    }
    text.push(b'#');
    if let Some((name, amount)) = asked_of(operation) {
        text.extend_from_slice(digits.format(amount.as_millionths()).as_bytes());
        text.extend_from_slice(b"|g");
        text.extend_from_slice(name.as_bytes());
    }
    text.into()
}

fn read(
    value: Value,
    lines: &[AskedLine],
    balance: Option<AskedBalance>,
    attempt: u64,
    holds: bool,
) -> Result<Checked, CallError> {
    let text = reply::text(value)?.ok_or(CallError::Nonsense("no answer to a check"))?;
    let mut told = Told(Some(&text));
    let mut checked =
        Checked { outcome: Outcome::Stale, place: None, judged: Vec::new(), balance: None };
    let what = told.piece()?;
    checked.outcome = match what {
        "s" | "x" => Outcome::Stale,
        "f" => Outcome::Finished,
        "r" => Outcome::Released,
        "o" => Outcome::Open,
        "a" | "k" => Outcome::Allowed,
        "d" => Outcome::Refused,
        _ => return Err(CallError::Nonsense("an outcome")),
    };
    if !matches!(checked.outcome, Outcome::Allowed | Outcome::Refused) {
        return Ok(checked);
    }
    let used: SmallVec<[Amount; 8]> =
        lines.iter().map(|_| told.amount()).collect::<Result<_, _>>()?;
    let current = if balance.is_some() { told.some_amount()? } else { None };
    // Nothing in the place of the hold; and nothing behind it where nothing is held.
    let is_free = told.is_over();
    if !is_free {
        told.piece()?;
    }
    let mut held = || if is_free { Ok(Amount::ZERO) } else { told.amount() };
    // What is answered is from before the hold, if one was placed now.
    let placed = holds && what == "a";
    checked.judged.reserve_exact(lines.len());
    for (line, used) in lines.iter().zip(used) {
        let held = held()?;
        let verdict = match what {
            "k" => Verdict::Within,
            _ => judge_limit(line.aggregation, line.cap, used, held, line.asked),
        };
        let own = if placed { line.holds } else { Amount::ZERO };
        checked.judged.push(Judged { verdict, used, held: held.saturating_add(own) });
    }
    if let Some(ask) = balance {
        let held = held()?;
        checked.balance = Some(match current {
            Some(current) => judge(ask, current, held, told.rest(), what, placed)?,
            None => JudgedBalance { verdict: Verdict::Exceeded, balance: None },
        });
    }
    if holds && checked.outcome == Outcome::Allowed {
        checked.place = Some(Place(attempt));
    }
    Ok(checked)
}

fn judge(
    ask: AskedBalance,
    current: Amount,
    held: Amount,
    terms: Option<&str>,
    what: &str,
    placed: bool,
) -> Result<JudgedBalance, CallError> {
    let (unit, minimum) = match (terms, &ask.default) {
        (Some(terms), _) => super::own_terms(terms)?,
        (None, Some(default)) => (default.unit.clone(), default.minimum.unwrap_or(Amount::ZERO)),
        (None, None) => return Err(CallError::Nonsense("a balance without terms")),
    };
    let above = current.saturating_sub(minimum);
    let verdict = match what {
        "k" => Verdict::Within,
        _ => judge_balance(above, held, ask.asked),
    };
    let own = ask.asked.filter(|asked| placed && asked.is_positive());
    let held = held.saturating_add(own.unwrap_or(Amount::ZERO));
    let balance = Balance { name: ask.name, unit, current, minimum, held };
    Ok(JudgedBalance { verdict, balance: Some(balance) })
}

/// What a check is told: pieces with a space between them, in one text, as one is read faster than many
/// are.
struct Told<'a>(Option<&'a str>);

impl<'a> Told<'a> {
    fn is_over(&self) -> bool {
        self.0.is_none()
    }

    /// The next piece.
    fn piece(&mut self) -> Result<&'a str, CallError> {
        let text = self.0.ok_or(CallError::Nonsense("an answer that is too short"))?;
        let (piece, rest) = match text.split_once(' ') {
            Some((piece, rest)) => (piece, Some(rest)),
            None => (text, None),
        };
        self.0 = rest;
        Ok(piece)
    }

    /// An amount, if it is there.
    fn some_amount(&mut self) -> Result<Option<Amount>, CallError> {
        let piece = self.piece()?;
        if piece.is_empty() {
            return Ok(None);
        }
        let millionths =
            piece.parse().map_err(|_| CallError::Nonsense("an amount that is no number"))?;
        Ok(Some(Amount::from_millionths(millionths)))
    }

    /// An amount, or nothing.
    fn amount(&mut self) -> Result<Amount, CallError> {
        Ok(self.some_amount()?.unwrap_or(Amount::ZERO))
    }

    /// All that is left, if it is there.
    fn rest(self) -> Option<&'a str> {
        self.0.filter(|rest| !rest.is_empty())
    }
}

pub(super) fn kind(aggregation: Aggregation) -> &'static str {
    match aggregation {
        Aggregation::Sum | Aggregation::Count => "s",
        Aggregation::Max => "m",
        Aggregation::Latest => "l",
    }
}
