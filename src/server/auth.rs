use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, HeaderMap};
use sha2::{Digest, Sha256};

use super::problem::Problem;

/// The API keys of a server, by their SHA-256. Clones are the same keys: change one while the server
/// runs, and the next request is judged by it.
///
/// ```
/// use tower_limitry::Engine;
/// use tower_limitry::server::{ApiKeys, Server};
///
/// let keys = ApiKeys::new();
/// keys.replace(["limitry_sk_of_march"]);
/// let server = Server::new(Engine::builder().open("memory:")?).keys(keys.clone());
/// // later: users of the key of March are told that it was revoked
/// keys.replace(["limitry_sk_of_april"]);
/// # drop(server);
/// # Ok::<_, tower_limitry::policy::ConfigError>(())
/// ```
#[derive(Clone, Default)]
pub struct ApiKeys(Arc<ArcSwap<Known>>);

#[derive(Clone, Default)]
struct Known {
    accepted: Vec<Key>,
    revoked: Vec<Key>,
}

/// A key by its hash.
pub(super) type Key = [u8; 32];

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.0.load();
        f.debug_struct("ApiKeys")
            .field("accepted", &known.accepted.len())
            .field("revoked", &known.revoked.len())
            .finish()
    }
}

impl ApiKeys {
    /// No keys: nobody is let in.
    pub fn new() -> Self {
        Self::default()
    }

    /// Accepts one more key.
    pub fn accept(&self, key: impl AsRef<str>) {
        let key = hash(key.as_ref().as_bytes());
        self.change(|known| known.accepted.push(key));
    }

    /// Refuses a key as revoked, whether or not it is accepted, so that its users learn why.
    pub fn revoke(&self, key: impl AsRef<str>) {
        let key = hash(key.as_ref().as_bytes());
        self.change(|known| known.revoked.push(key));
    }

    /// Accepts these keys and no others. Keys that were accepted before and are no longer given are
    /// revoked from here on; one that is given is no longer revoked.
    pub fn replace<K: AsRef<str>>(&self, keys: impl IntoIterator<Item = K>) {
        let keys: Vec<Key> = keys.into_iter().map(|key| hash(key.as_ref().as_bytes())).collect();
        let given: HashSet<Key> = keys.iter().copied().collect();
        self.change(|known| {
            let former = std::mem::replace(&mut known.accepted, keys.clone());
            known.revoked.extend(former);
            known.revoked.retain(|key| !given.contains(key));
        });
    }

    fn change(&self, change: impl Fn(&mut Known)) {
        self.0.rcu(|known| {
            let mut known = Known::clone(known);
            change(&mut known);
            for keys in [&mut known.accepted, &mut known.revoked] {
                keys.sort_unstable();
                keys.dedup();
            }
            known
        });
    }

    /// Lets those in who have a key, and mean this project.
    pub(super) fn admit(&self, headers: &HeaderMap, project: &str) -> Result<Key, Problem> {
        let unauthorized =
            |code, message: &str| Err(Problem::new(StatusCode::UNAUTHORIZED, code, message));
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = given.next() else {
            return unauthorized("missing_api_key", "send the API key as Authorization: Bearer");
        };
        // A proxy in front may have looked at the other.
        if given.next().is_some() {
            return unauthorized("invalid_api_key", "send one Authorization header, not several");
        }
        // RFC 9110, section 11.1: the scheme is case-insensitive.
        let key = value.as_bytes().split_at_checked("Bearer ".len());
        let key = key.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "));
        let Some((_, key)) = key else {
            return unauthorized("invalid_api_key", "the Authorization header holds no Bearer key");
        };
        let key = hash(key.trim_ascii());
        let known = self.0.load();
        // Both lists are always walked to their ends.
        let (revoked, accepted) = (is_among(&known.revoked, &key), is_among(&known.accepted, &key));
        if revoked {
            return unauthorized("expired_api_key", "the API key was revoked");
        }
        if !accepted {
            return unauthorized("invalid_api_key", "the API key is not known");
        }
        let mut named = headers.get_all("x-project").iter();
        if named.any(|named| named.as_bytes() != project.as_bytes()) {
            let message = "the API key is not for the project in X-Project";
            return Err(Problem::new(StatusCode::FORBIDDEN, "insufficient_permissions", message));
        }
        Ok(key)
    }
}

fn hash(key: &[u8]) -> Key {
    Sha256::digest(key).into()
}

/// Takes the same time wherever hashes differ.
fn is_among(known: &[Key], hash: &Key) -> bool {
    known.iter().fold(false, |found, known| {
        let differing = known.iter().zip(hash).fold(0, |bits, (one, other)| bits | (one ^ other));
        found | (std::hint::black_box(differing) == 0)
    })
}
