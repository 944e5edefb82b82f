//! One group of changes as one transaction.

use compact_str::CompactString;
use foldhash::HashMap;
use rusqlite::{CachedStatement, Connection, OptionalExtension, TransactionBehavior, params};

use super::definition::Note;
use super::position;
use super::queue::{Change, Group};
use super::row::{self, KindText};
use crate::policy::{
    Amount, CustomerId, EventId, Producer, RecordedEvent, Transaction, TransactionKind, Usage,
};
use crate::store::memory::archive::{Counted, CounterState, Opened, Recounted, WindowEnd};
use crate::store::{KeptHold, ONCE_FOR};

/// How many names are remembered before they are looked up anew.
const MOST_NAMES: usize = 1_000_000;

/// The numbers of names, as the file has them.
#[derive(Debug, Default)]
pub(super) struct Names {
    customers: HashMap<CustomerId, i64>,
    kinds: HashMap<String, i64>,
    balances: HashMap<(i64, CompactString), i64>,
    kind: KindText,
}

impl Names {
    fn bound(&mut self) {
        if self.customers.len() + self.kinds.len() + self.balances.len() > MOST_NAMES {
            *self = Self::default();
        }
    }
}

/// Writes a group: all of it, or nothing.
pub(super) fn write(
    file: &mut Connection,
    names: &mut Names,
    group: &Group,
    number: i64,
    keeps_holds: bool,
) -> rusqlite::Result<()> {
    names.bound();
    let step = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut rows = Rows::new(&step, names, keeps_holds)?;
    for change in &group.changes {
        rows.put(change)?;
    }
    rows.finish(group, number)?;
    step.commit()
}

/// The rows of one transaction. Counters and balances move often within a group, and are written
/// once at its end.
struct Rows<'a> {
    file: &'a Connection,
    names: &'a mut Names,
    keeps_holds: bool,
    counters: HashMap<(i64, u32, WindowEnd), &'a CounterState>,
    balances: HashMap<i64, Amount>,
    marks: HashMap<(i64, Producer), u64>,
    newest_transaction: Option<u64>,
    add_event: CachedStatement<'a>,
    add_transaction: CachedStatement<'a>,
    set_counter: CachedStatement<'a>,
    amounts: String,
    texts: String,
}

impl<'a> Rows<'a> {
    fn new(
        file: &'a Connection,
        names: &'a mut Names,
        keeps_holds: bool,
    ) -> rusqlite::Result<Self> {
        Ok(Self {
            file,
            names,
            keeps_holds,
            counters: HashMap::default(),
            balances: HashMap::default(),
            marks: HashMap::default(),
            newest_transaction: None,
            add_event: file.prepare_cached(
                "INSERT INTO event (sequence, id, customer, kind, at, amounts, texts) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?,
            add_transaction: file.prepare_cached(
                "INSERT INTO ledger (balance, sequence, id, amount, balance_after, at, \
                 description, reference) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?,
            set_counter: file.prepare_cached(
                "INSERT INTO usage (customer, counter, ends, starts, value, latest) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                 ON CONFLICT DO UPDATE SET value = excluded.value, latest = excluded.latest",
            )?,
            amounts: String::new(),
            texts: String::new(),
        })
    }

    fn put(&mut self, change: &'a Change) -> rusqlite::Result<()> {
        match change {
            Change::Counted(counted) => self.count(counted),
            Change::Transacted(transaction, once) => {
                let customer = self.customer(&transaction.customer)?;
                let balance = self.transact(customer, transaction)?;
                match once {
                    Some(id) => self.remember(customer, id, balance, transaction),
                    None => Ok(()),
                }
            }
            Change::Opened(opened) => self.open(opened),
            Change::Recounted(recounted) => self.recount(recounted),
            Change::Noted(notes) => notes.iter().try_for_each(|note| self.note(note)),
            Change::Held(hold) => self.hold(hold),
            Change::Released(customer, id) => {
                let customer = self.customer(customer)?;
                self.release(customer, id)
            }
            Change::Marked(customer, producer, sequence) => {
                let customer = self.customer(customer)?;
                self.marks.insert((customer, *producer), *sequence);
                Ok(())
            }
        }
    }

    fn count(&mut self, counted: &'a Counted) -> rusqlite::Result<()> {
        let event = &counted.event;
        let customer = self.customer(&event.customer)?;
        let kind = self.kind(event)?;
        self.write_usage(&event.usage)?;
        self.add_event.execute(params![
            event.sequence,
            event.id,
            customer,
            kind,
            event.at,
            self.amounts,
            self.texts,
        ])?;
        if self.keeps_holds {
            self.release(customer, &event.id)?;
        }
        if let Some((producer, sequence)) = counted.mark {
            self.marks.insert((customer, producer), sequence);
        }
        for state in &counted.counters {
            self.counters.insert((customer, state.counter, state.end), state);
        }
        for (limit, end, percent) in &counted.alerts {
            self.execute(
                "INSERT OR IGNORE INTO alert (customer, limit_id, ends, percent) \
                 VALUES (?1, ?2, ?3, ?4)",
                params![customer, limit.as_str(), end, percent],
            )?;
        }
        match &counted.transaction {
            Some(transaction) => self.transact(customer, transaction).map(drop),
            None => Ok(()),
        }
    }

    /// Writes amounts and texts as rows have them.
    fn write_usage(&mut self, usage: &Usage) -> rusqlite::Result<()> {
        self.amounts.clear();
        row::write_amounts(&mut self.amounts, usage.values().iter().map(|(_, amount)| amount));
        self.texts.clear();
        row::write_list(&mut self.texts, usage.dimensions().iter().map(|(_, text)| text))
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
    }

    fn hold(&mut self, KeptHold { event, charge }: &KeptHold) -> rusqlite::Result<()> {
        let customer = self.customer(&event.customer)?;
        let kind = self.kind(event)?;
        self.write_usage(&event.usage)?;
        let (balance, charge) = charge.as_ref().map(|(name, price)| (name.as_str(), price)).unzip();
        self.execute(
            "INSERT OR REPLACE INTO hold \
             (id, customer, kind, at, amounts, texts, balance, charge) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![event.id, customer, kind, event.at, self.amounts, self.texts, balance, charge],
        )
    }

    fn release(&self, customer: i64, id: &EventId) -> rusqlite::Result<()> {
        self.execute("DELETE FROM hold WHERE id = ?1 AND customer = ?2", params![id, customer])
    }

    /// Answers the number of the balance.
    fn transact(&mut self, customer: i64, transaction: &Transaction) -> rusqlite::Result<i64> {
        let amount = match transaction.kind {
            TransactionKind::Credit => transaction.amount,
            _ => Amount::ZERO.saturating_sub(transaction.amount),
        };
        let before = transaction.balance_after.saturating_sub(amount);
        let balance = self.balance(customer, &transaction.balance, before)?;
        self.add_transaction.execute(params![
            balance,
            transaction.sequence,
            transaction.id,
            amount,
            transaction.balance_after,
            transaction.at,
            transaction.description,
            transaction.reference,
        ])?;
        self.newest_transaction = Some(transaction.sequence);
        self.balances.insert(balance, transaction.balance_after);
        Ok(balance)
    }

    /// Remembers by an id where a change is, and forgets some that are no longer known by theirs.
    fn remember(
        &self,
        customer: i64,
        id: &EventId,
        balance: i64,
        Transaction { sequence, at, .. }: &Transaction,
    ) -> rusqlite::Result<()> {
        self.execute(
            "DELETE FROM once WHERE (customer, id) IN \
             (SELECT customer, id FROM once WHERE at < ?1 LIMIT 16)",
            [at.saturating_sub(ONCE_FOR)],
        )?;
        self.execute(
            "INSERT OR REPLACE INTO once (customer, id, balance, sequence, at) \
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![customer, id, balance, sequence, at],
        )
    }

    fn open(&mut self, opened: &Opened) -> rusqlite::Result<()> {
        let Opened { customer, balance } = opened;
        let customer = self.customer(customer)?;
        // A charge may have come before the balance did: what was there by then is an opening of 0.
        let number = self.balance(customer, &balance.name, Amount::ZERO)?;
        self.write_balances()?;
        self.execute(
            "UPDATE balance SET opening = opening + (?2 - current), current = ?2, unit = ?3, \
             minimum = ?4 WHERE id = ?1",
            params![number, balance.current, balance.unit.as_str(), balance.minimum],
        )
    }

    fn recount(&mut self, recounted: &Recounted) -> rusqlite::Result<()> {
        self.write_counters()?;
        for (customer, counter) in &recounted.emptied {
            let customer = self.customer(customer)?;
            self.execute(
                "DELETE FROM usage WHERE customer = ?1 AND counter = ?2",
                params![customer, counter],
            )?;
        }
        for (customer, state) in &recounted.counters {
            let customer = self.customer(customer)?;
            self.write_counter(customer, state)?;
        }
        Ok(())
    }

    fn note(&mut self, note: &Note) -> rusqlite::Result<()> {
        match note {
            Note::Counter { number, definition } => self.execute(
                "INSERT INTO counter (number, definition) VALUES (?1, ?2)",
                params![number, definition],
            ),
            Note::Since { number, time } => self
                .execute("UPDATE counter SET since = ?2 WHERE number = ?1", params![number, time]),
            Note::Counted { customer, counters: Some(counters) } => self.execute(
                "INSERT INTO counted (customer, counters) VALUES (?1, ?2) \
                 ON CONFLICT DO UPDATE SET counters = excluded.counters",
                params![customer, counters],
            ),
            Note::Counted { customer, counters: None } => {
                self.execute("DELETE FROM counted WHERE customer = ?1", [customer])
            }
            Note::Definition { kind, id, body: Some(body) } => self.execute(
                "INSERT INTO definition (kind, id, body) VALUES (?1, ?2, ?3) \
                 ON CONFLICT DO UPDATE SET body = excluded.body",
                params![kind, id, body],
            ),
            Note::Definition { kind, id, body: None } => self
                .execute("DELETE FROM definition WHERE kind = ?1 AND id = ?2", params![kind, id]),
            Note::Customer { id, about } => {
                let customer = self.customer(id)?;
                self.execute(
                    "UPDATE customer SET about = ?2 WHERE id = ?1",
                    params![customer, about],
                )
            }
            Note::CustomerSince { id, since } => {
                let customer = self.customer(id)?;
                self.execute(
                    "UPDATE customer SET since = ?2 WHERE id = ?1",
                    params![customer, since],
                )
            }
        }
    }

    fn finish(mut self, group: &Group, number: i64) -> rusqlite::Result<()> {
        self.write_counters()?;
        self.write_balances()?;
        for ((customer, producer), sequence) in self.marks.drain() {
            let mut set = self.file.prepare_cached(
                "INSERT INTO mark (customer, producer, sequence) VALUES (?1, ?2, ?3) \
                 ON CONFLICT DO UPDATE SET sequence = excluded.sequence",
            )?;
            set.execute(params![customer, producer.0.to_be_bytes(), sequence])?;
        }
        let state = |name: &str, value: Option<i64>| match value {
            Some(value) => self.execute(
                "INSERT INTO state (name, value) VALUES (?1, ?2) \
                 ON CONFLICT DO UPDATE SET value = excluded.value",
                params![name, value],
            ),
            None => Ok(()),
        };
        state("running", group.running.and_then(|running| i64::try_from(running).ok()))?;
        let transaction = self.newest_transaction;
        state("transaction", transaction.and_then(|newest| i64::try_from(newest).ok()))?;
        if group.is_events() { Ok(()) } else { position::note(self.file, number) }
    }

    fn write_counters(&mut self) -> rusqlite::Result<()> {
        let mut counters: Vec<_> = self.counters.drain().collect();
        // In the order of the table: neighbours share a page.
        counters.sort_unstable_by_key(|(key, _)| *key);
        for ((customer, ..), state) in counters {
            self.write_counter(customer, state)?;
        }
        Ok(())
    }

    fn write_counter(&mut self, customer: i64, state: &CounterState) -> rusqlite::Result<()> {
        let CounterState { counter, start, end, value, latest } = state;
        self.set_counter.execute(params![customer, counter, end, start, value, latest]).map(|_| ())
    }

    fn write_balances(&mut self) -> rusqlite::Result<()> {
        let mut set = self.file.prepare_cached("UPDATE balance SET current = ?2 WHERE id = ?1")?;
        for (balance, current) in self.balances.drain() {
            set.execute(params![balance, current])?;
        }
        Ok(())
    }

    fn customer(&mut self, customer: &CustomerId) -> rusqlite::Result<i64> {
        if let Some(number) = self.names.customers.get(customer) {
            return Ok(*number);
        }
        let mut find = self.file.prepare_cached("SELECT id FROM customer WHERE name = ?1")?;
        let number = match find.query_row([customer], |row| row.get(0)).optional()? {
            Some(number) => number,
            None => {
                self.execute("INSERT INTO customer (name) VALUES (?1)", [customer])?;
                self.file.last_insert_rowid()
            }
        };
        self.names.customers.insert(customer.clone(), number);
        Ok(number)
    }

    fn kind(&mut self, event: &RecordedEvent) -> rusqlite::Result<i64> {
        let kind = &mut self.names.kind;
        kind.set(event).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        if let Some(number) = self.names.kinds.get(&kind.key) {
            return Ok(*number);
        }
        let columns = params![kind.event_type(), kind.names(), kind.dimensions(), kind.reverses];
        let mut find = self.file.prepare_cached(
            "SELECT id FROM kind WHERE event_type = ?1 AND names = ?2 AND dimensions = ?3 \
             AND reverses = ?4",
        )?;
        let number = match find.query_row(columns, |row| row.get(0)).optional()? {
            Some(number) => number,
            None => {
                let mut add = self.file.prepare_cached(
                    "INSERT INTO kind (event_type, names, dimensions, reverses) \
                     VALUES (?1, ?2, ?3, ?4)",
                )?;
                add.execute(columns)?;
                self.file.last_insert_rowid()
            }
        };
        self.names.kinds.insert(kind.key.clone(), number);
        Ok(number)
    }

    /// The number of a balance, which begins at `opening` when it is new.
    fn balance(&mut self, customer: i64, name: &str, opening: Amount) -> rusqlite::Result<i64> {
        let key = (customer, CompactString::new(name));
        if let Some(number) = self.names.balances.get(&key) {
            return Ok(*number);
        }
        let mut find =
            self.file.prepare_cached("SELECT id FROM balance WHERE customer = ?1 AND name = ?2")?;
        let number = match find.query_row(params![customer, name], |row| row.get(0)).optional()? {
            Some(number) => number,
            None => {
                self.execute(
                    "INSERT INTO balance (customer, name, current, opening) \
                     VALUES (?1, ?2, ?3, ?3)",
                    params![customer, name, opening],
                )?;
                self.file.last_insert_rowid()
            }
        };
        self.names.balances.insert(key, number);
        Ok(number)
    }

    fn execute(&self, sql: &str, parameters: impl rusqlite::Params) -> rusqlite::Result<()> {
        self.file.prepare_cached(sql)?.execute(parameters).map(|_| ())
    }
}
