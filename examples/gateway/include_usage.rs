//! Asks a stream of OpenAI's dialect to tell its usage.

use std::collections::HashMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The same request with `"stream_options":{"include_usage":true}`, to the letter otherwise: the
/// order of members can matter to a model. `None` where it is no stream, or says itself whether it
/// wants to know.
pub(crate) fn include_usage(body: &str) -> Option<String> {
    let ask: Ask<'_> = serde_json::from_str(body).ok()?;
    if !ask.stream || !is_object(body) {
        return None;
    }
    let mut asking = body.to_owned();
    match ask.stream_options.map(RawValue::get) {
        // Behind the brace, where at least the member `stream` follows.
        None => {
            asking.insert_str(body.find('{')? + 1, r#""stream_options":{"include_usage":true},"#)
        }
        Some(options) => {
            let start = options.as_ptr().addr() - body.as_ptr().addr();
            let wanted = with_usage(options)?;
            asking.replace_range(start..start + options.len(), &wanted);
        }
    }
    Some(asking)
}

fn with_usage(options: &str) -> Option<String> {
    if options == "null" {
        return Some(r#"{"include_usage":true}"#.to_owned());
    }
    let said: HashMap<String, IgnoredAny> = serde_json::from_str(options).ok()?;
    if said.contains_key("include_usage") {
        return None;
    }
    let comma = if said.is_empty() { "" } else { "," };
    Some(options.replacen('{', &format!(r#"{{"include_usage":true{comma}"#), 1))
}

/// What serde reads members from may be an array, too.
fn is_object(json: &str) -> bool {
    json.trim_start().starts_with('{')
}

#[derive(Deserialize)]
struct Ask<'a> {
    #[serde(default)]
    stream: bool,
    #[serde(borrow, default, deserialize_with = "even_null")]
    stream_options: Option<&'a RawValue>,
}

fn even_null<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}
