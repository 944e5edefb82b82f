//! Ollama's own API, in one document or one on each line. `prompt_eval_count` is absent when the
//! whole prompt was cached.

use super::reading::{Reading, sum_of_known};
use crate::usage::capture::Found;

pub(super) fn read(found: &Found) -> Option<Reading> {
    let (input, output) = (found.count("prompt_eval_count"), found.count("eval_count"));
    Some(Reading {
        input,
        output,
        total: sum_of_known([input, output]),
        is_final: !found.is_false("done"),
        ..Reading::default()
    })
}
