//! Files that were cut or overwritten: they open with what was whole, or say that they are damaged.

use std::path::{Path, PathBuf};

use tower_limitry::store::Sqlite;
use tower_limitry::store::sqlite::{Durability, backup, verify};
use tower_limitry::{Books, Check, ErrorKind, NewBalance};

use crate::support::*;
use crate::{asked, assert_sound_at, file};

const SETTLED: u32 = 40;
const CREDITS: &str = "credits";

fn open(path: &Path) -> Result<Books, tower_limitry::Error> {
    let builder = hundred_a_day(&noon()).default_balance(NewBalance::new(CREDITS).initial(1_000));
    Ok(builder.build_on(Sqlite::open(path)?).unwrap().erased())
}

fn log_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

fn lock_of(path: &Path) -> PathBuf {
    beside(path, "-lock")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    format!("{}{ending}", path.display()).into()
}

/// What is on the disk when a process has settled so many and is killed: the file and its log.
async fn killed() -> (Vec<u8>, Vec<u8>) {
    let path = file::fresh();
    drop(open(&path).unwrap());
    let books = open(&path).unwrap();
    for _ in 0..SETTLED {
        let check = Check::of("ada").charge(CREDITS, |usage| usage.value("total_tokens"));
        admitted(&books, check).await.settle(total(1)).await.unwrap();
    }
    (std::fs::read(&path).unwrap(), std::fs::read(log_of(&path)).unwrap())
}

/// How many of them there are, each whole: event, counter and charge.
async fn there(file: &[u8], log: &[u8]) -> u32 {
    let path = file::emptied();
    std::fs::write(&path, file).unwrap();
    std::fs::write(log_of(&path), log).unwrap();
    let books = open(&path).unwrap();
    assert_sound_at(&path, time(NOON));
    let there: u32 = asked(&path, "SELECT count(*) FROM event");
    assert_eq!(used(&books, "ada", "daily").await, amount(there));
    assert_eq!(current(&books, "ada", CREDITS).await, amount(1_000 - there));
    // And it goes on.
    spend(&books, "ada", 1).await;
    drop(books);
    assert_sound_at(&path, time(NOON));
    there
}

/// A power cut leaves a log with what was synced, and then anything.
#[tokio::test]
async fn a_log_that_is_cut_or_torn_anywhere_keeps_all_that_was_before() {
    let (file, log) = killed().await;
    assert_eq!(there(&file, &log).await, SETTLED);
    assert_eq!(there(&file, &[]).await, 0);
    let mut random = Random(seed());
    let mut before = 0;
    let mut cuts: Vec<usize> =
        (0..times(30, 600)).map(|_| random.below(log.len() as u64) as usize).collect();
    cuts.sort_unstable();
    for cut in cuts {
        let kept = there(&file, &log[..cut]).await;
        assert!((before..=SETTLED).contains(&kept), "{kept} after {before}, cut at {cut}");
        before = kept;
        let mut torn = log.clone();
        for byte in &mut torn[cut..] {
            *byte = random.next() as u8;
        }
        assert_eq!(there(&file, &torn).await, kept, "torn at {cut}");
    }
}

/// Whatever is missing or overwritten in the file itself is told when it is opened, or found by
/// looking: it is never taken for new.
#[tokio::test]
async fn a_file_that_is_cut_or_torn_is_refused_or_found_out() {
    let path = file::fresh();
    drop(open(&path).unwrap());
    let books = open(&path).unwrap();
    for _ in 0..SETTLED {
        spend(&books, "ada", 1).await;
    }
    drop(books);
    let whole = std::fs::read(&path).unwrap();
    let pages = whole.len() / 8_192;
    assert!(pages > 10, "{pages}");
    let path = file::fresh();
    for cut in (1..pages).map(|page| page * 8_192).chain([50, 5_000, 8_192 + 17]) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = Sqlite::open(&path).map(|_| ()).unwrap_err();
        if cut < 100 {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{cut}: {error:?}");
        } else {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{cut}: {error:?}");
            assert_names(&error, &["is damaged", "restore a backup"]);
        }
        assert_eq!(std::fs::read(&path).unwrap().len(), cut, "left as it is");
    }
    for page in 0..pages {
        let mut torn = whole.clone();
        torn[page * 8_192 + 4_096..(page + 1) * 8_192].fill(0xA5);
        // As on another disk: what was noted here is of no concern.
        let _none_yet = std::fs::remove_file(lock_of(&path));
        std::fs::write(&path, &torn).unwrap();
        let found = verify(&path, time(NOON)).map(|compared| compared.found.len());
        let is_known = found.as_ref().is_ok_and(|found| *found == 0);
        // The half of a page may be unused: then nothing is missing.
        if is_known {
            let books = open(&path).unwrap();
            assert_eq!(used(&books, "ada", "daily").await, amount(SETTLED), "page {page}");
            assert_eq!(asked::<u32>(&path, "SELECT count(*) FROM event"), SETTLED);
        }
    }
}

/// The files of books that have settled so many, and are left by a process that was killed: the file,
/// its log and that of its lock.
async fn left_by_a_killed_process() -> PathBuf {
    let (path, left) = (file::fresh(), file::fresh());
    drop(open(&path).unwrap());
    let books = open(&path).unwrap();
    for _ in 0..SETTLED {
        spend(&books, "ada", 1).await;
    }
    for ending in ["", "-wal", "-lock"] {
        std::fs::copy(beside(&path, ending), beside(&left, ending)).unwrap();
    }
    left
}

#[track_caller]
fn assert_refused(path: &Path, parts: &[&str]) {
    let error = Sqlite::open(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert_names(&error, parts);
}

#[tokio::test]
async fn a_file_that_was_emptied_is_refused_and_one_that_was_removed_begins_anew() {
    let path = file::fresh();
    // Nothing is missed in an empty file that was never ours.
    std::fs::write(&path, "").unwrap();
    let books = open(&path).unwrap();
    spend(&books, "ada", 1).await;
    drop(books);
    for _ in 0..2 {
        std::fs::write(&path, "").unwrap();
        assert_refused(&path, &["is damaged", "restore a backup", "remove the file"]);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        // Of a database of something else, nothing is missed either.
        rusqlite::Connection::open(&path).unwrap().execute_batch("VACUUM").unwrap();
        assert!(Sqlite::open(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        let books = open(&path).unwrap();
        assert_eq!(used(&books, "ada", "daily").await, amount(0));
        spend(&books, "ada", 1).await;
    }
    std::fs::write(&path, "").unwrap();
    std::fs::remove_file(lock_of(&path)).unwrap();
    assert_eq!(used(&open(&path).unwrap(), "ada", "daily").await, amount(0));
}

#[tokio::test]
async fn a_log_whose_file_is_gone_or_empty_is_not_removed() {
    let path = left_by_a_killed_process().await;
    let (file, log) = (std::fs::read(&path).unwrap(), std::fs::read(log_of(&path)).unwrap());
    for is_there in [false, true] {
        for is_locked in [true, false] {
            if is_there {
                std::fs::write(&path, "").unwrap();
            } else {
                std::fs::remove_file(&path).unwrap();
            }
            if !is_locked {
                let _gone_already = std::fs::remove_file(lock_of(&path));
            }
            assert_refused(&path, &["its log (-wal) is still there", "put the file back"]);
            assert_eq!(std::fs::read(log_of(&path)).unwrap(), log);
            std::fs::write(&path, &file).unwrap();
        }
    }
    assert_eq!(used(&open(&path).unwrap(), "ada", "daily").await, amount(SETTLED));
}

#[tokio::test]
async fn a_file_whose_log_was_lost_is_refused_until_it_is_back_or_given_up() {
    let path = left_by_a_killed_process().await;
    let log = std::fs::read(log_of(&path)).unwrap();
    for cut in [0, log.len() / 2] {
        std::fs::remove_file(log_of(&path)).unwrap();
        if cut > 0 {
            std::fs::write(log_of(&path), &log[..cut]).unwrap();
        }
        let parts = ["lacks what was acknowledged last", "put back what is missing", "(-lock)"];
        assert_refused(&path, &parts);
        std::fs::write(log_of(&path), &log).unwrap();
    }
    assert_eq!(used(&open(&path).unwrap(), "ada", "daily").await, amount(SETTLED));

    let path = left_by_a_killed_process().await;
    std::fs::remove_file(log_of(&path)).unwrap();
    std::fs::remove_file(lock_of(&path)).unwrap();
    for left in 0..3 {
        let books = open(&path).unwrap();
        assert_eq!(used(&books, "ada", "daily").await, amount(left));
        spend(&books, "ada", 1).await;
    }
}

/// Whoever reads a file that a killed process left, with any tool, brings the log into it.
#[tokio::test]
async fn a_log_that_went_into_its_file_is_not_missed() {
    let path = left_by_a_killed_process().await;
    assert_eq!(asked::<u32>(&path, "SELECT count(*) FROM event"), SETTLED);
    assert!(!log_of(&path).exists());
    assert_eq!(used(&open(&path).unwrap(), "ada", "daily").await, amount(SETTLED));
}

/// However rarely the disk was synced: when the books are closed, it is.
#[tokio::test]
async fn an_older_copy_of_books_that_were_closed_in_order_is_refused() {
    for durability in [Durability::Full, Durability::Relaxed { at_most: HOUR }] {
        let path = file::fresh();
        let open = || Sqlite::options().durability(durability).open(&path);
        let books = || hundred_a_day(&noon()).build_on(open().unwrap()).unwrap().erased();
        spend(&books(), "ada", 1).await;
        let older = std::fs::read(&path).unwrap();
        spend(&books(), "ada", 5).await;
        let newer = std::fs::read(&path).unwrap();
        std::fs::write(&path, older).unwrap();
        assert_refused(&path, &["an older copy is in its place"]);
        std::fs::write(&path, newer).unwrap();
        assert_eq!(used(&books(), "ada", "daily").await, amount(6));
    }
}

#[tokio::test]
async fn a_backup_is_put_back_in_the_place_of_what_is_newer() {
    let (path, copy) = (file::fresh(), file::fresh());
    let books = open(&path).unwrap();
    spend(&books, "ada", 1).await;
    backup(&path, &copy).unwrap();
    spend(&books, "ada", 1).await;
    drop(books);
    let newer = std::fs::read(&path).unwrap();
    std::fs::copy(&copy, &path).unwrap();
    // However often it is opened before anything is settled.
    for _ in 0..3 {
        assert_eq!(used(&open(&path).unwrap(), "ada", "daily").await, amount(1));
    }
    let books = open(&path).unwrap();
    spend(&books, "ada", 5).await;
    drop(books);
    assert_sound_at(&path, time(NOON));
    // What it was put in the place of is not what is missed from here on.
    std::fs::write(&path, &newer).unwrap();
    assert_refused(&path, &["an older copy is in its place"]);
    std::fs::copy(&copy, &path).unwrap();
    assert_eq!(used(&open(&path).unwrap(), "ada", "daily").await, amount(1));
}
