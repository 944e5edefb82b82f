use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::page::{Asked, ListQuery, page};
use super::problem::{Problem, Reply, created, ok};
use super::request::{Id, Json, customer};
use super::{App, Shared};
use crate::policy::{Customer, CustomerId, Timestamp};
use crate::wire::{
    CustomerBody, CustomerChange, CustomerTerms, NewCustomer, PageBody, ProjectBody,
};

/// What the API knows of a customer and the books do not is attached under names of this kind.
const OWN: &str = "limitry:";
const NAME: &str = "limitry:name";
const EMAIL: &str = "limitry:email";
const CREATED: &str = "limitry:created";
const UPDATED: &str = "limitry:updated";
/// Metadata that is no text is attached as its JSON.
const JSON: &str = "limitry:json:";

pub(super) async fn create(
    State(app): State<Shared>,
    Json(new): Json<NewCustomer>,
) -> Result<Reply<CustomerBody>, Problem> {
    let id = customer(&new.external_id)?;
    let _changing = app.changing.lock().await;
    if app.books.customer(&id).await?.is_some() {
        let message = format!("customer {:?} exists; update it instead", new.external_id);
        return Err(Problem::conflict("customer_exists", message));
    }
    // Each would be taken for the other.
    for other in [named(&new.external_id), CustomerId::new(name(&id)).ok()].into_iter().flatten() {
        if app.books.customer(&other).await?.is_some() {
            let message = "the API names another customer so; give another externalId";
            return Err(Problem::conflict("customer_exists", message));
        }
    }
    let external_id = new.external_id.clone();
    let defined = defined(&external_id, new.into())?;
    let customer = changed(&defined, None, app.now()).ok_or_else(Problem::internal)?;
    app.books.put_customer(customer.clone()).await?;
    created(body(&app, &customer)?)
}

/// The customer of that id, not yet in the books.
pub(super) fn defined(id: &str, new: CustomerTerms) -> Result<Customer, Problem> {
    let mut customer = Customer::new(&customer(id)?);
    customer.anchor = new.billing_cycle_start.map(Into::into);
    customer.zone = new.timezone.map(Into::into);
    set(&mut customer, NAME, new.name);
    set(&mut customer, EMAIL, email(new.email)?);
    attach(&mut customer, new.metadata)?;
    Ok(customer)
}

/// What to put in the books for a customer, if that differs from what is known: the billing cycle
/// starts when a customer is made, unless it is told.
pub(super) fn changed(
    defined: &Customer,
    known: Option<Customer>,
    now: Timestamp,
) -> Option<Customer> {
    let told = |key: &str| known.as_ref().and_then(|known| known.metadata.get(key).cloned());
    let (made, updated) = (told(CREATED), told(UPDATED));
    let now = now.to_string();
    let mut customer = defined.clone();
    if customer.anchor.is_none() {
        let before = known.as_ref().and_then(|known| known.anchor.clone());
        customer.anchor = Some(before.unwrap_or_else(|| now.as_str().into()));
    }
    set(&mut customer, CREATED, Some(made.unwrap_or_else(|| now.clone())));
    set(&mut customer, UPDATED, Some(updated.unwrap_or_else(|| now.clone())));
    if known.as_ref() == Some(&customer) {
        return None;
    }
    set(&mut customer, UPDATED, Some(now));
    Some(customer)
}

pub(super) async fn list(
    State(app): State<Shared>,
    Asked(query): Asked<ListQuery>,
) -> Result<Reply<PageBody<CustomerBody>>, Problem> {
    let customers = app.books.customers(query.page()).await?;
    let page = page(customers, |customer| body(&app, &customer));
    ok(PageBody {
        data: page.data.into_iter().collect::<Result<_, _>>()?,
        next_cursor: page.next_cursor,
        has_more: page.has_more,
    })
}

pub(super) async fn retrieve(
    State(app): State<Shared>,
    Id(id): Id,
) -> Result<Reply<CustomerBody>, Problem> {
    ok(body(&app, &find(&app, &id).await?)?)
}

pub(super) async fn update(
    State(app): State<Shared>,
    Id(id): Id,
    Json(change): Json<CustomerChange>,
) -> Result<Reply<CustomerBody>, Problem> {
    let _changing = app.changing.lock().await;
    let mut customer = find(&app, &id).await?;
    if let Some(name) = change.name {
        set(&mut customer, NAME, name);
    }
    if let Some(address) = change.email {
        set(&mut customer, EMAIL, email(address)?);
    }
    if let Some(start) = change.billing_cycle_start {
        customer = customer.billing_anchor(start);
    }
    if let Some(zone) = change.timezone {
        customer.zone = zone.map(Into::into);
    }
    if let Some(metadata) = change.metadata {
        attach(&mut customer, metadata)?;
    }
    set(&mut customer, UPDATED, Some(app.now().to_string()));
    app.books.put_customer(customer.clone()).await?;
    ok(body(&app, &customer)?)
}

pub(super) async fn remove(State(app): State<Shared>, Id(id): Id) -> Result<StatusCode, Problem> {
    let _changing = app.changing.lock().await;
    let id = resolve(&app, &id).await?;
    match app.books.remove_customer(&id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(unknown(id.as_str())),
    }
}

pub(super) async fn project(State(app): State<Shared>) -> Result<Reply<ProjectBody>, Problem> {
    ok(ProjectBody { id: app.project.clone(), name: app.project.clone() })
}

/// The customer of that id: yours, or the API's own when there is one. Nobody needs to be created
/// before they are metered.
pub(super) async fn resolve(app: &App, id: &str) -> Result<CustomerId, Problem> {
    match named(id) {
        Some(external) if app.books.customer(&external).await?.is_some() => Ok(external),
        _ => customer(id),
    }
}

/// The API's own id of a customer.
fn name(id: &CustomerId) -> String {
    format!("cust_{}", URL_SAFE_NO_PAD.encode(id.as_str()))
}

/// Whom the API's own id names, if it is one.
fn named(id: &str) -> Option<CustomerId> {
    let bytes = URL_SAFE_NO_PAD.decode(id.strip_prefix("cust_")?).ok()?;
    CustomerId::new(String::from_utf8(bytes).ok()?).ok()
}

async fn find(app: &App, id: &str) -> Result<Customer, Problem> {
    let external = resolve(app, id).await?;
    app.books.customer(&external).await?.ok_or_else(|| unknown(id))
}

fn unknown(id: &str) -> Problem {
    Problem::not_found("customer_not_found", format!("customer {id:?} does not exist"))
}

fn set(customer: &mut Customer, key: &str, text: Option<String>) {
    match text {
        Some(text) => drop(customer.metadata.insert(key.to_owned(), text)),
        None => drop(customer.metadata.remove(key)),
    }
}

fn email(address: Option<String>) -> Result<Option<String>, Problem> {
    let sound = |address: &str| {
        let (local, host) = address.rsplit_once('@').unwrap_or_default();
        !local.is_empty() && !host.is_empty() && !address.contains(char::is_whitespace)
    };
    match address {
        Some(address) if !sound(&address) => Err(Problem::field("email", "is no address")),
        address => Ok(address),
    }
}

/// Replaces the metadata.
fn attach(customer: &mut Customer, metadata: Map<String, Value>) -> Result<(), Problem> {
    let of_api = |key: &str| key.starts_with(OWN) && !key.starts_with(JSON);
    customer.metadata.retain(|key, _| of_api(key));
    for (key, value) in metadata {
        if key.starts_with(OWN) {
            return Err(Problem::field("metadata", format!("keys must not begin with {OWN}")));
        }
        match value {
            Value::String(text) => customer.metadata.insert(key, text),
            value => customer.metadata.insert(format!("{JSON}{key}"), value.to_string()),
        };
    }
    Ok(())
}

fn attached(customer: &Customer) -> Map<String, Value> {
    let attached = customer.attached().iter().filter_map(|(key, text)| {
        if let Some(key) = key.strip_prefix(JSON) {
            return Some((key.to_owned(), serde_json::from_str(text).ok()?));
        }
        (!key.starts_with(OWN)).then(|| (key.clone(), Value::from(&**text)))
    });
    attached.collect()
}

fn body(app: &App, customer: &Customer) -> Result<CustomerBody, Problem> {
    let id = customer.id().ok_or_else(Problem::internal)?;
    let told = |key: &str| customer.attached().get(key).cloned();
    let time = |key: &str| told(key).and_then(|text| text.parse().ok()).unwrap_or(app.started);
    Ok(CustomerBody {
        id: name(id),
        project_id: app.project.clone(),
        external_id: id.to_string(),
        name: told(NAME),
        email: told(EMAIL),
        billing_cycle_start: cycle_start(customer),
        timezone: customer.time_zone().map(ToOwned::to_owned),
        metadata: attached(customer),
        created_at: time(CREATED),
        updated_at: time(UPDATED),
    })
}

/// A date is its midnight in the customer's zone. Without an anchor months begin on the first.
fn cycle_start(customer: &Customer) -> Timestamp {
    let Some(anchor) = customer.anchor() else { return Timestamp::UNIX_EPOCH };
    let midnight = || {
        let date: jiff::civil::Date = anchor.parse().ok()?;
        let zone = customer.time_zone().unwrap_or("UTC");
        let midnight = date.in_tz(zone).ok()?.timestamp().as_nanosecond();
        i64::try_from(midnight).ok().map(Timestamp::from_nanos)
    };
    anchor.parse().ok().or_else(midnight).unwrap_or(Timestamp::UNIX_EPOCH)
}
