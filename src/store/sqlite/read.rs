//! Reading the file: all that lives when it is opened, events and ledger rows when they are asked
//! for.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rusqlite::types::FromSqlError;
use rusqlite::{Connection, OptionalExtension, Row, Rows, Statement, params};
use tokio::sync::mpsc;

use super::row::{self, Kinds};
use super::{position, schema};
use crate::file::OpenError;
use crate::policy::{Amount, CustomerId, EventId, Producer, RecordedEvent, Timestamp, Transaction};
use crate::store::memory::archive::{CounterState, WindowEnd};
use crate::store::{Found, KeptAlert, KeptHold, Memory, Wanted};

/// How many events a reader takes at once: few at first, for many ask for one page.
const CHUNKS: (usize, usize) = (32, 512);

/// Which events to read, and in which order.
#[derive(Debug)]
pub(super) enum Select {
    /// Those that came before a place, newest first, perhaps of one customer and type alone.
    Newest { before: i64, customer: Option<CustomerId>, event_type: Option<String> },
    /// Those after a place, oldest first.
    After(u64),
    /// Those up to a place, oldest first.
    UpTo(u64),
}

impl Select {
    pub(super) fn newest_first(wanted: Wanted<'_>) -> Self {
        let before = wanted.before.and_then(|before| i64::try_from(before).ok());
        Self::Newest {
            before: before.unwrap_or(i64::MAX),
            customer: wanted.customer.cloned(),
            event_type: wanted.event_type.map(Into::into),
        }
    }

    fn condition(&self) -> &'static str {
        match self {
            // Each asked of the row at hand: the order is that of the table, and a page ends soon.
            Self::Newest { .. } => {
                "WHERE e.sequence < ?1 \
                 AND (?2 IS NULL OR +e.customer = (SELECT id FROM customer WHERE name = ?2)) \
                 AND (?3 IS NULL OR e.kind IN (SELECT id FROM kind WHERE event_type = ?3)) \
                 ORDER BY e.sequence DESC"
            }
            Self::After(_) => "WHERE e.sequence > ?1 ORDER BY e.sequence",
            Self::UpTo(_) => "WHERE e.sequence <= ?1 ORDER BY e.sequence",
        }
    }

    fn rows<'a>(&self, statement: &'a mut Statement<'_>) -> rusqlite::Result<Rows<'a>> {
        match self {
            Self::Newest { before, customer, event_type } => {
                statement.query(params![before, customer, event_type])
            }
            Self::After(place) | Self::UpTo(place) => statement.query([place]),
        }
    }
}

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

    /// Lets go of the file until something is asked again.
    pub(super) fn close(&self) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
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

    /// The change that was done last under that id.
    pub(super) fn done(
        &self,
        customer: &CustomerId,
        id: &EventId,
    ) -> rusqlite::Result<Option<Transaction>> {
        self.with(|file| {
            let sql = format!(
                "{} JOIN once o ON o.balance = l.balance AND o.sequence = l.sequence \
                 WHERE o.id = ?2 AND o.customer = (SELECT id FROM customer WHERE name = ?1)",
                row::LEDGER
            );
            let mut find = file.prepare_cached(&sql)?;
            find.query_row(params![customer, id], row::transaction).optional()
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

    /// The alerts of windows that have not ended.
    pub(super) fn alerts(&self, now: Timestamp) -> rusqlite::Result<Vec<KeptAlert>> {
        self.with(|file| alerts(file, now))
    }

    /// The time of the newest event that was let go.
    pub(super) fn forgotten(&self) -> rusqlite::Result<Option<Timestamp>> {
        self.with(|file| Ok(row::state(file, "forgotten")?.map(Timestamp::from_nanos)))
    }

    /// The place of the newest event; 0 when there is none.
    pub(super) fn newest(&self) -> rusqlite::Result<u64> {
        self.with(position::event)
    }

    /// The events after that place, oldest first: those that came within the last moment.
    pub(super) fn events_after(&self, place: u64) -> rusqlite::Result<Vec<RecordedEvent>> {
        self.with(|file| {
            let mut events = Vec::new();
            each_event(file, &Select::After(place), |event| {
                events.push(event);
                true
            })?;
            Ok(events)
        })
    }

    /// Reads events on a thread of its own.
    pub(super) fn stream(&self, select: Select) -> Result<Events, OpenError> {
        let (sender, receiver) = mpsc::channel(2);
        let path = self.path.clone();
        let thread = thread::Builder::new().name("limitry-sqlite-read".into());
        let read = move || {
            let read = schema::open_to_read(&path).and_then(|file| stream(&file, &select, &sender));
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
    select: &Select,
    sender: &mpsc::Sender<rusqlite::Result<Vec<RecordedEvent>>>,
) -> rusqlite::Result<()> {
    let mut chunk = Vec::new();
    let mut enough = CHUNKS.0;
    let take = |event: RecordedEvent| {
        chunk.push(event);
        if chunk.len() < enough {
            return true;
        }
        enough = (enough * 2).min(CHUNKS.1);
        sender.blocking_send(Ok(std::mem::take(&mut chunk))).is_ok()
    };
    each_event(file, select, take)?;
    if !chunk.is_empty() {
        let _ = sender.blocking_send(Ok(chunk));
    }
    Ok(())
}

/// Calls `visit` until it answers `false`.
pub(super) fn each_event(
    file: &Connection,
    select: &Select,
    mut visit: impl FnMut(RecordedEvent) -> bool,
) -> rusqlite::Result<()> {
    let mut events = file.prepare(&format!("{} {}", row::EVENTS, select.condition()))?;
    let mut rows = select.rows(&mut events)?;
    let mut kinds = Kinds::default();
    while let Some(row) = rows.next()? {
        if !visit(row::event(file, &mut kinds, row)?) {
            break;
        }
    }
    Ok(())
}

fn alerts(file: &Connection, now: Timestamp) -> rusqlite::Result<Vec<KeptAlert>> {
    let mut alerts = file.prepare(
        "SELECT c.name, a.limit_id, a.ends, a.percent \
         FROM alert a JOIN customer c ON c.id = a.customer WHERE a.ends > ?1 \
         ORDER BY a.customer, a.limit_id, a.percent",
    )?;
    let alert = |row: &Row<'_>| {
        let end: WindowEnd = row.get(2)?;
        Ok(KeptAlert {
            customer: row.get(0)?,
            limit: row.get_ref(1)?.as_str()?.into(),
            ends: (end != WindowEnd::NEVER).then(|| Timestamp::from_seconds(i64::from(end.0) * 60)),
            percent: row.get(3)?,
        })
    };
    alerts.query_map([now.as_seconds()], alert)?.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rusqlite::{Connection, StatementStatus};

    use super::{Select, row};
    use crate::policy::CustomerId;
    use crate::store::Wanted;

    /// How many steps SQLite takes for a page of twenty.
    fn steps(file: &Connection, before: u64, customer: Option<&CustomerId>) -> i32 {
        let wanted = Wanted { before: Some(before), customer, event_type: None };
        let select = Select::newest_first(wanted);
        let sql = format!("{} {}", row::EVENTS, select.condition());
        let mut events = file.prepare(&sql).unwrap();
        let mut rows = select.rows(&mut events).unwrap();
        for _ in 0..20 {
            assert!(rows.next().unwrap().is_some());
        }
        drop(rows);
        events.get_status(StatementStatus::VmStep)
    }

    #[test]
    fn a_page_costs_the_same_wherever_it_is() {
        let file = Connection::open_in_memory().unwrap();
        file.execute_batch(include_str!("schema.sql")).unwrap();
        file.execute_batch(
            "INSERT INTO customer (id, name) VALUES (1, 'ada'), (2, 'bob');
             INSERT INTO kind VALUES (1, 'chat', '[]', '[]', 0);
             WITH RECURSIVE series (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series LIMIT 20000)
             INSERT INTO event
             SELECT n, 'id-' || n, 1 + n % 2, 1, 0, '[]', '[]' FROM series;",
        )
        .unwrap();
        let ada = CustomerId::new("ada").unwrap();
        for customer in [None, Some(&ada)] {
            let newest = steps(&file, 20_001, customer);
            for before in [15_000, 10_000, 100] {
                assert!(steps(&file, before, customer) <= newest + 10, "before {before}");
            }
            assert!(newest < 2_000, "{newest}");
        }
    }
}
