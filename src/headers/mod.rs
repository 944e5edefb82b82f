//! What an answer's header fields say about limits.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::backend::{Decision, LimitState, whole_seconds};
use crate::policy::{Amount, Timestamp};

mod integer;
mod join;
mod lists;
mod single;

use lists::write_lists;
use single::{TRIPLE, X_RATE_LIMIT, write_one};

/// Which header fields tell customers what they have left.
///
/// Whatever the style, amounts are rounded down to whole numbers, waits are rounded up to whole
/// seconds, and private limits are not shown. Where two layers look at one request, their answers
/// become one: lists are joined, and of two single limits the one with less remaining is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeaderStyle {
    /// `RateLimit-Policy` and `RateLimit`, lists of every limit and balance that was looked at
    /// (draft-ietf-httpapi-ratelimit-headers-10).
    ///
    /// ```text
    /// RateLimit-Policy: "req-hour";q=1000;w=3600, "tokens-month";q=5000000;w=2592000;qu="tokens"
    /// RateLimit: "req-hour";r=640;t=1312, "tokens-month";r=1203345;t=777600, "AI Credits";r=52
    /// ```
    ///
    /// `w` is the length of the present window. A limit for ever has no `w` and no `t`; a balance has
    /// `r` alone, and no policy. A balance whose name is not printable ASCII, or is the id of a
    /// limit, is left out.
    #[default]
    Draft10,
    /// `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset` (drafts up to -06) of one
    /// limit: the one that refused, or else the one with the smallest part remaining. Reset is in
    /// seconds from now, and absent for a limit for ever.
    Triple,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset` of one limit, chosen
    /// likewise. Reset is a time, in Unix seconds, as most who send this field mean it.
    XRateLimit,
    /// None.
    Off,
}

/// Adds to an answer's headers what a decision says of its limits and its balance.
pub(crate) fn write(style: HeaderStyle, decision: &Decision, headers: &mut HeaderMap) {
    match style {
        HeaderStyle::Draft10 => write_lists(decision, headers),
        HeaderStyle::Triple => {
            write_one(TRIPLE, decision, headers, |limit| seconds_until_more(limit, decision.at()));
        }
        HeaderStyle::XRateLimit => write_one(X_RATE_LIMIT, decision, headers, |limit| {
            let reset = match limit.is_held() {
                true => decision.at().as_seconds().saturating_add(1),
                false => limit.reset()?,
            };
            u64::try_from(reset).ok()
        }),
        HeaderStyle::Off => {}
    }
}

/// `Retry-After` in whole seconds, rounded up, at least one.
pub(crate) fn retry_after(wait: Duration) -> HeaderValue {
    HeaderValue::from(whole_seconds(wait).as_secs())
}

fn seconds_until_more(limit: &LimitState<'_>, at: Timestamp) -> Option<u64> {
    limit.nanos_until_more(at).map(|nanos| nanos.div_ceil(1_000_000_000).max(1))
}

/// Whole units, rounded down. No amount reaches the largest integer of a structured field,
/// 999,999,999,999,999.
fn whole(amount: Amount) -> u64 {
    u64::try_from(amount.as_millionths()).unwrap_or(0) / 1_000_000
}

#[cfg(test)]
#[cfg(feature = "test-util")]
mod tests;
