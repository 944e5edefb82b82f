//! Our own routes: check with a hold, settle, release, renew.

#[cfg(feature = "server")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Amounts, Number, Pairs};
use crate::backend::Name;
use crate::policy::Timestamp;

/// One request to decide about. The id names it from here to its end; sending the check again under
/// it asks for the same answer.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct HoldCheck {
    /// A preview needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// Tells apart requests of one id: the same request sent again has the same number, another one
    /// is told that the id is in use.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) attempt: u64,
    pub(crate) customer_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_type: Option<String>,
    /// The estimate.
    #[serde(default, skip_serializing_if = "Amounts::is_empty")]
    pub(crate) values: Amounts,
    #[serde(default, skip_serializing_if = "Pairs::is_empty")]
    pub(crate) dimensions: Pairs,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) charge: Option<ChargeBody>,
    /// How long the hold lives unless it is renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hold_seconds: Option<u32>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a balance is charged. In a check without an amount something must be left.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct ChargeBody {
    pub(crate) balance: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) amount: Option<Number>,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct SettleBody {
    pub(crate) settlements: Vec<SettlementBody>,
}

/// What a request used.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct SettlementBody {
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) attempt: u64,
    pub(crate) customer_id: String,
    /// The time of the check.
    pub(crate) at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_type: Option<String>,
    #[serde(default, skip_serializing_if = "Amounts::is_empty")]
    pub(crate) values: Amounts,
    #[serde(default, skip_serializing_if = "Pairs::is_empty")]
    pub(crate) dimensions: Pairs,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) charge: Option<ChargeBody>,
    /// The answer to the check never came, so there may be no hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unsure: bool,
    /// Its place in a queue, if it comes from one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mark: Option<MarkBody>,
}

/// A place in a queue of settlements. One at or below the last that was taken of its customer and
/// queue is a repeat; one above it is recorded, whether or not there is still a hold. Settlements of
/// one customer come in their order.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct MarkBody {
    /// Names the queue: a UUID.
    pub(crate) producer: String,
    pub(crate) sequence: u64,
    /// A place before it that was answered as done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<u64>,
}

/// Names holds.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct HoldsBody {
    pub(crate) holds: Vec<HoldName>,
    /// How long they live from now, in a renewal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hold_seconds: Option<u32>,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct HoldName {
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) attempt: u64,
    pub(crate) customer_id: String,
}

impl From<&Name> for HoldName {
    fn from(Name { customer, id, attempt }: &Name) -> Self {
        Self { id: id.to_string(), attempt: *attempt, customer_id: customer.to_string() }
    }
}

/// One answer for each, in their order.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct ResultsBody<T> {
    pub(crate) results: Vec<T>,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct EndedBody {
    pub(crate) id: String,
    pub(crate) done: bool,
    /// The server has not got what it had taken before this one (see `previous` of the mark): deliver
    /// that again first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) behind: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<super::ErrorDetail>,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct RenewedBody {
    pub(crate) id: String,
    /// Whether the hold still lives.
    pub(crate) live: bool,
}
