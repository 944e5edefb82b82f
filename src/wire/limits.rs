#[cfg(feature = "server")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Number, Texts, given, present};
use crate::policy::{Amount, Timestamp};

/// Asks where a customer stands on the limits that match.
#[derive(Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct LimitsCheck {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) customer_id: Option<String>,
    #[serde(default)]
    pub(crate) dimensions: Texts,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct LimitsCheckBody {
    pub(crate) allowed: bool,
    pub(crate) limits: Vec<LimitStanding>,
}

/// One limit that was looked at.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct LimitStanding {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) meter_id: String,
    pub(crate) period: &'static str,
    pub(crate) limit: Amount,
    pub(crate) used: Amount,
    pub(crate) remaining: Amount,
    pub(crate) exceeded: bool,
    /// Unix seconds.
    pub(crate) reset: Option<i64>,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewLimit {
    pub(crate) name: String,
    pub(crate) meter_id: String,
    pub(crate) limit_value: Number,
    pub(crate) period: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) customer_id: Option<String>,
    #[serde(default)]
    pub(crate) dimension_filters: Texts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) alert_thresholds: Option<Vec<u8>>,
}

/// What is absent stays as it is.
#[derive(Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct LimitChange {
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schemars(with = "String"))]
    pub(crate) name: Option<String>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schemars(with = "String"))]
    pub(crate) meter_id: Option<String>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schemars(with = "Number"))]
    pub(crate) limit_value: Option<Number>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schemars(with = "String"))]
    pub(crate) period: Option<String>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub(crate) customer_id: Option<Option<String>>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schemars(with = "Texts"))]
    pub(crate) dimension_filters: Option<Texts>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub(crate) alert_thresholds: Option<Option<Vec<u8>>>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct LimitBody {
    pub(crate) id: String,
    pub(crate) project_id: String,
    pub(crate) name: String,
    pub(crate) meter_id: String,
    pub(crate) limit_value: Option<Amount>,
    pub(crate) period: &'static str,
    pub(crate) customer_id: Option<String>,
    pub(crate) dimension_filters: Texts,
    pub(crate) alert_thresholds: Option<Vec<u8>>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}
