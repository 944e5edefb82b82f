use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::customers::resolve;
use super::page::{Asked, ListQuery, page};
use super::problem::{Answer, Problem, Reply, created, ok};
use super::replay::{Once, once};
use super::request::{Id, Json, Posted, named};
use super::{App, Shared, is_not_found};
use crate::backend::{PageRequest, TransactionQuery};
use crate::policy::{
    Amount, Balance, Credit, CustomerId, Debit, Debited, NewBalance, Timestamp, Transaction,
};
use crate::wire::{
    BalanceBody, BalanceChangeBody, BalanceChanged, BalanceCheck, BalanceCheckBody, BalanceSummary,
    BalanceUpdate, CustomerBalances, NewBalanceBody, Number, PageBody, Texts, TransactionBody,
};
use crate::{Error, ErrorKind};

pub(super) async fn create(
    State(app): State<Shared>,
    Json(new): Json<NewBalanceBody>,
) -> Result<Reply<BalanceBody>, Problem> {
    named("name", &new.name)?;
    if !new.dimension_filters.is_empty() {
        let problem = "a balance is not narrowed to dimensions; give it a name of its own";
        return Err(Problem::field("dimensionFilters", problem));
    }
    let customer = resolve(&app, &new.customer_id).await?;
    let mut terms = NewBalance::new(&new.name);
    if let Some(unit) = &new.unit {
        named("unit", unit)?;
        terms = terms.unit(unit);
    }
    terms = terms.initial(new.initial_balance.map_or(Amount::ZERO, |amount| amount.0));
    terms = terms.minimum(new.minimum_balance.map_or(Amount::ZERO, |amount| amount.0));
    let made = app.books.create_balance(&customer, terms).await;
    let balance = made.map_err(|error| match error.kind() {
        ErrorKind::Conflict => Problem::conflict("balance_exists", error.to_string()),
        _ => error.into(),
    })?;
    app.times.made_balance(id_of(&customer, balance.name()), app.now());
    created(body(&app, &customer, &balance, None))
}

pub(super) async fn check(
    State(app): State<Shared>,
    Json(asked): Json<BalanceCheck>,
) -> Result<Reply<BalanceCheckBody>, Problem> {
    let customer = resolve(&app, &asked.customer_id).await?;
    let amount = asked.amount.0;
    if !amount.is_positive() {
        return Err(Problem::field("amount", format!("is {amount}; give more than 0")));
    }
    let balance = find(&app, &customer, &asked.name).await?;
    ok(BalanceCheckBody {
        balance_id: id_of(&customer, balance.name()),
        name: balance.name().to_owned(),
        unit: balance.unit().to_owned(),
        current_balance: balance.current(),
        minimum_balance: balance.minimum(),
        requested_amount: amount,
        sufficient: amount <= balance.available(),
        available_balance: balance.available(),
    })
}

pub(super) async fn credit(
    State(app): State<Shared>,
    Posted { body: asked, once: key, .. }: Posted<BalanceChangeBody>,
) -> Result<Answer, Problem> {
    bounded(&asked)?;
    let customer = resolve(&app, &asked.customer_id).await?;
    let (shared, id) = (app.clone(), key.as_ref().map(Once::id));
    once(&app, key, async move {
        let amount = asked.amount.0;
        let mut credit = Credit::new(&customer, &asked.name, amount);
        credit.change.once = id;
        credit = credit.description(asked.description);
        if let Some(reference) = asked.reference {
            credit = credit.reference(reference);
        }
        let credited = shared.books.credit(credit).await.map_err(no_balance)?;
        // A repeat is answered with what was credited; another amount is no repeat.
        let before = credited.transaction.filter(|credit| credit.amount() == amount);
        let Some(transaction) = before else {
            let message = "the reference was credited before; nothing was added again";
            return Err(Problem::conflict("reference_credited", message));
        };
        ok(changed(&shared, &customer, &credited.balance, &transaction))
    })
    .await
}

pub(super) async fn debit(
    State(app): State<Shared>,
    Posted { body: asked, once: key, .. }: Posted<BalanceChangeBody>,
) -> Result<Answer, Problem> {
    bounded(&asked)?;
    let customer = resolve(&app, &asked.customer_id).await?;
    let (shared, id) = (app.clone(), key.as_ref().map(Once::id));
    once(&app, key, async move {
        let amount = asked.amount.0;
        let mut debit = Debit::new(&customer, &asked.name, amount).description(asked.description);
        debit.change.once = id;
        if let Some(reference) = asked.reference {
            debit = debit.reference(reference);
        }
        match shared.books.debit(debit).await.map_err(no_balance)? {
            Debited::Taken { transaction, balance } => {
                ok(changed(&shared, &customer, &balance, &transaction))
            }
            Debited::Refused { balance } => {
                let available = balance.available();
                let error =
                    format!("Insufficient balance: {amount} requested, {available} available");
                ok(BalanceChanged {
                    success: false,
                    error: Some(error),
                    transaction: None,
                    balance: read(&shared, &customer, &balance).await?,
                })
            }
        }
    })
    .await
}

/// What is kept with a change of a balance, a reference for ever.
fn bounded(asked: &BalanceChangeBody) -> Result<(), Problem> {
    const MOST_TEXT: usize = 1_000;
    if asked.description.len() > MOST_TEXT {
        let problem = format!("is too long; give at most {MOST_TEXT} bytes");
        return Err(Problem::field("description", problem));
    }
    asked.reference.as_deref().map_or(Ok(()), |reference| named("reference", reference))
}

/// The balances of the customer in the query, or of all.
pub(super) async fn list(
    State(app): State<Shared>,
    Asked(query): Asked<ListQuery>,
) -> Result<Reply<PageBody<BalanceBody>>, Problem> {
    let Some(id) = query.customer_id.as_deref() else {
        let balances = app.books.all_balances(query.page()).await?;
        let mut data = Vec::with_capacity(balances.items.len());
        for (customer, balance) in &balances.items {
            data.push(read(&app, customer, balance).await?);
        }
        return ok(PageBody {
            data,
            has_more: balances.next.is_some(),
            next_cursor: balances.next,
        });
    };
    let customer = resolve(&app, id).await?;
    let mut bodies = Vec::new();
    for balance in app.books.balances(&customer).await? {
        bodies.push(read(&app, &customer, &balance).await?);
    }
    bodies.sort_by(|one, other| one.id.cmp(&other.id));
    ok(query.cut(bodies.into_iter(), |balance| &balance.id)?)
}

pub(super) async fn update(
    State(app): State<Shared>,
    Id(id): Id,
    Json(change): Json<BalanceUpdate>,
) -> Result<Reply<BalanceBody>, Problem> {
    let (customer, name) = named_by(&id)?;
    let balance = find(&app, &customer, &name).await?;
    if change.name.is_some_and(|wanted| wanted != name) {
        return Err(Problem::field("name", "cannot be changed; make another balance"));
    }
    if change.unit.is_some_and(|wanted| wanted != balance.unit()) {
        return Err(Problem::field("unit", "cannot be changed; make another balance"));
    }
    let balance = match change.minimum_balance {
        Some(Number(minimum)) => {
            let set = app.books.set_minimum(&customer, &name, minimum).await;
            let balance = set.map_err(no_balance)?;
            app.times.changed_balance(id, app.now());
            balance
        }
        None => balance,
    };
    ok(read(&app, &customer, &balance).await?)
}

/// What was paid and spent stays on record.
pub(super) async fn remove(State(app): State<Shared>, Id(id): Id) -> Result<StatusCode, Problem> {
    let (customer, name) = named_by(&id)?;
    find(&app, &customer, &name).await?;
    let message = "a balance is not removed, for its transactions stay; debit what is left of it";
    Err(Problem::conflict("balance_kept", message))
}

pub(super) async fn retrieve(
    State(app): State<Shared>,
    Id(id): Id,
) -> Result<Reply<BalanceBody>, Problem> {
    let (customer, name) = named_by(&id)?;
    let balance = find(&app, &customer, &name).await?;
    ok(read(&app, &customer, &balance).await?)
}

pub(super) async fn transactions(
    State(app): State<Shared>,
    Id(id): Id,
    Asked(asked): Asked<ListQuery>,
) -> Result<Reply<PageBody<TransactionBody>>, Problem> {
    let (customer, name) = named_by(&id)?;
    let query = TransactionQuery::new(&customer, &name).page(asked.page());
    let transactions = app.books.transactions(query).await.map_err(no_balance)?;
    ok(page(transactions, |transaction| of_transaction(&customer, &transaction)))
}

pub(super) async fn of_customer(
    State(app): State<Shared>,
    Id(id): Id,
) -> Result<Reply<CustomerBalances>, Problem> {
    let customer = resolve(&app, &id).await?;
    let balances = app.books.balances(&customer).await?;
    let summary = |balance: Balance| BalanceSummary {
        id: id_of(&customer, balance.name()),
        name: balance.name().to_owned(),
        unit: balance.unit().to_owned(),
        current_balance: balance.current(),
        minimum_balance: balance.minimum(),
        available_balance: balance.available(),
    };
    ok(CustomerBalances { balances: balances.into_iter().map(summary).collect() })
}

async fn find(app: &App, customer: &CustomerId, name: &str) -> Result<Balance, Problem> {
    app.books.balance(customer, name).await?.ok_or_else(unknown)
}

fn unknown() -> Problem {
    Problem::not_found("balance_not_found", "the customer has no balance of that name")
}

fn no_balance(error: Error) -> Problem {
    if is_not_found(&error) { unknown() } else { error.into() }
}

/// A balance is its customer and its name; the id is both.
fn id_of(customer: &CustomerId, name: &str) -> String {
    let pair = format!("{}:{customer}{name}", customer.as_str().len());
    format!("bal_{}", URL_SAFE_NO_PAD.encode(pair))
}

fn named_by(id: &str) -> Result<(CustomerId, String), Problem> {
    let pair = || {
        let pair = URL_SAFE_NO_PAD.decode(id.strip_prefix("bal_")?).ok()?;
        let pair = String::from_utf8(pair).ok()?;
        let (length, both) = pair.split_once(':')?;
        let (customer, name) = both.split_at_checked(length.parse().ok()?)?;
        let customer = CustomerId::new(customer).ok()?;
        // One balance has one id, however else it could be written.
        (id_of(&customer, name) == id).then(|| (customer, name.to_owned()))
    };
    pair().ok_or_else(unknown)
}

fn changed(
    app: &App,
    customer: &CustomerId,
    balance: &Balance,
    transaction: &Transaction,
) -> BalanceChanged {
    BalanceChanged {
        success: true,
        error: None,
        transaction: Some(of_transaction(customer, transaction)),
        balance: body(app, customer, balance, Some(transaction.at())),
    }
}

fn of_transaction(customer: &CustomerId, transaction: &Transaction) -> TransactionBody {
    TransactionBody {
        id: transaction.id().to_string(),
        balance_id: id_of(customer, transaction.balance()),
        kind: transaction.kind().as_str(),
        amount: transaction.amount(),
        description: transaction.description().unwrap_or_default().to_owned(),
        reference: transaction.reference().map(ToOwned::to_owned),
        created_at: transaction.at(),
    }
}

/// With the time of its newest transaction.
async fn read(app: &App, customer: &CustomerId, balance: &Balance) -> Result<BalanceBody, Problem> {
    let newest = PageRequest::first().limit(1);
    let query = TransactionQuery::new(customer, balance.name()).page(newest);
    let newest = app.books.transactions(query).await.map_err(no_balance)?;
    let changed = newest.items.first().map(Transaction::at);
    Ok(body(app, customer, balance, changed))
}

fn body(
    app: &App,
    customer: &CustomerId,
    balance: &Balance,
    changed: Option<Timestamp>,
) -> BalanceBody {
    let id = id_of(customer, balance.name());
    let times = app.times.of_balance(&id);
    BalanceBody {
        id,
        project_id: app.project.clone(),
        customer_id: customer.to_string(),
        name: balance.name().to_owned(),
        unit: balance.unit().to_owned(),
        current_balance: balance.current(),
        minimum_balance: balance.minimum(),
        available_balance: balance.available(),
        dimension_filters: Texts::new(),
        created_at: times.created,
        updated_at: changed.map_or(times.updated, |changed| changed.max(times.updated)),
    }
}
