//! A decision, made of what the API tells and what this process knows besides. Plain rules.

use std::sync::Arc;

use crate::backend::{Answer, Ask, BalanceState};
use crate::client::LimitStanding;
use crate::policy::catalog::{Plan, PlanLine, Shown};
use crate::policy::{
    Amount, Balance, ConfigError, Dimensions, Limit, Meter, Timestamp, Verdict, Window,
    judge_balance, judge_limit,
};
use crate::store::{Judged, Line};

use super::ledger::{Asked, Ledger};
use super::window;

/// A limit that matched, and what is known of it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) standing: LimitStanding,
    pub(super) meter: Option<Arc<Meter>>,
    pub(super) narrowed: Dimensions,
}

/// A balance as the API tells it; `None` when there is none.
#[derive(Debug)]
pub(super) struct FoundBalance {
    pub(super) told: Option<Balance>,
    /// What is owed to it.
    pub(super) debt: Amount,
}

/// The question, and when it was put.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) ask: &'a Ask,
    pub(super) at: Timestamp,
    pub(super) asked: Asked,
    /// To show where a customer stands on everything, instead of asking for a request.
    pub(super) shows_all: bool,
}

/// The answer.
pub(super) fn judge(
    question: Question<'_>,
    limits: Vec<Found>,
    balance: Option<FoundBalance>,
    ledger: &Ledger,
) -> Answer {
    let mut lines = Vec::with_capacity(limits.len());
    let mut looked = Vec::with_capacity(limits.len());
    let limits = limits.into_iter().filter(|found| applies(question, found));
    for found in limits.take(usize::from(u16::MAX)) {
        let (window, judged) = look(question, &found, ledger);
        let line = line(found);
        looked.push((Line::new(0, line.aggregation, line.cap, window), judged));
        lines.push(line);
    }
    let plan = Arc::new(Plan { lines: lines.into(), ..Plan::default() });
    let balance = balance.and_then(|found| state(question, found, ledger));
    Answer::told(plan, question.at, looked, balance)
}

/// Adds the request's own estimate to what is held, once it is.
pub(super) fn hold(answer: &mut Answer, ask: &Ask) {
    for (line, judged) in answer.judged_mut().filter(|(line, _)| line.aggregation.adds()) {
        let asked = line.meter.reads(ask.expected.values()).unwrap_or_default();
        judged.held = judged.held.saturating_add(asked);
    }
    if let Some(balance) = answer.balance.as_mut().and_then(|state| state.balance.as_mut()) {
        balance.held = balance.held.saturating_add(price(ask).unwrap_or_default());
    }
}

/// Only limits that such an event could move can refuse it.
fn applies(question: Question<'_>, found: &Found) -> bool {
    let Some(meter) = &found.meter else { return true };
    let event_type = question.ask.event_type.as_deref().or(meter.event_type.as_deref());
    let dimensions = question.ask.expected.dimensions();
    question.shows_all || meter.accepts(event_type.unwrap_or_default(), dimensions)
}

/// The window of a limit, and what it says.
fn look(question: Question<'_>, found: &Found, ledger: &Ledger) -> (Window, Judged) {
    let Found { standing, meter, narrowed } = found;
    let window = window::ending(standing.period, standing.reset);
    let Some(meter) = meter else {
        // Nothing is known of how it counts, so what the API says goes.
        let verdict = if standing.exceeded { Verdict::Exceeded } else { Verdict::Within };
        return (window, Judged { verdict, used: standing.used, held: Amount::ZERO });
    };
    let local = ledger.on_limit(
        &question.ask.customer,
        question.asked,
        (meter, narrowed, &window),
        standing.used,
    );
    let used = standing.used.saturating_add(local.used);
    let expected = question.ask.expected.values();
    let asked = if question.shows_all { None } else { meter.reads(expected) };
    let verdict = judge_limit(meter.aggregation(), standing.limit, used, local.held, asked);
    (window, Judged { verdict, used, held: local.held })
}

fn line(found: Found) -> PlanLine {
    let Found { standing, meter, narrowed } = found;
    let mut limit = Limit::new(&standing.id, &standing.meter, standing.period, standing.limit);
    limit.name = Some(standing.name.into());
    limit.dimensions = narrowed;
    let meter = meter.unwrap_or_else(|| Arc::new(Meter::latest(&standing.meter, "")));
    // An id that is no slug would break the header fields that carry it.
    let shown = match ConfigError::check_slug("limit", &standing.id) {
        Ok(()) => Shown::new(&meter, &limit, standing.limit),
        Err(_) => None,
    };
    PlanLine {
        counter: 0,
        aggregation: meter.aggregation(),
        amount: 0,
        period: standing.period,
        cap: standing.limit,
        filters: Box::default(),
        alerts: Arc::default(),
        since: None,
        limit: Some(Arc::new(limit)),
        shown,
        meter,
    }
}

/// The price of the estimate, if there is one and it can be told.
pub(super) fn price(ask: &Ask) -> Option<Amount> {
    let charge = ask.charge.as_ref().filter(|_| !ask.expected.is_empty());
    charge.and_then(|charge| charge.price(&ask.expected))
}

fn state(question: Question<'_>, found: FoundBalance, ledger: &Ledger) -> Option<BalanceState> {
    let name = question.ask.charge.as_ref()?.balance.clone();
    let Some(mut balance) = found.told else {
        return Some(BalanceState { name, balance: None, verdict: Verdict::Exceeded });
    };
    adjust(&mut balance, question.ask, question.asked, found.debt, ledger);
    let above = balance.current.saturating_sub(balance.minimum);
    let verdict = judge_balance(above, balance.held, price(question.ask));
    Some(BalanceState { name, balance: Some(balance), verdict })
}

/// A balance as it will be when everything that is known here has reached it.
pub(super) fn adjust(
    balance: &mut Balance,
    ask: &Ask,
    asked: Asked,
    debt: Amount,
    ledger: &Ledger,
) {
    let local = ledger.on_balance(&ask.customer, asked, &balance.name);
    balance.current = balance.current.saturating_sub(local.used).saturating_sub(debt);
    balance.held = balance.held.saturating_add(local.held);
}
