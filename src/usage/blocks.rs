//! Cuts a stream into its blocks, events or lines, without copying those that come in one piece.

use memchr::memchr2;

/// What a block ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The end of a line.
    Line,
    /// A blank line.
    BlankLine,
}

/// Takes the blocks.
pub(super) trait Take {
    /// A block, with the end of its line, or what there is of it at the end of the stream.
    fn block(&mut self, block: &[u8]);

    /// The next part of a block that is too long to be kept.
    fn part(&mut self, part: &[u8], is_first: bool);

    /// The block that came in parts is over.
    fn parts_end(&mut self);
}

/// How much longer or shorter than the last event one may be. No event of interest fits in that.
const SLACK: usize = 16;

/// A stream, cut into blocks. Lines end as in server-sent events: with LF, CR or both.
#[derive(Debug)]
pub(super) struct Blocks {
    end: End,
    /// The longest block that is kept.
    most: usize,
    /// The block so far, when its end has not come.
    kept: Vec<u8>,
    /// The block is longer than that and passed on in parts; its last byte.
    long: Option<u8>,
    /// How long the last block was that came in one piece.
    usual: usize,
}

impl Blocks {
    pub(super) fn new(end: End, most: usize) -> Self {
        Self { end, most, kept: Vec::new(), long: None, usual: 0 }
    }

    /// The next bytes.
    #[inline]
    pub(super) fn feed(&mut self, bytes: &[u8], take: &mut impl Take) {
        let mut rest = bytes;
        if let Some(last) = self.long.or(self.kept.last().copied()) {
            let Some(end) = self.find_end(Some(last), rest) else { return self.keep(rest, take) };
            let (block, behind) = rest.split_at(end);
            if self.long.take().is_some() {
                take.part(block, false);
                take.parts_end();
            } else if self.kept.len() + block.len() <= self.most {
                self.kept.extend_from_slice(block);
                take.block(&self.kept);
            } else {
                self.overflow(block, take);
                take.parts_end();
            }
            self.kept.clear();
            rest = behind;
        }
        loop {
            // Blank lines before a block, and the LF of a CR that has ended one.
            while let [b'\n' | b'\r', behind @ ..] = rest {
                rest = behind;
            }
            if rest.is_empty() {
                return;
            }
            let Some(end) = self.find_end(None, rest) else { return self.keep(rest, take) };
            let (block, behind) = rest.split_at(end);
            self.usual = block.len();
            take.block(block);
            rest = behind;
        }
    }

    /// The stream is over: so is the last block, whatever it ends with.
    pub(super) fn finish(&mut self, take: &mut impl Take) {
        if self.long.take().is_some() {
            take.parts_end();
        } else if !self.kept.is_empty() {
            take.block(&self.kept);
        }
        self.kept = Vec::new();
    }

    fn keep(&mut self, part: &[u8], take: &mut impl Take) {
        let Some(last) = part.last() else { return };
        if self.long.is_some() {
            take.part(part, false);
            self.long = Some(*last);
            return;
        }
        let length = self.kept.len() + part.len();
        if length > self.most {
            self.overflow(part, take);
            self.long = Some(*last);
            return;
        }
        if length > self.kept.capacity() {
            // Doubled, but never beyond the bound.
            let capacity = (self.kept.capacity() * 2).clamp(length, self.most);
            self.kept.reserve_exact(capacity - self.kept.len());
        }
        self.kept.extend_from_slice(part);
    }

    /// Passes on what is kept and what does not fit. The first part is as long as can be, so that the
    /// start of a block is the same in whatever pieces it comes.
    fn overflow(&mut self, part: &[u8], take: &mut impl Take) {
        let (first, rest) = part.split_at(self.most - self.kept.len());
        self.kept.extend_from_slice(first);
        take.part(&self.kept, true);
        take.part(rest, false);
        self.kept = Vec::new();
    }

    /// Whether these bytes are one event, to all appearances: it begins where one has to, ends as one
    /// does, and is as long as the last one whose end was looked for. Finding it would cost as much
    /// again as looking for what is wanted in it.
    #[inline]
    pub(super) fn is_one_event(&self, bytes: &[u8]) -> bool {
        self.end == End::BlankLine
            && self.kept.is_empty()
            && self.long.is_none()
            && bytes.len().abs_diff(self.usual) <= SLACK
            && bytes.ends_with(b"\n\n")
    }

    /// Where the block ends, when `before` is the byte before `bytes` in it.
    #[inline]
    fn find_end(&self, before: Option<u8>, bytes: &[u8]) -> Option<usize> {
        let first = *bytes.first()?;
        if self.end == End::BlankLine && before.is_some_and(|before| is_blank(before, first)) {
            return Some(1);
        }
        let mut from = 0;
        loop {
            let at = from + memchr2(b'\n', b'\r', &bytes[from..])?;
            if self.end == End::Line {
                return Some(at + 1);
            }
            if is_blank(bytes[at], *bytes.get(at + 1)?) {
                return Some(at + 2);
            }
            from = at + 1;
        }
    }
}

/// Whether a line ends with the first byte, and another, empty one with the second.
fn is_blank(first: u8, second: u8) -> bool {
    matches!((first, second), (b'\n', b'\n' | b'\r') | (b'\r', b'\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Taken {
        blocks: Vec<String>,
        parts: Vec<u8>,
    }

    impl Take for Taken {
        fn block(&mut self, block: &[u8]) {
            self.blocks.push(String::from_utf8_lossy(block).trim_end().to_owned());
        }

        fn part(&mut self, part: &[u8], is_first: bool) {
            assert_eq!(self.parts.is_empty(), is_first);
            self.parts.extend_from_slice(part);
        }

        fn parts_end(&mut self) {
            let parts = std::mem::take(&mut self.parts);
            self.blocks.push(format!("long {}", String::from_utf8_lossy(&parts).trim_end()));
        }
    }

    fn cut(end: End, text: &str, chunk: usize) -> Vec<String> {
        let mut taken = Taken::default();
        let mut blocks = Blocks::new(end, 12);
        for part in text.as_bytes().chunks(chunk) {
            blocks.feed(part, &mut taken);
            assert!(blocks.kept.capacity() <= 12);
        }
        blocks.finish(&mut taken);
        taken.blocks
    }

    #[test]
    fn events_end_at_blank_lines_of_any_kind() {
        let text = "\n\na: 1\n\nb\r\n\r\nc\rd\r\re\n\r\nf\n\r\r\r\n0123456789012345\n\ng";
        for chunk in 1..text.len() {
            let blocks = cut(End::BlankLine, text, chunk);
            let long = |block: &String| block.trim_start_matches("long ").to_owned();
            let blocks: Vec<_> = blocks.iter().map(long).collect();
            assert_eq!(blocks, ["a: 1", "b", "c\rd", "e", "f", "0123456789012345", "g"], "{chunk}");
        }
    }

    #[test]
    fn long_blocks_come_in_parts() {
        let blocks = cut(End::Line, "short\n0123456789012\nshort\r", 5);
        assert_eq!(blocks, ["short", "long 0123456789012", "short"]);
    }
}
