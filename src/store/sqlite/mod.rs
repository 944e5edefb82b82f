//! Books in one file that survives restarts and crashes, for one process at a time.
//!
//! ```
//! use tower_limitry::{Engine, Limit, Meter, Usage, store::Sqlite};
//!
//! # let folder = std::env::temp_dir().join(format!("limitry-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! # let path = folder.join("usage.db");
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let open = || {
//!     Engine::builder()
//!         .meter(Meter::sum("tokens", "total_tokens"))
//!         .limit(Limit::per_month("monthly-tokens", "tokens", 100_000))
//!         .build_on(Sqlite::open(&path)?)
//!         .map_err(Box::<dyn std::error::Error>::from)
//! };
//! let books = open()?;
//! let permit = books.check(tower_limitry::Check::of("acct_42")).await?;
//! permit.settle(Usage::of("total_tokens", 480)).await?; // on the disk from here on
//! drop(books);
//!
//! let standing = open()?.usage("acct_42").await?;
//! assert_eq!(standing.limits().next().unwrap().used(), 480.into());
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! Checks are decided in memory, which is filled from the file when it is opened. What they lead to
//! is written by one thread that commits everything that waits together, so that one sync of the
//! disk serves many requests; a settlement is answered when its commit is as durable as
//! [`Durability`] says. Holds end with the process that placed them, and what they set aside is free
//! again when the file is opened; what they cost then is said by [`OwnerlessHolds`].
//!
//! # When the file cannot be written
//!
//! A commit that fails, because the disk is full or broken, is tried again until it succeeds, the
//! same changes under the same ids. Until then new checks are answered
//! [`Unavailable`](crate::ErrorKind::Unavailable), and no settlement is acknowledged: each waits,
//! as long as its caller does. Another program that has the file open then is waited for, too: what
//! the disk has lost can be told only by who has the file alone.
//!
//! 65,536 requests may run or wait to be written at a time. Each that is admitted has its place for
//! the settlement from its check on; who finds none is answered
//! [`Unavailable`](crate::ErrorKind::Unavailable), as is what has no request behind it: events,
//! credits and debits.
//!
//! [`backup`] copies the books while they are in use. [`verify`] works out every counter and balance
//! anew and tells where the file differs.
//!
//! # What is lost beside the file
//!
//! A file without its log, or an older copy in its place, is books that lack their newest part, and
//! reads well. So the file of the lock (`usage.db-lock`) notes how far the disk has come, each time
//! it was synced, and what lacks some of that is refused: put back what is missing, or remove the
//! file of the lock to go on with what is there. A copy made by [`backup`] is known as one, and
//! opened wherever it is put. A file that was emptied is refused as well; one that was removed, with
//! its log, begins anew.
//!
//! # One process at a time
//!
//! A second process that opens the file is told that it is in use, at once, or after it has waited
//! [`open_wait`](SqliteOptions::open_wait), as in a deployment where the new process starts before
//! the old one has ended. Anybody may read the file meanwhile, with any SQLite tool.
//!
//! # What is in the file
//!
//! The views `events`, `usages`, `transactions` and `rollups` say all of it in plain units; `audit`
//! explains a balance, each change beside the use that caused it. The tables behind them are
//! described in the file itself (`.schema`). Times are UTC. Three questions worth asking:
//!
//! ```sql
//! -- Usage per customer and day
//! SELECT customer, date(at) AS day, sum(amounts ->> 'total_tokens') AS tokens
//! FROM events GROUP BY customer, day ORDER BY day, customer;
//!
//! -- The customers who use most
//! SELECT customer, sum(amounts ->> 'total_tokens') AS tokens
//! FROM events GROUP BY customer ORDER BY tokens DESC LIMIT 10;
//!
//! -- What became of a balance
//! SELECT at, type, amount, balance_after, description, id
//! FROM transactions WHERE customer = 'acct_42' AND balance = 'AI Credits' ORDER BY sequence;
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use crate::file::{self, Lock, OpenError};
use crate::store::Memory;
use crate::{Error, observe};

mod archive;
mod backup;
mod definition;
mod position;
mod queue;
mod read;
mod retain;
mod row;
mod schema;
mod store;
mod verify;
mod write;
mod writer;

use archive::Books;
use writer::Writer;

pub use crate::durability::Durability;
pub use backup::backup;
pub use store::Acknowledged;
pub use verify::{Difference, Differences, verify};

/// Keeps the books in one file.
pub struct Sqlite {
    memory: Memory,
    books: Arc<Books>,
    writer: Option<JoinHandle<()>>,
    path: PathBuf,
    ownerless: usize,
    _lock: Arc<Lock>,
}

impl Sqlite {
    /// Opens the books in this file, which is made if it is not there. They are as durable as
    /// [`Durability::Full`], and nobody else may have them open.
    ///
    /// # Errors
    ///
    /// [`Conflict`](crate::ErrorKind::Conflict) when another process has the file open,
    /// [`Invalid`](crate::ErrorKind::Invalid) when it is not ours or was written by a newer release, which
    /// leaves it untouched, and [`Unavailable`](crate::ErrorKind::Unavailable) when it cannot be read or
    /// written.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::options().open(path)
    }

    /// What else may be said when a file is opened.
    pub fn options() -> SqliteOptions {
        SqliteOptions {
            durability: Durability::Full,
            open_wait: Duration::ZERO,
            keep_events_for: None,
            ownerless_holds: OwnerlessHolds::default(),
            memory: Memory::new(),
        }
    }

    /// How many requests were running when the process before ended: each had placed a hold, and its
    /// settlement is not in the file. What they cost is said by [`OwnerlessHolds`].
    ///
    /// Exact where the process ended in order. Where it was killed, it is the number at the last
    /// commit: every commit notes it, and where nothing else is to be committed, one follows within
    /// 100 milliseconds of a change. A request that began after that is missing, and one that failed
    /// after it is counted; one whose settlement was acknowledged never is.
    ///
    /// It is told as a warning, too (feature `tracing`), and added to the counter
    /// `limitry.ownerless_holds` (feature `metrics`), at opening.
    pub fn ownerless(&self) -> usize {
        self.ownerless
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What was accepted is written before the file is let go.
impl Drop for Sqlite {
    fn drop(&mut self) {
        self.books.queue.close();
        if let Some(writer) = self.writer.take() {
            // A panic of the writer was told by its own thread.
            let _ = writer.join();
        }
    }
}

/// What the holds of a process that was killed cost, when the file is opened again.
///
/// A hold that expires while the process lives costs nothing in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnerlessHolds {
    /// Nothing: the requests may never have been answered. Holds are not written, only how many there
    /// are ([`Sqlite::ownerless`]); those that are in the file, because an earlier process wrote
    /// them, are counted and dropped. The default: nobody pays for what was not measured.
    #[default]
    CostNothing,
    /// Their estimate, and its price. Each is recorded once, when the file is opened, as an event
    /// under the id and at the time of its check; a later settlement under the id is a repeat.
    ///
    /// Every hold is written, and removed in the transaction that settles or releases it. A check
    /// does not wait for that: one of the last few milliseconds before the end may be missing, and
    /// costs nothing. A request takes two places while its hold is not written.
    CostTheirEstimate,
}

impl OwnerlessHolds {
    fn are_kept(self) -> bool {
        self == Self::CostTheirEstimate
    }
}

/// Opens a file in another way than [`Sqlite::open`].
///
/// ```
/// use std::time::Duration;
/// use tower_limitry::store::sqlite::{Durability, Sqlite};
///
/// let options = Sqlite::options()
///     .durability(Durability::Relaxed { at_most: Duration::from_millis(200) })
///     .open_wait(Duration::from_secs(30));
/// # let _ = options;
/// ```
#[derive(Debug)]
#[must_use]
pub struct SqliteOptions {
    durability: Durability,
    open_wait: Duration,
    keep_events_for: Option<Duration>,
    ownerless_holds: OwnerlessHolds,
    memory: Memory,
}

impl SqliteOptions {
    /// What a power cut may cost; nothing unless set.
    pub fn durability(self, durability: Durability) -> Self {
        Self { durability, ..self }
    }

    /// Waits so long for another process that has the file open; not at all unless set.
    pub fn open_wait(self, wait: Duration) -> Self {
        Self { open_wait: wait, ..self }
    }

    /// Lets events go that are older; all are kept unless set. They are dropped a few at a time,
    /// beside the work, in the order of their arrival, and what they came to in every quarter of an
    /// hour stays (the view `rollups`).
    ///
    /// Counters and balances are exact whatever this is. A limit that is added later, and a query,
    /// count the events that are there and say so where some are gone. An id is known as long as its
    /// event: an older one is told as [`TooOld`](crate::ErrorKind::TooOld).
    pub fn keep_events_for(self, time: Duration) -> Self {
        Self { keep_events_for: Some(time), ..self }
    }

    /// What the holds of a process that was killed cost; nothing unless set.
    pub fn ownerless_holds(self, cost: OwnerlessHolds) -> Self {
        Self { ownerless_holds: cost, ..self }
    }

    /// Takes so many customers at once, as [`Memory::max_customers`] does. Those that are in the file
    /// already have their place.
    pub fn max_customers(self, most: usize) -> Self {
        Self { memory: self.memory.max_customers(most), ..self }
    }

    pub(crate) fn memory(self, memory: Memory) -> Self {
        Self { memory, ..self }
    }

    /// Opens the books in this file.
    ///
    /// # Errors
    ///
    /// As [`Sqlite::open`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<Sqlite, Error> {
        // Opened anew now and then, it must be the same wherever the process has gone meanwhile.
        let path = std::path::absolute(path).map_err(OpenError::Io)?;
        Ok(self.open_at(path)?)
    }

    fn open_at(self, path: PathBuf) -> Result<Sqlite, OpenError> {
        let lock = Arc::new(Lock::take(&path, self.open_wait)?);
        match file::look(&path, &lock, &schema::FORMAT) {
            // Who removes the books begins anew.
            Err(OpenError::Gone) => {
                lock.forget().and_then(|()| lock.begin()).map_err(OpenError::Io)
            }
            looked => looked,
        }?;
        let mut file = schema::open(&path, self.durability)?;
        schema::compare(&mut file, &lock)?;
        file::leave_log(&file, true)?;
        let ownerless = ownerless(&mut file, self.ownerless_holds)?;
        let books = Arc::new(Books::new(&path, self.ownerless_holds.are_kept()));
        books.queue.number_from(position::event(&file)?, row::place(&file, "transaction")?);
        let writer =
            Writer::start(path.clone(), &self, Arc::clone(&books), file, Arc::clone(&lock))?;
        let writer = Some(writer);
        let memory = self.memory.archived(Arc::clone(&books) as _);
        Ok(Sqlite { memory, books, writer, path, ownerless, _lock: lock })
    }
}

/// Counts the requests that were left, and drops their holds if they cost nothing.
fn ownerless(file: &mut Connection, cost: OwnerlessHolds) -> Result<usize, OpenError> {
    let step = file.transaction()?;
    let held: usize = step.query_row("SELECT count(*) FROM hold", [], |row| row.get(0))?;
    let noted = row::place(&step, "running")?;
    if noted > 0 {
        step.execute("UPDATE state SET value = 0 WHERE name = 'running'", [])?;
    }
    if held > 0 && !cost.are_kept() {
        step.execute("DELETE FROM hold", [])?;
    }
    step.commit()?;
    let left = held.saturating_add(usize::try_from(noted).unwrap_or(usize::MAX));
    if left > 0 {
        observe::ownerless_holds(left);
    }
    Ok(left)
}
