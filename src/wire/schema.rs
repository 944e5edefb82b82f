//! What the OpenAPI document says of amounts and times.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{Amounts, Number, Pairs};
use crate::policy::{Amount, Timestamp};

impl JsonSchema for Number {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Number".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // What an amount can be, to the nearest number that every reader of JSON knows.
        const MOST: f64 = 9_223_372_036_854.775;
        json_schema!({ "type": "number", "minimum": -MOST, "maximum": MOST })
    }
}

/// Amounts as answered, which may be any.
impl JsonSchema for Amount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Amount".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number" })
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

impl JsonSchema for Amounts {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Amounts".into()
    }

    fn json_schema(schemas: &mut SchemaGenerator) -> Schema {
        let amount = schemas.subschema_for::<Number>();
        json_schema!({ "type": "object", "additionalProperties": amount, "maxProperties": 100 })
    }
}

impl JsonSchema for Pairs {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Pairs".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object", "additionalProperties": { "type": "string" }, "maxProperties": 100
        })
    }
}
