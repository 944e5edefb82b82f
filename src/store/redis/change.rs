//! One process at a time changes definitions: it holds a lease, a key that expires.

use std::sync::Arc;
use std::time::Duration;

use redis::{Value, cmd};
use tokio::time::{Instant, timeout};

use super::Inner;
use super::link::CallError;
use super::shared::new_version;
use crate::store::{Alone, Together};
use crate::{Error, ErrorKind};

/// For how long the lease of a process that was killed keeps others waiting.
const LEASE: Duration = Duration::from_secs(10);

/// After this, whoever has not finished is waited for no longer, and goes on beside others.
const LONGEST: Duration = Duration::from_secs(300);

const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Takes the lease, or keeps it for longer.
const TAKE: &str = "local holder = redis.call('GET', KEYS[1]) \
                    if holder and holder ~= ARGV[1] then return 0 end \
                    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1";

const GIVE_BACK: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end \
                         return 1";

impl Inner {
    /// Waits until nobody else changes definitions, and keeps others from it until that is dropped. To be run
    /// where it is not dropped itself, so that nothing is left behind.
    pub(super) async fn alone(self: Arc<Self>) -> Result<Alone, Error> {
        let holder = new_version();
        let end = Instant::now() + LONGEST;
        while !self.take_lease(&holder).await? {
            if Instant::now() >= end {
                let message =
                    "another process has been changing definitions all the time; try again";
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
            self.caller.sleep_until(Instant::now() + LOOK_AGAIN).await;
        }
        let (alone, together) = Alone::until_over();
        tokio::spawn(self.hold_lease(holder, together));
        Ok(alone)
    }

    async fn hold_lease(self: Arc<Self>, holder: String, mut together: Together) {
        let end = Instant::now() + LONGEST;
        while Instant::now() < end && timeout(LEASE / 3, together.over()).await.is_err() {
            let _ = self.take_lease(&holder).await;
        }
        let mut give = cmd("EVAL");
        give.arg(GIVE_BACK).arg(1).arg(self.shared.keys.changing()).arg(&holder);
        // What cannot be given back ends by itself.
        let _ = self.caller.call(&give, self.caller.deadline()).await;
        together.tell();
    }

    async fn take_lease(&self, holder: &str) -> Result<bool, CallError> {
        let mut take = cmd("EVAL");
        take.arg(TAKE).arg(1).arg(self.shared.keys.changing());
        take.arg(holder).arg(LEASE.as_millis() as u64);
        match self.caller.call(&take, self.caller.deadline()).await {
            Ok(answer) => Ok(answer == Value::Int(1)),
            // One that takes no writes takes no change either, and says so then.
            Err(error) if error.is_refused_write() => Ok(true),
            Err(error) => Err(error),
        }
    }
}
