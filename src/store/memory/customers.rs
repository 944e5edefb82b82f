//! Who is known: a table from a customer's id to a place in rows of fixed size, so that growing
//! never moves a customer and an empty row gives its memory back.

use hashbrown::HashTable;

use super::account::Account;
use crate::policy::CustomerId;

const ROW: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Customers {
    table: HashTable<Entry>,
    rows: Vec<Row>,
    free: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    slot: u32,
    /// Half of the hash: growing the table reads no customer.
    hash: u32,
}

#[derive(Debug, Default)]
struct Row {
    taken: u32,
    slots: Box<[Option<Account>]>,
}

impl Customers {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, id: &CustomerId) -> Option<u32> {
        let entry = self.table.find(hash, |entry| {
            entry.hash == hash as u32 && self.get(entry.slot).is_some_and(|known| known.id == *id)
        });
        entry.map(|entry| entry.slot)
    }

    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&Account> {
        let slot = slot as usize;
        self.rows.get(slot / ROW)?.slots.get(slot % ROW)?.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Account> {
        let slot = slot as usize;
        self.rows.get_mut(slot / ROW)?.slots.get_mut(slot % ROW)?.as_mut()
    }

    pub(super) fn insert(&mut self, hash: u64, account: Account) -> u32 {
        if self.free.is_empty() {
            let first = (self.rows.len() * ROW) as u32;
            self.rows.push(Row::default());
            self.free.extend((first..first + ROW as u32).rev());
        }
        let slot = self.free.pop().unwrap_or_default();
        let row = &mut self.rows[slot as usize / ROW];
        if row.slots.is_empty() {
            row.slots = (0..ROW).map(|_| None).collect();
        }
        row.slots[slot as usize % ROW] = Some(account);
        row.taken += 1;
        let entry = Entry { slot, hash: hash as u32 };
        self.table.insert_unique(hash, entry, |entry| spread(entry.hash));
        slot
    }

    pub(super) fn remove(&mut self, hash: u64, slot: u32) {
        if let Ok(found) = self.table.find_entry(hash, |entry| entry.slot == slot) {
            found.remove();
        }
        let row = &mut self.rows[slot as usize / ROW];
        row.slots[slot as usize % ROW] = None;
        row.taken -= 1;
        self.free.push(slot);
        if row.taken == 0 {
            row.slots = Box::default();
        }
        if self.table.is_empty() {
            *self = Self::default();
        }
    }

    /// How far slots reach, for walking over all of them.
    pub(super) fn reach(&self) -> u32 {
        (self.rows.len() * ROW) as u32
    }

    pub(super) fn shrink(&mut self) {
        if self.table.len() < self.table.capacity() / 8 {
            self.table.shrink_to(self.table.len() * 2, |entry| spread(entry.hash));
        }
    }
}

/// The table wants 64 bits of which the upper ones tell entries apart; both halves are the same 32.
pub(super) fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}
