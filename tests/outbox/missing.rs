//! A file that lacks something is not taken for new: what was acknowledged in it may not be delivered.

use super::*;

const SETTLED: usize = 20;

fn beside(path: &Path, ending: &str) -> PathBuf {
    format!("{}{ending}", path.display()).into()
}

async fn refused(path: &Path, parts: &[&str]) {
    let error = soon(&target()).open(path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert_names(&error, parts);
}

/// How many settlements are delivered from there.
async fn delivered(path: &Path) -> usize {
    let target = target();
    let outbox = open(soon(&target), path).await;
    outbox.flush(STUCK).await.unwrap();
    drop(outbox);
    closed(path).await;
    target.taken().len()
}

async fn closed(path: &Path) {
    until(|| !beside(path, "-wal").exists()).await;
}

/// The files that a process leaves that is killed when it has settled so many and delivered none:
/// the file, its log and that of its lock.
async fn left_by_a_killed_process(folder: &Folder) {
    let (there, target) = (Folder::new(), target());
    target.always(Answer::Fail(ErrorKind::Unavailable));
    let outbox = open(soon(&target).backoff(HOUR, HOUR), &there.file()).await;
    for at in 0..SETTLED {
        settle(&outbox, "acct", &at.to_string()).await;
    }
    for ending in ["", "-wal", "-lock"] {
        std::fs::copy(beside(&there.file(), ending), beside(&folder.file(), ending)).unwrap();
    }
}

#[tokio::test]
async fn a_file_that_was_emptied_or_removed_is_refused_until_it_is_back_or_given_up() {
    let folder = Folder::new();
    let path = folder.file();
    left_by_a_killed_process(&folder).await;
    let target = target();
    target.always(Answer::Fail(ErrorKind::Unavailable));
    drop(open(soon(&target), &path).await);
    closed(&path).await;
    let whole = std::fs::read(&path).unwrap();
    for _ in 0..2 {
        std::fs::write(&path, "").unwrap();
        refused(&path, &["is damaged", "is empty", "restore", "(-lock)"]).await;
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0, "it is left as it is");
        std::fs::remove_file(&path).unwrap();
        refused(&path, &["is gone", "put it back", "(-lock)"]).await;
        assert!(!path.exists());
    }
    std::fs::write(&path, whole).unwrap();
    assert_eq!(delivered(&path).await, SETTLED);

    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(beside(&path, "-lock")).unwrap();
    assert_eq!(delivered(&path).await, 0);
}

#[tokio::test]
async fn a_log_whose_file_is_gone_or_empty_is_not_removed() {
    let folder = Folder::new();
    let (path, log) = (folder.file(), beside(&folder.file(), "-wal"));
    left_by_a_killed_process(&folder).await;
    let (whole, logged) = (std::fs::read(&path).unwrap(), std::fs::read(&log).unwrap());
    for is_locked in [true, false] {
        for is_there in [false, true] {
            match is_there {
                true => std::fs::write(&path, "").unwrap(),
                false => std::fs::remove_file(&path).unwrap(),
            }
            if !is_locked {
                let _gone_already = std::fs::remove_file(beside(&path, "-lock"));
            }
            refused(&path, &["its log (-wal) is still there", "put the file back"]).await;
            assert_eq!(std::fs::read(&log).unwrap(), logged);
            std::fs::write(&path, &whole).unwrap();
        }
    }
    assert_eq!(delivered(&path).await, SETTLED);
}

#[tokio::test]
async fn a_file_whose_log_was_lost_is_refused_until_it_is_back_or_given_up() {
    let folder = Folder::new();
    let (path, log) = (folder.file(), beside(&folder.file(), "-wal"));
    left_by_a_killed_process(&folder).await;
    let logged = std::fs::read(&log).unwrap();
    for cut in [0, logged.len() / 2] {
        std::fs::remove_file(&log).unwrap();
        if cut > 0 {
            std::fs::write(&log, &logged[..cut]).unwrap();
        }
        let parts = ["lacks what was acknowledged last", "put back what is missing", "(-lock)"];
        refused(&path, &parts).await;
        std::fs::write(&log, &logged).unwrap();
    }
    assert_eq!(delivered(&path).await, SETTLED);

    let folder = Folder::new();
    let path = folder.file();
    left_by_a_killed_process(&folder).await;
    std::fs::remove_file(beside(&path, "-wal")).unwrap();
    std::fs::remove_file(beside(&path, "-lock")).unwrap();
    assert_eq!(delivered(&path).await, 0);
}

/// It would deliver anew what was delivered since, and lacks what was appended.
#[tokio::test]
async fn an_older_copy_in_the_place_of_the_file_is_refused() {
    let (folder, target) = (Folder::new(), target());
    let (path, older) = (folder.file(), folder.0.join("older"));
    target.always(Answer::Fail(ErrorKind::Unavailable));
    let outbox = open(soon(&target), &path).await;
    settle(&outbox, "acct", "a").await;
    drop(outbox);
    closed(&path).await;
    std::fs::copy(&path, &older).unwrap();
    // Nothing is appended since, only taken away.
    target.always(Answer::Take);
    let outbox = open(soon(&target), &path).await;
    outbox.flush(STUCK).await.unwrap();
    drop(outbox);
    closed(&path).await;
    let newer = std::fs::read(&path).unwrap();
    std::fs::copy(&older, &path).unwrap();
    refused(&path, &["an older copy is in its place", "put back what is missing", "(-lock)"]).await;
    std::fs::write(&path, newer).unwrap();
    assert_eq!(delivered(&path).await, 0);
}

#[tokio::test]
async fn a_second_process_may_wait_its_turn() {
    let (folder, target) = (Folder::new(), target());
    let first = open(soon(&target), &folder.file()).await;
    let short = soon(&target).open_wait(MILLISECOND).open(folder.file()).await.unwrap_err();
    assert_eq!(short.kind(), ErrorKind::Conflict);
    assert_names(&short, &["in use by another process", "open_wait"]);
    let second = tokio::spawn(soon(&target).open_wait(STUCK).open(folder.file()));
    yield_now().await;
    assert!(!second.is_finished());
    settle(&first, "acct", "a").await;
    drop(first);
    let second = second.await.unwrap().unwrap();
    second.flush(STUCK).await.unwrap();
    assert_eq!(target.taken_of("acct"), ["a"]);
}
