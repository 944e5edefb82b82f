use std::time::Duration;

use super::answer::{Answered, customer};
use super::pages::{asked, page};
use super::{Call, Client, Pages};
use crate::Error;
use crate::backend::{Page, PageRequest};
use crate::policy::{
    Amount, Balance, Change, Credit, CustomerId, Debit, IdError, NewBalance, Timestamp, ToAmount,
    TransactionKind,
};
use crate::wire::{self, Number, Texts};

mod answers;

use answers::{
    BalanceAnswer, ChangedAnswer, OfCustomerAnswer, SufficiencyAnswer, TransactionAnswer,
};

/// Prepaid balances.
#[derive(Clone, Copy, Debug)]
pub struct Balances<'a>(pub(super) &'a Client);

impl Balances<'_> {
    /// Makes a balance for one customer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) when there is one of that name,
    /// [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut) when it may have been made.
    pub async fn create<C>(self, id: C, terms: &NewBalance) -> Result<CustomerBalance, Error>
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        let body = wire::NewBalanceBody {
            customer_id: customer(id)?.to_string(),
            name: terms.name.to_string(),
            unit: Some(terms.unit.to_string()),
            initial_balance: Some(Number(amount("initial", terms.initial)?)),
            minimum_balance: Some(Number(amount("minimum", terms.minimum)?)),
            dimension_filters: Texts::new(),
        };
        self.0.ask::<BalanceAnswer>(Call::post(&["balances"]).json(&body)?).await
    }

    /// Whether a balance covers an amount, which must be above zero. Reserves nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown balance.
    pub async fn check<C>(
        self,
        id: C,
        name: impl Into<String>,
        asked: impl ToAmount,
    ) -> Result<Sufficiency, Error>
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        let asked = amount("amount", asked.to_amount())?;
        self.0.ask::<SufficiencyAnswer>(checks(&customer(id)?, &name.into(), asked)?).await
    }

    /// The same within that time.
    pub(crate) async fn check_within(
        self,
        customer: &CustomerId,
        name: &str,
        asked: Amount,
        within: Duration,
    ) -> Result<Sufficiency, Error> {
        let call = checks(customer, name, asked)?.within(within);
        self.0.ask::<SufficiencyAnswer>(call).await
    }

    /// Adds to a balance; our server does so once for each reference.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown balance,
    /// [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut) when it may have been added.
    pub async fn credit(self, credit: &Credit) -> Result<Changed, Error> {
        self.change("credit", &credit.change, self.id_of(&credit.change)).await
    }

    /// Takes from a balance, if it covers the amount: that it does not is an answer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown balance,
    /// [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut) when it may have been taken.
    pub async fn debit(self, debit: &Debit) -> Result<Changed, Error> {
        self.change("debit", &debit.change, self.id_of(&debit.change)).await
    }

    /// The same under an id of yours, by which a server that knows ids takes it once.
    ///
    /// # Errors
    ///
    /// As [`debit`](Self::debit), and [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) when the id
    /// was used for another debit.
    pub async fn debit_once(self, id: &str, debit: &Debit) -> Result<Changed, Error> {
        self.change("debit", &debit.change, id.to_owned()).await
    }

    /// The same within that time.
    pub(crate) async fn debit_within(
        self,
        id: &str,
        debit: &Debit,
        within: Duration,
    ) -> Result<Changed, Error> {
        let call = changes("debit", &debit.change, id.to_owned())?.within(within);
        self.0.ask::<ChangedAnswer>(call).await
    }

    fn id_of(&self, change: &Change) -> String {
        change.once.as_ref().map_or_else(|| self.0.fresh_id(), ToString::to_string)
    }

    async fn change(self, kind: &str, change: &Change, id: String) -> Result<Changed, Error> {
        self.0.ask::<ChangedAnswer>(changes(kind, change, id)?).await
    }

    /// Every balance of a customer.
    ///
    /// # Errors
    ///
    /// What went wrong with the call.
    pub async fn of<C>(self, id: C) -> Result<Vec<CustomerBalance>, Error>
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        let customer = customer(id)?;
        let call = Call::get(&["customers", customer.as_str(), "balances"]);
        let answer: OfCustomerAnswer = self.0.http().fetch(call).await?;
        let whose = |mut balance: BalanceAnswer| {
            balance.customer_id = Some(customer.to_string());
            balance.item()
        };
        answer.balances.into_iter().map(whose).collect()
    }

    /// The same as a list of the API.
    pub fn list<C>(self, id: C) -> Pages<CustomerBalance>
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        match customer(id) {
            Ok(id) => {
                let call = Call::get(&["balances"]).query("customerId", Some(id));
                Pages::of::<BalanceAnswer>(self.0, call)
            }
            Err(error) => Pages::failed(error),
        }
    }

    /// The balances of all customers, where the API lists them: ours does.
    pub fn list_all(self) -> Pages<CustomerBalance> {
        Pages::of::<BalanceAnswer>(self.0, Call::get(&["balances"]))
    }

    /// One page of them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a page that is none.
    pub async fn page(self, request: PageRequest) -> Result<Page<CustomerBalance>, Error> {
        page::<BalanceAnswer>(self.0, asked(Call::get(&["balances"]), &request)?).await
    }

    /// Changes what must remain of a balance, by its id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown id.
    pub async fn set_minimum(
        self,
        id: &str,
        minimum: impl ToAmount,
    ) -> Result<CustomerBalance, Error> {
        let minimum = Some(Number(amount("minimum", minimum.to_amount())?));
        let body = wire::BalanceUpdate { minimum_balance: minimum, name: None, unit: None };
        self.0.ask::<BalanceAnswer>(Call::put(&["balances", id]).json(&body)?).await
    }

    /// One balance, by its id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown id.
    pub async fn get(self, id: &str) -> Result<CustomerBalance, Error> {
        self.0.ask::<BalanceAnswer>(Call::get(&["balances", id])).await
    }

    /// The transactions of a balance, by its id, in the API's order: ours answers the newest first.
    pub fn transactions(self, id: &str) -> Pages<BalanceTransaction> {
        let call = Call::get(&["balances", id, "transactions"]);
        Pages::of::<TransactionAnswer>(self.0, call)
    }
}

fn checks(customer: &CustomerId, name: &str, asked: Amount) -> Result<Call, Error> {
    let body = wire::BalanceCheck {
        customer_id: customer.to_string(),
        name: name.to_owned(),
        amount: Number(asked),
        dimensions: Texts::new(),
    };
    Call::post(&["balances", "check"]).safe().json(&body)
}

fn changes(kind: &str, change: &Change, id: String) -> Result<Call, Error> {
    let customer = change.customer.as_ref();
    let customer = customer.map_err(|error| Error::invalid("customer", error))?;
    let body = wire::BalanceChangeBody {
        customer_id: customer.to_string(),
        name: change.balance.to_string(),
        amount: Number(amount("amount", change.amount)?),
        // The API asks for one.
        description: change.description.as_deref().unwrap_or(kind).to_owned(),
        reference: change.reference.as_deref().map(ToOwned::to_owned),
    };
    Call::post(&["balances", kind]).under(id).json(&body)
}

fn amount<E: std::fmt::Display>(field: &str, amount: Result<Amount, E>) -> Result<Amount, Error> {
    amount.map_err(|error| Error::invalid(field, error))
}

/// A balance as the API keeps it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CustomerBalance {
    /// The API's id of it.
    pub id: String,
    /// Whose it is.
    pub customer: CustomerId,
    /// How it stands.
    pub balance: Balance,
    /// The project it belongs to, if the API tells.
    pub project: Option<String>,
    /// When it was made, if the API tells.
    pub created_at: Option<Timestamp>,
    /// When it last changed, if the API tells.
    pub updated_at: Option<Timestamp>,
}

/// Whether a balance covers an amount.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sufficiency {
    /// The API's id of the balance.
    pub balance_id: String,
    /// How it stands.
    pub balance: Balance,
    /// What was asked.
    pub requested: Amount,
    /// Whether it covers that.
    pub sufficient: bool,
}

/// The answer to a credit or a debit.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Changed {
    /// Whether the balance was changed.
    pub success: bool,
    /// Why it was not, for people.
    pub error: Option<String>,
    /// What was changed.
    pub transaction: Option<BalanceTransaction>,
    /// How the balance stands now, if the API tells.
    pub balance: Option<CustomerBalance>,
}

/// One change of a balance.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BalanceTransaction {
    /// The API's id of it.
    pub id: String,
    /// The API's id of the balance.
    pub balance_id: String,
    /// Which way it went; `None` for a way that this crate does not know.
    pub kind: Option<TransactionKind>,
    /// How much: above zero both ways.
    pub amount: Amount,
    /// What it was for.
    pub description: Option<String>,
    /// The payment or event behind it.
    pub reference: Option<String>,
    /// When it was made, if the API tells.
    pub created_at: Option<Timestamp>,
}
