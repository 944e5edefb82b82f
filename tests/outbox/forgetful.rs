//! A target that loses its memory is made whole by what is kept.

use super::*;

async fn keeping(target: &Target, folder: &Folder) -> Outbox<Target> {
    open(soon(target).keep_delivered(HOUR), &folder.file()).await
}

/// Settles these and waits until they are delivered.
async fn deliver(outbox: &Outbox<Target>, customer: &str, ids: &[&str]) {
    for id in ids {
        settle(outbox, customer, id).await;
    }
    outbox.flush(STUCK).await.unwrap();
}

/// It went back to an older state and nobody noticed; the next delivery tells.
#[tokio::test]
async fn it_is_told_by_the_next_delivery_and_healed_before_it() {
    let (folder, target) = (Folder::new(), target());
    let outbox = keeping(&target, &folder).await;
    deliver(&outbox, "ann", &["a", "b"]).await;
    deliver(&outbox, "bob", &["x"]).await;
    let backup = target.books();
    deliver(&outbox, "ann", &["c", "d"]).await;
    target.remember(backup);
    deliver(&outbox, "bob", &["y"]).await;
    deliver(&outbox, "ann", &["e"]).await;
    assert_eq!(target.taken_of("ann"), ["a", "b", "c", "d", "e"]);
    assert_eq!(target.taken_of("bob"), ["x", "y"]);
}

#[tokio::test]
async fn nothing_at_all_is_left_of_it_and_it_is_whole_again() {
    let (folder, target) = (Folder::new(), target());
    let outbox = keeping(&target, &folder).await;
    deliver(&outbox, "ann", &["a", "b"]).await;
    target.remember(Default::default());
    drop(outbox);
    let outbox = keeping(&target, &folder).await;
    deliver(&outbox, "ann", &["c"]).await;
    assert_eq!(target.taken_of("ann"), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_replay_by_hand_reaches_customers_of_whom_nothing_new_comes() {
    let folder = Folder::new();
    let clock = noon();
    let target = Target::new(Scripted::over(&tokens(&clock).build().unwrap()));
    let outbox = keeping(&target, &folder).await;
    deliver(&outbox, "ann", &["a"]).await;
    clock.advance(MINUTE);
    let backup = target.books();
    deliver(&outbox, "ann", &["b", "c"]).await;
    deliver(&outbox, "bob", &["x"]).await;
    target.remember(backup);
    assert_eq!(outbox.replay_delivered(time("2026-03-01T12:00:30Z")).await.unwrap(), 3);
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(target.taken_of("ann"), ["a", "b", "c"]);
    assert_eq!(target.taken_of("bob"), ["x"]);
    assert_eq!(target.seen().iter().filter(|seen| seen.id == "a").count(), 1);
}

#[tokio::test]
async fn a_replay_to_a_target_that_forgot_nothing_changes_nothing() {
    let (folder, target) = (Folder::new(), target());
    let outbox = keeping(&target, &folder).await;
    deliver(&outbox, "ann", &["a", "b"]).await;
    let before = target.taken();
    for _ in 0..3 {
        assert_eq!(outbox.replay_delivered(Default::default()).await.unwrap(), 2);
        outbox.flush(STUCK).await.unwrap();
    }
    assert_eq!(target.taken(), before);
    assert_eq!(outbox.stats().kept, 2);
    deliver(&outbox, "ann", &["c"]).await;
    assert_eq!(target.taken_of("ann"), ["a", "b", "c"]);
}

#[tokio::test]
async fn what_was_delivered_is_kept_for_its_time_and_then_gone() {
    let folder = Folder::new();
    let clock = noon();
    let target = Target::new(Scripted::over(&tokens(&clock).build().unwrap()));
    let outbox = keeping(&target, &folder).await;
    deliver(&outbox, "ann", &["a"]).await;
    clock.advance(HOUR);
    deliver(&outbox, "ann", &["b"]).await;
    assert_eq!(outbox.stats().kept, 2);
    clock.advance(SECOND);
    deliver(&outbox, "ann", &["c"]).await;
    until(|| outbox.stats().kept == 2).await;
    assert_eq!(outbox.replay_delivered(Default::default()).await.unwrap(), 2);
    outbox.flush(STUCK).await.unwrap();

    let outbox = {
        drop(outbox);
        open(soon(&target), &folder.file()).await
    };
    until(|| outbox.stats().kept == 0).await;
}

#[tokio::test]
async fn what_is_kept_is_bounded_and_takes_no_place_of_what_waits() {
    let (folder, target) = (Folder::new(), target());
    let builder = soon(&target).keep_delivered(HOUR).capacity(3, 1 << 20);
    let outbox = open(builder, &folder.file()).await;
    for at in 0..10 {
        deliver(&outbox, "ann", &[&at.to_string()]).await;
    }
    until(|| outbox.stats().kept == 3).await;
    assert_eq!(target.taken().len(), 10);
}

/// It says that it is behind, whatever it gets. It is asked again, but not all the time.
#[tokio::test]
async fn a_target_that_is_always_behind_is_left_alone_in_between() {
    use tower_limitry::backend::Receipt;
    let (folder, target) = (Folder::new(), target());
    let outbox = open(soon(&target).keep_delivered(HOUR).backoff(HOUR, HOUR), &folder.file()).await;
    deliver(&outbox, "ann", &["a"]).await;
    target.remember(Default::default());
    settle(&outbox, "ann", "b").await;
    until(|| target.seen().len() == 2).await;
    until(|| outbox.stats().depth == 2).await;
    assert_eq!(target.taken(), [], "{:?} rests", Receipt::Behind);
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(target.taken_of("ann"), ["a", "b"]);
}
