//! How a body is cut into JSON documents: by its content type, or by how it begins.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

/// How JSON documents lie in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// One document, one array of them, or several in a row.
    Json,
    /// In the `data` of server-sent events.
    Events,
    /// One on each line.
    Lines,
    /// In the messages of Amazon's binary event streams.
    Messages,
}

/// What the content type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Declared {
    /// This, whatever the body begins with.
    As(Framing),
    /// JSON, or nothing: some servers leave `application/json` on their event streams.
    Perhaps,
    /// Something else.
    Other,
}

pub(super) fn declared(headers: &HeaderMap) -> Declared {
    let Some(content_type) = headers.get(CONTENT_TYPE) else { return Declared::Perhaps };
    let essence = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    let essence = essence.trim_ascii().to_ascii_lowercase();
    match &essence[..] {
        b"text/event-stream" => Declared::As(Framing::Events),
        b"application/vnd.amazon.eventstream" => Declared::As(Framing::Messages),
        b"application/x-ndjson"
        | b"application/ndjson"
        | b"application/jsonl"
        | b"application/x-jsonl"
        | b"application/jsonlines"
        | b"application/x-jsonlines"
        | b"application/json-lines"
        | b"application/stream+json"
        | b"application/x-json-stream" => Declared::As(Framing::Lines),
        b"" | b"application/json" | b"text/json" | b"text/plain" | b"application/octet-stream" => {
            Declared::Perhaps
        }
        other if other.ends_with(b"+json") => Declared::Perhaps,
        _ => Declared::Other,
    }
}

/// What the first bytes of a body say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// So many more are needed that nothing can be said yet.
    Unclear,
    /// The body is framed like this, from this byte on.
    Framed(Framing, usize),
    /// No framing that is known.
    Unknown,
}

/// The most bytes that [`beginning`] may have to look at, after blanks.
pub(super) const LONGEST_BEGINNING: usize = 6;

/// Skips the byte order mark, and tells event streams that are not declared by their first field.
pub(super) fn beginning(declared: Declared, start: &[u8]) -> Beginning {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    if start.len() < MARK.len() && MARK.starts_with(start) {
        return Beginning::Unclear;
    }
    let mark = if start.starts_with(MARK) { MARK.len() } else { 0 };
    if let Declared::As(framing) = declared {
        return Beginning::Framed(framing, mark);
    }
    let text = start[mark..].trim_ascii_start();
    let skipped = start.len() - text.len();
    let fields: [&[u8]; 5] = [b"data:", b"event:", b"retry:", b"id:", b":"];
    match text.first() {
        None => Beginning::Unclear,
        Some(b'{' | b'[') => Beginning::Framed(Framing::Json, skipped),
        Some(_) if fields.iter().any(|field| text.starts_with(field)) => {
            Beginning::Framed(Framing::Events, skipped)
        }
        Some(_) if fields.iter().any(|field| field.starts_with(text)) => Beginning::Unclear,
        Some(_) => Beginning::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stream_is_told_by_its_first_field() {
        let json = Declared::Perhaps;
        let framed = |framing, at| Beginning::Framed(framing, at);
        assert_eq!(beginning(json, b" \n{\"a\":1}"), framed(Framing::Json, 2));
        assert_eq!(beginning(json, b"\xef\xbb\xbf[]"), framed(Framing::Json, 3));
        assert_eq!(beginning(json, b": hello"), framed(Framing::Events, 0));
        assert_eq!(beginning(json, b"dat"), Beginning::Unclear);
        assert_eq!(beginning(json, b"data: {}"), framed(Framing::Events, 0));
        assert_eq!(beginning(json, b"date"), Beginning::Unknown);
        assert_eq!(beginning(Declared::As(Framing::Events), b"\xef"), Beginning::Unclear);
        assert_eq!(
            beginning(Declared::As(Framing::Events), b"{\"error\":"),
            framed(Framing::Events, 0)
        );
    }
}
