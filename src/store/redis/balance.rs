//! Balances: opened, changed, listed, and how they came to be what they are.

use redis::cmd;

use super::event::{read_transaction, write_transaction};
use super::link::CallError;
use super::reply::{self, Reply};
use super::{Inner, keys};
use crate::policy::{
    Amount, Balance, Credited, CustomerId, Debited, EventId, NewBalance, Timestamp, Transaction,
    TransactionKind,
};
use crate::store::{BalanceChange, BalanceRef, Moment};
use crate::{Error, ErrorKind};

/// What became of a change.
struct Changed {
    what: String,
    balance: Balance,
    transaction: Option<Transaction>,
}

impl Inner {
    pub(super) async fn open_balance(
        &self,
        customer: &CustomerId,
        terms: &NewBalance,
        at: Timestamp,
    ) -> Result<Balance, Error> {
        let now = Moment::new(at, std::time::Duration::ZERO);
        let mut call =
            self.begin_any(&self.scripts.balance, customer, &self.changed(customer), now);
        let minimum = terms.minimum.unwrap_or(Amount::ZERO);
        call.arg("open").arg(terms.name.as_str()).arg("").arg("");
        call.arg(terms.initial.unwrap_or(Amount::ZERO).as_millionths());
        call.arg("").arg("").arg(format!("{} {}", minimum.as_millionths(), terms.unit));
        let value = call.run(&self.caller, self.caller.deadline()).await?;
        let mut reply = Reply::of(value)?;
        match reply.text()?.as_str() {
            "c" => Err(Error::new(
                ErrorKind::Conflict,
                format!("the customer has a balance {:?} already", terms.name),
            )),
            _ => {
                let (current, held) = (reply.amount()?, reply.amount()?);
                let (name, unit) = (terms.name.clone(), terms.unit.clone());
                Ok(Balance { name, unit, current, minimum, held })
            }
        }
    }

    /// `None` when the customer has no balance of that name of their own.
    pub(super) async fn set_minimum(
        &self,
        customer: &CustomerId,
        name: &str,
        minimum: Amount,
    ) -> Result<Option<Balance>, Error> {
        let now = Moment::new(Timestamp::UNIX_EPOCH, std::time::Duration::ZERO);
        let mut call =
            self.begin_any(&self.scripts.balance, customer, &self.changed(customer), now);
        call.arg("minimum").arg(name).arg("").arg("").arg(minimum.as_millionths());
        call.arg("").arg("").arg("");
        let mut reply = Reply::of(call.run(&self.caller, self.caller.deadline()).await?)?;
        if reply.text()? == "m" {
            return Ok(None);
        }
        let (current, held) = (reply.amount()?, reply.amount()?);
        let own = reply.some_text()?;
        Ok(Some(balance(name, None, own.as_deref(), current, held)?))
    }

    /// What a change is written to.
    fn changed(&self, customer: &CustomerId) -> [String; 2] {
        [keys::TRANSACTIONS, keys::REFERENCES].map(|what| self.shared.keys.of(what, customer))
    }

    /// Whether a customer has a balance of their own, or one that has changed.
    pub(super) async fn has_balance(
        &self,
        customer: &CustomerId,
        defaults: &[NewBalance],
    ) -> Result<bool, Error> {
        let now = Moment::new(Timestamp::UNIX_EPOCH, std::time::Duration::ZERO);
        let call = self.begin_any(&self.scripts.balances, customer, &[], now);
        let mut reply = Reply::of(call.run(&self.caller, self.caller.deadline()).await?)?;
        while !reply.is_over() {
            let name = reply.text()?;
            let (current, _held) = (reply.some_amount()?, reply.some_amount()?);
            let own = reply.some_text()?;
            let default = defaults.iter().any(|default| default.name == name);
            if own.is_some() || default && current.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) async fn credit(&self, change: BalanceChange<'_>) -> Result<Credited, Error> {
        let changed = self.change(change, TransactionKind::Credit).await?;
        let Changed { what, balance, transaction } = changed;
        Ok(Credited { applied: what == "n", transaction, balance })
    }

    pub(super) async fn debit(&self, change: BalanceChange<'_>) -> Result<Debited, Error> {
        let changed = self.change(change, TransactionKind::Debit).await?;
        Ok(match changed {
            Changed { transaction: Some(transaction), balance, .. } => {
                Debited::Taken { transaction, balance }
            }
            Changed { balance, .. } => Debited::Refused { balance },
        })
    }

    async fn change(
        &self,
        change: BalanceChange<'_>,
        kind: TransactionKind,
    ) -> Result<Changed, Error> {
        let mut also = self.changed(change.customer).to_vec();
        if let Some(id) = change.once {
            also.push(format!("{}:{id}", self.shared.keys.of(keys::ONCE, change.customer)));
        }
        let mut call = self.begin_any(&self.scripts.balance, change.customer, &also, change.now);
        let name = change.balance.name;
        let [initial, minimum] = super::terms(change.balance.default);
        call.arg(if kind == TransactionKind::Credit { "credit" } else { "debit" });
        call.arg(name).amount(initial).amount(minimum).arg(change.amount.as_millionths());
        match change.reference.filter(|_| kind == TransactionKind::Credit) {
            // The length first, so that no two pairs look the same.
            Some(reference) => call.arg(format!("{}:{name}{reference}", name.len())),
            None => call.arg(""),
        };
        let about = (change.description, change.reference);
        let made =
            write_transaction(change.id, name, kind, change.amount, change.now.wall(), about);
        call.arg(made).arg("");
        let value = call.run(&self.caller, self.caller.deadline()).await?;
        let mut reply = Reply::of(value)?;
        let what = reply.text()?;
        match what.as_str() {
            "m" => return Err(no_balance(name)),
            "o" => {
                let problem = "takes the balance beyond the largest amount";
                return Err(Error::invalid("amount", problem));
            }
            _ => {}
        }
        let (current, held) = (reply.amount()?, reply.amount()?);
        let own = reply.some_text()?;
        let balance = balance(name, change.balance.default, own.as_deref(), current, held)?;
        let transaction = if reply.is_over() { None } else { reply.some_text()? };
        let transaction = transaction.map(|text| read_transaction(change.customer, &text));
        Ok(Changed { what, balance, transaction: transaction.transpose()? })
    }

    pub(super) async fn balances(
        &self,
        customer: &CustomerId,
        defaults: &[NewBalance],
        now: Moment<'_>,
    ) -> Result<Vec<Balance>, Error> {
        let call = self.begin_any(&self.scripts.balances, customer, &[], now);
        let value = call.run(&self.caller, self.caller.deadline()).await?;
        let mut reply = Reply::of(value)?;
        let mut balances = Vec::new();
        while !reply.is_over() {
            let name = reply.text()?;
            let (current, held) = (reply.some_amount()?, reply.some_amount()?);
            let own = reply.some_text()?;
            let default = defaults.iter().find(|default| default.name == name);
            // A charge may have come before its balance did.
            let Some(first) = first(default, own.as_deref()) else { continue };
            let current = current.unwrap_or(first);
            let held = held.unwrap_or(Amount::ZERO);
            balances.push(balance(&name, default, own.as_deref(), current, held)?);
        }
        for default in defaults {
            if !balances.iter().any(|known: &Balance| known.name == default.name) {
                let initial = default.initial.unwrap_or(Amount::ZERO);
                balances.push(balance(&default.name, Some(default), None, initial, Amount::ZERO)?);
            }
        }
        balances.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(balances)
    }

    pub(super) async fn transactions(
        &self,
        customer: &CustomerId,
        of: BalanceRef<'_>,
    ) -> Result<Vec<Transaction>, Error> {
        let mut all = self.kept_transactions(customer).await?;
        all.retain(|transaction| *transaction.balance == *of.name);
        let opening = match all.first() {
            Some(first) => match first.kind {
                TransactionKind::Credit => first.balance_after.saturating_sub(first.amount),
                _ => first.balance_after.saturating_add(first.amount),
            },
            None => {
                let defaults = of.default.map(std::slice::from_ref).unwrap_or_default();
                let now = Moment::new(Timestamp::UNIX_EPOCH, std::time::Duration::ZERO);
                let known = self.balances(customer, defaults, now).await?;
                let known = known.into_iter().find(|balance| balance.name == of.name);
                known.ok_or_else(|| no_balance(of.name))?.current
            }
        };
        if opening != Amount::ZERO {
            let first = all.first();
            let leading = Transaction {
                id: EventId::from_uuid(0),
                customer: customer.clone(),
                balance: of.name.into(),
                kind: TransactionKind::Opening,
                amount: opening,
                balance_after: opening,
                description: None,
                reference: None,
                at: first.map_or(Timestamp::UNIX_EPOCH, |first| first.at),
                sequence: first.map_or(0, |first| first.sequence.saturating_sub(1)),
            };
            all.insert(0, leading);
        }
        Ok(all)
    }

    /// Every change of a customer's balances that is kept, oldest first.
    pub(super) async fn kept_transactions(
        &self,
        customer: &CustomerId,
    ) -> Result<Vec<Transaction>, CallError> {
        let mut range = cmd("LRANGE");
        range.arg(self.shared.keys.of(keys::TRANSACTIONS, customer)).arg(0).arg(-1);
        let mut reply = Reply::of(self.caller.call(&range, self.caller.deadline()).await?)?;
        let mut all = Vec::new();
        while let Some(entry) = reply.next() {
            let text = reply::text(entry)?.unwrap_or_default();
            all.push(read_transaction(customer, &text)?);
        }
        Ok(all)
    }
}

/// What a balance begins at; `None` when the customer has none of that name.
fn first(default: Option<&NewBalance>, own: Option<&str>) -> Option<Amount> {
    match (own, default) {
        (Some(_), _) => Some(Amount::ZERO),
        (None, Some(default)) => Some(default.initial.unwrap_or(Amount::ZERO)),
        (None, None) => None,
    }
}

fn balance(
    name: &str,
    default: Option<&NewBalance>,
    own: Option<&str>,
    current: Amount,
    held: Amount,
) -> Result<Balance, CallError> {
    let (unit, minimum) = match (own, default) {
        (Some(own), _) => super::own_terms(own)?,
        (None, Some(default)) => (default.unit.clone(), default.minimum.unwrap_or(Amount::ZERO)),
        (None, None) => return Err(CallError::Nonsense("a balance without terms")),
    };
    Ok(Balance { name: name.into(), unit, current, minimum, held })
}

fn no_balance(name: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("the customer has no balance {name:?}; create it first"),
    )
}
