use std::collections::BTreeMap;

#[cfg(feature = "server")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{Aggregation, Customer, Limit, Meter};
use crate::wire::{Number, Pairs};
use crate::{Amount, Error};

/// A meter, under an id of one's own.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeterForm {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) aggregation: String,
    /// The value that it reads; a count without one counts every event.
    pub(crate) field: Option<String>,
    pub(crate) event_type: Option<String>,
    #[serde(default)]
    pub(crate) dimensions: Pairs,
    pub(crate) unit: Option<String>,
    pub(crate) description: Option<String>,
}

impl From<&Meter> for MeterForm {
    fn from(meter: &Meter) -> Self {
        Self {
            id: meter.id.to_string(),
            name: meter.name.as_deref().map(Into::into),
            aggregation: meter.aggregation.as_str().to_owned(),
            field: meter.field.as_deref().map(Into::into),
            event_type: meter.event_type.as_deref().map(Into::into),
            dimensions: Pairs(meter.dimensions.clone()),
            unit: meter.unit.as_deref().map(Into::into),
            description: meter.description.as_deref().map(Into::into),
        }
    }
}

impl TryFrom<MeterForm> for Meter {
    type Error = Error;

    fn try_from(form: MeterForm) -> Result<Self, Error> {
        Ok(Self {
            name: form.name.map(Into::into),
            aggregation: aggregation(&form.aggregation)?,
            field: form.field.map(Into::into),
            event_type: form.event_type.map(Into::into),
            dimensions: form.dimensions.0,
            unit: form.unit.map(Into::into),
            description: form.description.map(Into::into),
            ..Self::count(form.id)
        })
    }
}

pub(crate) fn aggregation(text: &str) -> Result<Aggregation, Error> {
    let kind = Aggregation::ALL.into_iter().find(|kind| kind.as_str() == text);
    kind.ok_or_else(|| Error::invalid("aggregation", "is none of sum, count, max, latest"))
}

/// A limit, under an id of one's own.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct LimitForm {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) meter_id: String,
    pub(crate) period: String,
    pub(crate) limit: Number,
    /// Whose alone it is; everybody's when absent.
    pub(crate) customer_id: Option<String>,
    #[serde(default)]
    pub(crate) dimensions: Pairs,
    #[serde(default)]
    pub(crate) alert_thresholds: Vec<u8>,
    #[serde(default)]
    pub(crate) private: bool,
}

impl LimitForm {
    pub(crate) fn of(limit: &Limit, cap: Amount) -> Self {
        Self {
            id: limit.id.to_string(),
            name: limit.name.as_deref().map(Into::into),
            meter_id: limit.meter.to_string(),
            period: limit.period.as_str().to_owned(),
            limit: Number(cap),
            customer_id: limit.customer.as_deref().map(Into::into),
            dimensions: Pairs(limit.dimensions.clone()),
            alert_thresholds: limit.alerts.clone(),
            private: limit.private,
        }
    }
}

impl TryFrom<LimitForm> for Limit {
    type Error = Error;

    fn try_from(form: LimitForm) -> Result<Self, Error> {
        let period = form.period.parse().map_err(|error| Error::invalid("period", error))?;
        let limit = Self::new(form.id, form.meter_id, period, form.limit.0);
        Ok(Self {
            name: form.name.map(Into::into),
            customer: form.customer_id.map(Into::into),
            dimensions: form.dimensions.0,
            private: form.private,
            ..limit.alert_at(form.alert_thresholds)
        })
    }
}

/// What is known of a customer beyond usage.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct CustomerForm {
    pub(crate) customer_id: String,
    pub(crate) timezone: Option<String>,
    /// A date, or a date-time.
    pub(crate) billing_anchor: Option<String>,
    #[serde(default)]
    pub(crate) metadata: BTreeMap<String, String>,
}

impl From<CustomerForm> for Customer {
    fn from(form: CustomerForm) -> Self {
        Self {
            zone: form.timezone.map(Into::into),
            anchor: form.billing_anchor.map(Into::into),
            metadata: form.metadata,
            ..Self::new(form.customer_id)
        }
    }
}

impl CustomerForm {
    pub(crate) fn of(id: &crate::CustomerId, customer: &Customer) -> Self {
        Self {
            customer_id: id.to_string(),
            timezone: customer.zone.as_deref().map(Into::into),
            billing_anchor: customer.anchor.as_deref().map(Into::into),
            metadata: customer.metadata.clone(),
        }
    }
}

/// A customer, if anything is known of them.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "server", derive(JsonSchema))]
pub(crate) struct KnownBody {
    pub(crate) customer: Option<CustomerForm>,
}
