#[cfg(feature = "server")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What every error is answered with.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct ErrorBody {
    pub(crate) error: ErrorDetail,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct ErrorDetail {
    /// Which error, for programs.
    pub(crate) code: String,
    /// What is wrong, for people.
    pub(crate) message: String,
    /// The HTTP status.
    pub(crate) status: u16,
}
