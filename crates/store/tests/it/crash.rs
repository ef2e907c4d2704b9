//! The embedded store under `kill -9`: a child process writes, prints a journal of what was acknowledged and what its
//! watch told, and is killed at a random moment. Nothing acknowledged may be lost, nothing told may be untrue
//! afterwards, transactions are whole, and no revision is given out twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use orkd_store::backends::embedded::{Embedded, Options};
use orkd_store::contract::{delete, put};
use orkd_store::{EventKind, Outcome, RangeRequest, Revision, Store, WatchMessage};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const DIRECTORY: &str = "ORKD_TEST_CRASH_DIRECTORY";
const CYCLES: u64 = 20;
const WRITERS: usize = 4;

/// Little history, so that compaction runs all the time.
fn options() -> Options {
    Options { history_revisions: 300, ..Options::default() }
}

/// The child: does nothing unless the test below starts it.
#[test]
#[ignore = "the child process of kill_at_any_moment_loses_nothing"]
fn crash_child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(child(Path::new(&directory)));
}

/// One line in one write, so that a killed child leaves at most one broken line, the last.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line} .\n").as_bytes()).expect("the parent reads");
    out.flush().expect("the parent reads");
}

async fn child(directory: &Path) {
    let store = Arc::new(Embedded::open(directory, options()).expect("open after a crash"));
    let start = store.current_revision().await.expect("revision");
    say(&format!("start {}", start.0));
    let mut watch = store.watch("/", start).await.expect("watch");
    tokio::spawn(async move {
        while let Some(Ok(message)) = watch.next().await {
            let WatchMessage::Events(events) = message else { continue };
            for event in events {
                let value = match event.kind {
                    EventKind::Put => String::from_utf8_lossy(&event.record.value[..]).into_owned(),
                    EventKind::Delete => "-".to_string(),
                };
                say(&format!("told {} {} {}", event.record.mod_revision.0, event.record.key, summary(&value)));
            }
        }
    });
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut random = StdRng::from_os_rng();
                for count in 0.. {
                    // Two keys that are always written together, some with long values.
                    let number = random.random_range(0..10);
                    let keys = [format!("/left/{writer}/{number}"), format!("/right/{writer}/{number}")];
                    let is_delete = random.random_bool(0.2);
                    let value = format!("{start}-{writer}-{count}_", start = start.0)
                        + &"x".repeat(random.random_range(0..5000));
                    // The third one makes sure that the transaction takes a revision of its own.
                    let mut txn = put(&format!("/count/{writer}"), count.to_string());
                    for key in &keys {
                        txn.ops.extend(if is_delete { delete(key) } else { put(key, value.clone()) }.ops);
                    }
                    let Ok(Outcome::Committed(revision)) = store.commit(txn).await else { panic!("not committed") };
                    for key in &keys {
                        let value = if is_delete { "-" } else { value.as_str() };
                        let value = summary(value);
                        say(&format!("acknowledged {} {key} {value}", revision.0));
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("writer");
    }
}

/// Enough of a value to tell it from others.
fn summary(value: &str) -> String {
    if value == "-" {
        return value.to_string();
    }
    format!("{}+{}", value.split('_').next().unwrap_or_default(), value.len())
}

/// All that children said.
#[derive(Default)]
struct Journal {
    /// The last acknowledged write of each key.
    acknowledged: BTreeMap<String, (u64, String)>,
    /// What was written at each revision, by key.
    written: BTreeMap<u64, BTreeMap<String, String>>,
    /// Revisions a process started at, or that were seen.
    highest: u64,
    commits: usize,
}

impl Journal {
    /// Takes in what one child said.
    fn take(&mut self, lines: &[String]) {
        let highest_before = self.highest;
        let mut revisions = BTreeSet::new();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["start", revision, "."] => {
                    let revision: u64 = revision.parse().expect("a revision");
                    assert!(revision >= highest_before, "{revision} is below {highest_before}, seen before the crash");
                    self.highest = self.highest.max(revision);
                }
                [what @ ("told" | "acknowledged"), revision, key, value, "."] => {
                    let revision: u64 = revision.parse().expect("a revision");
                    assert!(revision > highest_before, "revision {revision} was given out before");
                    revisions.insert(revision);
                    let before = self.written.entry(revision).or_default().insert(key.to_string(), value.to_string());
                    // A removal of what is absent is acknowledged but not told.
                    assert!(before.is_none_or(|before| before == *value), "{revision} {key}: one revision, one story");
                    if *what == "acknowledged" {
                        self.commits += 1;
                        let last = self.acknowledged.entry(key.to_string()).or_default();
                        if last.0 <= revision {
                            *last = (revision, value.to_string());
                        }
                    }
                }
                _ => {}
            }
        }
        self.highest = self.highest.max(revisions.last().copied().unwrap_or(0));
    }

    /// Compares with what the store holds.
    async fn check(&self, store: &Embedded) {
        let now = store.current_revision().await.expect("revision");
        assert!(now.0 >= self.highest, "the store is at {now:?}, but {} was seen", self.highest);
        let all = store.range(RangeRequest::default()).await.expect("range");
        let held: BTreeMap<&str, (u64, String)> = all
            .records
            .iter()
            .map(|record| {
                let value = summary(&String::from_utf8_lossy(&record.value));
                (record.key.as_str(), (record.mod_revision.0, value))
            })
            .collect();
        for (key, (revision, value)) in &self.acknowledged {
            match held.get(key.as_str()) {
                Some((at, found)) if at == revision => assert_eq!(found, value, "{key}"),
                Some((at, _)) => assert!(at > revision, "{key} was acknowledged at {revision}, but is at {at}"),
                // Removed: by what was acknowledged, or by a later transaction whose answer was never read.
                None if value == "-" => {}
                None => {
                    let twin = key.replace("/left/", "/right/");
                    assert!(!held.contains_key(twin.as_str()), "{key} is gone, its twin is not");
                    assert!(was_removed_after(store, key, *revision).await, "{key}@{revision} is lost");
                }
            }
        }
        for (key, (revision, value)) in &held {
            let twin = key.replace("/left/", "/right/");
            assert_eq!(held.get(twin.as_str()), Some(&(*revision, value.clone())), "{key}: half a transaction");
            if let Some(written) = self.written.get(revision).and_then(|written| written.get(*key)) {
                assert_eq!(written, value, "{key}@{revision}: what was told was not true");
            }
        }
    }
}

/// Whether history holds a removal of the key after a revision.
async fn was_removed_after(store: &Embedded, key: &str, revision: u64) -> bool {
    let end = store.current_revision().await.expect("revision");
    let mut watch = store.watch(key, Revision(revision)).await.expect("the last revisions are not compacted");
    while let Some(message) = watch.next().await {
        match message.expect("the last revisions can be read") {
            WatchMessage::Events(events) => {
                if events.iter().any(|event| event.record.key == key && event.kind == EventKind::Delete) {
                    return true;
                }
            }
            WatchMessage::Progress(told) if told >= end => return false,
            WatchMessage::Progress(_) => {}
        }
    }
    false
}

#[tokio::test]
async fn kill_at_any_moment_loses_nothing() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut random = StdRng::from_os_rng();
    let mut journal = Journal::default();
    for cycle in 0..CYCLES {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--ignored", "--exact", "--nocapture", "crash::crash_child"])
            .env(DIRECTORY, directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child starts");
        let out = child.stdout.take().expect("piped");
        let (started, is_started) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut lines = Vec::new();
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if line.starts_with("start ") {
                    let _ = started.send(());
                }
                lines.push(line);
            }
            lines
        });
        is_started.recv_timeout(Duration::from_secs(30)).expect("the child opens the store");
        // The moment is what the test is about, not a wait for something.
        std::thread::sleep(Duration::from_micros(random.random_range(0..80_000)));
        child.kill().expect("kill -9");
        child.wait().expect("the child ends");
        journal.take(&reader.join().expect("reader"));
        // Every other time the next child opens what the last one left.
        if cycle % 2 == 1 {
            let store = Embedded::open(directory.path(), options()).expect("open after a crash");
            journal.check(&store).await;
            journal.highest = journal.highest.max(store.current_revision().await.expect("revision").0);
            store.close().await;
        }
    }
    assert!(journal.commits > 100, "only {} writes were acknowledged in all", journal.commits);
}
