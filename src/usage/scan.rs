//! Walks through the JSON documents of a body, whatever its framing, and parses those that matter.

use std::sync::Arc;

use http::HeaderMap;
use smallvec::SmallVec;

use super::blocks::{Blocks, End, Take};
use super::capture::{Capture, Found, Wanted};
use super::fields::Fields;
use super::framing::{self, Beginning, Declared, Framing, LONGEST_BEGINNING};
use super::messages::Messages;

/// How much of an event or line is kept while its end has not come. A longer one is read as it passes.
pub(super) const MOST_KEPT: usize = 64 * 1024;

/// Reads the documents.
pub(super) trait Documents {
    /// An event or line begins like this, with all of it when it `is_whole`. Whether to look for what
    /// is wanted in it; of no effect for those that come in parts, which are always read.
    fn block(&mut self, start: &[u8], framing: Framing, is_whole: bool) -> bool;

    /// Whether there is nothing to look for in this event; if so, that was all about it.
    fn passes(&mut self, event: &[u8]) -> bool {
        let _ = event;
        false
    }

    /// A message of this name comes. It is always read.
    fn message(&mut self, name: &[u8]) {
        let _ = name;
    }

    /// What was found in a document.
    fn document(&mut self, found: &Found);
}

/// A body on its way.
#[derive(Debug)]
pub(super) struct Scan<D> {
    documents: D,
    declared: Declared,
    capture: Capture,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The first bytes, until they tell the framing.
    Beginning(SmallVec<[u8; LONGEST_BEGINNING]>),
    Json,
    Blocks {
        blocks: Blocks,
        fields: Option<Fields>,
    },
    Messages(Messages),
    /// Nothing to read here.
    Unknown,
}

impl<D: Documents> Scan<D> {
    pub(super) fn new(headers: &HeaderMap, wanted: &Arc<Wanted>, documents: D) -> Option<Self> {
        let declared = framing::declared(headers);
        let capture = Capture::new(Arc::clone(wanted));
        let stage = Stage::Beginning(SmallVec::new());
        (declared != Declared::Other).then_some(Self { documents, declared, capture, stage })
    }

    pub(super) fn documents(&self) -> &D {
        &self.documents
    }

    pub(super) fn documents_mut(&mut self) -> &mut D {
        &mut self.documents
    }

    /// What was found of a document whose end has not come, if the body is no stream of them.
    pub(super) fn unfinished(&self) -> Option<&Found> {
        matches!(self.stage, Stage::Json).then(|| self.capture.found())
    }

    #[inline]
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if let Stage::Blocks { blocks, .. } = &mut self.stage
            && blocks.is_one_event(bytes)
            && self.documents.passes(bytes)
        {
            return;
        }
        self.read(bytes);
    }

    /// Apart, so that what mostly happens needs no registers saved.
    #[inline(never)]
    fn read(&mut self, bytes: &[u8]) {
        let Self { documents, capture, .. } = self;
        match &mut self.stage {
            Stage::Blocks { blocks, fields } => {
                blocks.feed(bytes, &mut Reader { documents, capture, fields: fields.as_mut() });
            }
            Stage::Json => capture.feed(bytes, |found| documents.document(found)),
            Stage::Messages(messages) => messages.feed(bytes, |name, document| {
                documents.message(name);
                capture.feed(document, |found| documents.document(found));
                capture.restart();
            }),
            Stage::Unknown => {}
            Stage::Beginning(_) => self.begin(bytes),
        }
    }

    #[cold]
    fn begin(&mut self, bytes: &[u8]) {
        let Stage::Beginning(start) = &mut self.stage else { return };
        let mut rest = bytes;
        let (mut framing, mut at) = (None, 0);
        while let [byte, behind @ ..] = rest {
            rest = behind;
            start.push(*byte);
            match framing::beginning(self.declared, start) {
                Beginning::Framed(known, skipped) => {
                    (framing, at) = (Some(known), skipped);
                    break;
                }
                Beginning::Unknown => {
                    self.stage = Stage::Unknown;
                    return;
                }
                Beginning::Unclear if byte.is_ascii_whitespace() => drop(start.pop()),
                Beginning::Unclear => {}
            }
        }
        let Some(framing) = framing else { return };
        let start = std::mem::take(start);
        let fields = (framing == Framing::Events).then(Fields::default);
        self.stage = match framing {
            Framing::Json => Stage::Json,
            Framing::Events => {
                Stage::Blocks { blocks: Blocks::new(End::BlankLine, MOST_KEPT), fields }
            }
            Framing::Lines => Stage::Blocks { blocks: Blocks::new(End::Line, MOST_KEPT), fields },
            Framing::Messages => Stage::Messages(Messages::default()),
        };
        // The start lies in these bytes as a whole, unless it began in earlier ones.
        let begun = start.len() - at;
        match bytes.len().checked_sub(rest.len() + begun) {
            Some(from) => self.feed(&bytes[from..]),
            None => {
                self.feed(&start[at..]);
                self.feed(rest);
            }
        }
    }

    /// The body is over.
    pub(super) fn finish(&mut self) {
        let Self { documents, capture, .. } = self;
        if let Stage::Blocks { blocks, fields } = &mut self.stage {
            blocks.finish(&mut Reader { documents, capture, fields: fields.as_mut() });
        }
    }
}

/// Reads events and lines.
struct Reader<'a, D> {
    documents: &'a mut D,
    capture: &'a mut Capture,
    /// For events.
    fields: Option<&'a mut Fields>,
}

impl<D: Documents> Reader<'_, D> {
    fn framing(&self) -> Framing {
        if self.fields.is_some() { Framing::Events } else { Framing::Lines }
    }

    fn read(&mut self, part: &[u8]) {
        let Self { documents, capture, fields } = self;
        let mut read = |part: &[u8]| capture.feed(part, |found| documents.document(found));
        match fields {
            Some(fields) => fields.feed(part, read),
            None => read(part),
        }
    }
}

impl<D: Documents> Take for Reader<'_, D> {
    #[inline]
    fn block(&mut self, block: &[u8]) {
        if self.documents.block(block, self.framing(), true) {
            self.read(block);
            self.parts_end();
        }
    }

    fn part(&mut self, part: &[u8], is_first: bool) {
        if is_first {
            self.documents.block(part, self.framing(), false);
        }
        self.read(part);
    }

    fn parts_end(&mut self) {
        self.capture.restart();
        if let Some(fields) = &mut self.fields {
            fields.restart();
        }
    }
}
