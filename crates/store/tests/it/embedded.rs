//! What only the embedded store promises.

use orkd_store::backends::embedded::{Embedded, Options};
use orkd_store::{Condition, Error, Op, Outcome, RangeRequest, Revision, Store, Txn};

fn put(key: &str, value: &str) -> Txn {
    Txn {
        conditions: Vec::new(),
        ops: vec![Op::Put { key: key.into(), value: value.to_string().into(), ttl_seconds: None }],
    }
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let directory = tempfile::tempdir().expect("tempdir");
    let store = Embedded::open(directory.path(), Options::default()).expect("open");
    assert_eq!(store.current_revision().await.expect("revision"), Revision(1));
    let outcome = store.commit(put("/a", "1")).await.expect("commit");
    assert_eq!(outcome, Outcome::Committed(Revision(2)));
    store.commit(put("/a", "2")).await.expect("commit");
    let conditions = vec![Condition { key: "/a".into(), mod_revision: Revision(2) }];
    let Outcome::Failed(now) = store.commit(Txn { conditions, ..put("/a", "3") }).await.expect("commit") else {
        panic!("the condition does not hold")
    };
    assert_eq!(now[0].as_ref().map(|record| record.mod_revision), Some(Revision(3)));
    let mut watch = store.watch("/", Revision(0)).await.expect("0 is before everything");
    assert_eq!(orkd_store::contract::events(&mut watch, 2).await[0].record.mod_revision, Revision(2));
    store.close().await;
    assert!(matches!(store.commit(put("/a", "3")).await, Err(Error::Closed)));
    assert!(matches!(store.get("/a").await, Err(Error::Closed)));

    let store = Embedded::open(directory.path(), Options::default()).expect("reopen");
    assert_eq!(store.current_revision().await.expect("revision"), Revision(3));
    let record = store.get("/a").await.expect("get").expect("present");
    assert_eq!((record.value.as_ref(), record.create_revision), (b"2".as_ref(), Revision(2)));
    let old = RangeRequest { prefix: "/".into(), revision: Some(Revision(2)), ..RangeRequest::default() };
    assert_eq!(store.range(old).await.expect("range").records[0].value, "1");
}

#[tokio::test]
async fn a_second_process_and_a_foreign_file_are_refused_by_name() {
    let directory = tempfile::tempdir().expect("tempdir");
    let store = Embedded::open(directory.path(), Options::default()).expect("open");
    let Err(Error::Locked(text)) = Embedded::open(directory.path(), Options::default()) else {
        panic!("the store is held")
    };
    assert!(text.contains("store.redb"), "{text}");
    drop(store);
    Embedded::open(directory.path(), Options::default()).expect("released");
    let foreign = tempfile::tempdir().expect("tempdir");
    std::fs::write(foreign.path().join("store.redb"), vec![b'x'; 8192]).expect("write");
    let Err(Error::Corrupt(text)) = Embedded::open(foreign.path(), Options::default()) else { panic!("not a store") };
    assert!(text.contains("store.redb"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_keeps_the_contract() {
    let directory = tempfile::tempdir().expect("tempdir");
    let next = std::sync::atomic::AtomicUsize::new(0);
    let (directory, next) = (directory.path(), &next);
    orkd_store::contract::run(|| async move {
        let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = directory.join(number.to_string());
        let store: std::sync::Arc<dyn Store> =
            std::sync::Arc::new(Embedded::open(path, Options::default()).expect("open"));
        store
    })
    .await;
}

/// Copies a file of an open store: what a crash would leave of it.
fn copy(from: &std::path::Path, to: &std::path::Path, name: &str) {
    std::fs::create_dir_all(to).expect("mkdir");
    std::fs::copy(from.join(name), to.join(name)).expect("copy");
}

/// The database loses all that was not synchronised, the log is as it was synchronised: nothing acknowledged is lost.
#[tokio::test]
async fn the_log_alone_brings_back_what_the_database_lost() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (live, crashed) = (directory.path().join("live"), directory.path().join("crashed"));
    let store = Embedded::open(&live, Options::default()).expect("open");
    copy(&live, &crashed, "store.redb");
    let mut expected = Vec::new();
    for n in 0..50 {
        let mut txn = put(&format!("/a/{}", n % 7), &"long ".repeat(n * 40));
        txn.ops.push(Op::Delete { key: format!("/a/{}", (n + 3) % 7) });
        txn.ops.push(Op::Put { key: format!("/ttl/{}", n % 3), value: "x".into(), ttl_seconds: Some(600) });
        expected.push(store.commit(txn).await.expect("commit"));
    }
    copy(&live, &crashed, "store.log");
    let all = RangeRequest::default();
    let before = store.range(all.clone()).await.expect("range");
    let past = RangeRequest { revision: Some(Revision(20)), ..RangeRequest::default() };
    let past_before = store.range(past.clone()).await.expect("range");
    let again = Embedded::open(&crashed, Options::default()).expect("open after a crash");
    let after = again.range(all).await.expect("range");
    assert_eq!(after.records, before.records);
    assert!(after.revision > before.revision, "after a crash the store goes on above what was reserved");
    assert_eq!(again.range(past).await.expect("range").records, past_before.records);
    let mut watch = again.watch("/", Revision(1)).await.expect("watch");
    let told = orkd_store::contract::events(&mut watch, 50 * 2 + 46).await;
    assert_eq!(told.last().map(|event| event.record.mod_revision), Some(before.revision));
    // And once more from the checkpoint that opening made.
    again.close().await;
    let again = Embedded::open(&crashed, Options::default()).expect("reopen");
    assert_eq!(again.range(RangeRequest::default()).await.expect("range").records, before.records);
}

/// Should a disk lie and the log be gone, acknowledged writes are lost, but no revision is given out twice, and whoever
/// saw the lost ones is told.
#[tokio::test]
async fn lost_revisions_are_never_given_out_again() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (live, crashed) = (directory.path().join("live"), directory.path().join("crashed"));
    let store = Embedded::open(&live, Options::default()).expect("open");
    copy(&live, &crashed, "store.redb");
    let mut last = Revision(0);
    for n in 0..20 {
        let Ok(Outcome::Committed(revision)) = store.commit(put("/a", &n.to_string())).await else { panic!("commit") };
        last = revision;
    }
    for _ in 0..2 {
        let again = Embedded::open(&crashed, Options::default()).expect("open after a crash");
        let now = again.current_revision().await.expect("revision");
        assert!(now > last);
        assert!(matches!(again.watch("/", last).await, Err(Error::Compacted { oldest, .. }) if oldest <= now));
        let request = RangeRequest { revision: Some(last), ..RangeRequest::default() };
        assert!(matches!(again.range(request).await, Err(Error::Compacted { .. })));
        assert!(again.watch("/", now).await.is_ok());
        again.close().await;
    }
    // Opened in order, closed in order: no jump.
    let again = Embedded::open(&crashed, Options::default()).expect("reopen");
    let now = again.current_revision().await.expect("revision");
    again.close().await;
    let again = Embedded::open(&crashed, Options::default()).expect("reopen");
    assert_eq!(again.current_revision().await.expect("revision"), now);
}

#[tokio::test]
async fn a_backup_is_a_store_and_a_foreign_log_does_not_run_into_it() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (live, copied) = (directory.path().join("live"), directory.path().join("copied"));
    let store = Embedded::open(&live, Options::default()).expect("open");
    store.commit(put("/a", "1")).await.expect("commit");
    store.commit(put("/a", "2")).await.expect("commit");
    let revision = store.backup(&copied).await.expect("backup");
    assert_eq!(revision, Revision(3));
    assert!(matches!(store.backup(&copied).await, Err(Error::Invalid(_))), "a backup is not overwritten");
    store.commit(put("/a", "3")).await.expect("commit");
    copy(&live, &copied, "store.log");
    let again = Embedded::open(&copied, Options::default()).expect("open the backup");
    assert_eq!(again.get("/a").await.expect("get").expect("present").value, "2");
    let old = RangeRequest { revision: Some(Revision(2)), ..RangeRequest::default() };
    assert_eq!(again.range(old).await.expect("range").records[0].value, "1");
    use std::os::unix::fs::PermissionsExt;
    for file in [copied.join("store.redb"), live.join("store.redb"), live.join("store.log")] {
        assert_eq!(std::fs::metadata(file).expect("metadata").permissions().mode() & 0o777, 0o600);
    }
}

/// One client costs one synchronisation a write, and an idle store none.
#[tokio::test]
async fn synchronisations_are_few() {
    let directory = tempfile::tempdir().expect("tempdir");
    let store = Embedded::open(directory.path(), Options::default()).expect("open");
    let before = store.syncs();
    for n in 0..100 {
        store.commit(put("/a", &n.to_string())).await.expect("commit");
    }
    assert_eq!(store.syncs() - before, 100);
    for _ in 0..100 {
        let conditions = vec![Condition { key: "/a".into(), mod_revision: Revision(1) }];
        store.commit(Txn { conditions, ..put("/a", "x") }).await.expect("commit");
        store.get("/a").await.expect("get");
    }
    assert_eq!(store.syncs() - before, 100, "what changes nothing is not synchronised");
}

/// What is forgotten also leaves the disk: a store that is rewritten again and again does not grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_keeps_the_file_small_and_survives_reopening() {
    let directory = tempfile::tempdir().expect("tempdir");
    let options = Options { history_revisions: 200, ..Options::default() };
    let noise: String = (0..4000_u32).map(|n| char::from(b'a' + (n.wrapping_mul(n) >> 7) as u8 % 26)).collect();
    let mut sizes = Vec::new();
    for round in 0..4 {
        let store = Embedded::open(directory.path(), options).expect("open");
        for n in 0..600 {
            store.commit(put(&format!("/a/{}", n % 20), &format!("{round} {n} {noise}"))).await.expect("commit");
        }
        let now = store.current_revision().await.expect("revision");
        let old = RangeRequest { revision: Some(Revision(now.0 - 500)), ..RangeRequest::default() };
        assert!(matches!(store.range(old).await, Err(Error::Compacted { .. })));
        let kept = RangeRequest { revision: Some(Revision(now.0 - 150)), ..RangeRequest::default() };
        assert_eq!(store.range(kept).await.expect("recent history is kept").count, 20);
        store.close().await;
        sizes.push(std::fs::metadata(directory.path().join("store.redb")).expect("metadata").len());
    }
    assert!(sizes[3] <= sizes[1], "the file grows: {sizes:?}");
}

/// Deadlines are on disk: what expires while nobody has the store open is removed when it is opened.
#[tokio::test]
async fn expiry_survives_reopening() {
    let directory = tempfile::tempdir().expect("tempdir");
    let store = Embedded::open(directory.path(), Options::default()).expect("open");
    let write = |key: &str, ttl| Txn {
        conditions: Vec::new(),
        ops: vec![Op::Put { key: key.into(), value: "x".into(), ttl_seconds: Some(ttl) }],
    };
    store.commit(write("/brief", 1)).await.expect("commit");
    let Ok(Outcome::Committed(last)) = store.commit(write("/long", 600)).await else { panic!("commit") };
    store.close().await;
    let store = Embedded::open(directory.path(), Options::default()).expect("reopen");
    let mut watch = store.watch("/", last).await.expect("watch");
    let told = orkd_store::contract::events(&mut watch, 1).await;
    assert_eq!((told[0].record.key.as_str(), told[0].kind), ("/brief", orkd_store::EventKind::Delete));
    assert!(store.get("/long").await.expect("get").is_some());
}
