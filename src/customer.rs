//! Which customer is this request?
//!
//! Identity is trusted input: whoever chooses it chooses whose budget is spent. Let a layer of your
//! own authenticate the request and leave what it learnt in the extensions:
//!
//! ```
//! use tower_limitry::customer;
//!
//! #[derive(Clone)]
//! struct User {
//!     account: String,
//! }
//!
//! let identify = customer::extension(|user: &User| &user.account);
//! # let _ = identify;
//! ```
//!
//! [`trusted_header`] is for services behind a gateway that sets the header itself and strips it
//! from what comes in. Anything else is a closure over the request's head.

use std::fmt;
use std::marker::PhantomData;

use http::HeaderName;
use http::request::Parts;

use crate::policy::CustomerId;

/// Tells the customer of a request. Implemented for closures.
///
/// A panic counts as a missing customer.
pub trait Identify: Send + Sync + 'static {
    /// The customer; `None` when the request names none.
    fn identify(&self, request: &Parts) -> Option<CustomerId>;
}

impl<F> Identify for F
where
    F: Fn(&Parts) -> Option<CustomerId> + Send + Sync + 'static,
{
    fn identify(&self, request: &Parts) -> Option<CustomerId> {
        self(request)
    }
}

/// The customer from an extension that an authentication layer left in the request.
///
/// An extension that is not there, or an id that is empty or longer than 256 bytes, is a missing
/// customer.
pub fn extension<T, F>(id: F) -> Extension<T, F>
where
    T: Send + Sync + 'static,
    F: for<'a> Fn(&'a T) -> &'a str + Send + Sync + 'static,
{
    Extension { id, extension: PhantomData }
}

/// Identifies by an extension; made by [`extension`].
#[derive(Clone, Copy)]
pub struct Extension<T, F> {
    id: F,
    extension: PhantomData<fn(&T)>,
}

impl<T, F> fmt::Debug for Extension<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Extension").field(&std::any::type_name::<T>()).finish()
    }
}

impl<T, F> Identify for Extension<T, F>
where
    T: Send + Sync + 'static,
    F: for<'a> Fn(&'a T) -> &'a str + Send + Sync + 'static,
{
    fn identify(&self, request: &Parts) -> Option<CustomerId> {
        CustomerId::new((self.id)(request.extensions.get::<T>()?)).ok()
    }
}

/// The customer from a header that clients cannot set: your gateway sets it, and strips it from what
/// comes in. Without such a gateway anybody spends anybody's budget.
///
/// A header that is missing, is there twice, is no text, is empty or is longer than 256 bytes is a
/// missing customer.
///
/// # Panics
///
/// When the name is no header name in lower case.
#[track_caller]
pub fn trusted_header(name: &'static str) -> TrustedHeader {
    TrustedHeader { name: HeaderName::from_static(name) }
}

/// Identifies by a header; made by [`trusted_header`].
#[derive(Clone, Debug)]
pub struct TrustedHeader {
    name: HeaderName,
}

impl Identify for TrustedHeader {
    fn identify(&self, request: &Parts) -> Option<CustomerId> {
        let headers = &request.headers;
        let first = headers.get(&self.name)?;
        // Most requests have no header twice, and that is quickly told.
        if headers.len() > headers.keys_len() && headers.get_all(&self.name).iter().count() > 1 {
            return None;
        }
        CustomerId::new(first.to_str().ok()?).ok()
    }
}

/// The customer from the key in `Authorization: Bearer`, by its SHA-256: the key itself is kept
/// nowhere, and each key is a customer of its own.
///
/// It only tells keys apart. That a key is valid is for a layer outside to check.
#[cfg(feature = "bearer")]
pub fn bearer_key() -> BearerKey {
    BearerKey(())
}

/// Identifies by a hashed bearer key; made by [`bearer_key`].
#[cfg(feature = "bearer")]
#[derive(Clone, Copy, Debug)]
pub struct BearerKey(());

#[cfg(feature = "bearer")]
impl Identify for BearerKey {
    fn identify(&self, request: &Parts) -> Option<CustomerId> {
        let value = request.headers.get(http::header::AUTHORIZATION)?.as_bytes();
        // RFC 9110, section 11.1: the scheme is case-insensitive.
        let (scheme, key) = value.split_at_checked("Bearer ".len())?;
        if scheme.eq_ignore_ascii_case(b"Bearer ") { hashed(key) } else { None }
    }
}

/// The customer from the key in a header of its own, such as `x-api-key`, by its SHA-256. The same
/// key is the same customer as under [`bearer_key`], and no more checked than there.
///
/// # Panics
///
/// When the name is no header name in lower case.
#[cfg(feature = "bearer")]
#[track_caller]
pub fn header_key(name: &'static str) -> HeaderKey {
    HeaderKey { name: HeaderName::from_static(name) }
}

/// Identifies by a hashed key in a header; made by [`header_key`].
#[cfg(feature = "bearer")]
#[derive(Clone, Debug)]
pub struct HeaderKey {
    name: HeaderName,
}

#[cfg(feature = "bearer")]
impl Identify for HeaderKey {
    fn identify(&self, request: &Parts) -> Option<CustomerId> {
        hashed(request.headers.get(&self.name)?.as_bytes())
    }
}

#[cfg(feature = "bearer")]
fn hashed(key: &[u8]) -> Option<CustomerId> {
    use sha2::{Digest, Sha256};

    let key = key.trim_ascii();
    if key.is_empty() {
        return None;
    }
    let mut id = String::with_capacity(36);
    id.push_str("key_");
    for byte in &Sha256::digest(key)[..16] {
        for half in [byte >> 4, byte & 0xF] {
            id.push(char::from_digit(u32::from(half), 16).unwrap_or('0'));
        }
    }
    CustomerId::new(id).ok()
}
