//! Where everything is: the one place that names keys.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use crate::policy::{CounterKey, CustomerId, Timestamp, Window};
use crate::store::Line;

/// How many shards there are. Every customer belongs to one; all of a shard is in one slot.
pub(super) const SHARDS: u16 = 64;

/// The format of what the keys hold. Releases that differ in it do not see each other's books.
const FORMAT: &str = "1";

/// Names keys. All begin with the prefix and the format.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Box<str>,
    /// What the keys of each shard begin with.
    heads: Arc<[Box<str>]>,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let prefix: Box<str> = format!("{prefix}:{FORMAT}").into();
        let head = |shard| format!("{prefix}:{{{shard}}}:").into();
        let heads = (0..SHARDS).map(head).collect();
        Self { prefix, heads }
    }

    /// What all keys of a shard begin with.
    pub(super) fn head(&self, shard: u16) -> &str {
        &self.heads[usize::from(shard)]
    }

    /// Meters, limits and customers, and which counters there are: a hash, for ever.
    pub(super) fn definitions(&self) -> String {
        format!("{}:definitions", self.prefix)
    }

    /// Who changes definitions now: a string that expires.
    pub(super) fn changing(&self) -> String {
        format!("{}:changing", self.prefix)
    }

    /// What a shard knows of itself.
    pub(super) fn shard(&self, shard: u16) -> String {
        [self.head(shard), SHARD].concat()
    }

    /// The events of a shard: a stream.
    pub(super) fn events(&self, shard: u16) -> String {
        [self.head(shard), "events"].concat()
    }

    /// Alerts that fell due: a sorted set by the minutes at which their windows end.
    pub(super) fn alerts(&self, shard: u16) -> String {
        [self.head(shard), "alerts"].concat()
    }

    /// What the events of a day come to, of one customer or of all of a shard: a hash.
    pub(super) fn rollups(&self, shard: u16, day: i64, customer: Option<&CustomerId>) -> String {
        let mut digits = itoa::Buffer::new();
        let of_all = [self.head(shard), "rollups:", digits.format(day)];
        match customer {
            Some(customer) => {
                let [head, what, day] = of_all;
                [head, what, day, ":", customer.as_str()].concat()
            }
            None => of_all.concat(),
        }
    }

    /// A key of one customer.
    ///
    /// The first brace of a key begins its hash tag, and that is the shard's: whatever braces are in
    /// the customer's id, they come later.
    pub(super) fn of(&self, what: &'static str, customer: &CustomerId) -> String {
        self.within(shard_of(customer.as_str()), what, customer)
    }

    /// The same, where the customer's shard is known.
    pub(super) fn within(&self, shard: u16, what: &str, customer: &CustomerId) -> String {
        [self.head(shard), what, ":", customer.as_str()].concat()
    }

    /// Every customer's books, for a search.
    pub(super) fn all_books(&self) -> String {
        let mut pattern = String::new();
        for character in self.prefix.chars() {
            if matches!(character, '*' | '?' | '[' | ']' | '\\') {
                pattern.push('\\');
            }
            pattern.push(character);
        }
        pattern + ":{*}:" + BOOKS + ":*"
    }

    /// Whose books these are.
    pub(super) fn customer_of<'a>(&self, books: &'a str) -> Option<&'a str> {
        let rest = books.strip_prefix(&*self.prefix)?.strip_prefix(":{")?;
        let (_, rest) = rest.split_once("}:")?;
        rest.strip_prefix(BOOKS)?.strip_prefix(':')
    }
}

/// What a shard knows of itself: a hash, for ever.
pub(super) const SHARD: &str = "shard";
/// Counters, what is held on them, open holds, balances, and alerts that were told: a hash that lives as long as
/// its last window, or for ever once it has a balance or a counter without windows.
pub(super) const BOOKS: &str = "books";
/// When open holds expire: a sorted set.
pub(super) const DUE: &str = "due";
/// Ids that are settled or released: a sorted set by when they are forgotten.
pub(super) const IDS: &str = "ids";
/// Holds that expired and may still be settled: a sorted set by when they did.
pub(super) const EXPIRED: &str = "expired";
/// Changes of balances: a list.
pub(super) const TRANSACTIONS: &str = "transactions";
/// Payments that were credited: a hash, for ever.
pub(super) const REFERENCES: &str = "references";
/// A change of a balance that is done once, one key for each id.
pub(super) const ONCE: &str = "once";
/// How far each queue of settlements was taken: a hash.
pub(super) const MARKS: &str = "marks";

/// The shard of a customer: the same in every process and release.
pub(super) fn shard_of(customer: &str) -> u16 {
    let hash = Sha256::digest(customer.as_bytes());
    u16::from_be_bytes([hash[0], hash[1]]) % SHARDS
}

/// The name of a counter, made of what it counts.
pub(super) fn counter(key: &CounterKey) -> Box<str> {
    named(key.as_str())
}

pub(super) fn named(definition: &str) -> Box<str> {
    let hash = Sha256::digest(definition.as_bytes());
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// The minute at which a window ends, which names it among the windows of its counter; `None` when it
/// never does.
fn ends(window: &Window) -> Option<i64> {
    const MINUTE: i64 = 60_000_000_000;
    let nanos = window.end().as_nanos();
    let begun = i64::from(nanos.rem_euclid(MINUTE) != 0);
    (window.end() != Timestamp::MAX).then(|| nanos.div_euclid(MINUTE) + begun)
}

/// The same as text.
pub(super) fn end(window: &Window) -> String {
    ends(window).map_or_else(|| "*".to_owned(), |minute| minute.to_string())
}

/// What the field of a hold begins with, in front of its id.
pub(super) const HOLD: &str = "o";

/// Where a line counts: the minute at which the window ends, if it does, and the counter.
pub(super) type Place = (Option<i64>, u32);

pub(super) fn place(line: &Line) -> Place {
    (ends(&line.window), line.counter)
}

/// The fields of the books for one place: what is used there, and what is held.
pub(super) struct Fields {
    text: SmallVec<[u8; 48]>,
}

impl Fields {
    /// `None` for a counter that nobody knows.
    pub(super) fn of((ends, counter): Place, names: &[Box<str>]) -> Option<Self> {
        let name = names.get(counter as usize)?;
        let mut text = SmallVec::from_slice(b"u");
        match ends {
            Some(minute) => {
                text.extend_from_slice(itoa::Buffer::new().format(minute).as_bytes());
            }
            None => text.push(b'*'),
        }
        text.push(b'.');
        text.extend_from_slice(name.as_bytes());
        Some(Self { text })
    }

    pub(super) fn used(&mut self) -> &[u8] {
        self.text[0] = b'u';
        &self.text
    }

    pub(super) fn held(&mut self) -> &[u8] {
        self.text[0] = b'h';
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_braces_of_a_key_are_the_shards_whatever_the_customer_is_called() {
        let keys = Keys::new("limitry");
        for odd in ["ada", "{", "}", "{}", "a{b}c", "}{", "{17}", "ådä", "a\0b", " "] {
            let customer = CustomerId::new(odd).unwrap();
            let tags: Vec<String> = [BOOKS, DUE, IDS, EXPIRED, MARKS]
                .iter()
                .map(|what| {
                    let key = keys.of(what, &customer);
                    let tag = key.split_once('{').unwrap().1.split_once('}').unwrap().0;
                    tag.to_owned()
                })
                .collect();
            assert!(tags.iter().all(|tag| *tag == shard_of(odd).to_string()), "{odd:?}");
            let books = keys.of(BOOKS, &customer);
            assert_eq!(keys.customer_of(&books), Some(odd));
        }
    }

    #[test]
    fn customers_are_spread_over_all_shards() {
        let mut seen = [0_u32; SHARDS as usize];
        for number in 0..6_400 {
            seen[usize::from(shard_of(&format!("acct_{number}")))] += 1;
        }
        assert!(seen.iter().all(|count| (50..200).contains(count)), "{seen:?}");
    }
}
