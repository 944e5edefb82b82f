use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep, timeout};

use crate::backend::{Backend, Erased};
use crate::classify::Classification;
use crate::guard::{Finish, Guard};
use crate::hook;
use crate::layer::Disconnect;
use crate::policy::Usage;
use crate::usage::{self, Measured, Watch};

pin_project! {
    /// The body of a response of [`Limitry`](crate::Limitry): a refusal, or the inner body, measured
    /// to its end. Frames pass unchanged and unbuffered; only the last may wait for its record.
    pub struct ResponseBody<P, B = Erased>
    where
        B: Backend,
    {
        #[pin]
        inner: Inner<P, B>,
        // Boxed: most bodies are passed on with nothing left to do, and should move cheaply.
        meter: Option<Box<Meter<B>>>,
        held: Option<Box<Held<B>>>,
        exhausted: bool,
    }

    impl<P, B: Backend> PinnedDrop for ResponseBody<P, B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if !std::thread::panicking()
                && let InnerProjection::Boxed { body, drain } = this.inner.project()
                && let (Some(body), Some(meter)) = (body.take(), this.meter.take())
            {
                drain(body, *meter);
            }
        }
    }
}

pin_project! {
    #[project = InnerProjection]
    enum Inner<P, B>
    where
        B: Backend,
    {
        Inline { #[pin] body: P },
        // A body that goes on in the background when its client leaves.
        Boxed { body: Option<Pin<Box<P>>>, drain: fn(Pin<Box<P>>, Meter<B>) },
        Refused { data: Option<Bytes> },
    }
}

/// The last frame, while its record is on the way.
struct Held<B: Backend> {
    ending: Ending<B>,
    frame: Option<Frame<Bytes>>,
}

impl<P, B: Backend> ResponseBody<P, B> {
    fn new(inner: Inner<P, B>, meter: Option<Box<Meter<B>>>) -> Self {
        Self { inner, meter, held: None, exhausted: false }
    }

    pub(crate) fn passed(body: P) -> Self {
        Self::new(Inner::Inline { body }, None)
    }

    pub(crate) fn refused(data: Bytes) -> Self {
        Self::new(Inner::Refused { data: Some(data).filter(|data| !data.is_empty()) }, None)
    }

    /// The inner body, with what is left to do at its end.
    pub(crate) fn metered(body: P, meter: Meter<B>) -> Self
    where
        P: Body<Data = Bytes> + Send + 'static,
    {
        let inner = match meter.guard.options().disconnect {
            Disconnect::Drain { .. } if meter.guard.is_open() => {
                Inner::Boxed { body: Some(Box::pin(body)), drain: drain_in_background }
            }
            _ => Inner::Inline { body },
        };
        Self::new(inner, Some(Box::new(meter)))
    }
}

impl<P: Default, B: Backend> Default for ResponseBody<P, B> {
    fn default() -> Self {
        Self::passed(P::default())
    }
}

impl<P, B: Backend> fmt::Debug for ResponseBody<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").field("metered", &self.meter.is_some()).finish()
    }
}

impl<P, B> Body for ResponseBody<P, B>
where
    P: Body<Data = Bytes>,
    B: Backend,
{
    type Data = Bytes;
    type Error = P::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, P::Error>>> {
        let mut this = self.project();
        if let Some(held) = this.held {
            ready!(held.ending.poll(cx));
            let frame = held.frame.take();
            *this.held = None;
            return Poll::Ready(frame.map(Ok));
        }
        if *this.exhausted {
            return Poll::Ready(None);
        }
        let frame = ready!(match this.inner.as_mut().project() {
            InnerProjection::Inline { body } => body.poll_frame(cx),
            InnerProjection::Boxed { body: Some(body), .. } => body.as_mut().poll_frame(cx),
            InnerProjection::Boxed { body: None, .. } => Poll::Ready(None),
            InnerProjection::Refused { data } => {
                Poll::Ready(data.take().map(|data| Ok(Frame::data(data))))
            }
        });
        let Some(meter) = this.meter else { return Poll::Ready(frame) };
        let (frame, finish) = match frame {
            Some(Ok(frame)) => {
                meter.frame(&frame);
                if !frame.is_trailers() && !meter.is_complete() && !this.inner.is_end_stream() {
                    return Poll::Ready(Some(Ok(frame)));
                }
                let finish = meter.end(frame.trailers_ref());
                (Some(frame), finish)
            }
            None => (None, meter.end(None)),
            Some(Err(error)) => {
                meter.fail();
                *this.meter = None;
                return Poll::Ready(Some(Err(error)));
            }
        };
        *this.exhausted = frame.is_none();
        let ending = finish.map(|finish| Ending::new(finish, meter.settle_timeout()));
        *this.meter = None;
        let Some(mut ending) = ending else { return Poll::Ready(frame.map(Ok)) };
        if ending.poll(cx).is_ready() {
            return Poll::Ready(frame.map(Ok));
        }
        *this.held = Some(Box::new(Held { ending, frame }));
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let inner = match &self.inner {
            Inner::Inline { body } => body.size_hint(),
            Inner::Boxed { body, .. } => {
                body.as_ref().map_or_else(|| SizeHint::with_exact(0), |body| body.size_hint())
            }
            Inner::Refused { data } => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64))
            }
        };
        let held = self.held.as_ref().and_then(|held| held.frame.as_ref()?.data_ref());
        let held = held.map_or(0, |data| data.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(held));
        if let Some(upper) = inner.upper().and_then(|upper| upper.checked_add(held)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<P: Body, B: Backend> Inner<P, B> {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Inline { body } => body.is_end_stream(),
            Self::Boxed { body, .. } => body.as_ref().is_none_or(|body| body.is_end_stream()),
            Self::Refused { data } => data.is_none(),
        }
    }
}

/// Measures a body to its end, and ends the hold there. Dropped before, the client has left.
pub(crate) struct Meter<B: Backend> {
    guard: Guard<B>,
    classification: Classification,
    /// Known from the head; recorded once the trailers say that it was a success.
    known: Option<Usage>,
    watch: Option<Box<dyn Watch>>,
    /// How much of the length that was told is still to come.
    remaining: Option<u64>,
    /// The record of what was settled at the head.
    settled: Option<Finish<B>>,
}

impl<B: Backend> Meter<B> {
    pub(crate) fn new(
        guard: Guard<B>,
        classification: Classification,
        measured: Measured,
        remaining: Option<u64>,
    ) -> Self {
        let mut meter =
            Self { guard, classification, known: None, watch: None, remaining, settled: None };
        match measured {
            Measured::Body(watch) => meter.watch = Some(watch),
            Measured::Reported => {}
            Measured::Usage(usage) => meter.known = Some(usage),
            Measured::Missing => {}
        }
        meter
    }

    /// For a use that was settled at the head, and whose record is still on its way.
    pub(crate) fn settled(guard: Guard<B>, finish: Finish<B>, remaining: Option<u64>) -> Self {
        let settled = Some(finish);
        let classification = Classification::Success;
        Self { guard, classification, known: None, watch: None, remaining, settled }
    }

    fn settle_timeout(&self) -> Duration {
        self.guard.options().settle_timeout
    }

    fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            if let Some(remaining) = &mut self.remaining {
                *remaining = remaining.saturating_sub(data.len() as u64);
            }
            self.watch(|watch| watch.data(data));
        } else if let Some(trailers) = frame.trailers_ref() {
            self.watch(|watch| watch.trailers(trailers));
        }
    }

    /// Whether the length that was told has come; a server may not ask for more.
    fn is_complete(&self) -> bool {
        self.remaining == Some(0)
    }

    /// The body has ended. Answers what there is to wait for.
    fn end(&mut self, trailers: Option<&HeaderMap>) -> Option<Finish<B>> {
        if !self.guard.is_open() {
            return self.settled.take();
        }
        let (measured, failed) = match self.watch.take() {
            Some(watch) => usage::end(watch),
            None => (self.known.take(), false),
        };
        if failed {
            self.classification = Classification::Failure;
        }
        self.guard.end(self.classification, trailers, measured).and_then(unless_done)
    }

    /// The body failed.
    fn fail(&mut self) {
        self.watch = None;
        drop(self.guard.end(Classification::Failure, None, None));
    }

    /// A watch that panics sees nothing more, and its usage is missing.
    fn watch(&mut self, look: impl FnOnce(&mut dyn Watch)) {
        if let Some(watch) = &mut self.watch
            && hook::call(|| look(&mut **watch)).is_none()
        {
            self.watch = None;
        }
    }
}

/// How much a body says it brings, if that ends it.
pub(crate) fn length(
    classification: Classification,
    headers: &HeaderMap,
    body: &impl Body,
) -> Option<u64> {
    // The trailers of a gRPC call are to come when its length has.
    if classification == Classification::GrpcTrailers {
        return None;
    }
    let told = headers.get(CONTENT_LENGTH);
    let told = told.and_then(|length| length.to_str().ok()?.parse().ok());
    told.or_else(|| body.size_hint().exact())
}

impl<B: Backend> Drop for Meter<B> {
    fn drop(&mut self) {
        if !self.guard.is_open() {
            return;
        }
        if std::thread::panicking() {
            // The body itself panicked, or something around it: no client has left.
            return self.fail();
        }
        if let Some(watch) = &self.watch
            && hook::call(|| watch.has_failed()) == Some(true)
        {
            return self.fail();
        }
        let seen = self.watch.as_mut().and_then(|watch| hook::call(|| watch.seen()));
        let is_known = self.known.is_some();
        let (seen, is_final) = seen.unwrap_or((self.known.take(), is_known));
        self.guard.disconnected(seen, is_final);
    }
}

/// What is left to wait for: nothing, for backends that record at once.
pub(crate) fn unless_done<B: Backend>(mut finish: Finish<B>) -> Option<Finish<B>> {
    let now = Pin::new(&mut finish).poll(&mut Context::from_waker(Waker::noop()));
    now.is_pending().then_some(finish)
}

/// Waits for a record, for a bounded time. It is made whether or not anybody waits.
pub(crate) struct Ending<B: Backend> {
    finish: Finish<B>,
    longest: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<B: Backend> Ending<B> {
    pub(crate) fn new(finish: Finish<B>, longest: Duration) -> Self {
        Self { finish, longest, sleep: None }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if Pin::new(&mut self.finish).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(self.longest)));
        ready!(sleep.as_mut().poll(cx));
        self.finish.is_late();
        Poll::Ready(())
    }
}

/// Reads on where the client left, within bounds, and ends the hold as if it had stayed.
fn drain_in_background<P, B>(mut body: Pin<Box<P>>, mut meter: Meter<B>)
where
    P: Body<Data = Bytes> + Send + 'static,
    B: Backend,
{
    let Disconnect::Drain { bytes, within } = meter.guard.options().disconnect else { return };
    // Outside of a runtime nobody can read on; the meter settles by what it has seen.
    let Ok(runtime) = Handle::try_current() else { return };
    runtime.spawn(async move {
        let mut left = bytes;
        let reading = timeout(within, async {
            loop {
                match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                    Some(Ok(frame)) => {
                        meter.frame(&frame);
                        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                        if frame.is_trailers() || meter.is_complete() || body.is_end_stream() {
                            drop(meter.end(frame.trailers_ref()));
                            return;
                        }
                        let Some(rest) = left.checked_sub(length) else { return };
                        left = rest;
                    }
                    Some(Err(_)) => return meter.fail(),
                    None => return drop(meter.end(None)),
                }
            }
        });
        // Whatever stopped it, the meter ends the hold when it is dropped.
        let _elapsed = reading.await;
    });
}
