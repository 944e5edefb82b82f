//! Reading the file: all that lives when it is opened, events and ledger rows when they are asked
//! for.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rusqlite::types::FromSqlError;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::mpsc;

use super::row::{self, Kinds};
use super::{OpenError, schema};
use crate::policy::{Amount, CustomerId, EventId, Producer, RecordedEvent, Timestamp, Transaction};
use crate::store::memory::archive::{CounterState, WindowEnd};
use crate::store::{Found, KeptHold, Memory};

/// How many events a reader takes at once.
const CHUNK: usize = 512;

/// Fills books from the file: windows that have not ended, and every balance.
pub(super) fn fill(file: &Connection, memory: &Memory, now: Timestamp) -> rusqlite::Result<()> {
    let mut usages = file.prepare(
        "SELECT c.name, u.counter, u.starts, u.ends, u.value, u.latest \
         FROM usage u JOIN customer c ON c.id = u.customer WHERE u.ends > ?1",
    )?;
    let mut rows = usages.query([now.as_seconds()])?;
    while let Some(row) = rows.next()? {
        let state = CounterState {
            counter: row.get(1)?,
            start: row.get(2)?,
            end: row.get(3)?,
            value: row.get(4)?,
            latest: row.get(5)?,
        };
        if state.end.is_after(now) {
            memory.restore_counter(&row.get(0)?, &state, now);
        }
    }
    let mut balances = file.prepare(
        "SELECT c.name, b.name, b.current, b.unit, b.minimum \
         FROM balance b JOIN customer c ON c.id = b.customer",
    )?;
    let mut rows = balances.query([])?;
    while let Some(row) = rows.next()? {
        let terms = match row.get::<_, Option<String>>(3)? {
            Some(unit) => Some((unit.into(), row.get(4)?)),
            None => None,
        };
        memory.restore_balance(&row.get(0)?, row.get_ref(1)?.as_str()?, row.get(2)?, terms);
    }
    let mut alerts = file.prepare(
        "SELECT c.name, a.limit_id, a.ends, a.percent \
         FROM alert a JOIN customer c ON c.id = a.customer WHERE a.ends > ?1",
    )?;
    let mut rows = alerts.query([now.as_seconds()])?;
    while let Some(row) = rows.next()? {
        let (end, percent): (WindowEnd, u8) = (row.get(2)?, row.get(3)?);
        if !(1..=100).contains(&percent) {
            return Err(FromSqlError::OutOfRange(percent.into()).into());
        }
        memory.restore_alert(&row.get(0)?, row.get_ref(1)?.as_str()?, end, percent);
    }
    Ok(())
}

/// The holds that earlier processes left, oldest first.
pub(super) fn holds(file: &Connection) -> rusqlite::Result<Vec<KeptHold>> {
    let mut holds = file.prepare(
        "SELECT 0, h.id, c.name, h.kind, h.at, h.amounts, h.texts, h.balance, h.charge \
         FROM hold h JOIN customer c ON c.id = h.customer ORDER BY h.at",
    )?;
    let mut kinds = Kinds::default();
    let hold = |row: &Row<'_>| {
        let charge = match row.get::<_, Option<String>>(7)? {
            Some(balance) => Some((balance.into(), row.get(8)?)),
            None => None,
        };
        Ok(KeptHold { event: row::event(file, &mut kinds, row)?, charge })
    };
    holds.query_map([], hold)?.collect()
}

/// Reads beside the writer.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    file: Mutex<Option<Connection>>,
}

impl Reader {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: Mutex::default() }
    }

    /// Whether an event is in the file.
    pub(super) fn has_event(&self, customer: &CustomerId, id: &EventId) -> rusqlite::Result<bool> {
        self.with(|file| {
            let mut find = file.prepare_cached(
                "SELECT 1 FROM event \
                 WHERE id = ?1 AND customer = (SELECT id FROM customer WHERE name = ?2)",
            )?;
            find.exists(params![id, customer])
        })
    }

    /// How far a queue of settlements has been taken.
    pub(super) fn mark(
        &self,
        customer: &CustomerId,
        producer: Producer,
    ) -> rusqlite::Result<Option<u64>> {
        self.with(|file| {
            let mut find = file.prepare_cached(
                "SELECT sequence FROM mark \
                 WHERE producer = ?1 AND customer = (SELECT id FROM customer WHERE name = ?2)",
            )?;
            let key = params![producer.0.to_be_bytes(), customer];
            find.query_row(key, |row| row.get(0)).optional()
        })
    }

    /// An event, and what it was charged.
    pub(super) fn find(
        &self,
        customer: &CustomerId,
        id: &EventId,
    ) -> rusqlite::Result<Option<Found>> {
        self.with(|file| {
            let sql = format!("{} WHERE e.id = ?1 AND c.name = ?2", row::EVENTS);
            let mut find = file.prepare_cached(&sql)?;
            let mut kinds = Kinds::default();
            let event = find
                .query_row(params![id, customer], |row| row::event(file, &mut kinds, row))
                .optional()?;
            let Some(event) = event else { return Ok(None) };
            let sql = format!("{} WHERE l.id = ?1 AND c.name = ?2", row::LEDGER);
            let mut charge = file.prepare_cached(&sql)?;
            let charge = charge.query_row(params![id, customer], row::transaction).optional()?;
            Ok(Some(Found { event, charge }))
        })
    }

    /// The credit of a payment.
    pub(super) fn credit(
        &self,
        customer: &CustomerId,
        balance: &str,
        reference: &str,
    ) -> rusqlite::Result<Option<Transaction>> {
        self.with(|file| {
            let sql = format!(
                "{} WHERE l.amount > 0 AND l.reference = ?3 AND l.balance = \
                 (SELECT id FROM balance WHERE name = ?2 AND customer = \
                 (SELECT id FROM customer WHERE name = ?1))",
                row::LEDGER
            );
            let mut find = file.prepare_cached(&sql)?;
            find.query_row(params![customer, balance, reference], row::transaction).optional()
        })
    }

    /// The ledger of a balance, oldest first, and what it held before.
    pub(super) fn ledger(
        &self,
        customer: &CustomerId,
        balance: &str,
    ) -> rusqlite::Result<Option<(Amount, Vec<Transaction>)>> {
        self.with(|file| {
            let mut find = file.prepare_cached(
                "SELECT id, opening FROM balance WHERE name = ?2 AND customer = \
                 (SELECT id FROM customer WHERE name = ?1)",
            )?;
            let found = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
            let known: Option<(i64, Amount)> =
                find.query_row(params![customer, balance], found).optional()?;
            let Some((number, opening)) = known else { return Ok(None) };
            let sql = format!("{} WHERE l.balance = ?1 ORDER BY l.sequence", row::LEDGER);
            let mut ledger = file.prepare_cached(&sql)?;
            let rows = ledger.query_map([number], row::transaction)?.collect::<Result<_, _>>()?;
            Ok(Some((opening, rows)))
        })
    }

    /// The time of the newest event that was let go.
    pub(super) fn forgotten(&self) -> rusqlite::Result<Option<Timestamp>> {
        self.with(|file| Ok(row::state(file, "forgotten")?.map(Timestamp::from_nanos)))
    }

    /// The place of the newest event; 0 when there is none.
    pub(super) fn newest(&self) -> rusqlite::Result<u64> {
        self.with(|file| row::place(file, "event"))
    }

    /// The events after that place, oldest first: those that came within the last moment.
    pub(super) fn events_after(&self, place: u64) -> rusqlite::Result<Vec<RecordedEvent>> {
        self.with(|file| {
            let mut events = Vec::new();
            each_event(file, Some(place), |event| {
                events.push(event);
                true
            })?;
            Ok(events)
        })
    }

    /// Reads events on a thread of its own: newest first, or oldest first up to a place.
    pub(super) fn stream(&self, up_to: Option<u64>) -> Result<Events, OpenError> {
        let (sender, receiver) = mpsc::channel(2);
        let path = self.path.clone();
        let thread = thread::Builder::new().name("limitry-sqlite-read".into());
        let read = move || {
            let read = schema::open_to_read(&path).and_then(|file| stream(&file, up_to, &sender));
            if let Err(error) = read {
                // Whether somebody still listens is their choice.
                let _ = sender.blocking_send(Err(error));
            }
        };
        thread.spawn(read).map_err(OpenError::Io)?;
        Ok(receiver)
    }

    /// Runs a query, once more on a new connection when the first fails.
    fn with<T>(
        &self,
        mut query: impl FnMut(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*file {
            match query(open) {
                Ok(answer) => return Ok(answer),
                Err(_) => *file = None,
            }
        }
        let open = file.insert(schema::open_to_read(&self.path)?);
        query(open)
    }
}

/// Events in chunks.
pub(super) type Events = mpsc::Receiver<rusqlite::Result<Vec<RecordedEvent>>>;

fn stream(
    file: &Connection,
    up_to: Option<u64>,
    sender: &mpsc::Sender<rusqlite::Result<Vec<RecordedEvent>>>,
) -> rusqlite::Result<()> {
    let mut chunk = Vec::new();
    let take = |event: RecordedEvent| {
        if up_to.is_some_and(|place| event.sequence > place) {
            return false;
        }
        chunk.push(event);
        chunk.len() < CHUNK || sender.blocking_send(Ok(std::mem::take(&mut chunk))).is_ok()
    };
    each_event(file, up_to.map(|_| 0), take)?;
    if !chunk.is_empty() {
        let _ = sender.blocking_send(Ok(chunk));
    }
    Ok(())
}

/// Calls `visit` until it answers `false`: newest first, or oldest first after a place.
pub(super) fn each_event(
    file: &Connection,
    after: Option<u64>,
    mut visit: impl FnMut(RecordedEvent) -> bool,
) -> rusqlite::Result<()> {
    let order = match after {
        None => "ORDER BY e.sequence DESC",
        Some(_) => "WHERE e.sequence > ?1 ORDER BY e.sequence",
    };
    let mut events = file.prepare(&format!("{} {order}", row::EVENTS))?;
    let mut rows = match after {
        None => events.query([])?,
        Some(place) => events.query([place])?,
    };
    let mut kinds = Kinds::default();
    while let Some(row) = rows.next()? {
        if !visit(row::event(file, &mut kinds, row)?) {
            break;
        }
    }
    Ok(())
}
