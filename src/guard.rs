use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::backend::{Backend, Flight, Hold, Settlement, Ticket};
use crate::classify::{self, Classification};
use crate::layer::{Disconnect, MissingUsage, Options};
use crate::observe::{self, Span};
use crate::policy::Usage;
use crate::reporter::Reported;
use crate::usage::Started;
use http::HeaderMap;

/// Ends one request's hold exactly once: settles it, or releases it. Dropped, it releases: the inner
/// service failed, panicked, or its future was dropped.
pub(crate) struct Guard<B: Backend> {
    options: Arc<Options<B>>,
    hold: Option<Hold>,
    /// The check was not answered, and the request runs unchecked.
    unchecked: bool,
    /// Of a layer further out, which handlers report to.
    outer: Option<Arc<Flight>>,
    /// For usage that is measured in time.
    started: Option<Started>,
    span: Span,
}

impl<B: Backend> Guard<B> {
    pub(crate) fn new(
        options: Arc<Options<B>>,
        hold: Option<Hold>,
        outer: Option<Arc<Flight>>,
        span: Span,
    ) -> Self {
        let started = options.measure.is_timed().then(Started::now);
        Self { options, hold, unchecked: false, outer, started, span }
    }

    /// For a request that runs although its check was not answered: its use is recorded all the
    /// same, under the id of that check.
    pub(crate) fn unchecked(
        options: Arc<Options<B>>,
        ticket: Ticket,
        outer: Option<Arc<Flight>>,
        span: Span,
    ) -> Self {
        let at = options.books.backend().now();
        let hold = Some(Hold { ticket, at });
        let mut guard = Self::new(options, hold, outer, span);
        guard.unchecked = true;
        guard
    }

    pub(crate) fn options(&self) -> &Options<B> {
        &self.options
    }

    pub(crate) fn started(&self) -> Option<Started> {
        self.started
    }

    /// Whether there is anything to end.
    pub(crate) fn is_open(&self) -> bool {
        self.hold.is_some()
    }

    /// The response ended well, or not, by its classification and trailers, or by the handler's word.
    /// `None` when there is nothing to wait for.
    pub(crate) fn end(
        &mut self,
        classification: Classification,
        trailers: Option<&HeaderMap>,
        measured: Option<Usage>,
    ) -> Option<Finish<B>> {
        let success = match classification {
            Classification::Success => true,
            Classification::Failure => false,
            Classification::GrpcTrailers => classify::trailers_succeed(trailers),
        };
        let reported = self.reported();
        // The handler's word wins.
        self.finish(success && !reported.failed, Usage::joined(measured, reported.usage))
    }

    /// The client went away. `seen` is what was measured by then, and whether that is all.
    pub(crate) fn disconnected(&mut self, seen: Option<Usage>, is_final: bool) {
        if self.options.disconnect == Disconnect::Release {
            drop(self.finish(false, None));
            return;
        }
        let reported = self.reported();
        let mut usage = Usage::joined(seen, reported.usage);
        if let Some(hold) = &self.hold
            && !(is_final || reported.complete || hold.check().ask().expected.is_empty())
        {
            usage.get_or_insert_default().at_least(&hold.check().ask().expected);
        }
        drop(self.finish(!reported.failed, usage));
    }

    /// What the handler said, unless the hold has ended.
    fn reported(&self) -> Reported {
        let own = self.hold.as_ref().map(|hold| &hold.check().0);
        let flight = self.outer.as_ref().or(own);
        flight.map(|flight| flight.report.reported()).unwrap_or_default()
    }

    fn finish(&mut self, success: bool, usage: Option<Usage>) -> Option<Finish<B>> {
        let hold = self.hold.take()?;
        let finish = self.span.run(|| self.send(hold, success, usage));
        Some(Finish { finish, span: self.span.clone() })
    }

    fn send(&self, hold: Hold, success: bool, usage: Option<Usage>) -> B::Finish {
        let backend = self.options.books.backend();
        if !success {
            return backend.release(hold.ticket);
        }
        let (mut settlement, missing) = Settlement::new(hold, usage);
        settlement.unsure = self.unchecked;
        if missing.is_some() {
            observe::usage_missing();
            match self.options.missing_usage {
                MissingUsage::ChargeEstimate => settlement.charge_estimate(),
                MissingUsage::RecordOnly => {}
                MissingUsage::Release => return backend.release(settlement.into_ticket()),
            }
        }
        backend.settle(settlement)
    }
}

impl<B: Backend> Drop for Guard<B> {
    fn drop(&mut self) {
        drop(self.finish(false, None));
    }
}

/// A settlement or release on its way. It happens whether or not anybody waits.
pub(crate) struct Finish<B: Backend> {
    finish: B::Finish,
    span: Span,
}

impl<B: Backend> Finish<B> {
    /// Nobody waits any longer.
    pub(crate) fn is_late(&self) {
        self.span.run(|| observe::settlement("late"));
    }
}

impl<B: Backend> Future for Finish<B> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { finish, span } = &mut *self;
        span.run(|| {
            observe::finished(&ready!(Pin::new(finish).poll(cx)));
            Poll::Ready(())
        })
    }
}
