//! Cohere's chat and embeddings, version 1 (`meta`) and 2 (`usage`).
//!
//! `tokens` is what was processed, `billed_units` what of it is billed as the customer's; where both
//! are told, the tokens count. Search units and the like are no tokens.

use super::reading::{Reading, sum_of_known};
use crate::usage::capture::Found;

/// The members of `usage` or `meta` that are read.
pub(super) const USAGE: &[&str] = &[
    "tokens/input_tokens",
    "tokens/output_tokens",
    "tokens/reasoning_tokens",
    "billed_units/input_tokens",
    "billed_units/output_tokens",
    "cached_tokens",
];

pub(super) fn read(found: &Found) -> Option<Reading> {
    let first = |names: &[&str]| names.iter().find_map(|name| found.count(name));
    let input = first(&[
        "usage/tokens/input_tokens",
        "meta/tokens/input_tokens",
        "usage/billed_units/input_tokens",
        "meta/billed_units/input_tokens",
    ]);
    let output = first(&[
        "usage/tokens/output_tokens",
        "meta/tokens/output_tokens",
        "usage/billed_units/output_tokens",
        "meta/billed_units/output_tokens",
    ]);
    input.or(output)?;
    Some(Reading {
        input,
        output,
        total: sum_of_known([input, output]),
        cached: first(&["usage/cached_tokens", "meta/cached_tokens"]),
        reasoning: first(&["usage/tokens/reasoning_tokens", "meta/tokens/reasoning_tokens"]),
        is_final: true,
        ..Reading::default()
    })
}
