//! Decisions, with everything that they say.

use std::borrow::Cow;

#[cfg(feature = "server")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Pairs;
use crate::policy::{Amount, Timestamp};

/// The answer to a check with a hold.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct HoldCheckBody<'a> {
    pub(crate) id: Cow<'a, str>,
    /// Whether there is a hold to settle or release.
    pub(crate) held: bool,
    /// Whether the id was settled before, so that there is nothing to charge again.
    pub(crate) settled: bool,
    pub(crate) allowed: bool,
    /// When it was decided; the event is recorded at this time.
    pub(crate) at: Timestamp,
    /// Seconds, when waiting helps.
    pub(crate) retry_after: Option<u64>,
    /// What refused it.
    pub(crate) reason: Option<Cow<'a, str>>,
    pub(crate) limits: Vec<HeldLimit<'a>>,
    pub(crate) balance: Option<HeldBalance<'a>>,
}

/// A decision that holds nothing: a preview, or where a customer stands.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct DecisionBody<'a> {
    pub(crate) allowed: bool,
    pub(crate) at: Timestamp,
    pub(crate) retry_after: Option<u64>,
    pub(crate) reason: Option<Cow<'a, str>>,
    pub(crate) limits: Vec<HeldLimit<'a>>,
    pub(crate) balance: Option<HeldBalance<'a>>,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct HeldLimit<'a> {
    pub(crate) id: Cow<'a, str>,
    pub(crate) name: Cow<'a, str>,
    pub(crate) meter_id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Pairs::is_empty")]
    pub(crate) dimensions: Pairs,
    pub(crate) period: Cow<'a, str>,
    pub(crate) limit: Amount,
    pub(crate) used: Amount,
    pub(crate) held: Amount,
    pub(crate) remaining: Amount,
    pub(crate) exceeded: bool,
    /// What it said: `within`, `held` (only running requests stand in the way), `exceeded`, or
    /// `too_large` (more is asked than the limit itself).
    pub(crate) verdict: Cow<'a, str>,
    /// Whether `used` counts every event of the window.
    pub(crate) complete: bool,
    /// Unix seconds.
    pub(crate) reset: Option<i64>,
    /// The window, unless it is for ever.
    pub(crate) window: Option<WindowBody>,
    pub(crate) private: bool,
}

/// From the start up to, but not including, the end.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct WindowBody {
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct HeldBalance<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) sufficient: bool,
    /// As that of a limit.
    pub(crate) verdict: Cow<'a, str>,
    /// The rest is absent when the customer has none of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current_balance: Option<Amount>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) minimum_balance: Option<Amount>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) held: Option<Amount>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) available_balance: Option<Amount>,
}
