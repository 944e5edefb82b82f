//! How far each queue of settlements has been taken, for each customer.

use std::collections::VecDeque;

use foldhash::HashMap;

use crate::policy::{CustomerId, Producer};

/// How many marks one shard keeps at most.
const MOST: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Marks {
    known: HashMap<Key, Mark>,
    /// Each once, about in the order in which they were last moved.
    order: VecDeque<Key>,
    /// Some were let go for want of room.
    forgot: bool,
}

type Key = (CustomerId, Producer);

#[derive(Debug)]
struct Mark {
    sequence: u64,
    /// It was moved since it was put in order.
    moved: bool,
}

impl Marks {
    pub(super) fn get(&self, customer: &CustomerId, producer: Producer) -> Option<u64> {
        Some(self.known.get(&(customer.clone(), producer))?.sequence)
    }

    /// Whether a mark that is not here may have been.
    pub(super) fn forgot(&self) -> bool {
        self.forgot
    }

    pub(super) fn set(&mut self, customer: &CustomerId, producer: Producer, sequence: u64) {
        let key = (customer.clone(), producer);
        if let Some(mark) = self.known.get_mut(&key) {
            *mark = Mark { sequence: mark.sequence.max(sequence), moved: true };
            return;
        }
        self.make_room();
        self.order.push_back(key.clone());
        self.known.insert(key, Mark { sequence, moved: false });
    }

    /// Lets go of one that was not moved for long, if there are too many.
    fn make_room(&mut self) {
        while self.known.len() >= MOST {
            let Some(key) = self.order.pop_front() else { return };
            match self.known.get_mut(&key) {
                Some(mark) if mark.moved => {
                    mark.moved = false;
                    self.order.push_back(key);
                }
                _ => {
                    self.known.remove(&key);
                    self.forgot = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_bounded_and_those_in_use_stay() {
        let mut marks = Marks::default();
        let queue = Producer(7);
        let customer = |number: usize| CustomerId::new(format!("acct_{number}")).unwrap();
        let busy = customer(0);
        for number in 0..3 * MOST {
            marks.set(&customer(number), queue, 1);
            marks.set(&busy, queue, number as u64);
        }
        assert_eq!(marks.known.len(), MOST);
        assert_eq!(marks.order.len(), MOST);
        assert_eq!(marks.get(&busy, queue), Some(3 * MOST as u64 - 1));
        assert_eq!(marks.get(&customer(1), queue), None);
        assert!(marks.forgot());
    }

    #[test]
    fn a_mark_never_goes_back() {
        let mut marks = Marks::default();
        let ada = CustomerId::new("ada").unwrap();
        marks.set(&ada, Producer(1), 9);
        marks.set(&ada, Producer(1), 4);
        assert_eq!(marks.get(&ada, Producer(1)), Some(9));
        assert_eq!(marks.get(&ada, Producer(2)), None);
        assert!(!marks.forgot());
    }
}
