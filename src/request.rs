//! The body of a request: left alone, or read for its estimate and replayed unchanged.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
#[cfg(feature = "json")]
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
#[cfg(feature = "json")]
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::policy::Usage;

/// How a layer treats request bodies. Sealed: [`HeadOnly`] or [`ReadJson`].
pub trait ReadRequest<B>: sealed::Sealed + Clone + Send + Sync + 'static {
    /// The body that the inner service gets.
    type Body;

    /// The body for the inner service where it is not read.
    #[doc(hidden)]
    fn pass(body: B) -> Self::Body;

    /// Whether the body has to be read first.
    #[doc(hidden)]
    fn reads(&self) -> bool;

    /// Reads what is needed.
    #[doc(hidden)]
    fn read(&self, body: B) -> impl Future<Output = (Self::Body, Option<Usage>)> + Send
    where
        B: Send + 'static;
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::HeadOnly {}
    #[cfg(feature = "json")]
    impl Sealed for super::ReadJson {}
}

/// Bodies of requests are not touched. The default.
#[derive(Clone, Copy, Debug)]
pub struct HeadOnly(pub(crate) ());

impl<B> ReadRequest<B> for HeadOnly {
    type Body = B;

    fn pass(body: B) -> B {
        body
    }

    fn reads(&self) -> bool {
        false
    }

    async fn read(&self, body: B) -> (B, Option<Usage>)
    where
        B: Send + 'static,
    {
        (body, None)
    }
}

/// Bodies of requests are read, up to a bound, and replayed; set by
/// [`LimitryLayer::request_json`](crate::LimitryLayer::request_json).
#[cfg(feature = "json")]
#[derive(Clone)]
pub struct ReadJson {
    most: usize,
    expect: std::sync::Arc<Expect>,
}

#[cfg(feature = "json")]
type Expect = dyn Fn(&[u8]) -> Option<Usage> + Send + Sync;

#[cfg(feature = "json")]
impl ReadJson {
    pub(crate) fn new<T, F>(most: usize, expect: F) -> Self
    where
        T: serde::de::DeserializeOwned,
        F: Fn(&T) -> Usage + Send + Sync + 'static,
    {
        let expect = move |body: &[u8]| {
            let value: T = serde_json::from_slice(body).ok()?;
            crate::hook::call(|| expect(&value))
        };
        Self { most, expect: std::sync::Arc::new(expect) }
    }
}

#[cfg(feature = "json")]
impl fmt::Debug for ReadJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadJson").field("most", &self.most).finish_non_exhaustive()
    }
}

#[cfg(feature = "json")]
impl<B> ReadRequest<B> for ReadJson
where
    B: Body<Data = Bytes>,
    B::Error: Send,
{
    type Body = RequestBody<B>;

    fn pass(body: B) -> RequestBody<B> {
        RequestBody::new(body)
    }

    fn reads(&self) -> bool {
        true
    }

    async fn read(&self, body: B) -> (RequestBody<B>, Option<Usage>)
    where
        B: Send + 'static,
    {
        let mut body = Box::pin(body);
        let mut frames = VecDeque::new();
        let too_long = body.size_hint().lower() > self.most as u64;
        let reading = if too_long {
            Reading::Stopped
        } else {
            read(body.as_mut(), self.most, &mut frames).await
        };
        let whole = reading != Reading::Stopped;
        let expected = whole.then(|| (self.expect)(&joined(&frames))).flatten();
        let ended = reading == Reading::Ended;
        (RequestBody { read: frames, ended, rest: Rest::Boxed { body } }, expected)
    }
}

/// How far a body was read.
#[cfg(feature = "json")]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// It says that nothing follows.
    Whole,
    /// It has answered `None`, and may not be polled again.
    Ended,
    /// It is too long, or failed.
    Stopped,
}

/// Reads frames until the body ends, or is longer than that.
#[cfg(feature = "json")]
async fn read<B: Body<Data = Bytes>>(
    mut body: Pin<&mut B>,
    most: usize,
    frames: &mut VecDeque<Result<Frame<Bytes>, B::Error>>,
) -> Reading {
    let mut length = 0;
    while !body.is_end_stream() {
        let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await else {
            return Reading::Ended;
        };
        let data = frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
        let failed = frame.is_err();
        length += data;
        frames.push_back(frame);
        // Frames without data take space too. One may hold the trailers.
        if failed || length > most || frames.len() > most.saturating_add(1) {
            return Reading::Stopped;
        }
    }
    Reading::Whole
}

#[cfg(feature = "json")]
fn joined<E>(read: &VecDeque<Result<Frame<Bytes>, E>>) -> Bytes {
    let mut data = read.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref());
    match (data.next(), data.next()) {
        (None, _) => Bytes::new(),
        (Some(only), None) => only.clone(),
        (Some(first), Some(second)) => {
            let all = [first, second].into_iter().chain(data);
            all.flat_map(|data| data.chunk().iter().copied()).collect()
        }
    }
}

pin_project! {
    /// The body of a request that was read for its estimate: the same frames, in the same order.
    pub struct RequestBody<B: Body> {
        read: VecDeque<Result<Frame<B::Data>, B::Error>>,
        ended: bool,
        #[pin]
        rest: Rest<B>,
    }
}

pin_project! {
    #[project = RestProjection]
    enum Rest<B> {
        Inline { #[pin] body: B },
        Boxed { body: Pin<Box<B>> },
    }
}

#[cfg(feature = "json")]
impl<B: Body> RequestBody<B> {
    fn new(body: B) -> Self {
        Self { read: VecDeque::new(), ended: false, rest: Rest::Inline { body } }
    }
}

impl<B: Body> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("read", &self.read.len()).finish_non_exhaustive()
    }
}

impl<B: Body> Body for RequestBody<B>
where
    B::Data: Buf,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        if let Some(frame) = this.read.pop_front() {
            return Poll::Ready(Some(frame));
        }
        if *this.ended {
            return Poll::Ready(None);
        }
        Poll::Ready(ready!(match this.rest.project() {
            RestProjection::Inline { body } => body.poll_frame(cx),
            RestProjection::Boxed { body } => body.as_mut().poll_frame(cx),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && (self.ended || self.rest.get().is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref());
        let read: u64 = read.map(|data| data.remaining() as u64).sum();
        let rest = self.rest.get().size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B> Rest<B> {
    fn get(&self) -> &B {
        match self {
            Self::Inline { body } => body,
            Self::Boxed { body } => body,
        }
    }
}
