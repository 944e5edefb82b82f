//! What an endpoint is told, and under which id.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::policy::{Amount, Crossing, Period, Timestamp};

/// A crossing as it is kept.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) id: String,
    pub(super) body: String,
    /// Until when the same crossing may be told again.
    pub(super) ends: Timestamp,
}

#[derive(Serialize)]
struct Body<'a> {
    event: &'static str,
    timestamp: Timestamp,
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    customer_id: &'a str,
    limit_id: &'a str,
    limit_name: &'a str,
    threshold: u8,
    limit: Amount,
    current_usage: Amount,
    percentage: Amount,
    remaining: Amount,
    period: &'static str,
    /// Absent for a window that never ends.
    window_start: Option<Timestamp>,
    window_end: Option<Timestamp>,
}

impl Message {
    pub(super) fn new(
        crossing: &Crossing,
        producer: &str,
        now: Timestamp,
    ) -> Result<Self, serde_json::Error> {
        let Crossing { customer, limit, limit_name, percent, cap, used, period, window } = crossing;
        let bound = |at| (*period != Period::AllTime).then_some(at);
        let body = Body {
            event: if *percent < 100 { "limit.threshold_reached" } else { "limit.exceeded" },
            timestamp: now,
            data: Data {
                customer_id: customer.as_str(),
                limit_id: limit,
                limit_name,
                threshold: *percent,
                limit: *cap,
                current_usage: *used,
                percentage: percentage(*used, *cap),
                remaining: cap.saturating_sub(*used).max(Amount::ZERO),
                period: period.as_str(),
                window_start: bound(window.start()),
                window_end: bound(window.end()),
            },
        };
        let id = id(crossing, producer);
        Ok(Self { id, body: serde_json::to_string(&body)?, ends: window.end() })
    }
}

/// Of this crossing and no other, however often it is told: by what makes alerts one.
fn id(crossing: &Crossing, producer: &str) -> String {
    let Crossing { customer, limit, percent, window, .. } = crossing;
    let mut hash = Sha256::new();
    for text in [producer, customer.as_str(), limit] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.update(window.end().as_nanos().to_be_bytes());
    hash.update([*percent]);
    format!("msg_{}", URL_SAFE_NO_PAD.encode(hash.finalize()))
}

/// To six decimals, towards zero.
fn percentage(used: Amount, cap: Amount) -> Amount {
    const WHOLE: i128 = 100_000_000;
    let (used, cap) = (i128::from(used.as_millionths()), i128::from(cap.as_millionths()));
    let millionths = used.saturating_mul(WHOLE).checked_div(cap);
    let saturated = millionths.map(|exact| i64::try_from(exact).unwrap_or(i64::MAX));
    // Of a cap of nothing everything is all.
    Amount::from_millionths(saturated.unwrap_or(WHOLE as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_exact_and_fit() {
        let amount = Amount::from;
        assert_eq!(percentage(amount(381_000), amount(500_000)).to_string(), "76.2");
        assert_eq!(percentage(amount(1), amount(3)).to_string(), "33.333333");
        assert_eq!(percentage(amount(7), Amount::ZERO), amount(100));
        assert_eq!(percentage(Amount::MAX, Amount::from_millionths(1)), Amount::MAX);
    }
}
