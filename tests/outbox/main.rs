//! The outbox: settlements wait in a local file until the backend has them.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tower_limitry::backend::Backend;
use tower_limitry::outbox::{Outbox, OutboxBuilder};
use tower_limitry::test_util::Scripted;
use tower_limitry::{Books, Check, Error, ErrorKind, Permit};

#[cfg(target_os = "linux")]
#[path = "../support/faulty.rs"]
mod faulty;
#[path = "../support/mod.rs"]
mod support;

mod delivery;
#[cfg(target_os = "linux")]
mod disk;
mod durable;
mod forgetful;
mod missing;
mod order;
mod refused;
mod room;
mod target;

use support::*;
use target::{Answer, Target};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("outbox").join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("usage.outbox")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A target whose clock is moved by hand.
fn target() -> Target {
    let books = tokens(&noon()).build().unwrap();
    Target::new(Scripted::over(&books))
}

/// Retries come fast where nobody looks at the time.
fn soon<B: Backend>(backend: &B) -> OutboxBuilder<B> {
    let longest = 4 * MILLISECOND;
    Outbox::builder(backend.clone()).backoff(MILLISECOND, longest)
}

const MILLISECOND: Duration = Duration::from_millis(1);
/// Longer than anything takes that is not stuck.
const STUCK: Duration = Duration::from_secs(30);

/// Opens a file that another outbox may be about to close.
async fn open<B: Backend>(builder: OutboxBuilder<B>, path: &Path) -> Outbox<B> {
    try_open(builder, path).await.unwrap()
}

async fn try_open<B: Backend>(
    builder: OutboxBuilder<B>,
    path: &Path,
) -> Result<Outbox<B>, tower_limitry::Error> {
    builder.open_wait(STUCK).open(path).await
}

/// Waits until it is so.
#[track_caller]
fn until(mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let end = Instant::now() + STUCK;
        while !holds() {
            assert!(Instant::now() < end, "it never came to this: {caller}");
            yield_now().await;
        }
    }
}

/// Waits without letting a paused clock go on by itself.
async fn in_no_time<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let end = Instant::now() + STUCK;
    loop {
        let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(answer) = polled {
            return answer;
        }
        assert!(Instant::now() < end, "it never ended");
        // The file is written by a thread of its own.
        std::thread::yield_now();
        yield_now().await;
    }
}

async fn permit<B: Backend>(outbox: &Outbox<B>, customer: &str, id: &str) -> Permit<Outbox<B>> {
    Books::new(outbox.clone()).check(Check::of(customer).id(id)).await.unwrap()
}

/// Checks, and settles one token under that id.
async fn settle<B: Backend>(outbox: &Outbox<B>, customer: &str, id: &str) {
    permit(outbox, customer, id).await.settle(total(1)).await.unwrap();
}

/// Why a check is not answered.
async fn unavailable<B: Backend>(outbox: &Outbox<B>) -> Error {
    let error = failed(&Books::new(outbox.clone()).erased(), Check::of("somebody")).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    error
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(customer, id)| ((*customer).into(), (*id).into())).collect()
}
