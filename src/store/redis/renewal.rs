//! Holds of this process live while their requests do: renewed together, now and then.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use super::{Inner, keys};
use crate::Error;
use crate::policy::{CustomerId, EventId, Timestamp};
use crate::store::{HoldKey, Moment};

/// How many holds one call renews at most.
const AT_ONCE: usize = 256;

/// How many calls are on their way at once.
const CALLS: usize = 64;

/// Renews until the books are closed.
pub(super) async fn go_on(books: Weak<Inner>) {
    loop {
        let Some(wait) = books.upgrade().map(|books| books.hold_for / 3) else { return };
        tokio::time::sleep(wait).await;
        let Some(books) = books.upgrade() else { return };
        // What was not renewed now is, the next time.
        let now = Moment::new(Timestamp::UNIX_EPOCH, Duration::ZERO);
        let _ = books.renew_own(now, false).await;
    }
}

impl Inner {
    /// Renews every hold of this process whose request runs on. One that cannot be, as its node is
    /// away, leaves none of the others to expire.
    async fn renew_own(&self, now: Moment<'_>, revives: bool) -> Result<(), Error> {
        let mut calls = Vec::new();
        let mut renewed = Ok(());
        for (customer, ids) in self.registry.to_renew() {
            for some in ids.chunks(AT_ONCE) {
                calls.push(self.renewal(&customer, some.iter(), self.hold_for, now, revives));
                if calls.len() == CALLS {
                    renewed = renewed.and(finish(&mut calls).await);
                }
            }
        }
        renewed.and(finish(&mut calls).await)
    }

    /// Where time is moved by hand, holds are renewed before the first step after it moved.
    pub(super) fn renew_when_due(
        self: &Arc<Self>,
        now: Moment<'_>,
    ) -> Option<impl Future<Output = Result<(), Error>> + Send + 'static> {
        if !self.terms.is_timed {
            return None;
        }
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if now.monotonic() < renewed.saturating_add(self.hold_for / 3) {
            return None;
        }
        *renewed = now.monotonic();
        let (books, now) = (Arc::clone(self), now.read());
        Some(async move { books.renew_own(now, true).await })
    }

    fn renewal<'a>(
        &self,
        customer: &CustomerId,
        ids: impl Iterator<Item = &'a EventId>,
        lifetime: Duration,
        now: Moment<'_>,
        revives: bool,
    ) -> super::link::Begun<Result<Vec<bool>, Error>> {
        let mut call = self.begin_any(&self.scripts.renew, customer, &[], now);
        call.arg(self.lifetime(Some(lifetime)).as_micros() as u64);
        call.arg(if revives { "1" } else { "" });
        for id in ids {
            call.pieces(&[keys::HOLD, id.write(&mut [0; 36])]);
        }
        // The next one may come too late, if it goes by a connection that hangs.
        let caller = self.caller.of_rare_calls();
        super::link::Begun::new(async move {
            let value = call.run(&caller, caller.deadline()).await?;
            let mut reply = super::reply::Reply::of(value)?;
            let mut lives = Vec::new();
            while let Some(value) = reply.next() {
                lives.push(value == redis::Value::Int(1));
            }
            Ok(lives)
        })
    }

    /// Renews holds that somebody names.
    pub(super) async fn renew(
        &self,
        keys: Vec<HoldKey<'_>>,
        lifetime: Duration,
        now: Moment<'_>,
    ) -> Result<Vec<bool>, Error> {
        let calls: Vec<_> = keys
            .iter()
            .map(|key| self.renewal(key.customer, [key.id].into_iter(), lifetime, now, false))
            .collect();
        let mut answers = Vec::with_capacity(calls.len());
        for (call, key) in calls.into_iter().zip(&keys) {
            let lives = call.await?.first().copied().unwrap_or_default();
            if lives {
                self.registry.renewed(key.id, now.monotonic().saturating_add(lifetime));
            }
            answers.push(lives);
        }
        Ok(answers)
    }
}

async fn finish(
    calls: &mut Vec<super::link::Begun<Result<Vec<bool>, Error>>>,
) -> Result<(), Error> {
    let mut renewed = Ok(());
    for call in calls.drain(..) {
        renewed = renewed.and(call.await.map(|_| ()));
    }
    renewed
}
