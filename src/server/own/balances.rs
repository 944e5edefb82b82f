use axum::extract::State;

use crate::backend::{Backend, Page, PageRequest, TransactionQuery};
use crate::policy::{Balance, Credit, CustomerId, Debit, Debited, NewBalance};
use crate::server::Shared;
use crate::server::problem::{Answer, Problem, Reply, ok};
use crate::server::replay::{Once, once};
use crate::server::request::{Json, Posted, customer};
use crate::wire::{
    BalanceForm, BalanceTerms, ChangeForm, ChangedForm, CustomerName, ItemsBody, MinimumForm,
    OwnedBalance, PageForm, TransactionForm, TransactionsBody,
};

pub(super) async fn list(
    State(app): State<Shared>,
    Json(asked): Json<CustomerName>,
) -> Result<Reply<ItemsBody<BalanceForm>>, Problem> {
    let balances = app.books.balances(&asked.customer_id).await?;
    ok(ItemsBody { items: balances.iter().map(Into::into).collect(), next: None })
}

pub(super) async fn all(
    State(app): State<Shared>,
    Json(page): Json<PageForm>,
) -> Result<Reply<ItemsBody<OwnedBalance>>, Problem> {
    let Page { items, next } = app.books.backend().admin().all_balances(page.into()).await?;
    let owned = |(customer, balance): &(CustomerId, Balance)| OwnedBalance {
        customer_id: customer.to_string(),
        balance: balance.into(),
    };
    ok(ItemsBody { items: items.iter().map(owned).collect(), next })
}

pub(super) async fn set_minimum(
    State(app): State<Shared>,
    Json(form): Json<MinimumForm>,
) -> Result<Reply<BalanceForm>, Problem> {
    let customer = customer(&form.customer_id)?;
    let admin = app.books.backend().admin();
    let balance = admin.set_minimum(customer, form.name, form.minimum.0).await?;
    ok(BalanceForm::from(&balance))
}

pub(super) async fn create(
    State(app): State<Shared>,
    Posted { body, once: key, .. }: Posted<BalanceTerms>,
) -> Result<Answer, Problem> {
    let mut terms = NewBalance::new(&body.name);
    if let Some(unit) = &body.unit {
        terms = terms.unit(unit);
    }
    if let Some(initial) = body.initial {
        terms = terms.initial(initial.0);
    }
    if let Some(minimum) = body.minimum {
        terms = terms.minimum(minimum.0);
    }
    let books = app.books.clone();
    once(&app, key, async move {
        let balance = books.create_balance(&body.customer_id, terms).await?;
        ok(BalanceForm::from(&balance))
    })
    .await
}

pub(super) async fn credit(
    State(app): State<Shared>,
    Posted { body, once: key, .. }: Posted<ChangeForm>,
) -> Result<Answer, Problem> {
    let mut credit = Credit::new(&body.customer_id, &body.name, body.amount.0);
    credit.change.description = body.description.map(Into::into);
    credit.change.reference = body.reference.map(Into::into);
    credit.change.once = key.as_ref().map(Once::id);
    // What was there before is then this call itself, made to a process of before.
    let is_its_own = credit.change.once.is_some() && credit.change.reference.is_none();
    let books = app.books.clone();
    once(&app, key, async move {
        let credited = books.credit(credit).await?;
        ok(ChangedForm {
            applied: credited.applied || is_its_own,
            transaction: credited.transaction.as_ref().map(Into::into),
            balance: (&credited.balance).into(),
        })
    })
    .await
}

pub(super) async fn debit(
    State(app): State<Shared>,
    Posted { body, once: key, .. }: Posted<ChangeForm>,
) -> Result<Answer, Problem> {
    let mut debit = Debit::new(&body.customer_id, &body.name, body.amount.0);
    debit.change.description = body.description.map(Into::into);
    debit.change.reference = body.reference.map(Into::into);
    debit.change.once = key.as_ref().map(Once::id);
    let books = app.books.clone();
    once(&app, key, async move {
        let debited = books.debit(debit).await?;
        let transaction = match &debited {
            Debited::Taken { transaction, .. } => Some(transaction.into()),
            Debited::Refused { .. } => None,
        };
        let (applied, balance) = (debited.is_taken(), debited.balance().into());
        ok(ChangedForm { applied, transaction, balance })
    })
    .await
}

pub(super) async fn transactions(
    State(app): State<Shared>,
    Json(asked): Json<TransactionsBody>,
) -> Result<Reply<ItemsBody<TransactionForm>>, Problem> {
    let page = PageRequest { limit: asked.limit, cursor: asked.cursor };
    let query = TransactionQuery::new(&asked.customer_id, &asked.name).page(page);
    let Page { items, next } = app.books.transactions(query).await?;
    ok(ItemsBody { items: items.iter().map(Into::into).collect(), next })
}
