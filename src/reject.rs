//! What is answered in place of the service.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::backend::{Denial, DenialKind, LimitState};
use crate::headers::{self, HeaderStyle, retry_after};
use crate::json::{Object, write_array, write_integer, write_members, write_string};
use crate::{CheckError, ErrorKind};

/// Why a request was answered without reaching the service.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// A limit or the balance does not allow it: 429, or for a balance 402.
    Denied(Denial),
    /// Nobody can be metered, as the request names no customer: 401.
    MissingCustomer,
    /// It could not be checked, and what cannot be checked may not pass: 503.
    Unavailable,
    /// A request with the same idempotency key is still running: 409.
    Conflict,
    /// The idempotency key cannot be read as one: 400.
    InvalidIdempotencyKey,
    /// The check itself makes no sense, which is the fault of this service: 500.
    Misconfigured,
}

impl Refusal {
    /// The denial, if it is one.
    pub fn denial(&self) -> Option<&Denial> {
        match self {
            Self::Denied(denial) => Some(denial),
            _ => None,
        }
    }

    /// A short name for metrics and machine-readable bodies.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.kind().as_str(),
            Self::MissingCustomer => "missing_customer",
            Self::Unavailable => "unavailable",
            Self::Conflict => "in_progress",
            Self::InvalidIdempotencyKey => "invalid_idempotency_key",
            Self::Misconfigured => "misconfigured",
        }
    }

    /// How long to wait before trying again, if waiting helps.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Denied(denial) => denial.retry_after(),
            Self::Unavailable => Some(OUTAGE),
            _ => None,
        }
    }

    /// What the layer answers unless told otherwise: problem details (RFC 9457) with `Retry-After` and
    /// `RateLimit` fields. For handlers that check by themselves.
    pub fn response(&self) -> Response<Bytes> {
        let mut response = response(self, DenialStyle::default(), BalanceStatus::default());
        if let Self::Denied(denial) = self {
            let style = HeaderStyle::default();
            headers::write(style, denial.decision(), response.headers_mut());
            response.extensions_mut().insert(denial.clone());
        }
        response
    }

    /// Whether it is a balance that refused, and no limit.
    fn is_balance(&self) -> bool {
        let kind = self.denial().map(Denial::kind);
        matches!(kind, Some(DenialKind::BalanceShort | DenialKind::NoBalance))
    }

    /// One or two sentences for people. They never name a private limit.
    pub(crate) fn message(&self) -> String {
        let mut message = match self {
            Self::Denied(denial) => denial.to_string(),
            Self::MissingCustomer => "the request does not say who the customer is".to_owned(),
            Self::Unavailable => "usage limits cannot be checked right now".to_owned(),
            Self::Conflict => "a request with the same idempotency key is still running".to_owned(),
            Self::InvalidIdempotencyKey => {
                "the idempotency key is not 1 to 200 characters of ASCII".to_owned()
            }
            Self::Misconfigured => "usage limits are not set up correctly".to_owned(),
        };
        if let Some(first) = message.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        message.push('.');
        if let Some(wait) = self.retry_after() {
            message.push_str(" Please try again in ");
            write_integer(i64::try_from(wait.as_secs()).unwrap_or(i64::MAX), &mut message);
            message.push_str("s.");
        }
        message
    }
}

/// Which clients the body of a refusal is written for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenialStyle {
    /// `application/problem+json` (RFC 9457). Limits have the type
    /// `https://iana.org/assignments/http-problem-types#quota-exceeded`, whose `violated-policies`
    /// are ids of limits, as in the `RateLimit-Policy` field; everything else has `about:blank`. Each
    /// has a `reason`, such as `limit_exceeded`, and denials have what
    /// [`Decision::to_json`](crate::Decision::to_json) gives.
    #[default]
    ProblemDetails,
    /// `{"error":{"message","type","param","code"}}`, which OpenAI's clients read. A limit has the
    /// code `rate_limit_exceeded`; a balance is 429 with the code `insufficient_quota`.
    OpenAi,
    /// `{"type":"error","error":{"type","message"}}`, which Anthropic's clients read. A limit is a
    /// `rate_limit_error`; a balance is 429 with a `billing_error`.
    Anthropic,
}

/// The status of a balance that is too low.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BalanceStatus {
    /// 402 Payment Required: waiting does not help, unless there is a `Retry-After`. Styles for the
    /// clients of others answer 429 all the same, as these know no 402.
    #[default]
    PaymentRequired,
    /// 429 Too Many Requests.
    TooManyRequests,
}

impl From<CheckError> for Refusal {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Denied(denial) => Self::Denied(denial),
            CheckError::Failed(error) => match error.kind() {
                ErrorKind::Conflict => Self::Conflict,
                _ if error.is_transient() => Self::Unavailable,
                _ => Self::Misconfigured,
            },
        }
    }
}

/// The answer to a refused request. The header fields about limits are not in it yet.
pub(crate) fn response(
    refusal: &Refusal,
    style: DenialStyle,
    balance: BalanceStatus,
) -> Response<Bytes> {
    let status = status(refusal, style, balance);
    let (content_type, body) = match style {
        DenialStyle::ProblemDetails => ("application/problem+json", problem(refusal, status)),
        DenialStyle::OpenAi => ("application/json", openai(refusal)),
        DenialStyle::Anthropic => ("application/json", anthropic(refusal)),
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::UNAUTHORIZED {
        // RFC 9110, section 15.5.2: a 401 must say how to authenticate.
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(wait) = refusal.retry_after() {
        headers.insert(RETRY_AFTER, retry_after(wait));
    }
    if style != DenialStyle::ProblemDetails {
        advise(refusal, headers);
    }
    response
}

fn status(refusal: &Refusal, style: DenialStyle, balance: BalanceStatus) -> StatusCode {
    match refusal {
        Refusal::Denied(_)
            if refusal.is_balance()
                && style == DenialStyle::ProblemDetails
                && balance == BalanceStatus::PaymentRequired =>
        {
            StatusCode::PAYMENT_REQUIRED
        }
        Refusal::Denied(_) => StatusCode::TOO_MANY_REQUESTS,
        Refusal::MissingCustomer => StatusCode::UNAUTHORIZED,
        Refusal::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Conflict => StatusCode::CONFLICT,
        Refusal::InvalidIdempotencyKey => StatusCode::BAD_REQUEST,
        Refusal::Misconfigured => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// These clients try again by themselves. They wait for up to a minute as they are told, and try at
/// once where they are told to wait longer: so they are told not to try at all.
fn advise(refusal: &Refusal, headers: &mut HeaderMap) {
    let wait = match refusal {
        Refusal::Denied(denial) => denial.decision().wait(),
        Refusal::Unavailable => Some(OUTAGE),
        // Trying again would meet the same fault.
        Refusal::Misconfigured => None,
        Refusal::MissingCustomer | Refusal::Conflict | Refusal::InvalidIdempotencyKey => return,
    };
    match wait {
        Some(wait) if wait <= Duration::from_secs(60) => {
            let millis = wait.as_nanos().div_ceil(1_000_000).max(1);
            headers.insert(RETRY_AFTER_MS, u64::try_from(millis).unwrap_or(u64::MAX).into());
        }
        _ => {
            headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
        }
    }
}

fn problem(refusal: &Refusal, status: StatusCode) -> String {
    let is_quota = refusal.denial().is_some() && !refusal.is_balance();
    let mut json = String::with_capacity(1024);
    let mut problem = Object::begin(&mut json);
    let (kind, title) = match is_quota {
        true => (QUOTA_EXCEEDED, QUOTA_EXCEEDED_TITLE),
        // RFC 9457, section 4.2.1: a blank type has the status for its title.
        false => ("about:blank", status.canonical_reason().unwrap_or_default()),
    };
    write_string(kind, problem.member("type"));
    write_string(title, problem.member("title"));
    write_integer(status.as_u16(), problem.member("status"));
    write_string(&refusal.message(), problem.member("detail"));
    write_string(refusal.as_str(), problem.member("reason"));
    if let Some(denial) = refusal.denial() {
        let decision = denial.decision();
        if is_quota {
            let violated =
                decision.limits().filter(|limit| limit.is_exceeded() && !limit.is_private());
            write_array(problem.member("violated-policies"), violated, |out, limit| {
                write_string(limit.id(), out);
            });
        }
        write_members(decision, &mut problem);
    }
    problem.end();
    json
}

fn openai(refusal: &Refusal) -> String {
    let (kind, code) = match refusal {
        Refusal::Denied(_) if refusal.is_balance() => {
            ("insufficient_quota", Some("insufficient_quota"))
        }
        Refusal::Denied(denial) => (openai_type(denial), Some("rate_limit_exceeded")),
        Refusal::Unavailable | Refusal::Misconfigured => ("server_error", None),
        Refusal::MissingCustomer | Refusal::Conflict | Refusal::InvalidIdempotencyKey => {
            ("invalid_request_error", None)
        }
    };
    let mut json = String::with_capacity(256);
    let mut body = Object::begin(&mut json);
    let mut error = Object::begin(body.member("error"));
    write_string(&refusal.message(), error.member("message"));
    write_string(kind, error.member("type"));
    error.member("param").push_str("null");
    match code {
        Some(code) => write_string(code, error.member("code")),
        None => error.member("code").push_str("null"),
    }
    error.end();
    body.end();
    json
}

/// There the type of a limit is the unit of what ran out.
fn openai_type(denial: &Denial) -> &'static str {
    let refusing = |limit: &LimitState<'_>| limit.is_exceeded() && !limit.is_private();
    match denial.decision().limits().find(refusing).and_then(|limit| limit.unit()) {
        Some("requests") => "requests",
        Some("tokens") => "tokens",
        _ => "rate_limit_error",
    }
}

fn anthropic(refusal: &Refusal) -> String {
    let kind = match refusal {
        Refusal::Denied(_) if refusal.is_balance() => "billing_error",
        Refusal::Denied(_) => "rate_limit_error",
        Refusal::MissingCustomer => "authentication_error",
        Refusal::Unavailable | Refusal::Misconfigured => "api_error",
        Refusal::Conflict | Refusal::InvalidIdempotencyKey => "invalid_request_error",
    };
    let mut json = String::with_capacity(256);
    let mut body = Object::begin(&mut json);
    write_string("error", body.member("type"));
    let mut error = Object::begin(body.member("error"));
    write_string(kind, error.member("type"));
    write_string(&refusal.message(), error.member("message"));
    error.end();
    body.end();
    json
}

/// When to try again while nothing can be checked: late enough not to add to the trouble.
const OUTAGE: Duration = Duration::from_secs(5);

const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
const QUOTA_EXCEEDED_TITLE: &str =
    "Request cannot be satisfied as assigned quota has been exceeded";

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

#[cfg(test)]
#[cfg(feature = "test-util")]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineBuilder, ManualClock};
    use crate::policy::NewBalance;
    use crate::{Check, CheckError, Limit, Meter, Usage};
    use serde_json::{Value, json};

    fn engine() -> EngineBuilder {
        Engine::builder()
            .meter(Meter::sum("tokens", "tokens").unit("tokens"))
            .meter(Meter::count("calls"))
            .clock(ManualClock::at("2026-04-01T23:59:20.25Z"))
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    /// What refuses a check for 60 tokens after `used` of them.
    fn denied(engine: EngineBuilder, used: impl Into<crate::Amount>) -> Refusal {
        let books = engine.build().unwrap();
        let event = crate::Event::new("acct", "chat", Usage::of("tokens", used.into()));
        block_on(books.record(event)).unwrap();
        let check = Check::of("acct").estimate("tokens", 60);
        match block_on(books.check(check)) {
            Err(CheckError::Denied(denial)) => Refusal::Denied(denial),
            other => panic!("not denied: {other:?}"),
        }
    }

    /// What a balance refuses.
    fn short(initial: i32) -> Refusal {
        let books = engine()
            .limit(Limit::per_day("daily", "tokens", 1_000))
            .default_balance(NewBalance::new("AI \"Credits\"").initial(initial).minimum("0.5"))
            .build()
            .unwrap();
        let check = |amount| {
            let charge = |usage: &Usage| usage.value("tokens");
            block_on(books.check(
                Check::of("acct").estimate("tokens", amount).charge("AI \"Credits\"", charge),
            ))
        };
        let _running = check(100);
        match check(60) {
            Err(CheckError::Denied(denial)) => Refusal::Denied(denial),
            other => panic!("not denied: {other:?}"),
        }
    }

    fn answer(refusal: &Refusal, style: DenialStyle) -> (u16, HeaderMap, Value) {
        let (head, body) = response(refusal, style, BalanceStatus::default()).into_parts();
        assert_eq!(head.headers["cache-control"], "no-store");
        (head.status.as_u16(), head.headers, serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn a_full_limit_is_429_with_the_problem_in_detail() {
        let refusal = denied(
            engine()
                .limit(Limit::per_month("monthly", "tokens", 900))
                .limit(Limit::per_day("daily", "tokens", "100.5").named("Daily \"tokens\""))
                .limit(Limit::per_hour("watched", "tokens", 90).named("Watched").private())
                .limit(Limit::all_time("seats", "calls", 5)),
            90,
        );
        let (status, headers, body) = answer(&refusal, DenialStyle::ProblemDetails);
        assert_eq!(status, 429);
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(headers["retry-after"], "40");
        assert_eq!(headers.len(), 3, "{headers:?}");
        assert_eq!(
            body,
            json!({
                "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
                "title": "Request cannot be satisfied as assigned quota has been exceeded",
                "status": 429,
                "detail": "The limit \"Daily \\\"tokens\\\"\" of 100.5 has no room for this request. \
                           Please try again in 40s.",
                "reason": "limit_exceeded",
                "violated-policies": ["daily"],
                "allowed": false,
                "limits": [
                    {"id": "daily", "name": "Daily \"tokens\"", "meterId": "tokens",
                     "period": "day", "limit": 100.5, "used": 90, "held": 0, "remaining": 10.5,
                     "exceeded": true, "reset": 1_775_088_000},
                    {"id": "monthly", "name": "monthly", "meterId": "tokens", "period": "month",
                     "limit": 900, "used": 90, "held": 0, "remaining": 810, "exceeded": false,
                     "reset": 1_777_593_600},
                    {"id": "seats", "name": "seats", "meterId": "calls", "period": "all_time",
                     "limit": 5, "used": 1, "held": 0, "remaining": 4, "exceeded": false,
                     "reset": null},
                ],
            })
        );
    }

    #[test]
    fn a_private_limit_is_never_named() {
        let engine = || {
            engine()
                .limit(Limit::per_day("shown", "tokens", 100))
                .limit(Limit::per_day("secret", "tokens", 50).named("Secret").private())
        };
        // The private one can never allow it; the other one is merely full.
        for used in [0, 90] {
            let refusal = denied(engine(), used);
            for style in [DenialStyle::ProblemDetails, DenialStyle::OpenAi, DenialStyle::Anthropic]
            {
                let (status, headers, body) = answer(&refusal, style);
                assert_eq!(status, 429);
                assert!(!headers.contains_key("retry-after"));
                assert!(!body.to_string().to_lowercase().contains("secret"), "{body}");
                assert!(!body.to_string().contains("at all"), "{body}");
            }
            let (_, _, body) = answer(&refusal, DenialStyle::ProblemDetails);
            assert_eq!(
                body["violated-policies"],
                if used == 0 { json!([]) } else { json!(["shown"]) }
            );
            assert_eq!(body["limits"].as_array().unwrap().len(), 1);
        }
    }

    #[test]
    fn an_ask_above_the_limit_does_not_tell_to_wait() {
        let refusal = denied(engine().limit(Limit::per_minute("small", "tokens", 50)), 0);
        let (status, headers, body) = answer(&refusal, DenialStyle::ProblemDetails);
        assert_eq!(status, 429);
        assert!(!headers.contains_key("retry-after"));
        assert_eq!(body["reason"], "too_large");
        assert_eq!(
            body["detail"],
            "The request asks for more than the limit \"small\" allows at all."
        );
        let (_, headers, _) = answer(&refusal, DenialStyle::OpenAi);
        assert_eq!(headers["x-should-retry"], "false");
    }

    #[test]
    fn an_empty_balance_is_402_and_waiting_does_not_help() {
        let refusal = short(-2);
        let (status, headers, body) = answer(&refusal, DenialStyle::ProblemDetails);
        assert_eq!(status, 402);
        assert!(!headers.contains_key("retry-after"));
        assert_eq!(body["type"], "about:blank");
        assert_eq!(body["title"], "Payment Required");
        assert_eq!(body["reason"], "balance_short");
        assert_eq!(body["detail"], "The prepaid balance is too low.");
        assert_eq!(body["allowed"], false);
        assert_eq!(body.get("violated-policies"), None);
        assert_eq!(
            body["balance"],
            json!({
                "name": "AI \"Credits\"", "sufficient": false, "unit": "credits",
                "currentBalance": -2, "minimumBalance": 0.5, "held": 0, "availableBalance": -2.5,
            })
        );

        let response =
            response(&refusal, DenialStyle::ProblemDetails, BalanceStatus::TooManyRequests);
        assert_eq!(response.status(), 429);
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!((&body["status"], &body["title"]), (&json!(429), &json!("Too Many Requests")));
    }

    #[test]
    fn held_credits_are_402_with_a_short_wait() {
        let (status, headers, body) = answer(&short(130), DenialStyle::ProblemDetails);
        assert_eq!(status, 402);
        assert_eq!(headers["retry-after"], "1");
        assert_eq!(body["balance"]["held"], 100);
        assert_eq!(body["balance"]["availableBalance"], 29.5);
    }

    #[test]
    fn a_missing_balance_is_told_as_such() {
        let books = engine().build().unwrap();
        let check = Check::of("acct").charge("credits", |_| None);
        let Err(CheckError::Denied(denial)) = block_on(books.check(check)) else { panic!() };
        let (status, _, body) = answer(&Refusal::Denied(denial), DenialStyle::ProblemDetails);
        assert_eq!(status, 402);
        assert_eq!(body["reason"], "no_balance");
        assert_eq!(body["balance"], json!({"name": "credits", "sufficient": false}));
    }

    #[test]
    fn openai_clients_read_why_and_when() {
        let full = denied(engine().limit(Limit::per_day("daily", "tokens", 100)), 90);
        let (status, headers, body) = answer(&full, DenialStyle::OpenAi);
        assert_eq!(status, 429);
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["retry-after"], "40");
        assert_eq!(headers["retry-after-ms"], "39750");
        assert!(!headers.contains_key("x-should-retry"));
        assert_eq!(
            body,
            json!({"error": {
                "message": "The limit \"daily\" of 100 has no room for this request. Please try again in 40s.",
                "type": "tokens", "param": null, "code": "rate_limit_exceeded",
            }})
        );

        let (status, headers, body) = answer(&short(0), DenialStyle::OpenAi);
        assert_eq!(status, 429);
        assert_eq!(headers["x-should-retry"], "false");
        assert_eq!(
            body,
            json!({"error": {
                "message": "The prepaid balance is too low.",
                "type": "insufficient_quota", "param": null, "code": "insufficient_quota",
            }})
        );
    }

    #[test]
    fn anthropic_clients_read_why_and_when() {
        let full = denied(engine().limit(Limit::per_month("monthly", "tokens", 100)), 90);
        let (status, headers, body) = answer(&full, DenialStyle::Anthropic);
        assert_eq!(status, 429);
        assert_eq!(headers["retry-after"], "2505640");
        assert_eq!(headers["x-should-retry"], "false");
        assert!(!headers.contains_key("retry-after-ms"));
        assert_eq!(
            body,
            json!({"type": "error", "error": {
                "type": "rate_limit_error",
                "message":
                    "The limit \"monthly\" of 100 has no room for this request. Please try again in 2505640s.",
            }})
        );
        let (status, _, body) = answer(&short(0), DenialStyle::Anthropic);
        assert_eq!(status, 429);
        assert_eq!(body["error"]["type"], "billing_error");
    }

    #[test]
    fn what_is_not_a_denial_says_so_in_every_style() {
        for (refusal, status, reason) in [
            (Refusal::MissingCustomer, 401, "missing_customer"),
            (Refusal::Unavailable, 503, "unavailable"),
            (Refusal::Conflict, 409, "in_progress"),
            (Refusal::InvalidIdempotencyKey, 400, "invalid_idempotency_key"),
            (Refusal::Misconfigured, 500, "misconfigured"),
        ] {
            let (given, headers, body) = answer(&refusal, DenialStyle::ProblemDetails);
            assert_eq!(given, status);
            assert_eq!(body["type"], "about:blank");
            assert_eq!(body["status"], status);
            assert_eq!(body["reason"], reason);
            assert_eq!(body.get("limits"), None);
            assert_eq!(headers.contains_key("retry-after"), status == 503);
            assert_eq!(headers.contains_key("www-authenticate"), status == 401);
            for style in [DenialStyle::OpenAi, DenialStyle::Anthropic] {
                let (given, headers, body) = answer(&refusal, style);
                assert_eq!(given, status);
                assert!(body["error"]["message"].is_string());
                assert!(body["error"]["type"].is_string());
                assert_eq!(headers.contains_key("retry-after"), status == 503);
                assert_eq!(headers.contains_key("x-should-retry"), status == 500);
            }
        }
    }
}
