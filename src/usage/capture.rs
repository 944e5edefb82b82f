//! Finds members of JSON texts while they pass, in constant memory.

use std::sync::Arc;

use compact_str::CompactString;
use memchr::{memchr, memchr2, memchr3};
use smallvec::SmallVec;

use crate::policy::Amount;

/// The longest value that is kept, and the longest key that is looked at, if not told otherwise.
const LONGEST: usize = 4096;

/// Which members to find, compiled to a tree.
#[derive(Debug)]
pub(super) struct Wanted {
    nodes: Vec<Node>,
    names: Vec<Box<str>>,
    /// The elements of an array at the top are documents of their own.
    elements: bool,
    longest: usize,
}

#[derive(Debug, Default)]
struct Node {
    slot: Option<Slot>,
    /// Arrays and objects are kept as text rather than entered.
    whole: bool,
    children: Vec<(Box<str>, usize)>,
}

type Slot = u16;

impl Wanted {
    const ROOT: usize = 0;

    pub(super) fn new(elements: bool) -> Self {
        Self { nodes: vec![Node::default()], names: Vec::new(), elements, longest: LONGEST }
    }

    /// Documents as a whole, unless they are longer than that.
    pub(super) fn documents(longest: usize) -> Self {
        let mut wanted = Self { longest, ..Self::new(true) };
        wanted.add_whole("", "");
        wanted
    }

    /// Adds a member by its JSON pointer. Several may share a name: the last one found counts.
    pub(super) fn add(&mut self, pointer: &str, name: &str) -> usize {
        let mut node = Self::ROOT;
        for token in pointer.split('/').skip(1) {
            let token = token.replace("~1", "/").replace("~0", "~");
            let known = self.nodes[node].children.iter().find(|(key, _)| **key == *token);
            node = match known {
                Some((_, child)) => *child,
                None => {
                    let child = self.nodes.len();
                    self.nodes.push(Node::default());
                    self.nodes[node].children.push((token.into(), child));
                    child
                }
            };
        }
        let slot = self.names.iter().position(|known| **known == *name);
        let slot = slot.unwrap_or_else(|| {
            self.names.push(name.into());
            self.names.len() - 1
        });
        self.nodes[node].slot = Slot::try_from(slot).ok();
        node
    }

    /// Adds a member that is kept as JSON text, whatever it is.
    pub(super) fn add_whole(&mut self, pointer: &str, name: &str) {
        let node = self.add(pointer, name);
        self.nodes[node].whole = true;
    }

    fn child(&self, node: usize, key: &[u8]) -> Option<usize> {
        let children = &self.nodes[node].children;
        children.iter().find(|(name, _)| name.as_bytes() == key).map(|(_, child)| *child)
    }

    fn element(&self, node: usize, index: u32) -> Option<usize> {
        let children = &self.nodes[node].children;
        children.iter().find(|(name, _)| name.parse() == Ok(index)).map(|(_, child)| *child)
    }
}

/// The members found in a document, as JSON text.
#[derive(Clone, Debug)]
pub(super) struct Found {
    wanted: Arc<Wanted>,
    values: Vec<(Slot, CompactString)>,
}

impl Found {
    fn set(&mut self, slot: Slot, text: &[u8]) {
        let Ok(text) = std::str::from_utf8(text) else { return };
        match self.values.iter_mut().find(|(known, _)| *known == slot) {
            Some((_, value)) => *value = text.into(),
            None => self.values.push((slot, text.into())),
        }
    }

    /// Takes over what `newer` says, except for its nulls.
    pub(super) fn update(&mut self, newer: &Self) {
        for (slot, text) in &newer.values {
            if text != "null" {
                self.set(*slot, text.as_bytes());
            }
        }
    }

    /// The JSON text of a member: a scalar, or the first character of an array or object.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        let names = &self.wanted.names;
        let (_, text) = self.values.iter().find(|(slot, _)| *names[usize::from(*slot)] == *name)?;
        Some(text).filter(|text| *text != "null").map(CompactString::as_str)
    }

    /// Whether the member is there, and not null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// The text of a member that is a string, unless it is empty.
    pub(super) fn text(&self, name: &str) -> Option<CompactString> {
        let raw = self.raw(name)?.strip_prefix('"')?.strip_suffix('"')?;
        let text = if raw.contains('\\') {
            let text: String = serde_json::from_str(self.raw(name)?).ok()?;
            text.into()
        } else {
            CompactString::new(raw)
        };
        Some(text).filter(|text| !text.is_empty())
    }

    /// Whether the member is this string.
    pub(super) fn is(&self, name: &str, text: &str) -> bool {
        let raw = self.raw(name).and_then(|raw| raw.strip_prefix('"')?.strip_suffix('"'));
        raw == Some(text)
    }

    /// Whether the member says `false`.
    pub(super) fn is_false(&self, name: &str) -> bool {
        self.raw(name) == Some("false")
    }

    /// The decimal text of a member that is a number, or a string of one.
    pub(super) fn decimal(&self, name: &str) -> Option<&str> {
        self.raw(name).map(|raw| raw.trim_matches('"'))
    }

    /// The amount of a member that is a number, or a string of one.
    pub(super) fn amount(&self, name: &str) -> Option<Amount> {
        self.decimal(name)?.parse().ok()
    }

    /// A number of something: not below zero.
    pub(super) fn count(&self, name: &str) -> Option<Amount> {
        self.amount(name).filter(|amount| !amount.is_negative())
    }
}

/// Reads JSON documents, one after the other, in pieces of any size, and keeps the wanted members.
///
/// It holds on to valid JSON only as far as it has to: what it makes of invalid text is unspecified,
/// but the same in whatever pieces the text comes. Keys are compared as they are written.
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
            found: Found { wanted, values: Vec::new() },
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
                    self.state = State::Colon(self.found.wanted.child(node, &self.text));
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
        if backslashes(&bytes[from..quote]) % 2 == 0 {
            return (&bytes[start..quote], quote + 1, true);
        }
        from = quote + 1;
    }
    *escaped = backslashes(bytes.get(from..).unwrap_or_default()) % 2 == 1;
    (&bytes[start..], bytes.len(), false)
}

/// How many backslashes there are at the end.
fn backslashes(text: &[u8]) -> usize {
    text.iter().rev().take_while(|byte| **byte == b'\\').count()
}
