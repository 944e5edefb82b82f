//! Our own routes: check with a hold, settle, release, renew.

#[cfg(feature = "server")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Number, Numbers, Texts};
use crate::policy::{Amount, Timestamp};

/// One request to decide about. The id names it from here to its end; sending the check again under
/// it asks for the same answer.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct HoldCheck {
    pub(crate) id: String,
    pub(crate) customer_id: String,
    pub(crate) event_type: Option<String>,
    /// The estimate.
    #[serde(default)]
    pub(crate) values: Numbers,
    #[serde(default)]
    pub(crate) dimensions: Texts,
    pub(crate) charge: Option<ChargeBody>,
    /// How long the hold lives unless it is renewed.
    pub(crate) hold_seconds: Option<u32>,
}

/// What a balance is charged. In a check without an amount something must be left.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct ChargeBody {
    pub(crate) balance: String,
    pub(crate) amount: Option<Number>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct HoldCheckBody {
    pub(crate) id: String,
    pub(crate) allowed: bool,
    /// When it was decided; the event is recorded at this time.
    pub(crate) at: Timestamp,
    /// Whether there is a hold to settle or release.
    pub(crate) held: bool,
    /// Whether the id was settled before, so that there is nothing to charge again.
    pub(crate) settled: bool,
    /// Seconds, when waiting helps.
    pub(crate) retry_after: Option<u64>,
    /// What refused it.
    pub(crate) reason: Option<&'static str>,
    pub(crate) limits: Vec<HeldLimit>,
    pub(crate) balance: Option<HeldBalance>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct HeldLimit {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) meter_id: String,
    pub(crate) period: &'static str,
    pub(crate) limit: Amount,
    pub(crate) used: Amount,
    pub(crate) held: Amount,
    pub(crate) remaining: Amount,
    pub(crate) exceeded: bool,
    pub(crate) reset: Option<i64>,
    pub(crate) private: bool,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct HeldBalance {
    pub(crate) name: String,
    pub(crate) sufficient: bool,
    /// Absent when the customer has none of that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) available_balance: Option<Amount>,
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
    pub(crate) customer_id: String,
    /// The time of the check.
    pub(crate) at: Timestamp,
    pub(crate) event_type: Option<String>,
    #[serde(default)]
    pub(crate) values: Numbers,
    #[serde(default)]
    pub(crate) dimensions: Texts,
    pub(crate) charge: Option<ChargeBody>,
    /// The answer to the check never came, so there may be no hold.
    #[serde(default)]
    pub(crate) unsure: bool,
}

/// Names holds.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct HoldsBody {
    pub(crate) holds: Vec<HoldName>,
    /// How long they live from now, in a renewal.
    pub(crate) hold_seconds: Option<u32>,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct HoldName {
    pub(crate) id: String,
    pub(crate) customer_id: String,
}

/// One answer for each, in their order.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct ResultsBody<T> {
    pub(crate) results: Vec<T>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct EndedBody {
    pub(crate) id: String,
    pub(crate) done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<super::ErrorDetail>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct RenewedBody {
    pub(crate) id: String,
    /// Whether the hold still lives.
    pub(crate) live: bool,
}
