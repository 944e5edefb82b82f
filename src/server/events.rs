use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::customers::resolve;
use super::limits::texts;
use super::page::{Asked, ListQuery, page};
use super::problem::{Answer, Problem, Reply, ok};
use super::replay::{Once, once};
use super::request::{Posted, named, usage};
use super::{App, Shared};
use crate::backend::EventQuery;
use crate::policy::{Event, EventId, RecordedEvent};
use crate::wire::{CountBody, EventBatch, EventBody, NewEvent, Number, PageBody, RecordedBody};

/// How many events a batch may have.
const MOST_EVENTS: usize = 1_000;

pub(super) async fn record(
    State(app): State<Shared>,
    Posted { mut body, once: mut key, sent }: Posted<NewEvent>,
) -> Result<Answer, Problem> {
    match (&key, &body.idempotency_key) {
        (Some(Once { key, .. }), None) => body.idempotency_key = Some(key.clone()),
        (None, Some(named)) if named.len() <= EventId::MAX_LENGTH => {
            key = Some(sent.under(named.clone()));
        }
        _ => {}
    }
    let event = event(&app, body).await?;
    let books = app.books.clone();
    once(&app, key, async move {
        let recorded = books.record(event).await?;
        ok(RecordedBody { id: recorded.id.to_string(), recorded: recorded.recorded })
    })
    .await
}

pub(super) async fn batch(
    State(app): State<Shared>,
    Posted { body, once: key, .. }: Posted<EventBatch>,
) -> Result<Answer, Problem> {
    let count = body.events.len();
    if count > MOST_EVENTS {
        let problem = format!("are {count}; give at most {MOST_EVENTS}");
        return Err(Problem::field("events", problem));
    }
    let mut events = Vec::with_capacity(count);
    for (place, mut new) in body.events.into_iter().enumerate() {
        if let (Some(call), None) = (&key, &new.idempotency_key) {
            new.idempotency_key = Some(in_batch(call, place));
        }
        events.push(event(&app, new).await?);
    }
    let books = app.books.clone();
    once(&app, key, async move {
        books.record_many(events).await?;
        ok(CountBody { count })
    })
    .await
}

pub(super) async fn list(
    State(app): State<Shared>,
    Asked(asked): Asked<ListQuery>,
) -> Result<Reply<PageBody<EventBody>>, Problem> {
    let mut query = EventQuery::new().page(asked.page());
    if let Some(id) = &asked.customer_id {
        query = query.customer(&resolve(&app, id).await?);
    }
    if let Some(event_type) = &asked.event_type {
        query = query.event_type(event_type);
    }
    ok(page(app.books.events(query).await?, body))
}

/// The key of an event that has none of its own, by the batch and its place there: so the books
/// know it, too, when this process no longer knows the batch.
fn in_batch(batch: &Once, place: usize) -> String {
    let hash = Sha256::new()
        .chain_update(Sha256::digest(&batch.key))
        .chain_update(batch.print)
        .chain_update(place.to_be_bytes())
        .finalize();
    format!("batch:{}", URL_SAFE_NO_PAD.encode(hash))
}

async fn event(app: &App, new: NewEvent) -> Result<Event, Problem> {
    named("eventType", &new.event_type)?;
    let customer = resolve(app, &new.customer_id).await?;
    let mut event = Event::new(&customer, &new.event_type, usage(&new.values, &new.dimensions)?);
    if let Some(at) = new.timestamp {
        event = event.at(at);
    }
    if let Some(key) = new.idempotency_key {
        // A key needs the time of the event, so that a late repeat is told from a new one.
        event = event.id(key).at(new.timestamp.unwrap_or_else(|| app.now()));
    }
    Ok(event)
}

fn body(event: RecordedEvent) -> EventBody {
    let values = event.usage().values().iter();
    EventBody {
        id: event.id().to_string(),
        customer_id: event.customer().to_string(),
        event_type: event.event_type().to_owned(),
        values: values.map(|(name, amount)| (name.to_owned(), Number(amount))).collect(),
        dimensions: texts(event.usage().dimensions()),
        timestamp: event.at(),
    }
}
