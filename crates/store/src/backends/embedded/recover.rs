//! Opening: what the files say, what the log holds beyond the database, and above which revision to go on.

use std::time::{SystemTime, UNIX_EPOCH};

use redb::{Database, ReadableTable};

use super::codec::{Slot, View};
use super::errors::corrupt;
use super::log;
use super::tables::{FORMAT, LOST, Tables, meta};
use crate::Error;

/// So many revisions are reserved durably ahead of use.
pub(super) const RESERVE: u64 = 1 << 16;

/// What the file says when it is opened.
pub(super) struct State {
    pub last: u64,
    pub ceiling: u64,
    pub floor: u64,
    pub cursor: Slot,
    pub lost: Vec<(u64, u64)>,
    /// The log that is written from now on must say so.
    pub log_id: u64,
}

impl State {
    /// Puts in what the log holds, goes above the ceiling if the last process died, and marks the store as open.
    pub fn recover(db: &Database, log: &[u8]) -> Result<Self, Error> {
        let mut txn = db.begin_write().map_err(corrupt)?;
        txn.set_quick_repair(true);
        let state = {
            let mut tables = Tables::open(&txn)?;
            let mut lost = txn.open_table(LOST).map_err(corrupt)?;
            match tables.number(meta::FORMAT)? {
                Some(FORMAT) => {}
                Some(other) => {
                    return Err(Error::Corrupt(format!("layout {other} of the store is unknown to this release")));
                }
                None if tables.records.first().map_err(corrupt)?.is_some() => {
                    return Err(Error::Corrupt("the store does not say which layout it has".to_string()));
                }
                None => {
                    tables.set_number(meta::FORMAT, FORMAT)?;
                    tables.set_number(meta::LAST, 1)?;
                    tables.set_number(meta::CEILING, 1)?;
                    tables.set_number(meta::FLOOR, 0)?;
                    tables.set_number(meta::CLEAN, 1)?;
                }
            }
            let checkpoint = tables.number(meta::LAST)?.unwrap_or(1);
            let was_clean = tables.number(meta::CLEAN)? == Some(1);
            let log_id = tables.number(meta::LOG)?.unwrap_or(0);
            if !was_clean && !log::belongs_to(log, log_id) {
                tracing::warn!(
                    revision = checkpoint,
                    "the store was not closed and has no log of its own: what was written after its last checkpoint is lost"
                );
            }
            let rows = log::rows(log, log_id);
            let found = replay(&mut tables, checkpoint, &rows)?;
            let ceiling = tables.number(meta::CEILING)?.unwrap_or(found);
            let floor = tables.number(meta::FLOOR)?.unwrap_or(0);
            let cursor = Slot(tables.number(meta::CURSOR)?.unwrap_or(0));
            let last = if was_clean || ceiling <= found {
                found
            } else {
                lost.insert(found + 1, ceiling).map_err(corrupt)?;
                ceiling + 1
            };
            lost.retain(|_, end| end >= floor).map_err(corrupt)?;
            let mut windows = Vec::new();
            for window in lost.iter().map_err(corrupt)? {
                let (first, end) = window.map_err(corrupt)?;
                windows.push((first.value(), end.value()));
            }
            let ceiling = last + RESERVE;
            tables.set_number(meta::LAST, last)?;
            tables.set_number(meta::CEILING, ceiling)?;
            tables.set_number(meta::CLEAN, 0)?;
            let log_id = now_ns();
            tables.set_number(meta::LOG, log_id)?;
            Self { last, ceiling, floor, cursor, lost: windows, log_id }
        };
        txn.commit().map_err(corrupt)?;
        Ok(state)
    }
}

/// Puts in the log's rows after revision `last`; returns the revision reached.
fn replay(tables: &mut Tables<'_>, mut last: u64, rows: &[(Slot, &[u8])]) -> Result<u64, Error> {
    let checkpoint = last;
    for (slot, record) in rows.iter().filter(|(slot, _)| slot.revision() > checkpoint) {
        if slot.revision() > last + 1 {
            return Err(Error::Corrupt(format!("the log goes on at {}, the database ends at {last}", slot.revision())));
        }
        let before = tables.latest(View::parse(record)?.key)?;
        tables.place(*slot, record, before)?;
        last = slot.revision();
    }
    Ok(last)
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
