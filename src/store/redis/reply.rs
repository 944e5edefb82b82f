//! What servers answer, read piece by piece. What makes no sense is an error, never a nothing.

use redis::Value;

use super::link::CallError;
use crate::policy::Amount;

/// The pieces of an answer, in order.
pub(super) struct Reply(std::vec::IntoIter<Value>);

impl Reply {
    pub(super) fn of(value: Value) -> Result<Self, CallError> {
        match value {
            Value::Array(values) => Ok(Self(values.into_iter())),
            _ => Err(CallError::Nonsense("no list")),
        }
    }

    pub(super) fn next(&mut self) -> Option<Value> {
        self.0.next()
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.as_slice().is_empty()
    }

    fn piece(&mut self) -> Result<Value, CallError> {
        self.next().ok_or(CallError::Nonsense("a list that is too short"))
    }

    /// A text that is there.
    pub(super) fn text(&mut self) -> Result<String, CallError> {
        text(self.piece()?)?.ok_or(CallError::Nonsense("a text is missing"))
    }

    /// A text, if it is there and not empty.
    pub(super) fn some_text(&mut self) -> Result<Option<String>, CallError> {
        Ok(text(self.piece()?)?.filter(|text| !text.is_empty()))
    }

    /// An amount that is there.
    pub(super) fn amount(&mut self) -> Result<Amount, CallError> {
        amount(&self.piece()?)?.ok_or(CallError::Nonsense("an amount is missing"))
    }

    /// An amount, if it is there.
    pub(super) fn some_amount(&mut self) -> Result<Option<Amount>, CallError> {
        amount(&self.piece()?)
    }
}

pub(super) fn text(value: Value) -> Result<Option<String>, CallError> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => {
            let text = String::from_utf8(bytes);
            text.map(Some).map_err(|_| CallError::Nonsense("a text that is no UTF-8"))
        }
        Value::SimpleString(text) => Ok(Some(text)),
        Value::Int(number) => Ok(Some(number.to_string())),
        Value::Okay => Ok(Some("OK".to_owned())),
        _ => Err(CallError::Nonsense("something else than a text")),
    }
}

pub(super) fn amount(value: &Value) -> Result<Option<Amount>, CallError> {
    let millionths = match value {
        Value::Nil => return Ok(None),
        Value::Int(number) => *number,
        Value::BulkString(bytes) if bytes.is_empty() => return Ok(None),
        Value::BulkString(bytes) => std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(CallError::Nonsense("an amount that is no number"))?,
        _ => return Err(CallError::Nonsense("something else than an amount")),
    };
    Ok(Some(Amount::from_millionths(millionths)))
}

/// The pairs of a hash.
pub(super) fn pairs(value: Value) -> Result<Vec<(String, String)>, CallError> {
    let pair = |name: Value, value: Value| {
        let name = text(name)?.ok_or(CallError::Nonsense("a field without a name"))?;
        Ok((name, text(value)?.unwrap_or_default()))
    };
    match value {
        Value::Map(pairs) => pairs.into_iter().map(|(name, value)| pair(name, value)).collect(),
        Value::Array(values) => {
            let mut values = values.into_iter();
            let mut pairs = Vec::with_capacity(values.len() / 2);
            while let (Some(name), Some(value)) = (values.next(), values.next()) {
                pairs.push(pair(name, value)?);
            }
            Ok(pairs)
        }
        Value::Nil => Ok(Vec::new()),
        _ => Err(CallError::Nonsense("something else than a hash")),
    }
}
