//! Sends calls: again where that does no harm, not at all while the other side is down, and never
//! for longer than there is time.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use super::address::Address;
use super::attempt::{self, Failed};
use super::breaker::{Breaker, Health, Pass, Shown, Terms};
use super::call::Call;
use super::retry::{Safety, wait};
use super::{BreakerOpen, Repeat};
use crate::{Error, ErrorKind, observe};

/// The way to the API. Cheap to clone; clones share connections and the circuit breaker.
#[derive(Clone)]
pub(crate) struct Http(Arc<Inner>);

struct Inner {
    client: reqwest::Client,
    address: Address,
    /// So that nobody's words put it into an error.
    key: Box<str>,
    settings: Settings,
    breaker: Mutex<Breaker>,
    started: Instant,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// One attempt.
    pub(super) attempt: Duration,
    /// All attempts and waits.
    pub(super) total: Duration,
    pub(super) retries: u32,
    pub(super) most_answer: usize,
    pub(super) repeat: Repeat,
    pub(super) breaker: Terms,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("address", &self.0.address)
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

impl Http {
    pub(super) fn new(
        client: reqwest::Client,
        address: Address,
        key: &str,
        settings: Settings,
    ) -> Self {
        let breaker = Mutex::new(Breaker::new(settings.breaker));
        let (key, started) = (key.into(), Instant::now());
        Self(Arc::new(Inner { client, address, key, settings, breaker, started }))
    }

    /// Sends the call and reads its answer as JSON.
    pub(crate) fn fetch<T: DeserializeOwned + Send>(
        &self,
        call: Call,
    ) -> impl Future<Output = Result<T, Error>> + Send + use<T> {
        let inner = Arc::clone(&self.0);
        async move {
            let read = |body: &Bytes| {
                serde_json::from_slice(body).map_err(|error| attempt::unreadable(&error))
            };
            inner.call(call, read).await
        }
    }

    /// What becomes of a call whose outcome is not known.
    pub(crate) fn repeat(&self) -> Repeat {
        self.0.settings.repeat
    }

    /// Sends a call whose answer, if it is a success, says no more than that.
    pub(crate) fn send(
        &self,
        call: Call,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let inner = Arc::clone(&self.0);
        async move { inner.call(call, |_| Ok(())).await }
    }
}

impl Inner {
    async fn call<T: Send>(
        &self,
        call: Call,
        read: impl Fn(&Bytes) -> Result<T, Failed>,
    ) -> Result<T, Error> {
        let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
        let url = self.address.of(&path, &call.query)?;
        let safety = match (call.safety, self.settings.repeat) {
            // A declared choice: the other side does not know ids.
            (Safety::UnderId, Repeat::AtMostOnce) if call.id.is_some() => Safety::Once,
            (safety, _) => safety,
        };
        let within = call.within.unwrap_or(self.settings.total);
        let end = Instant::now() + within;
        let mut failures = 0;
        let mut may_be_done = false;
        loop {
            let mut passing = match self.admit() {
                Ok(passing) => passing,
                Err(rest) => return Err(resting(rest, may_be_done && safety != Safety::Safe)),
            };
            let left = end.saturating_duration_since(Instant::now());
            let result = self.attempt(&call, url.clone(), left).await;
            let result = result.and_then(|body| read(&body));
            passing.health = result.as_ref().map_or_else(Failed::health, |_| Health::Well);
            drop(passing);
            let failed = match result {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            if may_be_done && call.method == Method::DELETE && failed.is_not_found() {
                // An attempt before this one did it.
                return read(&Bytes::new()).map_err(|failed| failed.error(safety, true));
            }
            failures += 1;
            may_be_done |= failed.is_unknown();
            let left = end.saturating_duration_since(Instant::now());
            let again = failures <= self.settings.retries && failed.may_repeat(safety);
            let wait = again.then(|| wait(failures, failed.retry_after(), left, random(failures)));
            let Some(wait) = wait.flatten() else { return Err(failed.error(safety, may_be_done)) };
            observe::api_repeated();
            sleep(wait).await;
        }
    }

    async fn attempt(&self, call: &Call, url: Url, left: Duration) -> Result<Bytes, Failed> {
        let mut request = self.client.request(call.method.clone(), url);
        if let Some(body) = &call.body {
            let json = HeaderValue::from_static("application/json");
            request = request.header(CONTENT_TYPE, json).body(body.clone());
        }
        if let Some(id) = &call.id {
            request = request.header("idempotency-key", id);
        }
        let within = self.settings.attempt.min(left);
        let answered = timeout(within, async {
            let response = request.send().await.map_err(Failed::transport)?;
            attempt::read(response, self.settings.most_answer, &self.key).await
        });
        answered.await.unwrap_or_else(|_| Err(Failed::time(within)))
    }

    fn admit(&self) -> Result<Passing<'_>, Duration> {
        let pass = self.with_breaker(|breaker, now| breaker.admit(now))?;
        Ok(Passing { inner: self, pass, health: Health::Untold })
    }

    fn with_breaker<T>(&self, work: impl FnOnce(&mut Breaker, Duration) -> T) -> T {
        let now = self.started.elapsed();
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let before = breaker.shown();
        let result = work(&mut breaker, now);
        let after = breaker.shown();
        drop(breaker);
        if before != after {
            observe::api_breaker(match after {
                Shown::Closed => "closed",
                Shown::HalfOpen => "half-open",
                Shown::Open => "open",
            });
        }
        result
    }
}

/// An attempt on its way. Dropped with its call, it leaves its place to another.
struct Passing<'a> {
    inner: &'a Inner,
    pass: Pass,
    health: Health,
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        self.inner.with_breaker(|breaker, now| breaker.ended(self.pass, self.health, now));
    }
}

fn resting(rest: Duration, may_be_done: bool) -> Error {
    let kind = if may_be_done { ErrorKind::TimedOut } else { ErrorKind::Unavailable };
    let message = "the API failed repeatedly and is left alone for a while";
    Error::new(kind, message).with_source(BreakerOpen { remaining: rest })
}

/// It only has to spread.
fn random(seed: u32) -> u64 {
    RandomState::new().hash_one(seed)
}
