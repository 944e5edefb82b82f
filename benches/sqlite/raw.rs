//! The same rows by hand: no engine, no acknowledgement, one thread that does nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use crate::{CUSTOMERS, Case, DIMENSIONS};

fn open(path: &Path) -> Connection {
    let file = Connection::open(path).unwrap();
    let settings = "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                    PRAGMA wal_autocheckpoint = 4000; PRAGMA cache_size = -65536;";
    file.execute_batch(settings).unwrap();
    file.execute_batch(include_str!("../../src/store/sqlite/schema.sql")).unwrap();
    file
}

/// Rows a second, so many in one commit.
pub(crate) fn insert(path: &Path, case: Case, group: u64, time: Duration) -> f64 {
    let mut file = open(path);
    if case.is_relaxed() {
        file.pragma_update(None, "synchronous", "NORMAL").unwrap();
    }
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < time {
        write(&mut file, case, number, group);
        number += group;
    }
    number as f64 / began.elapsed().as_secs_f64()
}

/// One row in one commit: how long it takes.
pub(crate) struct Alone {
    file: Connection,
    pub(crate) waits: Vec<u64>,
}

impl Alone {
    pub(crate) fn open(path: &Path) -> Self {
        let mut file = open(path);
        write(&mut file, Case::ONE, 0, CUSTOMERS);
        Self { file, waits: Vec::new() }
    }

    pub(crate) fn commit(&mut self, time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {
            let asked = Instant::now();
            write(&mut self.file, Case::ONE, CUSTOMERS + self.waits.len() as u64, 1);
            self.waits.push(asked.elapsed().as_nanos() as u64);
        }
    }
}

fn write(file: &mut Connection, case: Case, first: u64, group: u64) {
    let texts: Vec<_> = DIMENSIONS.iter().map(|(_, text)| format!("\"{text}\"")).collect();
    let texts = format!("[{}]", texts.join(","));
    let step = file.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    {
        let mut event = step
            .prepare_cached(
                "INSERT INTO event (sequence, id, customer, kind, at, amounts, texts) \
                 VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6)",
            )
            .unwrap();
        let mut usage = step
            .prepare_cached(
                "INSERT INTO usage (customer, counter, ends, starts, value) \
                 VALUES (?1, ?2, 1, 0, ?3) ON CONFLICT DO UPDATE SET value = excluded.value",
            )
            .unwrap();
        let mut ledger = step
            .prepare_cached(
                "INSERT INTO ledger (balance, sequence, id, amount, balance_after, at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )
            .unwrap();
        let mut balance = step
            .prepare_cached(
                "INSERT INTO balance (id, customer, name, current, opening) \
                 VALUES (?1, ?1, 'credits', ?2, 0) ON CONFLICT DO UPDATE SET current = ?2",
            )
            .unwrap();
        for number in first..first + group {
            let id = (0x7_u128 << 76 | u128::from(number)).to_be_bytes();
            let customer = (number * 104_729 % CUSTOMERS) as i64;
            let (number, amounts) = (number as i64, format!("[{}]", 100 + number % 900));
            let at = 1_795_000_000_000_000_000 + number;
            event.execute(params![number, id, customer, at, amounts, texts]).unwrap();
            for counter in 0..case.counters {
                usage.execute(params![customer, counter, number]).unwrap();
            }
            if case.balance {
                ledger.execute(params![customer, number, id, 1, number, at]).unwrap();
                balance.execute(params![customer, number]).unwrap();
            }
        }
    }
    step.commit().unwrap();
}
