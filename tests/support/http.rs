//! Requests, bodies that end in every way a body can, and books to look at afterwards.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Empty, Full};
use tower_limitry::backend::{Backend, EventQuery};
use tower_limitry::customer::{self, TrustedHeader};
use tower_limitry::engine::{EngineBuilder, ManualClock};
use tower_limitry::policy::RecordedEvent;
use tower_limitry::{Amount, Books, Engine, Limit, Meter, NewBalance, Usage};

/// What a simple service answers.
pub type Answered = Result<Response<Full<Bytes>>, Infallible>;

pub const CUSTOMER: &str = "acct_42";
pub const CREDITS: &str = "AI Credits";

/// The cap of the limit `daily`.
pub const CAP: u32 = 1_000;
/// What the balance starts with.
pub const INITIAL: u32 = 500;

/// Books with a limit of 1,000 tokens a day and a balance of 500.
pub fn books() -> Books<Engine> {
    builder().build().unwrap()
}

pub fn builder() -> EngineBuilder {
    Engine::builder()
        .meter(Meter::sum("tokens", "tokens"))
        .limit(Limit::per_day("daily", "tokens", CAP))
        .default_balance(NewBalance::new(CREDITS).initial(INITIAL))
        .clock(clock())
}

pub fn clock() -> ManualClock {
    ManualClock::at("2026-03-01T12:00:00Z")
}

pub fn identify() -> TrustedHeader {
    customer::trusted_header("x-customer")
}

pub fn tokens(amount: u64) -> Usage {
    Usage::of("tokens", amount)
}

pub fn price(usage: &Usage) -> Option<Amount> {
    usage.value("tokens")
}

pub fn request() -> Request<Empty<Bytes>> {
    Request::builder().header("x-customer", CUSTOMER).body(Empty::new()).unwrap()
}

pub fn ok(body: &'static str) -> Response<Full<Bytes>> {
    Response::new(Full::from(body))
}

pub fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = ok("");
    *response.status_mut() = status;
    response
}

/// What stands in the books of [`CUSTOMER`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Used on the limit `daily`.
    pub used: Amount,
    pub held: Amount,
    pub credits: Amount,
    pub credits_held: Amount,
    pub events: usize,
    pub open: usize,
}

impl Standing {
    /// So many tokens, recorded and charged in so many events.
    pub fn charged(tokens: u32, events: usize) -> Self {
        Self {
            used: tokens.into(),
            credits: Amount::from(INITIAL).checked_sub(tokens.into()).unwrap(),
            events,
            ..Self::untouched()
        }
    }

    /// So many tokens, recorded in so many events and charged to nobody.
    pub fn recorded(tokens: u32, events: usize) -> Self {
        Self { used: tokens.into(), events, ..Self::untouched() }
    }

    pub fn untouched() -> Self {
        Self {
            used: Amount::ZERO,
            held: Amount::ZERO,
            credits: INITIAL.into(),
            credits_held: Amount::ZERO,
            events: 0,
            open: 0,
        }
    }

    pub fn holding(self, tokens: u32) -> Self {
        Self { held: tokens.into(), open: 1, ..self }
    }
}

pub async fn standing<B: Backend>(books: &Books<B>) -> Standing {
    let usage = books.usage(CUSTOMER).await.unwrap();
    let daily = usage.limits().find(|limit| limit.id() == "daily").unwrap();
    let balance = books.balance(CUSTOMER, CREDITS).await.unwrap().unwrap();
    Standing {
        used: daily.used(),
        held: daily.held(),
        credits: balance.current(),
        credits_held: balance.held(),
        events: events(books).await.len(),
        open: books.open_holds().await.unwrap(),
    }
}

/// The kept events, oldest first.
pub async fn events<B: Backend>(books: &Books<B>) -> Vec<RecordedEvent> {
    let mut events = books.events(EventQuery::new()).await.unwrap().items;
    events.reverse();
    events
}

/// One thing that a [`Script`] does when it is polled.
#[derive(Clone, Debug)]
pub enum Step {
    Data(Bytes),
    Trailers(&'static [(&'static str, &'static str)]),
    /// Waits for one poll, and wakes at once.
    Yield,
    /// Waits for ever.
    Stall,
    Fail,
    Panic,
}

pub fn data(text: &'static str) -> Step {
    Step::Data(Bytes::from_static(text.as_bytes()))
}

/// A body that plays a script. It panics when it is polled after its end, as a body may.
pub struct Script {
    steps: VecDeque<Step>,
    says_end: bool,
    exact: bool,
    ended: bool,
    polls: Counter,
    /// Called before each step, with its number.
    on_step: Option<Box<dyn FnMut(usize) + Send>>,
    at: usize,
}

impl Script {
    /// Ends by `None`, and tells nothing of its length.
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            says_end: false,
            exact: false,
            ended: false,
            polls: Counter::default(),
            on_step: None,
            at: 0,
        }
    }

    /// `is_end_stream` is true after the last frame.
    pub fn says_end(mut self) -> Self {
        self.says_end = true;
        self
    }

    /// The size hint is exact; `is_end_stream` is never true.
    pub fn exact(mut self) -> Self {
        self.exact = true;
        self
    }

    pub fn on_step(mut self, on_step: impl FnMut(usize) + Send + 'static) -> Self {
        self.on_step = Some(Box::new(on_step));
        self
    }

    /// Counts how often it is polled.
    pub fn polls(&self) -> Counter {
        self.polls.clone()
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        this.polls.add();
        assert!(!this.ended, "the body is polled after its end");
        if let Some(on_step) = &mut this.on_step {
            on_step(this.at);
        }
        this.at += 1;
        Poll::Ready(match this.steps.pop_front() {
            None => {
                this.ended = true;
                None
            }
            Some(Step::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Step::Trailers(trailers)) => {
                let trailers = trailers.iter().map(|(name, value)| {
                    (name.parse().unwrap(), http::HeaderValue::from_static(value))
                });
                Some(Ok(Frame::trailers(HeaderMap::from_iter(trailers))))
            }
            Some(Step::Yield) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Step::Stall) => {
                this.steps.push_front(Step::Stall);
                return Poll::Pending;
            }
            Some(Step::Fail) => Some(Err(Broken)),
            Some(Step::Panic) => panic!("the script says so"),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.says_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.steps.iter().map(|step| match step {
            Step::Data(data) => data.len() as u64,
            _ => 0,
        });
        if self.exact { SizeHint::with_exact(length.sum()) } else { SizeHint::default() }
    }
}

/// What fails, where something has to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken on purpose")
    }
}

impl std::error::Error for Broken {}

impl From<Infallible> for Broken {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Counts, shared by its clones.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicUsize>);

impl Counter {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Remembers what it was told, shared by its clones.
#[derive(Debug)]
pub struct Seen<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Seen<T> {
    pub fn push(&self, value: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(value);
    }

    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Polls once, with a waker that does nothing.
pub fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

type NextFrame<B> = Result<Frame<<B as Body>::Data>, <B as Body>::Error>;

/// The next frame, polled for once.
pub fn poll_frame<B: Body + Unpin>(body: &mut B) -> Poll<Option<NextFrame<B>>> {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// The frames of a body, as text, until its end.
pub async fn frames<B>(body: B) -> Vec<String>
where
    B: Body<Data = Bytes>,
    B::Error: fmt::Debug,
{
    use http_body_util::BodyExt;

    let mut body = std::pin::pin!(body);
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        frames.push(match frame.unwrap().into_data() {
            Ok(data) => String::from_utf8(data.into()).unwrap(),
            Err(trailers) => format!("{:?}", trailers.into_trailers().unwrap()),
        });
    }
    frames
}
