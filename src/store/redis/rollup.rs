//! What meters come to in every quarter of an hour: summed up in the step that counts an event, and
//! read where the event itself is long gone.
//!
//! Definitions tell which meters are summed up, so that every program does it alike, whichever meters
//! it defines itself. One that is added later is summed up from then on: its events of before are
//! counted one by one while they are kept.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use redis::cmd;
use smallvec::SmallVec;

use super::keys::{SHARDS, named, shard_of};
use super::link::CallError;
use super::reply::{self, Reply};
use super::script::ScriptCall;
use super::shared::Note;
use super::{Inner, keys};
use crate::Error;
use crate::policy::{Aggregation, Amount, CustomerId, Meter, RecordedEvent, Timestamp};
use crate::store::{RolledUp, Rollup, Rollups, SettleOperation, Wanted, definition};

const NANOS: i64 = 1_000_000_000;
const QUARTER: i64 = 15 * 60 * NANOS;
const DAY: i64 = 24 * 3_600 * NANOS;
const DAY_MILLIS: u64 = 24 * 3_600 * 1_000;

/// How many hashes are read at once.
const AT_ONCE: usize = 512;

/// What each meter is summed up as, by its id.
const ROLLUP: &str = "rollup:";
/// Since when, by the id of the meter: the name of what is summed up, and the time of the newest event
/// that is not in it; nothing behind the name where all are, and nothing at all until that is known.
const ROLLED: &str = "rolled:";
/// How long it is kept, and from when on it was kept as long.
const KEPT: &str = "rollups";

/// The meters that are summed up.
#[derive(Debug, Default)]
pub(super) struct Rolled {
    series: Vec<Series>,
    keep: u64,
}

#[derive(Debug)]
struct Series {
    name: Box<str>,
    meter: Meter,
}

impl Rolled {
    pub(super) fn of(fields: &BTreeMap<String, String>) -> Result<Self, Error> {
        let mut series: Vec<Series> = Vec::new();
        for (_, text) in fields.iter().filter(|(field, _)| field.starts_with(ROLLUP)) {
            let name = named(text);
            // Two meters may read the same.
            if series.iter().all(|known| known.name != name) {
                series.push(Series { name, meter: definition::measured(text)? });
            }
        }
        Ok(Self { series, keep: Kept::of(fields).map_or(0, |kept| kept.millis) })
    }

    /// What an event gives to every meter.
    pub(super) fn given<'a>(&'a self, operation: &SettleOperation<'_>) -> Given<'a> {
        let SettleOperation { event_type, ref usage, at, reverses, .. } = *operation;
        let series = self.series.iter();
        let sums = series
            .filter(|series| series.meter.accepts(event_type, usage.dimensions()))
            .filter_map(|series| {
                let aggregation = series.meter.aggregation();
                let given = aggregation.given(series.meter.reads(usage.values())?, reverses);
                let kind = match (given, aggregation) {
                    // Found among the events, if they are kept.
                    (None, _) => "?",
                    (_, Aggregation::Sum | Aggregation::Count) => "",
                    (_, Aggregation::Max) => "M",
                    (_, Aggregation::Latest) => "L",
                };
                Some((kind, &*series.name, given))
            });
        // A day longer than promised, so that no clock is asked to be exact.
        let ends = (day(at) + 1) * DAY_MILLIS as i64;
        Given {
            ends: ends.saturating_add_unsigned(self.keep + DAY_MILLIS),
            quarter: at.as_nanos().div_euclid(QUARTER).rem_euclid(96),
            sums: sums.collect(),
        }
    }
}

/// What an event gives to meters, and until when that is kept.
pub(super) struct Given<'a> {
    ends: i64,
    quarter: i64,
    sums: SmallVec<[(&'static str, &'a str, Option<Amount>); 4]>,
}

impl Given<'_> {
    pub(super) fn len(&self) -> usize {
        self.sums.len()
    }

    /// Whether all of it can be added.
    pub(super) fn adds(&self) -> bool {
        self.sums.iter().all(|(kind, ..)| kind.is_empty())
    }

    /// As `lua/rollup.lua` reads it.
    pub(super) fn encode(&self, call: &mut ScriptCall) {
        let mut digits = itoa::Buffer::new();
        call.arg(self.ends);
        for (kind, name, given) in &self.sums {
            call.pieces(&[kind, digits.format(self.quarter), ".", name]);
            call.amount(*given);
        }
    }
}

/// How long the sums are kept, for all programs.
#[derive(Clone, Copy)]
struct Kept {
    millis: u64,
    /// Before that, they may have been kept for a shorter time.
    from: Timestamp,
}

impl Kept {
    fn of(fields: &BTreeMap<String, String>) -> Option<Self> {
        Self::parse(fields.get(KEPT)?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (millis, from) = text.split_once(' ')?;
        let from = Timestamp::from_nanos(from.parse().ok()?);
        Some(Self { millis: millis.parse().ok()?, from })
    }
}

impl Note {
    /// Notes that a meter is summed up, and for how long as this program wants it.
    pub(super) fn roll_up(
        &mut self,
        fields: &BTreeMap<String, String>,
        meter: &Meter,
        keep: Duration,
        now: Timestamp,
    ) -> Result<(), serde_json::Error> {
        let id = meter.id();
        let text = definition::measured_text(meter)?;
        let (rollup, rolled) = (format!("{ROLLUP}{id}"), format!("{ROLLED}{id}"));
        let is_new = fields.get(&rollup) != Some(&text)
            || fields.get(&rolled).is_none_or(|since| since.is_empty());
        if is_new {
            self.changes(None);
            self.set(rollup, &text);
            self.set(rolled, "");
            self.rolled.push((id.into(), text));
        }
        let millis = keep.as_millis() as u64;
        let before = Kept::of(fields);
        if before.is_none_or(|before| before.millis != millis) {
            let from = before.map_or(Timestamp::MIN, |before| {
                let shorter = Duration::from_millis(before.millis);
                before.from.max(now.saturating_sub(shorter.min(keep)))
            });
            self.set(KEPT.to_owned(), &format!("{millis} {}", from.as_nanos()));
            self.changes(None);
        }
        Ok(())
    }

    /// Notes that a meter is no longer summed up.
    pub(super) fn no_rollup(&mut self, id: &str) {
        self.remove(format!("{ROLLUP}{id}"));
        self.remove(format!("{ROLLED}{id}"));
    }
}

impl Inner {
    /// Tells since when meters are summed up, once every program does: from here on all events are in
    /// the sums, and none of those that came before.
    pub(super) async fn rolled_since_now(
        &self,
        meters: Vec<(Box<str>, String)>,
    ) -> Result<(), Error> {
        if meters.is_empty() {
            return Ok(());
        }
        let mut newest = None;
        let mut visit = |event: &RecordedEvent| {
            newest = newest.max(Some(event.at));
            true
        };
        self.visit(Wanted::default(), &mut visit).await?;
        let since = newest.max(self.forgotten(0..SHARDS).await?);
        let since = since.map_or(String::new(), |since| format!(" {}", since.as_nanos()));
        let told = |(id, text): &(Box<str>, String)| {
            (format!("{ROLLED}{id}"), format!("{}{since}", named(text)))
        };
        let told: Vec<_> = meters.iter().map(told).collect();
        let mut set = cmd("HSET");
        set.arg(self.shared.keys.definitions());
        for (field, value) in &told {
            set.arg(field).arg(value);
        }
        self.caller.call(&set, self.caller.deadline()).await?;
        self.shared.know(told);
        Ok(())
    }

    /// Reads what a meter comes to over the quarters of a range, and which parts of the range are not
    /// among them.
    pub(super) async fn rolled_up(&self, wanted: Rollups<'_>) -> Result<Option<RolledUp>, Error> {
        let Some(series) = self.series(wanted.meter).await? else { return Ok(None) };
        let shards = match wanted.customer {
            Some(customer) => {
                let shard = shard_of(customer.as_str());
                shard..shard + 1
            }
            None => 0..SHARDS,
        };
        let Some(span) = self.span(&series, shards.clone(), &wanted).await? else {
            return Ok(None);
        };
        let mut found = Vec::new();
        let mut left = span.left;
        let mut days = Vec::new();
        for shard in shards {
            days.extend((span.days.start..span.days.end).map(|day| (shard, day)));
        }
        for some in days.chunks(AT_ONCE) {
            let reading: Vec<_> = some
                .iter()
                .map(|(shard, day)| {
                    let mut all = cmd("HGETALL");
                    all.arg(self.shared.keys.rollups(*shard, *day, wanted.customer));
                    (*day, self.caller.start(&all))
                })
                .collect();
            for (day, reading) in reading {
                for (field, value) in reply::pairs(reading.await?)? {
                    let Some((quarter, name)) = field.split_once('.') else { continue };
                    let Ok(quarter) = quarter.parse::<i64>() else { continue };
                    let start = Timestamp::from_nanos(
                        day.saturating_mul(DAY).saturating_add(quarter.saturating_mul(QUARTER)),
                    );
                    if *name != *series.name || !span.whole.contains(&start) {
                        continue;
                    }
                    match read(wanted.meter.aggregation(), &value, start)? {
                        Some(rollup) => found.push(rollup),
                        None => left.push(start..start.saturating_add(Duration::from_secs(900))),
                    }
                }
            }
        }
        Ok(Some(RolledUp { rollups: found, left, complete: span.complete }))
    }

    /// What a meter is summed up as, if it is, and since when.
    async fn series(&self, meter: &Meter) -> Result<Option<Since>, Error> {
        let Ok(text) = definition::measured_text(meter) else { return Ok(None) };
        let mut get = cmd("HMGET");
        get.arg(self.shared.keys.definitions());
        get.arg(format!("{ROLLUP}{}", meter.id())).arg(format!("{ROLLED}{}", meter.id())).arg(KEPT);
        let mut about = Reply::of(self.caller.call(&get, self.caller.deadline()).await?)?;
        let (rollup, rolled) = (about.some_text()?, about.some_text()?);
        let kept = about.some_text()?;
        let (Some(rolled), Some(kept)) = (rolled, kept) else { return Ok(None) };
        let name = named(&text);
        let (known, since) = rolled.split_once(' ').unwrap_or((&rolled, ""));
        if rollup != Some(text) || *known != *name {
            return Ok(None);
        }
        let nonsense = || CallError::Nonsense("since when a meter is summed up");
        let since = match since {
            "" => None,
            since => Some(Timestamp::from_nanos(since.parse().map_err(|_| nonsense())?)),
        };
        let kept = Kept::parse(&kept).ok_or_else(nonsense)?;
        Ok(Some(Since { name, since, kept }))
    }

    /// Which quarters of the range are summed up on all of these shards.
    async fn span(
        &self,
        series: &Since,
        shards: Range<u16>,
        wanted: &Rollups<'_>,
    ) -> Result<Option<Span>, Error> {
        let mut newest_lost = None;
        let mut days: Option<(i64, i64)> = None;
        let reading: Vec<_> = shards
            .map(|shard| {
                let mut get = cmd("HMGET");
                get.arg(self.shared.keys.shard(shard)).arg("lost").arg("days");
                self.caller.start(&get)
            })
            .collect();
        for about in reading {
            let mut about = Reply::of(about.await?)?;
            let lost = about.some_text()?.and_then(|nanos| nanos.parse().ok());
            newest_lost = newest_lost.max(lost.map(Timestamp::from_nanos));
            let own = about.some_text()?.and_then(|text| {
                let (first, last) = text.split_once(' ')?;
                Some((first.parse::<i64>().ok()?, last.parse::<i64>().ok()?))
            });
            if let Some((first, last)) = own {
                days = Some(
                    days.map_or((first, last), |known| (known.0.min(first), known.1.max(last))),
                );
            }
        }
        let span = days.and_then(|days| Span::of(series, days, wanted));
        let complete = newest_lost < Some(wanted.start);
        Ok(span.map(|span| Span { complete, ..span }))
    }
}

/// What a meter is summed up as.
struct Since {
    name: Box<str>,
    /// The newest event that is not in it.
    since: Option<Timestamp>,
    kept: Kept,
}

/// A part of a range that is summed up.
struct Span {
    whole: Range<Timestamp>,
    days: Range<i64>,
    left: Vec<Range<Timestamp>>,
    /// The server has lost nothing of it.
    complete: bool,
}

impl Span {
    /// `days` are the first and the last of which there ever was anything.
    fn of(series: &Since, days: (i64, i64), wanted: &Rollups<'_>) -> Option<Self> {
        let Rollups { start, end, now, .. } = *wanted;
        let mut from = series.since.map_or(Timestamp::MIN, |since| {
            Timestamp::from_nanos(since.as_nanos().saturating_add(1))
        });
        let oldest = now.saturating_sub(Duration::from_millis(series.kept.millis));
        let oldest = starts(day(oldest.max(series.kept.from)));
        if starts(days.0) < oldest {
            from = from.max(oldest);
        }
        // Before the first day and after the last there is nothing.
        let (first, last) = (starts(days.0), starts(days.1 + 1));
        let begin = start.max(from);
        let whole_from = if begin <= first { first } else { up(begin) };
        let whole_to = if end >= last { last } else { down(end) };
        if whole_from >= whole_to {
            return None;
        }
        let edges = [
            start..if begin <= first { begin } else { whole_from },
            whole_to.max(start)..if end >= last { whole_to } else { end },
        ];
        Some(Self {
            days: day(whole_from)..day(Timestamp::from_nanos(whole_to.as_nanos() - 1)) + 1,
            whole: whole_from..whole_to,
            left: edges.into_iter().filter(|edge| !edge.is_empty()).collect(),
            complete: true,
        })
    }
}

fn day(at: Timestamp) -> i64 {
    at.as_nanos().div_euclid(DAY)
}

fn starts(day: i64) -> Timestamp {
    Timestamp::from_nanos(day.saturating_mul(DAY))
}

/// The start of the quarter.
fn down(at: Timestamp) -> Timestamp {
    Timestamp::from_nanos(at.as_nanos().div_euclid(QUARTER).saturating_mul(QUARTER))
}

/// The start of the quarter, or of the next one.
fn up(at: Timestamp) -> Timestamp {
    let start = down(at);
    if start < at { start.saturating_add(Duration::from_secs(900)) } else { start }
}

/// What a field says; `None` where the events themselves have to be looked at.
fn read(
    aggregation: Aggregation,
    text: &str,
    start: Timestamp,
) -> Result<Option<Rollup>, CallError> {
    if text == "?" {
        return Ok(None);
    }
    let nonsense = || CallError::Nonsense("a sum that is no number");
    let mut parts = text.split(' ');
    let mut next = || parts.next().and_then(|part| part.parse::<i64>().ok()).ok_or_else(nonsense);
    let amount = Amount::from_millionths(next()?);
    let mut rollup = Rollup { amount, at: start, sequence: 0 };
    if aggregation == Aggregation::Latest {
        rollup.at = Timestamp::from_nanos(next()?);
        rollup.sequence = u64::try_from(next()?).map_err(|_| nonsense())? << 8;
    }
    Ok(Some(rollup))
}

impl keys::Keys {
    /// Where an event of that time is summed up: for its customer, and for all of the shard.
    pub(super) fn rollups_of(
        &self,
        shard: u16,
        customer: &CustomerId,
        at: Timestamp,
    ) -> [String; 2] {
        [Some(customer), None].map(|customer| self.rollups(shard, day(at), customer))
    }
}
