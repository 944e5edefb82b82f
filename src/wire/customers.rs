#[cfg(feature = "server")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{given, present};
use crate::policy::Timestamp;

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewCustomer {
    pub(crate) external_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) email: Option<String>,
    /// A date-time, or a date, which is midnight in the customer's zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) billing_cycle_start: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timezone: Option<String>,
    #[serde(default)]
    pub(crate) metadata: Map<String, Value>,
}

/// A customer without the id.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CustomerTerms {
    pub(crate) name: Option<String>,
    pub(crate) email: Option<String>,
    pub(crate) billing_cycle_start: Option<String>,
    pub(crate) timezone: Option<String>,
    #[serde(default)]
    pub(crate) metadata: Map<String, Value>,
}

impl From<NewCustomer> for CustomerTerms {
    fn from(new: NewCustomer) -> Self {
        let NewCustomer { external_id: _, name, email, billing_cycle_start, timezone, metadata } =
            new;
        Self { name, email, billing_cycle_start, timezone, metadata }
    }
}

/// What is absent stays as it is.
#[derive(Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct CustomerChange {
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Option<String>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub(crate) email: Option<Option<String>>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schemars(with = "String"))]
    pub(crate) billing_cycle_start: Option<String>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub(crate) timezone: Option<Option<String>>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schemars(with = "Map<String, Value>"))]
    pub(crate) metadata: Option<Map<String, Value>>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct CustomerBody {
    pub(crate) id: String,
    pub(crate) project_id: String,
    pub(crate) external_id: String,
    pub(crate) name: Option<String>,
    pub(crate) email: Option<String>,
    pub(crate) billing_cycle_start: Timestamp,
    pub(crate) timezone: Option<String>,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

#[derive(Debug, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct ProjectBody {
    pub(crate) id: String,
    pub(crate) name: String,
}
