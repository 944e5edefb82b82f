#[cfg(feature = "server")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::policy::{Amount, Balance, EventId, Timestamp, Transaction, TransactionKind};
use crate::wire::Number;

/// A balance for one customer.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct BalanceTerms {
    pub(crate) customer_id: String,
    pub(crate) name: String,
    pub(crate) unit: Option<String>,
    pub(crate) initial: Option<Number>,
    pub(crate) minimum: Option<Number>,
}

/// A balance as it stands.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct BalanceForm {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) current_balance: Amount,
    pub(crate) minimum_balance: Amount,
    pub(crate) held: Amount,
}

impl From<&Balance> for BalanceForm {
    fn from(balance: &Balance) -> Self {
        Self {
            name: balance.name.to_string(),
            unit: balance.unit.to_string(),
            current_balance: balance.current,
            minimum_balance: balance.minimum,
            held: balance.held,
        }
    }
}

impl From<BalanceForm> for Balance {
    fn from(form: BalanceForm) -> Self {
        Self {
            name: form.name.into(),
            unit: form.unit.into(),
            current: form.current_balance,
            minimum: form.minimum_balance,
            held: form.held,
        }
    }
}

/// A balance, and whose it is.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct OwnedBalance {
    pub(crate) customer_id: String,
    pub(crate) balance: BalanceForm,
}

/// Changes what must remain of a balance.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct MinimumForm {
    pub(crate) customer_id: String,
    pub(crate) name: String,
    pub(crate) minimum: Number,
}

/// Adds to a balance, or takes from it.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChangeForm {
    pub(crate) customer_id: String,
    pub(crate) name: String,
    pub(crate) amount: Number,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<String>,
}

/// What came of it.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct ChangedForm {
    /// Whether this call did it: not for a payment that was credited before, nor for a debit that
    /// the balance does not cover.
    pub(crate) applied: bool,
    pub(crate) transaction: Option<TransactionForm>,
    /// As it is afterwards.
    pub(crate) balance: BalanceForm,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct TransactionsBody {
    pub(crate) customer_id: String,
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<String>,
}

/// One change of a balance.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct TransactionForm {
    pub(crate) id: String,
    pub(crate) customer_id: String,
    pub(crate) balance: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) amount: Amount,
    pub(crate) balance_after: Amount,
    pub(crate) description: Option<String>,
    pub(crate) reference: Option<String>,
    pub(crate) at: Timestamp,
}

impl From<&Transaction> for TransactionForm {
    fn from(transaction: &Transaction) -> Self {
        Self {
            id: transaction.id.to_string(),
            customer_id: transaction.customer.to_string(),
            balance: transaction.balance.to_string(),
            kind: transaction.kind.as_str().to_owned(),
            amount: transaction.amount,
            balance_after: transaction.balance_after,
            description: transaction.description.as_deref().map(Into::into),
            reference: transaction.reference.as_deref().map(Into::into),
            at: transaction.at,
        }
    }
}

impl TryFrom<TransactionForm> for Transaction {
    type Error = Error;

    fn try_from(form: TransactionForm) -> Result<Self, Error> {
        let unsound = |error| Error::invalid("transaction", error);
        let kinds = [TransactionKind::Credit, TransactionKind::Debit, TransactionKind::Opening];
        let kind = kinds.into_iter().find(|kind| kind.as_str() == form.kind);
        Ok(Self {
            id: EventId::new(&form.id).map_err(unsound)?,
            customer: form.customer_id.try_into().map_err(unsound)?,
            balance: form.balance.into(),
            kind: kind.ok_or_else(|| Error::invalid("transaction", "is of an unknown type"))?,
            amount: form.amount,
            balance_after: form.balance_after,
            description: form.description.map(Into::into),
            reference: form.reference.map(Into::into),
            at: form.at,
            sequence: 0,
        })
    }
}
