//! The data of one server-sent event.
//!
//! As the [specification](https://html.spec.whatwg.org/multipage/server-sent-events.html) says, except
//! that an event which is no field at all but bare JSON is taken as data: some servers write an error
//! like that amid their events, or answer a whole body of JSON under the type of a stream.

use compact_str::CompactString;
use memchr::memchr2;

#[derive(Debug, Default)]
pub(super) struct Fields {
    state: State,
    name: CompactString,
    has_data: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the start of the event.
    #[default]
    Start,
    Line,
    Name,
    /// One blank after the colon does not belong to the value.
    Colon,
    Data,
    Ignored,
    Bare,
}

const DATA: &str = "data";

impl Fields {
    /// The next part of the event; `data` takes the parts of its data.
    pub(super) fn feed(&mut self, part: &[u8], mut data: impl FnMut(&[u8])) {
        let mut rest = part;
        while let [byte, behind @ ..] = rest {
            let line_end = matches!(byte, b'\n' | b'\r');
            match self.state {
                State::Bare => return data(rest),
                State::Start | State::Line => {
                    rest = behind;
                    self.state = match byte {
                        b'{' | b'[' if self.state == State::Start => {
                            data(&[*byte]);
                            State::Bare
                        }
                        b'\n' | b'\r' => State::Line,
                        b':' => State::Ignored,
                        _ => {
                            self.name.clear();
                            self.name.push(char::from(*byte));
                            State::Name
                        }
                    };
                }
                State::Name => {
                    rest = behind;
                    if *byte == b':' || line_end {
                        let is_data = self.name == DATA;
                        if is_data && std::mem::replace(&mut self.has_data, true) {
                            data(b"\n");
                        }
                        self.state = match (line_end, is_data) {
                            (true, _) => State::Line,
                            (false, true) => State::Colon,
                            (false, false) => State::Ignored,
                        };
                    } else if self.name.len() <= DATA.len() {
                        self.name.push(char::from(*byte));
                    }
                }
                State::Colon => {
                    if *byte == b' ' {
                        rest = behind;
                    }
                    self.state = State::Data;
                }
                State::Data | State::Ignored => {
                    let end = memchr2(b'\n', b'\r', rest);
                    let (value, behind) = rest.split_at(end.unwrap_or(rest.len()));
                    if self.state == State::Data {
                        data(value);
                    }
                    rest = behind;
                    if end.is_some() {
                        self.state = State::Line;
                    }
                }
            }
        }
    }

    /// The event is over.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(event: &str) -> String {
        let read = |chunk| {
            let mut fields = Fields::default();
            let mut text = Vec::new();
            for part in event.as_bytes().chunks(chunk) {
                fields.feed(part, |part| text.extend_from_slice(part));
            }
            String::from_utf8(text).expect("cut where lines end")
        };
        let whole = read(event.len());
        (1..event.len()).for_each(|chunk| assert_eq!(read(chunk), whole, "{chunk}"));
        whole
    }

    #[test]
    fn data_lines_are_joined() {
        assert_eq!(
            data("event: x\ndata: a\r\ndata:b\rdata:  c\nid: 1\n: data: no\n\n"),
            "a\nb\n c"
        );
        assert_eq!(data("data\ndata:\ndatum: x\ndata : y\n data: z\n"), "\n");
    }

    #[test]
    fn an_event_that_is_bare_json_is_data() {
        assert_eq!(data("{\"a\":\n1}\n"), "{\"a\":\n1}\n");
        assert_eq!(data("data: 1\n{\"a\":1}\n"), "1");
    }
}
