//! What every store does: one suite, run by each backend's tests.
//!
//! Cases take a store whose history other cases may share (an etcd outlives them), so they compare revisions with
//! what they read first, and each uses keys of its own. A case fails by a panic that says what was promised.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;

use crate::{
    Condition, Error, Event, EventKind, MAX_TXN_OPS, MAX_VALUE_BYTES, Op, Outcome, RangeRequest, Record, Revision,
    Store, Txn, WatchMessage, WatchStream,
};

/// How long a promise may take to come true.
const DEADLINE: Duration = Duration::from_secs(30);

type Case = fn(Arc<dyn Store>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// The cases by name.
        pub fn all() -> Vec<(&'static str, Case)> {
            vec![$((stringify!($name), |store| Box::pin($name(store)))),*]
        }
    };
}

cases![
    a_commit_is_one_revision_and_reads_see_it,
    conditions_hold_all_or_nothing_is_written,
    a_transaction_that_changes_nothing_takes_no_revision,
    creation_revisions_start_anew_after_a_removal,
    sizes_are_limited_and_contradictions_refused,
    ranges_are_ordered_limited_and_counted,
    ranges_read_the_past,
    many_records_and_large_values_are_read_whole,
    watches_tell_past_and_present,
    watches_from_the_future_wait,
    watches_see_whole_commits_with_previous_values,
    watchers_are_told_of_commits_elsewhere,
    compaction_forgets_the_past_only,
    records_expire_and_renewed_ones_do_not,
    a_slow_watcher_never_stops_the_store,
    concurrent_writers_never_overwrite_each_other,
    a_closed_store_says_so,
];

/// Runs every case, each on a store that `open` gives.
pub async fn run<F, Fut>(open: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn Store>>,
{
    for (name, case) in all() {
        let store = open().await;
        let outcome = tokio::time::timeout(4 * DEADLINE, tokio::spawn(case(store.clone()))).await;
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(panic)) => panic!("{name}: {panic}"),
            Err(_) => panic!("{name}: did not end"),
        }
        store.close().await;
    }
}

/// A transaction that writes.
pub fn put(key: &str, value: impl Into<Bytes>) -> Txn {
    let value = value.into();
    Txn { conditions: Vec::new(), ops: vec![Op::Put { key: key.into(), value, ttl_seconds: None }] }
}

/// A transaction that removes.
pub fn delete(key: &str) -> Txn {
    Txn { conditions: Vec::new(), ops: vec![Op::Delete { key: key.into() }] }
}

/// The condition that a key is at this revision.
pub fn at(key: &str, mod_revision: Revision) -> Condition {
    Condition { key: key.into(), mod_revision }
}

/// Commits what must be committed.
pub async fn commit(store: &dyn Store, txn: Txn) -> Revision {
    match store.commit(txn).await {
        Ok(Outcome::Committed(revision)) => revision,
        other => panic!("should be committed: {other:?}"),
    }
}

async fn now(store: &dyn Store) -> Revision {
    store.current_revision().await.expect("the current revision can be read")
}

async fn get(store: &dyn Store, key: &str) -> Option<Record> {
    store.get(key).await.expect("a key can be read")
}

async fn keys(store: &dyn Store, request: RangeRequest) -> Vec<String> {
    let result = store.range(request).await.expect("records can be read");
    result.records.into_iter().map(|record| record.key).collect()
}

fn prefix(prefix: &str) -> RangeRequest {
    RangeRequest { prefix: prefix.into(), ..RangeRequest::default() }
}

/// The next message, within the deadline.
pub async fn next(watch: &mut WatchStream) -> Result<WatchMessage, Error> {
    match tokio::time::timeout(DEADLINE, watch.next()).await {
        Ok(Some(message)) => message,
        Ok(None) => panic!("the watch ended without an error"),
        Err(_) => panic!("the watch tells nothing"),
    }
}

/// The next so many events, whatever progress is told between.
pub async fn events(watch: &mut WatchStream, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        match next(watch).await {
            Ok(WatchMessage::Events(more)) => events.extend(more),
            Ok(WatchMessage::Progress(_)) => {}
            Err(error) => panic!("the watch failed after {} of {count} events: {error}", events.len()),
        }
    }
    assert_eq!(events.len(), count, "no more events than there were changes");
    events
}

/// `+key@revision` and `-key@revision`.
fn shown(events: &[Event]) -> Vec<String> {
    let show = |event: &Event| {
        let sign = if event.kind == EventKind::Put { '+' } else { '-' };
        format!("{sign}{}@{}", event.record.key, event.record.mod_revision.0)
    };
    events.iter().map(show).collect()
}

/// The first error of a watch that cannot be served, at once or in the stream.
async fn watch_error(store: &dyn Store, prefix: &str, from: Revision) -> Error {
    let mut watch = match store.watch(prefix, from).await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    loop {
        match next(&mut watch).await {
            Ok(WatchMessage::Progress(_)) => {}
            Ok(WatchMessage::Events(events)) => panic!("a watch from a forgotten past tells {:?}", shown(&events)),
            Err(error) => {
                assert!(watch.next().await.is_none(), "after an error a watch ends");
                return error;
            }
        }
    }
}

async fn a_commit_is_one_revision_and_reads_see_it(store: Arc<dyn Store>) {
    let store = &*store;
    let before = now(store).await;
    let mut txn = put("/registry/commit/a", "1");
    txn.ops.extend(put("/registry/commit/b", "2").ops);
    let revision = commit(store, txn).await;
    assert!(revision > before, "a commit takes a new revision");
    assert!(revision > Revision(0));
    assert_eq!(now(store).await, revision, "two writes, one revision");
    for (key, value) in [("/registry/commit/a", "1"), ("/registry/commit/b", "2")] {
        let record = get(store, key).await.expect("present");
        assert_eq!((record.key.as_str(), record.value.as_ref()), (key, value.as_bytes()));
        assert_eq!((record.create_revision, record.mod_revision), (revision, revision));
    }
    assert_eq!(get(store, "/registry/commit/c").await, None);
    assert_eq!(get(store, "/registry/commit/").await, None, "get is not a range");
}

async fn conditions_hold_all_or_nothing_is_written(store: Arc<dyn Store>) {
    let store = &*store;
    let (a, b) = ("/registry/conditions/a", "/registry/conditions/b");
    let create = Txn { conditions: vec![at(a, Revision(0))], ..put(a, "1") };
    let first = commit(store, create.clone()).await;
    let Ok(Outcome::Failed(found)) = store.commit(create).await else { panic!("the key exists") };
    assert_eq!(found, [get(store, a).await]);
    let Ok(Outcome::Failed(found)) =
        store.commit(Txn { conditions: vec![at(b, Revision(0)), at(a, Revision(first.0 + 1))], ..put(b, "x") }).await
    else {
        panic!("one of two conditions does not hold")
    };
    assert_eq!(found, [None, get(store, a).await], "what stands under each condition's key, in order");
    assert_eq!(get(store, b).await, None, "nothing was written");
    assert_eq!(now(store).await, first, "and no revision taken");
    let second = commit(store, Txn { conditions: vec![at(a, first), at(b, Revision(0))], ..put(a, "2") }).await;
    let record = get(store, a).await.expect("present");
    assert_eq!((record.create_revision, record.mod_revision), (first, second));
    let Ok(Outcome::Failed(_)) = store.commit(Txn { conditions: vec![at(a, first)], ..delete(a) }).await else {
        panic!("the condition is about an older version")
    };
    commit(store, Txn { conditions: vec![at(a, second)], ..delete(a) }).await;
    assert_eq!(get(store, a).await, None);
    commit(store, Txn { conditions: vec![at(a, Revision(0))], ..put(a, "3") }).await;
}

async fn a_transaction_that_changes_nothing_takes_no_revision(store: Arc<dyn Store>) {
    let store = &*store;
    let before = commit(store, put("/registry/nothing/a", "1")).await;
    assert_eq!(commit(store, delete("/registry/nothing/absent")).await, before);
    assert_eq!(commit(store, Txn::default()).await, before);
    let guard = Txn { conditions: vec![at("/registry/nothing/a", before)], ops: Vec::new() };
    assert_eq!(commit(store, guard).await, before);
    assert_eq!(now(store).await, before);
}

async fn creation_revisions_start_anew_after_a_removal(store: Arc<dyn Store>) {
    let store = &*store;
    let key = "/registry/again/a";
    let first = commit(store, put(key, "1")).await;
    commit(store, delete(key)).await;
    let third = commit(store, put(key, "3")).await;
    let fourth = commit(store, put(key, "4")).await;
    let record = get(store, key).await.expect("present");
    assert_eq!((record.create_revision, record.mod_revision), (third, fourth));
    let mut watch = store.watch("/registry/again/", Revision(first.0 - 1)).await.expect("watch");
    let events = events(&mut watch, 4).await;
    let created: Vec<Revision> = events.iter().map(|event| event.record.create_revision).collect();
    assert_eq!(created, [first, first, third, third]);
}

async fn sizes_are_limited_and_contradictions_refused(store: Arc<dyn Store>) {
    let store = &*store;
    let before = now(store).await;
    let refused = async |txn: Txn| store.commit(txn).await.expect_err("must be refused");
    let large = put("/registry/sizes/a", vec![b'x'; MAX_VALUE_BYTES + 1]);
    assert!(matches!(refused(large).await, Error::TooLarge(_)));
    let many = |count: usize| Txn {
        conditions: Vec::new(),
        ops: (0..count).flat_map(|n| put(&format!("/registry/sizes/{n:04}"), "x").ops).collect(),
    };
    assert!(matches!(refused(many(MAX_TXN_OPS + 1)).await, Error::TooLarge(_)));
    let mut heavy = put("/registry/sizes/a", vec![b'x'; MAX_VALUE_BYTES]);
    heavy.ops.extend(put("/registry/sizes/b", vec![b'x'; MAX_VALUE_BYTES]).ops);
    assert!(matches!(refused(heavy).await, Error::TooLarge(_)));
    let mut twice = put("/registry/sizes/a", "1");
    twice.ops.extend(delete("/registry/sizes/a").ops);
    assert!(matches!(refused(twice).await, Error::Invalid(_)));
    assert!(matches!(refused(put("", "1")).await, Error::Invalid(_)));
    assert_eq!(now(store).await, before, "nothing of it was written");
    commit(store, many(MAX_TXN_OPS)).await;
    assert_eq!(keys(store, prefix("/registry/sizes/")).await.len(), MAX_TXN_OPS);
}

async fn ranges_are_ordered_limited_and_counted(store: Arc<dyn Store>) {
    let store = &*store;
    for name in ["b", "a", "c/d", "c", "d"] {
        commit(store, put(&format!("/registry/ranges/{name}"), name)).await;
    }
    // Neighbours that do not have the prefix.
    commit(store, put("/registry/ranges", "x")).await;
    let last = commit(store, put("/registry/ranges0", "x")).await;
    let all = store.range(prefix("/registry/ranges/")).await.expect("range");
    let found: Vec<&str> = all.records.iter().map(|record| record.key.as_str()).collect();
    let expected = [
        "/registry/ranges/a",
        "/registry/ranges/b",
        "/registry/ranges/c",
        "/registry/ranges/c/d",
        "/registry/ranges/d",
    ];
    assert_eq!(found, expected);
    assert_eq!((all.more, all.count, all.revision), (false, 5, last));
    let page = RangeRequest { limit: 2, ..prefix("/registry/ranges/") };
    let first = store.range(page.clone()).await.expect("range");
    assert_eq!((first.records.len(), first.more, first.count), (2, true, 5));
    let rest = RangeRequest {
        start: format!("{}\0", first.records[1].key),
        limit: 3,
        revision: Some(first.revision),
        ..page.clone()
    };
    let rest = store.range(rest).await.expect("range");
    let found: Vec<&str> = rest.records.iter().map(|record| record.key.as_str()).collect();
    assert_eq!(found, expected[2..]);
    assert_eq!((rest.more, rest.count, rest.revision), (false, 3, first.revision));
    let exact = store.range(RangeRequest { limit: 5, ..page.clone() }).await.expect("range");
    assert_eq!((exact.records.len(), exact.more), (5, false));
    let before = RangeRequest { start: "/registry/r".into(), ..page.clone() };
    assert_eq!(keys(store, before).await, expected[..2], "a start before the prefix is the prefix");
    let beyond = store.range(RangeRequest { start: "/registry/s".into(), ..page }).await.expect("range");
    assert_eq!((beyond.records.len(), beyond.more, beyond.count), (0, false, 0));
    let none = store.range(prefix("/registry/no-ranges/")).await.expect("range");
    assert_eq!((none.records.len(), none.more, none.count, none.revision), (0, false, 0, last));
}

async fn ranges_read_the_past(store: Arc<dyn Store>) {
    let store = &*store;
    let (a, b) = ("/registry/past/a", "/registry/past/b");
    let mut states: Vec<(Revision, Vec<(&str, &str)>)> = Vec::new();
    states.push((commit(store, put(a, "1")).await, vec![(a, "1")]));
    states.push((commit(store, put(b, "2")).await, vec![(a, "1"), (b, "2")]));
    states.push((commit(store, put(a, "3")).await, vec![(a, "3"), (b, "2")]));
    states.push((commit(store, delete(a)).await, vec![(b, "2")]));
    states.push((commit(store, put(a, "5")).await, vec![(a, "5"), (b, "2")]));
    states.push((commit(store, delete(b)).await, vec![(a, "5")]));
    let before = Revision(states[0].0.0 - 1);
    states.push((before, vec![]));
    for (revision, expected) in &states {
        let request = RangeRequest { revision: Some(*revision), ..prefix("/registry/past/") };
        let result = store.range(request).await.expect("the past can be read");
        let found: Vec<(&str, &[u8])> =
            result.records.iter().map(|record| (record.key.as_str(), record.value.as_ref())).collect();
        let expected: Vec<(&str, &[u8])> = expected.iter().map(|(key, value)| (*key, value.as_bytes())).collect();
        assert_eq!(found, expected, "at {revision:?}");
        assert_eq!((result.revision, result.count), (*revision, expected.len()));
        assert!(result.records.iter().all(|record| record.mod_revision <= *revision));
    }
    let future = Revision(now(store).await.0 + 1000);
    let request = RangeRequest { revision: Some(future), ..prefix("/registry/past/") };
    assert!(matches!(store.range(request).await, Err(Error::Future(asked)) if asked == future));
}

async fn many_records_and_large_values_are_read_whole(store: Arc<dyn Store>) {
    let store = &*store;
    for chunk in 0..12 {
        let ops = (0..100).flat_map(|n| put(&format!("/registry/many/{:04}", chunk * 100 + n), "x").ops);
        commit(store, Txn { conditions: Vec::new(), ops: ops.collect() }).await;
    }
    let result = store.range(prefix("/registry/many/")).await.expect("range");
    assert_eq!((result.records.len(), result.count, result.more), (1200, 1200, false));
    assert!(result.records.is_sorted_by(|a, b| a.key < b.key));
    let result = store.range(RangeRequest { limit: 1100, ..prefix("/registry/many/") }).await.expect("range");
    assert_eq!((result.records.len(), result.count, result.more), (1100, 1200, true));
    let values = [noise(MAX_VALUE_BYTES), Bytes::from(vec![b'x'; MAX_VALUE_BYTES]), Bytes::new(), noise(513)];
    let from = now(store).await;
    for (n, value) in values.iter().enumerate() {
        commit(store, put(&format!("/registry/large/{n}"), value.clone())).await;
    }
    for (n, value) in values.iter().enumerate() {
        let record = get(store, &format!("/registry/large/{n}")).await.expect("present");
        assert!(record.value == value, "value {n} comes back as it was");
    }
    let result = store.range(prefix("/registry/large/")).await.expect("range");
    assert!(result.records.iter().zip(&values).all(|(record, value)| record.value == value));
    let mut watch = store.watch("/registry/large/", from).await.expect("watch");
    let events = events(&mut watch, values.len()).await;
    assert!(events.iter().zip(&values).all(|(event, value)| event.record.value == value));
}

/// Bytes that do not compress.
fn noise(len: usize) -> Bytes {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

async fn watches_tell_past_and_present(store: Arc<dyn Store>) {
    let store = &*store;
    let start = now(store).await;
    let a = commit(store, put("/registry/watch/a", "1")).await;
    commit(store, put("/registry/elsewhere", "1")).await;
    let b = commit(store, put("/registry/watch/b", "2")).await;
    let mut whole = store.watch("/registry/watch/", start).await.expect("watch");
    let mut half = store.watch("/registry/watch/", a).await.expect("watch");
    let mut present = store.watch("/registry/watch/", now(store).await).await.expect("watch");
    let c = commit(store, delete("/registry/watch/a")).await;
    let d = commit(store, put("/registry/watch/a", "3")).await;
    let expected = [
        format!("+/registry/watch/a@{}", a.0),
        format!("+/registry/watch/b@{}", b.0),
        format!("-/registry/watch/a@{}", c.0),
        format!("+/registry/watch/a@{}", d.0),
    ];
    assert_eq!(shown(&events(&mut whole, 4).await), expected);
    assert_eq!(shown(&events(&mut half, 3).await), expected[1..]);
    assert_eq!(shown(&events(&mut present, 2).await), expected[2..]);
    let mut everything = store.watch("", b).await.expect("watch");
    assert_eq!(shown(&events(&mut everything, 2).await), expected[2..], "an empty prefix is everything");
}

async fn watches_from_the_future_wait(store: Arc<dyn Store>) {
    let store = &*store;
    let start = now(store).await;
    let mut watch = store.watch("/registry/future/", Revision(start.0 + 2)).await.expect("watch");
    for n in 1..=4 {
        commit(store, put("/registry/future/a", n.to_string())).await;
    }
    let expected = [start.0 + 3, start.0 + 4].map(|revision| format!("+/registry/future/a@{revision}"));
    assert_eq!(shown(&events(&mut watch, 2).await), expected);
}

async fn watches_see_whole_commits_with_previous_values(store: Arc<dyn Store>) {
    let store = &*store;
    let start = now(store).await;
    let mut live = store.watch("/registry/whole/", start).await.expect("watch");
    let name = |n: usize| format!("/registry/whole/{n:03}");
    let write = |value: &'static str| Txn {
        conditions: Vec::new(),
        ops: (0..MAX_TXN_OPS).flat_map(|n| put(&name(n), value).ops).collect(),
    };
    commit(store, write("1")).await;
    commit(store, write("2")).await;
    let remove = Txn { conditions: Vec::new(), ops: (0..MAX_TXN_OPS).flat_map(|n| delete(&name(n)).ops).collect() };
    let removed = commit(store, remove).await;
    let mut late = store.watch("/registry/whole/", start).await.expect("watch");
    for watch in [&mut live, &mut late] {
        let mut seen: BTreeMap<Revision, Vec<Event>> = BTreeMap::new();
        while !seen.contains_key(&removed) {
            let Ok(WatchMessage::Events(events)) = next(watch).await else { continue };
            let mut message: BTreeMap<Revision, Vec<Event>> = BTreeMap::new();
            for event in events {
                message.entry(event.record.mod_revision).or_default().push(event);
            }
            for (revision, events) in message {
                assert_eq!(events.len(), MAX_TXN_OPS, "commits come whole");
                assert!(seen.insert(revision, events).is_none(), "and once");
            }
        }
        let seen: Vec<Vec<Event>> = seen.into_values().collect();
        let values = |events: &[Event]| (events[7].prev.clone(), events[7].record.value.clone());
        assert_eq!(values(&seen[0]), (None, "1".into()));
        assert_eq!(values(&seen[1]), (Some("1".into()), "2".into()));
        assert_eq!(values(&seen[2]), (Some("2".into()), "2".into()), "a removal tells the last value");
        assert!(seen[2].iter().all(|event| event.kind == EventKind::Delete));
        assert_eq!(seen[2][7].record.create_revision, seen[0][7].record.mod_revision);
    }
}

async fn watchers_are_told_of_commits_elsewhere(store: Arc<dyn Store>) {
    let store = &*store;
    let start = now(store).await;
    let mut quiet = store.watch("/registry/quiet/", start).await.expect("watch");
    for n in 0..5 {
        commit(store, put("/registry/busy", n.to_string())).await;
        commit(store, put("/outside", n.to_string())).await;
    }
    let target = now(store).await;
    loop {
        match next(&mut quiet).await {
            Ok(WatchMessage::Progress(revision)) if revision >= target => break,
            Ok(WatchMessage::Progress(revision)) => assert!(revision > start),
            other => panic!("nothing happened under the prefix, but {other:?}"),
        }
    }
    // What was told must be true: nothing before it may follow.
    let event = commit(store, put("/registry/quiet/a", "1")).await;
    let told = events(&mut quiet, 1).await;
    assert_eq!(told[0].record.mod_revision, event);
}

async fn compaction_forgets_the_past_only(store: Arc<dyn Store>) {
    let store = &*store;
    let (a, b) = ("/registry/compact/a", "/registry/compact/b");
    let first = commit(store, put(a, "1")).await;
    commit(store, put(b, "2")).await;
    let third = commit(store, put(a, "3")).await;
    commit(store, delete(b)).await;
    let fifth = commit(store, put(a, "5")).await;
    let last = commit(store, put(a, "6")).await;
    store.compact(fifth).await.expect("compact");
    store.compact(third).await.expect("compacting again what is compacted does nothing");
    assert!(matches!(store.compact(Revision(last.0 + 1000)).await, Err(Error::Future(_))));
    for old in [first, third] {
        let request = RangeRequest { revision: Some(old), ..prefix("/registry/compact/") };
        assert!(
            matches!(store.range(request).await, Err(Error::Compacted { asked, oldest }) if asked == old && oldest > old),
            "a read at {old:?} fails"
        );
        let error = watch_error(store, "/registry/compact/", old).await;
        assert!(matches!(error, Error::Compacted { .. }), "a watch from {old:?} fails, but with {error:?}");
    }
    // Writes go on, whatever is cleaned up meanwhile.
    for n in 0..20 {
        commit(store, put("/registry/compact-other", n.to_string())).await;
    }
    for (revision, value) in [(fifth, "5"), (last, "6")] {
        let request = RangeRequest { revision: Some(revision), ..prefix("/registry/compact/") };
        let result = store.range(request).await.expect("what is not compacted can be read");
        let found: Vec<(&str, &[u8])> =
            result.records.iter().map(|record| (record.key.as_str(), record.value.as_ref())).collect();
        assert_eq!(found, [(a, value.as_bytes())]);
    }
    let mut watch = store.watch("/registry/compact/", fifth).await.expect("watch");
    let told = events(&mut watch, 1).await;
    assert_eq!(shown(&told), [format!("+{a}@{}", last.0)]);
    assert_eq!(told[0].prev.as_deref(), Some(b"5".as_ref()), "also the value before");
    // A key whose removal was compacted can be made again.
    let again = commit(store, Txn { conditions: vec![at(b, Revision(0))], ..put(b, "7") }).await;
    let told = events(&mut watch, 1).await;
    assert_eq!((told[0].record.create_revision, told[0].prev.clone()), (again, None));
    let request = RangeRequest { revision: Some(last), ..prefix("/registry/compact/") };
    assert_eq!(keys(store, request).await, [a]);
}

async fn records_expire_and_renewed_ones_do_not(store: Arc<dyn Store>) {
    let store = &*store;
    let write = |key: &str, ttl_seconds: Option<u64>| Txn {
        conditions: Vec::new(),
        ops: vec![Op::Put { key: key.into(), value: "v".into(), ttl_seconds }],
    };
    let (brief, kept, moved, removed) =
        ("/registry/expiry/brief", "/registry/expiry/kept", "/registry/expiry/moved", "/registry/expiry/removed");
    let start = now(store).await;
    commit(store, write(brief, Some(1))).await;
    commit(store, write(kept, Some(1))).await;
    commit(store, write(kept, None)).await;
    commit(store, write(moved, Some(1))).await;
    commit(store, write(moved, Some(600))).await;
    commit(store, write(removed, Some(1))).await;
    let before = commit(store, delete(removed)).await;
    let mut watch = store.watch("/registry/expiry/", start).await.expect("watch");
    let told = events(&mut watch, 8).await;
    let last = told.last().expect("eight events");
    assert_eq!((last.kind, last.record.key.as_str()), (EventKind::Delete, brief), "{:?}", shown(&told));
    assert!(last.record.mod_revision > before, "an expiry is a commit of its own");
    assert_eq!((last.record.value.as_ref(), last.prev.as_deref()), (b"v".as_ref(), Some(b"v".as_ref())));
    assert_eq!(get(store, brief).await, None);
    assert_eq!(keys(store, prefix("/registry/expiry/")).await, [kept, moved]);
}

async fn a_slow_watcher_never_stops_the_store(store: Arc<dyn Store>) {
    let start = now(&*store).await;
    let mut slow = store.watch("/registry/slow/", start).await.expect("watch");
    // More than a queue may hold, written at the usual pace, while the watcher does not read.
    let value = noise(256 << 10);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (store, value) = (store.clone(), value.clone());
            tokio::spawn(async move {
                for _ in 0..40 {
                    commit(&*store, put(&format!("/registry/slow/{writer}"), value.clone())).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("writers are not stopped");
    }
    let mut told = start;
    let mut count = 0;
    while count < 160 {
        match next(&mut slow).await {
            Ok(WatchMessage::Progress(_)) => {}
            Ok(WatchMessage::Events(events)) => {
                for event in events {
                    assert_eq!(event.record.mod_revision.0, told.0 + 1, "no gap before the end");
                    told = event.record.mod_revision;
                    count += 1;
                }
            }
            Err(Error::Slow) => break,
            Err(error) => panic!("a slow watcher is told that it is slow, not {error}"),
        }
    }
    // It can go on where it stood.
    let mut again = store.watch("/registry/slow/", told).await.expect("watch");
    let rest = events(&mut again, 160 - count).await;
    assert!(rest.iter().zip(told.0 + 1..).all(|(event, revision)| event.record.mod_revision.0 == revision));
}

async fn concurrent_writers_never_overwrite_each_other(store: Arc<dyn Store>) {
    const WRITERS: usize = 8;
    const EACH: usize = 25;
    let key = "/registry/counter/a";
    commit(&*store, put(key, "0")).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                let mut current = get(&*store, key).await;
                while mine.len() < EACH {
                    let record = current.take().expect("the counter exists");
                    let count: usize = std::str::from_utf8(&record.value).expect("text").parse().expect("number");
                    let txn =
                        Txn { conditions: vec![at(key, record.mod_revision)], ..put(key, (count + 1).to_string()) };
                    match store.commit(txn).await.expect("commit") {
                        Outcome::Committed(revision) => {
                            mine.push(revision);
                            current = get(&*store, key).await;
                        }
                        Outcome::Failed(mut found) => current = found.remove(0),
                    }
                }
                mine
            })
        })
        .collect();
    let mut revisions = Vec::new();
    for writer in writers {
        let mine = writer.await.expect("writer");
        assert!(mine.is_sorted_by(|a, b| a < b), "one client sees revisions rise");
        revisions.extend(mine);
    }
    let record = get(&*store, key).await.expect("present");
    assert_eq!(record.value, (WRITERS * EACH).to_string(), "no increment is lost");
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), WRITERS * EACH, "no revision is given twice");
    assert_eq!(revisions.last(), Some(&record.mod_revision));
}

async fn a_closed_store_says_so(store: Arc<dyn Store>) {
    let mut watch = store.watch("/registry/closed/", now(&*store).await).await.expect("watch");
    let revision = commit(&*store, put("/registry/closed/a", "1")).await;
    store.close().await;
    store.close().await;
    assert!(matches!(store.commit(put("/registry/closed/a", "2")).await, Err(Error::Closed)));
    assert!(matches!(store.get("/registry/closed/a").await, Err(Error::Closed)));
    assert!(matches!(store.range(prefix("/registry/closed/")).await, Err(Error::Closed)));
    assert!(matches!(store.current_revision().await, Err(Error::Closed)));
    assert!(matches!(store.compact(revision).await, Err(Error::Closed)));
    assert!(store.watch("/registry/closed/", revision).await.is_err());
    loop {
        match next(&mut watch).await {
            Ok(WatchMessage::Events(events)) => assert_eq!(events[0].record.mod_revision, revision),
            Ok(WatchMessage::Progress(_)) => {}
            Err(error) => {
                assert!(matches!(error, Error::Closed), "{error}");
                break;
            }
        }
    }
    assert!(watch.next().await.is_none());
}
