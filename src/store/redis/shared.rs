//! What all processes know alike: definitions, and the versions that tell when they have changed.
//!
//! The definitions are one hash. Every shard carries the version of the newest change that concerns
//! it, which each step compares with the one that its operation was resolved by. So a change on one
//! machine holds on all from the next step on, and costs no call of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::{Cmd, Value, cmd};

use super::keys::{self, Keys, SHARDS, shard_of};
use super::link::{CallError, Caller};
use super::reply;
use super::rollup::Rolled;
use crate::policy::{CustomerId, Timestamp};
use crate::store::definition::{self, CustomerRow, LimitRow, MeterRow};
use crate::store::{CountedBy, Keep, Kept};
use crate::{Error, ErrorKind};

const VERSION: &str = "version";
const COUNTER: &str = "counter:";
const SINCE: &str = "since:";
const COUNTED: &str = "counted:";
const CUSTOMER: &str = "customer:";
const CUSTOMER_SINCE: &str = "customer-since:";
const METER: &str = "meter:";
const LIMIT: &str = "limit:";
const ZONE: &str = "zone";

/// How long a recount may keep a shard for itself before others go on.
pub(super) const LOCKED_FOR: Duration = Duration::from_secs(10);

/// What this process knows of the definitions that all share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) keys: Keys,
    seen: ArcSwap<Seen>,
    /// The names of counters, by their numbers in this process.
    names: ArcSwap<Vec<Box<str>>>,
    rolled: ArcSwap<Rolled>,
    /// How long this program wants them kept.
    keep_rollups: Duration,
    table: Mutex<Table>,
}

/// The versions by which steps are taken.
#[derive(Debug)]
pub(super) struct Seen {
    /// What was resolved before this epoch was resolved by older ones.
    pub(super) epoch: u64,
    pub(super) versions: Box<[Arc<str>]>,
}

#[derive(Debug, Default)]
struct Table {
    /// Names and definitions of counters, by number.
    counters: Vec<(Box<str>, Box<str>)>,
    /// The hash as it was read or written last.
    fields: BTreeMap<String, String>,
    /// Counters that this process was the first to name.
    new: std::collections::HashSet<u32>,
}

/// What the server has.
pub(super) struct Fetched {
    versions: Box<[Arc<str>]>,
    fields: BTreeMap<String, String>,
}

impl Shared {
    pub(super) fn new(keys: Keys, keep_rollups: Duration) -> Self {
        let none: Arc<str> = "".into();
        let versions = (0..SHARDS).map(|_| Arc::clone(&none)).collect();
        Self {
            keys,
            seen: ArcSwap::from_pointee(Seen { epoch: 0, versions }),
            names: ArcSwap::default(),
            rolled: ArcSwap::default(),
            keep_rollups,
            table: Mutex::default(),
        }
    }

    /// The versions for what was resolved in that epoch; `None` when it is out of date.
    pub(super) fn seen(&self, epoch: u64) -> Option<arc_swap::Guard<Arc<Seen>>> {
        let seen = self.seen.load();
        (epoch >= seen.epoch).then_some(seen)
    }

    pub(super) fn names(&self) -> arc_swap::Guard<Arc<Vec<Box<str>>>> {
        self.names.load()
    }

    /// The meters that are summed up, whoever defines them. To be asked for after the versions: with
    /// a new version they are there.
    pub(super) fn rolled(&self) -> arc_swap::Guard<Arc<Rolled>> {
        self.rolled.load()
    }

    /// What was resolved before that epoch is out of date.
    pub(super) fn outdate(&self, epoch: u64) {
        self.seen
            .rcu(|seen| Seen { epoch: epoch.max(seen.epoch), versions: seen.versions.clone() });
    }

    /// Steps of that epoch go by these versions of these shards.
    pub(super) fn adopt(&self, epoch: u64, shards: &[u16], version: &Arc<str>) {
        self.seen.rcu(|seen| {
            let mut versions = seen.versions.clone();
            for shard in shards {
                versions[usize::from(*shard)] = Arc::clone(version);
            }
            Seen { epoch: epoch.max(seen.epoch), versions }
        });
    }

    /// Whether nobody can have counted on these before. Asked once: who asks counts on them.
    pub(super) fn are_new(&self, counters: &[u32]) -> bool {
        let mut table = self.table();
        let new = counters.iter().filter(|counter| table.new.remove(counter)).count();
        new == counters.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the server has, and what it has lost is written there again.
    pub(super) async fn fetch(
        &self,
        caller: &Caller,
        now: Timestamp,
    ) -> Result<Fetched, CallError> {
        let end = caller.deadline() + LOCKED_FOR;
        loop {
            let mut versions = Vec::with_capacity(usize::from(SHARDS));
            let mut locked = None;
            let mut missing = Vec::new();
            for shard in 0..SHARDS {
                versions.push(caller.start(&hget(&self.keys.shard(shard), VERSION)));
            }
            let mut known: Vec<Arc<str>> = Vec::with_capacity(versions.len());
            for (shard, version) in (0..SHARDS).zip(versions) {
                match reply::text(version.await?)? {
                    Some(version) => {
                        if version.starts_with('!') {
                            locked = Some((shard, version.clone()));
                        }
                        known.push(version.into());
                    }
                    None => missing.push(shard),
                }
            }
            let fields = self.fields(caller).await?;
            if !missing.is_empty() || !fields.contains_key(VERSION) {
                self.found(caller, &fields, &missing, now).await?;
            } else if let Some((shard, version)) = locked {
                self.wait_or_unlock(caller, shard, &version).await?;
            } else {
                return Ok(Fetched { versions: known.into(), fields });
            }
            if tokio::time::Instant::now() >= end {
                return Err(CallError::Late { sent: false });
            }
        }
    }

    /// The definitions on the server.
    async fn fields(&self, caller: &Caller) -> Result<BTreeMap<String, String>, CallError> {
        let mut all = cmd("HGETALL");
        all.arg(self.keys.definitions());
        let all = caller.call(&all, caller.deadline()).await?;
        Ok(reply::pairs(all)?.into_iter().collect())
    }

    /// Whether this process knows all that the server has. Not, when another has changed something, and
    /// perhaps not, while a change of its own is on its way.
    pub(super) async fn knows_all(&self, caller: &Caller) -> Result<bool, CallError> {
        let fields = self.fields(caller).await?;
        Ok(are_same(&self.table().fields, &fields))
    }

    /// Begins books where there are none. Where there were some, the server has lost them: what this
    /// process knows of the definitions is written again, and it is noted that events are missing.
    async fn found(
        &self,
        caller: &Caller,
        fields: &BTreeMap<String, String>,
        missing: &[u16],
        now: Timestamp,
    ) -> Result<(), CallError> {
        let version = new_version();
        let kept = self.table().fields.clone();
        let lost = !kept.is_empty() || fields.contains_key(VERSION);
        let mut calls = Vec::new();
        for shard in missing {
            let key = self.keys.shard(*shard);
            let mut about = vec![("since", (now.as_nanos() / 1_000).to_string())];
            if lost {
                about.push(("gone", now.as_nanos().to_string()));
                about.push(("lost", now.as_nanos().to_string()));
            }
            // The version last: with it, the rest is there.
            about.push((VERSION, version.clone()));
            for (field, value) in about {
                let mut set = cmd("HSETNX");
                set.arg(&key).arg(field).arg(value);
                calls.push(caller.start(&set));
            }
        }
        for call in calls {
            call.await?;
        }
        if !fields.contains_key(VERSION) {
            let kept = kept.into_iter().filter(|(field, _)| field != VERSION);
            for (field, value) in kept.chain([(VERSION.to_owned(), version)]) {
                let mut set = cmd("HSETNX");
                set.arg(self.keys.definitions()).arg(field).arg(value);
                caller.call(&set, caller.deadline()).await?;
            }
        }
        Ok(())
    }

    /// Another process counts again. One that ended meanwhile is not waited for.
    async fn wait_or_unlock(
        &self,
        caller: &Caller,
        shard: u16,
        version: &str,
    ) -> Result<(), CallError> {
        let until = version.rsplit(':').next().and_then(|until| until.parse::<u64>().ok());
        if until.is_none_or(|until| until < unix_millis()) {
            self.set_version(caller, shard, Some(version), &new_version()).await?;
            return Ok(());
        }
        caller.sleep_until(tokio::time::Instant::now() + Duration::from_millis(5)).await;
        Ok(())
    }

    /// Sets the version of a shard, if it is still the one expected. Answers whether it did.
    pub(super) async fn set_version(
        &self,
        caller: &Caller,
        shard: u16,
        expected: Option<&str>,
        version: &str,
    ) -> Result<bool, CallError> {
        const SET: &str = "if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] \
                           then return 0 end redis.call('HSET', KEYS[1], 'version', ARGV[2]) return 1";
        let mut set = cmd("EVAL");
        set.arg(SET).arg(1).arg(self.keys.shard(shard)).arg(expected.unwrap_or("")).arg(version);
        Ok(caller.call(&set, caller.deadline()).await? == Value::Int(1))
    }

    /// Takes over what the server has, from that epoch on. `None` when nothing is new; who asks for an
    /// epoch again could not use what it was told.
    pub(super) fn take(&self, fetched: Fetched, epoch: u64) -> Result<Option<Kept>, Error> {
        let Fetched { versions, fields } = fetched;
        let is_news = {
            let mut table = self.table();
            let is_news = !are_same(&table.fields, &fields) || self.seen.load().epoch >= epoch;
            for (field, text) in &fields {
                if let Some(name) = field.strip_prefix(COUNTER) {
                    let known = table.counters.iter().any(|(known, _)| **known == *name);
                    if !known {
                        table.counters.push((name.into(), text.as_str().into()));
                    }
                }
            }
            table.fields.clone_from(&fields);
            self.publish(&table)?;
            is_news
        };
        self.seen.rcu(|seen| Seen { epoch: epoch.max(seen.epoch), versions: versions.clone() });
        if is_news { self.kept(&fields).map(Some) } else { Ok(None) }
    }

    fn publish(&self, table: &Table) -> Result<(), Error> {
        let names = table.counters.iter().map(|(name, _)| name.clone()).collect();
        self.names.store(Arc::new(names));
        self.rolled.store(Arc::new(Rolled::of(&table.fields)?));
        Ok(())
    }

    /// What the fields say, in the numbers of this process.
    pub(super) fn kept(&self, fields: &BTreeMap<String, String>) -> Result<Kept, Error> {
        let counters = self.table().counters.clone();
        let numbers: HashMap<&str, u32> =
            counters.iter().zip(0..).map(|((name, _), number)| (&**name, number)).collect();
        let counted = counted(fields, &numbers)?;
        let mut kept = Kept { shared: true, counted, ..Kept::default() };
        kept.counters = counters.iter().map(|(_, text)| text.clone()).collect();
        for (field, text) in fields {
            if let Some(name) = field.strip_prefix(SINCE) {
                if let (Some(number), Ok(nanos)) = (numbers.get(name), text.parse()) {
                    kept.since.push((*number, Timestamp::from_nanos(nanos)));
                }
            } else if let Some(id) = field.strip_prefix(METER) {
                match text.as_str() {
                    "" => kept.removed_meters.push(id.into()),
                    json => kept.meters.push(definition::meter(json)?),
                }
            } else if let Some(id) = field.strip_prefix(LIMIT) {
                match text.as_str() {
                    "" => kept.removed_limits.push(id.into()),
                    json => kept.limits.push(definition::limit(json)?),
                }
            } else if let Some(id) = field.strip_prefix(CUSTOMER) {
                kept.customers.push(definition::customer(customer(id)?, text)?);
            } else if let Some(id) = field.strip_prefix(CUSTOMER_SINCE) {
                kept.customers_since.push((customer(id)?, definition::since(text)?));
            } else if field == ZONE {
                kept.zone = Some(text.as_str().into());
            }
        }
        Ok(kept)
    }

    /// What the server has, as it was read last.
    pub(super) fn loaded(&self) -> Result<Kept, Error> {
        let fields = self.table().fields.clone();
        self.kept(&fields)
    }

    /// What was written without a note.
    pub(super) fn know(&self, fields: Vec<(String, String)>) {
        self.table().fields.extend(fields);
    }

    /// Who counts on which counters, as it was read or written last.
    pub(super) fn counted(&self) -> Result<CountedBy, Error> {
        let table = self.table();
        let counters = table.counters.iter().zip(0..);
        let numbers = counters.map(|((name, _), number)| (&**name, number)).collect();
        counted(&table.fields, &numbers)
    }

    /// Notes a change, to be written by [`write`](Self::write).
    pub(super) fn note(&self, changes: &[Keep<'_>]) -> Result<Note, Error> {
        let mut note = Note::default();
        let json = |error| {
            let message = "a definition cannot be written as JSON";
            Error::new(ErrorKind::Invalid, message).with_source(error)
        };
        let mut table = self.table();
        for change in changes {
            match change {
                Keep::Counter(number, key) => {
                    let name = keys::counter(key);
                    let field = format!("{COUNTER}{name}");
                    if usize::try_from(*number) == Ok(table.counters.len()) {
                        if !table.fields.contains_key(&field) {
                            table.new.insert(*number);
                        }
                        table.counters.push((name, key.as_str().into()));
                    }
                    note.set(field, key.as_str());
                }
                Keep::Counted(customer, counters) => {
                    let customer = customer.map(ToString::to_string).unwrap_or_default();
                    let names = counters.map(|counters| {
                        let name = |number: &u32| {
                            let known = table.counters.get(*number as usize);
                            known.map_or("", |(name, _)| &**name)
                        };
                        counters.iter().map(name).collect::<Vec<_>>().join(",")
                    });
                    note.fields.push((format!("{COUNTED}{customer}"), names));
                }
                Keep::Since(number, time) => {
                    if let Some((name, _)) = table.counters.get(*number as usize) {
                        note.set(format!("{SINCE}{name}"), &time.as_nanos().to_string());
                    }
                }
                Keep::Zone(zone) => note.set(ZONE.to_owned(), zone),
                Keep::Meter(meter) => {
                    let text = serde_json::to_string(&MeterRow::of(meter)).map_err(json)?;
                    note.changes(None);
                    note.set(format!("{METER}{}", meter.id()), &text);
                }
                Keep::NoMeter(id) => {
                    note.changes(None);
                    note.set(format!("{METER}{id}"), "");
                    note.no_rollup(id);
                }
                Keep::Rollup(meter, now) => {
                    note.roll_up(&table.fields, meter, self.keep_rollups, *now).map_err(json)?;
                }
                Keep::Limit(limit) => {
                    let text = serde_json::to_string(&LimitRow::of(limit)).map_err(json)?;
                    note.changes(None);
                    note.set(format!("{LIMIT}{}", limit.id()), &text);
                }
                Keep::NoLimit(id) => {
                    note.changes(None);
                    note.set(format!("{LIMIT}{id}"), "");
                }
                Keep::Customer(customer) => {
                    let Some(id) = customer.id() else { continue };
                    let text = serde_json::to_string(&CustomerRow::of(customer)).map_err(json)?;
                    note.changes(Some(shard_of(id.as_str())));
                    note.set(format!("{CUSTOMER}{id}"), &text);
                }
                Keep::NoCustomer(id) => {
                    note.changes(Some(shard_of(id.as_str())));
                    note.remove(format!("{CUSTOMER}{id}"));
                }
                Keep::CustomerSince(id, periods) => {
                    note.changes(Some(shard_of(id.as_str())));
                    let since = definition::since_text(periods);
                    note.fields.push((format!("{CUSTOMER_SINCE}{id}"), since));
                }
            }
        }
        for (field, value) in &note.fields {
            match value {
                Some(value) => drop(table.fields.insert(field.clone(), value.clone())),
                None => drop(table.fields.remove(field)),
            }
        }
        self.publish(&table)?;
        Ok(note)
    }

    /// Writes what was noted, and then the versions: who sees a new one finds what it stands for.
    pub(super) async fn write(&self, caller: &Caller, note: Note) -> Result<(), CallError> {
        let Note { fields, shards, rolled: _ } = note;
        if fields.is_empty() {
            let look = hget(&self.keys.definitions(), VERSION);
            return caller.call(&look, caller.deadline()).await.map(|_| ());
        }
        let (mut set, mut remove) = (cmd("HSET"), cmd("HDEL"));
        set.arg(self.keys.definitions()).arg("touched").arg("");
        remove.arg(self.keys.definitions()).arg("touched");
        for (field, value) in fields {
            match value {
                Some(value) => drop(set.arg(field).arg(value)),
                None => drop(remove.arg(field)),
            }
        }
        caller.call(&set, caller.deadline()).await?;
        caller.call(&remove, caller.deadline()).await?;
        let version = new_version();
        let shards = match shards {
            Changes::Nothing => return Ok(()),
            Changes::One(shard) => shard..shard + 1,
            Changes::All => 0..SHARDS,
        };
        let setting: Vec<_> = shards
            .map(|shard| {
                let mut set = cmd("HSET");
                set.arg(self.keys.shard(shard)).arg(VERSION).arg(&version);
                caller.start(&set)
            })
            .collect();
        for set in setting {
            set.await?;
        }
        Ok(())
    }
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Note {
    /// Fields, and those to remove.
    fields: Vec<(String, Option<String>)>,
    shards: Changes,
    /// Meters that are summed up from now on, and as what.
    pub(super) rolled: Vec<(Box<str>, String)>,
}

/// Which shards have to look again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Changes {
    #[default]
    Nothing,
    One(u16),
    All,
}

impl Note {
    pub(super) fn set(&mut self, field: String, value: &str) {
        self.fields.push((field, Some(value.to_owned())));
    }

    pub(super) fn remove(&mut self, field: String) {
        self.fields.push((field, None));
    }

    /// One shard has to look again, or all.
    pub(super) fn changes(&mut self, shard: Option<u16>) {
        self.shards = match (self.shards, shard) {
            (Changes::Nothing, Some(shard)) => Changes::One(shard),
            (Changes::One(known), Some(shard)) if known == shard => Changes::One(shard),
            _ => Changes::All,
        };
    }
}

fn counted(
    fields: &BTreeMap<String, String>,
    numbers: &HashMap<&str, u32>,
) -> Result<CountedBy, Error> {
    let mut counted = CountedBy::new();
    let rows = fields.range(COUNTED.to_owned()..);
    for (field, text) in rows {
        let Some(customer) = field.strip_prefix(COUNTED) else { break };
        let customer = (!customer.is_empty()).then(|| self::customer(customer));
        let names = text.split(',').filter(|name| !name.is_empty());
        let counters = names.filter_map(|name| numbers.get(name).copied()).collect();
        counted.insert(customer.transpose()?, counters);
    }
    Ok(counted)
}

fn are_same(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> bool {
    let matter = |(field, _): &(&String, &String)| *field != VERSION;
    one.iter().filter(matter).eq(other.iter().filter(matter))
}

fn customer(id: &str) -> Result<CustomerId, Error> {
    CustomerId::new(id).map_err(|error| Error::invalid("customer", error))
}

pub(super) fn hget(key: &str, field: &str) -> Cmd {
    let mut get = cmd("HGET");
    get.arg(key).arg(field);
    get
}

/// A version that no other change has.
pub(super) fn new_version() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}", RandomState::new().hash_one(unix_millis()))
}

/// The version of a shard that a recount keeps for itself.
pub(super) fn locked_version() -> String {
    let until = unix_millis().saturating_add(LOCKED_FOR.as_millis() as u64);
    format!("!{}:{until}", new_version())
}

fn unix_millis() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}
