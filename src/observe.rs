//! What operators see: events under `tracing`, counters under `metrics`. Customer ids go on events
//! only, never on a metric.

#[cfg(feature = "metrics")]
use metrics::counter;

use crate::backend::Decision;
use crate::reject::Refusal;

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
#[cfg_attr(not(any(feature = "metrics", feature = "tracing")), expect(unused_variables))]
pub(crate) fn settlement(result: &'static str) {
    #[cfg(feature = "metrics")]
    counter!("limitry.settlements", "result" => result).increment(1);
    #[cfg(feature = "tracing")]
    if result != "recorded" {
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
