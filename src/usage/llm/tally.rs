//! Follows a body from document to document.

use std::sync::LazyLock;

use compact_str::CompactString;
use memchr::memmem::Finder;

use super::Dialect;
use super::reading::{Reading, sum_of_known};
use crate::policy::{Amount, Usage};
use crate::usage::Watch;
use crate::usage::capture::Found;
use crate::usage::framing::Framing;
use crate::usage::scan::{Documents, Scan};

/// How many events or lines are parsed whatever is in them, for the model's name.
const EARLY: u32 = 3;

/// How much of an event tells what it is.
const HEADING: usize = 256;

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage"));

/// What a body has said so far.
#[derive(Debug)]
pub(super) struct Tally {
    dialect: &'static Dialect,
    usage: &'static Finder<'static>,
    /// Only what `usage` finds can carry figures: the dialect is known to be like that.
    only_usage: bool,
    /// Events or lines so far, up to the last early one.
    early: u32,
    /// The model may be told here. So it may in every document of a body that is just JSON.
    is_early: bool,
    model: Option<CompactString>,
    reading: Option<Reading>,
    /// What the start of an Anthropic message said, for its later events to override.
    message: Option<Found>,
    /// Events and lines that carry a piece of the answer.
    deltas: u64,
    failed: bool,
}

impl Tally {
    pub(super) fn new(dialect: &'static Dialect) -> Self {
        Self {
            dialect,
            usage: &USAGE,
            only_usage: dialect.needles.is_empty(),
            early: 0,
            is_early: true,
            model: None,
            reading: None,
            message: None,
            deltas: 0,
            failed: false,
        }
    }

    /// Whether there can be figures in an event or line.
    #[inline]
    fn may_carry(&self, block: &[u8]) -> bool {
        self.has_usage(block)
            || (!self.only_usage
                && self
                    .dialect
                    .needles
                    .iter()
                    .any(|needle| memchr::memmem::find(block, needle.as_bytes()).is_some()))
    }

    /// Whether there is a member that begins with `usage` and is not null.
    #[inline]
    fn has_usage(&self, block: &[u8]) -> bool {
        let mut rest = block;
        while let Some(at) = self.usage.find(rest) {
            rest = &rest[at + self.usage.needle().len()..];
            if !is_null(rest) {
                return true;
            }
        }
        false
    }

    fn usage(&self) -> Option<Usage> {
        self.reading.as_ref().map(|reading| reading.to_usage(self.model.as_ref()))
    }

    /// What was used by now, when the rest does not come: the figures, or as many tokens as there were
    /// pieces.
    fn so_far(&self) -> (Option<Usage>, bool) {
        let mut reading = self.reading.clone().unwrap_or_default();
        if reading.is_final {
            return (self.usage(), true);
        }
        let sent = Amount::from_millionths(
            i64::try_from(self.deltas).unwrap_or(i64::MAX).saturating_mul(1_000_000),
        );
        if sent > reading.output.unwrap_or_default() {
            reading.output = Some(sent);
            reading.total = sum_of_known([reading.input, reading.output]);
        }
        let usage = reading.has_tokens().then(|| reading.to_usage(self.model.as_ref()));
        (usage, false)
    }
}

impl Documents for Tally {
    #[inline]
    fn block(&mut self, start: &[u8], framing: Framing, is_whole: bool) -> bool {
        self.is_early = self.early < EARLY;
        match heading(start, framing) {
            Heading::Piece => self.deltas += 1,
            Heading::Error => self.failed = true,
            Heading::Other => {}
        }
        if self.is_early {
            self.early += 1;
            return true;
        }
        is_whole && self.may_carry(start)
    }

    fn document(&mut self, found: &Found) {
        let is_delta = found.is("type", "message_delta");
        let joined = is_delta.then(|| self.message.clone()).flatten().map(|mut joined| {
            joined.update(found);
            joined
        });
        let reading = (self.dialect.read)(joined.as_ref().unwrap_or(found));
        let reading = reading.filter(Reading::has_tokens);
        if reading.is_none() && !self.is_early {
            return;
        }
        if found.has("error") {
            self.failed = true;
        }
        if let Some(model) = super::model(found) {
            self.model = Some(model);
        }
        if self.is_early {
            if found.has("choices") && !is_piece(found) {
                self.deltas = self.deltas.saturating_sub(1);
            }
            self.only_usage |= super::has_usual_shape(found);
        }
        if found.is("type", "message_start") {
            self.message = Some(found.clone());
        } else if let Some(joined) = joined {
            self.message = Some(joined);
        }
        if let Some(mut reading) = reading {
            // A price may come in another document than the tokens.
            let before = self.reading.take().and_then(|before| before.cost);
            reading.cost = reading.cost.or(before);
            self.reading = Some(reading);
        }
    }
}

/// Whether a chat completion's chunk carries more than the role, or what filters say of the prompt.
fn is_piece(found: &Found) -> bool {
    let is_opening = found.has("choices/0/delta/role");
    found.has("choices/0") && (!is_opening || found.text("choices/0/delta/content").is_some())
}

/// Whether the value of a member is null; `rest` begins inside of its key.
fn is_null(rest: &[u8]) -> bool {
    let Some(key) = rest.iter().position(|byte| *byte == b'"') else { return false };
    let value = rest[key + 1..].trim_ascii_start();
    let Some(value) = value.strip_prefix(b":") else { return false };
    value.trim_ascii_start().starts_with(b"null")
}

/// What an event or line is, by its first bytes.
#[derive(Debug, PartialEq, Eq)]
enum Heading {
    Piece,
    Error,
    Other,
}

#[inline]
fn heading(block: &[u8], framing: Framing) -> Heading {
    let block = &block[..block.len().min(HEADING)];
    if framing == Framing::Lines {
        return if block.starts_with(b"{\"error\"") { Heading::Error } else { Heading::Piece };
    }
    let mut rest = block;
    loop {
        if let Some(data) = rest.strip_prefix(b"data:") {
            return data_heading(data.strip_prefix(b" ").unwrap_or(data));
        }
        let end = memchr::memchr2(b'\n', b'\r', rest);
        if let Some(name) = rest.strip_prefix(b"event:") {
            let name = &name[..end.map_or(name.len(), |end| end - b"event:".len())].trim_ascii();
            return if name.ends_with(b"delta") {
                Heading::Piece
            } else if *name == b"error" || name.ends_with(b".failed") {
                Heading::Error
            } else {
                Heading::Other
            };
        }
        if rest.starts_with(b"{\"error\"") {
            return Heading::Error;
        }
        let Some(end) = end else { return Heading::Other };
        rest = rest[end..].trim_ascii_start();
    }
}

fn data_heading(data: &[u8]) -> Heading {
    if data.starts_with(b"{\"error\"") {
        Heading::Error
    } else if data.starts_with(b"{") {
        Heading::Piece
    } else {
        Heading::Other
    }
}

/// Watches a body for figures.
pub(super) struct LlmWatch(pub(super) Scan<Tally>);

impl Watch for LlmWatch {
    fn data(&mut self, data: &[u8]) {
        self.0.feed(data);
    }

    fn end(&mut self) -> Option<Usage> {
        self.0.finish();
        self.0.documents().usage()
    }

    fn seen(&mut self) -> (Option<Usage>, bool) {
        let unfinished = self.0.unfinished().cloned();
        let tally = self.0.documents_mut();
        if let (None, Some(found)) = (&tally.reading, unfinished) {
            tally.document(&found);
            tally.reading.iter_mut().for_each(|reading| reading.is_final = false);
        }
        tally.so_far()
    }

    fn has_failed(&self) -> bool {
        self.0.documents().failed
    }
}
