use std::env::VarError;
use std::fmt;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;

use super::address::Address;
use super::breaker::Terms;
use super::http::{Http, Settings};
use super::{Client, Repeat};
use crate::{Error, ErrorKind, tls};

/// Puts a [`Client`] together.
#[derive(Clone)]
#[must_use]
pub struct ClientBuilder {
    key: Named,
    base_url: Named,
    project: Option<Named>,
    unencrypted: bool,
    roots: Vec<u8>,
    connect: Duration,
    settings: Settings,
}

/// A setting, and the name under which it was given.
#[derive(Clone)]
struct Named(&'static str, String);

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

const KEY: &str = "LIMITRY_API_KEY";
const BASE_URL: &str = "LIMITRY_BASE_URL";
const PROJECT: &str = "LIMITRY_PROJECT";
const HOSTED: &str = "https://api.limitry.com/v1";

impl ClientBuilder {
    pub(super) fn new(key: String) -> Self {
        Self {
            key: Named("key", key),
            base_url: Named("base_url", HOSTED.to_owned()),
            project: None,
            unencrypted: false,
            roots: Vec::new(),
            connect: Duration::from_secs(2),
            settings: Settings {
                attempt: Duration::from_secs(5),
                total: Duration::from_secs(15),
                retries: 2,
                most_answer: 8 * 1024 * 1024,
                repeat: Repeat::default(),
                breaker: Terms {
                    failures: 5,
                    first: Duration::from_secs(1),
                    longest: Duration::from_secs(30),
                },
            },
        }
    }

    pub(super) fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Result<String, VarError>) -> Result<Self, Error> {
        let read = |name: &'static str| match variable(name) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => Ok(Some(Named(name, text.trim().to_owned()))),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err(Error::invalid(name, "is no text")),
        };
        let missing = || Error::invalid(KEY, "is not set; set it to an API key of your project");
        let mut builder = Self::new(String::new());
        builder.key = read(KEY)?.ok_or_else(missing)?;
        builder.project = read(PROJECT)?;
        if let Some(url) = read(BASE_URL)? {
            builder.base_url = url;
        }
        Ok(builder)
    }

    /// Where the API is, with its version: `https://api.limitry.com/v1` unless set. Only `https`,
    /// and plain `http` to this machine.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = Named("base_url", url.into());
        self
    }

    /// The project's id, which a personal access token needs. A project's own key implies it.
    pub fn project(mut self, id: impl Into<String>) -> Self {
        self.project = Some(Named("project", id.into()));
        self
    }

    /// Lets plain `http` go to other machines. Everybody on the way then reads the key, and what
    /// customers use. For networks that encrypt by themselves.
    pub fn danger_send_the_key_unencrypted(mut self) -> Self {
        self.unencrypted = true;
        self
    }

    /// Trusts these certificates too, in PEM: the roots of a network of your own.
    pub fn root_certificates(mut self, pem: &[u8]) -> Self {
        self.roots.extend_from_slice(pem);
        self.roots.push(b'\n');
        self
    }

    /// How long to wait for a connection. Two seconds unless set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect = timeout;
        self
    }

    /// How long one attempt may take, from its start to the last byte of its answer. Five seconds
    /// unless set.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.settings.attempt = timeout;
        self
    }

    /// How long a call may take with all its attempts and waits. 15 seconds unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.total = timeout;
        self
    }

    /// How often a call is sent again, where that does no harm. Twice unless set, as Limitry's own
    /// clients do.
    pub fn retries(mut self, most: u32) -> Self {
        self.settings.retries = most;
        self
    }

    /// The longest answer that is read, in bytes after decompression. 8 MiB unless set.
    pub fn most_answer(mut self, bytes: usize) -> Self {
        self.settings.most_answer = bytes;
        self
    }

    /// What becomes of a call whose outcome is not known. See [`Repeat`].
    pub fn repeat(mut self, repeat: Repeat) -> Self {
        self.settings.repeat = repeat;
        self
    }

    /// After how many failures in a row the API is left alone, for how long at first, and at most:
    /// calls then fail at once, and one at a time looks whether it is back. Five, one second and 30
    /// seconds unless set.
    pub fn breaker(mut self, failures: u32, first: Duration, longest: Duration) -> Self {
        let failures = failures.max(1);
        self.settings.breaker = Terms { failures, first, longest: longest.max(first) };
        self
    }

    /// The client. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a key, URL, project or certificate that is none, by its name; and
    /// when the system has no certificates to trust.
    pub fn build(self) -> Result<Client, Error> {
        let Named(field, url) = &self.base_url;
        let address = Address::new(field, url, self.unencrypted)?;
        let mut tls = tls::config(tls::roots(&self.roots)?)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .default_headers(self.headers()?)
            .user_agent(concat!("tower-limitry/", env!("CARGO_PKG_VERSION")))
            // The key must not go to another host.
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(self.connect)
            .pool_idle_timeout(Duration::from_secs(60))
            .tcp_keepalive(Duration::from_secs(30))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .gzip(true);
        if !address.is_encrypted() {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| {
            Error::new(ErrorKind::Invalid, "the client cannot be set up").with_source(error)
        })?;
        let Named(_, key) = &self.key;
        Ok(Client::new(Http::new(client, address, key, self.settings)))
    }

    fn headers(&self) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        let Named(field, key) = &self.key;
        let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
        let bearer = HeaderValue::try_from(format!("Bearer {key}")).ok().filter(|_| is_key);
        let problem = || Error::invalid(field, "is no API key: give visible ASCII, without spaces");
        let mut bearer = bearer.ok_or_else(problem)?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(Named(field, project)) = &self.project {
            let value = HeaderValue::try_from(project).ok().filter(|value| !value.is_empty());
            let problem = || Error::invalid(field, "is no project id: give visible ASCII");
            headers.insert("x-project", value.ok_or_else(problem)?);
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Client, String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned()).ok_or(VarError::NotPresent)
        };
        let built = ClientBuilder::from_variables(variable).and_then(ClientBuilder::build);
        built.map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_in_the_environment_is_enough() {
        let client = read(&[(KEY, " limitry_sk_1\n"), (BASE_URL, ""), (PROJECT, "")]).unwrap();
        assert!(format!("{client:?}").contains(HOSTED));
        assert!(!format!("{client:?}").contains("limitry_sk_1"));
    }

    #[test]
    fn what_is_wrong_in_the_environment_is_named_and_not_repeated() {
        let key = (KEY, "limitry_sk_1");
        for (variables, named) in [
            (vec![], KEY),
            (vec![(KEY, " ")], KEY),
            (vec![(KEY, "two words")], KEY),
            (vec![(KEY, "sécret")], KEY),
            (vec![key, (BASE_URL, "http://api.limitry.com/v1")], BASE_URL),
            (vec![key, (BASE_URL, "https://me:secret@host")], BASE_URL),
            (vec![key, (PROJECT, "proj\u{1}secret")], PROJECT),
        ] {
            let told = read(&variables).unwrap_err();
            assert!(told.starts_with(&format!("{named}: ")), "{told}");
            for kept in ["words", "cret@", "limitry_sk_1"] {
                assert!(!told.contains(kept), "{told}");
            }
        }
    }
}
