//! What was changed in memory and waits to be committed, and who waits for it.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::{Equivalent, HashMap, HashSet};
use tokio::sync::oneshot;

use super::definition::Note;
use crate::policy::{CustomerId, EventId, Producer, Timestamp, Transaction};
use crate::store::KeptHold;
use crate::store::memory::archive::{Counted, Opened, Recounted};
use crate::{Error, ErrorKind};

/// How many places there are: for changes that are not committed yet, and for those that running
/// requests will make.
pub(super) const PLACES: usize = 65_536;

/// How many changes are committed together at most.
const GROUP: usize = 4_096;

/// How long it may take until the file says how many requests run, where nothing else is written.
const NOTE: Duration = Duration::from_millis(100);

/// One change, in the order in which it was made.
#[derive(Debug)]
pub(super) enum Change {
    Counted(Counted),
    /// Found again by the id under which it is done once, if it is.
    Transacted(Transaction, Option<EventId>),
    Opened(Opened),
    Recounted(Recounted),
    Noted(Vec<Note>),
    Held(KeptHold),
    Released(CustomerId, EventId),
    /// A mark that moved although nothing was counted.
    Marked(CustomerId, Producer, u64),
}

/// What is committed as one.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) changes: VecDeque<Change>,
    /// How many requests run whose settlement is not in the file once these changes are, where the
    /// file is to say so.
    pub(super) running: Option<usize>,
}

impl Group {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.running.is_none()
    }

    /// By how much it moves the number of groups.
    pub(super) fn moves(&self) -> i64 {
        if self.is_empty() { 0 } else { self.changes.len().max(1) as i64 }
    }

    /// Whether its events tell of it alone: there is nothing else in it.
    pub(super) fn is_events(&self) -> bool {
        let is_event = |change: &Change| match change {
            Change::Counted(counted) => counted.transaction.is_none(),
            _ => false,
        };
        self.running.is_none() && self.changes.iter().all(is_event)
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Something is to be done.
    work: Condvar,
    /// Something was committed, or could not be.
    done: Condvar,
    /// The last commit failed: nothing new is taken until one succeeds.
    failing: AtomicBool,
    /// How many places are taken: by running requests, and by changes that are not committed.
    taken: AtomicUsize,
    /// The file is to say how many requests run.
    notes_running: bool,
    /// It does, and the writer wants to be told when that has changed.
    asleep: AtomicBool,
    /// The time of the newest step, in nanoseconds.
    now: AtomicI64,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: VecDeque<Change>,
    /// Ids of events that cannot be found in the file yet: any of them may come again, from whoever
    /// was told it.
    unwritten: HashSet<(CustomerId, EventId), RandomState>,
    /// Changes that are done once and cannot be found in the file yet.
    unwritten_changes: HashMap<(CustomerId, EventId), Transaction, RandomState>,
    waiters: VecDeque<Waiter>,
    /// How many changes there ever were, and how many of them are in the file.
    pushed: u64,
    committed: u64,
    events: u64,
    transactions: u64,
    /// How many requests run, as the file has it.
    noted: usize,
    closing: bool,
    /// The writer has ended.
    ended: bool,
}

/// An id and its customer, looked up without a copy of them. Hashes as the pair does.
#[derive(Hash)]
struct Named<'a>(&'a CustomerId, &'a EventId);

impl Equivalent<(CustomerId, EventId)> for Named<'_> {
    fn equivalent(&self, (customer, id): &(CustomerId, EventId)) -> bool {
        (self.0, self.1) == (customer, id)
    }
}

/// Who waits for a change, by its number.
#[derive(Debug)]
struct Waiter {
    number: u64,
    /// Waits through commits that fail.
    patient: bool,
    sender: oneshot::Sender<()>,
}

impl Queue {
    pub(super) fn new(notes_running: bool) -> Self {
        Self { notes_running, ..Self::default() }
    }

    /// Goes on numbering after the newest event and transaction of the file.
    pub(super) fn number_from(&self, events: u64, transactions: u64) {
        let mut waiting = self.lock();
        waiting.events = events;
        waiting.transactions = transactions;
    }

    /// Whether anything new is taken.
    pub(super) fn is_open(&self) -> Result<(), Error> {
        if self.failing.load(Ordering::Relaxed) { Err(unavailable()) } else { Ok(()) }
    }

    /// Reserves places for changes that are about to be made, for all of them or none. Each is taken
    /// until its change is committed, or until it is given back.
    pub(super) fn reserve(&self, places: usize) -> bool {
        let more = |taken: usize| taken.checked_add(places).filter(|taken| *taken <= PLACES);
        let reserved = self.taken.fetch_update(Ordering::SeqCst, Ordering::Relaxed, more).is_ok();
        self.stir();
        reserved
    }

    /// Nothing will come into these places.
    pub(super) fn give_back(&self, places: usize) {
        if places > 0 {
            self.taken.fetch_sub(places, Ordering::SeqCst);
            self.stir();
        }
    }

    /// What runs may have changed. The writer lies down before it looks for the last time, and here
    /// it is looked for after the change: one of the two sees the other.
    fn stir(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            drop(self.lock());
            self.work.notify_one();
        }
    }

    /// How many requests run, if the file says something else once `group` more changes are in it.
    /// What waits beyond those is not in the file, either.
    fn to_note(&self, waiting: &Waiting, group: usize) -> Option<usize> {
        let running = self.taken.load(Ordering::SeqCst).saturating_sub(group);
        (self.notes_running && running != waiting.noted).then_some(running)
    }

    /// A step was taken at that time. There is no other clock here.
    pub(super) fn saw(&self, now: Timestamp) {
        self.now.fetch_max(now.as_nanos(), Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.now.load(Ordering::Relaxed))
    }

    /// Puts a counted use into the place that was reserved for it.
    pub(super) fn count(&self, mut counted: Counted) {
        let mut waiting = self.lock();
        waiting.events += 1;
        counted.event.sequence = waiting.events;
        if let Some(transaction) = &mut counted.transaction {
            waiting.transactions += 1;
            transaction.sequence = waiting.transactions;
        }
        waiting.unwritten.insert((counted.event.customer.clone(), counted.event.id.clone()));
        self.push(waiting, Change::Counted(counted));
    }

    /// Puts a transaction into the place that was reserved for it.
    pub(super) fn transact(&self, mut transaction: Transaction, once: Option<&EventId>) -> u64 {
        let mut waiting = self.lock();
        waiting.transactions += 1;
        transaction.sequence = waiting.transactions;
        let sequence = transaction.sequence;
        if let Some(id) = once {
            let key = (transaction.customer.clone(), id.clone());
            waiting.unwritten_changes.insert(key, transaction.clone());
        }
        self.push(waiting, Change::Transacted(transaction, once.cloned()));
        sequence
    }

    /// Puts a change into the place that was reserved for it.
    pub(super) fn put(&self, change: Change) {
        self.push(self.lock(), change);
    }

    /// Puts a change whether or not there is a place: of the definitions, of which there is one at a
    /// time, or of a mark.
    pub(super) fn put_beyond(&self, change: Change) {
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.put(change);
    }

    fn push(&self, mut waiting: MutexGuard<'_, Waiting>, change: Change) {
        let was_idle = waiting.changes.is_empty();
        waiting.changes.push_back(change);
        waiting.pushed += 1;
        drop(waiting);
        if was_idle {
            self.work.notify_one();
        }
    }

    pub(super) fn is_unwritten(&self, customer: &CustomerId, id: &EventId) -> bool {
        self.lock().unwritten.contains(&Named(customer, id))
    }

    pub(super) fn unwritten_change(
        &self,
        customer: &CustomerId,
        id: &EventId,
    ) -> Option<Transaction> {
        self.lock().unwritten_changes.get(&Named(customer, id)).cloned()
    }

    /// What resolves when every change of up to now is in the file, however often that fails; `None`
    /// when it is.
    pub(super) fn committed(&self) -> Option<oneshot::Receiver<()>> {
        self.wait(true)
    }

    /// The same, given up at the first commit that fails.
    pub(super) fn attempted(&self) -> Option<oneshot::Receiver<()>> {
        self.wait(false)
    }

    fn wait(&self, patient: bool) -> Option<oneshot::Receiver<()>> {
        let mut waiting = self.lock();
        if waiting.committed == waiting.pushed {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let number = waiting.pushed;
        if !waiting.ended {
            waiting.waiters.push_back(Waiter { number, patient, sender });
        }
        Some(receiver)
    }

    /// Waits until every change of up to now is in the file.
    pub(super) fn flush(&self) -> Result<(), Error> {
        let mut waiting = self.lock();
        let number = waiting.pushed;
        while waiting.committed < number {
            if waiting.ended || self.failing.load(Ordering::Relaxed) {
                return Err(unavailable());
            }
            waiting = self.done.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// The next group to commit: when there is one, when the file is to say that other requests run,
    /// or at `due` an empty one. `None` when there will never be another.
    pub(super) fn next_group(&self, group: &mut Group, due: Option<Instant>) -> Option<()> {
        let mut waiting = self.lock();
        let mut look = self.notes_running.then(|| Instant::now() + NOTE);
        while waiting.changes.is_empty() {
            let now = Instant::now();
            let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            if waiting.closing || is_over(look) {
                self.asleep.store(true, Ordering::SeqCst);
                look = None;
                group.running = self.to_note(&waiting, 0);
            }
            if group.running.is_some() || is_over(due) {
                break;
            }
            if waiting.closing {
                return None;
            }
            waiting = match due.into_iter().chain(look).min() {
                Some(at) => {
                    let woken = self.work.wait_timeout(waiting, at.saturating_duration_since(now));
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.work.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
            if self.notes_running && look.is_none() && !self.asleep.load(Ordering::Relaxed) {
                look = Some(Instant::now() + NOTE);
            }
        }
        self.asleep.store(false, Ordering::Relaxed);
        let length = waiting.changes.len().min(GROUP);
        if length == waiting.changes.len() && group.changes.is_empty() {
            mem::swap(&mut group.changes, &mut waiting.changes);
        } else {
            group.changes.extend(waiting.changes.drain(..length));
        }
        group.running = self.to_note(&waiting, length);
        Some(())
    }

    /// The group is in the file: those who wait for it are told. It stays as it is.
    pub(super) fn acknowledge(&self, group: &Group) {
        let mut told = Vec::new();
        let mut waiting = self.lock();
        self.failing.store(false, Ordering::Relaxed);
        if let Some(running) = group.running {
            waiting.noted = running;
        }
        let committed = group.changes.len();
        waiting.committed += committed as u64;
        self.taken.fetch_sub(committed, Ordering::SeqCst);
        for change in &group.changes {
            match change {
                Change::Counted(Counted { event, .. }) => {
                    waiting.unwritten.remove(&Named(&event.customer, &event.id));
                }
                Change::Transacted(done, Some(id)) => {
                    waiting.unwritten_changes.remove(&Named(&done.customer, id));
                }
                _ => {}
            }
        }
        while waiting.waiters.front().is_some_and(|waiter| waiter.number <= waiting.committed) {
            told.extend(waiting.waiters.pop_front());
        }
        drop(waiting);
        self.done.notify_all();
        for waiter in told {
            // Whether somebody still waits is their choice.
            let _ = waiter.sender.send(());
        }
    }

    /// The group could not be committed. Says whether to try again, after a while.
    pub(super) fn fail(&self, pause: Duration) -> bool {
        self.failing.store(true, Ordering::Relaxed);
        let mut waiting = self.lock();
        // Under the lock: who is about to wait has either seen the failure or hears of it.
        self.done.notify_all();
        waiting.waiters.retain(|waiter| waiter.patient);
        if waiting.closing {
            return false;
        }
        let paused = self.work.wait_timeout_while(waiting, pause, |waiting| !waiting.closing);
        !paused.unwrap_or_else(PoisonError::into_inner).0.closing
    }

    /// No more changes come: the writer commits what is there and ends.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_all();
    }

    /// The writer has ended: nothing new is taken. Whoever still waits hears that it is unknown.
    pub(super) fn end(&self) {
        self.failing.store(true, Ordering::Relaxed);
        let mut waiting = self.lock();
        waiting.ended = true;
        waiting.waiters.clear();
        drop(waiting);
        self.done.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "the file cannot be written; it is tried again")
}
