//! Files of the tests, each run's own.

#![allow(dead_code, clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A folder for this test program. What an earlier run left there is gone.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let program = std::env::current_exe().unwrap();
    let mut name = program.file_stem().unwrap().to_owned();
    if std::env::var_os("LD_PRELOAD").is_some() {
        // A child of the same program has a folder of its own, named by what it does.
        name.push("-child-");
        name.push(std::env::args().nth(1).unwrap_or_default().replace(':', "-"));
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _nothing_there = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
});

/// A path at which there is nothing yet.
pub(crate) fn fresh() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    FOLDER.join(format!("{}.db", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// A path of this test program at which there is nothing any more.
pub(crate) fn emptied() -> PathBuf {
    for ending in ["", "-wal", "-shm", "-lock"] {
        let _nothing_there = std::fs::remove_file(FOLDER.join(format!("emptied.db{ending}")));
    }
    FOLDER.join("emptied.db")
}
