//! Serde forms: member names as in the API, amounts as exact JSON numbers.

use serde::de::{Deserializer, Error as _};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Amount, Balance, CustomerId, Dimensions, EventId, RecordedEvent, Timestamp, Transaction, Values,
};

/// The digits that every float keeps.
const FLOAT_DIGITS: u32 = 15;

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let millionths = self.as_millionths();
        if millionths % Self::ONE.as_millionths() == 0 {
            return serializer.serialize_i64(self.floor());
        }
        let text = self.write(&mut [0; 24]).to_owned();
        if millionths.unsigned_abs() < 10_u64.pow(FLOAT_DIGITS)
            && let Ok(float) = text.parse::<f64>()
        {
            return serializer.serialize_f64(float);
        }
        let raw = RawValue::from_string(text).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// From a JSON number, or the same as text. No digit passes through a float.
impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        raw.get().trim_matches('"').parse().map_err(D::Error::custom)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl Serialize for CustomerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl Serialize for Dimensions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// An event as in the API.
impl Serialize for RecordedEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut event = serializer.serialize_struct("RecordedEvent", 6)?;
        event.serialize_field("id", self.id())?;
        event.serialize_field("customerId", self.customer())?;
        event.serialize_field("eventType", self.event_type())?;
        event.serialize_field("values", self.usage().values())?;
        event.serialize_field("dimensions", self.usage().dimensions())?;
        event.serialize_field("timestamp", &self.at())?;
        event.end()
    }
}

impl Serialize for Balance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut balance = serializer.serialize_struct("Balance", 6)?;
        balance.serialize_field("name", self.name())?;
        balance.serialize_field("unit", self.unit())?;
        balance.serialize_field("currentBalance", &self.current())?;
        balance.serialize_field("minimumBalance", &self.minimum())?;
        balance.serialize_field("held", &self.held())?;
        balance.serialize_field("availableBalance", &self.available())?;
        balance.end()
    }
}

impl Serialize for Transaction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut transaction = serializer.serialize_struct("Transaction", 8)?;
        transaction.serialize_field("id", self.id())?;
        transaction.serialize_field("balance", self.balance())?;
        transaction.serialize_field("type", self.kind().as_str())?;
        transaction.serialize_field("amount", &self.amount())?;
        transaction.serialize_field("balanceAfter", &self.balance_after())?;
        transaction.serialize_field("description", &self.description())?;
        transaction.serialize_field("reference", &self.reference())?;
        transaction.serialize_field("createdAt", &self.at())?;
        transaction.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_go_through_json_to_the_last_digit() {
        for text in ["0", "12", "-0.5", "0.25", "9223372036854.775807", "-9007199254.740993"] {
            let amount: Amount = text.parse().unwrap();
            let json = serde_json::to_string(&amount).unwrap();
            assert_eq!(json, text);
            assert_eq!(serde_json::from_str::<Amount>(&json).unwrap(), amount);
            let quoted = format!("\"{text}\"");
            assert_eq!(serde_json::from_str::<Amount>(&quoted).unwrap(), amount);
        }
        assert_eq!(serde_json::to_string(&Amount::from_millionths(1)).unwrap(), "1e-6");
        assert_eq!(serde_json::from_str::<Amount>("1e-6").unwrap(), Amount::from_millionths(1));
        assert_eq!(serde_json::from_str::<Amount>("1e3").unwrap(), Amount::from(1_000));
        for wrong in ["null", "true", "\"\"", "\"many\"", "1e30", "[]"] {
            assert!(serde_json::from_str::<Amount>(wrong).is_err(), "{wrong}");
        }
    }
}
