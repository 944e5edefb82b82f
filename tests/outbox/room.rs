//! Places: bounded, reserved at check, given back.

use tower_limitry::outbox::WhenFull;
use tower_limitry::test_util::{Answer as Script, Call};
use tower_limitry::{FailurePolicy, LimitryLayer, customer};

use super::*;

const PLENTY: u64 = 1 << 30;

/// The target is away, so that everything waits.
fn away() -> Target {
    let target = target();
    target.always(Answer::Fail(ErrorKind::Unavailable));
    target
}

#[tokio::test]
async fn a_check_without_a_place_is_refused_and_one_with_a_place_settles() {
    let (folder, target) = (Folder::new(), away());
    let outbox = open(soon(&target).capacity(3, PLENTY), &folder.file()).await;
    settle(&outbox, "acct", "a").await;
    let second = permit(&outbox, "acct", "b").await;
    let third = permit(&outbox, "acct", "c").await;
    let asked = target.script.calls().len();
    assert_names(&unavailable(&outbox).await, &["the outbox is full"]);
    assert_eq!(target.script.calls().len(), asked, "the target is not asked");
    second.settle(total(1)).await.unwrap();
    third.settle(total(1)).await.unwrap();
    unavailable(&outbox).await;
    assert_eq!(outbox.stats().dropped, 0);

    target.always(Answer::Take);
    outbox.flush(STUCK).await.unwrap();
    settle(&outbox, "acct", "d").await;
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(target.taken_of("acct"), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn what_waits_in_the_file_takes_its_places_after_reopening() {
    let (folder, target) = (Folder::new(), away());
    let outbox = open(soon(&target).capacity(2, PLENTY), &folder.file()).await;
    settle(&outbox, "acct", "a").await;
    settle(&outbox, "acct", "b").await;
    drop(outbox);
    let outbox = open(soon(&target).capacity(2, PLENTY), &folder.file()).await;
    unavailable(&outbox).await;
}

#[tokio::test]
async fn bytes_are_bounded_too() {
    let (folder, target) = (Folder::new(), away());
    let outbox = open(soon(&target).capacity(1_000, 2_000), &folder.file()).await;
    let mut settled = 0;
    while let Ok(permit) = Books::new(outbox.clone()).check(Check::of("acct")).await {
        permit.settle(total(1).dimension("model", "m".repeat(200))).await.unwrap();
        settled += 1;
        assert!(settled < 10);
    }
    assert!((3..=6).contains(&settled), "{settled}");
    target.always(Answer::Take);
    outbox.flush(STUCK).await.unwrap();
    settle(&outbox, "acct", "another").await;
}

#[tokio::test]
async fn a_place_is_given_back_however_a_request_ends() {
    let folder = Folder::new();
    let target = Target::new(Scripted::over(&hundred_a_day(&noon()).build().unwrap()));
    let outbox = open(soon(&target).capacity(1, PLENTY), &folder.file()).await;
    let books = Books::new(outbox.clone());
    let is_free = async || {
        let running = outbox.stats().running;
        assert_eq!(running, 0);
        permit(&outbox, "somebody", "of no interest").await.release().await.unwrap();
    };
    permit(&outbox, "acct", "a").await.release().await.unwrap();
    is_free().await;
    drop(permit(&outbox, "acct", "b").await);
    is_free().await;
    denied(&books.erased(), ask("acct", 101)).await;
    is_free().await;
    for kind in [ErrorKind::Unavailable, ErrorKind::TimedOut] {
        target.script.on_check(Script::Fail(kind));
        failed(&books.erased(), Check::of("acct")).await;
        target.script.on_check(Script::Obey);
        is_free().await;
    }
    target.script.on_check(Script::LoseAnswer);
    let mut lost = Box::pin(books.check(Check::of("acct")));
    assert!(lost.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    unavailable(&outbox).await;
    drop(lost);
    target.script.on_check(Script::Obey);
    is_free().await;
}

#[tokio::test]
async fn open_lets_on_what_has_no_place_and_counts_what_it_drops() {
    let (folder, target) = (Folder::new(), away());
    let builder = soon(&target).capacity(1, PLENTY).when_full(WhenFull::Open);
    let outbox = open(builder, &folder.file()).await;
    let (first, second) = (permit(&outbox, "acct", "a").await, permit(&outbox, "acct", "b").await);
    second.release().await.unwrap();
    let third = permit(&outbox, "acct", "c").await;
    first.settle(total(1)).await.unwrap();
    let error = third.settle(total(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_names(&error, &["full", "dropped"]);
    assert_eq!((outbox.stats().depth, outbox.stats().dropped), (1, 1));
    assert_eq!(target.script.calls().last(), Some(&Call::Release), "its hold is not left behind");

    target.always(Answer::Take);
    outbox.flush(STUCK).await.unwrap();
    let fourth = permit(&outbox, "acct", "d").await;
    fourth.settle(total(1)).await.unwrap();
    assert_eq!(outbox.stats().dropped, 1);
}

/// A request that the layer lets on unchecked has no place, but takes one that is free.
#[tokio::test]
async fn an_unchecked_request_is_recorded_while_there_is_room_and_counted_when_not() {
    let (folder, target) = (Folder::new(), away());
    let outbox = open(soon(&target).capacity(1, PLENTY), &folder.file()).await;
    let books = Books::new(outbox.clone());
    let layer = LimitryLayer::new(books, customer::trusted_header("x-id"), |_: &_| Some(total(7)))
        .on_failure(FailurePolicy::Open);
    let ask = async || {
        use tower::{Layer, ServiceExt, service_fn};
        type Nothing = http_body_util::Empty<bytes::Bytes>;
        let service = layer.layer(service_fn(async |_: http::Request<Nothing>| {
            Ok::<_, std::convert::Infallible>(http::Response::new(Nothing::new()))
        }));
        let request = http::Request::get("/").header("x-id", "acct").body(Nothing::new()).unwrap();
        assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
    };
    target.script.on_check(Script::Fail(ErrorKind::Unavailable));
    ask().await;
    assert_eq!((outbox.stats().depth, outbox.stats().dropped), (1, 0));
    ask().await;
    assert_eq!((outbox.stats().depth, outbox.stats().dropped), (1, 1));
}
