//! The fields of one limit.

use http::{HeaderMap, HeaderName};

use super::whole;
use crate::backend::{Decision, LimitState};

pub(super) const TRIPLE: [HeaderName; 3] = [
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
];

pub(super) const X_RATE_LIMIT: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];

/// Writes the three fields of one limit, unless an inner layer's have less remaining.
pub(super) fn write_one(
    [limit_field, remaining_field, reset_field]: [HeaderName; 3],
    decision: &Decision,
    headers: &mut HeaderMap,
    reset: impl FnOnce(&LimitState<'_>) -> Option<u64>,
) {
    let Some(limit) = tightest(decision) else { return };
    let remaining = whole(limit.remaining());
    let theirs = headers.get(&remaining_field).and_then(|value| value.to_str().ok()?.parse().ok());
    if theirs.is_some_and(|theirs: u64| theirs <= remaining) {
        return;
    }
    headers.insert(limit_field, whole(limit.limit()).into());
    headers.insert(remaining_field, remaining.into());
    match reset(&limit) {
        Some(reset) => headers.insert(reset_field, reset.into()),
        None => headers.remove(reset_field),
    };
}

/// The limit to show where only one can be: of those that refused the one with the longest wait,
/// which is what `Retry-After` says, otherwise the one with the smallest part remaining.
fn tightest(decision: &Decision) -> Option<LimitState<'_>> {
    let wait = |limit: &LimitState<'_>| limit.nanos_until_more(decision.at()).unwrap_or(u64::MAX);
    let less = |one: &LimitState<'_>, other: &LimitState<'_>| {
        let part = |of: &LimitState<'_>, cap: &LimitState<'_>| {
            i128::from(of.remaining().as_millionths()) * i128::from(cap.limit().as_millionths())
        };
        part(one, other).cmp(&part(other, one))
    };
    let refusing = decision.shown().filter(LimitState::is_exceeded).max_by_key(wait);
    refusing.or_else(|| decision.shown().min_by(less))
}
