//! The one writer: takes what is queued as a group, applies it, makes it durable with one commit, publishes, answers.
//!
//! A group costs a commit of the database, a synchronisation of the disk and the waking of all who follow, however small it
//! is. Left alone, the writer would take each transaction by itself even with hundreds of requests under way: it is woken by
//! the first, before the cores have got to the next. So it gathers for a moment ([`gather`]) when something was waiting
//! already before those of the last group were answered. Who writes alone never waits.
//!
//! Steps of a group: conditions and writes of each transaction in turn; removal of what has expired; the floor of
//! history, if it is time; a step of compaction; the reserved ceiling; the log, or a checkpoint; events to the hub;
//! answers. Nothing is visible in the database before it is durable in the log. An error of the engine ends the store: what was asked is answered `Unavailable`, nothing more is taken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use redb::{Database, Durability, ReadableTable, WriteTransaction};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::codec::{Packed, Slot, View, encode};
use super::errors::corrupt;
use super::log::{self, Log};
use super::recover::{RESERVE, State};
use super::tables::{Latest, Tables, meta, missing, read_record};
use super::{Options, Shared, io_error};
use crate::hub::Commit;
use crate::{Condition, Error, Event, EventKind, MAX_TXN_OPS, Op, Outcome, Record, Revision, Txn};

/// A group takes at most so many transactions, and bytes.
const GROUP_TXNS: usize = 2048;
const GROUP_BYTES: usize = 8 << 20;
/// While changes come from several sides at once, the writer waits for more of them before it makes a group of what it has:
/// so long at a time, so many times, while each time brings something and the group is smaller than this.
const GATHER: (Duration, usize, usize) = (Duration::from_micros(200), 6, 32);
/// At most so many expired records go in one group.
const EXPIRE_PER_GROUP: usize = 8 * MAX_TXN_OPS;
/// A step of compaction looks at so many records, or at twice what the group wrote.
const COMPACT_STEP: usize = 256;
/// A checkpoint is made after so many rows, so that one does not become dear.
const ROWS_PER_CHECKPOINT: usize = 16_384;
/// The clock may be set: the writer looks at it at least so often while something waits to expire.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What the writer is asked to do.
pub(super) enum Job {
    Commit { txn: Prepared, reply: Reply<Outcome>, room: OwnedSemaphorePermit },
    Compact { revision: u64, reply: Reply<()> },
}

/// A transaction with its values packed.
pub(super) struct Prepared {
    conditions: Vec<Condition>,
    ops: Vec<PreparedOp>,
}

struct PreparedOp {
    key: String,
    /// `None`: a removal.
    put: Option<Put>,
}

struct Put {
    packed: Packed,
    ttl_seconds: Option<u64>,
}

impl Prepared {
    pub fn new(txn: Txn) -> Self {
        let prepare = |op| match op {
            Op::Put { key, value, ttl_seconds } => {
                PreparedOp { key, put: Some(Put { packed: Packed::new(value), ttl_seconds }) }
            }
            Op::Delete { key } => PreparedOp { key, put: None },
        };
        Self { conditions: txn.conditions, ops: txn.ops.into_iter().map(prepare).collect() }
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        let op = |op: &PreparedOp| {
            op.key.len() + op.put.as_ref().map_or(0, |put| put.packed.stored_len() + put.packed.value.len())
        };
        self.ops.iter().map(op).sum()
    }
}

/// What a group has done so far.
#[derive(Default)]
struct Group {
    commits: Vec<Commit>,
    /// Records written.
    writes: usize,
    floor_moved: bool,
    /// The group must be durable in the database itself.
    needs_checkpoint: bool,
    answers: Vec<(Reply<Outcome>, Outcome)>,
    compacted: Vec<(Reply<()>, Result<(), Error>)>,
}

/// See the module's documentation.
pub(super) struct Writer {
    shared: Arc<Shared>,
    db: Option<Arc<Database>>,
    options: Options,
    last: u64,
    ceiling: u64,
    floor: u64,
    cursor: Slot,
    /// When the store stood at which revision, oldest first.
    marks: VecDeque<(Instant, u64)>,
    next_deadline: Option<u64>,
    log: Log,
    /// What this group adds to the log.
    log_group: log::Group,
    rows_since_checkpoint: usize,
    scratch: Vec<u8>,
    /// What came while the last group was made durable.
    waiting: Vec<Job>,
    /// How many were answered with it: they may be back soon.
    answered: usize,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, state: State, log: Log, options: Options) -> Result<Self, Error> {
        let db = shared.db()?;
        let txn = db.begin_write().map_err(corrupt)?;
        let next_deadline = Tables::open(&txn)?.next_deadline()?;
        txn.abort().map_err(corrupt)?;
        Ok(Self {
            shared,
            db: Some(db),
            options,
            last: state.last,
            ceiling: state.ceiling,
            floor: state.floor,
            cursor: state.cursor,
            marks: VecDeque::from([(Instant::now(), state.last)]),
            next_deadline,
            log,
            log_group: log::Group::new(),
            rows_since_checkpoint: 0,
            scratch: Vec::new(),
            waiting: Vec::new(),
            answered: 0,
        })
    }

    /// Runs until every sender of the queue is gone or the engine fails.
    pub fn run(mut self, queue: &Receiver<Job>) {
        let failure = loop {
            match self.next_jobs(queue) {
                None => break self.finish().err(),
                Some(jobs) => {
                    if let Err(error) = self.group(jobs, queue) {
                        break Some(error);
                    }
                }
            }
        };
        let failure = failure.map(|error| {
            tracing::error!(%error, "the store has failed and takes no more writes");
            error.to_string()
        });
        self.shared.failure.write().clone_from(&failure);
        self.shared.db.write().take();
        self.shared.hub.close(failure);
        self.db.take();
    }

    /// Waits for a transaction or the next expiry; `None` when the store is closed.
    fn next_jobs(&mut self, queue: &Receiver<Job>) -> Option<Vec<Job>> {
        let mut jobs = std::mem::take(&mut self.waiting);
        if !jobs.is_empty() {
            gather(queue, &mut jobs, self.answered, std::thread::sleep);
            return Some(jobs);
        }
        let first = match self.next_deadline {
            None => Some(queue.recv().ok()?),
            Some(deadline) => {
                let wait = Duration::from_millis(deadline.saturating_sub(now_ms()));
                match queue.recv_timeout(wait.min(LONGEST_WAIT)) {
                    Ok(job) => Some(job),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return None,
                }
            }
        };
        if let Some(first) = first {
            jobs.push(first);
            take(queue, &mut jobs);
        }
        Some(jobs)
    }

    /// Does all of a group, durably.
    fn group(&mut self, jobs: Vec<Job>, queue: &Receiver<Job>) -> Result<(), Error> {
        let is_expiry_due = self.next_deadline.is_some_and(|deadline| deadline <= now_ms());
        if jobs.is_empty() && !is_expiry_due {
            return Ok(());
        }
        let db = self.db.clone().ok_or(Error::Closed)?;
        let mut group = Group::default();
        let txn = db.begin_write().map_err(corrupt)?;
        self.log_group.clear();
        {
            let mut tables = Tables::open(&txn)?;
            let mut rooms = Vec::with_capacity(jobs.len());
            for job in jobs {
                match job {
                    Job::Commit { txn, reply, room } => {
                        rooms.push(room);
                        let outcome = self.transaction(&mut tables, &txn, &mut group)?;
                        group.answers.push((reply, outcome));
                    }
                    Job::Compact { revision, reply } => {
                        let result = if revision > self.last {
                            Err(Error::Future(Revision(revision)))
                        } else {
                            self.raise_floor(revision, &mut group);
                            group.needs_checkpoint |= group.floor_moved;
                            Ok(())
                        };
                        group.compacted.push((reply, result));
                    }
                }
            }
            if is_expiry_due {
                self.expire(&mut tables, &mut group)?;
            }
            if group.writes > 0 {
                self.forget_old_history(&mut group);
            }
            if group.writes > 0 || group.floor_moved {
                self.compact_step(&mut tables, COMPACT_STEP.max(2 * group.writes))?;
                if group.floor_moved {
                    tables.set_number(meta::FLOOR, self.floor)?;
                }
                if self.last + RESERVE / 2 > self.ceiling {
                    self.ceiling = self.last + RESERVE;
                    tables.set_number(meta::CEILING, self.ceiling)?;
                    group.needs_checkpoint = true;
                }
                tables.set_number(meta::LAST, self.last)?;
                self.next_deadline = tables.next_deadline()?;
            }
        }
        if group.writes > 0 || group.floor_moved {
            self.make_durable(txn, &group)?;
        } else {
            txn.abort().map_err(corrupt)?;
        }
        // Before anyone is answered: what is there now comes from others.
        take(queue, &mut self.waiting);
        self.answered = group.answers.len();
        if !group.commits.is_empty() {
            self.shared.hub.publish(group.commits, self.last);
        }
        for (reply, outcome) in group.answers {
            // Whoever does not wait any longer does not need the answer.
            let _ = reply.send(Ok(outcome));
        }
        for (reply, result) in group.compacted {
            let _ = reply.send(result);
        }
        Ok(())
    }

    /// Commits to the log and to the database's memory, or, if it is time, to the database's file.
    fn make_durable(&mut self, mut txn: WriteTransaction, group: &Group) -> Result<(), Error> {
        self.rows_since_checkpoint += group.writes;
        let is_checkpoint = group.needs_checkpoint
            || self.rows_since_checkpoint >= ROWS_PER_CHECKPOINT
            || !self.log.has_room_for(&self.log_group);
        if is_checkpoint {
            txn.set_quick_repair(true);
            txn.commit().map_err(corrupt)?;
            self.log.restart();
            self.rows_since_checkpoint = 0;
        } else {
            self.log.append(&mut self.log_group).map_err(|error| io_error("writing the log", &error))?;
            txn.set_durability(Durability::None).map_err(corrupt)?;
            txn.commit().map_err(corrupt)?;
        }
        Ok(())
    }

    /// One transaction: conditions, then writes at the next revision.
    fn transaction(&mut self, tables: &mut Tables<'_>, txn: &Prepared, group: &mut Group) -> Result<Outcome, Error> {
        let mut known = Vec::with_capacity(txn.conditions.len());
        for condition in &txn.conditions {
            let latest = tables.latest(&condition.key)?;
            let mod_revision = latest.filter(Latest::is_live).map_or(0, |latest: Latest| latest.slot.revision());
            if mod_revision != condition.mod_revision.0 {
                return self.failed(tables, &txn.conditions);
            }
            known.push(latest);
        }
        let revision = self.last + 1;
        let mut events = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            let slot = Slot::new(revision, events.len());
            let before = match txn.conditions.iter().position(|condition| condition.key == op.key) {
                Some(condition) => known[condition],
                None => tables.latest(&op.key)?,
            };
            let event = match &op.put {
                Some(put) => Some(self.put(tables, slot, &op.key, put, before)?),
                None => self.delete(tables, slot, &op.key, before)?,
            };
            events.extend(event.map(Arc::new));
        }
        if !events.is_empty() {
            self.last = revision;
            group.writes += events.len();
            group.commits.push(Commit { revision, events });
        }
        Ok(Outcome::Committed(Revision(self.last)))
    }

    fn failed(&self, tables: &Tables<'_>, conditions: &[Condition]) -> Result<Outcome, Error> {
        let mut records = Vec::with_capacity(conditions.len());
        for condition in conditions {
            records.push(match tables.latest(&condition.key)?.filter(Latest::is_live) {
                Some(latest) => Some(read_record(&tables.records, latest.slot)?),
                None => None,
            });
        }
        Ok(Outcome::Failed(records))
    }

    fn put(
        &mut self,
        tables: &mut Tables<'_>,
        slot: Slot,
        key: &str,
        put: &Put,
        before: Option<Latest>,
    ) -> Result<Event, Error> {
        let live = before.filter(Latest::is_live);
        let prev = previous_value(tables, live)?;
        let create_revision = live.map_or(slot.revision(), |live| live.create_revision);
        let deadline = put.ttl_seconds.map_or(0, |ttl| deadline(now_ms(), ttl));
        let previous = before.map(|before| before.slot);
        encode(&mut self.scratch, previous, create_revision, deadline, key, Some(&put.packed));
        self.write(tables, slot, before)?;
        let record = record(key, put.packed.value.clone(), create_revision, slot);
        Ok(Event { record, kind: EventKind::Put, prev })
    }

    /// `None`: there is nothing to remove.
    fn delete(
        &mut self,
        tables: &mut Tables<'_>,
        slot: Slot,
        key: &str,
        before: Option<Latest>,
    ) -> Result<Option<Event>, Error> {
        let Some(live) = before.filter(Latest::is_live) else { return Ok(None) };
        let prev = previous_value(tables, Some(live))?;
        encode(&mut self.scratch, Some(live.slot), live.create_revision, 0, key, None);
        self.write(tables, slot, before)?;
        let record = record(key, prev.clone().unwrap_or_default(), live.create_revision, slot);
        Ok(Some(Event { record, kind: EventKind::Delete, prev }))
    }

    /// Writes the record that was just encoded.
    fn write(&mut self, tables: &mut Tables<'_>, slot: Slot, before: Option<Latest>) -> Result<(), Error> {
        tables.place(slot, &self.scratch, before)?;
        self.log_group.push(slot, &self.scratch);
        Ok(())
    }

    /// Removes what is due, by ordinary commits.
    fn expire(&mut self, tables: &mut Tables<'_>, group: &mut Group) -> Result<(), Error> {
        let mut due = Vec::new();
        for entry in tables.expiry.range(..(now_ms() + 1, 0)).map_err(corrupt)?.take(EXPIRE_PER_GROUP) {
            due.push(entry.map_err(corrupt)?.0.value());
        }
        for chunk in due.chunks(MAX_TXN_OPS) {
            let mut ops = Vec::with_capacity(chunk.len());
            for &(deadline, slot) in chunk {
                let key = match tables.records.get(slot).map_err(corrupt)? {
                    Some(stored) => Some(View::parse(stored.value())?.key.to_string()),
                    None => None,
                };
                let is_current = match &key {
                    Some(key) => tables.latest(key)?.is_some_and(|latest| latest.slot.0 == slot),
                    None => false,
                };
                match key {
                    Some(key) if is_current => ops.push(PreparedOp { key, put: None }),
                    _ => {
                        tables.expiry.remove((deadline, slot)).map_err(corrupt)?;
                    }
                }
            }
            self.transaction(tables, &Prepared { conditions: Vec::new(), ops }, group)?;
        }
        Ok(())
    }

    /// Raises the floor to where the store stood `history` ago, or so that not too many revisions are kept.
    fn forget_old_history(&mut self, group: &mut Group) {
        let now = Instant::now();
        let Options { history, history_revisions, .. } = self.options;
        let is_mark_due = self.marks.back().is_none_or(|&(at, revision)| {
            now - at >= history / 32 || self.last - revision >= (history_revisions / 32).max(1)
        });
        if is_mark_due {
            self.marks.push_back((now, self.last));
        }
        while let Some(&(at, revision)) = self.marks.front() {
            if now - at < history && self.last - revision <= history_revisions {
                break;
            }
            self.marks.pop_front();
            self.raise_floor(revision, group);
        }
    }

    fn raise_floor(&mut self, revision: u64, group: &mut Group) {
        if revision > self.floor {
            self.floor = revision;
            group.floor_moved = true;
            self.shared.floor.store(revision, Ordering::SeqCst);
        }
    }

    /// Looks at some of the records that fell below the floor: each removes the version it replaced, a removal also
    /// itself.
    fn compact_step(&mut self, tables: &mut Tables<'_>, budget: usize) -> Result<(), Error> {
        let end = Slot::first_of(self.floor + 1);
        if self.cursor.0 + 1 >= end.0 {
            return Ok(());
        }
        let mut seen: Vec<(Slot, Option<Slot>, Option<String>)> = Vec::new();
        for entry in tables.records.range(self.cursor.0 + 1..end.0).map_err(corrupt)?.take(budget) {
            let (slot, stored) = entry.map_err(corrupt)?;
            let view = View::parse(stored.value())?;
            let removed_key = view.is_tombstone().then(|| view.key.to_string());
            seen.push((Slot(slot.value()), view.previous, removed_key));
        }
        self.cursor = match seen.last() {
            Some((slot, ..)) if seen.len() == budget => *slot,
            _ => Slot(end.0 - 1),
        };
        for (slot, previous, removed_key) in seen {
            if let Some(previous) = previous {
                tables.records.remove(previous.0).map_err(corrupt)?;
            }
            if let Some(key) = removed_key {
                tables.records.remove(slot.0).map_err(corrupt)?;
                if tables.latest(&key)?.is_some_and(|latest| latest.slot == slot) {
                    tables.latest.remove(key.as_str()).map_err(corrupt)?;
                }
            }
        }
        tables.set_number(meta::CURSOR, self.cursor.0)
    }

    /// The last commit: the store was closed in order, nothing is lost.
    fn finish(&mut self) -> Result<(), Error> {
        let db = self.db.clone().ok_or(Error::Closed)?;
        let mut txn = db.begin_write().map_err(corrupt)?;
        txn.set_quick_repair(true);
        {
            let mut tables = Tables::open(&txn)?;
            tables.set_number(meta::CEILING, self.last)?;
            tables.set_number(meta::CLEAN, 1)?;
        }
        txn.commit().map_err(corrupt)
    }
}

/// Takes what is queued, within the limits of a group.
fn take(queue: &Receiver<Job>, jobs: &mut Vec<Job>) {
    let mut bytes: usize = jobs.iter().map(Job::bytes).sum();
    while jobs.len() < GROUP_TXNS && bytes < GROUP_BYTES {
        let Ok(job) = queue.try_recv() else { break };
        bytes += job.bytes();
        jobs.push(job);
    }
}

/// Waits for more while more comes, and no longer than until all who were `answered` last could be back: who else would?
fn gather(queue: &Receiver<Job>, jobs: &mut Vec<Job>, answered: usize, sleep: impl Fn(Duration)) {
    let (pause, times, enough) = GATHER;
    let enough = enough.min(jobs.len() + answered);
    for _ in 0..times {
        let before = jobs.len();
        if before >= enough {
            return;
        }
        sleep(pause);
        take(queue, jobs);
        if jobs.len() == before {
            return;
        }
    }
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Job::Commit { txn, .. } => txn.bytes(),
            Job::Compact { .. } => 0,
        }
    }
}

fn record(key: &str, value: Bytes, create_revision: u64, slot: Slot) -> Record {
    Record {
        key: key.to_string(),
        value,
        create_revision: Revision(create_revision),
        mod_revision: Revision(slot.revision()),
    }
}

fn previous_value(tables: &Tables<'_>, live: Option<Latest>) -> Result<Option<Bytes>, Error> {
    let Some(Latest { slot, .. }) = live else { return Ok(None) };
    let stored = tables.records.get(slot.0).map_err(corrupt)?.ok_or_else(|| missing(slot))?;
    View::parse(stored.value())?.value().map(Some)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// When a record written at `now_ms` expires. Long lives are rounded up, by a twentieth and at most a minute, so that
/// many records go in one commit.
fn deadline(now_ms: u64, ttl_seconds: u64) -> u64 {
    let ttl_ms = ttl_seconds.max(1).saturating_mul(1000);
    let grain = (ttl_ms / 20).min(60_000);
    now_ms.saturating_add(ttl_ms).checked_next_multiple_of(grain).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::mpsc::channel;

    use super::{GATHER, Job, deadline, gather, oneshot};

    /// The size of a group that begins with `first` transactions after one of `answered`, while each pause brings as many
    /// as `then` says; and how often there was a pause.
    #[track_caller]
    fn check_gathered(first: usize, answered: usize, then: &[usize], expected: (usize, usize)) {
        let (sender, queue) = channel();
        let job = || Job::Compact { revision: 1, reply: oneshot::channel().0 };
        let mut jobs: Vec<Job> = (0..first).map(|_| job()).collect();
        let pauses = Cell::new(0);
        gather(&queue, &mut jobs, answered, |_| {
            (0..then.get(pauses.get()).copied().unwrap_or(0)).for_each(|_| sender.send(job()).expect("it is open"));
            pauses.set(pauses.get() + 1);
        });
        assert_eq!((jobs.len(), pauses.get()), expected);
    }

    #[test]
    fn a_group_grows_while_something_comes_and_not_for_ever() {
        check_gathered(1, 9, &[], (1, 1));
        check_gathered(1, 9, &[3], (4, 2));
        check_gathered(1, 9, &[3, 0, 9], (4, 2));
        check_gathered(1, 99, &[1; 20], (1 + GATHER.1, GATHER.1));
        check_gathered(GATHER.2, 9, &[9], (GATHER.2, 0));
        check_gathered(2, 99, &[GATHER.2, 9], (2 + GATHER.2, 1));
        // Everyone is here: there is nobody to wait for.
        check_gathered(8, 8, &[8, 1], (16, 1));
        check_gathered(1, 0, &[9], (1, 0));
    }

    #[track_caller]
    fn check(now_ms: u64, ttl_seconds: u64, expected: u64) {
        assert_eq!(deadline(now_ms, ttl_seconds), expected);
    }

    #[test]
    fn deadlines_are_rounded_up_by_a_twentieth_and_at_most_a_minute() {
        check(10, 1, 1050);
        check(0, 3600, 3_600_000);
        check(1, 3600, 3_660_000);
        check(1, 0, 1050);
        check(1, u64::MAX, u64::MAX);
    }
}
