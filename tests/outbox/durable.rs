//! What is in the file stays there, through the end of its process and a log that is cut.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;

#[tokio::test]
async fn what_was_acknowledged_is_delivered_after_reopening() {
    let (folder, target) = (Folder::new(), target());
    target.always(Answer::Fail(ErrorKind::Unavailable));
    let outbox = open(soon(&target), &folder.file()).await;
    settle(&outbox, "acct", "a").await;
    settle(&outbox, "acct", "b").await;
    drop(outbox);
    target.always(Answer::Take);
    let outbox = open(soon(&target), &folder.file()).await;
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(target.taken(), pairs(&[("acct", "a"), ("acct", "b")]));
}

#[test]
fn a_settlement_is_appended_from_outside_of_any_runtime() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (folder, target) = (Folder::new(), target());
    target.always(Answer::Fail(ErrorKind::Unavailable));
    let first = runtime();
    let (outbox, permit) = first.block_on(async {
        let outbox = open(soon(&target), &folder.file()).await;
        let permit = permit(&outbox, "acct", "a").await;
        (outbox, permit)
    });
    drop(first);
    drop(permit.settle(total(1)));
    drop(outbox);
    target.always(Answer::Take);
    runtime().block_on(async {
        let outbox = open(soon(&target), &folder.file()).await;
        outbox.flush(STUCK).await.unwrap();
    });
    assert_eq!(target.taken(), pairs(&[("acct", "a")]));
}

/// The test again, as a program of its own.
pub(crate) fn child(name: &str, part: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]);
    command.env("OUTBOX_CHILD", path).env("OUTBOX_PART", part).stdout(Stdio::piped());
    command
}

/// In such a program: the file, and its part.
pub(crate) fn as_child() -> Option<(PathBuf, String)> {
    let path = std::env::var_os("OUTBOX_CHILD")?;
    Some((path.into(), std::env::var("OUTBOX_PART").unwrap()))
}

/// What a child has said, line by line.
pub(crate) fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("said ").map(Into::into))
}

#[test]
fn what_was_acknowledged_survives_kill_9_and_is_there_once() {
    const NAME: &str = "durable::what_was_acknowledged_survives_kill_9_and_is_there_once";
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let Some((path, round)) = as_child() {
        return runtime.block_on(settle_until_killed(&path, &round));
    }
    let mut random = Random(seed());
    for _ in 0..times(1, 60) {
        kill_again_and_again(NAME, &runtime, &mut random);
    }
}

fn kill_again_and_again(test: &str, runtime: &tokio::runtime::Runtime, random: &mut Random) {
    let folder = Folder::new();
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..30 {
        let mut child = child(test, &round.to_string(), &folder.file()).spawn().unwrap();
        let mut lines = lines(&mut child);
        let before = acknowledged.len();
        let enough = 1 + random.below(150) as usize;
        acknowledged.extend(lines.by_ref().take(enough));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had said before it was killed.
        acknowledged.extend(lines);
        assert!(acknowledged.len() > before, "round {round} settled nothing");
    }
    let target = target();
    runtime.block_on(async {
        let outbox = open(soon(&target).capacity(1 << 20, 1 << 40), &folder.file()).await;
        outbox.flush(STUCK).await.unwrap();
    });
    let seen: Vec<String> = target.taken().into_iter().map(|(_, id)| id).collect();
    let there: HashSet<&String> = seen.iter().collect();
    assert_eq!(there.len(), seen.len(), "nothing is there twice");
    let lost: Vec<_> = acknowledged.iter().filter(|id| !there.contains(id)).collect();
    assert!(lost.is_empty(), "lost {lost:?} of {}", acknowledged.len());
}

async fn settle_until_killed(path: &Path, round: &str) {
    let target = target();
    target.always(Answer::Fail(ErrorKind::Unavailable));
    let builder = soon(&target).capacity(1 << 20, 1 << 40).backoff(HOUR, HOUR);
    let outbox = open(builder, path).await;
    let tasks = (0..4).map(|task| {
        let (outbox, round) = (outbox.clone(), round.to_owned());
        tokio::spawn(async move {
            for at in 0.. {
                let id = format!("{round}-{task}-{at}");
                settle(&outbox, &format!("c{task}"), &id).await;
                println!("said {id}");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// A power cut leaves the log with what was synced, and then anything. Wherever the log ends or
/// turns to garbage, the file opens, and what is there is exactly what was acknowledged while the log
/// was no longer than that.
#[tokio::test]
async fn a_log_that_is_cut_anywhere_keeps_all_that_was_acknowledged_before() {
    let (folder, target) = (Folder::new(), target());
    target.always(Answer::Fail(ErrorKind::Unavailable));
    let outbox = open(soon(&target).backoff(HOUR, HOUR), &folder.file()).await;
    let wal = folder.0.join("usage.outbox-wal");
    let length = || std::fs::metadata(&wal).unwrap().len();
    let mut acknowledged = Vec::new();
    for at in 0..20 {
        settle(&outbox, "acct", &at.to_string()).await;
        acknowledged.push((length(), at.to_string()));
    }
    let (file, log) = (std::fs::read(folder.file()).unwrap(), std::fs::read(&wal).unwrap());
    let mut random = Random(seed());
    let ends = acknowledged.iter().map(|(end, _)| *end as usize);
    let mut cuts: Vec<usize> = ends.flat_map(|end| [end - 1, end]).collect();
    cuts.extend((0..times(40, 2_000)).map(|_| random.below(log.len() as u64) as usize));
    for cut in cuts {
        let torn = Folder::new();
        let mut log = log.clone();
        if random.below(2) == 0 {
            log.truncate(cut);
        } else {
            log[cut..].iter_mut().for_each(|byte| *byte ^= 1 + random.below(255) as u8);
        }
        std::fs::write(torn.file(), &file).unwrap();
        std::fs::write(torn.0.join("usage.outbox-wal"), &log).unwrap();
        let target = super::target();
        let reopened = open(soon(&target), &torn.file()).await;
        reopened.flush(STUCK).await.unwrap();
        let whole = acknowledged.iter().filter(|(end, _)| *end as usize <= cut);
        let whole: Vec<String> = whole.map(|(_, id)| id.clone()).collect();
        assert_eq!(target.taken_of("acct"), whole, "cut at {cut} of {}", log.len());
        // It is as good as any.
        settle(&reopened, "acct", "another").await;
    }
}

#[tokio::test]
async fn a_second_process_is_told_at_once_that_the_file_is_in_use() {
    const NAME: &str = "durable::a_second_process_is_told_at_once_that_the_file_is_in_use";
    let target = target();
    if let Some((path, _)) = as_child() {
        let error = soon(&target).open(path).await.unwrap_err();
        return println!("said {:?}: {error}", error.kind());
    }
    let folder = Folder::new();
    let outbox = open(soon(&target), &folder.file()).await;
    settle(&outbox, "acct", "a").await;
    let started = Instant::now();
    let mut second = child(NAME, "", &folder.file()).spawn().unwrap();
    let said: Vec<String> = lines(&mut second).collect();
    assert!(second.wait().unwrap().success());
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("Conflict: the file is in use by another process"), "{said:?}");
    assert!(started.elapsed() < STUCK / 2);
    // Within one process, too.
    assert_eq!(soon(&target).open(folder.file()).await.unwrap_err().kind(), ErrorKind::Conflict);
    settle(&outbox, "acct", "b").await;
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(target.taken_of("acct"), ["a", "b"]);
}

#[tokio::test]
async fn a_file_of_a_later_version_or_of_something_else_is_left_as_it_is() {
    /// Where SQLite keeps these in its header.
    const USER_VERSION: usize = 60;
    const APPLICATION: usize = 68;
    let target = target();
    for (at, what) in [(USER_VERSION, "newer than this release"), (APPLICATION, "no outbox")] {
        let folder = Folder::new();
        drop(open(soon(&target), &folder.file()).await);
        until(|| !folder.0.join("usage.outbox-wal").exists()).await;
        let mut bytes = std::fs::read(folder.file()).unwrap();
        bytes[at + 3] = bytes[at + 3].wrapping_add(1);
        std::fs::write(folder.file(), &bytes).unwrap();
        let error = try_open(soon(&target), &folder.file()).await.unwrap_err();
        assert_invalid(&error, &[what]);
        assert!(std::fs::read(folder.file()).unwrap() == bytes, "it was changed");
        assert!(!folder.0.join("usage.outbox-wal").exists());
    }
    let folder = Folder::new();
    std::fs::write(folder.file(), "my diary, and nobody else's business").unwrap();
    let error = soon(&target).open(folder.file()).await.unwrap_err();
    assert_invalid(&error, &["holds no outbox of this crate", "another path"]);
    assert!(std::fs::read(folder.file()).unwrap().starts_with(b"my diary"));
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_told() {
    let folder = Folder::new();
    let error = soon(&target()).open(folder.0.join("no/usage.outbox")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
