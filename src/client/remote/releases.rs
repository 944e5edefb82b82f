//! Releases on their way: in one call what there is, again until the hold has ended by itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::begun::Open;
use crate::backend::Name;
use crate::client::{Call, Http};
use crate::observe;
use crate::wire::{EndedBody, HoldsBody, ResultsBody};
use crate::{Error, ErrorKind};

/// How many one call names at most.
const BATCH: usize = 1_000;
/// How many wait at most. Holds beyond that end by themselves.
const MOST: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Releases {
    inner: Mutex<Inner>,
    work: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Release>,
    closed: bool,
}

#[derive(Debug)]
struct Release {
    name: Name,
    /// Since when it waits.
    since: Instant,
    /// For how long the hold lives without it.
    lifetime: Duration,
    answer: oneshot::Sender<Result<(), Error>>,
    /// Until it was tried once.
    begun: Option<Open>,
}

impl Releases {
    /// Puts one in the queue.
    pub(super) fn push(
        &self,
        name: Name,
        lifetime: Duration,
        begun: Open,
    ) -> oneshot::Receiver<Result<(), Error>> {
        let (answer, receiver) = oneshot::channel();
        let mut inner = self.lock();
        if inner.waiting.len() >= MOST {
            drop(inner);
            let message = "too many releases wait for the server; the hold ends by itself";
            // Whether somebody waits for the answer is their choice.
            let _ = answer.send(Err(Error::new(ErrorKind::Unavailable, message)));
            observe::releases_dropped(1);
        } else {
            let since = Instant::now();
            let begun = Some(begun);
            inner.waiting.push_back(Release { name, since, lifetime, answer, begun });
            drop(inner);
            self.work.notify_one();
        }
        receiver
    }

    /// No more come; what is there is still sent.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_one();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// The next ones, as many as one call takes; `None` when there will never be more.
    async fn next(&self) -> Option<Vec<Release>> {
        loop {
            {
                let mut inner = self.lock();
                let length = inner.waiting.len().min(BATCH);
                if length > 0 {
                    return Some(inner.waiting.drain(..length).collect());
                }
                if inner.closed {
                    return None;
                }
            }
            self.work.notified().await;
        }
    }

    /// Those that have failed and may still pass go first again.
    fn again(&self, failed: Vec<Release>) {
        let mut inner = self.lock();
        failed.into_iter().rev().for_each(|release| inner.waiting.push_front(release));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what comes, until there will be no more.
pub(super) async fn send_all(http: Http, releases: Arc<Releases>) {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(2);
    let mut pause = FIRST;
    while let Some(mut batch) = releases.next().await {
        let answers = send(&http, &batch).await;
        let mut failed = Vec::new();
        for (at, mut release) in batch.drain(..).enumerate() {
            let result = match &answers {
                Ok(results) => result(results.get(at)),
                Err(error) => Err(Error::new(error.kind(), error.to_string())),
            };
            let may_pass = result.as_ref().is_err_and(Error::is_transient);
            if may_pass && release.since.elapsed() < release.lifetime {
                release.begun = None;
                failed.push(release);
                continue;
            }
            observe::releases_dropped(usize::from(may_pass));
            let _ = release.answer.send(result);
        }
        if failed.is_empty() {
            pause = FIRST;
            continue;
        }
        releases.again(failed);
        sleep(pause).await;
        pause = LONGEST.min(pause * 2);
    }
}

async fn send(http: &Http, batch: &[Release]) -> Result<Vec<EndedBody>, Error> {
    const WITHIN: Duration = Duration::from_secs(5);
    let holds = batch.iter().map(|release| (&release.name).into()).collect();
    let call = Call::post(&["x", "release"]).repeatable().within(WITHIN);
    let call = call.json(&HoldsBody { holds, hold_seconds: None })?;
    let answer = timeout(WITHIN, http.fetch::<ResultsBody<EndedBody>>(call)).await;
    let late = |_| Error::new(ErrorKind::TimedOut, "the API did not answer in time");
    answer.map_err(late)?.map(|answer| answer.results)
}

fn result(ended: Option<&EndedBody>) -> Result<(), Error> {
    match ended {
        Some(ended) if ended.done => Ok(()),
        Some(EndedBody { error: Some(detail), .. }) => Err(super::finish::told(detail)),
        _ => Err(Error::new(ErrorKind::TimedOut, "the API left out a hold")),
    }
}
