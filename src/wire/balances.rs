#[cfg(feature = "server")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Number, Texts, given};
use crate::policy::{Amount, Timestamp};

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewBalanceBody {
    pub(crate) customer_id: String,
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) initial_balance: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) minimum_balance: Option<Number>,
    #[serde(default)]
    pub(crate) dimension_filters: Texts,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct BalanceCheck {
    pub(crate) customer_id: String,
    pub(crate) name: String,
    pub(crate) amount: Number,
    #[serde(default)]
    pub(crate) dimensions: Texts,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct BalanceCheckBody {
    pub(crate) balance_id: String,
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) current_balance: Amount,
    pub(crate) minimum_balance: Amount,
    pub(crate) requested_amount: Amount,
    pub(crate) sufficient: bool,
    pub(crate) available_balance: Amount,
}

/// A credit or a debit.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct BalanceChangeBody {
    pub(crate) customer_id: String,
    pub(crate) name: String,
    pub(crate) amount: Number,
    pub(crate) description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<String>,
}

/// The answer to a credit or a debit. One that was refused is an answer too.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct BalanceChanged {
    pub(crate) success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) transaction: Option<TransactionBody>,
    pub(crate) balance: BalanceBody,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct BalanceBody {
    pub(crate) id: String,
    pub(crate) project_id: String,
    pub(crate) customer_id: String,
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) current_balance: Amount,
    pub(crate) minimum_balance: Amount,
    pub(crate) available_balance: Amount,
    pub(crate) dimension_filters: Texts,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct TransactionBody {
    pub(crate) id: String,
    pub(crate) balance_id: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) amount: Amount,
    pub(crate) description: String,
    pub(crate) reference: Option<String>,
    pub(crate) created_at: Timestamp,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct CustomerBalances {
    pub(crate) balances: Vec<BalanceSummary>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct BalanceSummary {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) current_balance: Amount,
    pub(crate) minimum_balance: Amount,
    pub(crate) available_balance: Amount,
}

/// What is absent stays as it is. Name and unit stay in any case.
#[derive(Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct BalanceUpdate {
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schemars(with = "Number"))]
    pub(crate) minimum_balance: Option<Number>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schemars(with = "String"))]
    pub(crate) name: Option<String>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schemars(with = "String"))]
    pub(crate) unit: Option<String>,
}
