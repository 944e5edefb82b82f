//! JSON (RFC 8259) of decisions. Amounts are written as they are, never by way of a float.

use crate::backend::{BalanceState, Decision, LimitState};
use crate::policy::Amount;

impl Decision {
    /// The decision as JSON, for the customer it is about: the limits and the balance as the API
    /// tells them, without private limits.
    ///
    /// ```
    /// # use tower_limitry::{Engine, Limit, Meter};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let books = Engine::builder()
    ///     .meter(Meter::sum("tokens", "total_tokens"))
    ///     .limit(Limit::all_time("trial", "tokens", 1_000).named("Trial tokens"))
    ///     .build()?;
    /// let standing = books.usage("acct_42").await?;
    /// assert_eq!(
    ///     standing.to_json(),
    ///     concat!(
    ///         r#"{"allowed":true,"limits":[{"id":"trial","name":"Trial tokens","meterId":"tokens","#,
    ///         r#""period":"all_time","limit":1000,"used":0,"held":0,"remaining":1000,"#,
    ///         r#""exceeded":false,"reset":null}]}"#,
    ///     ),
    /// );
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// With a balance there is also `balance`: its `name`, whether it was `sufficient`, and when the
    /// customer has it, `unit`, `currentBalance`, `minimumBalance`, `held` and `availableBalance`.
    pub fn to_json(&self) -> String {
        let mut json = String::with_capacity(512);
        let mut decision = Object::begin(&mut json);
        write_members(self, &mut decision);
        decision.end();
        json
    }
}

/// Writes what a decision says as members of an object: `allowed`, `limits`, `balance`.
pub(crate) fn write_members(decision: &Decision, object: &mut Object<'_>) {
    write_bool(decision.is_allowed(), object.member("allowed"));
    write_limits(decision, object.member("limits"));
    if let Some(balance) = decision.balance() {
        write_balance(balance, object.member("balance"));
    }
}

/// Writes the limits that are not private, those that refused first.
pub(crate) fn write_limits(decision: &Decision, out: &mut String) {
    let limits = decision.limits().filter(|limit| !limit.is_private());
    write_array(out, limits, |out, limit| write_limit(&limit, out));
}

fn write_limit(limit: &LimitState<'_>, out: &mut String) {
    let mut object = Object::begin(out);
    write_string(limit.id(), object.member("id"));
    write_string(limit.name(), object.member("name"));
    write_string(limit.meter(), object.member("meterId"));
    write_string(limit.period().as_str(), object.member("period"));
    write_amount(limit.limit(), object.member("limit"));
    write_amount(limit.used(), object.member("used"));
    write_amount(limit.held(), object.member("held"));
    write_amount(limit.remaining(), object.member("remaining"));
    write_bool(limit.is_exceeded(), object.member("exceeded"));
    match limit.reset() {
        Some(reset) => write_integer(reset, object.member("reset")),
        None => object.member("reset").push_str("null"),
    }
    object.end();
}

fn write_balance(state: &BalanceState, out: &mut String) {
    let mut object = Object::begin(out);
    write_string(state.name(), object.member("name"));
    write_bool(!state.is_exceeded(), object.member("sufficient"));
    if let Some(balance) = state.balance() {
        write_string(balance.unit(), object.member("unit"));
        write_amount(balance.current(), object.member("currentBalance"));
        write_amount(balance.minimum(), object.member("minimumBalance"));
        write_amount(balance.held(), object.member("held"));
        write_amount(balance.available(), object.member("availableBalance"));
    }
    object.end();
}

/// An object that is being written. The names of its members are ours, and need no escape.
pub(crate) struct Object<'a> {
    out: &'a mut String,
    is_empty: bool,
}

impl<'a> Object<'a> {
    pub(crate) fn begin(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, is_empty: true }
    }

    /// Writes the name of a member; its value goes to what this returns.
    pub(crate) fn member(&mut self, name: &str) -> &mut String {
        if !std::mem::replace(&mut self.is_empty, false) {
            self.out.push(',');
        }
        self.out.push('"');
        self.out.push_str(name);
        self.out.push_str("\":");
        self.out
    }

    pub(crate) fn end(self) {
        self.out.push('}');
    }
}

pub(crate) fn write_array<T>(
    out: &mut String,
    items: impl Iterator<Item = T>,
    write: impl Fn(&mut String, T),
) {
    out.push('[');
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}

/// Writes a string; RFC 8259, section 7 says what has to be escaped.
pub(crate) fn write_string(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\x1f' => {
                let code = character as usize;
                out.push_str("\\u00");
                out.push(char::from(HEX[code >> 4]));
                out.push(char::from(HEX[code & 0xf]));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

pub(crate) fn write_integer(integer: impl Into<i64>, out: &mut String) {
    use std::fmt::Write;
    let _ = write!(out, "{}", integer.into());
}

fn write_amount(amount: Amount, out: &mut String) {
    out.push_str(amount.write(&mut [0; 24]));
}

fn write_bool(value: bool, out: &mut String) {
    out.push_str(if value { "true" } else { "false" });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_json_cannot_hold_is_escaped() {
        let mut out = String::new();
        write_string("a\"b\\c\n\r\t\0\u{8}\u{1f}\u{7f}é\u{2028}🦀", &mut out);
        assert_eq!(out, "\"a\\\"b\\\\c\\n\\r\\t\\u0000\\u0008\\u001f\u{7f}é\u{2028}🦀\"");
    }

    #[test]
    fn amounts_keep_their_last_digit() {
        for text in ["9223372036854.775807", "-9223372036854.775808", "0.1", "0"] {
            let mut out = String::new();
            write_amount(text.parse().unwrap(), &mut out);
            assert_eq!(out, text);
        }
    }

    #[test]
    fn objects_and_arrays_are_separated() {
        let mut out = String::new();
        let mut object = Object::begin(&mut out);
        write_bool(true, object.member("a"));
        Object::begin(object.member("b")).end();
        write_array(object.member("c"), [1, -2].into_iter(), |out, item| write_integer(item, out));
        write_array(object.member("d"), 0..0, |out, item| write_integer(item, out));
        object.end();
        assert_eq!(out, r#"{"a":true,"b":{},"c":[1,-2],"d":[]}"#);
    }

    proptest! {
        #[test]
        fn any_text_is_read_back(text: String) {
            let mut out = String::new();
            write_string(&text, &mut out);
            prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }
    }
}

#[cfg(feature = "json")]
mod serde_forms {
    use serde::Serialize;
    use serde::ser::{SerializeStruct, Serializer};

    use crate::backend::{Decision, LimitState};

    /// An entry as in a check answer of the API, with what is held beside it.
    impl Serialize for LimitState<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut entry = serializer.serialize_struct("LimitState", 10)?;
            entry.serialize_field("id", self.id())?;
            entry.serialize_field("name", self.name())?;
            entry.serialize_field("meterId", self.meter())?;
            entry.serialize_field("period", self.period().as_str())?;
            entry.serialize_field("limit", &self.limit())?;
            entry.serialize_field("used", &self.used())?;
            entry.serialize_field("held", &self.held())?;
            entry.serialize_field("remaining", &self.remaining())?;
            entry.serialize_field("exceeded", &self.is_exceeded())?;
            entry.serialize_field("reset", &self.reset())?;
            entry.end()
        }
    }

    /// The check answer of the API: `allowed`, and `limits` without private ones.
    impl Serialize for Decision {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut decision = serializer.serialize_struct("Decision", 2)?;
            decision.serialize_field("allowed", &self.is_allowed())?;
            let shown: Vec<_> = self.limits().filter(|limit| !limit.is_private()).collect();
            decision.serialize_field("limits", &shown)?;
            decision.end()
        }
    }
}
