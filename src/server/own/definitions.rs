use axum::extract::State;

use crate::policy::{Amount, Limit, Made, Meter};
use crate::server::Shared;
use crate::server::problem::{Problem, Reply, ok};
use crate::server::request::Json;
use crate::wire::{DoneBody, IdBody, ItemsBody, LimitForm, MeterForm, NothingBody, RemovedBody};

pub(super) async fn meters(
    State(app): State<Shared>,
    Json(NothingBody {}): Json<NothingBody>,
) -> Result<Reply<ItemsBody<MeterForm>>, Problem> {
    let meters = app.books.meters().await?;
    ok(ItemsBody { items: meters.iter().map(Into::into).collect(), next: None })
}

pub(super) async fn put_meter(
    State(app): State<Shared>,
    Json(form): Json<MeterForm>,
) -> Result<Reply<DoneBody>, Problem> {
    let mut meter = Meter::try_from(form)?;
    let _changing = app.changing.lock().await;
    let known = app.books.meters().await?;
    let before = known.iter().find(|known| known.id() == meter.id());
    meter.made = Made::now(before.map(|before| &before.made), app.now());
    app.books.put_meter(meter).await?;
    ok(DoneBody { done: true })
}

pub(super) async fn remove_meter(
    State(app): State<Shared>,
    Json(IdBody { id }): Json<IdBody>,
) -> Result<Reply<RemovedBody>, Problem> {
    let _changing = app.changing.lock().await;
    ok(RemovedBody { removed: app.books.remove_meter(id).await? })
}

pub(super) async fn limits(
    State(app): State<Shared>,
    Json(NothingBody {}): Json<NothingBody>,
) -> Result<Reply<ItemsBody<LimitForm>>, Problem> {
    let limits = app.books.limits().await?;
    let form = |limit: &Limit| LimitForm::of(limit, limit.cap().unwrap_or(Amount::MAX));
    ok(ItemsBody { items: limits.iter().map(form).collect(), next: None })
}

pub(super) async fn put_limit(
    State(app): State<Shared>,
    Json(form): Json<LimitForm>,
) -> Result<Reply<DoneBody>, Problem> {
    let mut limit = Limit::try_from(form)?;
    let _changing = app.changing.lock().await;
    let known = app.books.limits().await?;
    let before = known.iter().find(|known| known.id() == limit.id());
    limit.made = Made::now(before.map(|before| &before.made), app.now());
    app.books.put_limit(limit).await?;
    ok(DoneBody { done: true })
}

pub(super) async fn remove_limit(
    State(app): State<Shared>,
    Json(IdBody { id }): Json<IdBody>,
) -> Result<Reply<RemovedBody>, Problem> {
    let _changing = app.changing.lock().await;
    ok(RemovedBody { removed: app.books.remove_limit(id).await? })
}
