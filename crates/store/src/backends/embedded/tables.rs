//! The tables of the database file and what reads and writes single rows of them.
//!
//! * `records`: slot -> record, in order of history;
//! * `latest`: key -> (slot of its last record, revision of its creation or 0 if it is removed, deadline or 0);
//! * `expiry`: (deadline, slot) of every record that will expire;
//! * `lost`: windows of revisions that were reserved when the process died: the first that may have been seen and
//!   lost -> the last one;
//! * `meta`: numbers by name.
//!
//! Invariant: at any revision from the floor on, the chain of previous slots from `latest` reaches every version
//! that was current then.

use bytes::Bytes;
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::codec::{Slot, View};
use super::errors::corrupt;
use crate::{Error, Event, EventKind, RangeRequest, RangeResult, Record, Revision};

pub(super) const RECORDS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("records");
pub(super) const LATEST: TableDefinition<'static, &str, (u64, u64, u64)> = TableDefinition::new("latest");
pub(super) const EXPIRY: TableDefinition<'static, (u64, u64), ()> = TableDefinition::new("expiry");
pub(super) const LOST: TableDefinition<'static, u64, u64> = TableDefinition::new("lost");
pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

/// Version of this layout; a file with another one is refused.
pub(super) const FORMAT: u64 = 1;

/// Names of the numbers in `meta`.
pub(super) mod meta {
    /// Version of the layout.
    pub const FORMAT: &str = "format";
    /// The last revision committed.
    pub const LAST: &str = "last";
    /// No revision above this one has been given out; after a crash the store goes on above it.
    pub const CEILING: &str = "ceiling";
    /// Which log goes with the database.
    pub const LOG: &str = "log";
    /// 1 while no process has the store open.
    pub const CLEAN: &str = "clean";
    /// History before this revision is forgotten.
    pub const FLOOR: &str = "floor";
    /// Up to this slot superseded records have been removed.
    pub const CURSOR: &str = "cursor";
}

/// What `latest` says of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latest {
    pub slot: Slot,
    pub create_revision: u64,
    pub deadline: u64,
}

impl Latest {
    pub fn from_stored((slot, create_revision, deadline): (u64, u64, u64)) -> Self {
        Self { slot: Slot(slot), create_revision, deadline }
    }

    pub fn is_live(&self) -> bool {
        self.create_revision != 0
    }
}

/// One consistent state of the database. Short-lived: an open one keeps pages from being reused.
pub(super) struct Snapshot {
    records: ReadOnlyTable<u64, &'static [u8]>,
    latest: ReadOnlyTable<&'static str, (u64, u64, u64)>,
    /// The revision of the last commit in it.
    pub revision: u64,
}

/// How much one read of history returns at most.
const EVENTS_PER_READ: usize = 512;
const EVENT_BYTES_PER_READ: usize = 4 << 20;
const RECORDS_PER_READ: usize = 20_000;

impl Snapshot {
    pub fn open(db: &Database) -> Result<Self, Error> {
        let txn = db.begin_read().map_err(corrupt)?;
        let meta = txn.open_table(META).map_err(corrupt)?;
        let revision = meta.get(meta::LAST).map_err(corrupt)?.map_or(0, |last| last.value());
        Ok(Self {
            records: txn.open_table(RECORDS).map_err(corrupt)?,
            latest: txn.open_table(LATEST).map_err(corrupt)?,
            revision,
        })
    }

    /// The record of a key.
    pub fn get(&self, key: &str) -> Result<Option<Record>, Error> {
        let Some(latest) = self.latest.get(key).map_err(corrupt)? else { return Ok(None) };
        let latest = Latest::from_stored(latest.value());
        if latest.is_live() { read_record(&self.records, latest.slot).map(Some) } else { Ok(None) }
    }

    /// The slot of the version of a key that was current at a revision, if the key existed then.
    fn slot_at(&self, latest: Latest, at: u64) -> Result<Option<Slot>, Error> {
        if latest.slot.revision() <= at {
            return Ok(latest.is_live().then_some(latest.slot));
        }
        let mut slot = latest.slot;
        let mut is_creation = false;
        loop {
            let Some(stored) = self.records.get(slot.0).map_err(corrupt)? else {
                // Only a removal may have been compacted away under a creation that is still readable.
                return if is_creation { Ok(None) } else { Err(missing(slot)) };
            };
            let view = View::parse(stored.value())?;
            if slot.revision() <= at {
                return Ok((!view.is_tombstone()).then_some(slot));
            }
            is_creation = view.create_revision == slot.revision();
            match view.previous {
                Some(previous) => slot = previous,
                None => return Ok(None),
            }
        }
    }

    /// Reads records as of revision `at`, which must not be below the floor.
    pub fn range(&self, request: &RangeRequest, at: u64) -> Result<RangeResult, Error> {
        let first = request.start.as_str().max(request.prefix.as_str());
        let mut result = RangeResult { records: Vec::new(), revision: Revision(at), more: false, count: 0 };
        for entry in self.latest.range(first..).map_err(corrupt)? {
            let (key, latest) = entry.map_err(corrupt)?;
            if !key.value().starts_with(&request.prefix) {
                break;
            }
            let Some(slot) = self.slot_at(Latest::from_stored(latest.value()), at)? else { continue };
            result.count += 1;
            if request.limit == 0 || result.records.len() < request.limit {
                result.records.push(read_record(&self.records, slot)?);
            } else {
                result.more = true;
            }
        }
        Ok(result)
    }

    /// Reads events of whole commits after `after`; also returns up to where history was read.
    pub fn events(&self, prefix: &str, after: u64) -> Result<(Vec<Event>, u64), Error> {
        let mut events = Vec::new();
        let mut bytes = 0;
        let mut read_to = after;
        let first = Slot::first_of(after + 1).0;
        for (seen, entry) in self.records.range(first..).map_err(corrupt)?.enumerate() {
            let (slot, stored) = entry.map_err(corrupt)?;
            let slot = Slot(slot.value());
            let is_full = events.len() >= EVENTS_PER_READ || bytes >= EVENT_BYTES_PER_READ || seen >= RECORDS_PER_READ;
            if is_full && slot.revision() > read_to {
                return Ok((events, read_to));
            }
            read_to = slot.revision();
            let view = View::parse(stored.value())?;
            if view.key.starts_with(prefix) {
                let event = self.event(slot, &view)?;
                bytes += event.record.value.len() + event.prev.as_ref().map_or(0, Bytes::len);
                events.push(event);
            }
        }
        Ok((events, self.revision.max(after)))
    }

    fn event(&self, slot: Slot, view: &View<'_>) -> Result<Event, Error> {
        let is_creation = !view.is_tombstone() && view.create_revision == slot.revision();
        let prev = match view.previous {
            Some(previous) if !is_creation => Some(read_record(&self.records, previous)?.value),
            _ => None,
        };
        let record = |value| Record {
            key: view.key.to_string(),
            value,
            create_revision: Revision(view.create_revision),
            mod_revision: Revision(slot.revision()),
        };
        Ok(if view.is_tombstone() {
            Event { record: record(prev.clone().unwrap_or_default()), kind: EventKind::Delete, prev }
        } else {
            Event { record: record(view.value()?), kind: EventKind::Put, prev }
        })
    }
}

/// The tables, open for writing.
pub(super) struct Tables<'t> {
    pub records: Table<'t, u64, &'static [u8]>,
    pub latest: Table<'t, &'static str, (u64, u64, u64)>,
    pub expiry: Table<'t, (u64, u64), ()>,
    pub meta: Table<'t, &'static str, u64>,
}

impl<'t> Tables<'t> {
    pub fn open(txn: &'t WriteTransaction) -> Result<Self, Error> {
        Ok(Self {
            records: txn.open_table(RECORDS).map_err(corrupt)?,
            latest: txn.open_table(LATEST).map_err(corrupt)?,
            expiry: txn.open_table(EXPIRY).map_err(corrupt)?,
            meta: txn.open_table(META).map_err(corrupt)?,
        })
    }

    pub fn number(&self, name: &str) -> Result<Option<u64>, Error> {
        Ok(self.meta.get(name).map_err(corrupt)?.map(|number| number.value()))
    }

    pub fn set_number(&mut self, name: &str, number: u64) -> Result<(), Error> {
        self.meta.insert(name, number).map_err(corrupt)?;
        Ok(())
    }

    pub fn latest(&self, key: &str) -> Result<Option<Latest>, Error> {
        Ok(self.latest.get(key).map_err(corrupt)?.map(|latest| Latest::from_stored(latest.value())))
    }

    /// Puts an encoded record in its place; `before` is what `latest` says of its key.
    pub fn place(&mut self, slot: Slot, record: &[u8], before: Option<Latest>) -> Result<(), Error> {
        let view = View::parse(record)?;
        match before {
            Some(Latest { deadline, slot, .. }) if deadline != 0 => {
                self.expiry.remove((deadline, slot.0)).map_err(corrupt)?;
            }
            _ => {}
        }
        if view.deadline != 0 {
            self.expiry.insert((view.deadline, slot.0), ()).map_err(corrupt)?;
        }
        let create_revision = if view.is_tombstone() { 0 } else { view.create_revision };
        self.records.insert(slot.0, record).map_err(corrupt)?;
        self.latest.insert(view.key, (slot.0, create_revision, view.deadline)).map_err(corrupt)?;
        Ok(())
    }

    pub fn next_deadline(&self) -> Result<Option<u64>, Error> {
        Ok(self.expiry.first().map_err(corrupt)?.map(|(due, _)| due.value().0))
    }
}

/// The error of a slot that must hold a record and does not.
pub(super) fn missing(slot: Slot) -> Error {
    Error::Corrupt(format!("the record of revision {} is missing", slot.revision()))
}

/// Reads the record in a slot.
pub(super) fn read_record(records: &impl ReadableTable<u64, &'static [u8]>, slot: Slot) -> Result<Record, Error> {
    let stored = records.get(slot.0).map_err(corrupt)?.ok_or_else(|| missing(slot))?;
    let view = View::parse(stored.value())?;
    Ok(Record {
        key: view.key.to_string(),
        value: view.value()?,
        create_revision: Revision(view.create_revision),
        mod_revision: Revision(slot.revision()),
    })
}
