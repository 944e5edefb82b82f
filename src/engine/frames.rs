//! Plans in the windows of now, kept for the next request.

use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwapOption;

use crate::policy::Timestamp;
use crate::policy::catalog::Plan;
use crate::policy::frame::Frame;

/// The newest frame of each plan. Plans beyond so many take turns.
#[derive(Debug)]
pub(super) struct Frames([Newest; FRAMES]);

const FRAMES: usize = 32;

impl Default for Frames {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Newest::default()))
    }
}

impl Frames {
    #[inline]
    pub(super) fn of(&self, plan: &Plan) -> &Newest {
        &self.0[plan.number % FRAMES]
    }
}

/// The frame that was made last.
#[derive(Debug, Default)]
pub(super) struct Newest(ArcSwapOption<Framed>);

/// A whole plan in its windows, and the parts of it that were asked for.
#[derive(Debug)]
struct Framed {
    whole: Arc<Frame>,
    parts: RwLock<Vec<Arc<Frame>>>,
}

/// How many parts of a plan are kept. Requests of one service have few dimensions that limits know.
const PARTS: usize = 16;

impl Newest {
    /// The frame of the plan at that time, if it is still the one: of the whole plan, or of these lines.
    #[inline]
    pub(super) fn get(
        &self,
        plan: &Arc<Plan>,
        which: Option<&[u16]>,
        at: Timestamp,
    ) -> Option<Arc<Frame>> {
        let newest = self.0.load();
        let framed = newest.as_ref()?;
        if !Arc::ptr_eq(&framed.whole.plan, plan) || !framed.whole.covers(at) {
            return None;
        }
        Some(framed.get(which))
    }

    /// Keeps the frame of a whole plan of now. Answers it, or of it these lines.
    #[cold]
    pub(super) fn put(&self, whole: Frame, which: Option<&[u16]>) -> Arc<Frame> {
        let framed = Arc::new(Framed { whole: Arc::new(whole), parts: RwLock::default() });
        self.0.store(Some(Arc::clone(&framed)));
        framed.get(which)
    }
}

impl Framed {
    #[inline]
    fn get(&self, which: Option<&[u16]>) -> Arc<Frame> {
        which.map_or_else(|| Arc::clone(&self.whole), |which| self.part(which))
    }

    fn part(&self, which: &[u16]) -> Arc<Frame> {
        let known = |parts: &Vec<Arc<Frame>>| parts.iter().find(|part| part.is_of(which)).cloned();
        if let Some(part) = known(&self.parts.read().unwrap_or_else(PoisonError::into_inner)) {
            return part;
        }
        let part = Arc::new(self.whole.narrowed(which));
        let mut parts = self.parts.write().unwrap_or_else(PoisonError::into_inner);
        if parts.len() < PARTS {
            parts.push(Arc::clone(&part));
        }
        part
    }
}

/// What is known has changed, and with it the frames may have.
impl Clone for Newest {
    fn clone(&self) -> Self {
        Self::default()
    }
}
