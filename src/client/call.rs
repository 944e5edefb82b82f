use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use reqwest::Method;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::retry::Safety;
use crate::Error;
use crate::policy::CustomerId;

/// One call of the API, before it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(super) method: Method,
    pub(super) path: Vec<String>,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) body: Option<Bytes>,
    /// The same on every attempt.
    pub(super) id: Option<String>,
    pub(super) safety: Safety,
    /// All attempts and waits together; unless set, what the client was told.
    pub(super) within: Option<Duration>,
}

impl Call {
    /// The segments are not yet encoded.
    pub(crate) fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path, Safety::Safe)
    }

    /// A call that is done twice when it is sent twice, until it is told otherwise.
    pub(crate) fn post(path: &[&str]) -> Self {
        Self::new(Method::POST, path, Safety::Once)
    }

    pub(crate) fn put(path: &[&str]) -> Self {
        Self::new(Method::PUT, path, Safety::UnderId)
    }

    pub(crate) fn delete(path: &[&str]) -> Self {
        Self::new(Method::DELETE, path, Safety::UnderId)
    }

    fn new(method: Method, path: &[&str], safety: Safety) -> Self {
        let path = path.iter().map(|&segment| segment.to_owned()).collect();
        Self { method, path, query: Vec::new(), body: None, id: None, safety, within: None }
    }

    /// A query parameter, in place of the one of its name, if there is a value for it.
    pub(crate) fn query(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.query.retain(|(known, _)| *known != name);
            self.query.push((name, value.to_string()));
        }
        self
    }

    pub(crate) fn json(mut self, body: &impl Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Error::invalid("body", "cannot be written").with_source(error))?;
        self.body = Some(body.into());
        Ok(self)
    }

    /// It only reads, whatever its method.
    pub(crate) fn safe(mut self) -> Self {
        self.safety = Safety::Safe;
        self
    }

    /// The other side knows it by its path and body.
    pub(crate) fn repeatable(mut self) -> Self {
        self.safety = Safety::UnderId;
        self
    }

    /// The other side knows it by this `Idempotency-Key`.
    pub(crate) fn under(mut self, id: impl Into<String>) -> Self {
        self.id = Some(key(id.into()));
        self.repeatable()
    }

    /// All attempts and waits together.
    pub(crate) fn within(mut self, within: Duration) -> Self {
        self.within = Some(within);
        self
    }
}

/// The key of something that a customer does under an id, which means another thing for each.
pub(crate) fn key_of(customer: &CustomerId, id: impl fmt::Display) -> String {
    format!("{}:{customer}{id}", customer.as_str().len())
}

/// The id as a header can carry it: itself, or its hash where it is long or has other characters.
fn key(id: String) -> String {
    const MOST: usize = 200;
    if id.len() <= MOST && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return id;
    }
    format!("sha256:{}", URL_SAFE_NO_PAD.encode(Sha256::digest(id)))
}
