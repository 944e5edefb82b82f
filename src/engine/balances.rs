//! Changes of balances, as they are asked for.

use super::Inner;
use super::admin::required;
use crate::Error;
use crate::policy::{Amount, Change, CustomerId, EventId};
use crate::store::{BalanceChange, Store};

impl<S: Store> Inner<S> {
    pub(super) fn change(&self, change: &Change) -> Result<(CustomerId, EventId), Error> {
        let customer = required(change.customer.clone())?;
        match change.amount {
            Ok(amount) if amount.is_positive() => Ok((customer, self.ids.make(self.now()))),
            Ok(amount) => {
                Err(Error::invalid("amount", format_args!("is {amount}; give more than 0")))
            }
            Err(error) => Err(Error::invalid("amount", error)),
        }
    }

    pub(super) fn balance_change<'a>(
        &'a self,
        change: &'a Change,
        customer: &'a CustomerId,
        id: &'a EventId,
    ) -> BalanceChange<'a> {
        BalanceChange {
            id,
            once: change.once.as_ref(),
            customer,
            balance: self.balance(&change.balance),
            amount: change.amount.unwrap_or(Amount::ZERO),
            description: change.description.as_deref(),
            reference: change.reference.as_deref(),
            now: self.moment(),
        }
    }
}

/// The balance that a cursor names.
pub(super) fn balance_at(cursor: &str) -> Result<(CustomerId, String), Error> {
    let named = || {
        let (length, both) = cursor.split_once(':')?;
        let (customer, name) = both.split_at_checked(length.parse().ok()?)?;
        Some((CustomerId::new(customer).ok()?, name.to_owned()))
    };
    named().ok_or_else(|| Error::invalid("cursor", "is none that a page gave"))
}
