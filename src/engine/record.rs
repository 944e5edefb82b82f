//! Uses without a request: recorded as they are told, and listed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Inner;
use super::admin::required;
use crate::Error;
use crate::backend::{EventQuery, Page, Recorded, sound_event};
use crate::policy::{CustomerId, Event, EventId, RecordedEvent, Timestamp, Usage};
use crate::store::{Origin, SettleOperation, SettleOutcome, Settled, Store, Wanted};

/// How many events are recorded at once.
const MOST_EVENTS: usize = 1_000;

/// How early an event may come.
pub(super) const MOST_AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

impl<S: Store> Inner<S> {
    pub(super) async fn record(&self, events: Vec<Event>) -> Result<Vec<Recorded>, Error> {
        if events.len() > MOST_EVENTS {
            let problem = format_args!("are {}; give at most {MOST_EVENTS}", events.len());
            return Err(Error::invalid("events", problem));
        }
        let events: Vec<Use> = events
            .into_iter()
            .enumerate()
            .map(|(at, event)| self.check_event(at, event))
            .collect::<Result<_, _>>()?;
        let mut settled = vec![Settled::nothing(SettleOutcome::Stale); events.len()];
        let mut left: Vec<usize> = (0..events.len()).collect();
        while !left.is_empty() {
            let epoch = self.epoch.load(Ordering::Acquire);
            let some: Vec<&Use> = left.iter().map(|at| &events[*at]).collect();
            let answers = self.record_once(&some, epoch).await?;
            let is_refused = |settled: &Settled| {
                !settled.outcome.is_counted() && settled.outcome != SettleOutcome::Stale
            };
            // The answers end with the one that could not be taken.
            if let Some(last) = answers.iter().rposition(is_refused) {
                let (at, refused) = (left[last], &answers[last]);
                let event = &events[at];
                self.settled(&event.customer, &event.event_type, event.at, refused);
                let error = Error::from(refused.outcome);
                return Err(Error::new(error.kind(), format!("events[{at}]: {error}")));
            }
            for (at, answer) in left.iter().zip(answers) {
                settled[*at] = answer;
            }
            // A store that is shared may have taken some before its definitions changed.
            left.retain(|at| settled[*at].outcome == SettleOutcome::Stale);
            if !left.is_empty() {
                self.reload(epoch).await?;
            }
        }
        for (event, settled) in events.iter().zip(&settled) {
            self.tell(settled, || event.recorded());
            self.settled(&event.customer, &event.event_type, event.at, settled);
        }
        let recorded = events.into_iter().zip(settled).map(|(event, settled)| Recorded {
            id: event.id,
            recorded: settled.outcome == SettleOutcome::Recorded,
        });
        Ok(recorded.collect())
    }

    /// Resolves all events by the definitions of now and records them.
    async fn record_once(&self, events: &[&Use], epoch: u64) -> Result<Vec<Settled>, Error> {
        let now = self.moment();
        let frames: Vec<_> = events
            .iter()
            .map(|event| {
                self.frame_for_event(&event.customer, &event.event_type, &event.usage, event.at)
            })
            .collect();
        let given: Vec<_> = events
            .iter()
            .zip(&frames)
            .map(|(event, frame)| frame.plan.amounts(&event.usage))
            .collect();
        let mut usages: Vec<Usage> = events.iter().map(|event| event.usage.clone()).collect();
        let settling = events.iter().zip(&mut usages).zip(frames.iter().zip(&given));
        let operations = settling.map(|((event, usage), (frame, given))| SettleOperation {
            epoch,
            now,
            id: &event.id,
            customer: &event.customer,
            origin: event.origin,
            event_type: &event.event_type,
            usage,
            at: event.at,
            lines: &frame.lines,
            given,
            charge: None,
            reverses: false,
            mark: None,
        });
        self.store.record(operations.collect()).await
    }

    fn check_event(&self, at: usize, event: Event) -> Result<Use, Error> {
        let field = |name: &str| format!("events[{at}].{name}");
        let now = self.now();
        let (customer, given) = sound_event(at, &event)?;
        let time = event.at.or_else(|| given.as_ref().and_then(EventId::made_at));
        if time.is_some_and(|time| time.duration_since(now) > MOST_AHEAD) {
            let problem = "is more than 24 hours ahead; give the time at which it happened";
            return Err(Error::invalid(&field("at"), problem));
        }
        let (id, origin) = match given {
            Some(id) => (id, Origin::Given),
            None => (self.ids.make(now), Origin::Fresh),
        };
        Ok(Use {
            id,
            origin,
            customer,
            event_type: event.event_type,
            usage: event.usage,
            at: time.unwrap_or(now),
        })
    }

    pub(super) async fn events(&self, query: EventQuery) -> Result<Page<RecordedEvent>, Error> {
        let length = query.page.length()?;
        let before = query.page.number()?;
        let customer = query.customer.map(required).transpose()?;
        let wanted =
            Wanted { before, customer: customer.as_ref(), event_type: query.event_type.as_deref() };
        let mut items: Vec<RecordedEvent> = Vec::new();
        let mut visit = |event: &RecordedEvent| {
            let wanted = before.is_none_or(|before| event.sequence < before)
                && customer.as_ref().is_none_or(|customer| event.customer == *customer)
                && query.event_type.as_ref().is_none_or(|wanted| event.event_type == *wanted);
            if wanted {
                items.push(event.clone());
            }
            items.len() <= length
        };
        self.store.events_before(wanted, &mut visit).await?;
        let more = items.len() > length;
        items.truncate(length);
        let next = items.last().map(|last| last.sequence.to_string()).filter(|_| more);
        Ok(Page { items, next })
    }
}

/// An event to record, checked.
struct Use {
    id: EventId,
    origin: Origin,
    customer: CustomerId,
    event_type: compact_str::CompactString,
    usage: Usage,
    at: Timestamp,
}

impl Use {
    fn recorded(&self) -> RecordedEvent {
        RecordedEvent {
            id: self.id.clone(),
            customer: self.customer.clone(),
            event_type: self.event_type.clone(),
            usage: self.usage.clone(),
            at: self.at,
            sequence: 0,
            reverses: false,
        }
    }
}
