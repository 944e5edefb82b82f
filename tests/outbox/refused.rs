//! What the target refuses for good.

use super::*;

const FOR_GOOD: [ErrorKind; 4] =
    [ErrorKind::Invalid, ErrorKind::NotFound, ErrorKind::Conflict, ErrorKind::TooOld];

#[tokio::test]
async fn is_set_aside_with_its_reason_and_the_next_goes_on() {
    for kind in FOR_GOOD {
        let (folder, target) = (Folder::new(), target());
        target.answer(move |delivery| match delivery.id().to_string().as_str() {
            "bad" => Answer::Fail(kind),
            _ => Answer::Take,
        });
        let outbox = open(soon(&target), &folder.file()).await;
        for id in ["a", "bad", "b"] {
            settle(&outbox, "acct", id).await;
        }
        outbox.flush(STUCK).await.unwrap();
        assert_eq!(target.taken_of("acct"), ["a", "b"], "{kind:?}");
        let refused = outbox.set_aside(0, 10).await.unwrap();
        let [refused] = &refused[..] else { panic!("{refused:?}") };
        assert_eq!(refused.customer.as_str(), "acct");
        assert_eq!(refused.reason, "the script says so");
        assert_eq!(refused.since, time(NOON));
        let delivery = refused.delivery.as_ref().unwrap();
        assert_eq!(delivery.id().to_string(), "bad");
        assert_eq!(delivery.usage().value("total_tokens"), Some(amount(1)));
        assert_eq!(outbox.stats().set_aside, 1);
        assert_eq!(target.seen().iter().filter(|seen| seen.id == "bad").count(), 1, "{kind:?}");
    }
}

/// The target has taken later ones of the customer, so its old sequence would look like a repeat.
#[tokio::test]
async fn is_replayed_under_its_id_behind_all_others() {
    let (folder, target) = (Folder::new(), target());
    target.always(Answer::Fail(ErrorKind::Invalid));
    let outbox = open(soon(&target), &folder.file()).await;
    for id in ["a", "b", "c"] {
        settle(&outbox, "acct", id).await;
    }
    outbox.flush(STUCK).await.unwrap();
    target.always(Answer::Take);
    settle(&outbox, "acct", "d").await;
    outbox.flush(STUCK).await.unwrap();

    // Also once the file was closed.
    drop(outbox);
    let outbox = open(soon(&target), &folder.file()).await;
    assert_eq!(outbox.stats().set_aside, 3);
    let refused = outbox.set_aside(0, 2).await.unwrap();
    assert_eq!(refused.len(), 2);
    assert!(outbox.replay(refused[1].sequence).await.unwrap());
    assert!(!outbox.replay(refused[1].sequence).await.unwrap(), "it is no longer there");
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(target.taken_of("acct"), ["d", "b"]);

    assert_eq!(outbox.replay_all().await.unwrap(), 2);
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(target.taken_of("acct"), ["d", "b", "a", "c"]);
    assert_eq!(outbox.stats().set_aside, 0);

    // Its new sequence is not used again.
    drop(outbox);
    let outbox = open(soon(&target), &folder.file()).await;
    settle(&outbox, "acct", "e").await;
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(target.taken_of("acct"), ["d", "b", "a", "c", "e"]);
}

#[tokio::test]
async fn replaying_all_tries_each_once_when_they_are_refused_again() {
    let (folder, target) = (Folder::new(), target());
    target.always(Answer::Fail(ErrorKind::Invalid));
    let outbox = open(soon(&target), &folder.file()).await;
    for id in ["a", "b", "c"] {
        settle(&outbox, "acct", id).await;
    }
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(outbox.replay_all().await.unwrap(), 3);
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(target.seen().len(), 6);
    assert_eq!(outbox.stats().set_aside, 3);
}

#[tokio::test]
async fn takes_its_place_until_it_is_discarded() {
    let (folder, target) = (Folder::new(), target());
    target.always(Answer::Fail(ErrorKind::Invalid));
    let outbox = open(soon(&target).capacity(1, 1 << 20), &folder.file()).await;
    settle(&outbox, "acct", "a").await;
    outbox.flush(STUCK).await.unwrap();
    unavailable(&outbox).await;
    let refused = outbox.set_aside(0, 10).await.unwrap();
    assert!(outbox.discard(refused[0].sequence).await.unwrap());
    assert!(!outbox.discard(refused[0].sequence).await.unwrap());
    assert_eq!(outbox.stats().set_aside, 0);
    target.always(Answer::Take);
    settle(&outbox, "acct", "b").await;
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(target.taken_of("acct"), ["b"]);
}
