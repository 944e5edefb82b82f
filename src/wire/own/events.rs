#[cfg(feature = "server")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::policy::{Amount, EventId, RecordedEvent, Timestamp};
use crate::wire::{Amounts, Pairs, usage};

/// An event, perhaps under an id of one's own, with a time then.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    pub(crate) customer_id: String,
    pub(crate) event_type: String,
    #[serde(default)]
    pub(crate) values: Amounts,
    #[serde(default)]
    pub(crate) dimensions: Pairs,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<Timestamp>,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct RecordBody {
    pub(crate) events: Vec<EventForm>,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct VoidBody {
    pub(crate) customer_id: String,
    /// The event's.
    pub(crate) id: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventsBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) customer_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<String>,
}

/// An event as it was recorded.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct RecordedForm {
    pub(crate) id: String,
    pub(crate) customer_id: String,
    pub(crate) event_type: String,
    pub(crate) values: Amounts,
    pub(crate) dimensions: Pairs,
    pub(crate) at: Timestamp,
    /// Whether it takes another event back.
    pub(crate) reversal: bool,
}

impl From<RecordedEvent> for RecordedForm {
    fn from(event: RecordedEvent) -> Self {
        Self {
            id: event.id.to_string(),
            customer_id: event.customer.to_string(),
            event_type: event.event_type.to_string(),
            values: Amounts(event.usage.values().clone()),
            dimensions: Pairs(event.usage.dimensions().clone()),
            at: event.at,
            reversal: event.reverses,
        }
    }
}

impl TryFrom<RecordedForm> for RecordedEvent {
    type Error = Error;

    fn try_from(form: RecordedForm) -> Result<Self, Error> {
        let unsound = |error| Error::invalid("event", error);
        Ok(Self {
            id: EventId::new(&form.id).map_err(unsound)?,
            customer: form.customer_id.try_into().map_err(unsound)?,
            event_type: form.event_type.into(),
            usage: usage(&form.values, &form.dimensions),
            at: form.at,
            reverses: form.reversal,
            sequence: 0,
        })
    }
}

/// Reads a meter over a range, all that is left out being everything.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReadingQuery {
    pub(crate) meter_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) customer_id: Option<String>,
    #[serde(default)]
    pub(crate) dimensions: Pairs,
    /// From this time on, up to but not including the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Timestamp>,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct ReadingBody {
    pub(crate) value: Amount,
    pub(crate) aggregation: String,
    /// Whether every event of the range was still known.
    pub(crate) complete: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct OpenHoldsBody {
    pub(crate) open_holds: usize,
}
