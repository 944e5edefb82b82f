use axum::extract::State;
use axum::http::StatusCode;

use super::customers::resolve;
use super::limits::{filters, texts};
use super::page::{Asked, ListQuery};
use super::problem::{Problem, Reply, created, ok};
use super::request::{Id, Json, named};
use super::{App, Shared};
use crate::ErrorKind;
use crate::backend::MeterQuery;
use crate::policy::{Aggregation, Made, Meter};
use crate::wire::{
    EventFilter, MeterBody, MeterChange, MeterReadingBody, MeterReadingQuery, NewMeter, PageBody,
};

pub(super) async fn create(
    State(app): State<Shared>,
    Json(new): Json<NewMeter>,
) -> Result<Reply<MeterBody>, Problem> {
    let mut meter = defined(&app.make_id("mtr_"), new)?;
    meter.made = Made::now(None, app.now());
    app.books.put_meter(meter.clone()).await?;
    created(body(&app, &meter))
}

/// The meter of that id.
pub(super) fn defined(id: &str, new: NewMeter) -> Result<Meter, Problem> {
    named("name", &new.name)?;
    let aggregation = aggregation(&new.aggregation)?;
    let mut meter = Meter::count(id).named(new.name);
    meter.aggregation = aggregation;
    meter.field = field(aggregation, &new.field)?.map(Into::into);
    meter.description = new.description.map(Into::into);
    filter(&mut meter, new.event_filter.unwrap_or_default())?;
    Ok(meter)
}

pub(super) async fn list(
    State(app): State<Shared>,
    Asked(query): Asked<ListQuery>,
) -> Result<Reply<PageBody<MeterBody>>, Problem> {
    let meters = app.books.meters().await?;
    ok(query.cut(meters.iter().map(|meter| body(&app, meter)), |meter| &meter.id)?)
}

pub(super) async fn retrieve(
    State(app): State<Shared>,
    Id(id): Id,
) -> Result<Reply<MeterBody>, Problem> {
    ok(body(&app, &find(&app, &id).await?))
}

pub(super) async fn update(
    State(app): State<Shared>,
    Id(id): Id,
    Json(change): Json<MeterChange>,
) -> Result<Reply<MeterBody>, Problem> {
    let _changing = app.changing.lock().await;
    let mut meter = find(&app, &id).await?;
    if let Some(name) = change.name {
        named("name", &name)?;
        meter = meter.named(name);
    }
    if let Some(text) = change.aggregation {
        meter.aggregation = aggregation(&text)?;
    }
    let text = change.field.unwrap_or_else(|| field_text(&meter));
    meter.field = field(meter.aggregation, &text)?.map(Into::into);
    if let Some(description) = change.description {
        meter.description = description.map(Into::into);
    }
    if let Some(wanted) = change.event_filter {
        filter(&mut meter, wanted)?;
    }
    meter.made = Made::now(Some(&meter.made), app.now());
    app.books.put_meter(meter.clone()).await?;
    ok(body(&app, &meter))
}

pub(super) async fn remove(State(app): State<Shared>, Id(id): Id) -> Result<StatusCode, Problem> {
    let _changing = app.changing.lock().await;
    let removed = app.books.remove_meter(&*id).await.map_err(|error| match error.kind() {
        ErrorKind::Conflict => Problem::conflict("meter_in_use", error.to_string()),
        _ => error.into(),
    });
    if !removed? {
        return Err(unknown(&id));
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn query(
    State(app): State<Shared>,
    Id(id): Id,
    Json(asked): Json<MeterReadingQuery>,
) -> Result<Reply<MeterReadingBody>, Problem> {
    let meter = find(&app, &id).await?;
    let mut query = MeterQuery::new(&id);
    if let Some(id) = &asked.customer_id {
        query = query.customer(&resolve(&app, id).await?);
    }
    query.dimensions = filters(&asked.dimensions)?;
    query.start = asked.start_date;
    query.end = asked.end_date;
    let reading = app.books.query(query).await?;
    ok(MeterReadingBody {
        meter_id: id,
        meter_name: meter.name().to_owned(),
        value: reading.value,
        aggregation: reading.aggregation.as_str(),
        complete: reading.complete,
    })
}

async fn find(app: &App, id: &str) -> Result<Meter, Problem> {
    let meters = app.books.meters().await?;
    meters.into_iter().find(|meter| meter.id() == id).ok_or_else(|| unknown(id))
}

pub(super) fn unknown(id: &str) -> Problem {
    Problem::not_found("meter_not_found", format!("meter {id:?} does not exist"))
}

fn aggregation(text: &str) -> Result<Aggregation, Problem> {
    let all = [Aggregation::Sum, Aggregation::Count, Aggregation::Max, Aggregation::Latest];
    let named = all.into_iter().find(|aggregation| aggregation.as_str() == text);
    named.ok_or_else(|| Problem::field("aggregation", "is none of sum, count, max, latest"))
}

/// The value that `values.<name>` names; `*` is for a count of every event.
fn field(aggregation: Aggregation, text: &str) -> Result<Option<&str>, Problem> {
    match text.strip_prefix("values.") {
        Some(name) if (1..=256).contains(&name.len()) => Ok(Some(name)),
        None if text == "*" && aggregation == Aggregation::Count => Ok(None),
        _ => Err(Problem::field("field", "give values.<name>, or * for a count of all events")),
    }
}

fn field_text(meter: &Meter) -> String {
    meter.field().map_or_else(|| "*".into(), |name| format!("values.{name}"))
}

fn filter(meter: &mut Meter, wanted: EventFilter) -> Result<(), Problem> {
    meter.event_type = wanted.event_type.map(Into::into);
    meter.dimensions = filters(&wanted.dimensions.unwrap_or_default())?;
    Ok(())
}

fn body(app: &App, meter: &Meter) -> MeterBody {
    let times = app.times.of_definition(meter.id(), &meter.made);
    MeterBody {
        id: meter.id().to_owned(),
        project_id: Some(app.project.clone()),
        name: meter.name().to_owned(),
        description: meter.description.as_deref().map(ToOwned::to_owned),
        aggregation: meter.aggregation().as_str(),
        field: field_text(meter),
        event_filter: EventFilter {
            event_type: meter.event_type.as_ref().map(ToString::to_string),
            dimensions: Some(texts(&meter.dimensions)).filter(|texts| !texts.is_empty()),
        },
        created_at: times.created,
        updated_at: times.updated,
    }
}
