//! One attempt: a signed POST, and what the answer means.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use reqwest::{Client, Url};

use super::address::{PublicOnly, is_public};
use super::secret::Secrets;
use crate::policy::Timestamp;
use crate::{Error, ErrorKind, tls};

/// Sends to endpoints.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    client: Client,
    within: Duration,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It was taken.
    Delivered,
    /// It was not, or that is not known; the endpoint may have asked for a wait.
    Failed(Option<Duration>),
    /// The endpoint wants nothing any more.
    Gone,
}

impl Sender {
    /// Trusts what the system trusts, and the roots in this PEM.
    pub(super) fn new(allows_private: bool, within: Duration, roots: &[u8]) -> Result<Self, Error> {
        let builder = Client::builder()
            .tls_backend_preconfigured(tls::config(tls::roots(roots)?)?)
            .user_agent(concat!("tower-limitry/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            // One in between would look the host up, and where it leads could not be known.
            .no_proxy()
            .https_only(!allows_private)
            .timeout(within);
        let builder =
            if allows_private { builder } else { builder.dns_resolver(Arc::new(PublicOnly)) };
        let client = builder.build().map_err(|error| {
            Error::new(ErrorKind::Unavailable, "webhooks cannot be sent from here")
                .with_source(error.without_url())
        })?;
        Ok(Self { client, within })
    }

    /// Sends a message, signed at this time.
    pub(super) async fn send(
        &self,
        url: &Url,
        secrets: &Secrets,
        (id, body): (&str, String),
        now: Timestamp,
    ) -> Sent {
        let timestamp = now.as_seconds().to_string();
        let signature = secrets.sign(id, &timestamp, body.as_bytes());
        let asked = self
            .client
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(body)
            .send();
        // The client keeps to the time by itself, but for what its resolver takes.
        match tokio::time::timeout(self.within.saturating_mul(2), asked).await {
            Ok(Ok(answer)) => meaning(answer.status(), answer.headers(), now),
            Ok(Err(_)) | Err(_) => Sent::Failed(None),
        }
    }
}

fn meaning(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Sent {
    match status {
        StatusCode::GONE => Sent::Gone,
        _ if status.is_success() => Sent::Delivered,
        _ => Sent::Failed(retry_after(headers, now)),
    }
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(Timestamp::from_seconds(date.timestamp().as_second()).duration_since(now))
}

/// An endpoint's URL, if webhooks may be sent there.
pub(super) fn url(text: &str, allows_private: bool) -> Result<Url, Error> {
    // A URL may hold a secret: no error repeats it.
    let invalid = |problem: &str| Error::invalid("endpoint URL", problem);
    let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
    match url.scheme() {
        "https" => {}
        "http" if allows_private => {}
        _ => return Err(invalid("is not https; what webhooks tell is not for everybody")),
    }
    let host = url.host_str().ok_or_else(|| invalid("names no host"))?;
    // A name is looked at when it is looked up; an address never is.
    let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    if !allows_private && address.is_ok_and(|address| !is_public(address)) {
        return Err(invalid("is a private address; give a host that anybody can reach"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_2xx_is_success_and_410_is_the_end() {
        let none = HeaderMap::new();
        let mean = |status: u16| {
            meaning(StatusCode::from_u16(status).unwrap_or_default(), &none, Timestamp::UNIX_EPOCH)
        };
        for status in [201, 204, 299] {
            assert_eq!(mean(status), Sent::Delivered, "{status}");
        }
        for status in [301, 302, 307, 308, 400, 401, 404, 429, 500, 503] {
            assert_eq!(mean(status), Sent::Failed(None), "{status}");
        }
        assert_eq!(mean(410), Sent::Gone);
    }

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let now = Timestamp::from_seconds(784_111_777 - 60);
        let asked = |text| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(asked("120"), Some(120));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(60));
        assert_eq!(asked("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        for nonsense in ["", "-1", "soon", "1.5"] {
            assert_eq!(asked(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn only_https_to_what_anybody_reaches() {
        for sound in
            ["https://example.com/hook?key=1", "https://8.8.8.8", "https://[2606::1]:8443/"]
        {
            assert!(url(sound, false).is_ok(), "{sound}");
        }
        for unsound in [
            "http://example.com",
            "ftp://example.com",
            "https://",
            "example.com",
            "",
            "https://127.0.0.1",
            "https://2130706433",
            "https://0x7f.1",
            "https://127.1",
            "https://[::1]",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest",
        ] {
            assert!(url(unsound, false).is_err(), "{unsound}");
        }
        assert!(url("http://127.0.0.1:8080/", true).is_ok());
        assert!(url("file:///etc/passwd", true).is_err());
    }
}
