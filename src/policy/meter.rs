use std::fmt;

use compact_str::CompactString;

use super::{Amount, Dimensions, Made, Values};

/// How events become a number.
///
/// ```
/// use tower_limitry::Meter;
///
/// let tokens = Meter::sum("tokens", "total_tokens").event_type("llm.completion");
/// let calls = Meter::count("calls");
/// let seats = Meter::latest("seats", "seats").event_type("seat.count");
/// # let _ = (tokens, calls, seats);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Meter {
    pub(crate) id: CompactString,
    pub(crate) name: Option<Box<str>>,
    pub(crate) aggregation: Aggregation,
    pub(crate) field: Option<CompactString>,
    pub(crate) event_type: Option<CompactString>,
    pub(crate) dimensions: Dimensions,
    pub(crate) unit: Option<Box<str>>,
    pub(crate) description: Option<Box<str>>,
    pub(crate) made: Made,
}

impl Meter {
    /// Adds up a value over events: tokens, seconds, cost.
    pub fn sum(id: impl AsRef<str>, field: impl AsRef<str>) -> Self {
        Self::new(id.as_ref(), Aggregation::Sum, Some(field.as_ref()))
    }

    /// Counts events.
    pub fn count(id: impl AsRef<str>) -> Self {
        Self::new(id.as_ref(), Aggregation::Count, None)
    }

    /// Counts events that carry a value of this name.
    pub fn count_of(id: impl AsRef<str>, field: impl AsRef<str>) -> Self {
        Self::new(id.as_ref(), Aggregation::Count, Some(field.as_ref()))
    }

    /// Keeps the highest value seen in the period: peak concurrency, largest upload.
    pub fn max(id: impl AsRef<str>, field: impl AsRef<str>) -> Self {
        Self::new(id.as_ref(), Aggregation::Max, Some(field.as_ref()))
    }

    /// Keeps the most recent value: seats, stored bytes. By the event's time; of two events of the
    /// same time the one that arrived later. Use it with an `all_time` limit: it never carries over
    /// from an earlier period.
    pub fn latest(id: impl AsRef<str>, field: impl AsRef<str>) -> Self {
        Self::new(id.as_ref(), Aggregation::Latest, Some(field.as_ref()))
    }

    /// Reads only events of this type (exactly equal).
    pub fn event_type(mut self, event_type: impl AsRef<str>) -> Self {
        self.event_type = Some(CompactString::new(event_type.as_ref()));
        self
    }

    /// Reads only events with this dimension; several must all match.
    pub fn dimension(mut self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.dimensions.set(key.as_ref(), value.as_ref());
        self
    }

    /// A name for people; the id unless set.
    pub fn named(mut self, name: impl Into<Box<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// What it is about, for people.
    pub fn described(mut self, description: impl Into<Box<str>>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// The unit that `RateLimit-Policy` shows as `qu`, such as `tokens`. Only `requests`,
    /// `content-bytes` and `concurrent-requests` are registered.
    pub fn unit(mut self, unit: impl Into<Box<str>>) -> Self {
        self.unit = Some(unit.into());
        self
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name for people.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }

    /// How values become a number.
    pub fn aggregation(&self) -> Aggregation {
        self.aggregation
    }

    /// The value it reads; `None` when it counts every event.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    fn new(id: &str, aggregation: Aggregation, field: Option<&str>) -> Self {
        Self {
            id: CompactString::new(id),
            name: None,
            aggregation,
            field: field.map(CompactString::new),
            event_type: None,
            dimensions: Dimensions::new(),
            unit: None,
            description: None,
            made: Made::default(),
        }
    }

    /// What an event with these values gives this meter, if anything.
    pub(crate) fn reads(&self, values: &Values) -> Option<Amount> {
        reading(self.aggregation, self.field.as_deref(), values)
    }

    /// Whether every event gives both meters the same.
    pub(crate) fn reads_like(&self, other: &Self) -> bool {
        let counts = |meter: &Self| meter.aggregation == Aggregation::Count;
        self.field == other.field && counts(self) == counts(other)
    }

    /// Whether events of this type with these dimensions are for this meter.
    pub(crate) fn accepts(&self, event_type: &str, dimensions: &Dimensions) -> bool {
        self.event_type.as_ref().is_none_or(|wanted| wanted == event_type)
            && dimensions.contain(self.dimensions.pairs())
    }
}

/// What an event with `values` gives a meter of this kind.
#[inline]
pub(crate) fn reading(
    aggregation: Aggregation,
    field: Option<&str>,
    values: &Values,
) -> Option<Amount> {
    match (aggregation, field) {
        (Aggregation::Count, None) => Some(Amount::ONE),
        (Aggregation::Count, Some(field)) => values.get(field).map(|_| Amount::ONE),
        (_, Some(field)) => values.get(field),
        (_, None) => None,
    }
}

/// How a meter turns values into a number. An empty window reads 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Aggregation {
    /// Adds the values.
    Sum,
    /// Counts the events.
    Count,
    /// Keeps the highest value.
    Max,
    /// Keeps the most recent value.
    Latest,
}

impl Aggregation {
    /// Every kind.
    #[cfg(any(feature = "client", feature = "server"))]
    pub(crate) const ALL: [Self; 4] = [Self::Sum, Self::Count, Self::Max, Self::Latest];

    /// The name in the API: `sum`, `count`, `max` or `latest`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Count => "count",
            Self::Max => "max",
            Self::Latest => "latest",
        }
    }

    /// What an event gives of which a meter of this kind reads `amount`. One that takes another back
    /// takes one from a count, and cannot take back what was the highest or the latest.
    pub(crate) fn given(self, amount: Amount, reverses: bool) -> Option<Amount> {
        match self {
            _ if !reverses => Some(amount),
            Self::Sum => Some(amount),
            Self::Count => Some(Amount::ZERO.saturating_sub(amount)),
            Self::Max | Self::Latest => None,
        }
    }

    /// Whether open holds count towards it: they do where amounts add up.
    pub(crate) const fn adds(self) -> bool {
        matches!(self, Self::Sum | Self::Count)
    }
}

impl fmt::Display for Aggregation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
