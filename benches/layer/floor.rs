//! The least that a layer adds which tells the handler something and sees the response end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

#[derive(Clone, Copy, Debug)]
pub(crate) struct FloorLayer;

#[derive(Clone, Debug)]
pub(crate) struct Floor<S>(S);

/// What the handler is told.
#[derive(Clone, Debug)]
struct Told(#[expect(dead_code, reason = "nobody asks")] Arc<u64>);

impl<S> Layer<S> for FloorLayer {
    type Service = Floor<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Floor(inner)
    }
}

impl<S, Q, P> Service<Request<Q>> for Floor<S>
where
    S: Service<Request<Q>, Response = Response<P>>,
{
    type Response = Response<Watched<P>>;
    type Error = S::Error;
    type Future = FloorFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        let told = Arc::new(1);
        request.extensions_mut().insert(Told(Arc::clone(&told)));
        FloorFuture { future: self.0.call(request), told: Some(told) }
    }
}

pin_project! {
    pub(crate) struct FloorFuture<F> {
        #[pin]
        future: F,
        told: Option<Arc<u64>>,
    }
}

impl<F, P, E> Future for FloorFuture<F>
where
    F: Future<Output = Result<Response<P>, E>>,
{
    type Output = Result<Response<Watched<P>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx))?;
        let told = this.told.take();
        Poll::Ready(Ok(response.map(|body| Watched { body, told })))
    }
}

pin_project! {
    pub(crate) struct Watched<P> {
        #[pin]
        body: P,
        told: Option<Arc<u64>>,
    }
}

impl<P: Body<Data = Bytes>> Body for Watched<P> {
    type Data = Bytes;
    type Error = P::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, P::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        if frame.is_none() {
            *this.told = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
