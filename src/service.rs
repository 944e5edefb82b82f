use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use tokio::time::timeout;
use tower_service::Service;

use crate::backend::permit::Pending;
use crate::backend::{Admission, Backend, Check, Denial, Erased};
use crate::body::ResponseBody;
use crate::future::{Metering, Refused, ResponseFuture, Step, ends_at_head};
use crate::guard::Guard;
use crate::headers::HeaderStyle;
use crate::layer::{MissingCustomer, Options};
use crate::observe::{self, Span};
use crate::reject::Refusal;
use crate::reporter::Reporter;
use crate::request::{HeadOnly, ReadRequest};
use crate::{Error, ErrorKind};

/// The service that [`LimitryLayer`](crate::LimitryLayer) makes; see there.
pub struct Limitry<S, B: Backend = Erased, R = HeadOnly> {
    pub(crate) inner: S,
    pub(crate) options: Arc<Options<B>>,
    pub(crate) request: R,
}

impl<S, B: Backend, R> Limitry<S, B, R> {
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, B: Backend, R: Clone> Clone for Limitry<S, B, R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            options: Arc::clone(&self.options),
            request: self.request.clone(),
        }
    }
}

impl<S: fmt::Debug, B: Backend, R> fmt::Debug for Limitry<S, B, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limitry")
            .field("inner", &self.inner)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<S, B, R, Q, P> Service<Request<Q>> for Limitry<S, B, R>
where
    S: Service<Request<R::Body>, Response = Response<P>> + Clone,
    B: Backend,
    R: ReadRequest<Q>,
    R::Body: Send + 'static,
    Q: Send + 'static,
    P: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<ResponseBody<P, B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, R::Body, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        if self.options.skips(&head) {
            return self.run(head, R::pass(body), None);
        }
        let Some(customer) = self.options.customer(&head) else {
            return match self.options.missing_customer {
                MissingCustomer::PassUnmetered => self.run(head, R::pass(body), None),
                MissingCustomer::Refuse => self.refuse(Refusal::MissingCustomer, &head),
            };
        };
        // A layer further out may charge the balance for this request.
        let charge = self
            .options
            .charge(&head)
            .filter(|charge| !Reporter::charges(&head.extensions, &customer, &charge.balance));
        if self.request.reads() {
            let (options, reader) = (Arc::clone(&self.options), self.request.clone());
            return self.wait(async move {
                let (body, expected) = reader.read(body).await;
                let check = options.question(&head, customer, charge, expected);
                match check {
                    Ok(check) => Asked::new(options, check).wait(head, body).await,
                    Err(refusal) => Step::Refuse(Refused::new(refusal, &head, Span::current())),
                }
            });
        }
        let check = match self.options.question(&head, customer, charge, None) {
            Ok(check) => check,
            Err(refusal) => return self.refuse(refusal, &head),
        };
        let mut asked = Asked::new(Arc::clone(&self.options), check);
        let body = R::pass(body);
        // A backend in this process answers at once. Then the inner service that was polled ready is
        // called here, and nothing is boxed or cloned.
        match asked.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => match asked.answered(answer, &mut head) {
                Ok(metering) => self.run(head, body, Some(metering)),
                Err(refused) => ResponseFuture::refused(Arc::clone(&self.options), refused),
            },
            Poll::Pending => self.wait(asked.wait(head, body)),
        }
    }
}

impl<S, B: Backend, R> Limitry<S, B, R> {
    fn run<Q>(
        &mut self,
        head: Parts,
        body: Q,
        metering: Option<Metering<B>>,
    ) -> ResponseFuture<S, Q, B>
    where
        S: Service<Request<Q>>,
    {
        let is_head = ends_at_head(&head.method);
        let future = self.inner.call(Request::from_parts(head, body));
        ResponseFuture::running(future, metering, is_head)
    }

    fn refuse<Q>(&self, refusal: Refusal, head: &Parts) -> ResponseFuture<S, Q, B>
    where
        S: Service<Request<Q>>,
    {
        ResponseFuture::refused(
            Arc::clone(&self.options),
            Refused::new(refusal, head, Span::current()),
        )
    }

    fn wait<Q>(
        &mut self,
        step: impl Future<Output = Step<Q, B>> + Send + 'static,
    ) -> ResponseFuture<S, Q, B>
    where
        S: Service<Request<Q>> + Clone,
    {
        // The service that was polled ready does the work; the clone stays behind.
        let clone = self.inner.clone();
        let ready = mem::replace(&mut self.inner, clone);
        ResponseFuture::waiting(ready, Arc::clone(&self.options), Box::pin(step))
    }
}

/// A check on its way, and what is needed once it is answered.
struct Asked<B: Backend> {
    options: Arc<Options<B>>,
    check: Check,
    span: Span,
    answer: B::Check,
}

impl<B: Backend> Asked<B> {
    fn new(options: Arc<Options<B>>, check: Check) -> Self {
        let span = Span::of(&check);
        let answer = span.run(|| options.books.backend().check(check.clone()));
        Self { options, check, span, answer }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Admission, Error>> {
        self.span.run(|| Pin::new(&mut self.answer).poll(cx))
    }

    /// Waits for the answer, within the time it may take. Dropped before, also before it was polled at
    /// all, it releases the id.
    fn wait<Q>(self, head: Parts, body: Q) -> impl Future<Output = Step<Q, B>> + Send + use<Q, B>
    where
        Q: Send,
    {
        let pending = Pending::sent(self.options.books.backend(), &self.check);
        self.wait_for_answer(pending, head, body)
    }

    async fn wait_for_answer<Q>(
        mut self,
        mut pending: Pending<B>,
        mut head: Parts,
        body: Q,
    ) -> Step<Q, B> {
        // No timer for a backend that answers at once.
        let answer = match poll_fn(|cx| Poll::Ready(self.poll(cx))).await {
            Poll::Ready(answer) => answer,
            Poll::Pending => {
                let within = self.options.check_timeout;
                timeout(within, poll_fn(|cx| self.poll(cx))).await.unwrap_or_else(|_| {
                    let message = format!("the backend did not answer a check within {within:?}");
                    Err(Error::new(ErrorKind::TimedOut, message))
                })
            }
        };
        // From here on the answer decides who ends the hold.
        pending.disarm();
        match self.answered(answer, &mut head) {
            Ok(metering) => Step::Run(Request::from_parts(head, body), metering),
            Err(refused) => Step::Refuse(refused),
        }
    }

    /// What the answer means for the request. Where it does not run, and it is unknown whether a hold
    /// was placed, the id is released.
    fn answered(
        self,
        answer: Result<Admission, Error>,
        head: &mut Parts,
    ) -> Result<Metering<B>, Refused> {
        let span = self.span.clone();
        let heard = span.run(|| self.heard(answer, head));
        heard.map_err(|refusal| Refused::new(refusal, head, span))
    }

    fn heard(
        self,
        answer: Result<Admission, Error>,
        head: &mut Parts,
    ) -> Result<Metering<B>, Refusal> {
        let Self { options, check, span, .. } = self;
        let error = match answer {
            Ok(Admission { decision, hold }) => {
                options.outage.is_over();
                let decision = match Denial::of(decision) {
                    Ok(denial) => return Err(Refusal::Denied(denial)),
                    Err(allowed) => allowed,
                };
                observe::allowed(&decision);
                let shown = (options.headers != HeaderStyle::Off).then(|| decision.clone());
                let outer = Reporter::leave(&mut head.extensions, decision.into_flight());
                let guard = Guard::new(options, hold, outer, span);
                return Ok(Metering { guard, is_checked: true, shown });
            }
            Err(error) => error,
        };
        let refusal = match error.kind() {
            ErrorKind::Conflict => Refusal::Conflict,
            ErrorKind::Invalid => Refusal::Misconfigured,
            _ if options.outage.passes(options.failure()) => {
                observe::failure("open", &error);
                head.extensions.insert(Unmetered(()));
                // An answer that still comes is of no concern to the request.
                let check = check.unanswered();
                let outer = Reporter::leave(&mut head.extensions, Arc::clone(&check.0));
                let guard = Guard::unchecked(options, check.ticket(), outer, span);
                return Ok(Metering { guard, is_checked: false, shown: None });
            }
            _ => Refusal::Unavailable,
        };
        observe::failure(refusal.as_str(), &error);
        if error.is_unknown() {
            drop(Pending::sent(options.books.backend(), &check));
        }
        Err(refusal)
    }
}

/// In the extensions of a request that runs although its check could not be answered, and of its
/// response: nothing was enforced.
#[derive(Clone, Copy, Debug)]
pub struct Unmetered(pub(crate) ());
