//! Answers to checks that placed a hold, for those who ask again because the answer was lost.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use tokio::time::Instant;

use super::problem::Answer;
use crate::backend::Name;

/// How long an answer is kept, and how many.
const KEPT: Duration = Duration::from_secs(30);
const MOST: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    kept: HashMap<Name, Answer>,
    /// The oldest first. A hold that has ended may be here and no longer in the table.
    order: VecDeque<(Instant, Name)>,
}

impl Answers {
    pub(super) fn find(&self, name: &Name) -> Option<Answer> {
        self.lock().kept.get(name).cloned()
    }

    pub(super) fn keep(&self, name: Name, answer: Answer) {
        let now = Instant::now();
        let mut table = self.lock();
        while let Some((at, _)) = table.order.front()
            && (table.order.len() >= MOST || now.duration_since(*at) >= KEPT)
        {
            if let Some((_, name)) = table.order.pop_front() {
                table.kept.remove(&name);
            }
        }
        table.order.push_back((now, name.clone()));
        table.kept.insert(name, answer);
    }

    /// The hold is about to end: what is asked after that is not answered as before.
    pub(super) fn forget<'a>(&self, names: impl IntoIterator<Item = &'a Name>) {
        let mut table = self.lock();
        names.into_iter().for_each(|name| drop(table.kept.remove(name)));
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
