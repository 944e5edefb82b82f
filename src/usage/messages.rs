//! Amazon's binary event streams, as Bedrock sends them.
//!
//! A [message](https://smithy.io/2.0/aws/amazon-eventstream.html) is a prelude (its length, that of
//! its headers, and the checksum of both), headers, a payload and a checksum of all of it. Numbers are
//! big-endian.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memchr;
use memchr::memmem;

/// The longest message that is read. A longer one is skipped.
const LONGEST: usize = 256 * 1024;

const PRELUDE: usize = 12;
const CHECKSUM: usize = 4;

/// What a failed stream's last message is taken for.
const ERROR: &[u8] = b"error";

/// A stream, cut into messages.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// The message so far, when its end has not come.
    kept: Vec<u8>,
    /// How much of a message that is too long has yet to come.
    to_skip: usize,
    /// A length or checksum was wrong: where the next message begins is unknown.
    is_broken: bool,
    /// The document that a payload carries in base64.
    decoded: Vec<u8>,
}

impl Messages {
    /// The next bytes. `take` is called with the name and the JSON document of each message that ends
    /// in them.
    pub(super) fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8], &[u8])) {
        let mut rest = bytes;
        while !rest.is_empty() && !self.is_broken {
            let skipped = self.to_skip.min(rest.len());
            self.to_skip -= skipped;
            rest = &rest[skipped..];
            // A message that lies in these bytes as a whole is not copied.
            let whole = length(rest).filter(|_| self.kept.is_empty());
            if let Some((message, behind)) = whole.and_then(|length| rest.split_at_checked(length))
            {
                self.read(message, &mut take);
                rest = behind;
                continue;
            }
            let wanted = if self.kept.len() < PRELUDE { Some(PRELUDE) } else { length(&self.kept) };
            let missing = wanted.unwrap_or_default().saturating_sub(self.kept.len());
            let (part, behind) = rest.split_at(missing.min(rest.len()));
            self.kept.extend_from_slice(part);
            rest = behind;
            if self.kept.len() < PRELUDE {
                continue;
            }
            match length(&self.kept) {
                None => self.is_broken = true,
                Some(length) if length > LONGEST => {
                    self.to_skip = length - self.kept.len();
                    self.kept.clear();
                }
                Some(length) if length == self.kept.len() => {
                    let message = std::mem::take(&mut self.kept);
                    self.read(&message, &mut take);
                    self.kept = message;
                    self.kept.clear();
                }
                Some(_) => {}
            }
        }
    }

    fn read(&mut self, message: &[u8], take: &mut impl FnMut(&[u8], &[u8])) {
        if message.len() > LONGEST {
            return;
        }
        let Some(Message { name, payload }) = Message::of(message) else {
            self.is_broken = true;
            return;
        };
        if name != b"chunk" {
            return take(name, payload);
        }
        // The models' own events are wrapped: `{"bytes":"<base64>"}`.
        self.decoded.clear();
        let text = wrapped(payload);
        if text.is_some_and(|text| STANDARD.decode_vec(text, &mut self.decoded).is_ok()) {
            take(event_type(&self.decoded), &self.decoded);
        }
    }
}

/// The length of the message that begins like this, if it does and that can be.
fn length(start: &[u8]) -> Option<usize> {
    let (prelude, _) = start.split_first_chunk::<PRELUDE>()?;
    let (length, headers) = (number(&prelude[..4])?, number(&prelude[4..8])?);
    let is_right = crc32fast::hash(&prelude[..8]) as usize == number(&prelude[8..])?;
    (is_right && length >= PRELUDE + CHECKSUM && headers <= length - PRELUDE - CHECKSUM)
        .then_some(length)
}

fn number(bytes: &[u8]) -> Option<usize> {
    let number = u32::from_be_bytes(bytes.try_into().ok()?);
    usize::try_from(number).ok()
}

struct Message<'a> {
    /// Its event type, or [`ERROR`].
    name: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// A message whose length is right.
    fn of(message: &'a [u8]) -> Option<Self> {
        let (rest, checksum) = message.split_last_chunk::<CHECKSUM>()?;
        if crc32fast::hash(rest) != u32::from_be_bytes(*checksum) {
            return None;
        }
        let (mut headers, payload) = rest[PRELUDE..].split_at_checked(number(&message[4..8])?)?;
        let (mut name, mut has_failed) = (&b""[..], false);
        while !headers.is_empty() {
            let (key, value) = header(&mut headers)?;
            match key {
                b":event-type" => name = value,
                b":message-type" => has_failed = value != b"event",
                _ => {}
            }
        }
        Some(Self { name: if has_failed { ERROR } else { name }, payload })
    }
}

/// The next header: its name, and its value if that is text.
fn header<'a>(headers: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let length = *headers.split_off_first()?;
    let name = headers.split_off(..usize::from(length))?;
    let length = match headers.split_off_first()? {
        0 | 1 => 0,
        2 => 1,
        3 => 2,
        4 => 4,
        5 | 8 => 8,
        6 | 7 => {
            let length = headers.split_off(..2)?;
            usize::from(u16::from_be_bytes(length.try_into().ok()?))
        }
        9 => 16,
        _ => return None,
    };
    Some((name, headers.split_off(..length)?))
}

/// The base64 text in the payload of a chunk.
fn wrapped(payload: &[u8]) -> Option<&[u8]> {
    const KEY: &[u8] = b"\"bytes\"";
    let rest = &payload[memmem::find(payload, KEY)? + KEY.len()..];
    let text =
        rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start().strip_prefix(b"\"")?;
    Some(&text[..memchr(b'"', text)?])
}

/// The type of a model's event that begins with it. Those without one carry a piece of the answer each.
fn event_type(event: &[u8]) -> &[u8] {
    let name = event.strip_prefix(b"{\"type\":\"");
    name.map_or(b"delta", |name| &name[..memchr(b'"', name).unwrap_or(name.len())])
}
