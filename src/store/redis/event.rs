//! How events and transactions are written, and read back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use super::link::CallError;
use crate::policy::{
    Amount, CustomerId, EventId, RecordedEvent, Timestamp, Transaction, TransactionKind, Usage,
};

/// An event as JSON, for the books and for whoever reads the stream.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventText<'a> {
    id: &'a str,
    customer_id: &'a str,
    event_type: &'a str,
    #[serde(serialize_with = "values")]
    values: &'a Usage,
    #[serde(serialize_with = "dimensions")]
    dimensions: &'a Usage,
    timestamp: Timestamp,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    reverses: bool,
}

fn values<S: Serializer>(usage: &Usage, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(usage.values().iter())
}

fn dimensions<S: Serializer>(usage: &Usage, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(usage.dimensions().iter())
}

/// The same, read back.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventRow {
    id: String,
    customer_id: String,
    event_type: String,
    values: BTreeMap<String, Amount>,
    dimensions: BTreeMap<String, String>,
    timestamp: Timestamp,
    #[serde(default)]
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
    let mut buffer = [0; 36];
    let text = EventText {
        id: id.write(&mut buffer),
        customer_id: customer.as_str(),
        event_type,
        values: usage,
        dimensions: usage,
        timestamp: at,
        reverses,
    };
    serde_json::to_string(&text).unwrap_or_default()
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
struct TransactionRow<T> {
    id: T,
    balance: T,
    credit: bool,
    amount: Amount,
    at: Timestamp,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    description: Option<T>,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    reference: Option<T>,
}

pub(super) fn write_transaction(
    id: &EventId,
    balance: &str,
    kind: TransactionKind,
    amount: Amount,
    at: Timestamp,
    (description, reference): (Option<&str>, Option<&str>),
) -> String {
    let mut buffer = [0; 36];
    let row = TransactionRow {
        id: id.write(&mut buffer),
        balance,
        credit: kind == TransactionKind::Credit,
        amount,
        at,
        description,
        reference,
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
    let row =
        parts.next().and_then(|json| serde_json::from_str::<TransactionRow<String>>(json).ok());
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
