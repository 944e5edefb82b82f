use axum::extract::State;

use crate::backend::{Customer, Page};
use crate::server::Shared;
use crate::server::problem::{Problem, Reply, ok};
use crate::server::request::Json;
use crate::wire::{
    CustomerForm, CustomerName, DoneBody, ItemsBody, KnownBody, PageForm, RemovedBody,
};

pub(super) async fn get(
    State(app): State<Shared>,
    Json(asked): Json<CustomerName>,
) -> Result<Reply<KnownBody>, Problem> {
    let customer = app.books.customer(&asked.customer_id).await?;
    ok(KnownBody { customer: customer.as_ref().and_then(form) })
}

pub(super) async fn list(
    State(app): State<Shared>,
    Json(page): Json<PageForm>,
) -> Result<Reply<ItemsBody<CustomerForm>>, Problem> {
    let Page { items, next } = app.books.customers(page.into()).await?;
    ok(ItemsBody { items: items.iter().filter_map(form).collect(), next })
}

pub(super) async fn put(
    State(app): State<Shared>,
    Json(form): Json<CustomerForm>,
) -> Result<Reply<DoneBody>, Problem> {
    let _changing = app.changing.lock().await;
    app.books.put_customer(form.into()).await?;
    ok(DoneBody { done: true })
}

pub(super) async fn remove(
    State(app): State<Shared>,
    Json(asked): Json<CustomerName>,
) -> Result<Reply<RemovedBody>, Problem> {
    let _changing = app.changing.lock().await;
    ok(RemovedBody { removed: app.books.remove_customer(&asked.customer_id).await? })
}

fn form(customer: &Customer) -> Option<CustomerForm> {
    Some(CustomerForm::of(customer.id()?, customer))
}
