//! Finds members of JSON texts while they pass, in constant memory.

mod found;
mod wanted;

use std::borrow::Cow;
use std::sync::Arc;

use memchr::{memchr, memchr2, memchr3};
use smallvec::SmallVec;

pub(super) use self::found::Found;
pub(super) use self::wanted::Wanted;
use self::wanted::{Node, Slot};

/// Reads JSON documents, one after the other, in pieces of any size, and keeps the wanted members.
///
/// It holds on to valid JSON only as far as it has to: what it makes of invalid text is unspecified,
/// but the same in whatever pieces the text comes.
#[derive(Debug)]
pub(super) struct Capture {
    found: Found,
    levels: SmallVec<[Level; 6]>,
    state: State,
    /// The key or value in the making.
    text: Vec<u8>,
    /// Inside of a string: the next byte follows an odd number of backslashes.
    escaped: bool,
}

/// An array or object that is entered.
#[derive(Clone, Copy, Debug)]
struct Level {
    node: usize,
    /// The index of the element to come, in an array.
    index: Option<u32>,
    is_document: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Between documents.
    Outside,
    /// Before a key, or the end of an object.
    Key,
    InKey,
    Colon(Option<usize>),
    Value(Option<usize>),
    InString(Option<Slot>),
    InScalar(Slot),
    /// Inside of an array or object that is not entered.
    Skip(Skip),
    After,
}

#[derive(Clone, Copy, Debug)]
struct Skip {
    slot: Option<Slot>,
    open: u8,
    close: u8,
    depth: u64,
    in_string: bool,
}

impl Capture {
    pub(super) fn new(wanted: Arc<Wanted>) -> Self {
        Self {
            found: Found::new(wanted),
            levels: SmallVec::new(),
            state: State::Outside,
            text: Vec::new(),
            escaped: false,
        }
    }

    /// Forgets the document in progress.
    pub(super) fn restart(&mut self) {
        self.found.values.clear();
        self.levels.clear();
        self.state = State::Outside;
        self.escaped = false;
    }

    /// What was found of the document in progress.
    pub(super) fn found(&self) -> &Found {
        &self.found
    }

    /// The next bytes. `done` is called with what was found of each document that ends in them.
    pub(super) fn feed(&mut self, bytes: &[u8], mut done: impl FnMut(&Found)) {
        let mut at = 0;
        while at < bytes.len() {
            at = self.step(bytes, at, &mut done);
        }
    }

    /// Goes on from `at` to wherever the state changes, or the bytes end.
    fn step(&mut self, bytes: &[u8], at: usize, done: &mut impl FnMut(&Found)) -> usize {
        let byte = bytes[at];
        match self.state {
            State::Outside => {
                let Some(open) = memchr2(b'{', b'[', &bytes[at..]) else { return bytes.len() };
                self.enter_document(bytes[at + open]);
                at + open + 1
            }
            State::Key => {
                match byte {
                    b'"' => {
                        self.text.clear();
                        self.state = State::InKey;
                    }
                    b'}' => self.leave(done),
                    _ => {}
                }
                at + 1
            }
            State::InKey => {
                let (part, next, is_over) = string(bytes, at, &mut self.escaped);
                self.keep(part);
                if is_over {
                    let node = self.levels.last().map_or(Wanted::ROOT, |level| level.node);
                    self.state =
                        State::Colon(self.found.wanted.child(node, &unescaped(&self.text)));
                }
                next
            }
            State::Colon(node) => {
                match byte {
                    b':' => self.state = State::Value(node),
                    b' ' | b'\t' | b'\n' | b'\r' => {}
                    _ => {
                        self.state = State::After;
                        return at;
                    }
                }
                at + 1
            }
            State::Value(node) => self.value(byte, at, node),
            State::InString(slot) => {
                let (part, next, is_over) = string(bytes, at, &mut self.escaped);
                if let Some(slot) = slot {
                    self.keep(part);
                    if is_over {
                        self.keep(b"\"");
                        self.store(slot);
                    }
                }
                if is_over {
                    self.state = State::After;
                }
                next
            }
            State::InScalar(slot) => {
                let rest = &bytes[at..];
                let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']' | 0..=b' ');
                let end = rest.iter().position(is_end);
                self.keep(&rest[..end.unwrap_or(rest.len())]);
                let Some(end) = end else { return bytes.len() };
                self.store(slot);
                self.state = State::After;
                at + end
            }
            State::Skip(skip) => self.skip(bytes, at, skip, done),
            State::After => {
                match byte {
                    b',' => self.next(),
                    b'}' | b']' => self.leave(done),
                    _ => {}
                }
                at + 1
            }
        }
    }

    /// The first byte of a value.
    fn value(&mut self, byte: u8, at: usize, node: Option<usize>) -> usize {
        let wanted = node.map(|node| &self.found.wanted.nodes[node]);
        let slot = wanted.and_then(|node| node.slot);
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => return at + 1,
            b'"' => {
                self.text.clear();
                self.text.push(byte);
                self.state = State::InString(slot);
            }
            b'{' | b'[' => self.open(byte, node),
            b',' | b'}' | b']' => {
                self.state = State::After;
                return at;
            }
            _ => {
                self.text.clear();
                self.state = slot.map_or(State::After, State::InScalar);
                return at;
            }
        }
        at + 1
    }

    fn enter_document(&mut self, open: u8) {
        self.found.values.clear();
        let elements = open == b'[' && self.found.wanted.elements;
        if !elements && self.found.wanted.nodes[Wanted::ROOT].whole {
            return self.open(open, Some(Wanted::ROOT));
        }
        let index = (open == b'[').then_some(0);
        self.levels.push(Level { node: Wanted::ROOT, index, is_document: !elements });
        self.begin();
    }

    fn open(&mut self, open: u8, node: Option<usize>) {
        let close = open + 2; // `[` and `]`, `{` and `}`
        let mut skip = Skip { slot: None, open, close, depth: 1, in_string: false };
        let Some(node) = node else {
            self.state = State::Skip(skip);
            return;
        };
        let Node { slot, whole, ref children } = self.found.wanted.nodes[node];
        let has_children = !children.is_empty();
        if whole {
            self.text.clear();
            self.text.push(open);
            skip.slot = slot;
        } else if let Some(slot) = slot {
            self.found.set(slot, &[open]);
        }
        if whole || !has_children {
            self.state = State::Skip(skip);
            return;
        }
        let is_document = self.levels.last().is_some_and(|level| self.is_elements(level));
        if is_document {
            self.found.values.clear();
        }
        let index = (open == b'[').then_some(0);
        self.levels.push(Level { node, index, is_document });
        self.begin();
    }

    /// Whether the elements of this level are documents.
    fn is_elements(&self, level: &Level) -> bool {
        level.node == Wanted::ROOT && !level.is_document
    }

    fn begin(&mut self) {
        self.state = match self.levels.last() {
            None => State::Outside,
            Some(Level { index: None, .. }) => State::Key,
            Some(level @ Level { node, index: Some(index), .. }) => {
                let is_elements = self.is_elements(level);
                let element = || self.found.wanted.element(*node, *index);
                State::Value(if is_elements { Some(Wanted::ROOT) } else { element() })
            }
        };
    }

    /// After a comma.
    fn next(&mut self) {
        if let Some(Level { index: Some(index), .. }) = self.levels.last_mut() {
            *index = index.saturating_add(1);
        }
        self.begin();
    }

    /// After the end of an array or object that was entered.
    fn leave(&mut self, done: &mut impl FnMut(&Found)) {
        if self.levels.pop().is_some_and(|level| level.is_document) {
            done(&self.found);
            self.found.values.clear();
        }
        self.state = if self.levels.is_empty() { State::Outside } else { State::After };
    }

    fn skip(
        &mut self,
        bytes: &[u8],
        at: usize,
        mut skip: Skip,
        done: &mut impl FnMut(&Found),
    ) -> usize {
        let mut next = at;
        while skip.depth > 0 && next < bytes.len() {
            if skip.in_string {
                let (_, after, is_over) = string(bytes, next, &mut self.escaped);
                next = after;
                skip.in_string = !is_over;
                continue;
            }
            let Some(hit) = memchr3(b'"', skip.open, skip.close, &bytes[next..]) else {
                next = bytes.len();
                break;
            };
            next += hit;
            match bytes[next] {
                b'"' => skip.in_string = true,
                byte if byte == skip.open => skip.depth += 1,
                _ => skip.depth -= 1,
            }
            next += 1;
        }
        if let Some(slot) = skip.slot {
            self.keep(&bytes[at..next]);
            if skip.depth == 0 {
                self.store(slot);
            }
        }
        self.state = if skip.depth > 0 {
            State::Skip(skip)
        } else if self.levels.last().is_none_or(|level| self.is_elements(level)) {
            // A document that was kept as a whole.
            done(&self.found);
            self.found.values.clear();
            if self.levels.is_empty() { State::Outside } else { State::After }
        } else {
            State::After
        };
        next
    }

    /// Appends as much as fits; one byte more tells that it was too long.
    fn keep(&mut self, part: &[u8]) {
        let room = self.found.wanted.longest.saturating_add(1).saturating_sub(self.text.len());
        self.text.extend_from_slice(&part[..part.len().min(room)]);
    }

    /// Keeps the text as the value, unless it was too long.
    fn store(&mut self, slot: Slot) {
        if self.text.len() <= self.found.wanted.longest {
            self.found.set(slot, &self.text);
        }
    }
}

/// The rest of a string, from inside of it: its text, where to go on, and whether it is over.
#[inline]
fn string<'a>(bytes: &'a [u8], start: usize, escaped: &mut bool) -> (&'a [u8], usize, bool) {
    // A backslash at the end of the last piece takes the first byte of this one.
    let mut from = start + usize::from(std::mem::take(escaped));
    while let Some(quote) = memchr(b'"', bytes.get(from..).unwrap_or_default()) {
        let quote = from + quote;
        if backslashes(&bytes[from..quote]).is_multiple_of(2) {
            return (&bytes[start..quote], quote + 1, true);
        }
        from = quote + 1;
    }
    *escaped = !backslashes(bytes.get(from..).unwrap_or_default()).is_multiple_of(2);
    (&bytes[start..], bytes.len(), false)
}

/// The key that is written like this.
fn unescaped(key: &[u8]) -> Cow<'_, [u8]> {
    if memchr(b'\\', key).is_none() {
        return key.into();
    }
    let text = [b"\"", key, b"\""].concat();
    serde_json::from_slice::<String>(&text).map_or(key.into(), |key| key.into_bytes().into())
}

/// How many backslashes there are at the end.
fn backslashes(text: &[u8]) -> usize {
    text.iter().rev().take_while(|byte| **byte == b'\\').count()
}
