//! Numbers for the names of balances, so that a cell carries four bytes.

use std::collections::HashMap;
use std::sync::{OnceLock, PoisonError, RwLock};

use compact_str::CompactString;

use super::locked;

/// Most services have one balance or two: those are found without a lock.
const FIRST: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Names {
    /// Filled in order.
    first: [OnceLock<CompactString>; FIRST],
    rest: RwLock<HashMap<CompactString, u32>>,
    naming: std::sync::Mutex<()>,
}

impl Names {
    /// The number of a name, if it was ever given one.
    #[inline]
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        for (number, known) in self.first.iter().enumerate() {
            if known.get()? == name {
                return Some(number as u32);
            }
        }
        self.rest.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// The number of a name, given now if need be.
    pub(super) fn give(&self, name: &str) -> u32 {
        let _naming = locked(&self.naming);
        if let Some(number) = self.number(name) {
            return number;
        }
        let mut name = CompactString::new(name);
        for (number, free) in self.first.iter().enumerate() {
            match free.set(name) {
                Ok(()) => return number as u32,
                Err(taken) => name = taken,
            }
        }
        let mut rest = self.rest.write().unwrap_or_else(PoisonError::into_inner);
        let number = (FIRST + rest.len()) as u32;
        rest.insert(name, number);
        number
    }

    /// Every name with its number.
    pub(super) fn all(&self) -> Vec<(CompactString, u32)> {
        let first = self.first.iter().map_while(OnceLock::get).cloned().zip(0..);
        let rest = self.rest.read().unwrap_or_else(PoisonError::into_inner);
        first.chain(rest.iter().map(|(name, number)| (name.clone(), *number))).collect()
    }
}
