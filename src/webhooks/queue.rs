//! What waits to be delivered, and who has taken what.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Url;
use tokio::sync::Notify;

use super::WebhooksStats;
use super::file::{Due, File};
use super::payload::Message;
use super::secret::Secrets;
use crate::clock::Clock;
use crate::observe;
use crate::policy::{Crossing, Timestamp};

/// How long what waits for endpoints that are no longer given is kept: longer than it is tried. What was
/// given up for them goes with the next look.
const KEPT_FOR_FORMER: Duration = Duration::from_secs(4 * 24 * 3_600);

/// How often what has ended is forgotten.
const PRUNED_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    producer: String,
    pub(super) endpoints: Vec<Endpoint>,
    bounds: Bounds,
    dropped: AtomicU64,
    forgotten: AtomicU64,
    /// There may be something to send.
    pub(super) changed: Notify,
    /// Something came to an end.
    pub(super) landed: Notify,
}

/// How many deliveries there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) waiting: usize,
    pub(super) given_up: usize,
}

#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) url: Url,
    pub(super) secrets: Secrets,
    pub(super) number: i64,
    pub(super) disabled: AtomicBool,
}

#[derive(Debug)]
struct State {
    file: File,
    /// How many deliveries wait in the file.
    waiting: usize,
    /// How many were given up.
    given_up: usize,
    /// What could not be written yet, the oldest first.
    unwritten: VecDeque<Message>,
    /// Deliveries that are on their way: endpoint and crossing.
    taken: Vec<(i64, i64)>,
    pruned: Timestamp,
}

/// What there is to do for an endpoint.
pub(super) enum Next {
    Send(Taken),
    /// Nothing yet; look again.
    Later,
    Nothing,
}

/// A delivery that is on its way. Whoever has it is the only one.
pub(super) struct Taken {
    queue: Arc<Queue>,
    endpoint: i64,
    pub(super) due: Due,
}

impl Queue {
    pub(super) fn new(
        file: File,
        clock: Arc<dyn Clock>,
        endpoints: Vec<Endpoint>,
        bounds: Bounds,
    ) -> rusqlite::Result<Self> {
        let (producer, (waiting, given_up)) = (file.producer()?, file.counts()?);
        let state = State {
            file,
            waiting,
            given_up,
            unwritten: VecDeque::new(),
            taken: Vec::new(),
            pruned: Timestamp::MIN,
        };
        let queue = Self {
            state: Mutex::new(state),
            clock,
            producer,
            endpoints,
            bounds,
            dropped: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            changed: Notify::new(),
            landed: Notify::new(),
        };
        queue.forget(&mut queue.state())?;
        Ok(queue)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The numbers of those who want to hear.
    fn listening(&self) -> Vec<i64> {
        let listening = self.endpoints.iter().filter(|at| !at.disabled.load(Ordering::Relaxed));
        listening.map(|endpoint| endpoint.number).collect()
    }

    /// Takes a crossing in. When it returns, the message is in the file, unless that cannot be
    /// written or there is no room.
    pub(super) fn tell(&self, crossing: &Crossing) {
        let now = self.now();
        let Ok(message) = Message::new(crossing, &self.producer, now) else {
            return self.drop_one();
        };
        let mut state = self.state();
        let ahead = state.waiting + state.unwritten.len() * self.endpoints.len();
        if ahead + self.endpoints.len() > self.bounds.waiting {
            drop(state);
            return self.drop_one();
        }
        state.unwritten.push_back(message);
        self.write(&mut state, now);
        drop(state);
        self.changed.notify_waiters();
    }

    fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        observe::webhook_dropped();
    }

    /// Forgets the oldest of those that were given up, if they are too many.
    fn forget(&self, state: &mut State) -> rusqlite::Result<()> {
        let many = state.given_up.saturating_sub(self.bounds.given_up);
        if many > 0 {
            let forgotten = state.file.forget(many)?;
            state.given_up = state.given_up.saturating_sub(forgotten);
            let before = self.forgotten.fetch_add(forgotten as u64, Ordering::Relaxed);
            observe::webhooks_forgotten(forgotten, before == 0);
        }
        Ok(())
    }

    /// Writes what is not yet written, as far as the file takes it.
    fn write(&self, state: &mut State, now: Timestamp) {
        let listening = self.listening();
        while let Some(message) = state.unwritten.front() {
            match state.file.enter(message, &listening, now) {
                Ok(entered) => {
                    state.waiting += entered;
                    state.unwritten.pop_front();
                }
                Err(error) => return observe::webhooks_not_written(&error),
            }
        }
        observe::webhooks_waiting(state.waiting);
    }

    /// Takes the first delivery to an endpoint that is due.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub(super) fn take(self: &Arc<Self>, endpoint: &Endpoint) -> rusqlite::Result<Next> {
        let now = self.now();
        let mut state = self.state();
        if !state.unwritten.is_empty() {
            self.write(&mut state, now);
        }
        if now.duration_since(state.pruned) >= PRUNED_EVERY {
            state.pruned = now;
            let given: Vec<_> = self.endpoints.iter().map(|endpoint| endpoint.number).collect();
            state.file.prune(&given, now, now.saturating_sub(KEPT_FOR_FORMER))?;
            state.count()?;
            self.forget(&mut state)?;
        }
        if endpoint.disabled.load(Ordering::Relaxed) {
            return Ok(if state.unwritten.is_empty() { Next::Nothing } else { Next::Later });
        }
        let of = endpoint.number;
        let taken = state.taken.iter().filter(|taken| taken.0 == of).map(|taken| taken.1);
        let taken: Vec<_> = taken.collect();
        match state.file.first(of, &taken)? {
            Some((crossing, due)) if due <= now => {
                let Some(due) = state.file.read(of, crossing)? else { return Ok(Next::Later) };
                state.taken.push((of, crossing));
                Ok(Next::Send(Taken { queue: Arc::clone(self), endpoint: of, due }))
            }
            None if state.unwritten.is_empty() => Ok(Next::Nothing),
            _ => Ok(Next::Later),
        }
    }

    /// Whether nothing is on its way and nothing is due.
    pub(super) fn is_idle(&self) -> bool {
        let now = self.now();
        let state = self.state();
        let is_due = |endpoint: &i64| !matches!(state.file.first(*endpoint, &[]), Ok(first) if first.is_none_or(|(_, due)| due > now));
        state.unwritten.is_empty() && state.taken.is_empty() && !self.listening().iter().any(is_due)
    }

    pub(super) fn enable(&self, endpoint: &Endpoint) -> rusqlite::Result<()> {
        self.state().file.enable(endpoint.number)?;
        endpoint.disabled.store(false, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn try_again(&self) -> rusqlite::Result<usize> {
        let mut state = self.state();
        let mut again = 0;
        for endpoint in &self.endpoints {
            again += state.file.try_again(endpoint.number, self.now())?;
        }
        state.waiting += again;
        state.given_up = state.given_up.saturating_sub(again);
        drop(state);
        self.changed.notify_waiters();
        Ok(again)
    }

    pub(super) fn stats(&self) -> rusqlite::Result<WebhooksStats> {
        let state = self.state();
        let (waiting, given_up) = state.file.counts()?;
        Ok(WebhooksStats {
            waiting: waiting + state.unwritten.len() * self.endpoints.len(),
            given_up,
            disabled: self.endpoints.len() - self.listening().len(),
            dropped: self.dropped.load(Ordering::Relaxed),
            forgotten: self.forgotten.load(Ordering::Relaxed),
            is_failing: !state.unwritten.is_empty(),
        })
    }
}

impl Taken {
    /// It was delivered.
    pub(super) fn delivered(&self) -> rusqlite::Result<()> {
        let mut state = self.queue.state();
        state.file.delivered(self.endpoint, self.due.crossing)?;
        state.waiting = state.waiting.saturating_sub(1);
        observe::webhooks_waiting(state.waiting);
        Ok(())
    }

    /// It failed once more, and is to be tried again after that wait, if at all.
    pub(super) fn failed(&self, wait: Option<Duration>) -> rusqlite::Result<()> {
        let due = wait.map(|wait| self.queue.now().saturating_add(wait));
        let failures = self.due.failures.saturating_add(1);
        let mut state = self.queue.state();
        state.file.failed(self.endpoint, self.due.crossing, failures, due)?;
        if due.is_none() {
            state.waiting = state.waiting.saturating_sub(1);
            state.given_up += 1;
            observe::webhooks_waiting(state.waiting);
            // This one is written down. The others are forgotten with the next one if not now.
            if let Err(error) = self.queue.forget(&mut state) {
                observe::webhooks_not_written(&error);
            }
        }
        Ok(())
    }

    /// The endpoint wants nothing any more.
    pub(super) fn gone(&self, endpoint: &Endpoint) -> rusqlite::Result<()> {
        let mut state = self.queue.state();
        state.file.disable(self.endpoint)?;
        endpoint.disabled.store(true, Ordering::Relaxed);
        state.count()?;
        observe::webhooks_waiting(state.waiting);
        Ok(())
    }
}

impl State {
    fn count(&mut self) -> rusqlite::Result<()> {
        (self.waiting, self.given_up) = self.file.counts()?;
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mine = (self.endpoint, self.due.crossing);
        self.queue.state().taken.retain(|taken| *taken != mine);
        self.queue.landed.notify_waiters();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::policy::{Amount, CustomerId, Period, Window};

    fn crossing(customer: u32) -> Crossing {
        Crossing {
            customer: CustomerId::new(format!("acct_{customer}")).unwrap(),
            limit: "daily".into(),
            limit_name: "Daily".into(),
            percent: 75,
            cap: Amount::from(100),
            used: Amount::from(80),
            period: Period::AllTime,
            window: Window::ALL_TIME,
        }
    }

    fn queue(most: usize) -> Arc<Queue> {
        let file =
            File::open(std::path::Path::new(":memory:"), "producer", Duration::ZERO).unwrap();
        let (number, _) = file.endpoint(b"url").unwrap();
        let endpoint = Endpoint {
            url: Url::parse("https://example.com").unwrap(),
            secrets: Secrets::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap(),
            number,
            disabled: AtomicBool::new(false),
        };
        let clock = Arc::new(SystemClock::default());
        let bounds = Bounds { waiting: most, given_up: most };
        Arc::new(Queue::new(file, clock, vec![endpoint], bounds).unwrap())
    }

    #[test]
    fn what_cannot_be_written_waits_in_memory_within_bounds_and_is_not_sent() {
        let queue = queue(3);
        queue.state().file.fail(true).unwrap();
        (0..5).for_each(|customer| queue.tell(&crossing(customer)));
        let stats = queue.stats().unwrap();
        assert_eq!((stats.waiting, stats.dropped, stats.is_failing), (3, 2, true));
        assert!(!queue.is_idle());
        let endpoint = &queue.endpoints[0];
        let next = queue.take(endpoint);
        assert!(
            !matches!(next, Ok(Next::Send(_) | Next::Nothing)),
            "nobody hears what may be lost"
        );

        queue.state().file.fail(false).unwrap();
        let taken: Vec<_> = std::iter::from_fn(|| match queue.take(endpoint) {
            Ok(Next::Send(taken)) => Some(taken),
            _ => None,
        })
        .collect();
        assert_eq!(taken.len(), 3);
        assert!(!queue.stats().unwrap().is_failing);
    }

    #[test]
    fn what_was_sent_and_cannot_be_written_down_is_not_sent_by_another() {
        let queue = queue(3);
        queue.tell(&crossing(1));
        let endpoint = &queue.endpoints[0];
        let Ok(Next::Send(taken)) = queue.take(endpoint) else { panic!("one is due") };
        queue.state().file.fail(true).unwrap();
        taken.delivered().unwrap_err();
        assert!(!matches!(queue.take(endpoint), Ok(Next::Send(_))));
        queue.state().file.fail(false).unwrap();
        taken.delivered().unwrap();
        drop(taken);
        assert!(queue.is_idle());
        queue.tell(&crossing(1));
        assert_eq!(queue.stats().unwrap().waiting, 0, "it is known");
    }
}
