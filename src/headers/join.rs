//! Lists of several layers become one.

use http::header::Entry;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Adds members to a list field, after those that an inner layer has written; of two with one name
/// the inner one stays. A field that is no list of names, as the older drafts have it, is replaced:
/// whoever wrote it does not speak of our customers.
pub(super) fn join(headers: &mut HeaderMap, field: HeaderName, ours: HeaderValue) {
    match headers.entry(field) {
        Entry::Vacant(entry) => {
            entry.insert(ours);
        }
        Entry::Occupied(mut entry) => {
            let theirs = entry.iter().map(HeaderValue::as_bytes);
            let joined = joined(theirs, ours.as_bytes());
            entry.insert(joined.unwrap_or(ours));
        }
    }
}

#[cold]
fn joined<'a>(theirs: impl Iterator<Item = &'a [u8]>, ours: &'a [u8]) -> Option<HeaderValue> {
    let theirs: Vec<&[u8]> = theirs.flat_map(members).collect();
    let names = theirs.iter().map(|member| name(member)).collect::<Option<Vec<_>>>()?;
    let new =
        members(ours).filter(|member| !name(member).is_some_and(|name| names.contains(&name)));
    let mut joined = Vec::with_capacity(2 * CAPACITY);
    for member in theirs.iter().copied().chain(new) {
        joined.extend_from_slice(SEPARATOR);
        joined.extend_from_slice(member);
    }
    list(&joined)
}

/// The members of a list, split at commas outside of quotes.
fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut in_quotes, mut escaped) = (false, false);
    let is_comma = move |byte: &u8| {
        let was_escaped = std::mem::take(&mut escaped);
        match byte {
            b',' => return !in_quotes,
            b'"' if !was_escaped => in_quotes = !in_quotes,
            b'\\' if in_quotes && !was_escaped => escaped = true,
            _ => {}
        }
        false
    };
    list.split(is_comma).map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// The quoted name that a member begins with.
fn name(member: &[u8]) -> Option<&[u8]> {
    let inside = member.strip_prefix(b"\"")?;
    let mut escaped = false;
    let length = inside.iter().position(|byte| {
        let was_escaped = std::mem::take(&mut escaped);
        escaped = *byte == b'\\' && !was_escaped;
        *byte == b'"' && !was_escaped
    })?;
    inside.get(..length)
}

/// A field of these members, each written after a separator; `None` when there are none.
pub(super) fn list(members: &[u8]) -> Option<HeaderValue> {
    HeaderValue::from_bytes(members.strip_prefix(SEPARATOR)?).ok()
}

pub(super) const SEPARATOR: &[u8] = b", ";

/// Room for about five limits; a longer list grows.
pub(super) const CAPACITY: usize = 256;
