//! What the etcd backend promises beyond the contract, against a real etcd.

use std::sync::Arc;

use orkd_store::contract::{self, commit, events, next, put};
use orkd_store::{Store, WatchMessage};

use crate::etcd_server::EtcdServer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_the_contract() {
    let Some(server) = EtcdServer::start("etcd_keeps_the_contract") else { return };
    let server = &server;
    contract::run(|| async move {
        let store: Arc<dyn Store> = Arc::new(server.connect(server.options()).await);
        store
    })
    .await;
}

/// The watch of one store must follow what another client writes, inside of the prefix and outside.
#[tokio::test]
async fn a_namespace_of_keys_is_alone_and_still_reaches_the_current_revision() {
    let Some(server) = EtcdServer::start("a_namespace_of_keys_is_alone") else { return };
    let us = server.connect(orkd_store::backends::etcd::EtcdOptions { prefix: "/us".into(), ..server.options() }).await;
    let them = server.connect(server.options()).await;
    let start = us.current_revision().await.expect("revision");
    let mut watch = us.watch("/registry/", start).await.expect("watch");
    let foreign = commit(&them, put("/registry/pods/a", "theirs")).await;
    let Ok(WatchMessage::Progress(told)) = next(&mut watch).await else { panic!("only progress is due") };
    assert_eq!(told, foreign);
    let ours = commit(&us, put("/registry/pods/a", "ours")).await;
    let told = events(&mut watch, 1).await;
    assert_eq!((told[0].record.key.as_str(), told[0].record.mod_revision), ("/registry/pods/a", ours));
    let stored = them.get("/us/registry/pods/a").await.expect("get").expect("stored under the prefix");
    assert_eq!(stored.value, "ours");
}

#[tokio::test]
async fn watches_survive_a_restart_of_etcd_without_loss_or_repetition() {
    let Some(mut server) = EtcdServer::start("watches_survive_a_restart_of_etcd") else { return };
    let store = server.connect(server.options()).await;
    let start = store.current_revision().await.expect("revision");
    let mut watch = store.watch("/registry/", start).await.expect("watch");
    let mut written = Vec::new();
    for round in 0..3 {
        for n in 0..5 {
            written.push(commit(&store, put(&format!("/registry/{round}"), n.to_string())).await);
        }
        server.stop();
        let lost = store.commit(put("/registry/lost", "x")).await;
        assert!(matches!(lost, Err(orkd_store::Error::Unavailable(_))), "{lost:?}");
        server.restart();
        server.connect(server.options()).await.close().await;
    }
    written.push(commit(&store, put("/registry/end", "x")).await);
    let told = events(&mut watch, written.len()).await;
    let told: Vec<_> = told.iter().map(|event| event.record.mod_revision).collect();
    assert_eq!(told, written);
}
