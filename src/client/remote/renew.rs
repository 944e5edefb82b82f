//! Lets the holds of running requests live on, as many in one call as there are.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::running::Running;
use crate::backend::Name;
use crate::client::{Call, Http};
use crate::observe;
use crate::wire::{HoldsBody, RenewedBody, ResultsBody};

/// How many one call names at most, and how many calls are on their way at once: one that is late does
/// not make the others late.
const MOST: usize = 1_000;
const BESIDE: usize = 8;

/// Renews three times within a lifetime, so that two failures in a row cost nothing.
pub(super) async fn keep(http: Http, running: Arc<Running>, lifetime: Duration) {
    let pause = lifetime / 3;
    loop {
        wait_for_work(&running).await;
        if running.is_closed() {
            return;
        }
        sleep(pause).await;
        let names = running.renewed();
        let mut calls = JoinSet::new();
        for some in names.chunks(MOST) {
            if calls.len() == BESIDE {
                calls.join_next().await;
            }
            let (http, running, some) = (http.clone(), Arc::clone(&running), some.to_vec());
            calls.spawn(async move {
                if !renew(&http, &running, &some, lifetime, pause).await {
                    // It is asked again long before the holds end.
                    sleep(pause / 4).await;
                    renew(&http, &running, &some, lifetime, pause).await;
                }
            });
        }
        while calls.join_next().await.is_some() {}
    }
}

async fn wait_for_work(running: &Running) {
    loop {
        let changed = running.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if running.is_closed() || !running.renewed().is_empty() {
            return;
        }
        changed.await;
    }
}

/// Renews these. Those that are gone are not asked for again: a settlement counts all the same.
async fn renew(
    http: &Http,
    running: &Running,
    names: &[Name],
    lifetime: Duration,
    within: Duration,
) -> bool {
    let holds = names.iter().map(Into::into).collect();
    let body = HoldsBody { holds, hold_seconds: Some(seconds(lifetime)) };
    let Ok(call) = Call::post(&["x", "renew"]).repeatable().within(within).json(&body) else {
        return false;
    };
    let asked = timeout(within, http.fetch::<ResultsBody<RenewedBody>>(call));
    let Ok(Ok(answer)) = asked.await else { return false };
    let mut lost = 0;
    for (name, renewed) in names.iter().zip(answer.results) {
        if !renewed.live {
            running.end(name);
            lost += 1;
        }
    }
    observe::holds_lost(lost);
    true
}

/// As the server is told: whole seconds, rounded up, within its bounds.
pub(super) fn seconds(lifetime: Duration) -> u32 {
    let seconds = lifetime.min(super::LONGEST_HOLD).as_millis().div_ceil(1_000).max(1);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
