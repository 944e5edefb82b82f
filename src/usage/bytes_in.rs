use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::reporter::Reporter;

/// The bytes of the request's body, as the service reads them, recorded under this name.
///
/// This is a layer of its own, because it wraps the body of the request: put it right inside of the
/// [`LimitryLayer`](crate::LimitryLayer), to which it [reports](Reporter). What the service does not
/// read is not counted, whatever `content-length` says, and trailers are no bytes. As it is always
/// known, usage beside it is missing only where it was estimated.
///
/// ```
/// use axum::{Router, routing::post};
/// use tower_limitry::{Engine, Limit, LimitryLayer, Meter, customer, usage};
///
/// let books = Engine::builder()
///     .meter(Meter::sum("uploads", "bytes_in"))
///     .limit(Limit::per_day("daily-uploads", "uploads", 1_000_000_000))
///     .build()?;
/// let metered =
///     LimitryLayer::new(books, customer::trusted_header("x-customer-id"), usage::reported());
///
/// // Of axum's layers, the last one runs first.
/// let app: Router = Router::new()
///     .route("/files", post(|body: String| async move { body.len().to_string() }))
///     .route_layer(usage::bytes_in("bytes_in"))
///     .route_layer(metered);
/// # Ok::<_, tower_limitry::policy::ConfigError>(())
/// ```
pub fn bytes_in(value: &str) -> BytesIn {
    BytesIn { value: value.into() }
}

/// Counts the bytes of requests; made by [`bytes_in`].
#[derive(Clone, Debug)]
pub struct BytesIn {
    value: Arc<str>,
}

impl<S> Layer<S> for BytesIn {
    type Service = CountBytesIn<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CountBytesIn { inner, value: Arc::clone(&self.value) }
    }
}

/// The service that [`BytesIn`] makes; see [`bytes_in`].
#[derive(Clone, Debug)]
pub struct CountBytesIn<S> {
    inner: S,
    value: Arc<str>,
}

impl<S, B> Service<Request<B>> for CountBytesIn<S>
where
    S: Service<Request<CountedBody<B>>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let reporter = request.extensions().get::<Reporter>().cloned();
        if let Some(reporter) = &reporter {
            // Known, also if nothing is read.
            reporter.add(&*self.value, 0);
        }
        let value = Arc::clone(&self.value);
        self.inner.call(request.map(|body| CountedBody { body, reporter, value }))
    }
}

pin_project! {
    /// The body of a request whose bytes are counted: the same frames.
    pub struct CountedBody<B> {
        #[pin]
        body: B,
        // None: the request is not metered.
        reporter: Option<Reporter>,
        value: Arc<str>,
    }
}

impl<B> fmt::Debug for CountedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountedBody").field("value", &self.value).finish_non_exhaustive()
    }
}

impl<B: Body> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        if let (Some(reporter), Some(Ok(frame))) = (this.reporter, &frame)
            && let Some(data) = frame.data_ref()
        {
            // At once: the response may end before this body does.
            reporter.add(&**this.value, data.remaining() as u64);
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
