//! The events of settlements, in as few calls as there can be. One that cannot be taken is found by
//! halves.

use std::collections::HashSet;

use tokio::time::{Instant, timeout_at};

use super::Inner;
use super::deliver::{
    Outcome, again, amount, declared, held_back, in_time, is_once, late, left, not_known,
};
use super::sent::Step;
use crate::backend::{Hold, Settlement};
use crate::client::{ApiError, CountAnswer, Told};
use crate::policy::CustomerId;
use crate::{Error, ErrorKind};

/// Records the events at those places of the batch. Answers what became of each.
pub(super) async fn record(
    inner: &Inner,
    batch: &[Settlement],
    all: Vec<usize>,
    end: Instant,
) -> Vec<(usize, Outcome)> {
    let mut recording = Recording {
        inner,
        batch,
        end,
        outcomes: Vec::with_capacity(all.len()),
        stopped: HashSet::new(),
        has_taken: false,
    };
    let all = recording.not_sent_before(all).await;
    let mut parts = recording.parts(all);
    while let Some(part) = parts.pop() {
        let part = recording.hold_back(part);
        if part.is_empty() {
            continue;
        }
        let most = inner.suspects.together();
        if part.len() > most {
            parts.extend(part.chunks(most).rev().map(<[_]>::to_vec));
            continue;
        }
        let Err(error) = recording.send(&part).await else {
            recording.taken(&part);
            continue;
        };
        if is_once(inner) && error.is_unknown() {
            recording.end(&part, &declared(inner, error));
        } else if has_failed_at(&error) {
            if let [alone] = part[..] {
                recording.failed_alone(alone, &error);
                if !recording.has_taken {
                    // The API may fail at everything, and is asked again later.
                    parts.drain(..).for_each(|part| recording.stop(&part, &error));
                }
            } else {
                inner.suspects.failed_together(part.len());
                parts.extend(halves(&part));
            }
        } else {
            let error = declared(inner, error);
            if error.is_transient() {
                recording.stop(&part, &error);
            } else if part.len() == 1 {
                recording.end(&part, &error);
            } else {
                parts.extend(halves(&part));
            }
        }
    }
    recording.outcomes
}

/// The later half, and the earlier one on top of it.
fn halves(part: &[usize]) -> [Vec<usize>; 2] {
    let (first, second) = part.split_at(part.len() / 2);
    [second.to_vec(), first.to_vec()]
}

/// Whether the call arrived, and something behind that address failed at it.
pub(super) fn has_failed_at(error: &Error) -> bool {
    error.is_unknown() && ApiError::of(error).is_some_and(|api| api.status() >= 500)
}

struct Recording<'a> {
    inner: &'a Inner,
    batch: &'a [Settlement],
    end: Instant,
    outcomes: Vec<(usize, Outcome)>,
    /// Customers of whom nothing more is sent.
    stopped: HashSet<&'a CustomerId>,
    /// Whether the API has taken anything.
    has_taken: bool,
}

impl<'a> Recording<'a> {
    fn hold(&self, at: usize) -> &'a Hold {
        &self.batch[at].hold
    }

    /// Leaves out what may be sent only once, and was.
    async fn not_sent_before(&mut self, all: Vec<usize>) -> Vec<usize> {
        let (inner, once) = (self.inner, is_once(self.inner));
        let (before, all): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|at| once && inner.sent.step(self.hold(*at)) == Some(Step::Recording));
        if !before.is_empty() {
            match inner.sent.note(before.iter().map(|at| self.unrecorded(*at))).await {
                Ok(()) => self.end(&before, &not_known()),
                Err(error) => self.stop(&before, &error),
            }
        }
        all
    }

    /// What goes together, the first on top: those at which the API failed go alone, and after the
    /// others; what follows them of their customers comes last.
    fn parts(&self, all: Vec<usize>) -> Vec<Vec<usize>> {
        let (mut first, mut alone, mut behind) = (Vec::new(), Vec::new(), Vec::new());
        let mut waiting: HashSet<&CustomerId> = HashSet::new();
        for at in all {
            let hold = self.hold(at);
            if waiting.contains(hold.customer()) {
                behind.push(at);
            } else if let Some(turn) = self.inner.suspects.turn(hold) {
                waiting.insert(hold.customer());
                alone.push((turn, at));
            } else {
                first.push(at);
            }
        }
        alone.sort_unstable();
        let alone = alone.into_iter().rev().map(|(_, at)| vec![at]);
        [behind].into_iter().chain(alone).chain([first]).collect()
    }

    /// Without those whose customers have an earlier one that has to go first.
    fn hold_back(&mut self, part: Vec<usize>) -> Vec<usize> {
        let (held, part): (Vec<_>, Vec<_>) =
            part.into_iter().partition(|at| self.stopped.contains(self.hold(*at).customer()));
        self.outcomes.extend(held.into_iter().map(|at| (at, Err(held_back()))));
        part
    }

    async fn send(&self, part: &[usize]) -> Outcome {
        let Self { inner, batch, end, .. } = *self;
        let events: Vec<Told<'_>> = part.iter().map(|at| told(&batch[*at])).collect();
        let call = inner.client.batch(&events)?.within(left(end));
        in_time(end)?;
        let once = is_once(inner);
        if once {
            let holds = part.iter().map(|at| (self.hold(*at), Some(Step::Recording)));
            inner.sent.note(holds).await?;
        }
        // Only the API's own answer says that they are recorded.
        let answer = timeout_at(end, inner.client.http().fetch::<CountAnswer>(call)).await;
        let answer = answer.unwrap_or_else(|_| Err(late()));
        if once {
            let is_done = answer.is_ok();
            let stands = |at: &usize| match is_done {
                true => (self.hold(*at), None),
                false => self.unrecorded(*at),
            };
            // One that stays counts as "perhaps done" once more, which it is not.
            let _ = inner.sent.note(part.iter().map(stands)).await;
        }
        answer.map(drop)
    }

    /// Where it stands before its event is sent.
    fn unrecorded(&self, at: usize) -> (&'a Hold, Option<Step>) {
        (self.hold(at), amount(&self.batch[at]).map(|_| Step::Debited))
    }

    fn taken(&mut self, part: &[usize]) {
        self.has_taken = true;
        self.inner.suspects.taken(part.iter().map(|at| self.hold(*at)));
        self.outcomes.extend(part.iter().map(|at| (*at, Ok(()))));
    }

    /// These are tried again, and before anything that follows of their customers.
    fn stop(&mut self, part: &[usize], error: &Error) {
        let batch = self.batch;
        self.stopped.extend(part.iter().map(|at| batch[*at].hold.customer()));
        self.outcomes.extend(part.iter().map(|at| (*at, again(error))));
    }

    /// These are not tried again.
    fn end(&mut self, part: &[usize], error: &Error) {
        for at in part {
            self.inner.suspects.forget(self.hold(*at));
            self.outcomes.push((*at, again(error)));
        }
    }

    /// The API failed at one that was sent alone. It is set aside once that was so often enough.
    fn failed_alone(&mut self, at: usize, error: &Error) {
        let Inner { suspects, terms, clock, .. } = self.inner;
        let (hold, now) = (self.hold(at), clock.monotonic());
        match suspects.failed_alone(hold, self.has_taken, terms.failures, now) {
            None => self.stop(&[at], error),
            Some(failures) => {
                let said = ApiError::of(error).map_or_else(String::new, ToString::to_string);
                let message = format!(
                    "the API failed at the event alone, {failures} times while it took others; whether it is recorded is not known: {said}"
                );
                self.end(&[at], &Error::new(ErrorKind::Conflict, message));
            }
        }
    }
}

fn told(settlement: &Settlement) -> Told<'_> {
    Told {
        id: settlement.hold.id().clone(),
        customer: settlement.hold.customer(),
        event_type: settlement.hold.check().ask().recorded_as(),
        usage: &settlement.usage,
        at: settlement.hold.at(),
    }
}
