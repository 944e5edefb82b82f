//! How far the books in a file have come: the number of its last group, and the place of its newest
//! event.
//!
//! A group moves the number by as many changes as it has. One of events alone is told by them: the
//! state, which is a page of its own, is not written, and was true of the events of then.

use rusqlite::{Connection, params};

use super::row;

/// The number of the last group.
pub(super) fn group(file: &Connection) -> rusqlite::Result<i64> {
    let noted = row::state(file, "event")?.unwrap_or_default();
    let since = newest(file)?.map_or(0, |newest| newest.saturating_sub(noted).max(0));
    Ok(row::state(file, "group")?.unwrap_or_default().saturating_add(since))
}

/// The place of the newest event there ever was; 0 when there was none.
pub(super) fn event(file: &Connection) -> rusqlite::Result<u64> {
    let noted = row::place(file, "event")?;
    let newest = newest(file)?.and_then(|newest| u64::try_from(newest).ok());
    Ok(newest.map_or(noted, |newest| newest.max(noted)))
}

/// Notes the number of the group, and of which event that is true. To be done before events go.
pub(super) fn note(file: &Connection, group: i64) -> rusqlite::Result<()> {
    let event = event(file)?;
    let mut set = file.prepare_cached(
        "INSERT INTO state (name, value) VALUES ('group', ?1), ('event', ?2) \
         ON CONFLICT DO UPDATE SET value = excluded.value",
    )?;
    set.execute(params![group, event]).map(|_| ())
}

/// The place of the newest event that is still there.
fn newest(file: &Connection) -> rusqlite::Result<Option<i64>> {
    let mut newest = file.prepare_cached("SELECT max(sequence) FROM event")?;
    newest.query_row([], |row| row.get(0))
}
