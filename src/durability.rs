use std::time::{Duration, Instant};

/// What is on the disk when a settlement is acknowledged: in a file of the books, or in that of an
/// outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// The settlement: neither a crash nor a power cut loses anything that was acknowledged, as far
    /// as the disk keeps what it says it has synced. The default: a settlement is money.
    #[default]
    Full,
    /// A crash of the process loses nothing that was acknowledged, however it comes; a power cut or a
    /// crash of the operating system may lose the newest of it.
    Relaxed {
        /// How long the newest may be only in the operating system's memory.
        at_most: Duration,
    },
}

impl Durability {
    /// What SQLite calls it.
    pub(crate) fn synchronous(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Relaxed { .. } => "NORMAL",
        }
    }

    /// When what was committed then is to be on the disk, where a commit does not see to it.
    pub(crate) fn due(self, unsynced: Instant) -> Option<Instant> {
        match self {
            Self::Full => None,
            Self::Relaxed { at_most } => unsynced.checked_add(at_most),
        }
    }
}
