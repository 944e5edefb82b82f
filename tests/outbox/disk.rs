//! A disk that fails or is full, in a program that settles.

use std::collections::HashSet;
use std::pin::Pin;

use super::durable::{as_child, child, lines};
use super::faulty::FOR_EVER;
use super::*;
use tower_limitry::CheckError;
use tower_limitry::outbox::Durability;

const SETTLEMENTS: usize = 8;
/// How long a settlement may take once the disk has failed for ever.
const PATIENCE: Duration = Duration::from_millis(150);

/// What a program said, and what was in the file when it had ended.
struct Outcome {
    said: Vec<String>,
    there: Vec<String>,
}

impl Outcome {
    fn acknowledged(&self) -> Vec<&String> {
        self.said.iter().filter(|line| line.parse::<usize>().is_ok()).collect()
    }

    fn was(&self, what: &str) -> bool {
        self.said.iter().any(|line| line == what)
    }
}

/// Runs the program with calls of that kind failing from the `first` on, `often` in a row.
async fn run(test: &str, kind: &str, first: u64, often: u64) -> Outcome {
    let folder = Folder::new();
    let mut program = child(&format!("disk::{test}"), "", &folder.file());
    program.env("LD_PRELOAD", faulty::library()).env("FAULT_KIND", kind);
    program.env("FAULT_FIRST", first.to_string()).env("FAULT_OFTEN", often.to_string());
    let mut program = program.spawn().unwrap();
    let said = lines(&mut program).collect();
    program.wait().unwrap();
    let target = target();
    let outbox = open(soon(&target), &folder.file()).await;
    outbox.flush(STUCK).await.unwrap();
    let there: Vec<String> = target.taken().into_iter().map(|(_, id)| id).collect();
    let outcome = Outcome { said, there };
    let unique: HashSet<&String> = outcome.there.iter().collect();
    let told = format!("{kind} {first}, {often} times: {:?}", outcome.said);
    assert_eq!(unique.len(), outcome.there.len(), "twice, {told}");
    for id in outcome.acknowledged() {
        assert!(unique.contains(id), "{id} is lost, {told}");
    }
    outcome
}

/// Settles one after the other, and says which are acknowledged.
async fn settle_all(path: &Path, durability: Durability) {
    let told = |name: &str| std::env::var(name).unwrap();
    let (first, often) =
        (told("FAULT_FIRST").parse().unwrap(), told("FAULT_OFTEN").parse().unwrap());
    faulty::tell(&told("FAULT_KIND"), first, often);
    let target = target();
    target.always(Answer::Fail(ErrorKind::Unavailable));
    let opened = soon(&target).durability(durability).backoff(HOUR, HOUR).open(path).await;
    let Ok(outbox) = opened else { return println!("said unopened") };
    let heals = often < FOR_EVER;
    for at in 0..SETTLEMENTS {
        let id = at.to_string();
        let mut settled = pin!(settle(&outbox, "acct", &id));
        let is_failing = until(|| outbox.stats().is_failing && !heals);
        if !first_of(&mut settled, is_failing).await
            && tokio::time::timeout(PATIENCE, &mut settled).await.is_err()
        {
            println!("said {}", unavailable(&outbox).await);
            break;
        }
        println!("said {id}");
        // Until what follows the acknowledgement is done, and where it failed made good.
        outbox.set_aside(0, 1).await.unwrap();
        until(|| !outbox.stats().is_failing).await;
    }
    // As if it was killed: nothing is closed.
    std::process::abort();
}

/// Whether the first of them is done first.
async fn first_of(
    first: impl Future<Output = ()> + Unpin,
    other: impl Future<Output = ()>,
) -> bool {
    let (mut first, mut other) = (first, pin!(other));
    std::future::poll_fn(|cx| {
        if Pin::new(&mut first).poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        other.as_mut().poll(cx).map(|()| false)
    })
    .await
}

fn everything() -> Vec<String> {
    (0..SETTLEMENTS).map(|at| at.to_string()).collect()
}

/// How many calls there are to fail, so that every one is tried.
async fn calls(test: &str, kind: &str) -> u64 {
    let mut first = 1;
    while run(test, kind, first, FOR_EVER).await.acknowledged().len() < SETTLEMENTS {
        first *= 2;
    }
    first
}

/// A sync that fails takes with it what was written since the last, as the kernel does that drops
/// the pages it could not write. Asked again, it would say that all is well.
#[tokio::test]
async fn after_a_sync_that_fails_nothing_is_acknowledged_that_is_not_there() {
    const TEST: &str = "after_a_sync_that_fails_nothing_is_acknowledged_that_is_not_there";
    if let Some((path, _)) = as_child() {
        return settle_all(&path, Durability::Full).await;
    }
    let mut opened = 0;
    for first in 1..calls(TEST, "lost").await {
        for often in [1, 2, 3] {
            let outcome = run(TEST, "lost", first, often).await;
            if !outcome.was("unopened") {
                opened += 1;
                assert_eq!(
                    outcome.acknowledged().len(),
                    SETTLEMENTS,
                    "it heals: {:?}",
                    outcome.said
                );
                assert_eq!(outcome.there, everything());
            }
        }
    }
    assert!(opened > SETTLEMENTS, "{opened}");
}

#[tokio::test]
async fn a_disk_that_never_syncs_again_acknowledges_nothing_and_refuses_checks() {
    const TEST: &str = "a_disk_that_never_syncs_again_acknowledges_nothing_and_refuses_checks";
    if let Some((path, _)) = as_child() {
        return settle_all(&path, Durability::Full).await;
    }
    let mut before = None;
    for first in 1..calls(TEST, "lost").await {
        let outcome = run(TEST, "lost", first, FOR_EVER).await;
        let acknowledged = outcome.acknowledged().len();
        if !outcome.was("unopened") && acknowledged < SETTLEMENTS {
            assert!(outcome.was("the outbox cannot write its file"), "{:?}", outcome.said);
            assert!(before.is_none_or(|before| before <= acknowledged), "{:?}", outcome.said);
            before = Some(acknowledged);
        }
    }
    assert_eq!(before, Some(SETTLEMENTS - 1), "every sync was tried");
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_goes_on_when_there_is_room() {
    const TEST: &str = "a_full_disk_loses_nothing_and_goes_on_when_there_is_room";
    if let Some((path, _)) = as_child() {
        return settle_all(&path, Durability::Full).await;
    }
    let step = times(5, 1) as usize;
    for first in (1..calls(TEST, "full").await).step_by(step) {
        for often in [1, 3, FOR_EVER] {
            let outcome = run(TEST, "full", first, often).await;
            if often < FOR_EVER && !outcome.was("unopened") {
                assert_eq!(outcome.acknowledged().len(), SETTLEMENTS, "{:?}", outcome.said);
                assert_eq!(outcome.there, everything());
            }
        }
    }
}

/// Each is synced just after it was acknowledged. What that loses is still known, and written again.
#[tokio::test]
async fn what_a_relaxed_outbox_has_acknowledged_is_there_whichever_sync_fails() {
    const TEST: &str = "what_a_relaxed_outbox_has_acknowledged_is_there_whichever_sync_fails";
    if let Some((path, _)) = as_child() {
        return settle_all(&path, Durability::Relaxed { at_most: Duration::ZERO }).await;
    }
    let mut opened = 0;
    for first in 1..40 {
        for (kind, often) in [("lost", 1), ("lost", 3), ("sync", 2)] {
            let outcome = run(TEST, kind, first, often).await;
            if !outcome.was("unopened") {
                opened += 1;
                assert_eq!(outcome.acknowledged().len(), SETTLEMENTS, "{:?}", outcome.said);
                assert_eq!(outcome.there, everything());
            }
        }
    }
    assert!(opened > 3 * SETTLEMENTS, "{opened}");
}

/// A log that has become long is synced and brought into the file. Where the disk loses it, nothing of
/// what reads well no more gets there.
#[tokio::test]
async fn a_long_log_that_the_disk_loses_is_written_again() {
    const TEST: &str = "disk::a_long_log_that_the_disk_loses_is_written_again";
    const PAGES: u64 = 4_000;
    let Some((path, part)) = as_child() else {
        for part in ["lost", "sync"] {
            let folder = Folder::new();
            let mut program = child(TEST, part, &folder.file());
            let mut program = program.env("LD_PRELOAD", faulty::library()).spawn().unwrap();
            let said: Vec<String> = lines(&mut program).collect();
            program.wait().unwrap();
            let target = target();
            let outbox = open(soon(&target).capacity(1 << 20, 1 << 30), &folder.file()).await;
            outbox.flush(STUCK).await.unwrap();
            assert_eq!(vec![target.taken().len().to_string()], said, "{part}");
        }
        return;
    };
    let target = target();
    target.always(Answer::Fail(ErrorKind::Unavailable));
    let builder = soon(&target).backoff(HOUR, HOUR).capacity(1 << 20, 1 << 30);
    let builder = builder.durability(Durability::Relaxed { at_most: HOUR });
    let outbox = open(builder, &path).await;
    // The log begins, and its head is synced.
    settle(&outbox, "acct", "first").await;
    faulty::tell(&part, 1, 1);
    let log = || path.with_extension("outbox-wal").metadata().unwrap().len();
    let (mut settled, mut longest) = (1, 0);
    while log() >= longest {
        longest = log();
        let id = settled.to_string();
        // Between the failure and its end checks are refused.
        let permit = loop {
            match Books::new(outbox.clone()).check(Check::of("acct").id(&id)).await {
                Ok(permit) => break permit,
                Err(CheckError::Failed(error)) if error.kind() == ErrorKind::Unavailable => {
                    yield_now().await;
                }
                Err(other) => panic!("{other}"),
            }
        };
        permit.settle(total(1)).await.unwrap();
        settled += 1;
        // With it was written what was lost, at the start of the log.
        assert!(settled < 10 * PAGES, "it never failed");
    }
    outbox.set_aside(0, 1).await.unwrap();
    println!("said {settled}");
    std::process::abort();
}

/// What is acknowledged before it is synced is synced in time; where that fails it is known, and
/// made good.
#[tokio::test]
async fn a_relaxed_outbox_syncs_when_it_has_said_and_not_before() {
    const TEST: &str = "disk::a_relaxed_outbox_syncs_when_it_has_said_and_not_before";
    let Some((path, part)) = as_child() else {
        for part in ["soon", "late"] {
            let folder = Folder::new();
            let mut program = child(TEST, part, &folder.file());
            let mut program = program.env("LD_PRELOAD", faulty::library()).spawn().unwrap();
            assert_eq!(lines(&mut program).collect::<Vec<_>>(), ["as it should be"], "{part}");
            program.wait().unwrap();
        }
        return;
    };
    let target = target();
    target.always(Answer::Fail(ErrorKind::Unavailable));
    let at_most = if part == "soon" { MILLISECOND } else { HOUR };
    let builder = soon(&target).backoff(HOUR, HOUR).durability(Durability::Relaxed { at_most });
    let outbox = open(builder, &path).await;
    // The log begins, and its head is synced.
    settle(&outbox, "acct", "first").await;
    faulty::tell("sync", 1, FOR_EVER);
    settle(&outbox, "acct", "a").await;
    if part == "soon" {
        until(|| outbox.stats().is_failing).await;
        faulty::heal();
        until(|| !outbox.stats().is_failing).await;
        settle(&outbox, "acct", "b").await;
    } else {
        for at in 0..100 {
            settle(&outbox, "acct", &at.to_string()).await;
        }
        assert!(!outbox.stats().is_failing);
        faulty::heal();
    }
    println!("said as it should be");
}
