//! Sends what is due to one endpoint, again and again.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::queue::{Endpoint, Next, Queue, Taken};
use super::schedule::wait;
use super::sender::{Sender, Sent};
use crate::observe;

/// While something waits, the clock is looked at so often: it may be set, and a machine may sleep.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How long to wait when the file fails.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(super) struct Courier {
    pub(super) queue: Arc<Queue>,
    /// Which of the endpoints.
    pub(super) at: usize,
    pub(super) sender: Sender,
}

impl Courier {
    pub(super) async fn run(self) {
        let Some(endpoint) = self.queue.endpoints.get(self.at) else { return };
        loop {
            let changed = self.queue.changed.notified();
            match self.queue.take(endpoint) {
                Ok(Next::Send(taken)) => self.deliver(endpoint, taken).await,
                Ok(Next::Later) => drop(timeout(LOOK_AGAIN, changed).await),
                Ok(Next::Nothing) => changed.await,
                Err(error) => {
                    observe::webhooks_not_written(&error);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn deliver(&self, endpoint: &Endpoint, taken: Taken) {
        let message = (taken.due.id.as_str(), taken.due.body.clone());
        let now = self.queue.now();
        let sent = self.sender.send(&endpoint.url, &endpoint.secrets, message, now).await;
        let host = endpoint.url.host_str().unwrap_or_default();
        let again = match sent {
            Sent::Failed(asked) => wait(taken.due.failures.saturating_add(1), asked, random()),
            Sent::Delivered | Sent::Gone => None,
        };
        observe::webhook_attempt(
            &taken.due.id,
            host,
            match (sent, again) {
                (Sent::Delivered, _) => "delivered",
                (Sent::Gone, _) => "gone",
                (Sent::Failed(_), Some(_)) => "failed",
                (Sent::Failed(_), None) => "given_up",
            },
        );
        // Until it is written down nobody else may have it: it would be sent once more.
        while let Err(error) = match sent {
            Sent::Delivered => taken.delivered(),
            Sent::Failed(_) => taken.failed(again),
            Sent::Gone => taken.gone(endpoint),
        } {
            observe::webhooks_not_written(&error);
            sleep(PAUSE).await;
        }
    }
}

fn random() -> u64 {
    // The standard library seeds its hasher from the operating system.
    RandomState::new().hash_one(0_u8)
}
