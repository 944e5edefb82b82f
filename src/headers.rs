//! What an answer's header fields say about limits.

use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::time::Duration;

use compact_str::CompactString;
use http::header::Entry;
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use crate::backend::{Decision, LimitState, whole_seconds};
use crate::policy::catalog::{is_quotable, write_quoted};
use crate::policy::frame::Frame;
use crate::policy::{Amount, Balance, Timestamp};

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

fn write_lists(decision: &Decision, headers: &mut HeaderMap) {
    // No code of a user runs in here, so the borrow cannot meet itself; and a thread that is ending
    // has no answers to send.
    let _ = LISTS.try_with(|lists| lists.borrow_mut().write(decision, headers));
}

thread_local! {
    static LISTS: RefCell<Lists> = const { RefCell::new(Lists::new()) };
}

/// Writes the list fields, and remembers what is the same for every request of one second: all but what
/// remains.
struct Lists {
    states: Vec<u8>,
    /// The oldest first.
    recent: Vec<Recent>,
}

/// What the fields say of a frame and a balance within one second.
struct Recent {
    /// Keeps its place in memory from being taken by another frame.
    frame: Weak<Frame>,
    second: i64,
    balance: Option<CompactString>,
    /// What comes before each amount that remains, such as `;t=1312, "req-day";r=`, and after the last.
    around: Vec<u8>,
    /// Where in it the amounts of limits go, and on which line of the frame each limit is.
    limits: SmallVec<[(usize, usize); 8]>,
    /// Where that of the balance goes.
    balance_at: Option<usize>,
    policies: Option<HeaderValue>,
}

impl Lists {
    const fn new() -> Self {
        Self { states: Vec::new(), recent: Vec::new() }
    }

    fn write(&mut self, decision: &Decision, headers: &mut HeaderMap) {
        let Self { states, recent } = self;
        let own;
        let recent = match recent.iter().position(|recent| recent.is_of(decision)) {
            Some(known) => &recent[known],
            None if !is_usual(decision) => {
                own = Recent::of(decision);
                &own
            }
            None => {
                if recent.len() == RECENT {
                    recent.remove(0);
                }
                recent.push(Recent::of(decision));
                &recent[recent.len() - 1]
            }
        };
        states.clear();
        let mut from = 0;
        let mut write = |amount: Amount, to: usize| {
            states.extend_from_slice(&recent.around[from..to]);
            write_integer(states, whole(amount));
            from = to;
        };
        for (to, line) in &recent.limits {
            write(decision.remaining(*line), *to);
        }
        if let (Some(to), Some(balance)) = (recent.balance_at, balance(decision)) {
            write(balance.available(), to);
        }
        states.extend_from_slice(&recent.around[from..]);
        if let Some(states) = list(states) {
            join(headers, RATELIMIT, states);
        }
        if let Some(policies) = &recent.policies {
            join(headers, RATELIMIT_POLICY, policies.clone());
        }
    }
}

impl Recent {
    fn is_of(&self, decision: &Decision) -> bool {
        self.second == decision.at().as_seconds()
            && self.frame.as_ptr() == Arc::as_ptr(decision.frame())
            && self.balance.as_deref() == balance(decision).map(Balance::name)
            && is_usual(decision)
    }

    #[cold]
    fn of(decision: &Decision) -> Self {
        let mut around = Vec::with_capacity(CAPACITY);
        let mut limits = SmallVec::new();
        let mut policies = Vec::with_capacity(CAPACITY);
        for (line, limit) in decision.looked_at().enumerate() {
            let Some(shown) = limit.shown() else { continue };
            around.extend_from_slice(shown.state.as_bytes());
            limits.push((around.len(), line));
            if let Some(seconds) = seconds_until_more(&limit, decision.at()) {
                around.extend_from_slice(b";t=");
                write_integer(&mut around, seconds);
            }
            policies.extend_from_slice(shown.policy.as_bytes());
            if let Some(length) = limit.window().length_seconds() {
                write_integer(&mut policies, length.max(1));
            }
            policies.extend_from_slice(&shown.unit);
        }
        let balance = balance(decision).map(Balance::name);
        let is_limit = |name: &str| decision.shown().any(|limit| limit.id() == name);
        let balance_at = balance.filter(|name| is_quotable(name) && !is_limit(name)).map(|name| {
            around.extend_from_slice(SEPARATOR);
            write_quoted(&mut around, name);
            around.extend_from_slice(b";r=");
            around.len()
        });
        Self {
            frame: Arc::downgrade(decision.frame()),
            second: decision.at().as_seconds(),
            balance: balance.map(CompactString::new),
            around,
            limits,
            balance_at,
            policies: list(&policies),
        }
    }
}

/// Whether the fields say nothing beside amounts that those of another request could not: a refusal may
/// tell a wait of its own, and a repeat of what was settled looks at nothing.
fn is_usual(decision: &Decision) -> bool {
    decision.is_allowed() && decision.looked_at().next().is_some()
}

fn balance(decision: &Decision) -> Option<&Balance> {
    decision.balance().and_then(|state| state.balance())
}

/// Adds members to a list field, after those that an inner layer has written; of two with one name
/// the inner one stays. A field that is no list of names, as the older drafts have it, is replaced:
/// whoever wrote it does not speak of our customers.
fn join(headers: &mut HeaderMap, field: HeaderName, ours: HeaderValue) {
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

/// Writes the three fields of one limit, unless an inner layer's have less remaining.
fn write_one(
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

/// A field of these members, each written after a separator; `None` when there are none.
fn list(members: &[u8]) -> Option<HeaderValue> {
    HeaderValue::from_bytes(members.strip_prefix(SEPARATOR)?).ok()
}

/// Writes an integer of up to sixteen digits, more than any amount or time has.
#[inline]
fn write_integer(out: &mut Vec<u8>, integer: u64) {
    const EIGHT_DIGITS: u64 = 100_000_000;
    let (high, low) = (integer / EIGHT_DIGITS, integer % EIGHT_DIGITS);
    let first = eight_digits(if high > 0 { high } else { low });
    let zeros = (first.trailing_zeros() / 8).min(7);
    let text = (first | ZEROS) >> (8 * zeros);
    out.extend_from_slice(&text.to_le_bytes());
    out.truncate(out.len() - zeros as usize);
    if high > 0 {
        out.extend_from_slice(&(eight_digits(low) | ZEROS).to_le_bytes());
    }
}

/// The decimal digits of an integer below 100,000,000, one in each byte, the highest in the lowest
/// byte: halved three times, all parts of one size at once.
fn eight_digits(integer: u64) -> u64 {
    let fours = (integer / 10_000) | ((integer % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x7F_0000_007F;
    let twos = hundreds | ((fours - hundreds * 100) << 16);
    let tens = ((twos * 103) >> 10) & 0x000F_000F_000F_000F;
    tens | ((twos - tens * 10) << 8)
}

/// `0` in each byte.
const ZEROS: u64 = 0x3030_3030_3030_3030;

const SEPARATOR: &[u8] = b", ";

/// How many frames a thread remembers the fields of.
const RECENT: usize = 4;

/// Room for about five limits; a longer list grows.
const CAPACITY: usize = 256;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const TRIPLE: [HeaderName; 3] = [
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
];
const X_RATE_LIMIT: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];

#[cfg(test)]
#[cfg(feature = "test-util")]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineBuilder, ManualClock};
    use crate::policy::{NewBalance, Period};
    use crate::{Books, Check, Limit, Meter, Usage};
    use proptest::prelude::*;
    use sfv::{BareItem, Item, ListEntry};

    /// 12:00:00.25 on a Wednesday of a month with 30 days.
    fn engine() -> EngineBuilder {
        let clock = ManualClock::at("2026-04-01T12:00:00.25Z");
        Engine::builder()
            .meter(Meter::sum("tokens", "tokens").unit("tokens"))
            .meter(Meter::count("calls"))
            .clock(clock)
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn use_up<B: crate::backend::Backend>(books: &Books<B>, tokens: Amount) {
        let event = crate::Event::new("acct", "chat", Usage::of("tokens", tokens));
        block_on(books.record(event)).unwrap();
    }

    fn written(style: HeaderStyle, decision: &Decision) -> HeaderMap {
        let mut headers = HeaderMap::new();
        write(style, decision, &mut headers);
        headers
    }

    fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        assert!(headers.get_all(name).iter().count() <= 1, "{name} more than once");
        headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The members of a list field by name, as an independent parser reads them.
    fn parsed(headers: &HeaderMap, name: &str) -> Vec<(String, Vec<(String, BareItem)>)> {
        let Some(text) = text(headers, name) else { return Vec::new() };
        let list: sfv::List = sfv::Parser::new(text).parse().unwrap();
        let member = |entry| match entry {
            ListEntry::Item(Item { bare_item: BareItem::String(name), params }) => {
                let params = params.into_iter().map(|(key, value)| (key.to_string(), value));
                (name.to_string(), params.collect())
            }
            other => panic!("no name: {other:?}"),
        };
        list.into_iter().map(member).collect()
    }

    fn integer(value: u64) -> BareItem {
        BareItem::Integer(i64::try_from(value).unwrap().try_into().unwrap())
    }

    #[test]
    fn lists_tell_of_every_limit_and_the_balance() {
        let books = engine()
            .limit(Limit::per_hour("calls-hour", "calls", 1_000))
            .limit(Limit::per_month("tokens-month", "tokens", "5000.9"))
            .limit(Limit::all_time("tokens-ever", "tokens", 90_000))
            .limit(Limit::per_day("watched", "tokens", 9_000).private())
            .default_balance(NewBalance::new("AI \"Credits\"").initial("52.9"))
            .build()
            .unwrap();
        let check = Check::of("acct").estimate("tokens", "0.5").charge("AI \"Credits\"", |_| None);
        let permit = block_on(books.check(check)).unwrap();
        let headers = written(HeaderStyle::Draft10, permit.decision());
        assert_eq!(
            text(&headers, "ratelimit-policy"),
            Some(
                "\"calls-hour\";q=1000;w=3600, \"tokens-month\";q=5000;w=2592000;qu=\"tokens\", \
                 \"tokens-ever\";q=90000;qu=\"tokens\""
            )
        );
        assert_eq!(
            text(&headers, "ratelimit"),
            Some(
                "\"calls-hour\";r=999;t=3600, \"tokens-month\";r=5000;t=2548800, \
                 \"tokens-ever\";r=89999, \"AI \\\"Credits\\\"\";r=52"
            )
        );
    }

    #[test]
    fn a_debt_has_nothing_remaining_and_an_unwritable_name_is_left_out() {
        let balance = |name: &str, initial: i32| {
            let books = engine()
                .limit(Limit::per_day("daily", "calls", 5))
                .default_balance(NewBalance::new(name).initial(initial))
                .build()
                .unwrap();
            let check = Check::of("acct").charge(name, |_| None);
            let headers = written(HeaderStyle::Draft10, &block_on(books.preview(check)).unwrap());
            text(&headers, "ratelimit").unwrap().to_owned()
        };
        assert!(balance("credits", -3).ends_with(", \"credits\";r=0"));
        assert!(balance("a\\b", 3).ends_with(", \"a\\\\b\";r=3"));
        for name in ["Guthaben für Müller", "line\nbreak", "daily"] {
            assert!(!balance(name, 3).contains(','), "{name:?}");
        }
    }

    #[test]
    fn a_refusing_limit_never_resets_after_retry_after() {
        let books = engine()
            .limit(Limit::per_minute("calls-minute", "calls", 1))
            .limit(Limit::per_day("tokens-day", "tokens", 100))
            .build()
            .unwrap();
        let permit = block_on(books.check(Check::of("acct").estimate("tokens", 60))).unwrap();
        let decision = block_on(books.preview(Check::of("acct").estimate("tokens", 60))).unwrap();
        assert_eq!(decision.retry_after(), Some(Duration::from_secs(1)));
        let headers = written(HeaderStyle::Draft10, &decision);
        assert_eq!(
            text(&headers, "ratelimit"),
            Some("\"calls-minute\";r=0;t=1, \"tokens-day\";r=40;t=1")
        );
        let now = decision.at().as_seconds();
        let reset = (now + 1).to_string();
        let headers = written(HeaderStyle::XRateLimit, &decision);
        assert_eq!(text(&headers, "x-ratelimit-reset"), Some(&*reset));

        block_on(permit.settle(Usage::of("tokens", 100))).unwrap();
        let decision = block_on(books.preview(Check::of("acct").estimate("tokens", 60))).unwrap();
        let wait = decision.retry_after().unwrap();
        assert_eq!(retry_after(wait), "43200");
        let headers = written(HeaderStyle::Draft10, &decision);
        assert_eq!(
            text(&headers, "ratelimit"),
            Some("\"calls-minute\";r=0;t=60, \"tokens-day\";r=0;t=43200")
        );
    }

    #[test]
    fn retry_after_rounds_up_and_is_never_zero() {
        for (millis, written) in [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2"), (59_999, "60")] {
            assert_eq!(retry_after(Duration::from_millis(millis)), written);
        }
        assert_eq!(retry_after(Duration::MAX), u64::MAX.to_string());
    }

    #[test]
    fn one_limit_stands_for_all_where_only_one_can() {
        let books = engine()
            .limit(Limit::per_hour("calls-hour", "calls", 10))
            .limit(Limit::per_day("tokens-day", "tokens", 1_000))
            .limit(Limit::all_time("tokens-ever", "tokens", 100_000))
            .limit(Limit::per_hour("hidden", "tokens", 901).private())
            .build()
            .unwrap();
        use_up(&books, 900.into());
        let decision = block_on(books.preview(Check::of("acct"))).unwrap();
        let headers = written(HeaderStyle::Triple, &decision);
        assert_eq!(text(&headers, "ratelimit-limit"), Some("1000"));
        assert_eq!(text(&headers, "ratelimit-remaining"), Some("100"));
        assert_eq!(text(&headers, "ratelimit-reset"), Some("43200"));
        let headers = written(HeaderStyle::XRateLimit, &decision);
        assert_eq!(text(&headers, "x-ratelimit-limit"), Some("1000"));
        assert_eq!(text(&headers, "x-ratelimit-remaining"), Some("100"));
        assert_eq!(text(&headers, "x-ratelimit-reset"), Some("1775088000"));

        // Of those that refuse, the one that refuses longest.
        use_up(&books, 99_500.into());
        let decision = block_on(books.preview(Check::of("acct"))).unwrap();
        let headers = written(HeaderStyle::Triple, &decision);
        assert_eq!(text(&headers, "ratelimit-limit"), Some("100000"));
        assert_eq!(text(&headers, "ratelimit-remaining"), Some("0"));
        assert_eq!(text(&headers, "ratelimit-reset"), None);
        assert!(written(HeaderStyle::Off, &decision).is_empty());
    }

    #[test]
    fn nothing_to_show_writes_nothing() {
        let books = engine().limit(Limit::per_day("d", "calls", 5).private()).build().unwrap();
        let decision = block_on(books.preview(Check::of("acct"))).unwrap();
        for style in [HeaderStyle::Draft10, HeaderStyle::Triple, HeaderStyle::XRateLimit] {
            assert!(written(style, &decision).is_empty(), "{style:?}");
        }
    }

    #[test]
    fn two_layers_become_one_list() {
        let (policy, state) = ("ratelimit-policy", "ratelimit");
        let books = engine()
            .limit(Limit::per_hour("a", "calls", 10))
            .limit(Limit::per_hour("b", "tokens", 10))
            .build()
            .unwrap();
        let decision = block_on(books.preview(Check::of("acct"))).unwrap();
        let joined = |theirs: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for theirs in theirs {
                headers.append(policy, HeaderValue::from_static(theirs));
            }
            write(HeaderStyle::Draft10, &decision, &mut headers);
            text(&headers, policy).unwrap().to_owned()
        };
        let ours = "\"a\";q=10;w=3600, \"b\";q=10;w=3600;qu=\"tokens\"";
        assert_eq!(joined(&[]), ours);
        assert_eq!(
            joined(&["\"b\";q=1,\t\"x, \\\"y\";q=2", "\"z\\\\\";q=3"]),
            "\"b\";q=1, \"x, \\\"y\";q=2, \"z\\\\\";q=3, \"a\";q=10;w=3600"
        );
        assert_eq!(joined(&["\"a\";q=1, \"b\";q=2"]), "\"a\";q=1, \"b\";q=2");
        for foreign in ["100;w=60", "limit=100, remaining=50", "\"open", "token;q=1, \"a\";q=1"] {
            assert_eq!(joined(&[foreign]), ours, "{foreign}");
        }

        // The same layer twice changes nothing.
        let mut headers = written(HeaderStyle::Draft10, &decision);
        let once = headers.clone();
        write(HeaderStyle::Draft10, &decision, &mut headers);
        assert_eq!(headers, once);
        assert_eq!(parsed(&headers, state).len(), 2);
    }

    #[test]
    fn of_two_single_limits_the_one_with_less_is_kept() {
        let books = engine().limit(Limit::all_time("seats", "calls", 10)).build().unwrap();
        let decision = block_on(books.preview(Check::of("acct"))).unwrap();
        let kept = |theirs: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("ratelimit-limit", HeaderValue::from_static("70"));
            headers.insert("ratelimit-remaining", HeaderValue::from_static(theirs));
            headers.insert("ratelimit-reset", HeaderValue::from_static("7"));
            write(HeaderStyle::Triple, &decision, &mut headers);
            let text = |name| text(&headers, name).map(str::to_owned);
            (text("ratelimit-limit"), text("ratelimit-reset"))
        };
        let theirs = (Some("70".to_owned()), Some("7".to_owned()));
        let ours = (Some("10".to_owned()), None);
        assert_eq!(kept("8"), theirs);
        assert_eq!(kept("10"), theirs);
        assert_eq!(kept("11"), ours);
        assert_eq!(kept("many"), ours);
    }

    #[test]
    fn remembered_policies_follow_windows_and_definitions() {
        let clock = ManualClock::at("2026-01-31T12:00:00Z");
        let books = Engine::builder()
            .meter(Meter::count("calls"))
            .limit(Limit::per_month("month", "calls", 10))
            .limit(Limit::per_hour("large", "calls", 3).dimension("model", "large"))
            .clock(clock.clone())
            .build()
            .unwrap();
        let policy = |check: Check| {
            let decision = block_on(books.preview(check)).unwrap();
            let policy =
                |headers: HeaderMap| text(&headers, "ratelimit-policy").unwrap().to_owned();
            let first = policy(written(HeaderStyle::Draft10, &decision));
            assert_eq!(policy(written(HeaderStyle::Draft10, &decision)), first);
            first
        };
        let plain = || Check::of("acct");
        let large = || Check::of("acct").dimension("model", "large");
        for _ in 0..3 {
            assert_eq!(policy(plain()), "\"month\";q=10;w=2678400");
            assert_eq!(policy(large()), "\"month\";q=10;w=2678400, \"large\";q=3;w=3600");
        }
        clock.advance(Duration::from_secs(24 * 60 * 60));
        assert_eq!(policy(plain()), "\"month\";q=10;w=2419200");
        for cap in 11..20 {
            block_on(books.put_limit(Limit::per_month("month", "calls", cap))).unwrap();
            assert_eq!(policy(plain()), format!("\"month\";q={cap};w=2419200"));
        }
    }

    #[test]
    fn the_wait_of_a_refusal_is_not_told_to_the_next_request_of_that_second() {
        let books = engine().limit(Limit::per_day("daily", "tokens", 10)).build().unwrap();
        let ask = || Check::of("acct").estimate("tokens", 6);
        let state = || {
            let headers = written(HeaderStyle::Draft10, &block_on(books.preview(ask())).unwrap());
            text(&headers, "ratelimit").unwrap().to_owned()
        };
        let permit = block_on(books.check(ask())).unwrap();
        assert_eq!(state(), "\"daily\";r=4;t=1");
        drop(permit);
        assert_eq!(state(), "\"daily\";r=10;t=43200");
        let _permit = block_on(books.check(ask())).unwrap();
        assert_eq!(state(), "\"daily\";r=4;t=1");
    }

    #[test]
    fn integers_are_written_at_every_length() {
        let mut edges = vec![0, 999_999_999_999_999];
        edges.extend((0..=16).flat_map(|power| [10_u64.pow(power) - 1, 10_u64.pow(power) / 10]));
        for integer in edges {
            let mut out = Vec::new();
            write_integer(&mut out, integer);
            assert_eq!(out, integer.to_string().as_bytes());
        }
    }

    fn a_limit() -> impl Strategy<Value = (String, Period, i64, bool)> {
        let period = prop::sample::select(&Period::ALL[..]);
        (
            "[a-zA-Z0-9._:/-]{1,128}",
            period,
            prop_oneof![1..=i64::MAX, 1_i64..100_000_000],
            any::<bool>(),
        )
    }

    proptest! {
        #[test]
        fn integers_are_written_as_they_are(integer in 0..10_u64.pow(16), shift in 0_u32..54) {
            let mut out = Vec::new();
            write_integer(&mut out, integer >> shift);
            prop_assert_eq!(out, (integer >> shift).to_string().into_bytes());
        }

        #[test]
        fn lists_are_read_by_an_independent_parser(
            limits in prop::collection::btree_map("[a-c]{3}", a_limit(), 1..6),
            unit in prop_oneof!["[ -~]{0,12}", "\\PC{0,12}", "[\\x00-\\x1f\\x7f]"],
            used in prop_oneof![0..=i64::MAX, 0_i64..100_000_000],
            balance in prop_oneof!["[ -~]{1,30}", "\\PC{1,30}"],
            held in any::<i64>(),
            seconds in 0_i64..4_000_000_000,
            nanos in 0_i64..1_000_000_000,
        ) {
            let clock = ManualClock::at("2026-01-01T00:00:00Z");
            clock.set(Timestamp::from_nanos(seconds * 1_000_000_000 + nanos));
            let mut engine = Engine::builder()
                .meter(Meter::sum("tokens", "tokens").unit(unit.clone()))
                .default_balance(NewBalance::new(&balance).initial(Amount::from_millionths(held)))
                .clock(clock);
            for (prefix, (id, period, cap, is_private)) in &limits {
                let id = format!("{prefix}{id}").chars().take(128).collect::<String>();
                let cap = Amount::from_millionths(*cap);
                let limit = Limit::new(id, "tokens", *period, cap);
                engine = engine.limit(if *is_private { limit.private() } else { limit });
            }
            let books = engine.build().unwrap();
            use_up(&books, Amount::from_millionths(used));
            let check = Check::of("acct").charge(&balance, |_| Some(Amount::ZERO));
            let decision = block_on(books.preview(check)).unwrap();

            let headers = written(HeaderStyle::Draft10, &decision);
            let shown: Vec<_> = decision.limits().filter(|limit| !limit.is_private()).collect();
            let policies = parsed(&headers, "ratelimit-policy");
            let mut states = parsed(&headers, "ratelimit");
            if balance.bytes().all(|byte| (32..127).contains(&byte)) {
                let whole = u64::try_from(held.max(0) / 1_000_000).unwrap();
                let expected = (balance, vec![("r".to_owned(), integer(whole))]);
                prop_assert_eq!(states.pop(), Some(expected));
            }
            prop_assert_eq!(policies.len(), shown.len());
            prop_assert_eq!(states.len(), shown.len());
            for limit in shown {
                let of = |list: &[(String, Vec<(String, BareItem)>)]| {
                    list.iter().find(|(name, _)| name == limit.id()).unwrap().1.clone()
                };
                let param = |name: &str, value| (name.to_owned(), integer(value));
                let millionths = |amount: Amount| u64::try_from(amount.as_millionths()).unwrap();
                let mut policy = vec![param("q", millionths(limit.limit()) / 1_000_000)];
                policy.extend(limit.window().length_seconds().map(|length| param("w", length)));
                if unit.bytes().all(|byte| (32..127).contains(&byte)) {
                    let unit = sfv::String::from_string(unit.clone()).unwrap();
                    policy.push(("qu".to_owned(), BareItem::String(unit)));
                }
                prop_assert_eq!(of(&policies), policy);

                let mut state = vec![param("r", millionths(limit.remaining()) / 1_000_000)];
                if let Some(reset) = limit.reset() {
                    let left = u64::try_from(reset - seconds).unwrap();
                    let wait = if limit.is_held() { 1 } else { left };
                    state.push(param("t", wait));
                    if limit.is_exceeded() {
                        let longest = decision.retry_after().map(|wait| wait.as_secs());
                        prop_assert!(longest.is_none_or(|longest| wait <= longest));
                    }
                }
                prop_assert_eq!(of(&states), state);
            }
        }
    }
}
