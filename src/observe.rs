//! What operators see: spans and events under `tracing`, counters under `metrics`. Customer ids go on
//! spans and events only, never on a metric.

#[cfg(feature = "metrics")]
use metrics::counter;

use crate::backend::{Check, Decision};
use crate::reject::Refusal;

/// The span of one metered request, from its check to its record. Nothing without `tracing`, and
/// nothing to enter while nobody listens.
#[derive(Clone, Debug)]
pub(crate) struct Span(#[cfg(feature = "tracing")] Option<tracing::Span>);

impl Span {
    /// For what is asked by this check, in the span of now.
    #[inline]
    pub(crate) fn of(check: &Check) -> Self {
        let _ = check;
        Self(
            #[cfg(feature = "tracing")]
            listened_to().then(|| {
                tracing::info_span!(
                    target: "tower_limitry",
                    "limitry",
                    customer = %check.ask().customer,
                    event_type = check.ask().recorded_as(),
                )
            }),
        )
    }

    /// The span of now.
    #[inline]
    pub(crate) fn current() -> Self {
        Self(
            #[cfg(feature = "tracing")]
            listened_to().then(tracing::Span::current),
        )
    }

    /// Works in the span.
    #[inline]
    pub(crate) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        if let Some(span) = &self.0 {
            return span.in_scope(work);
        }
        work()
    }
}

/// Whether any subscriber wants spans of this level.
#[cfg(feature = "tracing")]
#[inline]
fn listened_to() -> bool {
    tracing::level_filters::LevelFilter::current() >= tracing::Level::INFO
}

/// Usage could not be measured, or a price not be told.
pub(crate) fn usage_missing() {
    #[cfg(feature = "metrics")]
    counter!("limitry.usage_missing").increment(1);
    #[cfg(feature = "tracing")]
    tracing::warn!(target: "tower_limitry", "usage is missing; the estimate is charged if there is one");
}

/// A function that the user supplied panicked.
pub(crate) fn hook_panicked() {
    #[cfg(feature = "metrics")]
    counter!("limitry.hook_panicked").increment(1);
    #[cfg(feature = "tracing")]
    tracing::error!(target: "tower_limitry", "a hook panicked; its answer counts as missing");
}

/// A settlement did not fit its counter, or could not be taken.
#[inline]
pub(crate) fn settlement(result: &'static str) {
    if result == "recorded" {
        // A constant label makes a constant key.
        #[cfg(feature = "metrics")]
        counter!("limitry.settlements", "result" => "recorded").increment(1);
    } else {
        #[cfg(feature = "metrics")]
        counter!("limitry.settlements", "result" => result).increment(1);
        #[cfg(feature = "tracing")]
        tracing::warn!(target: "tower_limitry", result, "a settlement was not counted as usual");
    }
}

/// A settlement or release is over.
pub(crate) fn finished(result: &Result<(), crate::Error>) {
    if let Err(error) = result {
        #[cfg(feature = "metrics")]
        counter!("limitry.settle_errors").increment(1);
        #[cfg(feature = "tracing")]
        tracing::error!(target: "tower_limitry", %error, "a settlement failed");
        let _ = error;
    }
}

/// The server answered. The route is the one in the table: paths hold customers' ids.
#[cfg(feature = "server")]
pub(crate) fn served(
    request: &str,
    method: &'static str,
    route: &str,
    status: u16,
    took: std::time::Duration,
) {
    #[cfg(feature = "metrics")]
    {
        use metrics::{Label, SharedString};
        let route = SharedString::from_shared(std::sync::Arc::from(route));
        let route = Label::new("route", route);
        let method = Label::from_static_parts("method", method);
        let labels = vec![method, route.clone(), Label::new("status", status.to_string())];
        counter!("limitry.http_requests", labels).increment(1);
        metrics::histogram!("limitry.http_seconds", vec![route]).record(took.as_secs_f64());
    }
    #[cfg(feature = "tracing")]
    {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if status >= 500 {
            tracing::error!(target: "tower_limitry", request, method, route, status, took_us, "failed");
        } else {
            tracing::info!(target: "tower_limitry", request, method, route, status, took_us, "served");
        }
    }
    let _ = (request, method, route, status, took);
}

/// A request was checked, and runs.
pub(crate) fn allowed(decision: &Decision) {
    #[cfg(feature = "metrics")]
    counter!("limitry.requests", "result" => "allowed").increment(1);
    #[cfg(feature = "tracing")]
    tracing::debug!(target: "tower_limitry", customer = %decision.customer(), "allowed");
    let _ = decision;
}

/// A request was answered without reaching the service.
pub(crate) fn refused(refusal: &Refusal) {
    #[cfg(feature = "metrics")]
    counter!("limitry.requests", "result" => refusal.as_str()).increment(1);
    #[cfg(feature = "tracing")]
    {
        let customer = refusal.denial().map(|denial| denial.decision().customer().as_str());
        tracing::debug!(target: "tower_limitry", customer, reason = refusal.as_str(), "refused");
    }
    let _ = refusal;
}

/// A check could not be decided, and this was done about it.
pub(crate) fn failure(done: &'static str, error: &crate::Error) {
    #[cfg(feature = "metrics")]
    counter!("limitry.failures", "done" => done).increment(1);
    #[cfg(feature = "tracing")]
    tracing::error!(target: "tower_limitry", done, %error, "a check could not be decided");
    let _ = (done, error);
}

/// A file could not be written; it is tried again.
#[cfg(feature = "sqlite")]
pub(crate) fn not_written(error: &crate::Error) {
    #[cfg(feature = "metrics")]
    counter!("limitry.write_errors").increment(1);
    #[cfg(feature = "tracing")]
    tracing::error!(target: "tower_limitry", %error, "the books could not be written");
    let _ = error;
}

/// So many requests were running when the process before ended.
#[cfg(feature = "sqlite")]
pub(crate) fn ownerless_holds(left: usize) {
    #[cfg(feature = "metrics")]
    counter!("limitry.ownerless_holds").increment(left as u64);
    #[cfg(feature = "tracing")]
    tracing::warn!(target: "tower_limitry", left, "requests were running when the process ended");
    let _ = left;
}

/// How the outbox stands.
#[cfg(feature = "outbox")]
#[cfg_attr(not(feature = "metrics"), expect(unused_variables))]
pub(crate) fn outbox(stats: &crate::outbox::OutboxStats) {
    #[cfg(feature = "metrics")]
    {
        use metrics::gauge;
        let age = stats.oldest.map_or(0.0, |age| age.as_secs_f64());
        gauge!("limitry.outbox_depth").set(stats.depth as f64);
        gauge!("limitry.outbox_oldest_age_seconds").set(age);
        gauge!("limitry.outbox_set_aside").set(stats.set_aside as f64);
    }
}

/// A settlement found no place in the outbox, and is lost.
#[cfg(feature = "outbox")]
pub(crate) fn outbox_dropped() {
    #[cfg(feature = "metrics")]
    counter!("limitry.outbox_dropped").increment(1);
    #[cfg(feature = "tracing")]
    tracing::error!(target: "tower_limitry", "the outbox is full; a settlement is lost");
}

/// The target refused a settlement for good.
#[cfg(feature = "outbox")]
pub(crate) fn outbox_set_aside(error: &crate::Error) {
    #[cfg(feature = "tracing")]
    tracing::error!(target: "tower_limitry", %error, "a settlement was refused and set aside");
    let _ = error;
}

/// The target has forgotten what it had taken; so much of it is delivered again.
#[cfg(feature = "outbox")]
pub(crate) fn outbox_behind(again: usize) {
    #[cfg(feature = "metrics")]
    counter!("limitry.outbox_delivered_again").increment(again as u64);
    #[cfg(feature = "tracing")]
    tracing::warn!(target: "tower_limitry", again, "the target forgot settlements; they go again");
    let _ = again;
}

/// The file of the outbox cannot be written.
#[cfg(feature = "outbox")]
pub(crate) fn outbox_failing(error: &crate::Error) {
    #[cfg(feature = "metrics")]
    counter!("limitry.outbox_failures").increment(1);
    #[cfg(feature = "tracing")]
    tracing::error!(target: "tower_limitry", %error, "the outbox cannot write its file");
    let _ = error;
}

/// The file of the outbox can be written again.
#[cfg(feature = "outbox")]
pub(crate) fn outbox_recovered() {
    #[cfg(feature = "tracing")]
    tracing::info!(target: "tower_limitry", "the outbox writes its file again");
}

/// So many webhooks wait.
#[cfg(feature = "webhooks")]
#[cfg_attr(not(feature = "metrics"), expect(unused_variables))]
pub(crate) fn webhooks_waiting(waiting: usize) {
    #[cfg(feature = "metrics")]
    metrics::gauge!("limitry.webhooks_waiting").set(waiting as f64);
}

/// A crossing found no room, and nobody is told of it.
#[cfg(feature = "webhooks")]
pub(crate) fn webhook_dropped() {
    #[cfg(feature = "metrics")]
    counter!("limitry.webhooks_dropped").increment(1);
    #[cfg(feature = "tracing")]
    tracing::error!(target: "tower_limitry", "there is no room for a webhook; it is dropped");
}

/// So many that were given up are forgotten, as they are too many. Told once.
#[cfg(feature = "webhooks")]
pub(crate) fn webhooks_forgotten(count: usize, is_first: bool) {
    #[cfg(feature = "metrics")]
    counter!("limitry.webhooks_forgotten").increment(count as u64);
    #[cfg(feature = "tracing")]
    if is_first {
        tracing::error!(
            target: "tower_limitry",
            "too many webhooks were given up; from here on the oldest are forgotten"
        );
    }
    let _ = (count, is_first);
}

/// An endpoint was told, or not. A URL may hold a secret; its host is told on.
#[cfg(feature = "webhooks")]
pub(crate) fn webhook_attempt(id: &str, host: &str, result: &'static str) {
    #[cfg(feature = "metrics")]
    counter!("limitry.webhook_attempts", "result" => result).increment(1);
    #[cfg(feature = "tracing")]
    match result {
        "delivered" => tracing::debug!(target: "tower_limitry", id, host, "webhook delivered"),
        "failed" => {
            tracing::warn!(target: "tower_limitry", id, host, "webhook failed; it is sent again")
        }
        "gone" => {
            tracing::error!(target: "tower_limitry", host, "webhook endpoint answered 410; it is disabled")
        }
        _ => tracing::error!(target: "tower_limitry", id, host, "webhook given up"),
    }
    let _ = (id, host, result);
}

/// The file of webhooks cannot be used.
#[cfg(feature = "webhooks")]
pub(crate) fn webhooks_not_written(error: &rusqlite::Error) {
    #[cfg(feature = "metrics")]
    counter!("limitry.webhooks_write_errors").increment(1);
    #[cfg(feature = "tracing")]
    tracing::error!(target: "tower_limitry", %error, "the webhooks file cannot be used");
    let _ = error;
}

/// A call of the API failed in a way that may pass, and goes again.
#[cfg(feature = "client")]
pub(crate) fn api_repeated() {
    #[cfg(feature = "metrics")]
    counter!("limitry.client_retries").increment(1);
}

/// The circuit breaker before the API changed: 0 is closed, 1 half-open, 2 open.
#[cfg(feature = "client")]
pub(crate) fn api_breaker(state: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::gauge!("limitry.client_breaker").set(match state {
        "closed" => 0.0,
        "half-open" => 1.0,
        _ => 2.0,
    });
    #[cfg(feature = "tracing")]
    tracing::warn!(target: "tower_limitry", state, "the circuit breaker before the API changed");
    let _ = state;
}

/// Holds of running requests are gone from the server: it was restarted, or away for too long.
#[cfg(feature = "client")]
pub(crate) fn holds_lost(count: usize) {
    #[cfg(feature = "metrics")]
    counter!("limitry.holds_lost").increment(count as u64);
    #[cfg(feature = "tracing")]
    if count > 0 {
        tracing::warn!(target: "tower_limitry", count, "holds of running requests are gone from the server");
    }
    let _ = count;
}

/// Releases that could not be sent in time: their holds end by themselves.
#[cfg(feature = "client")]
pub(crate) fn releases_dropped(count: usize) {
    #[cfg(feature = "metrics")]
    counter!("limitry.releases_dropped").increment(count as u64);
    #[cfg(feature = "tracing")]
    if count > 0 {
        tracing::warn!(target: "tower_limitry", count, "releases could not be sent; their holds end by themselves");
    }
    let _ = count;
}

/// A balance did not cover what a request cost; the rest is owed.
#[cfg(feature = "client")]
pub(crate) fn debt() {
    #[cfg(feature = "metrics")]
    counter!("limitry.debts").increment(1);
    #[cfg(feature = "tracing")]
    tracing::warn!(target: "tower_limitry", "a balance did not cover a charge; the rest is owed");
}

/// Some of what was owed was taken.
#[cfg(feature = "client")]
pub(crate) fn debt_paid(is_some_left: bool) {
    #[cfg(feature = "metrics")]
    if !is_some_left {
        counter!("limitry.debts_paid").increment(1);
    }
    let _ = is_some_left;
}
