//! Which events and lines of a stream have to be parsed.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::usage::capture::Found;

/// What an event or line has in it, once its stream has shown its dialect, if it tells figures or an
/// error. One without figures may still have a member `usage` that is null, so that would say less.
#[derive(Clone, Copy, Debug)]
pub(super) enum Needles {
    /// Of a dialect that is not clear.
    All,
    /// Of OpenAI, Anthropic and their like.
    Tokens,
    /// Of Gemini.
    TokenCount,
}

static TOKENS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("okens"));
static TOKEN_COUNT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("TokenCount\""));
static COUNT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("_count\""));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"error\""));

impl Needles {
    /// What to look for in a stream that begins like this, if it shows its dialect.
    pub(super) fn of(found: &Found) -> Option<Self> {
        let has = |names: &[&str]| names.iter().any(|name| found.has(name));
        if has(&["choices", "object", "type"]) {
            Some(Self::Tokens)
        } else {
            has(&["candidates"]).then_some(Self::TokenCount)
        }
    }

    /// Whether an event or line can tell figures or an error.
    #[inline]
    pub(super) fn are_in(self, block: &[u8]) -> bool {
        match self {
            Self::All => has(&[&TOKENS, &TOKEN_COUNT, &COUNT], block),
            Self::Tokens => hints(block) && has(&[&TOKENS], block),
            Self::TokenCount => has(&[&TOKEN_COUNT], block),
        }
    }
}

/// Whether one of them is in it, or an error that is not null, as some write it each time.
#[inline(never)]
fn has(figures: &[&Finder<'_>], block: &[u8]) -> bool {
    let is_null = |at: usize| block[at + ERROR.needle().len()..].starts_with(b":null");
    figures.iter().any(|needle| needle.find(block).is_some())
        || ERROR.find_iter(block).any(|at| !is_null(at))
}

/// How many places are looked at together.
const LANES: usize = 32;

/// Whether `okens` or `"error"` can be in it: their `ke` or `"e` is. Where events are short, one pass
/// for both costs less than a search for either.
#[inline]
fn hints(block: &[u8]) -> bool {
    let Some(last) = block.len().checked_sub(LANES + 1) else { return true };
    let mut at = 0;
    while at < last {
        if hints_at(block, at) {
            return true;
        }
        at += LANES;
    }
    hints_at(block, last)
}

/// Written without branches, for the compiler to make it a few vector instructions.
#[inline]
fn hints_at(block: &[u8], at: usize) -> bool {
    let lanes = |from: usize| block[from..].first_chunk::<LANES>();
    let (Some(before), Some(after)) = (lanes(at), lanes(at + 1)) else { return true };
    let mut hint = 0;
    for lane in 0..LANES {
        let is_first = u8::from(before[lane] == b'k') | u8::from(before[lane] == b'"');
        hint |= is_first & u8::from(after[lane] == b'e');
    }
    hint != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_needle_is_found_wherever_it_is() {
        for length in 0..200 {
            let hay = vec![b'x'; length];
            assert!(!Needles::Tokens.are_in(&hay));
            for needle in [&b"okens"[..], b"\"error\""] {
                for at in 0..=length.saturating_sub(needle.len()) {
                    let mut block = hay.clone();
                    block.splice(at..(at + needle.len()).min(length), needle.iter().copied());
                    assert!(Needles::Tokens.are_in(&block), "{at} of {length}");
                    assert!(Needles::All.are_in(&block), "{at} of {length}");
                }
            }
        }
    }
}
