//! The cache of one resource: an ordered map with O(1) snapshots, a bounded history of changes, and watchers.
//!
//! One writer (the dispatcher of [`super::Caches`]) applies changes in the order of revisions; readers take
//! snapshots. A watcher has a small buffer; when it overflows, the watcher goes on from the history, and only
//! when the history has moved past it, it is ended: the dispatcher never waits.
//! Upstream: `storage/cacher/{watch_cache,cacher,cache_watcher}.go`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use imbl::OrdMap;
use orkd_api::kind::Kind;
use parking_lot::RwLock;
use tokio::sync::mpsc;

use super::Progress;
use super::entry::Entry;

/// Events a watcher may be behind before it is served from the history.
const BUFFER: usize = 256;
/// The history keeps at least this many events,
const HISTORY_MIN: usize = 512;
/// at most this many,
const HISTORY_MAX: usize = 100_000;
/// at most this many bytes of objects that only the history keeps alive,
const HISTORY_BYTES: usize = 24 << 20;
/// and between these limits those of the last so many seconds.
const HISTORY_AGE: Duration = Duration::from_secs(75);

/// The objects of a resource by key.
pub type Map = OrdMap<Arc<str>, Arc<Entry>>;

/// A change of one object.
pub struct Change {
    key: Arc<str>,
    /// Revision of the commit.
    pub revision: u64,
    /// The object before; `None` for a new one.
    pub old: Option<Arc<Entry>>,
    /// The object after; `None` for a removed one.
    pub new: Option<Arc<Entry>>,
    /// Counts the changes of this resource; a commit may hold several.
    seq: u64,
    at: Instant,
    added: OnceLock<Bytes>,
    modified: OnceLock<Bytes>,
    deleted: OnceLock<Bytes>,
    gone: OnceLock<Option<Arc<Entry>>>,
}

impl Change {
    /// `None` where there is no object on either side, which is no change.
    fn new(revision: u64, seq: u64, old: Option<Arc<Entry>>, new: Option<Arc<Entry>>) -> Option<Self> {
        let key = new.as_ref().or(old.as_ref())?.key.clone();
        Some(Change {
            key,
            revision,
            seq,
            old,
            new,
            at: Instant::now(),
            added: OnceLock::new(),
            modified: OnceLock::new(),
            deleted: OnceLock::new(),
            gone: OnceLock::new(),
        })
    }

    /// The object's key.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// The watch frame of the object as added, shared by all watchers.
    pub fn added_frame(&self) -> Bytes {
        self.frame_of("ADDED", &self.added)
    }

    /// The watch frame of the object as changed.
    pub fn modified_frame(&self) -> Bytes {
        self.frame_of("MODIFIED", &self.modified)
    }

    fn frame_of(&self, event: &str, kept: &OnceLock<Bytes>) -> Bytes {
        let Some(entry) = &self.new else { return Bytes::new() };
        entry.frame(event).unwrap_or_else(|| kept.get_or_init(|| frame(event, entry.json())).clone())
    }

    /// The watch frame of the object as gone: its last state with the revision of this change.
    pub fn deleted_frame(&self) -> Bytes {
        self.deleted
            .get_or_init(|| self.old.as_ref().map_or_else(Bytes::new, |e| frame("DELETED", &e.json_at(self.revision))))
            .clone()
    }

    /// The object as gone, for encodings other than JSON.
    pub fn gone(&self, kind: &dyn Kind) -> Option<Arc<Entry>> {
        self.gone
            .get_or_init(|| {
                let old = self.old.as_ref()?;
                Entry::new(kind, false, old.key.clone(), old.json(), self.revision).map(Arc::new)
            })
            .clone()
    }

    fn weight(&self) -> usize {
        self.old.as_ref().map_or(0, |e| e.json().len()) + 256
    }
}

/// A watch frame: one event as a line of JSON.
pub fn frame(kind: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + 40);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
    out.freeze()
}

/// Which objects a watcher may want at all; what remains to be filtered is its own work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bucket {
    /// All.
    All,
    /// Those of a namespace.
    Namespace(Box<str>),
    /// One, by key.
    Key(Box<str>),
    /// Those that have or had a value in a selectable field.
    Field(Box<str>, Box<str>),
}

/// The history no longer reaches back to the revision asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The oldest revision a watch may start from.
    pub oldest: u64,
}

/// Brings a record into the form in which the cache holds it; `None` for one that cannot be read.
pub type Intake = Arc<dyn Fn(&Bytes) -> Option<Bytes> + Send + Sync>;

/// A change that waits until the cache has been loaded: key, object and revision.
type Waiting = (String, Option<Entry>, u64);

/// A watcher's number and the way to it.
type Receiver = (u64, mpsc::Sender<Arc<Change>>);

struct Inner {
    map: Map,
    /// What is told of revisions up to this one was in what has been loaded.
    floor: u64,
    /// What came while the cache is being loaded.
    waiting: Option<Vec<Waiting>>,
    /// Nobody follows the store for this cache any more.
    closed: bool,
    /// Revision of the last change applied.
    last: u64,
    /// The history holds every change after this revision,
    oldest: u64,
    /// which is every change from this number on.
    oldest_seq: u64,
    next_seq: u64,
    history: VecDeque<Arc<Change>>,
    history_bytes: usize,
    buckets: HashMap<Bucket, Vec<Receiver>>,
    field_buckets: usize,
    next_watcher: u64,
}

/// The cache of one resource.
pub struct WatchCache {
    /// Storage path below `/registry/`, such as `pods`.
    pub prefix: String,
    /// The kind in which records are stored.
    pub kind: Arc<dyn Kind>,
    /// Whether the kind has selectable fields.
    selectable: bool,
    intake: Option<Intake>,
    progress: Arc<Progress>,
    inner: RwLock<Inner>,
}

/// A consistent view of a resource.
pub struct Snapshot {
    /// The objects.
    pub map: Map,
    /// Every commit up to this revision is in it, none after.
    pub revision: u64,
}

impl WatchCache {
    /// An empty cache.
    pub(super) fn new(prefix: String, kind: Arc<dyn Kind>, progress: Arc<Progress>, intake: Option<Intake>) -> Self {
        let selectable = !kind.selectable_fields(&serde_json::Value::Null).is_empty();
        WatchCache {
            prefix,
            kind,
            selectable,
            intake,
            progress,
            inner: RwLock::new(Inner {
                map: Map::new(),
                floor: 0,
                waiting: None,
                closed: false,
                last: 0,
                oldest: 0,
                oldest_seq: 0,
                next_seq: 0,
                history: VecDeque::new(),
                history_bytes: 0,
                buckets: HashMap::new(),
                field_buckets: 0,
                next_watcher: 0,
            }),
        }
    }

    /// A cache that keeps what it is told until [`WatchCache::loaded`].
    pub(super) fn loading(prefix: String, kind: Arc<dyn Kind>, progress: Arc<Progress>, intake: Intake) -> Self {
        let mut cache = WatchCache::new(prefix, kind, progress, Some(intake));
        cache.inner.get_mut().waiting = Some(Vec::new());
        cache
    }

    /// Puts in place what stood at a revision, and after it what came since. Nothing is done where the cache has been
    /// loaded otherwise meanwhile ([`WatchCache::reset`]).
    pub(super) fn loaded(&self, map: Map, revision: u64) {
        let mut inner = self.inner.write();
        let Some(waiting) = inner.waiting.take() else { return };
        inner.reset(map, revision);
        for (key, entry, revision) in waiting {
            inner.apply(&key, entry, revision);
        }
    }

    /// Ends all watchers, those to come as well.
    pub(super) fn close(&self) {
        let mut inner = self.inner.write();
        inner.closed = true;
        inner.end_watchers();
        inner.history.clear();
        inner.history_bytes = 0;
    }

    /// The record in the form in which the cache holds it.
    pub(crate) fn taken_in(&self, stored: &Bytes) -> Option<Bytes> {
        match &self.intake {
            Some(intake) => intake(stored),
            None => Some(stored.clone()),
        }
    }

    /// Decodes a record into an entry.
    pub fn entry(&self, key: &str, stored: &Bytes, revision: u64) -> Option<Entry> {
        Entry::new(&*self.kind, self.selectable, key.into(), &self.taken_in(stored)?, revision)
    }

    /// The same for a record that an event brings.
    pub(super) fn changed(&self, key: &str, stored: &Bytes, revision: u64) -> Option<Entry> {
        let event = if self.inner.read().map.contains_key(key) { "MODIFIED" } else { "ADDED" };
        Entry::brought_by(&*self.kind, self.selectable, key.into(), &self.taken_in(stored)?, revision, event)
    }

    /// Forgets what is old, also where nothing new comes.
    pub(super) fn trim(&self) {
        let now = Instant::now();
        let is_old = |inner: &Inner| {
            inner.history.len() > HISTORY_MIN
                && inner.history.front().is_some_and(|c| now.duration_since(c.at) > HISTORY_AGE)
        };
        if is_old(&self.inner.read()) {
            self.inner.write().trim(now);
        }
    }

    /// Replaces everything: at start, and when the store's history was lost. Watchers are ended; they come back
    /// and list.
    pub(super) fn reset(&self, map: Map, revision: u64) {
        let mut inner = self.inner.write();
        inner.waiting = None;
        inner.reset(map, revision);
    }

    /// Ends all watchers, at shutdown.
    pub(super) fn end_watchers(&self) {
        self.inner.write().end_watchers();
    }

    /// Applies one change. `entry` is `None` for a removal.
    pub(super) fn apply(&self, key: &str, entry: Option<Entry>, revision: u64) {
        let mut inner = self.inner.write();
        match &mut inner.waiting {
            Some(waiting) => waiting.push((key.to_owned(), entry, revision)),
            None => inner.apply(key, entry, revision),
        }
    }

    /// One object as it stands now.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.inner.read().map.get(key).cloned()
    }

    /// Everything as it stands now, in O(1).
    pub fn snapshot(&self) -> Snapshot {
        // Read before the lock is taken: what was dispatched then is in the map then.
        let dispatched = self.progress.revision();
        let inner = self.inner.read();
        Snapshot { map: inner.map.clone(), revision: dispatched.max(inner.last) }
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.inner.read().map.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Starts a watcher of changes after `from`.
    pub fn watch(self: &Arc<Self>, bucket: Bucket, from: u64) -> Result<Watcher, Gone> {
        let mut inner = self.inner.write();
        self.register(&mut inner, bucket, from)
    }

    /// Takes a snapshot and starts a watcher of what follows it.
    pub fn snapshot_and_watch(self: &Arc<Self>, bucket: Bucket) -> (Snapshot, Watcher) {
        let dispatched = self.progress.revision();
        let mut inner = self.inner.write();
        let revision = dispatched.max(inner.last);
        let snapshot = Snapshot { map: inner.map.clone(), revision };
        let watcher = self.attach(&mut inner, bucket, VecDeque::new(), revision);
        (snapshot, watcher)
    }

    fn register(self: &Arc<Self>, inner: &mut Inner, bucket: Bucket, from: u64) -> Result<Watcher, Gone> {
        if from < inner.oldest {
            return Err(Gone { oldest: inner.oldest });
        }
        let first = inner.history.partition_point(|c| c.revision <= from);
        let backlog: VecDeque<_> = inner.history.range(first..).filter(|c| bucket.wants(c)).cloned().collect();
        Ok(self.attach(inner, bucket, backlog, from))
    }

    fn attach(
        self: &Arc<Self>,
        inner: &mut Inner,
        bucket: Bucket,
        backlog: VecDeque<Arc<Change>>,
        from: u64,
    ) -> Watcher {
        let (tx, rx) = mpsc::channel(BUFFER);
        let id = inner.next_watcher;
        inner.next_watcher += 1;
        if inner.closed {
            // Its channel is closed and what it would go on from is gone.
            return Watcher { cache: self.clone(), bucket, id, rx, backlog, from, next_seq: 0 };
        }
        if matches!(bucket, Bucket::Field(..)) {
            inner.field_buckets += 1;
        }
        inner.buckets.entry(bucket.clone()).or_default().push((id, tx));
        Watcher { cache: self.clone(), bucket, id, rx, backlog, from, next_seq: inner.next_seq }
    }

    fn detach(&self, bucket: &Bucket, id: u64) {
        self.inner.write().remove(bucket, id);
    }

    /// The history after a revision, oldest first; `None` where it does not reach back so far.
    pub fn snapshot_at(&self, revision: u64) -> Option<Map> {
        let (mut map, newer) = {
            let inner = self.inner.read();
            if revision < inner.oldest {
                return None;
            }
            let first = inner.history.partition_point(|c| c.revision <= revision);
            let newer: Vec<_> = inner.history.range(first..).cloned().collect();
            (inner.map.clone(), newer)
        };
        for change in newer.iter().rev() {
            match &change.old {
                Some(old) => map.insert(old.key.clone(), old.clone()),
                None => map.remove(change.key()),
            };
        }
        Some(map)
    }
}

impl Bucket {
    fn wants(&self, change: &Change) -> bool {
        let key = change.key();
        match self {
            Bucket::All => true,
            Bucket::Key(k) => **key == **k,
            Bucket::Namespace(ns) => key.split_once('/').is_some_and(|(n, _)| n == &**ns),
            Bucket::Field(label, value) => {
                let has = |e: &Option<Arc<Entry>>| e.as_ref().is_some_and(|e| e.field(label) == Some(value));
                has(&change.new) || has(&change.old)
            }
        }
    }
}

impl Inner {
    fn reset(&mut self, map: Map, revision: u64) {
        self.map = map;
        self.floor = revision;
        self.last = revision;
        self.oldest = revision;
        self.history.clear();
        self.history_bytes = 0;
        self.end_watchers();
    }

    fn end_watchers(&mut self) {
        self.next_seq += 1;
        self.oldest_seq = self.next_seq;
        self.buckets.clear();
        self.field_buckets = 0;
    }

    fn apply(&mut self, key: &str, entry: Option<Entry>, revision: u64) {
        if revision <= self.floor {
            return;
        }
        let new = entry.map(Arc::new);
        let old = match &new {
            Some(e) => self.map.insert(e.key.clone(), e.clone()),
            None => self.map.remove(key),
        };
        self.last = revision;
        let Some(change) = Change::new(revision, self.next_seq, old, new).map(Arc::new) else { return };
        self.next_seq += 1;
        self.remember(change.clone());
        self.deliver(&change);
    }

    fn remember(&mut self, change: Arc<Change>) {
        self.history_bytes += change.weight();
        let now = change.at;
        self.history.push_back(change);
        self.trim(now);
    }

    fn trim(&mut self, now: Instant) {
        while let Some(first) = self.history.front() {
            let over = self.history.len() > HISTORY_MAX || self.history_bytes > HISTORY_BYTES;
            let old = self.history.len() > HISTORY_MIN && now.duration_since(first.at) > HISTORY_AGE;
            // A commit is kept or dropped as a whole: `oldest` is a revision.
            if !(over || old) || self.history.len() == 1 {
                break;
            }
            let revision = first.revision;
            while self.history.front().is_some_and(|c| c.revision == revision) {
                if let Some(gone) = self.history.pop_front() {
                    self.history_bytes -= gone.weight();
                    self.oldest_seq = gone.seq + 1;
                }
            }
            self.oldest = revision;
        }
    }

    fn deliver(&mut self, change: &Arc<Change>) {
        if self.buckets.is_empty() {
            return;
        }
        let key = change.key();
        self.send(&Bucket::All, change);
        if let Some((ns, _)) = key.split_once('/') {
            self.send(&Bucket::Namespace(ns.into()), change);
        }
        self.send(&Bucket::Key((**key).into()), change);
        if self.field_buckets > 0 {
            let mut wanted: Vec<Bucket> = Vec::new();
            for entry in [&change.new, &change.old].into_iter().flatten() {
                for (label, value) in entry.fields() {
                    let bucket = Bucket::Field(label.as_ref().into(), value.clone());
                    if self.buckets.contains_key(&bucket) && !wanted.contains(&bucket) {
                        wanted.push(bucket);
                    }
                }
            }
            for bucket in wanted {
                self.send(&bucket, change);
            }
        }
    }

    fn send(&mut self, bucket: &Bucket, change: &Arc<Change>) {
        let Some(watchers) = self.buckets.get_mut(bucket) else { return };
        let before = watchers.len();
        // A full buffer closes the channel; the watcher drains it and goes on from the history.
        watchers.retain(|(_, tx)| tx.try_send(change.clone()).is_ok());
        let dropped = before - watchers.len();
        if matches!(bucket, Bucket::Field(..)) {
            self.field_buckets -= dropped;
        }
        if watchers.is_empty() {
            self.buckets.remove(bucket);
        }
    }

    fn remove(&mut self, bucket: &Bucket, id: u64) {
        let Some(watchers) = self.buckets.get_mut(bucket) else { return };
        let before = watchers.len();
        watchers.retain(|(i, _)| *i != id);
        if matches!(bucket, Bucket::Field(..)) {
            self.field_buckets -= before - watchers.len();
        }
        if watchers.is_empty() {
            self.buckets.remove(bucket);
        }
    }
}

/// Receives the changes of a resource in order, from a revision on. Dropping it ends the watch.
pub struct Watcher {
    cache: Arc<WatchCache>,
    bucket: Bucket,
    id: u64,
    rx: mpsc::Receiver<Arc<Change>>,
    backlog: VecDeque<Arc<Change>>,
    /// Changes up to this revision are not wanted.
    from: u64,
    /// Number of the first change not yet received.
    next_seq: u64,
}

impl Watcher {
    /// The next change. An error ends the watch: it was too slow, or the store's history was lost.
    pub async fn next(&mut self) -> Result<Arc<Change>, Gone> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same for who is polled.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arc<Change>, Gone>> {
        loop {
            if let Some(change) = self.take_backlog() {
                return Poll::Ready(Ok(change));
            }
            match ready!(self.rx.poll_recv(cx)) {
                Some(change) => {
                    if let Some(change) = self.fresh(change) {
                        return Poll::Ready(Ok(change));
                    }
                }
                None => self.catch_up()?,
            }
        }
    }

    /// The next change if it is there already.
    pub fn ready(&mut self) -> Result<Option<Arc<Change>>, Gone> {
        loop {
            if let Some(change) = self.take_backlog() {
                return Ok(Some(change));
            }
            match self.rx.try_recv() {
                Ok(change) => {
                    if let Some(change) = self.fresh(change) {
                        return Ok(Some(change));
                    }
                }
                Err(mpsc::error::TryRecvError::Empty) => return Ok(None),
                Err(mpsc::error::TryRecvError::Disconnected) => self.catch_up()?,
            }
        }
    }

    /// A revision up to which everything wanted has been received, for a bookmark; `None` while there is more
    /// to receive.
    pub fn bookmark(&mut self) -> Option<u64> {
        let dispatched = self.cache.progress.revision();
        (self.backlog.is_empty() && self.rx.is_empty() && !self.rx.is_closed()).then(|| dispatched.max(self.from))
    }

    fn take_backlog(&mut self) -> Option<Arc<Change>> {
        self.backlog.pop_front()
    }

    fn fresh(&mut self, change: Arc<Change>) -> Option<Arc<Change>> {
        self.next_seq = change.seq + 1;
        (change.revision > self.from).then_some(change)
    }

    fn catch_up(&mut self) -> Result<(), Gone> {
        let cache = self.cache.clone();
        let mut inner = cache.inner.write();
        if self.next_seq < inner.oldest_seq {
            return Err(Gone { oldest: inner.oldest });
        }
        let first = inner.history.partition_point(|c| c.seq < self.next_seq);
        let backlog = inner.history.range(first..);
        let backlog = backlog.filter(|c| c.revision > self.from && self.bucket.wants(c)).cloned().collect();
        let fresh = cache.attach(&mut inner, self.bucket.clone(), backlog, self.from);
        drop(inner);
        let old = std::mem::replace(self, fresh);
        drop(old);
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.cache.detach(&self.bucket, self.id);
    }
}
