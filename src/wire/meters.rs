#[cfg(feature = "server")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Texts, given, present};
use crate::policy::{Amount, Timestamp};

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewMeter {
    pub(crate) name: String,
    pub(crate) aggregation: String,
    pub(crate) field: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_filter: Option<EventFilter>,
}

/// Which events a meter reads; an absent part lets all pass.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dimensions: Option<Texts>,
}

/// What is absent stays as it is.
#[derive(Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeterChange {
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schemars(with = "String"))]
    pub(crate) name: Option<String>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schemars(with = "String"))]
    pub(crate) aggregation: Option<String>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schemars(with = "String"))]
    pub(crate) field: Option<String>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<Option<String>>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schemars(with = "EventFilter"))]
    pub(crate) event_filter: Option<EventFilter>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeterBody {
    pub(crate) id: String,
    pub(crate) project_id: Option<String>,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) aggregation: &'static str,
    pub(crate) field: String,
    pub(crate) event_filter: EventFilter,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

/// From the start up to, but not including, the end.
#[derive(Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeterReadingQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) customer_id: Option<String>,
    #[serde(default)]
    pub(crate) dimensions: Texts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start_date: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) end_date: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeterReadingBody {
    pub(crate) meter_id: String,
    pub(crate) meter_name: String,
    pub(crate) value: Amount,
    pub(crate) aggregation: &'static str,
    /// Whether every event of the range was still known.
    pub(crate) complete: bool,
}
