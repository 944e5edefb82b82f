//! Books in a file: what a crash, a broken disk and another process leave of them.

#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used)]

mod changes;
mod corrections;
mod crash;
mod damaged;
#[cfg(target_os = "linux")]
mod disk;
mod file_itself;
mod ids;
mod keeping;
mod load;
mod ownerless;
mod places;
mod reopen;
mod unwaited;
mod verify;
mod voids;

#[cfg(target_os = "linux")]
#[path = "../support/faulty.rs"]
mod faulty;
#[path = "../support/file.rs"]
mod file;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;

use tower_limitry::policy::Timestamp;

/// The file holds together, and says what its events and its ledger come to.
#[track_caller]
fn assert_sound(path: &Path) {
    assert_sound_at(path, std::time::SystemTime::now().into());
}

#[track_caller]
fn assert_sound_at(path: &Path, now: Timestamp) {
    let compared = tower_limitry::store::sqlite::verify(path, now).unwrap();
    assert_eq!(compared.found, []);
}

/// What one query says.
fn asked<T: rusqlite::types::FromSql>(path: &Path, sql: &str) -> T {
    let file = rusqlite::Connection::open(path).unwrap();
    file.query_row(sql, [], |row| row.get(0)).unwrap()
}
