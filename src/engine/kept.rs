//! What the store has kept of earlier processes, and which counters are whole.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::task::unconstrained;

use super::accounts::Known;
use super::definitions::Definitions;
use super::{Engine, Inner};
use crate::policy::catalog::Rule;
use crate::policy::{CustomerId, RecordedEvent};
use crate::store::{
    CountedBy, Keep, Kept, KeptAlert, KeptHold, Origin, SettleOperation, SettleOutcome, Store,
};
use crate::{Error, hook};

/// How many holds of earlier processes are settled together.
const AT_ONCE: usize = 1_000;

/// Who counts on which counters.
#[derive(Debug, Default)]
pub(super) struct Counted {
    everybody: BTreeSet<u32>,
    own: HashMap<CustomerId, BTreeSet<u32>>,
    /// The same as rows, to be kept.
    rows: Vec<(Option<CustomerId>, Vec<u32>)>,
    /// A store has a row of everybody.
    is_kept: bool,
}

impl Counted {
    /// What everybody and these owners count on.
    pub(super) fn by(definitions: &mut Definitions, owners: &[CustomerId]) -> Self {
        let everybody = counters(&definitions.rules());
        let own = owners.iter().map(|owner| {
            let counters = counters(&definitions.rules_for(owner));
            (owner.clone(), counters)
        });
        Self::new(everybody, own.collect())
    }

    fn new(everybody: BTreeSet<u32>, own: HashMap<CustomerId, BTreeSet<u32>>) -> Self {
        let row = |owner: Option<&CustomerId>, counters: &BTreeSet<u32>| {
            (owner.cloned(), counters.iter().copied().collect())
        };
        let mut rows = vec![row(None, &everybody)];
        rows.extend(own.iter().map(|(owner, counters)| row(Some(owner), counters)));
        Self { everybody, own, rows, is_kept: false }
    }

    fn of(mut kept: CountedBy) -> Self {
        let everybody = kept.remove(&None);
        let is_kept = everybody.is_some();
        let everybody = everybody.unwrap_or_default().into_iter().collect();
        let own = kept
            .into_iter()
            .filter_map(|(owner, counters)| Some((owner?, counters.into_iter().collect())));
        Self { is_kept, ..Self::new(everybody, own.collect()) }
    }

    /// Of that, what is counted by the store, too, where others write there: one that was killed while it
    /// counted leaves less. A change that concerns a customer alone looks at theirs.
    pub(super) fn kept_by(
        self,
        store: &impl Store,
        only: Option<&CustomerId>,
    ) -> Result<Self, Error> {
        let Some(kept) = store.counted()? else { return Ok(self) };
        let mut kept = Self::of(kept);
        if let Some(only) = only {
            let own = kept.counters(only).clone();
            kept = Self::new(kept.everybody, HashMap::from([(only.clone(), own)]));
        }
        Ok(self.and(&kept))
    }

    fn counters(&self, customer: &CustomerId) -> &BTreeSet<u32> {
        self.own.get(customer).unwrap_or(&self.everybody)
    }

    pub(super) fn counts(&self, customer: &CustomerId, counter: u32) -> bool {
        self.counters(customer).contains(&counter)
    }

    pub(super) fn all_count(&self, counter: u32) -> bool {
        self.everybody.contains(&counter)
            && self.own.values().all(|counters| counters.contains(&counter))
    }

    /// Whether everyone who counts on a counter now did so before.
    fn goes_on(&self, now: &Self, counter: u32) -> bool {
        let is_new = |before: &BTreeSet<u32>, now: &BTreeSet<u32>| {
            now.contains(&counter) && !before.contains(&counter)
        };
        let mut owners = self.own.keys().chain(now.own.keys());
        !is_new(&self.everybody, &now.everybody)
            && !owners.any(|owner| is_new(self.counters(owner), now.counters(owner)))
    }

    /// What is counted by both.
    pub(super) fn and(&self, other: &Self) -> Self {
        let owners: BTreeSet<&CustomerId> = self.own.keys().chain(other.own.keys()).collect();
        let own = owners.into_iter().map(|owner| {
            let both = self.counters(owner) & other.counters(owner);
            (owner.clone(), both)
        });
        Self::new(&self.everybody & &other.everybody, own.collect())
    }

    /// What a store that has kept `before` is to keep now. By a change that concerns a customer alone,
    /// everybody's stays as it is.
    pub(super) fn changes<'a>(
        &'a self,
        before: &'a Self,
        only: Option<&CustomerId>,
    ) -> Vec<Keep<'a>> {
        let rows = self.rows.iter().filter(|(owner, _)| only.is_none() || owner.is_some());
        let mut changes: Vec<_> =
            rows.map(|(owner, counters)| Keep::Counted(owner.as_ref(), Some(counters))).collect();
        let former = before.own.keys().filter(|owner| !self.own.contains_key(owner));
        changes.extend(former.map(|owner| Keep::Counted(Some(owner), None)));
        changes
    }

    /// Of its [`changes`](Self::changes), what a store that has exactly `stored` does not say already.
    fn new_to<'a>(&'a self, stored: &'a Self) -> impl Iterator<Item = Keep<'a>> {
        self.changes(stored, None).into_iter().filter(|keep| match keep {
            Keep::Counted(None, Some(counters)) => {
                !stored.is_kept || !stored.everybody.iter().eq(*counters)
            }
            Keep::Counted(Some(owner), Some(counters)) => {
                !stored.own.get(owner).is_some_and(|own| own.iter().eq(*counters))
            }
            _ => true,
        })
    }
}

pub(super) fn counters(rules: &[Rule]) -> BTreeSet<u32> {
    rules.iter().map(|rule| rule.counter).collect()
}

impl<S: Store> Engine<S> {
    /// Goes on from what the store has kept. Blocks while counters that are new to it are counted.
    pub(super) fn take_up(&self, mut kept: Kept, alerts_again: bool) -> Result<(), Error> {
        let holds = std::mem::take(&mut kept.holds);
        block_on(async {
            self.0.take_up(kept).await?;
            let alerts = match alerts_again {
                true => self.0.store.alerts(self.0.moment()).await?,
                false => Vec::new(),
            };
            self.0.settle_kept(&holds).await?;
            self.0.alert_again(alerts).await
        })
    }
}

impl<S: Store> Inner<S> {
    async fn take_up(&self, kept: Kept) -> Result<(), Error> {
        for customer in kept.customers {
            let Some(id) = customer.id().cloned() else { continue };
            let windows = self.windows_of(&customer)?;
            let known = self.accounts.get(&id);
            let known = known.map(|known| Known::clone(&known)).unwrap_or_default();
            self.accounts.put(&id, Known { customer: Some(customer), windows, ..known });
        }
        for (id, periods) in kept.customers_since {
            let known = self.accounts.get(&id);
            let mut known = known.map(|known| Known::clone(&known)).unwrap_or_default();
            for (period, since) in periods {
                known.since[period.index()] = Some(since);
            }
            self.accounts.put(&id, known);
        }
        let zone = self.windows.calendar().zone();
        let same_days = kept.zone.as_deref() == Some(zone);
        let stored = Counted::of(kept.counted);
        let nothing = Counted::default();
        let before = if same_days { &stored } else { &nothing };

        let mut definitions = self.definitions.lock().await;
        let owners = definitions.owners();
        let after = Counted::by(&mut definitions, &owners);
        let mut rules = definitions.rules();
        for owner in &owners {
            rules.extend(definitions.rules_for(owner));
        }
        rules.retain(|rule| !before.goes_on(&after, rule.counter));
        let new_counters = definitions.new_counters();
        let both = Counted { is_kept: true, ..before.and(&after) };
        let mut changes: Vec<Keep<'_>> =
            new_counters.iter().map(|(number, key)| Keep::Counter(*number, key)).collect();
        changes.extend(both.new_to(&stored));
        if !same_days {
            changes.push(Keep::Zone(zone));
        }
        let now = self.now();
        changes.extend(definitions.meters().map(|meter| Keep::Rollup(meter, now)));
        self.store.keep(&changes).await?;
        let mut since = Vec::new();
        if !rules.is_empty() {
            let known = |customer: &CustomerId, counter| before.counts(customer, counter);
            let forgotten = self.recount(None, &rules, &known).await?;
            if let Some(forgotten) = forgotten {
                for rule in &rules {
                    definitions.incomplete_until(rule.counter, forgotten);
                    since.push(Keep::Since(rule.counter, forgotten));
                }
                self.publish(&mut definitions, None, &owners);
            }
        }
        since.extend(after.new_to(&both));
        self.store.keep(&since).await
    }

    /// Settles the holds of which nobody is left, each as it was estimated.
    async fn settle_kept(&self, holds: &[KeptHold]) -> Result<(), Error> {
        for some in holds.chunks(AT_ONCE) {
            let answers: Vec<_> = some.iter().map(|hold| self.settle_one_kept(hold)).collect();
            for (KeptHold { event, .. }, answer) in some.iter().zip(answers) {
                let settled = answer.await?;
                self.tell(&settled, || event.clone());
                self.settled(&event.customer, &event.event_type, event.at, &settled);
                if !matches!(settled.outcome, SettleOutcome::Recorded | SettleOutcome::Repeat) {
                    return Err(settled.outcome.into());
                }
            }
        }
        Ok(())
    }

    /// Tells of alerts of which it is not known that anybody heard.
    async fn alert_again(&self, alerts: Vec<KeptAlert>) -> Result<(), Error> {
        let Some(on_alert) = &self.on_alert else { return Ok(()) };
        let now = self.now();
        for KeptAlert { customer, limit, ends, percent } in alerts {
            let known = self.accounts.get(&customer);
            let catalog = self.catalog.load();
            let plan = Self::plan(known.as_deref(), &catalog, None);
            let Some(line) = plan.lines.iter().find(|line| line.id() == &*limit) else { continue };
            // Ends are kept by the minute, rounded up, and no window is shorter.
            const MINUTE: Duration = Duration::from_secs(60);
            let within = ends.map_or(now, |ends| ends.saturating_sub(MINUTE));
            let window = self.window(known.as_deref(), line, within);
            let is_it = match ends {
                Some(ends) => window.end() <= ends && ends.duration_since(window.end()) < MINUTE,
                None => window.is_all_time(),
            };
            // Else the limit, or the customer's calendar, is another now.
            if !is_it {
                continue;
            }
            let used = self.store.read(&customer, line.counter, window).await?;
            let crossing = line.crossing(customer, percent, used, window);
            hook::call(|| on_alert(&crossing));
        }
        Ok(())
    }

    fn settle_one_kept(&self, KeptHold { event, charge }: &KeptHold) -> S::Settle {
        let RecordedEvent { customer, event_type, usage, .. } = event;
        let frame = self.frame_for_event(customer, event_type, usage, event.at);
        self.store.settle(SettleOperation {
            epoch: self.epoch.load(Ordering::Acquire),
            now: self.moment(),
            id: &event.id,
            customer: &event.customer,
            // Nobody can have settled it, and the id may come again.
            origin: Origin::Unsure(0),
            event_type: &event.event_type,
            usage: &mut event.usage.clone(),
            at: event.at,
            lines: &frame.lines,
            given: &frame.plan.amounts(usage),
            charge: charge.as_ref().map(|(balance, amount)| (self.balance(balance), *amount)),
            reverses: false,
            mark: None,
        })
    }
}

/// Waits for a future on this thread, which may be one of a runtime or not. Within a task of tokio's it
/// must not be told to yield, for which it would wait for ever.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(unconstrained(future));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
