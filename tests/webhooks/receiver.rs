//! The side that hears.

use http::HeaderMap;
use tower_limitry::policy::Timestamp;
use tower_limitry::webhooks::Receiver;

use crate::support::SECRET;

const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const SENT: i64 = 1_614_265_330;
const BODY: &[u8] = br#"{"test": 2432232314}"#;
/// The standard's own check value.
const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

fn headers(id: &str, timestamp: &str, signature: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", id.parse().unwrap());
    headers.insert("webhook-timestamp", timestamp.parse().unwrap());
    headers.insert("webhook-signature", signature.parse().unwrap());
    headers
}

fn takes(secret: &str, headers: &HeaderMap, body: &[u8], after: i64) -> bool {
    let now = Timestamp::from_seconds(SENT + after);
    Receiver::new(secret).unwrap().verify(headers, body, now).is_ok()
}

#[test]
fn the_check_value_of_the_standard_is_taken_for_300_seconds_either_way() {
    let sent = headers(ID, "1614265330", SIGNATURE);
    for (after, expected) in [(0, true), (300, true), (-300, true), (301, false), (-301, false)] {
        assert_eq!(takes(SECRET, &sent, BODY, after), expected, "{after}");
    }
}

#[test]
fn one_good_signature_among_others_is_enough() {
    let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let several = headers(ID, "1614265330", &format!("v1a,xyz v1,AAAA {SIGNATURE}"));
    assert!(takes(SECRET, &several, BODY, 0));
    assert!(takes(&format!("{other} {SECRET}"), &several, BODY, 0));
    assert!(!takes(other, &several, BODY, 0));
}

#[test]
fn what_was_changed_or_is_missing_is_refused() {
    let now = "1614265330";
    for (sent, body) in [
        (headers(ID, now, SIGNATURE), &b"{\"test\": 2432232315}"[..]),
        (headers("msg_other", now, SIGNATURE), BODY),
        (headers(ID, "1614265331", SIGNATURE), BODY),
        (headers(ID, "9999999999999999999999", SIGNATURE), BODY),
        (headers(ID, "-9223372036854775808", SIGNATURE), BODY),
        (headers(ID, now, ""), BODY),
        (headers(ID, now, "v1,"), BODY),
        (headers(ID, now, &SIGNATURE.replace("v1,", "v2,")), BODY),
        (headers(ID, now, &SIGNATURE[..SIGNATURE.len() - 8]), BODY),
    ] {
        assert!(!takes(SECRET, &sent, body, 0), "{sent:?}");
    }
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        let mut sent = headers(ID, now, SIGNATURE);
        sent.remove(name);
        assert!(!takes(SECRET, &sent, BODY, 0), "{name}");
    }
}
