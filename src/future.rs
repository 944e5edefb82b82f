use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::backend::Backend;
use crate::body::{Ending, Meter, ResponseBody, unless_done};
use crate::classify::Classification;
use crate::guard::Guard;
use crate::headers;
use crate::hook;
use crate::layer::Options;
use crate::policy::Decision;
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
        Refused { options: Arc<Options<B>>, refusal: Option<Refusal>, decision: Option<Decision> },
        // The answer ends with its head, and waits there for its record.
        Ending { response: Option<R>, ending: Ending<B> },
        Done,
    }
}

/// What follows once the check is answered.
pub(crate) enum Step<Q, B: Backend> {
    Run(Request<Q>, Metering<B>),
    Refuse(Refusal, Option<Decision>),
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

    pub(crate) fn refused(
        options: Arc<Options<B>>,
        refusal: Refusal,
        decision: Option<Decision>,
    ) -> Self {
        Self { state: State::Refused { options, refusal: Some(refusal), decision } }
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
                            let is_head = request.method() == http::Method::HEAD;
                            let future = service.call(request);
                            State::Running { future, metering: Some(metering), is_head }
                        }
                        Step::Refuse(refusal, decision) => {
                            let options = Arc::clone(options);
                            State::Refused { options, refusal: Some(refusal), decision }
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
                StateProjection::Refused { options, refusal, decision } => {
                    let refusal = refusal.take().expect("ResponseFuture polled after completion");
                    return Poll::Ready(Ok(refuse(options, refusal, decision.as_ref())));
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
    let measure = &guard.options().measure;
    let measured = hook::call(|| measure.measure(&head)).unwrap_or(Measured::Missing);
    let at_head = is_head || has_no_body(&head) || body.is_end_stream();
    let is_known =
        classification == Classification::Success && matches!(measured, Measured::Usage(_));
    if !at_head && !is_known {
        let meter = Meter::new(guard, classification, measured, &head.headers);
        return Metered::Flows(Response::from_parts(head, ResponseBody::metered(body, meter)));
    }
    let timeout = guard.options().settle_timeout;
    match guard.end(classification, None, measured.at_head()).and_then(unless_done) {
        None => passed(head, body),
        Some(finish) if at_head => {
            Metered::Ends(Response::from_parts(head, body), Ending::new(finish, timeout))
        }
        Some(finish) => {
            let meter = Meter::settled(guard, finish, &head.headers);
            Metered::Flows(Response::from_parts(head, ResponseBody::metered(body, meter)))
        }
    }
}

/// Answers that end with their head: nobody polls their bodies.
fn has_no_body(head: &http::response::Parts) -> bool {
    use http::StatusCode;
    matches!(
        head.status,
        StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    )
}

fn refuse<P, B: Backend>(
    options: &Options<B>,
    refusal: Refusal,
    decision: Option<&Decision>,
) -> Response<ResponseBody<P, B>> {
    let own = options.on_refusal.as_ref().and_then(|answer| hook::call(|| answer(&refusal)));
    let mut response = own.flatten().unwrap_or_else(|| reject::response(&refusal, options.denial));
    if let Some(decision) = decision {
        headers::write(options.headers, decision, response.headers_mut());
    }
    if let Refusal::Denied(denial) = refusal {
        response.extensions_mut().insert(denial);
    }
    response.map(ResponseBody::refused)
}
