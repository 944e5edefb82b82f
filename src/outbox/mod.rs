//! A queue in a local file between requests and a backend elsewhere.
//!
//! A check goes straight to the backend. What the request then used is written to the file first,
//! and delivered from there: in order for each customer, in batches, again and again under one id
//! until the backend has said yes or no. So a backend that is away costs no record, and a response
//! waits for a local write instead of a call.
//!
//! ```
//! use tower_limitry::outbox::Outbox;
//! use tower_limitry::{Books, Check, Usage};
//! # use tower_limitry::Engine;
//! # use std::time::Duration;
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! # let remote = Engine::builder().build()?.backend().clone();
//! # let file = std::env::temp_dir().join(format!("limitry-doc-{}.outbox", std::process::id()));
//!
//! let outbox = Outbox::builder(remote).open(file.clone()).await?;
//! let books = Books::new(outbox.clone());
//!
//! let permit = books.check(Check::of("acct_42")).await?;
//! permit.settle(Usage::of("total_tokens", 480)).await?; // it is in the file now
//!
//! outbox.flush(Duration::from_secs(5)).await?; // and now it is delivered
//! assert_eq!(outbox.stats().depth, 0);
//! # drop((outbox, books));
//! # for suffix in ["", "-wal", "-lock"] { let _ = std::fs::remove_file(format!("{}{suffix}", file.display())); }
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # What is durable when
//!
//! - A settlement's future resolves once it is committed to the file. From then on it survives the
//!   process, killed or not; with [`Durability::Full`] it is synced, and survives a power cut, as
//!   far as the disk keeps what it says it has synced. With [`Durability::Relaxed`] a power cut may
//!   take the settlements of the last moments, as long as it says, that were not yet delivered. Those
//!   are remembered meanwhile, and written again where the sync fails and the disk has lost them.
//! - Many settlements share one commit and its sync: what comes while one is on its way goes into
//!   the next.
//! - A commit that fails is tried again until it succeeds, and nothing is acknowledged meanwhile;
//!   checks are then answered as [`WhenFull`] says. A settlement that was not acknowledged may still
//!   be in the file after a crash: the request did succeed, so it is delivered.
//! - What was delivered is not forgotten before that is committed, too. A crash in between delivers
//!   it again, and the backend knows it: by its id, or by its
//!   [mark](crate::backend::Delivery).
//!
//! # Room
//!
//! The outbox is bounded in entries and bytes. A check reserves a place for the settlement of its
//! request; one that finds none is answered by [`WhenFull`]. A request that is let on without a
//! check, by a [`FailurePolicy`](crate::FailurePolicy) that is open, has no place reserved: if
//! there is none when it has succeeded, its settlement is dropped, and counted in
//! [`OutboxStats::dropped`] and the metric `limitry.outbox_dropped`.
//!
//! A place counts 512 bytes until its entry is known; the bound on bytes can be exceeded by what
//! entries of requests that run are larger than that.
//!
//! # What is refused
//!
//! A settlement that the backend refuses for good (any error that is not
//! [transient](crate::Error::is_transient)) is set aside with the reason, and its customer's next
//! goes on. [`Outbox::set_aside`] reads them; [`Outbox::replay`] tries one again;
//! [`Outbox::discard`] gives one up. Until then each takes its place.
//!
//! # A backend that loses its memory
//!
//! With [`OutboxBuilder::keep_delivered`] what was delivered stays in the file for a time. A backend
//! that knows repeats by marks tells by itself when it has forgotten some
//! ([`Receipt::Behind`]), and gets it again, each customer's in order, before anything new.
//! [`Outbox::replay_delivered`] does that by hand.
//!
//! # What operators see
//!
//! [`Outbox::stats`], and with the feature `metrics`: the gauges `limitry.outbox_depth`,
//! `limitry.outbox_oldest_age_seconds` and `limitry.outbox_set_aside`, the counters
//! `limitry.outbox_dropped`, `limitry.outbox_failures` (of the file) and
//! `limitry.outbox_delivered_again`.
//!
//! # The file
//!
//! It belongs to one process: a second one that opens it is told so at once, or after it has waited
//! [`open_wait`](OutboxBuilder::open_wait). Beside it, `-wal` and `-lock` belong to it. Never run on a
//! copy of the file while the original is in use: the backend takes the two for one, and one's
//! settlements for repeats of the other's. It holds customers' ids and usage; give it a folder that
//! only the service can read.
//!
//! A file without its log, or an older copy in its place, lacks settlements and reads well. So the
//! file of the lock notes how far the disk has come, and what lacks some of that is refused, as is a
//! file that was emptied or removed: put back what is missing, or remove the file of the lock to go on
//! with what is there. Removing all of them begins anew.
//!
//! [`Receipt::Behind`]: crate::backend::Receipt::Behind

use std::time::Duration;

use crate::backend::Delivery;
use crate::policy::{CustomerId, Timestamp};

mod admin;
mod backoff;
mod builder;
mod courier;
mod entry;
mod file;
mod future;
mod handle;
mod places;
mod queue;
mod rows;
mod schedule;
mod writer;

pub use crate::durability::Durability;
pub use builder::OutboxBuilder;
pub use future::{CheckFuture, FinishFuture};
pub use handle::Outbox;

/// What happens to checks while the outbox has no place for their settlement, or cannot write its
/// file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// They are answered [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable), so that the
    /// layer's [`FailurePolicy`](crate::FailurePolicy) decides. The default: nothing runs that might not be
    /// recorded.
    #[default]
    Closed,
    /// They are asked as ever, and run. A settlement that then finds no place is dropped, and
    /// counted.
    Open,
}

/// How an outbox stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxStats {
    /// How many settlements are yet to be delivered.
    pub depth: usize,
    /// How long the first of them has waited.
    pub oldest: Option<Duration>,
    /// How many were refused for good and set aside.
    pub set_aside: usize,
    /// How many that were delivered are kept.
    pub kept: usize,
    /// How many requests run, or wait for the answer to their check.
    pub running: usize,
    /// How many settlements were dropped because there was no place, since the outbox was opened.
    pub dropped: u64,
    /// Whether the file cannot be written right now.
    pub is_failing: bool,
}

/// A settlement that the backend refused for good.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SetAside {
    /// Names it for [`Outbox::replay`] and [`Outbox::discard`].
    pub sequence: u64,
    /// Whose use.
    pub customer: CustomerId,
    /// What was to be recorded; `None` when the file was damaged there.
    pub delivery: Option<Delivery>,
    /// What the backend said.
    pub reason: String,
    /// When it did.
    pub since: Timestamp,
}
