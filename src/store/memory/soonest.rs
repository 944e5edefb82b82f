//! What comes first is taken first, where nearly everything is put in by the order it is taken out.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

#[derive(Debug)]
pub(super) struct Soonest<T> {
    /// What came in order: a heap would move each through all its levels, twice.
    orderly: VecDeque<T>,
    others: BinaryHeap<Reverse<T>>,
}

impl<T: Ord> Default for Soonest<T> {
    fn default() -> Self {
        Self { orderly: VecDeque::new(), others: BinaryHeap::new() }
    }
}

impl<T: Ord> Soonest<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.orderly.is_empty() && self.others.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.orderly.len() + self.others.len()
    }

    pub(super) fn push(&mut self, item: T) {
        match self.orderly.back() {
            Some(last) if item < *last => self.others.push(Reverse(item)),
            _ => self.orderly.push_back(item),
        }
    }

    pub(super) fn peek(&self) -> Option<&T> {
        match (self.orderly.front(), self.others.peek()) {
            (Some(one), Some(Reverse(other))) => Some(one.min(other)),
            (one, other) => one.or(other.map(|Reverse(other)| other)),
        }
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        match (self.orderly.front(), self.others.peek()) {
            (Some(one), Some(Reverse(other))) if other < one => {}
            (Some(_), _) => return self.orderly.pop_front(),
            (None, _) => {}
        }
        self.others.pop().map(|Reverse(item)| item)
    }

    pub(super) fn retain(&mut self, mut wanted: impl FnMut(&T) -> bool) {
        self.orderly.retain(&mut wanted);
        self.others.retain(|Reverse(item)| wanted(item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_is_taken_first_in_whatever_order_it_was_put_in() {
        let mut number = 7_u32;
        let (mut soonest, mut expected) = (Soonest::default(), Vec::new());
        for round in 0..2_000_u32 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let item = if number >> 30 == 0 { number >> 20 } else { round };
            soonest.push(item);
            expected.push(item);
            if number & 4 == 0 {
                expected.sort_unstable();
                assert_eq!(soonest.peek(), expected.first());
                assert_eq!(soonest.pop(), Some(expected.remove(0)));
            }
        }
        soonest.retain(|item| item % 3 > 0);
        expected.retain(|item| item % 3 > 0);
        expected.sort_unstable();
        assert_eq!(soonest.len(), expected.len());
        let rest: Vec<_> = std::iter::from_fn(|| soonest.pop()).collect();
        assert_eq!(rest, expected);
    }
}
