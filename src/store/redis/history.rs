//! Events that are kept: listed, found, and how far back they reach.

use std::collections::HashSet;

use redis::{Value, cmd};

use super::Inner;
use super::event::read_event;
use super::keys::{SHARDS, shard_of};
use super::link::CallError;
use super::reply::{self, Reply};
use crate::Error;
use crate::policy::{CustomerId, EventId, RecordedEvent, Timestamp};
use crate::store::{Found, KeptAlert, Wanted};

/// How many events are read at once.
const CHUNK: usize = 512;

impl Inner {
    /// Visits events of all shards, newest first.
    pub(super) async fn visit(
        &self,
        wanted: Wanted<'_>,
        visit: &mut (dyn FnMut(&RecordedEvent) -> bool + Send),
    ) -> Result<(), Error> {
        let numbers = match wanted.customer {
            Some(customer) => {
                let shard = shard_of(customer.as_str());
                shard..shard + 1
            }
            None => 0..SHARDS,
        };
        let mut shards: Vec<Newest> =
            numbers.map(|shard| Newest::of(shard, wanted.before)).collect();
        // A few of each first: most shards have none or little.
        let mut count = 16;
        loop {
            let reading: Vec<_> = shards
                .iter_mut()
                .filter(|shard| shard.events.is_empty() && !shard.is_over)
                .map(|shard| {
                    let key = self.shared.keys.events(shard.number);
                    let mut range = cmd("XREVRANGE");
                    range.arg(key).arg(&shard.before).arg("-").arg("COUNT").arg(count);
                    (self.caller.start(&range), shard)
                })
                .collect();
            for (range, shard) in reading {
                let events = entries(range.await?, shard.number)?;
                shard.is_over = events.len() < count;
                if let Some((last, _)) = events.last() {
                    shard.before = format!("({last}");
                }
                // The next one last.
                shard.events = events.into_iter().map(|(_, event)| event).rev().collect();
            }
            count = CHUNK;
            // Until one of them has to be read on, the newest of all is known.
            loop {
                let newest = shards
                    .iter_mut()
                    .max_by_key(|shard| shard.events.last().map_or(0, |event| event.sequence));
                let Some(newest) = newest else { return Ok(()) };
                let Some(event) = newest.events.pop() else {
                    return Ok(());
                };
                if !visit(&event) {
                    return Ok(());
                }
                if newest.events.is_empty() && !newest.is_over {
                    break;
                }
            }
        }
    }

    /// The events of one shard from an entry on, oldest first, and where they end.
    pub(super) async fn events_of(
        &self,
        shard: u16,
        mut from: String,
        visit: &mut (dyn FnMut(&RecordedEvent) + Send),
    ) -> Result<String, CallError> {
        loop {
            let mut range = cmd("XRANGE");
            range.arg(self.shared.keys.events(shard)).arg(&from).arg("+").arg("COUNT").arg(CHUNK);
            let events = entries(self.caller.call(&range, self.caller.deadline()).await?, shard)?;
            if let Some((last, _)) = events.last() {
                from = format!("({last}");
            }
            events.iter().for_each(|(_, event)| visit(event));
            if events.len() < CHUNK {
                return Ok(from);
            }
        }
    }

    /// The time of the newest event that is no longer kept.
    pub(super) async fn forgotten(
        &self,
        shards: std::ops::Range<u16>,
    ) -> Result<Option<Timestamp>, Error> {
        let reading: Vec<_> = shards
            .map(|shard| {
                let mut get = cmd("HMGET");
                get.arg(self.shared.keys.shard(shard)).arg("gone").arg("since");
                self.caller.start(&get)
            })
            .collect();
        // A shard of which nothing was heard for so long has let all go.
        let kept_from = match self.terms.is_timed {
            true => Timestamp::MIN,
            false => Timestamp::from(std::time::SystemTime::now())
                .saturating_sub(self.terms.keep_events_for),
        };
        let mut newest = None;
        for about in reading {
            let mut about = Reply::of(about.await?)?;
            let gone = about.some_text()?.and_then(|text| text.parse().ok());
            let since = about.some_text()?.and_then(|text| text.parse::<i64>().ok());
            let since = since.map(|micros| Timestamp::from_nanos(micros.saturating_mul(1_000)));
            newest = newest.max(gone.map(Timestamp::from_nanos));
            newest = newest.max(since.filter(|since| *since < kept_from).map(|_| kept_from));
        }
        Ok(newest)
    }

    /// Alerts that fell due in windows that have not ended at that time.
    pub(super) async fn alerts(&self, now: Timestamp) -> Result<Vec<KeptAlert>, Error> {
        let minute = now.as_seconds().div_euclid(60);
        let reading: Vec<_> = (0..SHARDS)
            .map(|shard| {
                let mut range = cmd("ZRANGEBYSCORE");
                range.arg(self.shared.keys.alerts(shard)).arg(format!("({minute}")).arg("+inf");
                self.caller.start(&range)
            })
            .collect();
        let mut alerts = Vec::new();
        for range in reading {
            let mut members = Reply::of(range.await?)?;
            while !members.is_over() {
                let alert = read_alert(&members.text()?);
                alerts.push(alert.ok_or(CallError::Nonsense("an alert"))?);
            }
        }
        Ok(alerts)
    }

    pub(super) async fn find(
        &self,
        customer: &CustomerId,
        id: &EventId,
    ) -> Result<Option<Found>, Error> {
        let (mut found, mut before) = (None, HashSet::new());
        let mut visit = |event: &RecordedEvent| match event.customer == *customer {
            true if event.id == *id => found = Some(event.clone()),
            true if found.is_none() => drop(before.insert(event.id.clone())),
            _ => {}
        };
        let shard = shard_of(customer.as_str());
        self.events_of(shard, "-".to_owned(), &mut visit).await?;
        let Some(event) = found else { return Ok(None) };
        let kept = self.kept_transactions(customer).await?;
        let charge = kept.iter().rev().find(|transaction| transaction.id == *id).cloned();
        // A charge that was let go cannot be told from none, unless an earlier one is kept.
        let is_whole = kept.len() < self.terms.keep_transactions
            || kept.iter().any(|transaction| before.contains(&transaction.id));
        if charge.is_none() && !is_whole {
            return Ok(None);
        }
        Ok(Some(Found { event, charge }))
    }
}

/// The newest events of a shard that are yet to be visited.
struct Newest {
    number: u16,
    events: Vec<RecordedEvent>,
    before: String,
    is_over: bool,
}

impl Newest {
    /// The newest of those that came before that place.
    fn of(number: u16, before: Option<u64>) -> Self {
        let before = match before {
            // An event of the same moment comes before, if its shard does.
            Some(place) if u64::from(number) < place & 0xFF => format!("{}-0", place >> 8),
            Some(place) => format!("({}-0", place >> 8),
            None => "+".to_owned(),
        };
        Self { number, events: Vec::new(), before, is_over: false }
    }
}

/// The end of the window, the percentage, the limit and the customer.
fn read_alert(text: &str) -> Option<KeptAlert> {
    let mut parts = text.splitn(4, ' ');
    let ends = match parts.next()? {
        "*" => None,
        minute => Some(Timestamp::from_seconds(minute.parse::<i64>().ok()?.checked_mul(60)?)),
    };
    let percent = parts.next()?.parse().ok()?;
    let limit = parts.next()?.into();
    Some(KeptAlert { customer: CustomerId::new(parts.next()?).ok()?, limit, ends, percent })
}

/// Entries of a stream, with their names.
fn entries(value: Value, shard: u16) -> Result<Vec<(String, RecordedEvent)>, CallError> {
    let mut reply = Reply::of(value)?;
    let mut events = Vec::new();
    while let Some(entry) = reply.next() {
        let mut entry = Reply::of(entry)?;
        let name = entry.text()?;
        let micros = name.split('-').next().and_then(|micros| micros.parse::<u64>().ok());
        let micros = micros.ok_or(CallError::Nonsense("an entry's name"))?;
        let fields = reply::pairs(entry.next().unwrap_or_default())?;
        let event = fields.iter().find(|(field, _)| field == "event");
        let (_, json) = event.ok_or(CallError::Nonsense("an entry without an event"))?;
        // Of two shards' events of one moment, one has to come first.
        let sequence = micros << 8 | u64::from(shard);
        events.push((name, read_event(json, sequence)?));
    }
    Ok(events)
}
