//! How far settlements have come that may be sent only once. Written down before each step, so that
//! also a process that starts again knows what may have been done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, params};

use super::debts::{failed_task, unopened, unwritten};
use crate::Error;
use crate::backend::Hold;
use crate::policy::{CustomerId, EventId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Its debit was sent, and no answer is known.
    Debiting,
    /// Its debit was answered.
    Debited,
    /// Its event was sent, and no answer is known.
    Recording,
}

impl Step {
    const ALL: [Self; 3] = [Self::Debiting, Self::Debited, Self::Recording];
}

type Key = (CustomerId, EventId);
type Steps = HashMap<Key, Step>;

#[derive(Debug)]
pub(super) struct Sent {
    steps: Arc<Mutex<Steps>>,
    file: Option<Arc<Mutex<Connection>>>,
}

impl Sent {
    /// Of what was sent before, in the file of debts if there is one.
    pub(super) async fn open(file: Option<Arc<Mutex<Connection>>>) -> Result<Self, Error> {
        let steps = match file.clone() {
            None => Steps::new(),
            Some(file) => {
                let read = move || read(&file.lock().unwrap_or_else(PoisonError::into_inner));
                let read = tokio::task::spawn_blocking(read).await;
                read.map_err(|_| failed_task())?.map_err(unopened)?
            }
        };
        Ok(Self { steps: Arc::new(Mutex::new(steps)), file })
    }

    pub(super) fn step(&self, hold: &Hold) -> Option<Step> {
        lock(&self.steps).get(&key(hold)).copied()
    }

    /// Writes down where these stand now; `None` forgets them. Begun, it is done in file and memory,
    /// whoever still waits for it.
    ///
    /// # Errors
    ///
    /// When it cannot be written; nothing has changed then.
    pub(super) async fn note<'h>(
        &self,
        holds: impl IntoIterator<Item = (&'h Hold, Option<Step>)>,
    ) -> Result<(), Error> {
        let holds = holds.into_iter().map(|(hold, step)| (key(hold), step));
        let changes: Vec<(Key, Option<Step>)> = holds.collect();
        let Some(file) = self.file.clone() else {
            change(&mut lock(&self.steps), changes);
            return Ok(());
        };
        let steps = Arc::clone(&self.steps);
        let written = tokio::task::spawn_blocking(move || {
            let file = file.lock().unwrap_or_else(PoisonError::into_inner);
            write(&file, &changes)?;
            change(&mut lock(&steps), changes);
            Ok(())
        });
        written.await.map_err(|_| failed_task())?.map_err(unwritten)
    }
}

fn key(hold: &Hold) -> Key {
    (hold.customer().clone(), hold.id().clone())
}

fn lock(steps: &Mutex<Steps>) -> MutexGuard<'_, Steps> {
    steps.lock().unwrap_or_else(PoisonError::into_inner)
}

fn change(steps: &mut Steps, changes: Vec<(Key, Option<Step>)>) {
    for (key, step) in changes {
        match step {
            Some(step) => steps.insert(key, step),
            None => steps.remove(&key),
        };
    }
}

fn read(connection: &Connection) -> rusqlite::Result<Steps> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS sent (
            customer TEXT NOT NULL,
            id TEXT NOT NULL,
            step INTEGER NOT NULL,
            PRIMARY KEY (customer, id)
        ) STRICT, WITHOUT ROWID",
    )?;
    let mut statement = connection.prepare("SELECT customer, id, step FROM sent")?;
    let rows = statement.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, usize>(2)?))
    })?;
    let mut steps = Steps::new();
    for row in rows {
        let (customer, id, step) = row?;
        // What cannot be one of ours is nobody's.
        if let (Ok(customer), Ok(id), Some(step)) =
            (CustomerId::new(customer), EventId::new(id), Step::ALL.get(step))
        {
            steps.insert((customer, id), *step);
        }
    }
    Ok(steps)
}

fn write(connection: &Connection, changes: &[(Key, Option<Step>)]) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    for ((customer, id), step) in changes {
        let (customer, id) = (customer.as_str(), id.to_string());
        match step {
            Some(step) => transaction.execute(
                "INSERT INTO sent (customer, id, step) VALUES (?, ?, ?)
                 ON CONFLICT (customer, id) DO UPDATE SET step = excluded.step",
                params![customer, id, *step as i64],
            )?,
            None => transaction
                .execute("DELETE FROM sent WHERE customer = ? AND id = ?", params![customer, id])?,
        };
    }
    transaction.commit()
}
