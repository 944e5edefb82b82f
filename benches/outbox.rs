//! How many settlements a second reach the disk through the outbox, beside single inserts into
//! SQLite that are synced one by one?
//!
//! ```text
//! cargo bench --bench outbox --features outbox,test-util
//! ```
//!
//! A task settles, waits until that is durable, and settles again. The last columns are with a
//! target that takes what is delivered meanwhile.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tower_limitry::outbox::{Durability, Outbox};
use tower_limitry::test_util::{Answer, Scripted};
use tower_limitry::{Books, Check, ErrorKind, Usage};

const TASKS: [usize; 4] = [1, 16, 256, 4096];
const TIME: Duration = Duration::from_secs(2);
const HOUR: Duration = Duration::from_secs(3_600);

fn main() {
    let folder = Folder::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let relaxed = Durability::Relaxed { at_most: Duration::from_millis(100) };
    for durability in [Durability::Full, relaxed] {
        let single = single_inserts(&folder.file(), durability);
        println!("{durability:?}: {single:.0} single inserts/s");
        println!("  tasks   appends/s   of single   delivering   of single");
        for tasks in TASKS {
            let [away, there] = [Answer::Fail(ErrorKind::Unavailable), Answer::Obey]
                .map(|answer| runtime.block_on(appends(&folder.file(), durability, tasks, answer)));
            println!(
                "  {tasks:>5}  {away:>10.0}  {:>10.1}  {there:>11.0}  {:>10.1}",
                away / single,
                there / single,
            );
        }
    }
}

/// Appends a second. The target answers deliveries so.
async fn appends(path: &Path, durability: Durability, tasks: usize, answer: Answer) -> f64 {
    let backend = Scripted::new();
    backend.on_finish(answer);
    let builder = Outbox::builder(backend).durability(durability).backoff(HOUR, HOUR);
    let opened = builder.capacity(usize::MAX, u64::MAX).open(path).await;
    let outbox = opened.expect("a file that can be written");
    let end = Instant::now() + TIME;
    let settling: Vec<_> = (0..tasks)
        .map(|task| {
            let books = Books::new(outbox.clone());
            tokio::spawn(async move {
                let customer = format!("acct_{task}");
                let mut settled = 0;
                while Instant::now() < end {
                    let permit = books.check(Check::of(&customer).event_type("llm.completion"));
                    let usage = Usage::of("input_tokens", 1_234).and("output_tokens", 567);
                    let usage = usage.dimension("model", "large-2");
                    permit.await.expect("allowed").settle(usage).await.expect("durable");
                    settled += 1;
                }
                settled
            })
        })
        .collect();
    let mut settled = 0;
    for task in settling {
        settled += task.await.expect("a task that does not panic");
    }
    f64::from(settled) / TIME.as_secs_f64()
}

/// What most would write first: a row, committed and synced, and then the next.
fn single_inserts(path: &Path, durability: Durability) -> f64 {
    const BODY: &str = r#"{"id":"0193-a","at":1772366400000000000,"type":"llm.completion","values":[["input_tokens",1234000000],["output_tokens",567000000]],"dimensions":[["model","large-2"]]}"#;
    let connection = Connection::open(path).expect("a file that can be written");
    let synchronous = if durability == Durability::Full { "FULL" } else { "NORMAL" };
    let setup = format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous};
         CREATE TABLE entry (sequence INTEGER PRIMARY KEY, customer TEXT, body TEXT) STRICT"
    );
    connection.execute_batch(&setup).expect("a table");
    let sql = "INSERT INTO entry (customer, body) VALUES (?, ?)";
    let mut insert = connection.prepare(sql).expect("a statement");
    let start = Instant::now();
    let mut inserts = 0;
    while start.elapsed() < TIME {
        insert.execute(["acct_42", BODY]).expect("a row");
        inserts += 1;
    }
    f64::from(inserts) / start.elapsed().as_secs_f64()
}

/// A folder under `target`, on the disk that is built on.
struct Folder(PathBuf, std::cell::Cell<u32>);

impl Folder {
    fn new() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("outbox-bench");
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path, std::cell::Cell::new(0))
    }

    fn file(&self) -> PathBuf {
        self.1.set(self.1.get() + 1);
        self.0.join(self.1.get().to_string())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
