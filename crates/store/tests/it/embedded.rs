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
