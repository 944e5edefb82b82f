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

/// What all names of figures have in them, for some dialect or other. An event without a figure may
/// still have a member `usage` that is null, so it would say less.
static NEEDLES: LazyLock<[Finder<'static>; 3]> =
    LazyLock::new(|| ["okens", "TokenCount\"", "_count\""].map(Finder::new));

/// Where the needles for OpenAI, Anthropic and their like, and for Gemini, are among them.
pub(super) const TOKENS: usize = 0;
pub(super) const TOKEN_COUNT: usize = 1;

/// What a body has said so far.
#[derive(Debug)]
pub(super) struct Tally {
    dialect: &'static Dialect,
    /// The one needle that tells what can carry figures, once the dialect is clear.
    only: Option<&'static Finder<'static>>,
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
            only: None,
            early: 0,
            is_early: true,
            model: None,
            reading: None,
            message: None,
            deltas: 0,
            failed: false,
        }
    }

    /// Whether the stream has to tell yet which model and what dialect it is.
    fn is_new(&self) -> bool {
        self.early < EARLY && (self.model.is_none() || self.only.is_none())
    }

    #[inline]
    fn note(&mut self, heading: Heading) {
        match heading {
            Heading::Piece => self.deltas += 1,
            Heading::Error => self.failed = true,
            Heading::Other => {}
        }
    }

    /// Whether there can be figures in an event or line.
    #[inline]
    fn may_carry(&self, block: &[u8]) -> bool {
        match self.only {
            Some(needle) => needle.find(block).is_some(),
            None => NEEDLES.iter().any(|needle| needle.find(block).is_some()),
        }
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
    fn block(&mut self, start: &[u8], framing: Framing, is_whole: bool) -> bool {
        self.is_early = self.is_new();
        self.note(heading(start, framing));
        if self.is_early {
            self.early += 1;
            return true;
        }
        is_whole && self.may_carry(start)
    }

    #[inline]
    fn passes(&mut self, event: &[u8]) -> bool {
        let Some(needle) = self.only else { return false };
        if self.is_new() || needle.find(event).is_some() {
            return false;
        }
        self.note(heading(event, Framing::Events));
        true
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
        if reading.is_none() && tells_error(found) {
            self.failed = true;
        }
        if let Some(model) = super::model(found) {
            self.model = Some(model);
        }
        if self.is_early {
            if found.has("choices") && !is_piece(found) {
                self.deltas = self.deltas.saturating_sub(1);
            }
            self.only = self.only.or_else(|| super::needle(found).map(|needle| &NEEDLES[needle]));
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

/// Whether an answer is an error, though its status said success.
fn tells_error(found: &Found) -> bool {
    found.raw("error") == Some("{") || found.text("error").is_some()
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
    if block.starts_with(b"event: content_block_delta\n") {
        return Heading::Piece;
    }
    if framing == Framing::Lines {
        return if begins_with_error(block) { Heading::Error } else { Heading::Piece };
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
        if begins_with_error(rest) {
            return Heading::Error;
        }
        let Some(end) = end else { return Heading::Other };
        rest = rest[end..].trim_ascii_start();
    }
}

/// Whether the first member is an error, and one that is there: some write `"error":null` each time.
fn begins_with_error(json: &[u8]) -> bool {
    let Some(rest) = json.strip_prefix(b"{\"error\"") else { return false };
    let value = rest.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start);
    matches!(value, Some([b'{', ..] | [b'"', b'!' | b'#'.., ..]))
}

fn data_heading(data: &[u8]) -> Heading {
    if begins_with_error(data) {
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
        // An event may have come without the line that ends it.
        self.0.finish();
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
