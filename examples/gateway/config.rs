//! What the environment says.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use axum::http::Uri;
use tower_limitry::Amount;

#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) upstream: Uri,
    pub(crate) upstream_http2: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) answer_timeout: Duration,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) daily_tokens: u64,
    pub(crate) minute_tokens: Option<u64>,
    pub(crate) credits: Option<Amount>,
    pub(crate) include_usage: bool,
}

impl Config {
    pub(crate) fn read(get: impl Fn(&'static str) -> Option<OsString>) -> Result<Self, Wrong> {
        let environment = Environment(get);
        Ok(Self {
            upstream: environment.upstream()?,
            upstream_http2: environment.switch("UPSTREAM_HTTP2")?,
            connect_timeout: environment.seconds("CONNECT_TIMEOUT", 10)?,
            answer_timeout: environment.seconds("ANSWER_TIMEOUT", 900)?,
            host: environment.text("HOST")?.unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: environment
                .whole("PORT", 0..=u16::MAX.into())?
                .and_then(|port| port.try_into().ok())
                .unwrap_or(3000),
            daily_tokens: environment.whole("DAILY_TOKEN_LIMIT", TOKENS)?.unwrap_or(1_000_000),
            minute_tokens: environment.whole("MINUTE_TOKEN_LIMIT", TOKENS)?,
            credits: environment.credits()?,
            include_usage: environment.switch("INCLUDE_USAGE")?,
        })
    }
}

/// What is told at the start.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.upstream_http2 { " over HTTP/2" } else { "" };
        writeln!(f, "forwarding to {}{version}", self.upstream)?;
        write!(f, "for each customer: {} tokens a day", self.daily_tokens)?;
        if let Some(tokens) = self.minute_tokens {
            write!(f, ", {tokens} a minute")?;
        }
        if let Some(credits) = self.credits {
            write!(f, ", {credits} credits")?;
        }
        if self.include_usage {
            f.write_str("\nasking streams for their usage")?;
        }
        Ok(())
    }
}

const TOKENS: RangeInclusive<u64> = 1..=1_000_000_000_000;

struct Environment<F>(F);

impl<F: Fn(&'static str) -> Option<OsString>> Environment<F> {
    /// Set to nothing is not set.
    fn text(&self, name: &'static str) -> Result<Option<String>, Wrong> {
        match (self.0)(name).map(OsString::into_string) {
            Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(Err(_)) => Err(Wrong::new(name, "is not text", "give text in UTF-8")),
            None => Ok(None),
        }
    }

    fn upstream(&self) -> Result<Uri, Wrong> {
        const NAME: &str = "UPSTREAM_URL";
        const REMEDY: &str =
            "give the URL of the API to forward to, such as https://api.openai.com";
        let wrong = |problem| Wrong::new(NAME, problem, REMEDY);
        let text = self.text(NAME)?.ok_or_else(|| wrong("is not set"))?;
        // It may hold a secret, so it is not repeated.
        let url: Uri = text.parse().map_err(|_| wrong("is no URL"))?;
        let authority = url.authority().map_or("", |authority| authority.as_str());
        if !matches!(url.scheme_str(), Some("http" | "https")) || authority.is_empty() {
            return Err(wrong("does not begin with http:// or https:// and a host"));
        }
        if url.port().is_none() && url.host() != Some(authority) && !authority.contains('@') {
            return Err(wrong("has a port that is none"));
        }
        if authority.contains('@') || url.query().is_some() {
            return Err(wrong("has a user or a query, which would not be sent"));
        }
        Ok(url)
    }

    fn whole(&self, name: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>, Wrong> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let (least, most) = range.into_inner();
                let remedy = format!("give a whole number from {least} to {most}");
                Err(Wrong::new(name, format!("is {text:?}"), remedy))
            }
        }
    }

    fn seconds(&self, name: &'static str, default: u64) -> Result<Duration, Wrong> {
        let seconds = self.whole(name, 1..=86_400)?;
        Ok(Duration::from_secs(seconds.unwrap_or(default)))
    }

    fn credits(&self) -> Result<Option<Amount>, Wrong> {
        const NAME: &str = "CREDITS";
        let Some(text) = self.text(NAME)? else { return Ok(None) };
        match text.parse::<Amount>() {
            Ok(credits) if !credits.is_negative() => Ok(Some(credits)),
            _ => Err(Wrong::new(NAME, format!("is {text:?}"), "give a number, 0 or more")),
        }
    }

    fn switch(&self, name: &'static str) -> Result<bool, Wrong> {
        match self.text(name)?.as_deref() {
            None | Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(text) => Err(Wrong::new(name, format!("is {text:?}"), "give 1, or 0 for off")),
        }
    }
}

/// A variable that makes no sense: which, why, and what would.
#[derive(Debug)]
pub(crate) struct Wrong {
    name: &'static str,
    problem: String,
    remedy: String,
}

impl Wrong {
    fn new(name: &'static str, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, problem: problem.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}; {}", self.name, self.problem, self.remedy)
    }
}

impl Error for Wrong {}
