//! Letting old events go, a few at a time, and keeping what they came to.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{position, row};
use crate::policy::{Amount, Timestamp};

/// How many are let go at once: few enough that nobody notices the wait.
const SOME: i64 = 256;

/// How long to wait when there is nothing to let go, and when nobody has told the time yet.
const NOW_AND_THEN: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(20);

/// The length of what events are summed up by, in seconds.
const QUARTER: i64 = 15 * 60;

#[derive(Debug)]
pub(super) struct Retention {
    keep_for: Duration,
    pub(super) due: Instant,
}

/// An event that is let go.
struct Old {
    sequence: i64,
    customer: i64,
    kind: i64,
    at: Timestamp,
    amounts: Vec<Amount>,
}

type Rollups = HashMap<(i64, i64, i64), (i64, Vec<Amount>)>;

impl Retention {
    pub(super) fn new(keep_for: Duration) -> Self {
        Self { keep_for, due: Instant::now() }
    }

    /// Lets go of the oldest events, if it is time to.
    pub(super) fn let_go(&mut self, file: &mut Connection, now: Timestamp) -> rusqlite::Result<()> {
        if Instant::now() < self.due {
            return Ok(());
        }
        if now == Timestamp::UNIX_EPOCH {
            self.due = Instant::now() + SOON;
            return Ok(());
        }
        let before = now.saturating_sub(self.keep_for);
        let step = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let old = oldest(&step, before)?;
        // Ended windows and alerts of that time go as well.
        let usages = step.execute(
            "DELETE FROM usage WHERE (customer, counter, ends) IN \
             (SELECT customer, counter, ends FROM usage WHERE ends < ?1 LIMIT ?2)",
            params![before.as_seconds(), SOME],
        )?;
        step.execute("DELETE FROM alert WHERE ends < ?1", [before.as_seconds()])?;
        if let Some(last) = old.last() {
            let mut rollups = Rollups::new();
            old.iter().for_each(|old| old.add_to(&mut rollups));
            for (key, sums) in rollups {
                add(&step, key, sums)?;
            }
            position::note(&step, position::group(&step)?)?;
            step.execute("DELETE FROM event WHERE sequence <= ?1", [last.sequence])?;
            let newest = old.iter().map(|old| old.at).max();
            step.execute(
                "INSERT INTO state (name, value) VALUES ('forgotten', ?1) \
                 ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
                [newest],
            )?;
        }
        step.commit()?;
        let more = old.len() as i64 == SOME || usages as i64 == SOME;
        self.due = Instant::now() + if more { Duration::ZERO } else { NOW_AND_THEN };
        Ok(())
    }
}

/// The events that came first, up to one that is not old.
fn oldest(file: &Connection, before: Timestamp) -> rusqlite::Result<Vec<Old>> {
    let mut oldest = file.prepare_cached(
        "SELECT sequence, customer, kind, at, amounts FROM event ORDER BY sequence LIMIT ?1",
    )?;
    let mut rows = oldest.query([SOME])?;
    let mut old = Vec::new();
    while let Some(row) = rows.next()? {
        let at: Timestamp = row.get(3)?;
        if at >= before {
            break;
        }
        old.push(Old {
            sequence: row.get(0)?,
            customer: row.get(1)?,
            kind: row.get(2)?,
            at,
            amounts: row::list(row.get_ref(4)?)?,
        });
    }
    Ok(old)
}

impl Old {
    fn add_to(&self, rollups: &mut Rollups) {
        let starts = self.at.as_seconds().div_euclid(QUARTER) * QUARTER;
        let (events, sums) = rollups.entry((self.customer, self.kind, starts)).or_default();
        *events += 1;
        add_up(sums, &self.amounts);
    }
}

fn add_up(sums: &mut Vec<Amount>, amounts: &[Amount]) {
    sums.resize(amounts.len(), Amount::ZERO);
    for (sum, amount) in sums.iter_mut().zip(amounts) {
        *sum = sum.saturating_add(*amount);
    }
}

fn add(
    file: &Connection,
    (customer, kind, starts): (i64, i64, i64),
    (mut events, mut sums): (i64, Vec<Amount>),
) -> rusqlite::Result<()> {
    let mut known = file.prepare_cached(
        "SELECT events, amounts FROM rollup WHERE customer = ?1 AND kind = ?2 AND starts = ?3",
    )?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok((row.get::<_, i64>(0)?, row::list::<Amount>(row.get_ref(1)?)?))
    };
    if let Some((earlier, amounts)) = known.query_row([customer, kind, starts], read).optional()? {
        events += earlier;
        add_up(&mut sums, &amounts);
    }
    let mut text = String::new();
    row::write_amounts(&mut text, sums.into_iter());
    let mut set = file.prepare_cached(
        "INSERT INTO rollup (customer, kind, starts, events, amounts) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT DO UPDATE SET events = excluded.events, amounts = excluded.amounts",
    )?;
    set.execute(params![customer, kind, starts, events, text]).map(|_| ())
}
