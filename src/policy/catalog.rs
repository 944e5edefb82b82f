//! Meters and limits, compiled ahead of the requests that ask for them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use compact_str::CompactString;
use smallvec::SmallVec;

use super::limit::{CounterKey, Replaces};
use super::{
    Aggregation, Amount, ConfigError, Crossing, CustomerId, Dimensions, Limit, Meter, Period,
    Timestamp, Usage, Values, Window,
};

/// Numbers counters, so that lines carry four bytes instead of a definition. A number is never given
/// to another counter.
#[derive(Clone, Debug, Default)]
pub(crate) struct CounterNumbers {
    numbers: HashMap<CounterKey, u32>,
}

impl CounterNumbers {
    /// Numbers that were given before, the first of them 0.
    pub(crate) fn of(definitions: Vec<Box<str>>) -> Self {
        let keys = definitions.into_iter().map(CounterKey::from_text);
        Self { numbers: keys.zip(0..).collect() }
    }

    /// The counters from that number on, in order.
    pub(crate) fn from(&self, first: u32) -> Vec<(u32, &CounterKey)> {
        let numbers = self.numbers.iter().map(|(key, number)| (*number, key));
        let mut numbers: Vec<_> = numbers.filter(|(number, _)| *number >= first).collect();
        numbers.sort_unstable_by_key(|(number, _)| *number);
        numbers
    }

    pub(crate) fn number(&mut self, key: CounterKey) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry(key).or_insert(next)
    }
}

/// The meters and the limits for everybody, as plans by event type.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    plans: Plans,
    meters: HashMap<CompactString, Arc<Meter>>,
    /// The values that any meter reads, or read before it was removed.
    values: Box<[CompactString]>,
}

/// Plans for every event type.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    /// Sorted by event type.
    by_type: Box<[(CompactString, Arc<Plan>)]>,
    other: Arc<Plan>,
    any: Arc<Plan>,
}

/// The lines that one kind of check or event has to look at.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Which of the plans it was compiled with.
    pub(crate) number: usize,
    /// What lines read from usage, each once, as meters of which no two read alike.
    pub(crate) reads: Box<[Arc<Meter>]>,
    /// Sorted so that limits on one counter are neighbours.
    pub(crate) lines: Box<[PlanLine]>,
    /// Whether there are lines that not every check looks at and not every event moves.
    pub(crate) narrows: bool,
}

/// What usage gives to the lines of a plan, in the order of what they read.
pub(crate) type Amounts = SmallVec<[Option<Amount>; 2]>;

/// One limit on one counter; or a counter that no limit reads any more, which is still counted so
/// that a limit which returns is exact.
#[derive(Debug)]
pub(crate) struct PlanLine {
    pub(crate) counter: u32,
    pub(crate) aggregation: Aggregation,
    /// Which of what the plan reads.
    pub(crate) amount: u16,
    pub(crate) period: Period,
    pub(crate) cap: Amount,
    pub(crate) filters: Box<[(CompactString, CompactString)]>,
    pub(crate) alerts: Arc<[(u8, Amount)]>,
    /// The counter's history is whole only after that time.
    pub(crate) since: Option<Timestamp>,
    pub(crate) limit: Option<Arc<Limit>>,
    /// What header fields say of the limit; `None` when it is private.
    pub(crate) shown: Option<Shown>,
    pub(crate) meter: Arc<Meter>,
}

/// The parts of a limit's header fields that are the same in every answer.
#[derive(Debug)]
pub(crate) struct Shown {
    /// `, "id";r=`, to be put after another member.
    pub(crate) state: Box<str>,
    /// `, "id";q=1000;w=`, or for a limit without windows `, "id";q=1000`.
    pub(crate) policy: Box<str>,
    /// `;qu="tokens"`, or nothing.
    pub(crate) unit: Box<[u8]>,
}

impl Shown {
    pub(crate) fn new(meter: &Meter, limit: &Limit, cap: Amount) -> Option<Self> {
        if limit.is_private() {
            return None;
        }
        // A slug needs no escape.
        let id = limit.id();
        let window = if limit.period == Period::AllTime { "" } else { ";w=" };
        let mut unit = Vec::new();
        if let Some(text) = meter.unit.as_deref().filter(|text| is_quotable(text)) {
            unit.extend_from_slice(b";qu=");
            write_quoted(&mut unit, text);
        }
        Some(Self {
            state: format!(", \"{id}\";r=").into(),
            policy: format!(", \"{id}\";q={}{window}", cap.floor()).into(),
            unit: unit.into(),
        })
    }
}

/// Whether a string of a structured field can hold the text (RFC 9651, section 3.3.3).
pub(crate) fn is_quotable(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Writes the text as a string of a structured field (RFC 9651, section 4.1.6).
pub(crate) fn write_quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

impl PlanLine {
    pub(crate) fn id(&self) -> &str {
        self.limit.as_ref().map_or("", |limit| limit.id())
    }

    /// Usage of the limit reached a percentage.
    pub(crate) fn crossing(
        &self,
        customer: CustomerId,
        percent: u8,
        used: Amount,
        window: Window,
    ) -> Crossing {
        Crossing {
            customer,
            limit: self.id().into(),
            limit_name: self.limit.as_ref().map_or("", |limit| limit.name()).into(),
            percent,
            cap: self.cap,
            used,
            period: self.period,
            window,
        }
    }
}

/// A line before it is placed in plans.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) counter: u32,
    pub(crate) meter: Arc<Meter>,
    pub(crate) narrowed: Dimensions,
    pub(crate) period: Period,
    pub(crate) cap: Amount,
    pub(crate) limit: Option<Arc<Limit>>,
}

impl Rule {
    pub(crate) fn new(meter: &Arc<Meter>, limit: Limit, numbers: &mut CounterNumbers) -> Self {
        Self {
            counter: numbers.number(CounterKey::of(meter, &limit)),
            meter: Arc::clone(meter),
            narrowed: limit.dimensions.clone(),
            period: limit.period,
            cap: limit.cap.unwrap_or(Amount::MAX),
            limit: Some(Arc::new(limit)),
        }
    }

    /// The rule without its limit: the counter goes on.
    pub(crate) fn dormant(&self) -> Self {
        Self { limit: None, ..self.clone() }
    }

    /// Whether it reads just what a query with these dimensions reads.
    pub(crate) fn is_narrowed_to(&self, dimensions: &Dimensions) -> bool {
        let (mut own, mut wanted) = (self.narrowed.clone(), dimensions.clone());
        own.sort();
        wanted.sort();
        own == wanted
    }

    pub(crate) fn replaces(&self) -> Option<Replaces> {
        self.limit.as_deref().map(Replaces::of)
    }

    /// What this rule counts of an event, if it reads it.
    pub(crate) fn counts(
        &self,
        event_type: &str,
        values: &Values,
        dimensions: &Dimensions,
    ) -> Option<Amount> {
        if !self.meter.accepts(event_type, dimensions) || !dimensions.contain(self.narrowed.pairs())
        {
            return None;
        }
        self.meter.reads(values)
    }
}

impl Plans {
    pub(crate) fn compile(rules: &[Rule], since: &HashMap<u32, Timestamp>) -> Self {
        let types: BTreeSet<&CompactString> =
            rules.iter().filter_map(|rule| rule.meter.event_type.as_ref()).collect();
        let mut compiled = 0;
        let mut compile = |wanted: &dyn Fn(&Rule) -> bool| {
            let number = compiled;
            compiled += 1;
            Arc::new(Plan::compile(number, rules.iter().filter(|rule| wanted(rule)), since))
        };
        let any = compile(&|_| true);
        let other = compile(&|rule| rule.meter.event_type.is_none());
        let by_type = types.into_iter().map(|event_type| {
            let reads = |rule: &Rule| {
                rule.meter.event_type.as_ref().is_none_or(|wanted| wanted == event_type)
            };
            (event_type.clone(), compile(&reads))
        });
        Self { by_type: by_type.collect(), other, any }
    }

    /// The plan for events of this type, or for everything when no type is given.
    #[inline]
    pub(crate) fn plan(&self, event_type: Option<&str>) -> &Arc<Plan> {
        match event_type {
            Some(event_type) => {
                let found =
                    self.by_type.binary_search_by(|(known, _)| known.as_str().cmp(event_type));
                found.map_or(&self.other, |at| &self.by_type[at].1)
            }
            None => &self.any,
        }
    }
}

impl Plan {
    /// What that usage gives to the lines.
    #[inline]
    pub(crate) fn amounts(&self, usage: &Usage) -> Amounts {
        let mut amounts = Amounts::new();
        for meter in &self.reads {
            amounts.push(meter.reads(usage.values()));
        }
        amounts
    }

    /// The lines with a limit.
    pub(crate) fn limited(&self) -> impl Iterator<Item = u16> {
        self.which(|line| line.limit.is_some())
    }

    /// The lines that a check of these dimensions looks at.
    pub(crate) fn looked_at(&self, dimensions: &Dimensions) -> impl Iterator<Item = u16> {
        self.which(|line| line.limit.is_some() && dimensions.contain(&line.filters))
    }

    /// The lines that an event of these dimensions may move.
    pub(crate) fn moved_by(&self, dimensions: &Dimensions) -> impl Iterator<Item = u16> {
        self.which(|line| dimensions.contain(&line.filters))
    }

    fn which(&self, is: impl Fn(&PlanLine) -> bool) -> impl Iterator<Item = u16> {
        (0..).zip(&self.lines).filter(move |(_, line)| is(line)).map(|(index, _)| index)
    }

    fn compile<'a>(
        number: usize,
        rules: impl Iterator<Item = &'a Rule>,
        since: &HashMap<u32, Timestamp>,
    ) -> Self {
        let mut rules: Vec<&Rule> = rules.collect();
        // Stable: limits of one counter keep the order of their definition.
        rules.sort_by_key(|rule| (rule.counter, rule.limit.is_none()));
        let mut reads: Vec<Arc<Meter>> = Vec::new();
        let mut lines: Vec<PlanLine> = Vec::with_capacity(rules.len());
        for rule in rules {
            let shares = lines.last().is_some_and(|line| line.counter == rule.counter);
            if shares && rule.limit.is_none() {
                continue;
            }
            let known = reads.iter().position(|known| known.reads_like(&rule.meter));
            let amount = known.unwrap_or_else(|| {
                reads.push(Arc::clone(&rule.meter));
                reads.len() - 1
            });
            lines.push(PlanLine {
                counter: rule.counter,
                aggregation: rule.meter.aggregation,
                amount: amount as u16,
                period: rule.period,
                cap: rule.cap,
                filters: rule
                    .meter
                    .dimensions
                    .pairs()
                    .iter()
                    .chain(rule.narrowed.pairs())
                    .cloned()
                    .collect(),
                alerts: rule
                    .limit
                    .iter()
                    .flat_map(|limit| &limit.alerts)
                    .map(|percent| (*percent, rule.cap.percent(*percent)))
                    .collect(),
                since: since.get(&rule.counter).copied(),
                limit: rule.limit.clone(),
                shown: rule
                    .limit
                    .as_deref()
                    .and_then(|limit| Shown::new(&rule.meter, limit, rule.cap)),
                meter: Arc::clone(&rule.meter),
            });
        }
        let narrows = lines.iter().any(|line| line.limit.is_none() || !line.filters.is_empty());
        Self { number, reads: reads.into(), lines: lines.into(), narrows }
    }
}

impl Catalog {
    pub(crate) fn new(
        meters: HashMap<CompactString, Arc<Meter>>,
        rules: &[Rule],
        since: &HashMap<u32, Timestamp>,
        values: &BTreeSet<CompactString>,
    ) -> Self {
        let values = values.iter().cloned().collect();
        Self { plans: Plans::compile(rules, since), meters, values }
    }

    /// Whether an estimate of these values is of any use to a limit: some meter reads one of them.
    pub(crate) fn reads_any(&self, values: &Values) -> bool {
        self.meters.is_empty() || self.values.iter().any(|value| values.get(value).is_some())
    }

    /// The values that meters read, for people.
    pub(crate) fn values(&self) -> String {
        self.values.join(", ")
    }

    pub(crate) fn plans(&self) -> &Plans {
        &self.plans
    }

    pub(crate) fn meter(&self, id: &str) -> Option<&Arc<Meter>> {
        self.meters.get(id)
    }
}

/// Checks a meter by itself.
pub(crate) fn validate_meter(meter: &Meter) -> Result<(), ConfigError> {
    ConfigError::check_slug("meter", &meter.id)?;
    if let Some("") = meter.field.as_deref() {
        return Err(ConfigError::new(
            format!("meter {:?}: field", meter.id),
            "is empty; name the value of the usage that it reads",
        ));
    }
    if meter.event_type.as_ref().is_some_and(|named| !(1..=256).contains(&named.len())) {
        return Err(ConfigError::new(
            format!("meter {:?}: event_type", meter.id),
            "is empty or too long; give 1 to 256 bytes",
        ));
    }
    ConfigError::check_dimensions("meter", &meter.id, &meter.dimensions)
}

/// The cap of a limit, if it is an amount at all.
pub(crate) fn cap_of(limit: &Limit) -> Result<Amount, ConfigError> {
    let field = || format!("limit {:?}: cap", limit.id);
    limit.cap.map_err(|reason| ConfigError::new(field(), format!("is {reason}")))
}

/// The meter that a limit reads.
pub(crate) fn meter_of<'a>(
    limit: &Limit,
    meters: &'a HashMap<CompactString, Arc<Meter>>,
) -> Result<&'a Arc<Meter>, ConfigError> {
    meters.get(&limit.meter).ok_or_else(|| {
        ConfigError::new(
            format!("limit {:?}: meter", limit.id),
            format!("{:?} is not defined; define the meter too, or correct its id", limit.meter),
        )
    })
}

/// Checks a limit by itself. Answers its cap.
pub(crate) fn validate_limit(limit: &Limit) -> Result<Amount, ConfigError> {
    ConfigError::check_slug("limit", &limit.id)?;
    let field = |name: &str| format!("limit {:?}: {name}", limit.id);
    let cap = cap_of(limit)?;
    if !cap.is_positive() {
        return Err(ConfigError::new(
            field("cap"),
            format!("is {cap}; give an amount above 0 (to refuse everything, use the router)"),
        ));
    }
    if let Some(percent) = limit.alerts.iter().find(|percent| !(1..=100).contains(*percent)) {
        return Err(ConfigError::new(
            field("alert_at"),
            format!("has {percent}; give percentages from 1 to 100"),
        ));
    }
    super::limit::owner(limit)
        .map_err(|reason| ConfigError::new(field("customer"), reason.to_string()))?;
    ConfigError::check_dimensions("limit", &limit.id, &limit.dimensions)?;
    Ok(cap)
}
