//! The settlement: which counters a use moves, and who is told of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::Inner;
use crate::backend::Settlement;
use crate::policy::frame::Frame;
use crate::policy::{CustomerId, RecordedEvent, Timestamp, Usage};
use crate::store::{Origin, SettleOperation, SettleOutcome, Settled, Store};
use crate::{Error, ErrorKind, hook, observe};

impl<S: Store> Inner<S> {
    /// The frame that an event of any time moves.
    pub(super) fn frame_for_event(
        &self,
        customer: &CustomerId,
        event_type: &str,
        usage: &Usage,
        at: Timestamp,
    ) -> Arc<Frame> {
        let known = self.accounts.get(customer);
        let known = known.as_deref();
        let catalog = self.catalog.load();
        let plan = Self::plan(known, &catalog, Some(event_type));
        let which: Option<SmallVec<[u16; 8]>> =
            plan.narrows.then(|| plan.moved_by(usage.dimensions()).collect());
        let newest = self.newest(known, plan).get(plan, which.as_deref(), at);
        newest.unwrap_or_else(|| {
            let whole = self.frame(known, plan, at);
            Arc::new(match which {
                Some(which) => whole.narrowed(&which),
                None => whole,
            })
        })
    }

    /// Sends a settlement, resolved by the definitions of now.
    pub(super) fn settle(&self, settlement: &mut Settlement) -> S::Settle {
        let hold = &settlement.hold;
        let check = hold.check();
        let ask = check.ask();
        let origin = match (settlement.unsure, hold.ticket.place) {
            (true, _) => Origin::Unsure(ask.attempt),
            (false, place) => Origin::Held(place),
        };
        let charge = ask.charge.as_ref().zip(settlement.charge);
        let epoch = self.epoch.load(Ordering::Acquire);
        // The store may take what it is given, and the hook wants it, too.
        let mut copy = self.on_event.as_ref().map(|_| settlement.usage.clone());
        let mut operation = SettleOperation {
            epoch,
            now: self.moment(),
            id: &ask.id,
            customer: &ask.customer,
            origin,
            event_type: ask.recorded_as(),
            usage: copy.as_mut().unwrap_or(&mut settlement.usage),
            at: hold.at,
            lines: &[],
            given: &[],
            charge: charge.map(|(charge, amount)| (self.balance(&charge.balance), amount)),
            reverses: false,
            mark: None,
        };
        let answer = check.answer().filter(|answer| answer.epoch == epoch);
        let same = answer.filter(|answer| {
            let plan = &answer.frame.plan;
            // Else it was checked against what is not counted, or counts what was not checked.
            let is_same = || answer.frame.lines.iter().map(|line| line.index);
            let moved = || plan.moved_by(operation.usage.dimensions());
            ask.event_type.is_some() && (!plan.narrows || is_same().eq(moved()))
        });
        let made;
        let frame = match same {
            // By the definitions of its check, as they are still those of now, and in its windows.
            Some(answer) => &answer.frame,
            None => {
                let event_type = ask.recorded_as();
                made = self.frame_for_event(&ask.customer, event_type, operation.usage, hold.at);
                &made
            }
        };
        let given = frame.plan.amounts(operation.usage);
        operation.lines = &frame.lines;
        operation.given = &given;
        self.store.settle(operation)
    }

    /// What the store's answer to a settlement means.
    pub(super) fn finish(
        &self,
        settlement: &Settlement,
        answer: Result<Settled, Error>,
    ) -> Result<(), Error> {
        let hold = &settlement.hold;
        let settled = answer?;
        let ask = hold.check().ask();
        self.tell(&settled, || RecordedEvent {
            id: ask.id.clone(),
            customer: ask.customer.clone(),
            event_type: ask.recorded_as().into(),
            usage: settlement.usage.clone(),
            at: hold.at,
            sequence: 0,
            reverses: false,
        });
        self.settled(&ask.customer, ask.recorded_as(), hold.at, &settled);
        match settled.outcome {
            SettleOutcome::Recorded | SettleOutcome::Repeat | SettleOutcome::Stale => Ok(()),
            SettleOutcome::TooOld
            | SettleOutcome::Full
            | SettleOutcome::Unavailable
            | SettleOutcome::Behind => Err(settled.outcome.into()),
        }
    }

    /// Tells of an event that was recorded.
    #[inline]
    pub(super) fn tell(&self, settled: &Settled, event: impl FnOnce() -> RecordedEvent) {
        if let Some(on_event) = &self.on_event
            && settled.outcome == SettleOutcome::Recorded
        {
            let event = event();
            hook::call(|| on_event(&event));
        }
    }

    /// Tells about what a settlement caused.
    pub(super) fn settled(
        &self,
        customer: &CustomerId,
        event_type: &str,
        at: Timestamp,
        settled: &Settled,
    ) {
        observe::settlement(match settled.outcome {
            SettleOutcome::Recorded if settled.saturated => "saturated",
            SettleOutcome::Recorded => "recorded",
            SettleOutcome::Repeat => "repeat",
            SettleOutcome::Stale => "stale",
            SettleOutcome::TooOld => "too_old",
            SettleOutcome::Full => "full",
            SettleOutcome::Unavailable => "unavailable",
            SettleOutcome::Behind => "behind",
        });
        if !settled.alerts.is_empty() {
            self.alert(customer, event_type, at, settled);
        }
        self.one_ended();
    }

    #[cold]
    fn alert(&self, customer: &CustomerId, event_type: &str, at: Timestamp, settled: &Settled) {
        let Some(on_alert) = &self.on_alert else { return };
        let known = self.accounts.get(customer);
        let catalog = self.catalog.load();
        let plan = Self::plan(known.as_deref(), &catalog, Some(event_type));
        for (limit, percent, used) in &settled.alerts {
            let Some(line) = plan.lines.iter().find(|line| line.id() == &**limit) else { continue };
            let window = self.window(known.as_deref(), line, at);
            let crossing = line.crossing(customer.clone(), *percent, *used, window);
            hook::call(|| on_alert(&crossing));
        }
    }
}

impl From<SettleOutcome> for Error {
    fn from(outcome: SettleOutcome) -> Self {
        match outcome {
            SettleOutcome::TooOld => Self::new(
                ErrorKind::TooOld,
                "the event is older than ids are remembered, so a repeat could not be told; \
                 if it was not counted before, record it without an id of its own",
            ),
            SettleOutcome::Unavailable => Self::new(
                ErrorKind::Unavailable,
                "the store cannot take the use now; try again under the same id",
            ),
            SettleOutcome::Behind => Self::new(
                ErrorKind::Unavailable,
                "the store has forgotten what it had taken before; deliver that again first",
            ),
            _ => Self::new(
                ErrorKind::Unavailable,
                "the store has no place for another customer; raise max_customers",
            ),
        }
    }
}
