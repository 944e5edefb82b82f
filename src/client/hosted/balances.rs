//! Balances, with what this process knows besides: what its requests hold, and what is owed.

use std::sync::Arc;

use compact_str::CompactString;

use super::check::Sent;
use super::judge::adjust;
use super::ledger::Tick;
use super::{Inner, pay};
use crate::backend::Check;
use crate::client::{BalanceTransaction, Changed};
use crate::policy::{
    Amount, Balance, Change, Credit, Credited, CustomerId, Debit, Debited, EventId, Timestamp,
    Transaction, TransactionKind,
};
use crate::{Error, ErrorKind};

/// Those of a customer, by name.
pub(super) async fn of(inner: &Arc<Inner>, customer: &CustomerId) -> Result<Vec<Balance>, Error> {
    let check = Check::of(customer);
    let sent = Sent::begin(inner, &check);
    let told = inner.client.balances().of(customer).await?;
    let mut balances: Vec<_> = told.into_iter().map(|told| told.balance).collect();
    balances.sort_by(|one, other| one.name().cmp(other.name()));
    for balance in &mut balances {
        let debt = inner.debts.of(customer, balance.name());
        adjust(balance, check.ask(), sent.asked(), debt, &inner.ledger());
    }
    Ok(balances)
}

async fn one(inner: &Arc<Inner>, customer: &CustomerId, name: &str) -> Result<Balance, Error> {
    let balances = of(inner, customer).await?;
    let found = balances.into_iter().find(|balance| balance.name() == name);
    found.ok_or_else(|| unknown(name))
}

pub(super) async fn set_minimum(
    inner: &Arc<Inner>,
    customer: CustomerId,
    name: &str,
    minimum: Amount,
) -> Result<Balance, Error> {
    let balances = inner.client.balances();
    let known = balances.of(&customer).await?;
    let found = known.into_iter().find(|found| found.balance.name() == name);
    balances.set_minimum(&found.ok_or_else(|| unknown(name))?.id, minimum).await?;
    one(inner, &customer, name).await
}

pub(super) async fn credit(inner: &Arc<Inner>, credit: Credit) -> Result<Credited, Error> {
    let (customer, name, _) = parts(&credit.change)?;
    let changed = inner.client.balances().credit(&credit).await;
    let changed = changed.map_err(|error| missing(error, name))?;
    // First comes what is owed.
    pay::pay(inner, &customer, name).await;
    let balance = one(inner, &customer, name).await?;
    let applied = changed.success;
    Ok(Credited { applied, transaction: transaction(&customer, name, changed), balance })
}

/// What requests of this process hold is left alone: the API knows nothing of it, so the balance is
/// looked at first, and the amount set aside here while the debit is on its way.
pub(super) async fn debit(inner: &Arc<Inner>, debit: Debit) -> Result<Debited, Error> {
    let (customer, name, amount) = parts(&debit.change)?;
    let check = Check::of(&customer);
    let sent = Sent::begin(inner, &check);
    let told = inner.client.balances().of(&customer).await?;
    let told = told.into_iter().map(|told| told.balance).find(|balance| balance.name() == *name);
    let mut balance = told.ok_or_else(|| unknown(name))?;
    let debiting = {
        let debt = inner.debts.of(&customer, name);
        let mut ledger = inner.ledger();
        adjust(&mut balance, check.ask(), sent.asked(), debt, &ledger);
        if amount > balance.available() {
            return Ok(Debited::Refused { balance });
        }
        let debit = ledger.debiting(&customer, name, amount);
        // Nobody who goes away is told whether it was taken.
        Debiting { inner, customer: customer.clone(), debit, is_taken: true }
    };
    drop(sent);
    let changed = inner.client.balances().debit(&debit).await;
    let is_taken = match &changed {
        Ok(changed) => changed.success,
        // It may have been.
        Err(error) => error.is_unknown(),
    };
    debiting.end(is_taken);
    let changed = changed.map_err(|error| missing(error, name))?;
    let balance = one(inner, &customer, name).await?;
    if !changed.success {
        return Ok(Debited::Refused { balance });
    }
    match transaction(&customer, name, changed) {
        Some(transaction) => Ok(Debited::Taken { transaction, balance }),
        None => {
            let message = "the API took the debit and does not tell of its transaction";
            Err(Error::new(ErrorKind::TimedOut, message))
        }
    }
}

/// A debit that is on its way. Until it is known to have failed it counts.
struct Debiting<'i> {
    inner: &'i Inner,
    customer: CustomerId,
    debit: Tick,
    is_taken: bool,
}

impl Debiting<'_> {
    fn end(mut self, is_taken: bool) {
        self.is_taken = is_taken;
    }
}

impl Drop for Debiting<'_> {
    fn drop(&mut self) {
        let taken = self.is_taken.then(|| self.inner.told_by());
        let now = self.inner.clock.monotonic();
        self.inner.ledger().debited(&self.customer, self.debit, taken, now);
    }
}

/// Whose balance, which, and how much of it.
fn parts(change: &Change) -> Result<(CustomerId, &CompactString, Amount), Error> {
    let customer = change.customer.clone();
    let customer = customer.map_err(|error| Error::invalid("customer", error))?;
    match change.amount {
        Ok(amount) if amount.is_positive() => Ok((customer, &change.balance, amount)),
        Ok(amount) => Err(Error::invalid("amount", format_args!("is {amount}; give more than 0"))),
        Err(error) => Err(Error::invalid("amount", error)),
    }
}

fn missing(error: Error, name: &str) -> Error {
    if error.kind() == ErrorKind::NotFound { unknown(name) } else { error }
}

fn unknown(name: &str) -> Error {
    let message = format!("the customer has no balance {name:?}; create it first");
    Error::new(ErrorKind::NotFound, message)
}

fn transaction(customer: &CustomerId, name: &str, changed: Changed) -> Option<Transaction> {
    let BalanceTransaction { id, kind, amount, description, reference, created_at, .. } =
        changed.transaction?;
    let after = changed.balance.map_or(Amount::ZERO, |found| found.balance.current());
    Some(Transaction {
        id: EventId::new(id).ok()?,
        customer: customer.clone(),
        balance: name.into(),
        kind: kind.unwrap_or(TransactionKind::Debit),
        amount,
        balance_after: after,
        description: description.map(Into::into),
        reference: reference.map(Into::into),
        at: created_at.unwrap_or(Timestamp::UNIX_EPOCH),
        sequence: 0,
    })
}
