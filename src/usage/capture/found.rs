use std::sync::Arc;

use compact_str::CompactString;

use super::wanted::{Slot, Wanted};
use crate::policy::Amount;

/// The members found in a document, as JSON text.
#[derive(Clone, Debug)]
pub(in crate::usage) struct Found {
    pub(super) wanted: Arc<Wanted>,
    pub(super) values: Vec<(Slot, CompactString)>,
}

impl Found {
    pub(super) fn new(wanted: Arc<Wanted>) -> Self {
        Self { wanted, values: Vec::new() }
    }

    pub(super) fn set(&mut self, slot: Slot, text: &[u8]) {
        let Ok(text) = std::str::from_utf8(text) else { return };
        match self.values.iter_mut().find(|(known, _)| *known == slot) {
            Some((_, value)) => *value = text.into(),
            None => self.values.push((slot, text.into())),
        }
    }

    /// Takes over what `newer` says, except for its nulls.
    pub(in crate::usage) fn update(&mut self, newer: &Self) {
        for (slot, text) in &newer.values {
            if text != "null" {
                self.set(*slot, text.as_bytes());
            }
        }
    }

    /// The JSON text of a member: a scalar, or the first character of an array or object.
    pub(in crate::usage) fn raw(&self, name: &str) -> Option<&str> {
        let names = &self.wanted.names;
        let (_, text) = self.values.iter().find(|(slot, _)| *names[usize::from(*slot)] == *name)?;
        Some(text).filter(|text| *text != "null").map(CompactString::as_str)
    }

    /// Whether the member is there, and not null.
    pub(in crate::usage) fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// The text of a member that is a string, unless it is empty.
    pub(in crate::usage) fn text(&self, name: &str) -> Option<CompactString> {
        let raw = self.raw(name)?.strip_prefix('"')?.strip_suffix('"')?;
        let text = if raw.contains('\\') {
            let text: String = serde_json::from_str(self.raw(name)?).ok()?;
            text.into()
        } else {
            CompactString::new(raw)
        };
        Some(text).filter(|text| !text.is_empty())
    }

    /// Whether the member is this string.
    pub(in crate::usage) fn is(&self, name: &str, text: &str) -> bool {
        let raw = self.raw(name).and_then(|raw| raw.strip_prefix('"')?.strip_suffix('"'));
        raw == Some(text)
    }

    /// Whether the member says `false`.
    pub(in crate::usage) fn is_false(&self, name: &str) -> bool {
        self.raw(name) == Some("false")
    }

    /// The decimal text of a member that is a number, or a string of one.
    pub(in crate::usage) fn decimal(&self, name: &str) -> Option<&str> {
        self.raw(name).map(|raw| raw.trim_matches('"'))
    }

    /// The amount of a member that is a number, or a string of one.
    pub(in crate::usage) fn amount(&self, name: &str) -> Option<Amount> {
        self.decimal(name)?.parse().ok()
    }

    /// A number of something: not below zero.
    pub(in crate::usage) fn count(&self, name: &str) -> Option<Amount> {
        self.amount(name).filter(|amount| !amount.is_negative())
    }
}
