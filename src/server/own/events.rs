use axum::extract::State;

use crate::Event;
use crate::backend::{EventQuery, MeterQuery, Page, PageRequest, Recorded};
use crate::server::Shared;
use crate::server::holds::{bounded, event_id};
use crate::server::problem::{Answer, Problem, Reply, ok};
use crate::server::replay::once;
use crate::server::request::{Json, Posted};
use crate::wire::{
    EventForm, EventsBody, ItemsBody, NothingBody, OpenHoldsBody, ReadingBody, ReadingQuery,
    RecordBody, RecordedBody, RecordedForm, ResultsBody, VoidBody, usage,
};

pub(super) async fn record(
    State(app): State<Shared>,
    Posted { body, once: key, .. }: Posted<RecordBody>,
) -> Result<Answer, Problem> {
    bounded("events", body.events.len())?;
    let events: Vec<Event> = body.events.into_iter().map(event).collect();
    let books = app.books.clone();
    once(&app, key, async move {
        let recorded = books.record_many(events).await?;
        ok(ResultsBody { results: recorded.into_iter().map(answer).collect() })
    })
    .await
}

fn event(form: EventForm) -> Event {
    let used = usage(&form.values, &form.dimensions);
    let mut event = Event::new(form.customer_id, form.event_type, used);
    if let Some(id) = form.id {
        event = event.id(id);
    }
    match form.at {
        Some(at) => event.at(at),
        None => event,
    }
}

fn answer(recorded: Recorded) -> RecordedBody {
    RecordedBody { id: recorded.id.to_string(), recorded: recorded.recorded }
}

pub(super) async fn void(
    State(app): State<Shared>,
    Json(asked): Json<VoidBody>,
) -> Result<Reply<RecordedBody>, Problem> {
    let id = event_id(&asked.id)?;
    ok(answer(app.books.void(&asked.customer_id, &id).await?))
}

pub(super) async fn list(
    State(app): State<Shared>,
    Json(asked): Json<EventsBody>,
) -> Result<Reply<ItemsBody<RecordedForm>>, Problem> {
    let page = PageRequest { limit: asked.limit, cursor: asked.cursor };
    let mut query = EventQuery::new().page(page);
    if let Some(customer) = asked.customer_id {
        query = query.customer(customer);
    }
    if let Some(event_type) = asked.event_type {
        query = query.event_type(event_type);
    }
    let Page { items, next } = app.books.events(query).await?;
    ok(ItemsBody { items: items.into_iter().map(Into::into).collect(), next })
}

pub(super) async fn query(
    State(app): State<Shared>,
    Json(asked): Json<ReadingQuery>,
) -> Result<Reply<ReadingBody>, Problem> {
    let mut query = MeterQuery::new(asked.meter_id);
    query.dimensions = asked.dimensions.0;
    (query.start, query.end) = (asked.from, asked.until);
    if let Some(customer) = asked.customer_id {
        query = query.customer(customer);
    }
    let reading = app.books.query(query).await?;
    ok(ReadingBody {
        value: reading.value,
        aggregation: reading.aggregation.as_str().to_owned(),
        complete: reading.complete,
    })
}

pub(super) async fn open_holds(
    State(app): State<Shared>,
    Json(NothingBody {}): Json<NothingBody>,
) -> Result<Reply<OpenHoldsBody>, Problem> {
    ok(OpenHoldsBody { open_holds: app.books.open_holds().await? })
}
