//! Encryption at rest on both backends: what stands in the store behind, what comes out, rotation and reload.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use orkd_store::backends::embedded::{Embedded, Options};
use orkd_store::contract::{self, commit, events, put};
use orkd_store::envelope::{Encrypted, Resources, Rules};
use orkd_store::{Condition, Error, EventKind, Op, Outcome, RangeRequest, Revision, Store, Txn};

use crate::etcd_server::EtcdServer;
use crate::fake_kms;

/// Keys of 32 and 16 bytes.
const K32: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const L32: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";
const K16: &str = "AAECAwQFBgcICQoLDA0ODw==";
const SECRET: &str = "/registry/secrets/default/db";

fn resources() -> Resources {
    let table = [("secrets", "", "secrets"), ("configmaps", "", "configmaps"), ("pods", "", "pods")];
    Resources::new(table.map(|(p, g, r)| (p.to_owned(), g.to_owned(), r.to_owned())))
}

fn keys(cipher: &str, keys: &[(&str, &str)]) -> String {
    let list: Vec<String> = keys.iter().map(|(n, s)| format!("{{name: {n}, secret: {s}}}")).collect();
    format!("{{{cipher}: {{keys: [{}]}}}}", list.join(", "))
}

async fn rules(providers: &[String]) -> Rules {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
         providers: [{}]\n",
        providers.join(", ")
    );
    Rules::load(&text, "").await.unwrap_or_else(|why| panic!("{why}\n{text}"))
}

fn embedded(directory: &std::path::Path) -> Arc<dyn Store> {
    Arc::new(Embedded::open(directory, Options::default()).expect("store"))
}

async fn value(store: &dyn Store, key: &str) -> Bytes {
    store.get(key).await.expect("read").expect("there is one").value
}

/// Everything of one backend: prefixes, association with the key, watch, failed conditions, rotation.
async fn check(inner: Arc<dyn Store>) {
    let identity = "{identity: {}}".to_owned();
    let store = Encrypted::new(inner.clone(), resources(), rules(std::slice::from_ref(&identity)).await);
    commit(&store, put(SECRET, "{\"old\":1}")).await;
    commit(&store, put("/registry/configmaps/default/c", "{}")).await;
    assert_eq!(value(&*inner, SECRET).await, "{\"old\":1}");

    let start = store.current_revision().await.expect("revision");
    let mut watch = store.watch("/registry/", start).await.expect("watch");
    let mut written = 0;
    for (cipher, secret) in [("aescbc", K32), ("aesgcm", K16), ("secretbox", K32), ("aescbc", K16), ("aesgcm", K32)] {
        // The new first, the old ways behind it: rotation as upstream's documentation has it.
        store.reload(rules(&[keys(cipher, &[("key1", secret)]), identity.clone()]).await);
        let text = format!("{{\"by\":\"{cipher}\"}}");
        commit(&store, put(SECRET, text.clone())).await;
        written += 1;
        let raw = value(&*inner, SECRET).await;
        let prefix = format!("k8s:enc:{cipher}:v1:key1:");
        assert!(raw.starts_with(prefix.as_bytes()), "{raw:?}");
        assert!(!String::from_utf8_lossy(&raw).contains("by"), "nothing in the clear");
        assert_eq!(value(&store, SECRET).await, text);
        assert!(!store.is_stale(SECRET).await.expect("asked"));
        let told = events(&mut watch, 1).await;
        assert_eq!(told[0].record.value, text);

        // A second key in front: what stands is read, stale, and written with the new key by the next write.
        store.reload(rules(&[keys(cipher, &[("key2", secret), ("key1", secret)]), identity.clone()]).await);
        assert_eq!(value(&store, SECRET).await, text);
        assert!(store.is_stale(SECRET).await.expect("asked"));
        let listed = store.range(RangeRequest { prefix: "/registry/secrets/".into(), ..RangeRequest::default() }).await;
        assert_eq!(listed.expect("listed").records[0].value, text);
        commit(&store, put(SECRET, text.clone())).await;
        written += 1;
        events(&mut watch, 1).await;
        assert!(value(&*inner, SECRET).await.starts_with(format!("k8s:enc:{cipher}:v1:key2:").as_bytes()));
        assert!(!store.is_stale(SECRET).await.expect("asked"));

        // A lost race tells what stands in the clear.
        let ops = vec![Op::Put { key: SECRET.into(), value: "{}".into(), ttl_seconds: None }];
        let conditions = vec![Condition { key: SECRET.into(), mod_revision: Revision(1) }];
        match store.commit(Txn { conditions, ops }).await.expect("commit") {
            Outcome::Failed(standing) => assert_eq!(standing[0].as_ref().expect("record").value, text),
            other => panic!("{other:?}"),
        }
        // Back to the clear.
        store.reload(rules(&[identity.clone(), keys(cipher, &[("key2", secret)])]).await);
        assert_eq!(value(&store, SECRET).await, text);
        assert!(store.is_stale(SECRET).await.expect("asked"));
        commit(&store, put(SECRET, "{\"clear\":1}")).await;
        written += 1;
        events(&mut watch, 1).await;
        assert_eq!(value(&*inner, SECRET).await, "{\"clear\":1}");
    }
    assert_eq!(written, 15);

    // AES-GCM binds a value to its key: a copy elsewhere is not read.
    store.reload(rules(&[keys("aesgcm", &[("key1", K32)])]).await);
    commit(&store, put(SECRET, "{}")).await;
    events(&mut watch, 1).await;
    let moved = "/registry/secrets/other/db";
    let raw = value(&*inner, SECRET).await;
    let ops = vec![Op::Put { key: moved.into(), value: raw, ttl_seconds: None }];
    inner.commit(Txn { conditions: Vec::new(), ops }).await.expect("moved");
    assert!(matches!(store.get(moved).await, Err(Error::Corrupt(why)) if why.contains("authentication failed")));
    // The watch goes on past it.
    events(&mut watch, 1).await;
    let ops = vec![Op::Delete { key: moved.into() }];
    store.commit(Txn { conditions: Vec::new(), ops }).await.expect("deleted");
    assert_eq!(events(&mut watch, 1).await[0].kind, EventKind::Delete);

    // A key that is not there any more; a value of a resource that is not to be encrypted.
    store.reload(rules(&[keys("aesgcm", &[("other", L32)])]).await);
    assert!(matches!(store.get(SECRET).await, Err(Error::Corrupt(why)) if why.contains("no matching key was found")));
    store.reload(rules(&[keys("aesgcm", &[("key1", L32)])]).await);
    assert!(matches!(store.get(SECRET).await, Err(Error::Corrupt(_))));
    store.reload(rules(&[identity]).await);
    let refused = store.get(SECRET).await;
    assert!(matches!(&refused, Err(Error::Corrupt(why)) if why.contains("no matching prefix found")), "{refused:?}");
    assert_eq!(value(&store, "/registry/configmaps/default/c").await, "{}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_encrypted_in_the_embedded_store() {
    let directory = tempfile::tempdir().expect("directory");
    check(embedded(directory.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_encrypted_in_etcd() {
    let Some(server) = EtcdServer::start("values_are_encrypted_in_etcd") else { return };
    check(Arc::new(server.connect(server.options()).await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encrypted_store_keeps_the_contract() {
    let directory = tempfile::tempdir().expect("directory");
    let number = std::sync::atomic::AtomicU32::new(0);
    contract::run(|| {
        let path = directory.path().join(number.fetch_add(1, Ordering::SeqCst).to_string());
        async move {
            let table = [("pods", "", "pods"), ("secrets", "", "secrets"), ("p", "", "p")];
            let resources = Resources::new(table.map(|(p, g, r)| (p.to_owned(), g.to_owned(), r.to_owned())));
            let text = format!(
                "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: ['*.*']\n  \
                 providers: [{}]\n",
                keys("secretbox", &[("key1", K32)])
            );
            let rules = Rules::load(&text, "").await.expect("rules");
            let store: Arc<dyn Store> = Arc::new(Encrypted::new(embedded(&path), resources, rules));
            store
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_management_service_keeps_the_seeds() {
    let directory = tempfile::tempdir().expect("directory");
    let (knobs, socket) = fake_kms::serve(directory.path());
    let kms = format!("{{kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{}'}}}}", socket.display());
    let inner = embedded(&directory.path().join("db"));
    let store = Encrypted::new(inner.clone(), resources(), rules(std::slice::from_ref(&kms)).await);
    assert_eq!(store.rules().health(), [Ok(())]);
    for name in ["a", "b", "c"] {
        commit(&store, put(&format!("/registry/secrets/default/{name}"), format!("{{\"{name}\":1}}"))).await;
    }
    let key = "/registry/secrets/default/a";
    let raw = value(&*inner, key).await;
    assert!(raw.starts_with(b"k8s:enc:kms:v2:vault:"), "{raw:?}");
    assert_eq!(value(&store, key).await, "{\"a\":1}");
    assert_eq!(knobs.decrypted.load(Ordering::SeqCst), 0, "the seed in use is in memory");

    // Another process asks for the seed once.
    let again = Encrypted::new(inner.clone(), resources(), rules(std::slice::from_ref(&kms)).await);
    for name in ["a", "b", "c"] {
        assert_eq!(value(&again, &format!("/registry/secrets/default/{name}")).await, format!("{{\"{name}\":1}}"));
    }
    assert_eq!(knobs.decrypted.load(Ordering::SeqCst), 1);

    // The service has another key: the old is read and stale.
    knobs.key.store(3, Ordering::SeqCst);
    let rotated = Encrypted::new(inner.clone(), resources(), rules(std::slice::from_ref(&kms)).await);
    assert_eq!(value(&rotated, key).await, "{\"a\":1}");
    assert!(rotated.is_stale(key).await.expect("asked"));
    commit(&rotated, put(key, "{\"a\":2}")).await;
    assert!(!rotated.is_stale(key).await.expect("asked"));
    assert_eq!(value(&again, key).await, "{\"a\":2}");
    // Bound to its place as with AES-GCM.
    let ops = vec![Op::Put {
        key: "/registry/secrets/default/x".into(),
        value: value(&*inner, key).await,
        ttl_seconds: None,
    }];
    inner.commit(Txn { conditions: Vec::new(), ops }).await.expect("copied");
    assert!(store.get("/registry/secrets/default/x").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sick_key_management_service_writes_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let (knobs, socket) = fake_kms::serve(directory.path());
    knobs.sick.store(true, Ordering::SeqCst);
    let kms = format!("{{kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{}'}}}}", socket.display());
    let well = knobs.clone();
    let load = rules(std::slice::from_ref(&kms));
    tokio::pin!(load);
    // It does not answer well, so loading waits; then it does.
    tokio::select! {
        _ = &mut load => panic!("loaded with a sick service"),
        () = tokio::time::sleep(std::time::Duration::from_millis(300)) => well.sick.store(false, Ordering::SeqCst),
    }
    let rules = load.await;
    assert_eq!(rules.health(), [Ok(())]);
    let store = Encrypted::new(embedded(&directory.path().join("db")), resources(), rules);
    commit(&store, put(SECRET, "{}")).await;
    let garbled = format!("{{kms: {{apiVersion: v2, name: other, endpoint: 'unix://{}'}}}}", socket.display());
    store.reload(self::rules(&[garbled]).await);
    let refused = store.get(SECRET).await;
    assert!(matches!(&refused, Err(Error::Corrupt(why)) if why.contains("no matching prefix found")), "{refused:?}");
}

/// A service that is gone is not missed at once: its seeds are in memory. They read for ever and write for three minutes.
#[tokio::test]
async fn a_service_that_is_gone_is_read_without_and_written_without_for_a_while() {
    let directory = tempfile::tempdir().expect("directory");
    let (knobs, socket) = fake_kms::serve(directory.path());
    let kms = format!("{{kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{}'}}}}", socket.display());
    let store = Encrypted::new(embedded(&directory.path().join("db")), resources(), rules(&[kms]).await);
    commit(&store, put(SECRET, "{\"a\":1}")).await;
    knobs.sick.store(true, Ordering::SeqCst);
    commit(&store, put(SECRET, "{\"a\":2}")).await;

    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(181)).await;
    tokio::time::resume();
    assert_eq!(value(&store, SECRET).await, "{\"a\":2}");
    let ops = vec![Op::Put { key: SECRET.into(), value: "{}".into(), ttl_seconds: None }];
    let refused = store.commit(Txn { conditions: Vec::new(), ops: ops.clone() }).await;
    let Err(Error::Sealing(why)) = refused else { panic!("{refused:?}") };
    assert_eq!(
        why,
        "encryptedDEKSource of KMS provider vault expired: the service has not confirmed its key for 180 seconds"
    );
    assert_eq!(value(&store, SECRET).await, "{\"a\":2}");

    // Well again, with another key. Nobody has to do anything.
    knobs.key.store(5, Ordering::SeqCst);
    knobs.sick.store(false, Ordering::SeqCst);
    let well = async {
        while store.commit(Txn { conditions: Vec::new(), ops: ops.clone() }).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), well).await.expect("it writes again");
    assert_eq!((value(&store, SECRET).await, store.rules().health()), ("{}".into(), vec![Ok(())]));
}
