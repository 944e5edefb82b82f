use compact_str::CompactString;

use super::{Amount, AmountError, CustomerId, Dimensions, Made, Meter, Period, ToAmount};

/// A cap on a meter over a period.
///
/// A limit holds for each customer separately. One [for a customer](Self::for_customer) replaces,
/// for that customer, the limit with the same meter, period and dimensions.
///
/// ```
/// use tower_limitry::Limit;
///
/// let daily = Limit::per_day("daily-tokens", "tokens", 100_000).named("Daily token limit");
/// let large = Limit::per_month("large-model", "tokens", 2_000_000).dimension("model", "large-2");
/// let deal = Limit::per_day("acme-tokens", "tokens", 900_000).for_customer("acct_acme");
/// # let _ = (daily, large, deal);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Limit {
    pub(crate) id: CompactString,
    pub(crate) name: Option<Box<str>>,
    pub(crate) meter: CompactString,
    pub(crate) period: Period,
    pub(crate) cap: Result<Amount, AmountError>,
    pub(crate) customer: Option<Box<str>>,
    pub(crate) dimensions: Dimensions,
    pub(crate) alerts: Vec<u8>,
    pub(crate) private: bool,
    pub(crate) made: Made,
}

macro_rules! per_period {
    ($($(#[$doc:meta])* $name:ident => $period:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(id: impl AsRef<str>, meter: impl AsRef<str>, cap: impl ToAmount) -> Self {
            Self::new(id, meter, Period::$period, cap)
        }
    )*};
}

impl Limit {
    /// A limit over any period.
    ///
    /// The id is a slug of printable ASCII that headers carry; the cap must be above zero. Both are
    /// checked when the engine is built.
    pub fn new(
        id: impl AsRef<str>,
        meter: impl AsRef<str>,
        period: Period,
        cap: impl ToAmount,
    ) -> Self {
        Self {
            id: CompactString::new(id.as_ref()),
            name: None,
            meter: CompactString::new(meter.as_ref()),
            period,
            cap: cap.to_amount(),
            customer: None,
            dimensions: Dimensions::new(),
            alerts: Vec::new(),
            private: false,
            made: Made::default(),
        }
    }

    per_period! {
        /// A limit for each full minute (UTC).
        per_minute => Minute;
        /// A limit for each full hour (UTC).
        per_hour => Hour;
        /// A limit for each day of the customer's zone.
        per_day => Day;
        /// A limit for each week of the customer's zone, from Monday.
        per_week => Week;
        /// A limit for each month of the customer's zone, from their billing day.
        per_month => Month;
        /// A limit for each year of the customer's zone, from their billing date.
        per_year => Annual;
        /// A limit for ever, for gauges such as seats and for lifetime caps.
        all_time => AllTime;
    }

    /// A name for people; the id unless set.
    pub fn named(mut self, name: impl Into<Box<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Counts only events, and holds only for checks, with this dimension; several must all match.
    ///
    /// A check that does not name the dimension is not held by this limit, so pass in the check the
    /// dimensions that will be recorded.
    pub fn dimension(mut self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.dimensions.set(key.as_ref(), value.as_ref());
        self
    }

    /// Holds for this customer alone, in place of the limit for everybody with the same meter,
    /// period and dimensions.
    pub fn for_customer(mut self, customer: impl AsRef<str>) -> Self {
        self.customer = Some(customer.as_ref().into());
        self
    }

    /// Tells when usage reaches these percentages of the cap (1 to 100), once per customer and
    /// window each.
    pub fn alert_at(mut self, percentages: impl IntoIterator<Item = u8>) -> Self {
        self.alerts = percentages.into_iter().collect();
        self.alerts.sort_unstable();
        self.alerts.dedup();
        self
    }

    /// Never shown to customers: not in headers, not in denial bodies. It still refuses.
    pub fn private(mut self) -> Self {
        self.private = true;
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

    /// The id of the meter it caps.
    pub fn meter(&self) -> &str {
        &self.meter
    }

    /// The period.
    pub fn period(&self) -> Period {
        self.period
    }

    /// The cap, if it is an amount at all.
    pub fn cap(&self) -> Option<Amount> {
        self.cap.ok()
    }

    /// The customer it is for; `None` for everybody.
    pub fn customer(&self) -> Option<&str> {
        self.customer.as_deref()
    }

    /// The dimensions it is narrowed to.
    pub fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    /// Whether it is hidden from customers.
    pub fn is_private(&self) -> bool {
        self.private
    }
}

/// What makes two limits read one counter: the meter's definition, the limit's dimensions and the
/// period, not the cap. Raising a limit keeps its usage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CounterKey(Box<str>);

impl CounterKey {
    pub(crate) fn of(meter: &Meter, limit: &Limit) -> Self {
        let filters = |dimensions: &Dimensions| {
            let mut dimensions = dimensions.clone();
            dimensions.sort();
            let pairs = dimensions.iter().map(|(key, text)| [quoted(key), quoted(text)].join(":"));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
        };
        let text = |text: &Option<CompactString>| text.as_deref().map(quoted);
        let text = |of: &Option<CompactString>| text(of).unwrap_or_else(|| "null".to_owned());
        Self(
            format!(
                "{{\"aggregation\":\"{}\",\"field\":{},\"event_type\":{},\"dimensions\":{},\
                 \"period\":\"{}\",\"narrowed\":{}}}",
                meter.aggregation,
                text(&meter.field),
                text(&meter.event_type),
                filters(&meter.dimensions),
                limit.period.as_str(),
                filters(&limit.dimensions),
            )
            .into_boxed_str(),
        )
    }

    pub(crate) fn from_text(text: Box<str>) -> Self {
        Self(text)
    }

    /// The key as JSON text: the same in every process and release, so stores can name counters by it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text as a JSON string (RFC 8259, section 7).
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ..' ' => quoted.push_str(&format!("\\u{:04x}", character as u32)),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// The limit that a customer's own limit stands in for: same meter, period and dimensions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Replaces(CompactString, Period, Box<str>);

impl Replaces {
    pub(crate) fn of(limit: &Limit) -> Self {
        let mut dimensions = limit.dimensions.clone();
        dimensions.sort();
        Self(limit.meter.clone(), limit.period, format!("{dimensions:?}").into_boxed_str())
    }
}

/// An own limit's customer, checked.
pub(crate) fn owner(limit: &Limit) -> Result<Option<CustomerId>, super::IdError> {
    limit.customer.as_deref().map(CustomerId::new).transpose()
}
