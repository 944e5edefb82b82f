//! Books in a file: what a crash, a broken disk and another process leave of them.

#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used)]

mod crash;
#[cfg(target_os = "linux")]
mod disk;
mod file_itself;
mod reopen;

#[path = "../support/file.rs"]
mod file;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;

/// The file holds together, by SQLite's word and by its own sums.
#[track_caller]
fn assert_sound(path: &Path) {
    let file = rusqlite::Connection::open(path).unwrap();
    let text = |sql: &str| -> String { file.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(text("PRAGMA integrity_check"), "ok");
    let wrong = "SELECT count(*) || '' FROM balance b WHERE current <> opening + \
                 coalesce((SELECT sum(amount) FROM ledger l WHERE l.balance = b.id), 0)";
    assert_eq!(text(wrong), "0", "balances that are not the sum of their ledger");
}

/// What one query says.
fn asked<T: rusqlite::types::FromSql>(path: &Path, sql: &str) -> T {
    let file = rusqlite::Connection::open(path).unwrap();
    file.query_row(sql, [], |row| row.get(0)).unwrap()
}
