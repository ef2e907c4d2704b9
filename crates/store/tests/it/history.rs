//! A history checker: many writers and watchers at once, then every watcher's story is compared with a small model
//! of what the acknowledged commits must have done. No event may be lost, duplicated, reordered or from the future,
//! progress must be true, and reads at a revision must be what the model says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use orkd_store::backends::embedded::{Embedded, Options, WatchLimits};
use orkd_store::contract::{at, commit, delete, put};
use orkd_store::{Condition, Error, Event, EventKind, Op, Outcome, RangeRequest, Revision, Store, Txn, WatchMessage};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::etcd_server::EtcdServer;

const KEYS: usize = 24;
const PREFIXES: [&str; 4] = ["/registry/", "/registry/pods/", "/registry/nodes/", "/registry/none/"];

/// An acknowledged commit.
type Commits = BTreeMap<u64, Vec<Op>>;

/// What an event must be, without its values' owners.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    revision: u64,
    created: u64,
    is_delete: bool,
    key: String,
    value: Vec<u8>,
    prev: Option<Vec<u8>>,
}

impl Told {
    fn of(event: &Event) -> Self {
        Self {
            revision: event.record.mod_revision.0,
            created: event.record.create_revision.0,
            is_delete: event.kind == EventKind::Delete,
            key: event.record.key.clone(),
            value: event.record.value.to_vec(),
            prev: event.prev.as_ref().map(|prev| prev.to_vec()),
        }
    }
}

/// Value, created, modified of each key.
type State = BTreeMap<String, (Vec<u8>, u64, u64)>;

/// The model: what the store holds and has told after each commit.
#[derive(Default)]
struct Model {
    history: Vec<Told>,
    /// What is held after each revision.
    states: BTreeMap<u64, State>,
}

impl Model {
    fn replay(start: u64, commits: &Commits) -> Self {
        let mut model = Self::default();
        let mut state = State::new();
        model.states.insert(start, state.clone());
        for (expected, (&revision, ops)) in (start + 1..).zip(commits) {
            assert_eq!(revision, expected, "every revision belongs to one acknowledged commit");
            for op in ops {
                let before = state.get(op.key()).cloned();
                let prev = before.as_ref().map(|(value, ..)| value.clone());
                let told = |created, is_delete, value| Told {
                    revision,
                    created,
                    is_delete,
                    key: op.key().to_string(),
                    value,
                    prev: prev.clone(),
                };
                match (op, before) {
                    (Op::Put { key, value, .. }, before) => {
                        let created = before.map_or(revision, |(_, created, _)| created);
                        state.insert(key.clone(), (value.to_vec(), created, revision));
                        model.history.push(told(created, false, value.to_vec()));
                    }
                    (Op::Delete { key }, Some((value, created, _))) => {
                        state.remove(key);
                        model.history.push(told(created, true, value));
                    }
                    (Op::Delete { .. }, None) => {}
                }
            }
            model.states.insert(revision, state.clone());
        }
        model
    }

    fn told_after(&self, from: u64, prefix: &str) -> Vec<Told> {
        let wanted = |told: &&Told| told.revision > from && told.key.starts_with(prefix);
        self.history.iter().filter(wanted).cloned().collect()
    }
}

fn key(number: usize) -> String {
    format!("/registry/{}/{number:02}", if number.is_multiple_of(2) { "pods" } else { "nodes" })
}

/// One writer's transactions until told to stop; each takes a revision.
async fn write(store: Arc<dyn Store>, seed: u64, transactions: usize) -> Commits {
    let mut random = StdRng::seed_from_u64(seed);
    let mut mine = Commits::new();
    let mut known: BTreeMap<String, Revision> = BTreeMap::new();
    let mut count = 0;
    while count < transactions {
        let mut txn = Txn::default();
        for number in rand::seq::index::sample(&mut random, KEYS, 3).into_iter().take(random.random_range(1..=3)) {
            let key = key(number);
            let value = format!("{seed}-{count}-").repeat(random.random_range(1..200));
            let ops = if random.random_bool(0.3) { delete(&key).ops } else { put(&key, value).ops };
            if random.random_bool(0.5) {
                let mod_revision = known.get(&key).copied().unwrap_or_default();
                txn.conditions.push(Condition { key, mod_revision });
            }
            txn.ops.extend(ops);
        }
        // Something that always changes, so that each commit has a revision and the model knows it.
        txn.ops.extend(put(&format!("/registry/writers/{seed:03}"), count.to_string()).ops);
        match store.commit(txn.clone()).await.expect("commit") {
            Outcome::Committed(revision) => {
                for op in &txn.ops {
                    let now = if matches!(op, Op::Put { .. }) { revision } else { Revision(0) };
                    known.insert(op.key().to_string(), now);
                }
                assert!(mine.insert(revision.0, txn.ops).is_none());
                count += 1;
            }
            Outcome::Failed(found) => {
                for (condition, record) in txn.conditions.iter().zip(found) {
                    known.insert(condition.key.clone(), record.map_or(Revision(0), |record| record.mod_revision));
                }
            }
        }
    }
    mine
}

/// One watcher: follows a prefix from some revision, now and then leaves and comes back, until it has reached `end`
/// (0 while that is not known).
async fn follow(
    store: Arc<dyn Store>,
    seed: u64,
    start: Revision,
    end: Arc<AtomicU64>,
) -> (&'static str, u64, Vec<Told>) {
    let mut random = StdRng::seed_from_u64(seed);
    let prefix = PREFIXES.choose(&mut random).copied().expect("there are prefixes");
    let now = store.current_revision().await.expect("revision");
    let from = random.random_range(start.0..=now.0);
    let mut reached = from;
    let mut story = Vec::new();
    loop {
        let is_over = |reached: u64| (1..=reached).contains(&end.load(Ordering::SeqCst));
        if is_over(reached) {
            return (prefix, from, story);
        }
        let mut watch = store.watch(prefix, Revision(reached)).await.expect("watch");
        let leave_after = random.random_range(1..40);
        for _ in 0..leave_after {
            if is_over(reached) {
                break;
            }
            let Ok(message) = tokio::time::timeout(Duration::from_secs(20), watch.next()).await else {
                let now = store.current_revision().await;
                panic!("seed {seed}, {prefix} from {from}: stuck at {reached}, end {end:?}, store at {now:?}")
            };
            match message {
                Some(Ok(WatchMessage::Progress(Revision(revision)))) => {
                    assert!(revision >= reached, "progress never goes back");
                    reached = revision;
                }
                Some(Ok(WatchMessage::Events(events))) => {
                    let now = store.current_revision().await.expect("revision");
                    for event in &events {
                        let revision = event.record.mod_revision;
                        assert!(revision.0 > from, "nothing from before the watch");
                        assert!(revision <= now, "nothing from the future");
                        story.push(Told::of(event));
                    }
                    let last = events.last().expect("messages are not empty").record.mod_revision.0;
                    assert!(events[0].record.mod_revision.0 > reached, "nothing after it was said to be delivered");
                    reached = last;
                }
                Some(Err(Error::Slow)) => break,
                Some(Err(error)) => panic!("the watch failed: {error}"),
                None => panic!("the watch ended without an error"),
            }
            if random.random_bool(0.02) {
                // A watcher that dawdles: others run meanwhile.
                for _ in 0..200 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

/// Writes and watches at once, then checks.
async fn check(store: Arc<dyn Store>, seed: u64, transactions: usize) {
    let start = commit(&*store, put("/registry/writers/start", "x")).await;
    let end = Arc::new(AtomicU64::new(0));
    let watchers: Vec<_> =
        (0..8).map(|number| tokio::spawn(follow(store.clone(), seed + number, start, end.clone()))).collect();
    let writers: Vec<_> =
        (0..6).map(|number| tokio::spawn(write(store.clone(), seed + number, transactions))).collect();
    let mut commits = Commits::new();
    for writer in writers {
        for (revision, ops) in writer.await.expect("writer") {
            assert!(commits.insert(revision, ops).is_none(), "revision {revision} was given twice");
        }
    }
    let last = *commits.last_key_value().expect("commits").0;
    end.store(last, Ordering::SeqCst);
    // Wakes watchers that wait for something to happen.
    commit(&*store, put("/registry/writers/stop", "x")).await;
    let model = Model::replay(start.0, &commits);
    for watcher in watchers {
        let (prefix, from, mut story) = watcher.await.expect("watcher");
        story.retain(|told| told.revision <= last);
        let expected = model.told_after(from, prefix);
        let difference = story.iter().zip(&expected).position(|(told, expected)| told != expected);
        if let Some(position) = difference {
            panic!("seed {seed}, {prefix} from {from}: told {:?}, not {:?}", story[position], expected[position]);
        }
        assert_eq!(story.len(), expected.len(), "seed {seed}, {prefix} from {from}: events are missing or too many");
    }
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..40 {
        let revision = random.random_range(start.0..=last);
        let prefix = PREFIXES.choose(&mut random).copied().expect("there are prefixes");
        let request =
            RangeRequest { prefix: prefix.into(), revision: Some(Revision(revision)), ..RangeRequest::default() };
        let result = store.range(request).await.expect("the past can be read");
        let found: Vec<_> = result
            .records
            .iter()
            .filter(|record| record.key != "/registry/writers/start")
            .map(|record| {
                (record.key.clone(), (record.value.to_vec(), record.create_revision.0, record.mod_revision.0))
            })
            .collect();
        let expected: Vec<_> =
            model.states[&revision].clone().into_iter().filter(|(key, _)| key.starts_with(prefix)).collect();
        assert_eq!(found, expected, "seed {seed}: {prefix} at {revision}");
    }
    let guard = Txn { conditions: vec![at("/registry/writers/start", start)], ..Txn::default() };
    assert!(matches!(store.commit(guard).await, Ok(Outcome::Committed(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_histories_are_those_of_the_model() {
    // The second one has a window and queues so small that watchers are often slow and read from disk.
    let tiny = WatchLimits { window_events: 8, watcher_events: 12, ..WatchLimits::default() };
    for (seed, hub) in [(100, WatchLimits::default()), (200, tiny)] {
        let directory = tempfile::tempdir().expect("tempdir");
        let options = Options { hub, ..Options::default() };
        let store: Arc<dyn Store> = Arc::new(Embedded::open(directory.path(), options).expect("open"));
        check(store.clone(), seed, 250).await;
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_histories_are_those_of_the_model() {
    let Some(server) = EtcdServer::start("etcd_histories_are_those_of_the_model") else { return };
    let tiny = WatchLimits { window_events: 8, watcher_events: 12, ..WatchLimits::default() };
    for (seed, hub) in [(100, WatchLimits::default()), (200, tiny)] {
        let options = orkd_store::backends::etcd::EtcdOptions {
            hub,
            prefix: format!("/{seed}"),
            compaction_interval: None,
            ..server.options()
        };
        let store: Arc<dyn Store> = Arc::new(server.connect(options).await);
        check(store.clone(), seed, 100).await;
        store.close().await;
    }
}
