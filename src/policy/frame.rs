//! Plans in the windows of a moment.

use std::sync::Arc;

use compact_str::CompactString;

use super::catalog::{Plan, PlanLine};
use super::{Aggregation, Amount, Timestamp, Window};

/// One counter in one window, and the limit on it: worked out once, and the same for every request
/// while the window stands.
#[derive(Clone, Debug)]
pub struct Line {
    /// The counter.
    pub counter: u32,
    /// The line before is on the same counter in the same window: what it asks is held once, what it
    /// is given is counted once.
    pub shares: bool,
    /// How the counter moves.
    pub aggregation: Aggregation,
    /// The cap.
    pub cap: Amount,
    /// The window.
    pub window: Window,
    /// The id of the limit, for its alerts.
    pub limit: CompactString,
    /// Usage at which an alert is due, by percentage.
    pub alerts: Arc<[(u8, Amount)]>,
    /// Which of an operation's amounts is its own.
    pub amount: u16,
    /// Names the window among those of its counter.
    pub(crate) end: i32,
    /// Which line of the plan it is.
    pub(crate) index: u16,
    /// The history behind the counter is known to be whole.
    pub(crate) complete: bool,
}

impl Line {
    /// A limit without alerts.
    pub fn new(counter: u32, aggregation: Aggregation, cap: Amount, window: Window) -> Self {
        Self {
            counter,
            shares: false,
            aggregation,
            cap,
            window,
            limit: CompactString::default(),
            alerts: Arc::default(),
            amount: 0,
            end: window.last_minute(),
            index: 0,
            complete: true,
        }
    }

    /// Its own of these amounts: what is asked of the limit, or what an event gives the counter.
    #[inline]
    pub fn own(&self, amounts: &[Option<Amount>]) -> Option<Amount> {
        amounts.get(usize::from(self.amount)).copied().flatten()
    }

    /// What a hold sets aside on this line when so much is asked of it.
    #[inline]
    pub fn holds(&self, asked: Option<Amount>) -> Amount {
        let asked = asked.filter(|asked| asked.is_positive() && self.aggregation.adds());
        asked.unwrap_or(Amount::ZERO)
    }
}

/// Lines of a plan, in the windows of one moment.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) plan: Arc<Plan>,
    /// In the order of the plan.
    pub(crate) lines: Box<[Line]>,
    /// From when until when all of the windows stand.
    from: Timestamp,
    until: Timestamp,
}

impl Frame {
    /// Every line of the plan. `find` tells its window, and whether the history of its counter is whole
    /// in it.
    pub(crate) fn of(plan: &Arc<Plan>, mut find: impl FnMut(&PlanLine) -> (Window, bool)) -> Self {
        let mut last = None;
        let lines = (0..).zip(&plan.lines).map(|(index, line)| {
            let (window, complete) = find(line);
            let shares = last.replace(line.counter) == Some(line.counter);
            Line {
                shares,
                limit: CompactString::new(line.id()),
                alerts: Arc::clone(&line.alerts),
                amount: line.amount,
                index,
                complete,
                ..Line::new(line.counter, line.aggregation, line.cap, window)
            }
        });
        Self::new(Arc::clone(plan), lines.collect())
    }

    pub(crate) fn new(plan: Arc<Plan>, lines: Box<[Line]>) -> Self {
        let windows = || lines.iter().map(|line| line.window);
        let from = windows().map(|window| window.start()).max().unwrap_or(Timestamp::MIN);
        let until = windows().map(|window| window.end()).min().unwrap_or(Timestamp::MAX);
        Self { plan, lines, from, until }
    }

    /// These lines of it alone. Limits that share a counter have the same filters, and stay together.
    pub(crate) fn narrowed(&self, which: &[u16]) -> Self {
        let lines = self.lines.iter().filter(|line| which.contains(&line.index));
        Self::new(Arc::clone(&self.plan), lines.cloned().collect())
    }

    /// Whether it has just these lines.
    pub(crate) fn is_of(&self, which: &[u16]) -> bool {
        self.lines.iter().map(|line| line.index).eq(which.iter().copied())
    }

    /// Whether the moment lies in all of the windows.
    #[inline]
    pub(crate) fn covers(&self, at: Timestamp) -> bool {
        self.from <= at && at < self.until
    }
}
