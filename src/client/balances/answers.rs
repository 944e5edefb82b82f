//! The forms of what the API answers about balances.

use serde::Deserialize;

use super::{BalanceTransaction, Changed, CustomerBalance, Sufficiency};
use crate::Error;
use crate::client::answer::{Answered, answered_customer, senseless};
use crate::policy::{Amount, Balance, Timestamp, TransactionKind};
use crate::wire::Number;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BalanceAnswer {
    id: String,
    project_id: Option<String>,
    pub(super) customer_id: Option<String>,
    name: String,
    unit: Option<String>,
    current_balance: Number,
    minimum_balance: Option<Number>,
    available_balance: Option<Number>,
    created_at: Option<Timestamp>,
    updated_at: Option<Timestamp>,
}

impl Answered for BalanceAnswer {
    type Item = CustomerBalance;

    fn item(self) -> Result<CustomerBalance, Error> {
        let whose = self.customer_id.ok_or_else(|| senseless("customerId", "is missing"))?;
        Ok(CustomerBalance {
            id: self.id,
            customer: answered_customer(&whose)?,
            balance: balance(
                &self.name,
                self.unit.as_deref(),
                self.current_balance,
                self.minimum_balance,
                self.available_balance,
            ),
            project: self.project_id,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

/// What is not available, and not kept back, is held by somebody.
fn balance(
    name: &str,
    unit: Option<&str>,
    Number(current): Number,
    minimum: Option<Number>,
    available: Option<Number>,
) -> Balance {
    let minimum = minimum.map_or(Amount::ZERO, |Number(minimum)| minimum);
    let above = current.saturating_sub(minimum);
    let held = available.map_or(Amount::ZERO, |Number(available)| above.saturating_sub(available));
    Balance {
        name: name.into(),
        unit: unit.unwrap_or("credits").into(),
        current,
        minimum,
        held: held.max(Amount::ZERO),
    }
}

#[derive(Deserialize)]
pub(super) struct OfCustomerAnswer {
    pub(super) balances: Vec<BalanceAnswer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SufficiencyAnswer {
    balance_id: String,
    name: String,
    unit: Option<String>,
    current_balance: Number,
    minimum_balance: Option<Number>,
    requested_amount: Number,
    available_balance: Option<Number>,
    sufficient: bool,
}

impl Answered for SufficiencyAnswer {
    type Item = Sufficiency;

    fn item(self) -> Result<Sufficiency, Error> {
        Ok(Sufficiency {
            balance_id: self.balance_id,
            balance: balance(
                &self.name,
                self.unit.as_deref(),
                self.current_balance,
                self.minimum_balance,
                self.available_balance,
            ),
            requested: self.requested_amount.0,
            sufficient: self.sufficient,
        })
    }
}

#[derive(Deserialize)]
pub(super) struct ChangedAnswer {
    success: bool,
    error: Option<String>,
    transaction: Option<TransactionAnswer>,
    balance: Option<BalanceAnswer>,
}

impl Answered for ChangedAnswer {
    type Item = Changed;

    fn item(self) -> Result<Changed, Error> {
        Ok(Changed {
            success: self.success,
            error: self.error,
            transaction: self.transaction.map(TransactionAnswer::item).transpose()?,
            balance: self.balance.map(BalanceAnswer::item).transpose()?,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TransactionAnswer {
    id: String,
    balance_id: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    amount: Number,
    description: Option<String>,
    reference: Option<String>,
    created_at: Option<Timestamp>,
}

impl Answered for TransactionAnswer {
    type Item = BalanceTransaction;

    fn item(self) -> Result<BalanceTransaction, Error> {
        let kinds = [TransactionKind::Credit, TransactionKind::Debit, TransactionKind::Opening];
        let named = |text: String| kinds.into_iter().find(|kind| kind.as_str() == text);
        Ok(BalanceTransaction {
            id: self.id,
            balance_id: self.balance_id,
            kind: self.kind.and_then(named),
            amount: self.amount.0,
            description: self.description,
            reference: self.reference,
            created_at: self.created_at,
        })
    }
}
