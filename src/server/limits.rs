use axum::extract::State;
use axum::http::StatusCode;

use super::customers::resolve;
use super::page::{Asked, ListQuery};
use super::problem::{Problem, Reply, created, ok};
use super::request::{Id, Json, named};
use super::{App, Shared};
use crate::backend::{LimitState, MeterQuery};
use crate::policy::{
    Aggregation, Amount, Calendar, Dimensions, Limit, Made, Period, Timestamp, Window, judge_limit,
};
use crate::wire::{
    LimitBody, LimitChange, LimitStanding, LimitsCheck, LimitsCheckBody, NewLimit, PageBody, Texts,
};

pub(super) async fn check(
    State(app): State<Shared>,
    Json(check): Json<LimitsCheck>,
) -> Result<Reply<LimitsCheckBody>, Problem> {
    let has =
        |(key, text): (&str, &str)| check.dimensions.get(key).is_some_and(|told| told == text);
    let limits: Vec<LimitStanding> = match &check.customer_id {
        Some(id) => {
            let customer = resolve(&app, id).await?;
            let standing = app.books.usage(&customer).await?;
            let matching = standing.limits().filter(|limit| limit.dimensions().all(has));
            matching.map(|limit| of_customer(&limit)).collect()
        }
        None => {
            let mut limits = Vec::new();
            for limit in app.books.limits().await? {
                if limit.customer().is_none() && limit.dimensions().iter().all(has) {
                    limits.push(over_all(&app, &limit).await?);
                }
            }
            limits.sort_by_key(|limit| !limit.exceeded);
            limits
        }
    };
    let allowed = !limits.iter().any(|limit| limit.exceeded);
    ok(LimitsCheckBody { allowed, limits })
}

fn of_customer(limit: &LimitState<'_>) -> LimitStanding {
    LimitStanding {
        id: limit.id().to_owned(),
        name: limit.name().to_owned(),
        meter_id: limit.meter().to_owned(),
        period: limit.period().as_str(),
        limit: limit.limit(),
        used: limit.used(),
        remaining: limit.remaining(),
        exceeded: limit.is_exceeded(),
        reset: limit.reset(),
    }
}

/// Where everybody together stands on a limit, by the kept events of the window of now in UTC.
async fn over_all(app: &App, limit: &Limit) -> Result<LimitStanding, Problem> {
    let window = window(limit.period(), app.now())?;
    let mut query = MeterQuery::new(limit.meter()).from(window.start()).until(window.end());
    query = limit.dimensions().iter().fold(query, |query, (key, text)| query.dimension(key, text));
    let used = app.books.query(query).await?.value;
    let cap = limit.cap().unwrap_or(Amount::MAX);
    // Nothing is held over all customers, so the kind of meter makes no difference.
    let verdict = judge_limit(Aggregation::Sum, cap, used, Amount::ZERO, None);
    Ok(LimitStanding {
        id: limit.id().to_owned(),
        name: limit.name().to_owned(),
        meter_id: limit.meter().to_owned(),
        period: limit.period().as_str(),
        limit: cap,
        used,
        remaining: cap.saturating_sub(used).max(Amount::ZERO),
        exceeded: verdict.refuses(),
        reset: window.reset(),
    })
}

fn window(period: Period, at: Timestamp) -> Result<Window, Problem> {
    let utc = Calendar::new(None, None).map_err(|_| Problem::internal())?;
    Ok(utc.window(period, at))
}

pub(super) async fn create(
    State(app): State<Shared>,
    Json(new): Json<NewLimit>,
) -> Result<Reply<LimitBody>, Problem> {
    let mut limit = defined(&app.make_id("lmt_"), new)?;
    if let Some(id) = limit.customer.take() {
        limit = limit.for_customer(resolve(&app, &id).await?);
    }
    limit.made = Made::now(None, app.now());
    put(&app, &limit).await?;
    created(body(&app, &limit))
}

/// The limit of that id.
pub(super) fn defined(id: &str, new: NewLimit) -> Result<Limit, Problem> {
    named("name", &new.name)?;
    let mut limit = Limit::new(id, &new.meter_id, period(&new.period)?, new.limit_value.0)
        .named(new.name)
        .alert_at(new.alert_thresholds.unwrap_or_default());
    limit.dimensions = filters(&new.dimension_filters)?;
    limit.customer = new.customer_id.map(Into::into);
    Ok(limit)
}

pub(super) async fn list(
    State(app): State<Shared>,
    Asked(query): Asked<ListQuery>,
) -> Result<Reply<PageBody<LimitBody>>, Problem> {
    let limits = app.books.limits().await?;
    let of = match &query.customer_id {
        Some(id) => Some(resolve(&app, id).await?),
        None => None,
    };
    let wanted = limits.iter().filter(|limit| {
        of.as_ref().is_none_or(|customer| limit.customer() == Some(customer.as_str()))
    });
    let mut bodies: Vec<_> = wanted.map(|limit| body(&app, limit)).collect();
    bodies.sort_by(|one, other| one.id.cmp(&other.id));
    ok(query.cut(bodies.into_iter(), |limit| &limit.id)?)
}

pub(super) async fn retrieve(
    State(app): State<Shared>,
    Id(id): Id,
) -> Result<Reply<LimitBody>, Problem> {
    ok(body(&app, &find(&app, &id).await?))
}

pub(super) async fn update(
    State(app): State<Shared>,
    Id(id): Id,
    Json(change): Json<LimitChange>,
) -> Result<Reply<LimitBody>, Problem> {
    let _changing = app.changing.lock().await;
    let mut limit = find(&app, &id).await?;
    if let Some(name) = change.name {
        named("name", &name)?;
        limit = limit.named(name);
    }
    if let Some(meter) = change.meter_id {
        limit.meter = meter.into();
    }
    if let Some(value) = change.limit_value {
        limit.cap = Ok(value.0);
    }
    if let Some(text) = change.period {
        limit.period = period(&text)?;
    }
    match change.customer_id {
        None => {}
        Some(None) => limit.customer = None,
        Some(Some(id)) => limit = limit.for_customer(resolve(&app, &id).await?),
    }
    if let Some(texts) = change.dimension_filters {
        limit.dimensions = filters(&texts)?;
    }
    if let Some(percentages) = change.alert_thresholds {
        limit = limit.alert_at(percentages.unwrap_or_default());
    }
    limit.made = Made::now(Some(&limit.made), app.now());
    put(&app, &limit).await?;
    ok(body(&app, &limit))
}

pub(super) async fn remove(State(app): State<Shared>, Id(id): Id) -> Result<StatusCode, Problem> {
    let _changing = app.changing.lock().await;
    if !app.books.remove_limit(&*id).await? {
        return Err(unknown(&id));
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn put(app: &App, limit: &Limit) -> Result<(), Problem> {
    let meters = app.books.meters().await?;
    if !meters.iter().any(|meter| meter.id() == limit.meter()) {
        return Err(super::meters::unknown(limit.meter()));
    }
    Ok(app.books.put_limit(limit.clone()).await?)
}

async fn find(app: &App, id: &str) -> Result<Limit, Problem> {
    let limits = app.books.limits().await?;
    limits.into_iter().find(|limit| limit.id() == id).ok_or_else(|| unknown(id))
}

fn unknown(id: &str) -> Problem {
    Problem::not_found("limit_not_found", format!("limit {id:?} does not exist"))
}

fn period(text: &str) -> Result<Period, Problem> {
    text.parse().map_err(|_| {
        let names = Period::ALL.map(Period::as_str).join(", ");
        Problem::field("period", format!("is none of {names}"))
    })
}

/// Dimensions to filter by: what would be cut when recorded can never match, and is refused.
pub(super) fn filters(texts: &Texts) -> Result<Dimensions, Problem> {
    let mut dimensions = Dimensions::new();
    for (key, text) in texts {
        if text.len() > Dimensions::MAX_LENGTH {
            return Err(Problem::field(key, "has a text that is too long; give at most 256 bytes"));
        }
        dimensions.set(key, text);
    }
    Ok(dimensions)
}

pub(super) fn texts(dimensions: &Dimensions) -> Texts {
    dimensions.iter().map(|(key, text)| (key.to_owned(), text.to_owned())).collect()
}

fn body(app: &App, limit: &Limit) -> LimitBody {
    let times = app.times.of_definition(limit.id(), &limit.made);
    LimitBody {
        id: limit.id().to_owned(),
        project_id: app.project.clone(),
        name: limit.name().to_owned(),
        meter_id: limit.meter().to_owned(),
        limit_value: limit.cap(),
        period: limit.period().as_str(),
        customer_id: limit.customer().map(ToOwned::to_owned),
        dimension_filters: texts(limit.dimensions()),
        alert_thresholds: Some(limit.alerts.clone()).filter(|alerts| !alerts.is_empty()),
        created_at: times.created,
        updated_at: times.updated,
    }
}
