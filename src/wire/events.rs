#[cfg(feature = "server")]
use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::{Numbers, Texts};
use crate::policy::Timestamp;

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewEvent {
    pub(crate) customer_id: String,
    pub(crate) event_type: String,
    #[serde(default)]
    pub(crate) values: Numbers,
    #[serde(default)]
    pub(crate) dimensions: Texts,
    /// Read and not kept: nothing aggregates it.
    #[serde(default, rename = "properties")]
    #[cfg_attr(
        feature = "server",
        schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")
    )]
    pub(crate) _properties: Option<std::collections::BTreeMap<String, IgnoredAny>>,
    pub(crate) timestamp: Option<Timestamp>,
    pub(crate) idempotency_key: Option<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct EventBatch {
    pub(crate) events: Vec<NewEvent>,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct RecordedBody {
    pub(crate) id: String,
    /// Whether this call counted it.
    pub(crate) recorded: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct CountBody {
    pub(crate) count: usize,
}

/// An event as it is listed.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventBody {
    pub(crate) id: String,
    pub(crate) customer_id: String,
    pub(crate) event_type: String,
    pub(crate) values: Numbers,
    pub(crate) dimensions: Texts,
    pub(crate) timestamp: Timestamp,
}
