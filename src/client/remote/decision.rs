//! A decision, made again from what the server says of it.

use super::plans::Plans;
use crate::backend::{Answer, BalanceState, Check, Decision};
use crate::policy::{Aggregation, Amount, Balance, Verdict, Window};
use crate::store::{Judged, Line};
use crate::wire::{DecisionBody, HeldBalance, HeldLimit, HoldCheckBody};
use crate::{Error, ErrorKind};

impl<'a> From<HoldCheckBody<'a>> for DecisionBody<'a> {
    fn from(body: HoldCheckBody<'a>) -> Self {
        let HoldCheckBody { allowed, at, retry_after, reason, limits, balance, .. } = body;
        Self { allowed, at, retry_after, reason, limits, balance }
    }
}

/// The decision that answers the check.
pub(super) fn of(check: Check, body: DecisionBody<'_>, plans: &Plans) -> Result<Decision, Error> {
    let DecisionBody { allowed, at, limits, balance, .. } = body;
    let plan = plans.of(&limits)?;
    if limits.len() > usize::from(u16::MAX) {
        return Err(unsound("limits"));
    }
    let looked = limits.iter().map(look).collect::<Result<_, _>>()?;
    let balance = balance.map(state).transpose()?;
    let mut answer = Answer::told(plan, at, looked, balance);
    // A repeated check is allowed although what it asks is among what is held.
    if answer.allowed != allowed {
        if !allowed {
            return Err(unsound("allowed"));
        }
        answer.allowed = true;
    }
    Ok(check.answered(|_| answer))
}

fn look(limit: &HeldLimit<'_>) -> Result<(Line, Judged), Error> {
    let window = match limit.window {
        None => Window::ALL_TIME,
        Some(window) if window.start < window.end => Window::new(window.start, window.end),
        Some(_) => return Err(unsound("window")),
    };
    let verdict = verdict(&limit.verdict)?;
    let line = Line::new(0, Aggregation::Sum, limit.limit, window);
    let judged = Judged { verdict, used: limit.used, held: limit.held };
    Ok((Line { complete: limit.complete, ..line }, judged))
}

fn state(held: HeldBalance<'_>) -> Result<BalanceState, Error> {
    let name = compact_str::CompactString::from(held.name);
    let verdict = verdict(&held.verdict)?;
    let balance = held.current_balance.map(|current| Balance {
        name: name.clone(),
        unit: held.unit.unwrap_or_default().into(),
        current,
        minimum: held.minimum_balance.unwrap_or(Amount::ZERO),
        held: held.held.unwrap_or(Amount::ZERO),
    });
    Ok(BalanceState { name, balance, verdict })
}

fn verdict(text: &str) -> Result<Verdict, Error> {
    let verdict = Verdict::ALL.into_iter().find(|verdict| verdict.as_str() == text);
    verdict.ok_or_else(|| unsound("verdict"))
}

/// The server has decided, and it is not known what.
pub(super) fn unsound(member: &str) -> Error {
    let message = format!("the answer of the server makes no sense: {member}");
    Error::new(ErrorKind::TimedOut, message)
}
