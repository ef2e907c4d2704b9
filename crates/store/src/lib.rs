//! A revisioned key-value store with watch: the trait, its backends, and the contract suite each backend runs.
//!
//! Invariant: only `apiserver` opens a store. One committed transaction is one revision; revisions strictly
//! increase and are never repeated, also across a crash that loses records which were not yet durable.
//!
//! Keys are upstream's (`/registry/pods/NS/NAME`), values are opaque bytes without a resourceVersion.
//!
//! Where to start reading: [`Store`], then [`backends::embedded`] (what `orkd server` runs on by default) and
//! [`backends::etcd`]; [`contract`] is what both must do; [`envelope`] encrypts what either holds.

pub mod backends;
pub mod bench;
pub mod contract;
pub mod envelope;
mod hub;

use async_trait::async_trait;
use bytes::Bytes;

/// A store revision. 0 is "before everything"; the first commit gets at least 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A stored record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// Revision of the commit that created the key (since it was last absent).
    pub create_revision: Revision,
    /// Revision of the last commit that wrote the key.
    pub mod_revision: Revision,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The key.
    pub key: String,
    /// Its `mod_revision` must be this; revision 0: the key must be absent.
    pub mod_revision: Revision,
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a value; `ttl_seconds`: the record is removed by the store that long after this commit.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// Life time in seconds.
        ttl_seconds: Option<u64>,
    },
    /// Removes a key; removing what is absent changes nothing.
    Delete {
        /// The key.
        key: String,
    },
}

/// Writes that happen all or not at all, if all conditions hold. A key occurs in at most one op.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must hold.
    pub conditions: Vec<Condition>,
    /// What to write.
    pub ops: Vec<Op>,
}

/// The longest value a store takes: upstream's limit on a request to etcd.
pub const MAX_VALUE_BYTES: usize = 1_572_864;
/// The longest key.
pub const MAX_KEY_BYTES: usize = 4096;
/// The most conditions, and the most writes, of one transaction: etcd's default for `--max-txn-ops`.
pub const MAX_TXN_OPS: usize = 128;
/// The most bytes of keys and values that one transaction writes.
pub const MAX_TXN_BYTES: usize = MAX_VALUE_BYTES + 64 * 1024;

impl Op {
    /// The key that is written or removed.
    pub fn key(&self) -> &str {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }
}

impl Txn {
    /// Checks sizes and that no key is written twice. Every backend does this before anything else, so that they
    /// refuse the same transactions with the same words.
    pub fn check(&self) -> Result<(), Error> {
        if self.conditions.len() > MAX_TXN_OPS || self.ops.len() > MAX_TXN_OPS {
            return Err(Error::TooLarge(format!(
                "too many operations in one transaction: {} conditions and {} writes, limit {MAX_TXN_OPS}",
                self.conditions.len(),
                self.ops.len()
            )));
        }
        let mut bytes = 0;
        let keys = self.conditions.iter().map(|condition| condition.key.as_str());
        for key in keys.chain(self.ops.iter().map(Op::key)) {
            if key.is_empty() {
                return Err(Error::Invalid("a key must not be empty".to_string()));
            }
            if key.len() > MAX_KEY_BYTES {
                return Err(Error::TooLarge(format!("key of {} bytes, limit {MAX_KEY_BYTES}", key.len())));
            }
            bytes += key.len();
        }
        let mut written = std::collections::HashSet::with_capacity(self.ops.len());
        for op in &self.ops {
            if !written.insert(op.key()) {
                return Err(Error::Invalid(format!("key {:?} is written twice in one transaction", op.key())));
            }
            if let Op::Put { key, value, .. } = op {
                if value.len() > MAX_VALUE_BYTES {
                    return Err(Error::TooLarge(format!(
                        "value of {key:?} has {} bytes, limit {MAX_VALUE_BYTES}",
                        value.len()
                    )));
                }
                bytes += value.len();
            }
        }
        if bytes > MAX_TXN_BYTES {
            return Err(Error::TooLarge(format!("transaction of {bytes} bytes, limit {MAX_TXN_BYTES}")));
        }
        Ok(())
    }
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All written, at this revision, durable. A transaction that changes nothing (no writes, or only removals of
    /// absent keys) takes no revision of its own and returns the revision that stands.
    Committed(Revision),
    /// A condition did not hold: the record that stands now under each condition's key, in their order.
    Failed(Vec<Option<Record>>),
}

/// What to read: keys with `prefix`, at or after `start`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRequest {
    /// Keys must begin with this.
    pub prefix: String,
    /// The first key wanted; empty for the first with the prefix.
    pub start: String,
    /// At most so many records; 0 for all.
    pub limit: usize,
    /// Read as of this revision; `None` for now (linearizable).
    pub revision: Option<Revision>,
}

/// What was read, ordered by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeResult {
    /// The records.
    pub records: Vec<Record>,
    /// The revision they were read at.
    pub revision: Revision,
    /// Whether the limit left some out.
    pub more: bool,
    /// How many records with the prefix from `start` on there are in all.
    pub count: usize,
}

/// A change, as a watch tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The record after the change; for a removal its last value and `mod_revision` of the removal.
    pub record: Record,
    /// What happened.
    pub kind: EventKind,
    /// The value before, where the key existed.
    pub prev: Option<Bytes>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Created or changed (created: `create_revision == mod_revision`).
    Put,
    /// Removed, by a client or because it expired.
    Delete,
}

/// One message of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchMessage {
    /// All events of one or more whole commits, ordered by revision; never part of a commit. It also tells that
    /// everything up to the revision of the last event has been delivered.
    Events(Vec<Event>),
    /// Everything up to this revision has been delivered.
    Progress(Revision),
}

/// What may go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The revision asked for is compacted; the oldest readable one is given.
    #[error("required revision {asked:?} has been compacted, oldest is {oldest:?}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest that can still be read.
        oldest: Revision,
    },
    /// The revision asked for does not exist yet.
    #[error("required revision {0:?} is in the future")]
    Future(Revision),
    /// The watcher was too slow and was ended.
    #[error("watcher was too slow")]
    Slow,
    /// A key, a value or a transaction is larger than the backend takes.
    #[error("{0}")]
    TooLarge(String),
    /// The transaction contradicts itself; it can never be committed.
    #[error("{0}")]
    Invalid(String),
    /// Another process holds the store.
    #[error("store is in use: {0}")]
    Locked(String),
    /// The store cannot be reached or timed out; the transaction may or may not have been committed.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
    /// The value cannot be encrypted now; nothing was written.
    #[error("{0}")]
    Sealing(String),
    /// The store is closed.
    #[error("store is closed")]
    Closed,
    /// The data cannot be read.
    #[error("store is corrupt: {0}")]
    Corrupt(String),
}

/// A stream of changes. Dropping it ends the watch.
pub type WatchStream = futures_util::stream::BoxStream<'static, Result<WatchMessage, Error>>;

/// A revisioned key-value store. Every backend passes [`contract`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Commits a transaction. Returns after it is durable and after its events are on their way to watchers.
    async fn commit(&self, txn: Txn) -> Result<Outcome, Error>;

    /// Reads one key, linearizable.
    async fn get(&self, key: &str) -> Result<Option<Record>, Error>;

    /// Reads records.
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, Error>;

    /// Tells every change to keys with `prefix` in commits after `from`, in order, none lost, none twice.
    /// `Error::Compacted` where that part of the history is gone, also later in the stream. After an error the
    /// stream ends. A watcher that is up to date is told so by [`WatchMessage::Progress`] when the store moves on
    /// by commits that do not concern it.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error>;

    /// The revision of the last commit, linearizable: every commit acknowledged before the call is included. A
    /// watcher that has seen it has seen them.
    async fn current_revision(&self) -> Result<Revision, Error>;

    /// Forgets history before `revision`; reads at older revisions and watches from them fail afterwards.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;

    /// Whether a key's value is not stored as it would be written now (encrypted with a key that is being rotated out):
    /// a write that changes nothing is due all the same.
    async fn is_stale(&self, _key: &str) -> Result<bool, Error> {
        Ok(false)
    }

    /// Ends background work and closes files, after what was accepted is committed.
    async fn close(&self);
}
