//! Follows a body from document to document.

use compact_str::CompactString;

use super::Dialect;
use super::needles::Needles;
use super::reading::{Reading, sum_of_known};
use crate::policy::{Amount, Usage};
use crate::usage::Watch;
use crate::usage::capture::Found;
use crate::usage::framing::Framing;
use crate::usage::scan::{Documents, Scan};

/// How many pieces of the answer are parsed whatever is in them, for the model's name.
const EARLY: u32 = 3;

/// How much of an event tells what it is.
const HEADING: usize = 256;

/// What a body has said so far.
#[derive(Debug)]
pub(super) struct Tally {
    dialect: &'static Dialect,
    /// Tell what can carry figures, once the dialect is clear.
    needles: Option<Needles>,
    /// Pieces of the answer so far, up to the last early one.
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
            needles: None,
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
        self.early < EARLY && (self.model.is_none() || self.needles.is_none())
    }

    #[inline]
    fn note(&mut self, heading: Heading) {
        match heading {
            Heading::Piece => self.deltas += 1,
            Heading::Failure => self.failed = true,
            Heading::Other => {}
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
        let heading = heading(start, framing);
        if self.is_early {
            // Comments and the like may go on for long before the answer begins.
            self.early += u32::from(heading == Heading::Piece);
        }
        self.note(heading);
        if self.is_early {
            return true;
        }
        is_whole && self.needles.unwrap_or(Needles::All).are_in(start)
    }

    #[inline]
    fn passes(&mut self, event: &[u8]) -> bool {
        let Some(needles) = self.needles else { return false };
        if self.is_new() || needles.are_in(event) {
            return false;
        }
        self.note(heading(event, Framing::Events));
        true
    }

    fn message(&mut self, name: &[u8]) {
        self.note(Heading::of(name));
    }

    fn document(&mut self, found: &Found) {
        let is_delta = found.is("type", "message_delta");
        let joined = is_delta.then(|| self.message.clone()).flatten().map(|mut joined| {
            joined.update(found);
            joined
        });
        let reading = (self.dialect.read)(joined.as_ref().unwrap_or(found));
        let reading = reading.filter(Reading::has_tokens);
        // Bedrock adds its own figures to the end of a message that has told all.
        let is_told = found.is("type", "message_stop")
            && self.reading.as_ref().is_some_and(|reading| reading.is_final);
        let reading = reading.filter(|_| !is_told);
        self.failed |= tells_error(found);
        if reading.is_none() && !self.is_early {
            return;
        }
        if let Some(model) = super::model(found) {
            self.model = Some(model);
        }
        if self.is_early {
            if found.has("choices") && !is_piece(found) {
                self.deltas = self.deltas.saturating_sub(1);
            }
            self.needles = self.needles.or_else(|| Needles::of(found));
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

/// Whether a document is an error, or has one beside a last piece of the answer: some write
/// `"error":null` each time.
fn tells_error(found: &Found) -> bool {
    let is_failed = || found.text("type").is_some_and(|name| is_failure(name.as_bytes()));
    found.raw("error") == Some("{")
        || found.text("error").is_some()
        || found.is("object", "error")
        || is_failed()
}

/// Whether an event of this name or type says that the request failed. A step of it may fail, such as
/// the call of a tool, and the answer go on.
fn is_failure(name: &[u8]) -> bool {
    let failures: [&[u8]; 4] =
        [b"error", b"response.failed", b"thread.run.failed", b"conversation.response.error"];
    failures.contains(&name)
}

/// What an event or line is, by its first bytes.
#[derive(Debug, PartialEq, Eq)]
enum Heading {
    Piece,
    Failure,
    Other,
}

impl Heading {
    /// By the name of the event.
    fn of(name: &[u8]) -> Self {
        if name.ends_with(b"delta") || name.ends_with(b"Delta") {
            Self::Piece
        } else if is_failure(name) {
            Self::Failure
        } else {
            Self::Other
        }
    }
}

#[inline]
fn heading(block: &[u8], framing: Framing) -> Heading {
    let block = &block[..block.len().min(HEADING)];
    if framing == Framing::Lines || block.starts_with(b"event: content_block_delta\n") {
        return Heading::Piece;
    }
    let mut rest = block;
    loop {
        if let Some(data) = rest.strip_prefix(b"data:") {
            let data = data.strip_prefix(b" ").unwrap_or(data);
            return if data.starts_with(b"{") { Heading::Piece } else { Heading::Other };
        }
        let end = memchr::memchr2(b'\n', b'\r', rest);
        if let Some(name) = rest.strip_prefix(b"event:") {
            let name = name[..end.map_or(name.len(), |end| end - b"event:".len())].trim_ascii();
            // Those without a name are called so.
            if !matches!(name, b"" | b"message") {
                return Heading::of(name);
            }
        }
        // Not a field of any standard, but llama.cpp has it in the place of `data`.
        if rest.starts_with(b"error:") {
            return Heading::Failure;
        }
        let Some(end) = end else { return Heading::Other };
        rest = rest[end..].trim_ascii_start();
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
