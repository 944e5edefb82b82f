use super::integer::write_integer;
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
        let policy = |headers: HeaderMap| text(&headers, "ratelimit-policy").unwrap().to_owned();
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
