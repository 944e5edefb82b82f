use std::fmt;

use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, HeaderMap};
use sha2::{Digest, Sha256};

use super::problem::Problem;

/// The keys, by their SHA-256.
#[derive(Default)]
pub(super) struct Keys {
    accepted: Vec<[u8; 32]>,
    revoked: Vec<[u8; 32]>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("accepted", &self.accepted.len())
            .field("revoked", &self.revoked.len())
            .finish()
    }
}

impl Keys {
    pub(super) fn accept(&mut self, key: &str) {
        self.accepted.push(hash(key.as_bytes()));
    }

    pub(super) fn revoke(&mut self, key: &str) {
        self.revoked.push(hash(key.as_bytes()));
    }

    /// Lets those in who have a key, and mean this project.
    pub(super) fn admit(&self, headers: &HeaderMap, project: &str) -> Result<(), Problem> {
        let unauthorized =
            |code, message: &str| Err(Problem::new(StatusCode::UNAUTHORIZED, code, message));
        let Some(value) = headers.get(AUTHORIZATION) else {
            return unauthorized("missing_api_key", "send the API key as Authorization: Bearer");
        };
        // RFC 9110, section 11.1: the scheme is case-insensitive.
        let key = value.as_bytes().split_at_checked("Bearer ".len());
        let key = key.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "));
        let Some((_, key)) = key else {
            return unauthorized("invalid_api_key", "the Authorization header holds no Bearer key");
        };
        let hash = hash(key.trim_ascii());
        // Both lists are always walked to their ends.
        let (revoked, accepted) = (is_among(&self.revoked, &hash), is_among(&self.accepted, &hash));
        if revoked {
            return unauthorized("expired_api_key", "the API key was revoked");
        }
        if !accepted {
            return unauthorized("invalid_api_key", "the API key is not known");
        }
        match headers.get("x-project") {
            Some(named) if named.as_bytes() != project.as_bytes() => {
                let message = "the API key is not for the project in X-Project";
                Err(Problem::new(StatusCode::FORBIDDEN, "insufficient_permissions", message))
            }
            _ => Ok(()),
        }
    }
}

fn hash(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Takes the same time wherever hashes differ.
fn is_among(known: &[[u8; 32]], hash: &[u8; 32]) -> bool {
    known.iter().fold(false, |found, known| {
        let differing = known.iter().zip(hash).fold(0, |bits, (one, other)| bits | (one ^ other));
        found | (std::hint::black_box(differing) == 0)
    })
}
