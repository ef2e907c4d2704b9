//! The embedded store: one directory, one process, one writer thread.
//!
//! # How a commit travels
//!
//! The caller packs the values ([`codec::Packed`]) and queues the transaction (bounded in bytes). The writer thread
//! takes all that is queued as one group ([`writer`]): it checks conditions and applies writes one transaction after
//! the other, each with a revision of its own, makes the group durable with one synchronisation of the [`log`] (every
//! so often by a checkpoint of the database instead), publishes the events to the [`hub`](crate::hub), and answers.
//! Nothing is visible to a read or a watch before it is durable. Why there is a log: decision record 0002.
//!
//! # Invariants
//!
//! * Revisions strictly increase and are never given out twice: the ceiling of what may be given out is durable
//!   before it is reached, and after a crash the store goes on above it. Revisions between the last record found and
//!   the ceiling are a *lost window*: a watch or a read from inside answers [`Error::Compacted`].
//! * No read transaction lives across an await or in a stream.
//! * An idle store does nothing: the writer sleeps until a transaction or the next expiry comes.
//! * Compaction rides in write transactions in small steps, at least as fast as history grows.

pub mod codec;
mod errors;
mod file;
mod log;
mod options;
mod recover;
mod tables;
mod watch;
mod writer;

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use redb::{Database, ReadableDatabase, ReadableTable};
use tokio::sync::{Semaphore, oneshot};

use self::errors::corrupt;
pub use self::options::Options;
use self::tables::{EXPIRY, LATEST, LOST, META, RECORDS, Snapshot, meta};
use self::writer::{Job, Prepared};
use crate::hub::Hub;
pub use crate::hub::Limits as WatchLimits;
use crate::{Error, Outcome, RangeRequest, RangeResult, Record, Revision, Store, Txn, WatchStream};

/// Name of the backend.
pub const NAME: &str = "embedded";

const DATABASE: &str = "store.redb";
const LOG: &str = "store.log";

/// Reads of many records that may run at once; each holds a thread and pages of the cache.
const CONCURRENT_RANGES: usize = 4;

/// The store of one server, in a directory. See the module's documentation.
pub struct Embedded {
    shared: Arc<Shared>,
    jobs: Mutex<Option<std::sync::mpsc::Sender<Job>>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// One permit is a KiB that may wait for the writer.
    room: Arc<Semaphore>,
    ranges: Arc<Semaphore>,
}

/// What the writer, reads and watches have in common.
struct Shared {
    /// `None` when closed.
    db: RwLock<Option<Arc<Database>>>,
    hub: Arc<Hub>,
    /// History before it is forgotten. Raised before the records go.
    floor: AtomicU64,
    /// Windows of lost revisions, both ends included.
    lost: Vec<(u64, u64)>,
    /// Why the store no longer works.
    failure: RwLock<Option<String>>,
    /// How often the disk was told to keep what was written.
    syncs: Arc<AtomicU64>,
}

impl Shared {
    fn db(&self) -> Result<Arc<Database>, Error> {
        self.db.read().clone().ok_or_else(|| self.closed_error())
    }

    /// Opens a snapshot in which history from `revision` on can be read.
    fn snapshot_from(&self, revision: u64) -> Result<Snapshot, Error> {
        let snapshot = Snapshot::open(&*self.db()?)?;
        // After opening: whatever compaction this snapshot includes has raised the floor before.
        self.check_readable(revision)?;
        Ok(snapshot)
    }

    fn check_readable(&self, revision: u64) -> Result<(), Error> {
        let asked = Revision(revision);
        let floor = self.floor.load(Ordering::SeqCst);
        if revision < floor {
            return Err(Error::Compacted { asked, oldest: Revision(floor) });
        }
        match self.lost.iter().find(|(first, last)| (*first..=*last).contains(&revision)) {
            Some((_, last)) => Err(Error::Compacted { asked, oldest: Revision(last + 1) }),
            None => Ok(()),
        }
    }

    fn closed_error(&self) -> Error {
        self.failure.read().clone().map_or(Error::Closed, Error::Unavailable)
    }
}

impl Embedded {
    /// Opens the store in a directory, which is created (mode 0700) if it is absent. Blocks for some milliseconds.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let directory = path.as_ref();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
            Error::Unavailable(format!("cannot create the directory {}: {error}", directory.display()))
        })?;
        let file = directory.join(DATABASE);
        let syncs = Arc::new(AtomicU64::new(0));
        let db = open_database(&file, options.cache_bytes, syncs.clone())?;
        let log_file = directory.join(LOG);
        let (mut log, logged) = log::Log::open(&log_file, syncs.clone())
            .map_err(|error| io_error(&format!("opening {}", log_file.display()), &error))?;
        let state = recover::State::recover(&db, &logged)?;
        drop(logged);
        log.start(state.log_id).map_err(|error| io_error("writing the log", &error))?;
        // The names of new files must be as durable as what is in them.
        sync_directory(directory).map_err(|error| io_error("synchronising the directory", &error))?;
        let hub = Arc::new(Hub::new(options.hub, state.last));
        let shared = Arc::new(Shared {
            db: RwLock::new(Some(Arc::new(db))),
            hub,
            floor: AtomicU64::new(state.floor),
            lost: state.lost.clone(),
            failure: RwLock::new(None),
            syncs,
        });
        let room = Arc::new(Semaphore::new(options.queue_kib));
        let (jobs, queue) = std::sync::mpsc::channel();
        let writer = writer::Writer::new(shared.clone(), state, log, options)?;
        let writer = std::thread::Builder::new()
            .name("store-writer".to_string())
            .spawn(move || writer.run(&queue))
            .map_err(|error| Error::Unavailable(format!("cannot start the writer thread: {error}")))?;
        Ok(Self {
            shared,
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(Some(writer)),
            room,
            ranges: Arc::new(Semaphore::new(CONCURRENT_RANGES)),
        })
    }

    /// Writes a consistent copy of the store, as it stands now, into a new directory that [`Embedded::open`] takes.
    /// Commits go on meanwhile. A store opened from it goes on above every revision reserved at that time, as after a
    /// crash.
    pub async fn backup(&self, to: impl AsRef<Path>) -> Result<Revision, Error> {
        let (db, to) = (self.shared.db()?, to.as_ref().to_path_buf());
        blocking(move || backup(&db, &to)).await
    }

    /// How often the disk was synchronised since the store was opened.
    pub fn syncs(&self) -> u64 {
        self.shared.syncs.load(Ordering::Relaxed)
    }

    fn send(&self, job: Job) -> Result<(), Error> {
        let jobs = self.jobs.lock();
        let sender = jobs.as_ref().ok_or_else(|| self.shared.closed_error())?;
        sender.send(job).map_err(|_| self.shared.closed_error())
    }
}

/// Opens or creates the database file, private to this user.
fn open_database(file: &Path, cache_bytes: usize, syncs: Arc<AtomicU64>) -> Result<Database, Error> {
    let handle = file::open_private(file)
        .map_err(|error| Error::Unavailable(format!("cannot open {}: {error}", file.display())))?;
    let opened = file::CountedFile::new(handle, syncs)
        .and_then(|counted| redb::Builder::new().set_cache_size(cache_bytes).create_with_backend(counted));
    opened.map_err(|error| errors::opening(file, error))
}

fn backup(db: &Database, to: &Path) -> Result<Revision, Error> {
    let target = to.join(DATABASE);
    let io = |error: std::io::Error| Error::Unavailable(format!("cannot write {}: {error}", target.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(to).map_err(io)?;
    if target.exists() {
        return Err(Error::Invalid(format!("{} exists already", target.display())));
    }
    let partial = to.join(format!("{DATABASE}.partial"));
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let from = db.begin_read().map_err(corrupt)?;
    let copy = open_database(&partial, 1 << 20, Arc::default())?;
    let txn = copy.begin_write().map_err(corrupt)?;
    let revision;
    {
        macro_rules! copy_table {
            ($table:expr) => {{
                let mut target = txn.open_table($table).map_err(corrupt)?;
                for row in from.open_table($table).map_err(corrupt)?.iter().map_err(corrupt)? {
                    let (key, value) = row.map_err(corrupt)?;
                    target.insert(key.value(), value.value()).map_err(corrupt)?;
                }
                target
            }};
        }
        copy_table!(RECORDS);
        copy_table!(LATEST);
        copy_table!(EXPIRY);
        copy_table!(LOST);
        let mut meta = copy_table!(META);
        // No log goes with the copy.
        meta.insert(meta::LOG, 0).map_err(corrupt)?;
        let last = meta.get(meta::LAST).map_err(corrupt)?;
        revision = Revision(last.map_or(0, |last| last.value()));
    }
    txn.commit().map_err(corrupt)?;
    drop(copy);
    std::fs::rename(&partial, &target).map_err(io)?;
    sync_directory(to).map_err(io)?;
    Ok(revision)
}

fn sync_directory(directory: &Path) -> std::io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}

fn io_error(what: &str, error: &std::io::Error) -> Error {
    Error::Unavailable(format!("{what}: {error}"))
}

/// Runs what may wait for the disk on a thread where waiting is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Unavailable(format!("reading was interrupted: {error}"))),
    }
}

#[async_trait]
impl Store for Embedded {
    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        txn.check()?;
        let prepared = Prepared::new(txn);
        let kib = u32::try_from(prepared.bytes() / 1024 + 1).unwrap_or(u32::MAX);
        let room = self.room.clone().acquire_many_owned(kib).await.map_err(|_| self.shared.closed_error())?;
        let (reply, outcome) = oneshot::channel();
        self.send(Job::Commit { txn: prepared, reply, room })?;
        outcome.await.unwrap_or_else(|_| Err(self.shared.closed_error()))
    }

    async fn get(&self, key: &str) -> Result<Option<Record>, Error> {
        // Not worth another thread: one descent of a tree whose upper pages are cached.
        Snapshot::open(&*self.shared.db()?)?.get(key)
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResult, Error> {
        let permit = self.ranges.clone().acquire_owned().await.map_err(|_| self.shared.closed_error())?;
        let shared = self.shared.clone();
        blocking(move || {
            let _permit = permit;
            let snapshot = match request.revision {
                Some(Revision(revision)) => shared.snapshot_from(revision)?,
                None => Snapshot::open(&*shared.db()?)?,
            };
            let at = request.revision.map_or(snapshot.revision, |revision| revision.0);
            if at > snapshot.revision {
                return Err(Error::Future(Revision(at)));
            }
            snapshot.range(&request, at)
        })
        .await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        self.shared.db()?;
        self.shared.check_readable(from.0)?;
        Ok(watch::stream(self.shared.clone(), prefix.to_string(), from.0))
    }

    async fn current_revision(&self) -> Result<Revision, Error> {
        // From the database and not from a counter beside it, so that it agrees with what reads and watches show.
        Ok(Revision(Snapshot::open(&*self.shared.db()?)?.revision))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let (reply, done) = oneshot::channel();
        self.send(Job::Compact { revision: revision.0, reply })?;
        done.await.unwrap_or_else(|_| Err(self.shared.closed_error()))
    }

    async fn close(&self) {
        // Without a sender the writer finishes what is queued and closes the database.
        self.jobs.lock().take();
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            let joined = tokio::task::spawn_blocking(move || writer.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the store's writer thread ended by a panic");
            }
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.jobs.lock().take();
        if let Some(writer) = self.writer.lock().take() {
            let _ = writer.join();
        }
    }
}
