use serde::{Deserialize, Serialize};

use super::answer::{Answered, answered_customer, dimensions, given, senseless, unknown};
use super::call::key_of;
use super::pages::{asked, page};
use super::{Call, Client, Pages};
use crate::Error;
use crate::backend::{EventQuery, Page, Recorded};
use crate::policy::{
    CustomerId, Dimensions, Event, EventId, RecordedEvent, Timestamp, Usage, Values,
};
use crate::wire::{Numbers, Texts};

/// Recorded uses.
#[derive(Clone, Copy, Debug)]
pub struct Events<'a>(pub(super) &'a Client);

impl Events<'_> {
    /// The most events of one [batch](Self::record_many).
    pub const MOST: usize = 1_000;

    /// Records one event, under its id and at its time, or under an id made here and at the time of
    /// now. It never refuses because of a limit.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an event that makes no sense,
    /// [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut) when it may have been recorded.
    pub async fn record(self, event: &Event) -> Result<Recorded, Error> {
        let now = Timestamp::from(std::time::SystemTime::now());
        self.record_told(&self.0.told(event, now)?).await
    }

    pub(crate) async fn record_told(self, event: &Told<'_>) -> Result<Recorded, Error> {
        let call = Call::post(&["events", "record"]).under(key_of(event.customer, &event.id));
        let answer: RecordAnswer = self.0.http().fetch(call.json(&event.body())?).await?;
        let id = match answer.id {
            Some(id) => EventId::new(id).map_err(|error| unknown(senseless("id", error)))?,
            None => event.id.clone(),
        };
        Ok(Recorded { id, recorded: answer.recorded.unwrap_or(true) })
    }

    /// Records up to [`MOST`](Self::MOST) events in one call: all of them, or none when one makes no
    /// sense. Answers how many.
    ///
    /// # Errors
    ///
    /// As [`record`](Self::record).
    pub async fn record_many<'e>(
        self,
        events: impl IntoIterator<Item = &'e Event>,
    ) -> Result<usize, Error> {
        let now = Timestamp::from(std::time::SystemTime::now());
        let told = events.into_iter().map(|event| self.0.told(event, now));
        let told = told.collect::<Result<Vec<_>, _>>()?;
        let call = self.0.batch(&told)?;
        match told.len() {
            0 => Ok(0),
            length => {
                let answer: CountAnswer = self.0.http().fetch(call).await?;
                Ok(answer.count.unwrap_or(length))
            }
        }
    }

    /// Events, in the API's order: ours answers the newest first.
    pub fn list(self, query: EventQuery) -> Pages<RecordedEvent> {
        match listed(query) {
            Ok(call) => Pages::of::<EventAnswer>(self.0, call),
            Err(error) => Pages::failed(error),
        }
    }

    /// One page of them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a page that is none.
    pub async fn page(self, query: EventQuery) -> Result<Page<RecordedEvent>, Error> {
        page::<EventAnswer>(self.0, listed(query)?).await
    }
}

fn listed(query: EventQuery) -> Result<Call, Error> {
    let call = asked(Call::get(&["events"]), &query.page)?;
    let event_type = query.event_type.as_deref();
    Ok(call.query("customerId", given(query.customer)?).query("eventType", event_type))
}

impl Client {
    /// An event with its id and its time, the same on every attempt: if it names none, now.
    pub(crate) fn told<'e>(&self, event: &'e Event, now: Timestamp) -> Result<Told<'e>, Error> {
        let customer = event.customer.as_ref();
        let customer = customer.map_err(|error| Error::invalid("customer", error))?;
        if let Some(problem) = event.usage.problem() {
            return Err(Error::invalid("usage", problem));
        }
        let (id, at) = match &event.id {
            // What carries its time needs no other.
            Some(Ok(id)) => (id.clone(), event.at.or(id.made_at()).unwrap_or(now)),
            Some(Err(error)) => return Err(Error::invalid("id", error)),
            None => (self.make_id(now), event.at.unwrap_or(now)),
        };
        Ok(Told { id, customer, event_type: &event.event_type, usage: &event.usage, at })
    }

    /// The call that records all of these.
    pub(crate) fn batch(&self, events: &[Told<'_>]) -> Result<Call, Error> {
        let most = Events::MOST;
        if events.len() > most {
            let problem = format_args!("are {}; give at most {most}", events.len());
            return Err(Error::invalid("events", problem));
        }
        let events = events.iter().map(Told::body).collect();
        let id = self.make_id(Timestamp::from(std::time::SystemTime::now()));
        Call::post(&["events", "batch"]).under(id.to_string()).json(&BatchBody { events })
    }
}

/// An event as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Told<'e> {
    pub(crate) id: EventId,
    pub(crate) customer: &'e CustomerId,
    pub(crate) event_type: &'e str,
    pub(crate) usage: &'e Usage,
    pub(crate) at: Timestamp,
}

impl Told<'_> {
    fn body(&self) -> EventBody<'_> {
        EventBody {
            customer_id: self.customer,
            event_type: self.event_type,
            values: self.usage.values(),
            dimensions: self.usage.dimensions(),
            timestamp: self.at,
            idempotency_key: &self.id,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventBody<'e> {
    customer_id: &'e CustomerId,
    event_type: &'e str,
    values: &'e Values,
    dimensions: &'e Dimensions,
    timestamp: Timestamp,
    idempotency_key: &'e EventId,
}

#[derive(Serialize)]
struct BatchBody<'e> {
    events: Vec<EventBody<'e>>,
}

#[derive(Deserialize)]
struct RecordAnswer {
    id: Option<String>,
    recorded: Option<bool>,
}

#[derive(Deserialize)]
pub(crate) struct CountAnswer {
    count: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventAnswer {
    id: String,
    customer_id: String,
    event_type: String,
    values: Option<Numbers>,
    dimensions: Option<Texts>,
    timestamp: Option<Timestamp>,
    created_at: Option<Timestamp>,
}

impl Answered for EventAnswer {
    type Item = RecordedEvent;

    fn item(self) -> Result<RecordedEvent, Error> {
        let mut usage = Usage::new();
        for (name, amount) in self.values.unwrap_or_default() {
            usage = usage.and(name, amount.0);
        }
        *usage.dimensions_mut() = dimensions(self.dimensions);
        let at = self.timestamp.or(self.created_at);
        Ok(RecordedEvent {
            reverses: self.id.starts_with("void:"),
            id: EventId::new(self.id).map_err(|error| senseless("id", error))?,
            customer: answered_customer(&self.customer_id)?,
            event_type: self.event_type.into(),
            usage,
            at: at.ok_or_else(|| senseless("timestamp", "is missing"))?,
            sequence: 0,
        })
    }
}
