//! How events and transactions are written, and read back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::link::CallError;
use crate::policy::{
    Amount, CustomerId, EventId, RecordedEvent, Timestamp, Transaction, TransactionKind, Usage,
};

/// An event as JSON, for the books and for whoever reads the stream.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct EventRow {
    id: String,
    customer_id: String,
    event_type: String,
    values: BTreeMap<String, Amount>,
    dimensions: BTreeMap<String, String>,
    timestamp: Timestamp,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    reverses: bool,
}

pub(super) fn write_event(
    id: &EventId,
    customer: &CustomerId,
    event_type: &str,
    usage: &Usage,
    at: Timestamp,
    reverses: bool,
) -> String {
    let values = usage.values().iter().map(|(name, amount)| (name.to_owned(), amount));
    let dimensions = usage.dimensions().iter();
    let row = EventRow {
        id: id.to_string(),
        customer_id: customer.to_string(),
        event_type: event_type.to_owned(),
        values: values.collect(),
        dimensions: dimensions.map(|(key, text)| (key.to_owned(), text.to_owned())).collect(),
        timestamp: at,
        reverses,
    };
    serde_json::to_string(&row).unwrap_or_default()
}

pub(super) fn read_event(json: &str, sequence: u64) -> Result<RecordedEvent, CallError> {
    let nonsense = |_| CallError::Nonsense("an event");
    let row: EventRow = serde_json::from_str(json).map_err(nonsense)?;
    let mut usage = Usage::new();
    for (name, amount) in row.values {
        usage = usage.and(name, amount);
    }
    for (key, text) in row.dimensions {
        usage = usage.dimension(key, text);
    }
    let nonsense = |_| CallError::Nonsense("an event's id");
    Ok(RecordedEvent {
        id: EventId::new(row.id).map_err(nonsense)?,
        customer: CustomerId::new(row.customer_id).map_err(nonsense)?,
        event_type: row.event_type.into(),
        usage,
        at: row.timestamp,
        reverses: row.reverses,
        sequence,
    })
}

/// The part of a transaction that is known before it is made.
#[derive(Deserialize, Serialize)]
struct TransactionRow {
    id: String,
    balance: String,
    credit: bool,
    amount: Amount,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
}

pub(super) fn write_transaction(
    id: &EventId,
    balance: &str,
    kind: TransactionKind,
    amount: Amount,
    at: Timestamp,
    (description, reference): (Option<&str>, Option<&str>),
) -> String {
    let row = TransactionRow {
        id: id.to_string(),
        balance: balance.to_owned(),
        credit: kind == TransactionKind::Credit,
        amount,
        at,
        description: description.map(Into::into),
        reference: reference.map(Into::into),
    };
    serde_json::to_string(&row).unwrap_or_default()
}

/// Reads what the server has made of it: its place, what was left, and what was known before.
pub(super) fn read_transaction(
    customer: &CustomerId,
    text: &str,
) -> Result<Transaction, CallError> {
    let nonsense = || CallError::Nonsense("a transaction");
    let mut parts = text.splitn(3, ' ');
    let sequence = parts.next().and_then(|text| text.parse().ok()).ok_or_else(nonsense)?;
    let after = parts.next().and_then(|text| text.parse().ok()).ok_or_else(nonsense)?;
    let row = parts.next().and_then(|json| serde_json::from_str::<TransactionRow>(json).ok());
    let row = row.ok_or_else(nonsense)?;
    Ok(Transaction {
        id: EventId::new(row.id).map_err(|_| nonsense())?,
        customer: customer.clone(),
        balance: row.balance.into(),
        kind: if row.credit { TransactionKind::Credit } else { TransactionKind::Debit },
        amount: row.amount,
        balance_after: Amount::from_millionths(after),
        description: row.description.map(Into::into),
        reference: row.reference.map(Into::into),
        at: row.at,
        sequence,
    })
}
