//! Requests and answers of the HTTP API as JSON has them: plain forms, no rules.

use std::collections::BTreeMap;
use std::fmt;

#[cfg(feature = "server")]
use schemars::JsonSchema;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::policy::Amount;

mod balances;
mod customers;
mod errors;
mod events;
mod holds;
mod limits;
mod meters;
mod own;
#[cfg(feature = "server")]
mod schema;
mod standing;
mod usage;

pub(crate) use balances::*;
pub(crate) use customers::*;
pub(crate) use errors::*;
pub(crate) use events::*;
pub(crate) use holds::*;
pub(crate) use limits::*;
pub(crate) use meters::*;
pub(crate) use own::*;
pub(crate) use standing::*;
pub(crate) use usage::*;

/// Text by key.
pub(crate) type Texts = BTreeMap<String, String>;

/// Amounts by name.
pub(crate) type Numbers = BTreeMap<String, Number>;

/// One page of a list.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct PageBody<T> {
    pub(crate) data: Vec<T>,
    pub(crate) next_cursor: Option<String>,
    pub(crate) has_more: bool,
}

/// An amount that must be a JSON number: text that reads like one is refused.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Number(pub(crate) Amount);

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        raw.get().parse().map(Self).map_err(D::Error::custom)
    }
}

/// Takes no `null` where only absence means that nothing changes.
fn given<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Tells a member that is `null` from one that is absent.
fn present<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}
