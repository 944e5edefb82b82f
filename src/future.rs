use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::backend::{Backend, Decision};
use crate::body::{Ending, Meter, ResponseBody, length, unless_done};
use crate::classify::{self, Classification};
use crate::guard::Guard;
use crate::headers;
use crate::hook;
use crate::layer::Options;
use crate::observe::{self, Span};
use crate::reject::{self, Refusal};
use crate::service::Unmetered;
use crate::usage::Measured;

pin_project! {
    /// The response of [`Limitry`](crate::Limitry): check, call, answer.
    pub struct ResponseFuture<S, Q, B>
    where
        S: Service<Request<Q>>,
        B: Backend,
    {
        #[pin]
        state: State<S, S::Future, Q, S::Response, B>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, F, Q, R, B>
    where
        B: Backend,
    {
        /// The request's body is read, or a backend elsewhere is asked.
        Waiting {
            service: S,
            options: Arc<Options<B>>,
            step: Pin<Box<dyn Future<Output = Step<Q, B>> + Send>>,
        },
        Running { #[pin] future: F, metering: Option<Metering<B>>, is_head: bool },
        Refused { options: Arc<Options<B>>, refused: Option<Refused> },
        // The answer ends with its head, and waits there for its record.
        Ending { response: Option<R>, ending: Ending<B> },
        Done,
    }
}

/// What follows once the check is answered.
pub(crate) enum Step<Q, B: Backend> {
    Run(Request<Q>, Metering<B>),
    Refuse(Refused),
}

/// A request that the inner service does not get.
pub(crate) struct Refused {
    refusal: Refusal,
    /// The client speaks gRPC, and is answered so.
    is_grpc: bool,
    span: Span,
}

impl Refused {
    pub(crate) fn new(refusal: Refusal, head: &Parts, span: Span) -> Self {
        Self { refusal, is_grpc: classify::is_grpc(&head.headers), span }
    }
}

/// What goes along with a request that runs.
pub(crate) struct Metering<B: Backend> {
    pub(crate) guard: Guard<B>,
    /// Whether the check was answered.
    pub(crate) is_checked: bool,
    /// What headers tell of, unless they are off.
    pub(crate) shown: Option<Decision>,
}

impl<S, Q, B> ResponseFuture<S, Q, B>
where
    S: Service<Request<Q>>,
    B: Backend,
{
    pub(crate) fn running(future: S::Future, metering: Option<Metering<B>>, is_head: bool) -> Self {
        Self { state: State::Running { future, metering, is_head } }
    }

    pub(crate) fn waiting(
        service: S,
        options: Arc<Options<B>>,
        step: Pin<Box<dyn Future<Output = Step<Q, B>> + Send>>,
    ) -> Self {
        Self { state: State::Waiting { service, options, step } }
    }

    pub(crate) fn refused(options: Arc<Options<B>>, refused: Refused) -> Self {
        Self { state: State::Refused { options, refused: Some(refused) } }
    }
}

impl<S, Q, B> fmt::Debug for ResponseFuture<S, Q, B>
where
    S: Service<Request<Q>>,
    B: Backend,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<S, Q, P, B> Future for ResponseFuture<S, Q, B>
where
    S: Service<Request<Q>, Response = Response<P>>,
    P: Body<Data = Bytes> + Send + 'static,
    B: Backend,
{
    type Output = Result<Response<ResponseBody<P, B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProjection::Waiting { service, options, step } => {
                    let next = match ready!(step.as_mut().poll(cx)) {
                        Step::Run(request, metering) => {
                            let is_head = ends_at_head(request.method());
                            let future = service.call(request);
                            State::Running { future, metering: Some(metering), is_head }
                        }
                        Step::Refuse(refused) => {
                            let options = Arc::clone(options);
                            State::Refused { options, refused: Some(refused) }
                        }
                    };
                    state.set(next);
                }
                StateProjection::Running { future, metering, is_head } => {
                    let answer = ready!(future.poll(cx));
                    // Dropped with its guard where there is no response: that releases.
                    let metering = metering.take();
                    let is_head = *is_head;
                    state.set(State::Done);
                    let (response, metering) = match (answer, metering) {
                        (Err(error), _) => return Poll::Ready(Err(error)),
                        (Ok(response), None) => {
                            return Poll::Ready(Ok(response.map(ResponseBody::passed)));
                        }
                        (Ok(response), Some(metering)) => (response, metering),
                    };
                    match meter(response, metering, is_head) {
                        Metered::Flows(response) => return Poll::Ready(Ok(response)),
                        Metered::Ends(response, ending) => {
                            state.set(State::Ending { response: Some(response), ending });
                        }
                    }
                }
                StateProjection::Ending { response, ending } => {
                    ready!(ending.poll(cx));
                    let response = response.take().expect("ResponseFuture polled after completion");
                    return Poll::Ready(Ok(response.map(ResponseBody::passed)));
                }
                StateProjection::Refused { options, refused } => {
                    let refused = refused.take().expect("ResponseFuture polled after completion");
                    return Poll::Ready(Ok(refuse(options, refused)));
                }
                StateProjection::Done => panic!("ResponseFuture polled after completion"),
            }
        }
    }
}

enum Metered<P, B: Backend> {
    /// The body is still to come, or nothing is left to do.
    Flows(Response<ResponseBody<P, B>>),
    /// There is no body, and the record is on its way.
    Ends(Response<P>, Ending<B>),
}

/// The response has a head: settles what can be settled now, and watches the body for the rest.
fn meter<P, B>(response: Response<P>, metering: Metering<B>, is_head: bool) -> Metered<P, B>
where
    P: Body<Data = Bytes> + Send + 'static,
    B: Backend,
{
    let Metering { mut guard, is_checked, shown } = metering;
    let (mut head, body) = response.into_parts();
    if let Some(decision) = &shown {
        headers::write(guard.options().headers, decision, &mut head.headers);
    }
    if !is_checked {
        head.extensions.insert(Unmetered(()));
    }
    let passed =
        |head, body| Metered::Flows(Response::from_parts(head, ResponseBody::passed(body)));
    if !guard.is_open() {
        return passed(head, body);
    }
    let classification = guard.options().classify(&head);
    if classification == Classification::Failure {
        drop(guard);
        return passed(head, body);
    }
    if let Some(started) = guard.started() {
        head.extensions.insert(started);
    }
    let measure = &guard.options().measure;
    let measured = hook::call(|| measure.measure(&head)).unwrap_or(Measured::Missing);
    let is_known =
        classification == Classification::Success && matches!(measured, Measured::Usage(_));
    let length = || length(classification, &head.headers, &body);
    let ends = || is_head || has_no_body(&head) || body.is_end_stream() || length() == Some(0);
    if !is_known && !ends() {
        let meter = Meter::new(guard, classification, measured, length());
        return Metered::Flows(Response::from_parts(head, ResponseBody::metered(body, meter)));
    }
    let (measured, failed) = measured.at_head();
    let classification = if failed { Classification::Failure } else { classification };
    let finish = guard.end(classification, None, measured);
    let Some(finish) = finish.and_then(unless_done) else { return passed(head, body) };
    if ends() {
        let ending = Ending::new(finish, guard.options().settle_timeout);
        return Metered::Ends(Response::from_parts(head, body), ending);
    }
    let meter = Meter::settled(guard, finish, length());
    Metered::Flows(Response::from_parts(head, ResponseBody::metered(body, meter)))
}

/// Requests whose successful answers end with their head: nobody polls their bodies. After CONNECT a
/// tunnel follows.
pub(crate) fn ends_at_head(method: &http::Method) -> bool {
    *method == http::Method::HEAD || *method == http::Method::CONNECT
}

/// Answers that end with their head: nobody polls their bodies.
fn has_no_body(head: &http::response::Parts) -> bool {
    use http::StatusCode;
    matches!(
        head.status,
        StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    )
}

fn refuse<P, B: Backend>(options: &Options<B>, refused: Refused) -> Response<ResponseBody<P, B>> {
    let Refused { refusal, is_grpc, span } = refused;
    span.run(|| observe::refused(&refusal));
    let own = options.on_refusal.as_ref().and_then(|answer| hook::call(|| answer(&refusal)));
    let mut response = own.flatten().unwrap_or_else(|| {
        #[cfg(feature = "grpc")]
        if is_grpc {
            return crate::grpc::response(&refusal);
        }
        let _ = is_grpc;
        reject::response(&refusal, options.denial, options.balance_status)
    });
    if let Refusal::Denied(denial) = refusal {
        headers::write(options.headers, denial.decision(), response.headers_mut());
        response.extensions_mut().insert(denial);
    }
    response.map(ResponseBody::refused)
}
