//! Secrets, and what is signed with them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::Error;

/// What every secret begins with.
const PREFIX: &str = "whsec_";

/// One secret, or several while one takes the place of another.
#[derive(Clone)]
pub(super) struct Secrets(Vec<Hmac<Sha256>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl Secrets {
    /// Reads secrets that stand apart by spaces.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let keys = text.split_ascii_whitespace().map(|secret| {
            let key = secret.strip_prefix(PREFIX).and_then(|key| STANDARD.decode(key).ok());
            let key = key.filter(|key| (24..=64).contains(&key.len()))?;
            Hmac::new_from_slice(&key).ok()
        });
        match keys.collect::<Option<Vec<_>>>() {
            Some(keys) if !keys.is_empty() => Ok(Self(keys)),
            _ => Err(Error::invalid(
                "secret",
                "is none; give whsec_ and the base64 of 24 to 64 bytes, or several by spaces",
            )),
        }
    }

    /// The value of `webhook-signature`: one signature for each secret.
    pub(super) fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let signed = self.0.iter().map(|key| {
            let mac = content(key, id, timestamp, body).finalize().into_bytes();
            format!("v1,{}", STANDARD.encode(mac))
        });
        signed.collect::<Vec<_>>().join(" ")
    }

    /// Whether one of the signatures is by one of the secrets. Takes the same time wherever a
    /// signature differs.
    pub(super) fn signed(&self, id: &str, timestamp: &str, body: &[u8], signatures: &str) -> bool {
        let known = signatures
            .split(' ')
            .filter_map(|signature| STANDARD.decode(signature.strip_prefix("v1,")?).ok());
        let known: Vec<_> = known.take(MOST_SIGNATURES).collect();
        self.0.iter().any(|key| {
            let content = content(key, id, timestamp, body);
            known.iter().any(|mac| content.clone().verify_slice(mac).is_ok())
        })
    }
}

/// More than anybody has secrets at a time.
const MOST_SIGNATURES: usize = 16;

fn content(key: &Hmac<Sha256>, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    mac
}
