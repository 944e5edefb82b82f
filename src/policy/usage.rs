use std::fmt;
use std::mem;

use compact_str::{CompactString, ToCompactString};
use smallvec::SmallVec;

use super::{Amount, AmountError, ToAmount};

/// What a request used, or before it runs, what it is expected to use (an estimate): amounts by
/// name, and dimensions that tell uses apart.
///
/// ```
/// use tower_limitry::Usage;
///
/// let usage = Usage::of("input_tokens", 40).and("output_tokens", 12).dimension("model", "large-2");
/// assert_eq!(usage.value("output_tokens"), Some(12.into()));
/// assert_eq!(usage.value("seconds"), None);
/// ```
#[derive(Clone, Default, PartialEq)]
#[must_use]
pub struct Usage {
    values: Values,
    dimensions: Dimensions,
    problem: Option<Box<UsageError>>,
}

impl Usage {
    /// No values and no dimensions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Usage of one value.
    pub fn of(name: impl AsRef<str>, amount: impl ToAmount) -> Self {
        Self::new().and(name, amount)
    }

    /// Adds a value, or replaces the one of that name.
    ///
    /// An amount that is no number makes the whole usage count as missing. One that is too large is
    /// held at the largest amount, so that it still refuses what follows. [`problem`](Self::problem)
    /// tells of both.
    pub fn and(mut self, name: impl AsRef<str>, amount: impl ToAmount) -> Self {
        let name = name.as_ref();
        let amount = amount.to_amount().unwrap_or_else(|reason| {
            self.problem = Some(Box::new(UsageError { value: name.to_compact_string(), reason }));
            match reason {
                AmountError::Overflow { negative: false } => Amount::MAX,
                AmountError::Overflow { negative: true } => Amount::MIN,
                AmountError::NotANumber => Amount::ZERO,
            }
        });
        self.values.set(name, amount);
        self
    }

    /// Adds a dimension, or replaces the one of that key. Text beyond 256 bytes is cut and ends in
    /// an ellipsis, so it never equals a limit's filter.
    pub fn dimension(mut self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.dimensions.set(key.as_ref(), value.as_ref());
        self
    }

    /// Of values and dimensions that are sound.
    #[cfg(any(feature = "client", feature = "server"))]
    pub(crate) fn from_parts(values: Values, dimensions: Dimensions) -> Self {
        Self { values, dimensions, problem: None }
    }

    /// The amount of that name.
    pub fn value(&self, name: &str) -> Option<Amount> {
        self.values.get(name)
    }

    /// The amounts by name, in the order of their adding.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// The dimensions.
    pub fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    /// The value that could not be taken as it was given, if any.
    pub fn problem(&self) -> Option<&UsageError> {
        self.problem.as_deref()
    }

    /// Whether there is no value at all.
    pub fn is_empty(&self) -> bool {
        self.values.0.is_empty()
    }

    /// Adds what `later` says, which wins where both speak.
    pub(crate) fn merge(&mut self, later: Self) {
        for (name, amount) in later.values.0 {
            self.values.set(&name, amount);
        }
        for (key, value) in later.dimensions.0 {
            self.dimensions.set(&key, &value);
        }
        if later.problem.is_some() {
            self.problem = later.problem;
        }
    }

    /// Takes over the dimensions of `earlier` that it does not set itself.
    pub(crate) fn add_dimensions_of(&mut self, earlier: &Self) {
        if earlier.dimensions.is_empty() {
            return;
        }
        let own = mem::replace(&mut self.dimensions, earlier.dimensions.clone());
        for (key, value) in own.0 {
            self.dimensions.set(&key, &value);
        }
    }

    /// Whether `expected` has a value that this does not tell.
    pub(crate) fn lacks_a_value_of(&self, expected: &Self) -> bool {
        expected.values.iter().any(|(name, _)| self.value(name).is_none())
    }

    /// Takes over the values of `expected` that it does not tell itself.
    pub(crate) fn add_values_of(&mut self, expected: &Self) {
        for (name, amount) in expected.values.iter() {
            if self.value(name).is_none() {
                self.values.set(name, amount);
            }
        }
    }

    /// What both say; `later` wins where both speak.
    pub(crate) fn joined(earlier: Option<Self>, later: Option<Self>) -> Option<Self> {
        match (earlier, later) {
            (Some(mut earlier), Some(later)) => {
                earlier.merge(later);
                Some(earlier)
            }
            (earlier, later) => earlier.or(later),
        }
    }

    /// Whether it can be expected of a request: every amount is a number, and none is below zero.
    pub(crate) fn is_estimate(&self) -> bool {
        self.is_countable() && !self.values.iter().any(|(_, amount)| amount.is_negative())
    }

    /// The same amounts, those too large at the largest, as what is asked: no limit allows that much.
    pub(crate) fn into_asked(mut self) -> Self {
        self.problem = None;
        self
    }

    /// The same amounts below zero, those below zero above it.
    pub(crate) fn negated(&self) -> Self {
        let mut negated = self.clone();
        for (_, amount) in &mut negated.values.0 {
            *amount = Amount::ZERO.saturating_sub(*amount);
        }
        negated
    }

    /// For each value, the larger of this and the other.
    pub(crate) fn at_least(&mut self, other: &Self) {
        for (name, amount) in other.values.iter() {
            if self.values.get(name).is_none_or(|own| own < amount) {
                self.values.set(name, amount);
            }
        }
    }

    /// Whether the amounts can be counted: none of them was no number.
    pub(crate) fn is_countable(&self) -> bool {
        !matches!(self.problem.as_deref(), Some(UsageError { reason: AmountError::NotANumber, .. }))
    }

    pub(crate) fn dimensions_mut(&mut self) -> &mut Dimensions {
        &mut self.dimensions
    }
}

impl fmt::Debug for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut usage = f.debug_struct("Usage");
        usage.field("values", &self.values).field("dimensions", &self.dimensions);
        if let Some(problem) = &self.problem {
            usage.field("problem", problem);
        }
        usage.finish()
    }
}

/// A value of a [`Usage`] that is no amount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError {
    value: CompactString,
    reason: AmountError,
}

impl UsageError {
    /// The name of the value.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What is wrong with it.
    pub fn reason(&self) -> AmountError {
        self.reason
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "value {:?} is {}", self.value, self.reason)
    }
}

impl std::error::Error for UsageError {}

/// Amounts by name. Few, so kept in a row and found by looking.
#[derive(Clone, Default, PartialEq)]
pub struct Values(SmallVec<[(CompactString, Amount); 1]>);

impl Values {
    /// The amount of that name.
    #[inline]
    pub fn get(&self, name: &str) -> Option<Amount> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, amount)| *amount)
    }

    /// Names and amounts in the order of their adding.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, Amount)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn set(&mut self, name: &str, amount: Amount) {
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some((_, held)) => *held = amount,
            None => self.0.push((CompactString::new(name), amount)),
        }
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// What tells uses apart: keys such as `model` with text such as `large-2`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Dimensions(Vec<(CompactString, CompactString)>);

impl Dimensions {
    /// The longest text of a dimension, in bytes.
    pub const MAX_LENGTH: usize = 256;

    /// No dimensions.
    pub fn new() -> Self {
        Self::default()
    }

    /// The text under that key.
    #[inline]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Keys and texts in the order of their adding.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a dimension, or replaces the one of that key; cut as [`Usage::dimension`] says.
    pub fn set(&mut self, key: &str, value: &str) {
        let (key, value) = (shortened(key), shortened(value));
        match self.0.iter_mut().find(|(name, _)| *name == key) {
            Some((_, held)) => *held = value,
            None => self.0.push((key, value)),
        }
    }

    /// Whether every pair of `filter` is here with the same text.
    #[inline]
    pub(crate) fn contain(&self, filter: &[(CompactString, CompactString)]) -> bool {
        filter.iter().all(|(key, value)| self.get(key) == Some(value))
    }

    pub(crate) fn pairs(&self) -> &[(CompactString, CompactString)] {
        &self.0
    }

    pub(crate) fn sort(&mut self) {
        self.0.sort();
    }
}

impl fmt::Debug for Dimensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

fn shortened(text: &str) -> CompactString {
    const ELLIPSIS: char = '…';
    if text.len() <= Dimensions::MAX_LENGTH {
        return CompactString::new(text);
    }
    let mut end = Dimensions::MAX_LENGTH - ELLIPSIS.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut cut = CompactString::new(&text[..end]);
    cut.push(ELLIPSIS);
    cut
}
