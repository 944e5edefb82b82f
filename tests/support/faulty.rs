//! A disk that fails when it is told to: `faulty.c`, loaded into a program before it starts.

#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// As often as it is tried.
pub(crate) const FOR_EVER: u64 = u64::MAX;

/// The library, to be named in `LD_PRELOAD`.
pub(crate) fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/faulty.c");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let library = folder.join("faulty.so");
        // Others may be using it.
        let built = folder.join(format!("faulty-{}.so", std::process::id()));
        let mut compiler = Command::new(std::env::var_os("CC").unwrap_or("cc".into()));
        compiler.args(["-shared", "-fPIC", "-O1", "-w", "-o"]).arg(&built).arg(source).arg("-ldl");
        assert!(compiler.status().expect("a C compiler, as for SQLite").success());
        std::fs::rename(&built, &library).unwrap();
        library
    })
}

/// In a program with the library: the calls of that kind fail from the `first` on, `often` in a row.
pub(crate) fn tell(kind: &str, first: u64, often: u64) {
    let told = std::fs::File::open(format!("/faulty/{kind}/{first}/{often}"));
    assert!(told.is_err());
}

/// Nothing fails any more.
pub(crate) fn heal() {
    tell("none", 0, 0);
}
