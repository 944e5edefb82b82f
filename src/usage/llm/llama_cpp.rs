//! The native completions of llama.cpp's server: running figures on every event.

use super::reading::{Reading, sum_of_known};
use crate::usage::capture::Found;

pub(super) fn read(found: &Found) -> Option<Reading> {
    let (input, output) = (found.count("tokens_evaluated"), found.count("tokens_predicted"));
    Some(Reading {
        input,
        output,
        total: sum_of_known([input, output]),
        cached: found.count("timings/cache_n"),
        is_final: !found.is_false("stop"),
        ..Reading::default()
    })
}
