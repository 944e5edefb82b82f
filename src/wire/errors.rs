#[cfg(feature = "server")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What every error is answered with.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct ErrorBody {
    pub(crate) error: ErrorDetail,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct ErrorDetail {
    /// Which error, for programs.
    pub(crate) code: String,
    /// What is wrong, for people.
    pub(crate) message: String,
    /// The HTTP status.
    pub(crate) status: u16,
    /// The id of the request, as in `X-Request-Id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<String>,
}
