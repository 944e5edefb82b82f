use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use uuid::Builder;

use super::Shared;
use super::problem::{Answer, Problem, Reply};
use crate::policy::EventId;

/// How long answers are kept for those who ask again, and how many.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
const MOST: usize = 100_000;

/// One call under an idempotency key.
#[derive(Clone, Debug)]
pub(super) struct Once {
    pub(super) key: String,
    pub(super) path: String,
    /// SHA-256 of the body.
    pub(super) print: [u8; 32],
}

impl Once {
    /// An id for the books, by which they know the call when this process does not, or no longer: of
    /// the same key, path and body the same.
    pub(super) fn id(&self) -> EventId {
        let hash = Sha256::new()
            .chain_update(Sha256::digest(&self.key))
            .chain_update(Sha256::digest(&self.path))
            .chain_update(self.print)
            .finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        EventId::from_uuid(Builder::from_custom_bytes(bytes).into_uuid().as_u128())
    }
}

/// Answers by idempotency key.
#[derive(Default)]
pub(super) struct Replays(Mutex<Table>);

#[derive(Default)]
struct Table {
    calls: HashMap<(String, String), Call>,
    /// The oldest first. A call that failed may be here and no longer in the table.
    order: VecDeque<(Instant, (String, String))>,
}

struct Call {
    print: [u8; 32],
    at: Instant,
    /// `None` while it runs.
    answer: Option<Answer>,
}

/// Does the work, or answers as it was answered before.
pub(super) async fn once<T: Serialize + Send + 'static>(
    app: &Shared,
    once: Option<Once>,
    work: impl Future<Output = Result<Reply<T>, Problem>> + Send + 'static,
) -> Result<Answer, Problem> {
    let Some(once) = once else { return Ok(work.await.into()) };
    if let Some(answer) = app.replays.begin(&once)? {
        return Ok(answer);
    }
    let running = Running { app: app.clone(), once, answer: None };
    // Goes on when the caller goes away, who may ask again.
    let task = tokio::spawn(async move {
        let answer = Answer::from(work.await);
        running.ended(answer.clone());
        answer
    });
    task.await.map_err(|_| Problem::internal())
}

/// Notes the end of a call, also when it panics.
struct Running {
    app: Shared,
    once: Once,
    answer: Option<Answer>,
}

impl Running {
    fn ended(mut self, answer: Answer) {
        self.answer = Some(answer);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What may succeed later is not answered the same for a day.
        let answer = self.answer.take().filter(Answer::is_success);
        self.app.replays.end(&self.once, answer);
    }
}

impl Replays {
    /// The answer, if there is one; else the call is the caller's to do.
    fn begin(&self, once: &Once) -> Result<Option<Answer>, Problem> {
        let now = Instant::now();
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.forget(now);
        let name = (once.path.clone(), once.key.clone());
        match table.calls.get(&name) {
            Some(call) if call.print != once.print => Err(Problem::conflict(
                "idempotency_mismatch",
                "the key was used for another body; use a new one",
            )),
            Some(Call { answer: Some(answer), .. }) => Ok(Some(answer.clone())),
            Some(_) => Err(Problem::conflict(
                "idempotency_in_progress",
                "the call of this key is running; ask again",
            )),
            None => {
                table.order.push_back((now, name.clone()));
                table.calls.insert(name, Call { print: once.print, at: now, answer: None });
                Ok(None)
            }
        }
    }

    fn end(&self, once: &Once, answer: Option<Answer>) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (once.path.clone(), once.key.clone());
        match answer {
            Some(answer) => {
                if let Some(call) = table.calls.get_mut(&name) {
                    call.answer = Some(answer);
                }
            }
            None => drop(table.calls.remove(&name)),
        }
    }
}

impl Table {
    fn forget(&mut self, now: Instant) {
        while let Some((at, _)) = self.order.front() {
            if self.order.len() < MOST && now.duration_since(*at) < KEPT {
                break;
            }
            if let Some((at, name)) = self.order.pop_front()
                && self.calls.get(&name).is_some_and(|call| call.at == at)
            {
                self.calls.remove(&name);
            }
        }
    }
}
