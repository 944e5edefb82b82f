//! The definitions that decisions show, shared for as long as the server says the same of them.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use super::decision::unsound;
use crate::Error;
use crate::policy::catalog::{Plan, PlanLine, Shown};
use crate::policy::{Aggregation, Limit, Meter, Period};
use crate::wire::HeldLimit;

/// How many are kept. Beyond that they are made anew.
const MOST: usize = 1_000;

/// Plans by the ids of their limits, in their order.
#[derive(Debug, Default)]
pub(super) struct Plans {
    kept: Mutex<HashMap<u64, Arc<Plan>>>,
    hasher: RandomState,
}

impl Plans {
    /// The plan that has these limits.
    ///
    /// # Errors
    ///
    /// For a period that is none.
    pub(super) fn of(&self, limits: &[HeldLimit<'_>]) -> Result<Arc<Plan>, Error> {
        let mut hasher = self.hasher.build_hasher();
        limits.iter().for_each(|limit| limit.id.hash(&mut hasher));
        let ids = hasher.finish();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = kept.get(&ids).filter(|plan| is_told(plan, limits)) {
            return Ok(Arc::clone(plan));
        }
        let lines: Vec<PlanLine> = limits.iter().map(line).collect::<Result<_, _>>()?;
        let plan = Arc::new(Plan { lines: lines.into(), ..Plan::default() });
        if kept.len() >= MOST {
            kept.clear();
        }
        kept.insert(ids, Arc::clone(&plan));
        Ok(plan)
    }
}

/// Whether that is what the server says of all of these.
fn is_told(plan: &Plan, limits: &[HeldLimit<'_>]) -> bool {
    let is_same = |(line, held): (&PlanLine, &HeldLimit<'_>)| {
        let Some(limit) = &line.limit else { return false };
        limit.id() == held.id
            && limit.name() == held.name
            && limit.meter() == held.meter_id
            && line.meter.unit.as_deref() == held.unit.as_deref()
            && limit.dimensions == held.dimensions.0
            && line.period.as_str() == held.period
            && line.cap == held.limit
            && limit.private == held.private
    };
    plan.lines.len() == limits.len() && plan.lines.iter().zip(limits).all(is_same)
}

fn line(held: &HeldLimit<'_>) -> Result<PlanLine, Error> {
    let period: Period = held.period.parse().map_err(|_| unsound("period"))?;
    let cap = held.limit;
    let mut meter = Meter::sum(&held.meter_id, "");
    meter.unit = held.unit.as_deref().map(Into::into);
    let mut limit = Limit::new(&held.id, &held.meter_id, period, cap);
    limit.name = Some(held.name.as_ref().into());
    limit.dimensions = held.dimensions.0.clone();
    limit.private = held.private;
    let shown = Shown::new(&meter, &limit, cap);
    Ok(PlanLine {
        counter: 0,
        aggregation: Aggregation::Sum,
        amount: 0,
        period,
        cap,
        filters: Box::default(),
        alerts: Arc::default(),
        since: None,
        limit: Some(Arc::new(limit)),
        shown,
        meter: Arc::new(meter),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Pairs;

    fn held(id: &'static str) -> HeldLimit<'static> {
        HeldLimit {
            id: id.into(),
            name: "Daily".into(),
            meter_id: "tokens".into(),
            unit: None,
            dimensions: Pairs::default(),
            period: "day".into(),
            limit: 100.into(),
            used: 0.into(),
            held: 0.into(),
            remaining: 100.into(),
            exceeded: false,
            verdict: "within".into(),
            complete: true,
            reset: None,
            window: None,
            private: false,
        }
    }

    #[test]
    fn a_plan_is_shared_until_the_server_says_otherwise_of_a_limit() {
        let plans = Plans::default();
        let both = || vec![held("daily"), held("hourly")];
        let first = plans.of(&both()).unwrap();
        let mut later = both();
        (later[0].used, later[0].exceeded) = (100.into(), true);
        assert!(Arc::ptr_eq(&first, &plans.of(&later).unwrap()), "usage is no definition");
        let changes: [fn(&mut HeldLimit<'static>); 7] = [
            |held| held.name = "Each day".into(),
            |held| held.meter_id = "calls".into(),
            |held| held.unit = Some("tokens".into()),
            |held| held.dimensions.0.set("model", "large"),
            |held| held.period = "week".into(),
            |held| held.limit = 200.into(),
            |held| held.private = true,
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut limits = both();
            change(&mut limits[1]);
            let before = plans.of(&both()).unwrap();
            let plan = plans.of(&limits).unwrap();
            assert!(!Arc::ptr_eq(&before, &plan), "change {at}");
            assert!(Arc::ptr_eq(&plan, &plans.of(&limits).unwrap()), "change {at}");
        }
    }

    #[test]
    fn a_period_that_is_none_is_an_error() {
        let mut limit = held("daily");
        limit.period = "fortnight".into();
        assert!(Plans::default().of(&[limit]).is_err());
    }
}
