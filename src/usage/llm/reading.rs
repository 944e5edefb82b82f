//! What a body says was used, in one convention for all dialects.

use compact_str::CompactString;

use crate::policy::{Amount, Usage};

/// Figures of one answer, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reading {
    /// With those from and into caches.
    pub(super) input: Option<Amount>,
    /// With reasoning.
    pub(super) output: Option<Amount>,
    pub(super) total: Option<Amount>,
    pub(super) cached: Option<Amount>,
    pub(super) cache_write: Option<Amount>,
    pub(super) reasoning: Option<Amount>,
    /// What the provider charges, as decimal text, in millionths of its own unit.
    pub(super) cost: Option<CompactString>,
    /// Nothing more is to come.
    pub(super) is_final: bool,
}

impl Reading {
    /// Whether there is any figure of tokens.
    pub(super) fn has_tokens(&self) -> bool {
        self.input.is_some() || self.output.is_some() || self.total.is_some()
    }

    pub(super) fn to_usage(&self, model: Option<&CompactString>) -> Usage {
        let values = [
            ("input_tokens", self.input),
            ("output_tokens", self.output),
            ("total_tokens", self.total),
            ("cached_input_tokens", self.cached),
            ("cache_write_tokens", self.cache_write),
            ("reasoning_tokens", self.reasoning),
            ("cost", self.cost.as_ref().and_then(|cost| cost.parse().ok())),
            ("cost_micros", self.cost.as_ref().and_then(|cost| times_a_million(cost).parse().ok())),
        ];
        let mut usage = Usage::new();
        for (name, amount) in values {
            if let Some(amount) = amount {
                usage = usage.and(name, amount);
            }
        }
        match model {
            Some(model) => usage.dimension("model", model),
            None => usage,
        }
    }
}

/// The sum of two figures, if both are known.
pub(super) fn sum(one: Option<Amount>, other: Option<Amount>) -> Option<Amount> {
    one?.checked_add(other?)
}

/// The sum of those figures that are known, if any is.
pub(super) fn sum_of_known(figures: impl IntoIterator<Item = Option<Amount>>) -> Option<Amount> {
    figures.into_iter().flatten().try_fold(None, |sum: Option<Amount>, figure| {
        sum.unwrap_or(Amount::ZERO).checked_add(figure).map(Some)
    })?
}

/// The difference, if both are known and it is not below zero.
pub(super) fn difference(one: Option<Amount>, other: Option<Amount>) -> Option<Amount> {
    one?.checked_sub(other?).filter(|difference| !difference.is_negative())
}

/// Moves the decimal point of JSON number text.
pub(super) fn times_a_million(decimal: &str) -> CompactString {
    shifted(decimal, 6)
}

pub(super) fn shifted(decimal: &str, places: i32) -> CompactString {
    let (mantissa, exponent) = decimal.split_once(['e', 'E']).unwrap_or((decimal, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(i32::MIN);
    compact_str::format_compact!("{mantissa}e{}", exponent.saturating_add(places))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cost_is_not_lost() {
        let reading = Reading { cost: Some("6e-8".into()), ..Reading::default() };
        let usage = reading.to_usage(None);
        assert_eq!(usage.value("cost"), Some(Amount::ZERO));
        assert_eq!(usage.value("cost_micros"), Some(Amount::from_millionths(60_000)));
    }
}
