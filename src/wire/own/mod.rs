//! The whole of the books, exactly: what the seed's forms cannot carry.

#[cfg(feature = "server")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backend::PageRequest;

mod balances;
mod definitions;
mod events;

pub(crate) use balances::*;
pub(crate) use definitions::*;
pub(crate) use events::*;

/// Nothing is asked but the whole.
#[derive(Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct NothingBody {}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct IdBody {
    pub(crate) id: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct CustomerName {
    pub(crate) customer_id: String,
}

/// Whether it was there.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct RemovedBody {
    pub(crate) removed: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct DoneBody {
    pub(crate) done: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct ItemsBody<T> {
    pub(crate) items: Vec<T>,
    /// Where the next page starts; null when nothing follows.
    #[serde(default)]
    pub(crate) next: Option<String>,
}

/// How much of a list, and from where.
#[derive(Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct PageForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<String>,
}

impl From<PageRequest> for PageForm {
    fn from(page: PageRequest) -> Self {
        Self { limit: page.limit, cursor: page.cursor }
    }
}

impl From<PageForm> for PageRequest {
    fn from(PageForm { limit, cursor }: PageForm) -> Self {
        Self { limit, cursor }
    }
}
