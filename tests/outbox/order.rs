//! Each customer's entries are taken in the order of their settling, once, whatever fails.

use std::collections::HashMap;

use tower_limitry::outbox::Durability;

use super::*;

#[tokio::test]
async fn what_is_retried_holds_back_its_customer_and_nobody_else() {
    let (folder, target) = (Folder::new(), target());
    target.answer(|delivery| match delivery.id().to_string().as_str() {
        "stuck" => Answer::Fail(ErrorKind::Unavailable),
        _ => Answer::Take,
    });
    let outbox = open(soon(&target), &folder.file()).await;
    for (customer, id) in [("ann", "a"), ("ann", "stuck"), ("ann", "b"), ("bob", "x")] {
        settle(&outbox, customer, id).await;
    }
    until(|| target.seen().len() > 10).await;
    settle(&outbox, "bob", "y").await;
    until(|| target.taken_of("bob") == ["x", "y"]).await;
    assert_eq!(target.taken_of("ann"), ["a"]);
    target.always(Answer::Take);
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(target.taken_of("ann"), ["a", "stuck", "b"]);
}

/// Random failures, lost answers, refusals, lost memories and reopenings, several batches under
/// way at once.
#[tokio::test]
async fn order_and_number_are_right_under_random_failures() {
    let mut random = Random(seed());
    for _ in 0..times(30, 2_000) {
        round(&mut random).await;
    }
}

async fn round(random: &mut Random) {
    let (folder, target) = (Folder::new(), target());
    let mut dice = random.clone();
    let trouble = random.below(90);
    target.answer(move |_| match dice.below(100) {
        roll if roll >= trouble => Answer::Take,
        roll if roll % 3 == 0 => Answer::TakeSilently,
        roll if roll % 3 == 1 => Answer::Fail(ErrorKind::TimedOut),
        _ => Answer::Fail(ErrorKind::Unavailable),
    });
    let batch = 1 + random.below(8) as usize;
    let build = || {
        let builder = soon(&target).backoff(MILLISECOND, MILLISECOND);
        builder
            .durability(Durability::Relaxed { at_most: MILLISECOND })
            .batch(batch)
            .keep_delivered(HOUR)
    };
    let mut outbox = open(build(), &folder.file()).await;
    let mut settled: HashMap<String, Vec<String>> = HashMap::new();
    let mut backup = target.books();
    for at in 0..60 {
        let customer = format!("c{}", random.below(6));
        settle(&outbox, &customer, &at.to_string()).await;
        settled.entry(customer).or_default().push(at.to_string());
        match random.below(24) {
            0 => backup = target.books(),
            1 => target.remember(backup.clone()),
            2 => {
                drop(outbox);
                outbox = open(build(), &folder.file()).await;
            }
            3 => drop(outbox.replay_delivered(Default::default()).await.unwrap()),
            4 => yield_now().await,
            _ => {}
        }
    }
    outbox.flush(STUCK).await.unwrap();
    // What was lost of customers of whom nothing came since.
    outbox.replay_delivered(Default::default()).await.unwrap();
    outbox.flush(STUCK).await.unwrap();
    for (customer, ids) in settled {
        assert_eq!(target.taken_of(&customer), ids, "{customer}, {trouble} of 100 fail");
    }
}
