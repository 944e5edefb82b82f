//! Meters and limits that can change while requests run.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;

use compact_str::CompactString;

use crate::policy::catalog::{
    Catalog, CounterNumbers, Plans, Rule, meter_of, validate_limit, validate_meter,
};
use crate::policy::{ConfigError, CounterKey, CustomerId, Limit, Meter, Timestamp};
use crate::store::Keep;

/// How many values meters may read between them.
const MOST_VALUES: usize = 255;

/// How many counters without a limit go on being counted.
const MOST_DORMANT: usize = 64;

/// Rules without a limit, and for whom they are.
pub(super) type Dormant = Vec<(Option<CustomerId>, Rule)>;

/// What was defined, and what follows from it.
#[derive(Clone, Debug, Default)]
pub(super) struct Definitions {
    meters: HashMap<CompactString, Arc<Meter>>,
    limits: BTreeMap<CompactString, Limit>,
    /// The ids of limits by whom they are for.
    ids: HashMap<Option<CustomerId>, BTreeSet<CompactString>>,
    numbers: CounterNumbers,
    /// How many of them the store has kept.
    numbers_kept: u32,
    /// Counters whose limits were removed, oldest first: for everybody, or for one customer.
    dormant: Dormant,
    /// The values that meters read, or ever did.
    values: BTreeSet<CompactString>,
    /// Counters whose history before that time is not whole.
    since: HashMap<u32, Timestamp>,
    /// Other processes count, too, and do not know what goes on being counted here.
    shared: bool,
}

impl Definitions {
    /// None yet, but for counters that have their numbers.
    pub(super) fn counting(counters: Vec<Box<str>>) -> Self {
        let numbers_kept = counters.len() as u32;
        Self { numbers: CounterNumbers::of(counters), numbers_kept, ..Self::default() }
    }

    /// Of books that other processes share: nothing is counted without a limit.
    pub(super) fn share(&mut self) {
        self.shared = true;
    }

    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Counters that have their numbers, those known already first.
    pub(super) fn number(&mut self, counters: Vec<Box<str>>) {
        self.numbers_kept = self.numbers_kept.max(counters.len() as u32);
        for counter in counters {
            self.numbers.number(CounterKey::from_text(counter));
        }
    }

    /// Takes over what another process has defined or removed. What is not told of stays as it is.
    pub(super) fn take_over(
        &mut self,
        meters: Vec<Meter>,
        limits: Vec<Limit>,
        removed_meters: &[Box<str>],
        removed_limits: &[Box<str>],
    ) -> Result<(), ConfigError> {
        for id in removed_limits {
            self.remove_limit(id);
        }
        for meter in meters {
            if self.meter(meter.id()) != Some(&meter) {
                self.put_meter(meter)?;
            }
        }
        for limit in limits {
            if self.limit(limit.id()) != Some(&limit) {
                self.put_limit(limit)?;
            }
        }
        for id in removed_meters {
            // Not what a limit reads that this program defines in code.
            if self.reader(id).is_none() {
                self.remove_meter(id);
            }
        }
        Ok(())
    }

    /// Counters that were numbered since the store has kept any. Asked once.
    pub(super) fn new_counters(&mut self) -> Vec<(u32, CounterKey)> {
        let new = self.numbers.from(self.numbers_kept);
        self.numbers_kept += new.len() as u32;
        new.into_iter().map(|(number, key)| (number, key.clone())).collect()
    }

    pub(super) fn meter(&self, id: &str) -> Option<&Meter> {
        self.meters.get(id).map(AsRef::as_ref)
    }

    pub(super) fn meters(&self) -> impl Iterator<Item = &Meter> {
        self.meters.values().map(AsRef::as_ref)
    }

    pub(super) fn limits(&self) -> impl Iterator<Item = &Limit> {
        self.limits.values()
    }

    pub(super) fn limit(&self, id: &str) -> Option<&Limit> {
        self.limits.get(id)
    }

    /// Defines a meter of a new id.
    pub(super) fn add_meter(&mut self, meter: Meter) -> Result<(), ConfigError> {
        if self.meters.contains_key(&meter.id) {
            return Err(duplicate("meter", &meter.id));
        }
        self.put_meter(meter)
    }

    pub(super) fn put_meter(&mut self, meter: Meter) -> Result<(), ConfigError> {
        validate_meter(&meter)?;
        if let Some(field) = &meter.field
            && self.values.len() >= MOST_VALUES
            && !self.values.contains(field)
        {
            return Err(ConfigError::new(
                format!("meter {:?}: field", meter.id),
                format!("is one value too many; meters may read {MOST_VALUES} between them"),
            ));
        }
        self.dormant.retain(|(_, rule)| rule.meter.id != meter.id);
        self.values.extend(meter.field.clone());
        self.meters.insert(meter.id.clone(), Arc::new(meter));
        Ok(())
    }

    /// Defines a limit of a new id.
    pub(super) fn add_limit(&mut self, limit: Limit) -> Result<(), ConfigError> {
        if self.limits.contains_key(&limit.id) {
            return Err(duplicate("limit", &limit.id));
        }
        self.put_limit(limit)
    }

    pub(super) fn put_limit(&mut self, limit: Limit) -> Result<(), ConfigError> {
        validate_limit(&limit)?;
        let meter = meter_of(&limit, &self.meters)?;
        self.numbers.number(CounterKey::of(meter, &limit));
        self.remove_limit(&limit.id.clone());
        self.ids.entry(owner(&limit)).or_default().insert(limit.id.clone());
        self.limits.insert(limit.id.clone(), limit);
        Ok(())
    }

    /// Who reads a meter, if anybody.
    pub(super) fn reader(&self, meter: &str) -> Option<&str> {
        self.limits.values().find(|limit| limit.meter() == meter).map(Limit::id)
    }

    pub(super) fn remove_meter(&mut self, id: &str) -> bool {
        self.dormant.retain(|(_, rule)| rule.meter.id != id);
        self.meters.remove(id).is_some()
    }

    pub(super) fn remove_limit(&mut self, id: &str) -> bool {
        let Some(removed) = self.limits.remove(id) else { return false };
        if let Entry::Occupied(mut ids) = self.ids.entry(owner(&removed)) {
            ids.get_mut().remove(id);
            if ids.get().is_empty() {
                ids.remove();
            }
        }
        self.retire(&removed);
        true
    }

    /// From here on the counter's history is whole; before, it is not.
    pub(super) fn incomplete_until(&mut self, counter: u32, time: Timestamp) {
        self.since.insert(counter, time);
    }

    /// The customers who have a limit of their own.
    pub(super) fn owners(&self) -> Vec<CustomerId> {
        let mut owners: Vec<_> = self.ids.keys().flatten().cloned().collect();
        owners.extend(self.dormant.iter().filter_map(|(owner, _)| owner.clone()));
        owners.sort();
        owners.dedup();
        owners
    }

    /// The rules for everybody.
    pub(super) fn rules(&mut self) -> Vec<Rule> {
        self.rules_of(None)
    }

    /// The rules for one customer: their own in place of those they replace, and all others.
    pub(super) fn rules_for(&mut self, customer: &CustomerId) -> Vec<Rule> {
        let own = self.rules_of(Some(customer));
        let replaced: Vec<_> = own.iter().filter_map(Rule::replaces).collect();
        let mut rules: Vec<_> = self
            .rules()
            .into_iter()
            .map(|rule| match rule.replaces() {
                Some(key) if replaced.contains(&key) => rule.dormant(),
                _ => rule,
            })
            .collect();
        rules.extend(own);
        rules
    }

    pub(super) fn catalog(&mut self) -> Catalog {
        let rules = self.rules();
        Catalog::new(self.meters.clone(), &rules, &self.since, &self.values)
    }

    pub(super) fn plans_for(&mut self, customer: &CustomerId) -> Plans {
        let rules = self.rules_for(customer);
        Plans::compile(&rules, &self.since)
    }

    /// Goes on counting what was counted before a change, too, whatever the change made of it. Answers
    /// which counters without a limit the change itself would go on with.
    pub(super) fn go_on_counting(&mut self, former: &mut Self) -> Dormant {
        let lasting = self.dormant.clone();
        let owners = former.owners().into_iter().map(Some).chain([None]);
        for owner in owners {
            let now = self.rules_of(owner.as_ref());
            let gone = former.rules_of(owner.as_ref()).into_iter();
            let gone = gone.filter(|rule| now.iter().all(|known| known.counter != rule.counter));
            self.dormant.extend(gone.map(|rule| (owner.clone(), rule.dormant())));
        }
        lasting
    }

    pub(super) fn set_dormant(&mut self, dormant: Dormant) {
        self.dormant = dormant;
    }

    /// As they were before a change, but that no number is given twice.
    pub(super) fn go_back_to(&mut self, former: &Self) {
        let (numbers, numbers_kept) = (mem::take(&mut self.numbers), self.numbers_kept);
        *self = Self { numbers, numbers_kept, ..former.clone() };
    }

    /// What keeps these definitions after a change was kept.
    pub(super) fn undo<'a>(&'a self, change: Keep<'a>) -> Option<Keep<'a>> {
        let meter = |id| self.meter(id).map_or(Keep::NoMeter(id), Keep::Meter);
        let limit = |id| self.limit(id).map_or(Keep::NoLimit(id), Keep::Limit);
        match change {
            Keep::Meter(changed) => Some(meter(changed.id())),
            Keep::NoMeter(id) => Some(meter(id)),
            Keep::Limit(changed) => Some(limit(changed.id())),
            Keep::NoLimit(id) => Some(limit(id)),
            _ => None,
        }
    }

    fn rules_of(&mut self, customer: Option<&CustomerId>) -> Vec<Rule> {
        let Self { meters, limits, ids, numbers, dormant, .. } = self;
        let ids = ids.get(&customer.cloned()).into_iter().flatten();
        let mut rules: Vec<Rule> = ids
            .filter_map(|id| limits.get(id))
            .filter_map(|limit| Some(Rule::new(meters.get(&limit.meter)?, limit.clone(), numbers)))
            .collect();
        let dormant = dormant.iter().filter(|(owner, _)| owner.as_ref() == customer);
        rules.extend(dormant.map(|(_, rule)| rule.clone()));
        rules
    }

    fn retire(&mut self, limit: &Limit) {
        if self.shared {
            return;
        }
        let Some(meter) = self.meters.get(&limit.meter) else { return };
        let rule = Rule::new(meter, limit.clone(), &mut self.numbers).dormant();
        let owner = owner(limit);
        self.dormant.retain(|(of, known)| *of != owner || known.counter != rule.counter);
        self.dormant.push((owner, rule));
        if self.dormant.len() > MOST_DORMANT {
            self.dormant.remove(0);
        }
    }
}

/// The customer that a limit is for.
pub(super) fn owner(limit: &Limit) -> Option<CustomerId> {
    CustomerId::new(limit.customer()?).ok()
}

fn duplicate(kind: &str, id: &str) -> ConfigError {
    ConfigError::new(
        format!("{kind} {id:?}: id"),
        format!("is defined twice; give each {kind} an id of its own"),
    )
}
