//! What a check would be answered, and where a customer stands.

use std::borrow::Cow;

use axum::extract::State;

use super::Shared;
use super::holds::question;
use super::problem::{Answer, Problem, ok};
use super::request::{Json, customer};
use crate::backend::{BalanceState, Decision, Denial, LimitState};
use crate::wire::{
    CustomerName, DecisionBody, HeldBalance, HeldLimit, HoldCheck, HoldCheckBody, Pairs, WindowBody,
};

pub(super) async fn preview(
    State(app): State<Shared>,
    Json(asked): Json<HoldCheck>,
) -> Result<Answer, Problem> {
    let decision = app.books.preview(question(&asked)?).await?;
    ok(decided(&decision)).map(Answer::from)
}

pub(super) async fn usage(
    State(app): State<Shared>,
    Json(asked): Json<CustomerName>,
) -> Result<Answer, Problem> {
    let standing = app.books.usage(customer(&asked.customer_id)?).await?;
    ok(decided(&standing)).map(Answer::from)
}

fn decided(decision: &Decision) -> DecisionBody<'_> {
    DecisionBody {
        allowed: decision.is_allowed(),
        at: decision.at(),
        retry_after: decision.retry_after().map(|wait| wait.as_secs()),
        reason: reason(decision),
        limits: decision.looked_at().map(limit).collect(),
        balance: decision.balance().map(balance),
    }
}

/// A decision under the id of its check.
pub(super) fn held<'a>(id: &'a str, decision: &'a Decision, is_held: bool) -> HoldCheckBody<'a> {
    let DecisionBody { allowed, at, retry_after, reason, limits, balance } = decided(decision);
    let settled = allowed && !is_held;
    let id = id.into();
    HoldCheckBody { id, held: is_held, settled, allowed, at, retry_after, reason, limits, balance }
}

fn reason(decision: &Decision) -> Option<Cow<'_, str>> {
    let denial = Denial::new(decision.clone());
    denial.map(|denial| denial.kind().as_str().into())
}

fn limit(state: LimitState<'_>) -> HeldLimit<'_> {
    let mut dimensions = Pairs::default();
    state.dimensions().for_each(|(key, text)| dimensions.0.set(key, text));
    let window = state.window();
    HeldLimit {
        id: state.id().into(),
        name: state.name().into(),
        meter_id: state.meter().into(),
        unit: state.unit().map(Into::into),
        dimensions,
        period: state.period().as_str().into(),
        limit: state.limit(),
        used: state.used(),
        held: state.held(),
        remaining: state.remaining(),
        exceeded: state.is_exceeded(),
        verdict: state.verdict().as_str().into(),
        complete: state.is_complete(),
        reset: state.reset(),
        window: (!window.is_all_time())
            .then(|| WindowBody { start: window.start(), end: window.end() }),
        private: state.is_private(),
    }
}

fn balance(state: &BalanceState) -> HeldBalance<'_> {
    let of = state.balance();
    HeldBalance {
        name: state.name().into(),
        sufficient: !state.is_exceeded(),
        verdict: state.verdict.as_str().into(),
        unit: of.map(|balance| balance.unit().into()),
        current_balance: of.map(|balance| balance.current()),
        minimum_balance: of.map(|balance| balance.minimum()),
        held: of.map(|balance| balance.held()),
        available_balance: of.map(|balance| balance.available()),
    }
}
