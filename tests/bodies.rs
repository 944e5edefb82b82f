//! Bodies pass as they are, whatever their size, and nothing of them is kept.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use proptest::prelude::*;
use tower::{Layer, ServiceExt, service_fn};
use tower_limitry::request::RequestBody;
use tower_limitry::usage::{self, Measure, Measured, Watch};
use tower_limitry::{Disconnect, Engine, LimitryLayer, Reporter, ResponseBody, Usage};

#[path = "support/http.rs"]
mod support;

use support::*;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const GIB: usize = 1024 * MIB;

/// A body of so many frames of a size, which counts those that somebody still has.
struct Flood {
    left: usize,
    size: usize,
    alive: Arc<Alive>,
}

#[derive(Default)]
struct Alive {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Alive {
    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }
}

struct Piece {
    size: usize,
    alive: Arc<Alive>,
}

static ZEROS: [u8; MIB] = [b'0'; MIB];

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &ZEROS[..self.size]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.alive.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Flood {
    fn new(total: usize, size: usize) -> (Self, Arc<Alive>) {
        let alive = Arc::<Alive>::default();
        (Self { left: total / size, size, alive: Arc::clone(&alive) }, alive)
    }
}

impl Body for Flood {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        this.left -= 1;
        let now = this.alive.now.fetch_add(1, Ordering::SeqCst) + 1;
        this.alive.most.fetch_max(now, Ordering::SeqCst);
        let piece = Piece { size: this.size, alive: Arc::clone(&this.alive) };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
    }
}

#[derive(serde::Deserialize)]
struct Answer {
    tokens: u64,
}

fn json(most: usize) -> usage::Json {
    usage::json(most, |answer: &Answer| Some(tokens(answer.tokens)))
}

/// Counts bytes.
#[derive(Clone, Copy)]
struct Counting;

impl Measure for Counting {
    fn measure(&self, _: &http::response::Parts) -> Measured {
        Measured::Body(Box::new(Counted(0)))
    }
}

struct Counted(u64);

impl Watch for Counted {
    fn data(&mut self, data: &[u8]) {
        self.0 += data.len() as u64;
    }

    fn end(&mut self) -> Option<Usage> {
        Some(tokens(self.0))
    }
}

async fn respond<P>(layer: LimitryLayer<Engine>, body: P) -> ResponseBody<P, Engine>
where
    P: Body<Data = Bytes> + Send + 'static,
{
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let service = service_fn(move |_: Request<Empty<Bytes>>| {
        let body = body.lock().unwrap().take().unwrap();
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    layer.layer(service).oneshot(request()).await.unwrap().into_body()
}

/// How many bytes came.
async fn drink(body: impl Body<Data = Bytes, Error = Infallible>) -> usize {
    let mut body = std::pin::pin!(body);
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame.unwrap().into_data().unwrap().len();
    }
    bytes
}

mod a_gibibyte {
    use super::*;

    async fn passes(measure: impl Measure, size: usize, used: u32) {
        let books = books();
        let layer = LimitryLayer::new(books.clone(), identify(), measure);
        let (flood, alive) = Flood::new(GIB, size);
        let body = respond(layer.estimate(|_| tokens(10)), flood).await;
        assert_eq!(drink(body).await, GIB);
        assert_eq!(alive.most(), 1, "frames are not kept");
        assert_eq!(standing(&books).await.used, used.into());
    }

    #[tokio::test]
    async fn passes_a_measure_of_json_without_being_kept() {
        passes(json(64 * KIB), 64 * KIB, 10).await;
        passes(json(64 * KIB), MIB, 10).await;
    }

    #[tokio::test]
    async fn passes_while_it_is_counted_or_reported() {
        passes(Counting, 64 * KIB, GIB as u32).await;
        passes(usage::reported(), 64 * KIB, 10).await;
    }

    #[tokio::test]
    async fn is_drained_without_being_kept() {
        let books = books();
        let within = Duration::from_secs(60);
        let layer = LimitryLayer::new(books.clone(), identify(), Counting)
            .on_disconnect(Disconnect::Drain { bytes: 2 * GIB as u64, within });
        let (flood, alive) = Flood::new(GIB, 64 * KIB);
        drop(respond(layer, flood).await);
        books.settled().await.unwrap();
        assert_eq!(alive.most(), 1);
        assert_eq!(standing(&books).await.used, (GIB as u32).into());
    }

    #[tokio::test]
    async fn of_a_request_is_read_up_to_the_bound_and_not_kept_beyond() {
        let books = books();
        let layer = LimitryLayer::new(books.clone(), identify(), Counting)
            .request_json(64 * KIB, |_: &Answer| tokens(1));
        let service = service_fn(|request: Request<RequestBody<Flood>>| async {
            assert_eq!(drink(request.into_body()).await, GIB);
            Ok::<_, Infallible>(ok("hello"))
        });
        let (flood, alive) = Flood::new(GIB, 16 * KIB);
        let request = Request::builder().header("x-customer", CUSTOMER).body(flood).unwrap();
        let response = layer.layer(service).oneshot(request).await.unwrap();
        assert_eq!(drink(response.into_body()).await, 5);
        assert_eq!(alive.most(), 5, "the frames that were read, and the one that was too many");
        assert_eq!(standing(&books).await.used, 5.into());
    }
}

#[tokio::test]
async fn an_endless_stream_that_is_left_is_let_go_of() {
    let books = books();
    let layer = LimitryLayer::new(books.clone(), identify(), Counting).estimate(|_| tokens(10));
    let (flood, alive) = Flood::new(usize::MAX, KIB);
    let mut body = respond(layer, flood).await;
    for _ in 0..1_000 {
        body.frame().await.unwrap().unwrap();
    }
    drop(body);
    assert_eq!((alive.most(), alive.now()), (1, 0));
    assert_eq!(standing(&books).await.open, 0);
}

#[tokio::test]
async fn a_first_frame_is_not_delayed_by_what_follows() {
    for disconnect in
        [Disconnect::Settle, Disconnect::Drain { bytes: 10, within: Duration::from_secs(1) }]
    {
        let layer = LimitryLayer::new(books(), identify(), json(KIB)).on_disconnect(disconnect);
        let mut body = respond(layer, Script::new([data("a"), Step::Stall])).await;
        assert!(poll_frame(&mut body).is_ready());
        assert!(poll_frame(&mut body).is_pending());
    }
}

/// How a body is cut into frames, where it hesitates, and how it ends.
#[derive(Clone, Debug)]
struct Cut {
    pieces: Vec<(usize, bool)>,
    says_end: bool,
    exact: bool,
    trailers: bool,
}

fn cut() -> impl Strategy<Value = Cut> {
    let pieces = proptest::collection::vec((0..40usize, any::<bool>()), 0..12);
    (pieces, any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(pieces, says_end, exact, trailers)| Cut { pieces, says_end, exact, trailers })
}

impl Cut {
    fn script(&self, text: &[u8]) -> Script {
        let mut rest = Bytes::copy_from_slice(text);
        let mut steps = Vec::new();
        for (length, hesitates) in &self.pieces {
            if *hesitates {
                steps.push(Step::Yield);
            }
            steps.push(Step::Data(rest.split_to((*length).min(rest.len()))));
        }
        if !rest.is_empty() {
            steps.push(Step::Data(rest));
        }
        if self.trailers {
            steps.push(Step::Trailers(&[("x-sum", "1")]));
        }
        let mut script = Script::new(steps);
        if self.says_end {
            script = script.says_end();
        }
        if self.exact {
            script = script.exact();
        }
        script
    }
}

/// Frames as they come: data, or `None` for trailers.
async fn pieces<B>(body: B) -> Vec<Option<Bytes>>
where
    B: Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let mut body = std::pin::pin!(body);
    let mut pieces = Vec::new();
    while !body.is_end_stream()
        && let Some(frame) = body.frame().await
    {
        pieces.push(frame.unwrap().into_data().ok());
    }
    pieces
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn responses_pass_frame_by_frame_and_measure_as_if_in_one_piece(
        cut in cut(),
        used in 0..1_000u64,
        padding in 0..200usize,
        disconnect in prop_oneof![
            Just(Disconnect::Settle),
            Just(Disconnect::Drain { bytes: 10, within: Duration::from_secs(1) }),
        ],
    ) {
        let text = format!("{}{{\"tokens\": {used}}}", " ".repeat(padding));
        let (passed, recorded) = run(async {
            let books = books();
            let layer = LimitryLayer::new(books.clone(), identify(), json(150))
                .estimate(|_| tokens(7))
                .on_disconnect(disconnect);
            let body = respond(layer, cut.script(text.as_bytes())).await;
            (pieces(body).await, standing(&books).await)
        });
        prop_assert_eq!(passed, run(pieces(cut.script(text.as_bytes()))));
        // More than the bound is not kept, so its usage is missing.
        let used = if text.len() <= 150 { used } else { 7 };
        prop_assert_eq!(recorded, Standing::recorded(used as u32, 1));
    }

    #[test]
    fn requests_pass_frame_by_frame_and_estimate_as_if_in_one_piece(
        cut in cut(),
        asked in 1..1_000u64,
        padding in 0..200usize,
        most in 0..250usize,
    ) {
        let text = format!("{}{{\"tokens\": {asked}}}", " ".repeat(padding));
        let (passed, recorded) = run(async {
            let books = books();
            let layer = LimitryLayer::new(books.clone(), identify(), usage::reported())
                .request_json(most, |answer: &Answer| tokens(answer.tokens));
            let seen = Seen::default();
            let service = {
                let seen = seen.clone();
                service_fn(move |request: Request<RequestBody<Script>>| {
                    let seen = seen.clone();
                    async move {
                        request.extensions().get::<Reporter>().unwrap().complete();
                        seen.push(pieces(request.into_body()).await);
                        Ok::<_, Infallible>(ok("hello"))
                    }
                })
            };
            let request = Request::builder().header("x-customer", CUSTOMER);
            let request = request.body(cut.script(text.as_bytes())).unwrap();
            let response = layer.layer(service).oneshot(request).await.unwrap();
            frames(response.into_body()).await;
            (seen.take().remove(0), standing(&books).await)
        });
        let sent = run(pieces(cut.script(text.as_bytes())));
        // Nothing was reported, so the estimate is charged where there was one.
        let read = text.len() <= most && sent.len() <= most + 1;
        prop_assert_eq!(passed, sent);
        prop_assert_eq!(recorded, Standing::recorded(if read { asked as u32 } else { 0 }, 1));
    }

    #[test]
    fn any_bytes_pass_and_leave_no_hold(
        cut in cut(),
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let (passed, recorded) = run(async {
            let books = books();
            let layer = LimitryLayer::new(books.clone(), identify(), json(150));
            let body = respond(layer.estimate(|_| tokens(7)), cut.script(&bytes)).await;
            (pieces(body).await, standing(&books).await)
        });
        prop_assert_eq!(passed, run(pieces(cut.script(&bytes))));
        prop_assert_eq!(recorded.open, 0);
        prop_assert_eq!(recorded.events, 1);
    }
}
