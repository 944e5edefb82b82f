//! The one thread that has the file: what comes while a transaction is synced goes into the next
//! one, all together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::file::{File, Work};
use crate::file::OpenError;
use crate::{Error, observe};

/// The most steps of one transaction.
const MOST: usize = 1_000;
/// How long to wait after a failure.
const PAUSE: Duration = Duration::from_millis(50);
/// How often what fails is tried when nobody wants the outbox any more.
const LAST_TRIES: usize = 20;

/// How the writer is, and whether anybody still wants it.
#[derive(Debug, Default)]
pub(super) struct Health {
    failing: AtomicBool,
    closing: AtomicBool,
}

impl Health {
    /// The last commit has failed, and none has succeeded since.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Nobody is left who could ask for anything.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}

/// Without the thread nothing can be written, whatever ended it.
struct Gone<'a>(&'a Health);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.failing.store(true, Ordering::Relaxed);
    }
}

/// Commits what comes until nobody is left to send anything. What fails is tried again, whole:
/// nothing is answered before it is as durable as declared.
pub(super) fn serve(mut file: File, steps: &Receiver<Box<dyn Work>>, health: &Health) {
    let _gone = Gone(health);
    let mut pending: Vec<Box<dyn Work>> = Vec::new();
    let mut tries = LAST_TRIES;
    loop {
        let failing = health.is_failing();
        if pending.is_empty() && !failing {
            match next(steps, file.due()) {
                Ok(step) => pending.push(step),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return finish(file),
            }
        }
        while (pending.len() < MOST || failing)
            && let Ok(step) = steps.try_recv()
        {
            pending.push(step);
        }
        let committed =
            if failing { again(&mut file, &mut pending) } else { file.commit(&mut pending) };
        let result = committed.and_then(|()| {
            pending.drain(..).for_each(Work::committed);
            file.keep_up()
        });
        match result {
            Ok(()) if failing => {
                health.failing.store(false, Ordering::Relaxed);
                observe::outbox_recovered();
            }
            Ok(()) => {}
            Err(error) => {
                if !failing {
                    health.failing.store(true, Ordering::Relaxed);
                    observe::outbox_failing(&Error::from(error));
                }
                tries -= usize::from(failing && health.is_closing());
                if tries == 0 {
                    return;
                }
                thread::sleep(PAUSE);
            }
        }
    }
}

fn finish(mut file: File) {
    for _ in 0..LAST_TRIES {
        let Err(error) = file.finish() else { return };
        observe::outbox_failing(&Error::from(error));
        thread::sleep(PAUSE);
    }
}

/// The next step, if it comes in time.
fn next(
    steps: &Receiver<Box<dyn Work>>,
    due: Option<Instant>,
) -> Result<Box<dyn Work>, RecvTimeoutError> {
    match due {
        Some(due) => steps.recv_timeout(due.saturating_duration_since(Instant::now())),
        None => steps.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

/// After a failure: first what makes room, and answers it; then what takes room.
fn again(file: &mut File, pending: &mut Vec<Box<dyn Work>>) -> Result<(), OpenError> {
    let there = file.recover()?;
    pending.drain(..there).for_each(Work::committed);
    pending.sort_by_key(|step| step.is_append());
    let changes = pending.partition_point(|step| !step.is_append());
    file.commit(&mut pending[..changes])?;
    pending.drain(..changes).for_each(Work::committed);
    file.commit(pending)
}
