//! Row 10: while the server cannot answer, the policy decides; once it can, what waited is delivered
//! once.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode, response};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_limitry::client::Remote;
use tower_limitry::outbox::Outbox;
use tower_limitry::{Books, FailurePolicy, LimitryLayer, Unmetered, customer};

use crate::host::*;
use crate::proxy::{Mode, Proxy};
use crate::support::*;

const PATIENCE: Duration = Duration::from_millis(300);
/// What a loaded machine adds.
const SLACK: Duration = Duration::from_secs(10);

struct Bench {
    host: Host,
    proxy: Proxy,
    outbox: Outbox<Remote>,
}

impl Bench {
    async fn new() -> Self {
        let host = Host::start().await;
        let proxy = Proxy::before(host.address).await;
        let process = remote(client(proxy.address).connect_timeout(PATIENCE));
        let builder = outbox(&process).delivery_timeout(Duration::from_millis(500));
        let outbox = opened(builder, &crate::file::fresh()).await;
        Self { host, proxy, outbox }
    }

    /// One request of one token through the layer: its status, whether it was checked, and how long
    /// it took.
    async fn ask(&self, policy: FailurePolicy, customer: &str) -> (StatusCode, bool, Duration) {
        let identify = customer::trusted_header("x-customer");
        let metered =
            LimitryLayer::new(Books::new(self.outbox.clone()), identify, |_: &response::Parts| {
                Some(total(1))
            })
            .estimate(|_| total(1))
            .check_timeout(PATIENCE)
            .on_failure(policy)
            .layer(service_fn(async |_| {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("done"))))
            }));
        let request = Request::builder().header("x-customer", customer);
        let started = Instant::now();
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let response = metered.oneshot(request).await.unwrap();
        let took = started.elapsed();
        let unmetered = response.extensions().get::<Unmetered>().is_some();
        assert_ne!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        if unmetered {
            assert!(!response.headers().contains_key("ratelimit"), "nothing was enforced");
        }
        (response.status(), !unmetered, took)
    }

    async fn heal(&self) {
        self.proxy.set(Mode::Refuse);
        self.proxy.set(Mode::Pass);
        self.outbox.flush(STUCK).await.unwrap();
        in_time(self.outbox.backend().quiet()).await;
        eventually(async || (self.host.books.open_holds().await.unwrap() == 0).then_some(())).await;
    }
}

const OUTAGES: [Mode; 3] = [Mode::Refuse, Mode::BlackHole, Mode::Slow(Duration::from_secs(5))];

#[tokio::test]
async fn open_lets_requests_run_and_records_each_once_when_the_server_is_back() {
    let bench = Bench::new().await;
    for (number, outage) in OUTAGES.into_iter().enumerate() {
        let customer = format!("open-{number}");
        assert_eq!(bench.ask(FailurePolicy::Open, &customer).await.0, StatusCode::OK);
        bench.proxy.set(outage);
        for _ in 0..3 {
            let (status, checked, took) = bench.ask(FailurePolicy::Open, &customer).await;
            assert_eq!((status, checked), (StatusCode::OK, false), "{outage:?}");
            assert!(took < PATIENCE + SLACK, "{outage:?}: {took:?}");
        }
        // The bodies were dropped unread: what they were is recorded by a task of its own.
        eventually(async || (bench.outbox.stats().depth >= 3).then_some(())).await;
        bench.heal().await;
        let seen = used_held(&bench.host.books, &customer, "daily").await;
        assert_eq!(seen, (amount(4), amount(0)), "{outage:?}");
        let (status, checked, _) = bench.ask(FailurePolicy::Open, &customer).await;
        assert_eq!((status, checked), (StatusCode::OK, true), "it heals, {outage:?}");
        bench.heal().await;
    }
    assert_eq!(events(&bench.host.books).await.len(), 3 * 5);
}

#[tokio::test]
async fn closed_answers_503_and_leaves_nothing() {
    let bench = Bench::new().await;
    for (number, outage) in OUTAGES.into_iter().enumerate() {
        let customer = format!("closed-{number}");
        bench.proxy.set(outage);
        for _ in 0..3 {
            let (status, _, took) = bench.ask(FailurePolicy::Closed, &customer).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{outage:?}");
            assert!(took < PATIENCE + SLACK, "{outage:?}: {took:?}");
        }
        bench.heal().await;
        let seen = used_held(&bench.host.books, &customer, "daily").await;
        assert_eq!(seen, (amount(0), amount(0)), "{outage:?}");
        assert_eq!(bench.ask(FailurePolicy::Closed, &customer).await.0, StatusCode::OK);
        bench.heal().await;
    }
    assert_eq!(events(&bench.host.books).await.len(), 3);
}

/// One call in a hundred breaks, at any byte, and now and then everything does for a moment.
#[tokio::test]
async fn a_server_that_fails_now_and_then_loses_and_doubles_nothing() {
    let bench = Bench::new().await;
    let mut random = Random(seed());
    let mut succeeded = 0;
    for number in 0..times(400, 20_000) {
        match random.below(100) {
            0 => bench.proxy.cut(crate::proxy::Way::Request, random.below(600)),
            1 => bench.proxy.cut(crate::proxy::Way::Answer, random.below(600)),
            2 => bench.proxy.set(Mode::Refuse),
            3..10 => bench.proxy.set(Mode::Pass),
            _ => {}
        }
        let customer = format!("acct_{}", number % 20);
        let (status, ..) = bench.ask(FailurePolicy::Open, &customer).await;
        succeeded += usize::from(status == StatusCode::OK);
    }
    bench.proxy.spare();
    bench.heal().await;
    assert_eq!(events(&bench.host.books).await.len(), succeeded);
    let mut ids = events(&bench.host.books).await;
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), succeeded, "each under its own id");
    assert_eq!(bench.outbox.stats().set_aside, 0);
}

/// Nobody listens at all, and then somebody does.
#[tokio::test]
async fn a_server_that_starts_later_gets_what_waited() {
    let host = Host::start().await;
    let process = remote(client(host.address));
    let outbox = opened(outbox(&process), &crate::file::fresh()).await;
    let queue = Books::new(outbox.clone());
    let permit = queue.check(one("ada")).await.unwrap();
    let kept = host.books.clone();
    let address = host.stop().await;
    permit.settle(total(1)).await.unwrap();
    let error = failed(&Books::new(remote(client(address).retries(0))).erased(), one("bob")).await;
    assert_eq!(error.kind(), tower_limitry::ErrorKind::Unavailable, "nothing was sent");
    let host = Host::at(address, kept).await;
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(used_held(&host.books, "ada", "daily").await, (amount(1), amount(0)));
}
