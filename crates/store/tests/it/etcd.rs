//! What the etcd backend promises beyond the contract, against a real etcd.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orkd_store::backends::etcd::{Etcd, EtcdOptions};
use orkd_store::contract::{self, commit, events, next, put};
use orkd_store::{Error, Outcome, RangeRequest, Revision, Store, Txn, WatchMessage};

use crate::etcd_server::{EtcdServer, TlsFiles};

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
    let us = server.connect(EtcdOptions { prefix: "/us".into(), ..server.options() }).await;
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

/// Commits until it is known to be committed; a member that dies may leave that open.
async fn insist(store: &Etcd, txn: Txn) -> Revision {
    let started = Instant::now();
    loop {
        match store.commit(txn.clone()).await {
            Ok(Outcome::Committed(revision)) => return revision,
            Err(Error::Unavailable(_)) if started.elapsed() < Duration::from_secs(30) => {}
            other => panic!("not committed: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_serves_on_when_a_member_dies() {
    let Some(mut members) = EtcdServer::start_cluster("a_cluster_serves_on_when_a_member_dies", 3) else { return };
    let endpoints = members.iter().map(|member| member.endpoint.clone()).collect();
    let options = EtcdOptions { endpoints, timeout: Duration::from_secs(3), ..EtcdOptions::default() };
    let store = members[0].connect(options).await;
    let start = store.current_revision().await.expect("revision");
    let mut watch = store.watch("/registry/", start).await.expect("watch");
    let mut count = 0;
    for (victim, member) in members.iter_mut().enumerate() {
        member.stop();
        for n in 0..10 {
            insist(&store, put("/registry/a", format!("{victim}-{n}"))).await;
            count += 1;
        }
        let record = store.get("/registry/a").await.expect("reads go to a member that lives").expect("present");
        assert_eq!(record.value, format!("{victim}-9"));
        member.restart();
    }
    let end = insist(&store, put("/registry/end", "x")).await;
    // A commit that was repeated may have happened twice, but what happened is told once and in order.
    let mut told: Vec<(Revision, String)> = Vec::new();
    while told.last().is_none_or(|(revision, _)| *revision < end) {
        if let WatchMessage::Events(events) = next(&mut watch).await.expect("the watch goes on") {
            for event in events {
                told.push((event.record.mod_revision, String::from_utf8_lossy(&event.record.value).into_owned()));
            }
        }
    }
    assert!(told.is_sorted_by(|a, b| a.0 < b.0), "{told:?}");
    told.dedup_by(|a, b| a.1 == b.1);
    assert_eq!(told.len(), count + 1, "{told:?}");
}

#[tokio::test]
async fn an_endpoint_where_nobody_listens_does_no_harm() {
    let Some(server) = EtcdServer::start("an_endpoint_where_nobody_listens") else { return };
    let endpoints = vec!["http://127.0.0.1:1".to_string(), server.endpoint.clone()];
    let store = server.connect(EtcdOptions { endpoints, ..server.options() }).await;
    for n in 0..30 {
        commit(&store, put("/registry/a", n.to_string())).await;
        assert_eq!(store.get("/registry/a").await.expect("get").expect("present").value, n.to_string());
    }
    let alone = EtcdOptions { endpoints: vec!["http://127.0.0.1:1".to_string()], ..server.options() };
    let Err(Error::Unavailable(text)) = Etcd::connect(alone).await else { panic!("nobody listens") };
    assert!(text.contains("refused"), "the reason is told: {text}");
}

/// An authority and one certificate for both sides.
fn tls_files(directory: &Path) -> TlsFiles {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    let mut ca_params = CertificateParams::new(Vec::new()).expect("parameters");
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().expect("key");
    let ca = ca_params.self_signed(&ca_key).expect("certificate");
    let issuer = Issuer::new(ca_params, ca_key);
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_string()]).expect("parameters");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().expect("key");
    let cert = params.signed_by(&key, &issuer).expect("certificate");
    let write = |name: &str, pem: String| {
        let path = directory.join(name);
        std::fs::write(&path, pem).expect("write");
        path
    };
    TlsFiles {
        ca: write("ca.crt", ca.pem()),
        cert: write("etcd.crt", cert.pem()),
        key: write("etcd.key", key.serialize_pem()),
    }
}

#[tokio::test]
async fn tls_with_client_certificates_works_and_strangers_are_refused() {
    let directory = tempfile::tempdir().expect("tempdir");
    let files = tls_files(directory.path());
    let Some(server) = EtcdServer::start_with("tls_with_client_certificates", Some(&files)) else { return };
    let options = EtcdOptions {
        ca: Some(files.ca.clone()),
        cert: Some(files.cert.clone()),
        key: Some(files.key.clone()),
        ..server.options()
    };
    let store = server.connect(options.clone()).await;
    let start = store.current_revision().await.expect("revision");
    let mut watch = store.watch("/registry/", start).await.expect("watch");
    commit(&store, put("/registry/a", "1")).await;
    assert_eq!(events(&mut watch, 1).await[0].record.value, "1");

    let other = tempfile::tempdir().expect("tempdir");
    let stranger = tls_files(other.path());
    let wrong_ca = EtcdOptions { ca: Some(stranger.ca), ..options.clone() };
    assert!(matches!(Etcd::connect(wrong_ca).await, Err(Error::Unavailable(_))));
    let wrong_client = EtcdOptions { cert: Some(stranger.cert), key: Some(stranger.key), ..options.clone() };
    assert!(matches!(Etcd::connect(wrong_client).await, Err(Error::Unavailable(_))));
    let no_ca = EtcdOptions { ca: None, ..options.clone() };
    assert!(matches!(Etcd::connect(no_ca).await, Err(Error::Invalid(_))));
    let half = EtcdOptions { key: None, ..options };
    assert!(matches!(Etcd::connect(half).await, Err(Error::Invalid(_))));
}

/// History is compacted by upstream's protocol: what was current an interval ago stays readable.
#[tokio::test]
async fn history_is_compacted_every_interval() {
    let Some(server) = EtcdServer::start("history_is_compacted_every_interval") else { return };
    let interval = Duration::from_millis(200);
    let store = server.connect(EtcdOptions { compaction_interval: Some(interval), ..server.options() }).await;
    // A second server that shares the etcd must not compact what the first one would keep.
    let _other = server.connect(EtcdOptions { compaction_interval: Some(interval), ..server.options() }).await;
    let first = commit(&store, put("/registry/a", "1")).await;
    commit(&store, put("/registry/a", "2")).await;
    let started = Instant::now();
    let request = RangeRequest { prefix: "/registry/".into(), revision: Some(first), ..RangeRequest::default() };
    loop {
        match store.range(request.clone()).await {
            Err(Error::Compacted { asked, oldest }) => {
                assert!(asked == first && oldest > first);
                break;
            }
            Ok(_) => assert!(started.elapsed() < Duration::from_secs(30), "never compacted"),
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(interval / 4).await;
    }
    assert!(started.elapsed() > interval, "what was current an interval ago is kept");
    assert_eq!(store.get("/registry/a").await.expect("get").expect("present").value, "2");
}

/// A way to etcd that can be cut and mended.
struct Cable {
    endpoint: String,
    is_cut: tokio::sync::watch::Sender<bool>,
}

impl Cable {
    async fn to(server: &EtcdServer) -> Self {
        let target = server.endpoint.trim_start_matches("http://").to_string();
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("address"));
        let is_cut = tokio::sync::watch::Sender::new(false);
        let mut cut = is_cut.subscribe();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if *cut.borrow_and_update() {
                    continue;
                }
                let (target, mut cut) = (target.clone(), cut.clone());
                tokio::spawn(async move {
                    let Ok(mut far) = tokio::net::TcpStream::connect(&target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Self { endpoint, is_cut }
    }

    fn set_cut(&self, cut: bool) {
        self.is_cut.send_replace(cut);
    }
}

#[tokio::test]
async fn watches_go_on_after_a_cut_and_are_told_when_history_is_gone() {
    let Some(server) = EtcdServer::start("watches_go_on_after_a_cut") else { return };
    let direct = server.connect(server.options()).await;
    let cable = Cable::to(&server).await;
    let options = EtcdOptions {
        endpoints: vec![cable.endpoint.clone()],
        timeout: Duration::from_secs(2),
        ..EtcdOptions::default()
    };
    let store = server.connect(options).await;
    let mut watch = store.watch("/registry/", store.current_revision().await.expect("revision")).await.expect("watch");
    let first = commit(&direct, put("/registry/a", "1")).await;
    assert_eq!(events(&mut watch, 1).await[0].record.mod_revision, first);

    cable.set_cut(true);
    commit(&direct, put("/registry/a", "2")).await;
    assert!(matches!(store.get("/registry/a").await, Err(Error::Unavailable(_))));
    let third = commit(&direct, put("/registry/a", "3")).await;
    cable.set_cut(false);
    assert_eq!(events(&mut watch, 2).await[1].record.mod_revision, third, "what was missed is told");

    cable.set_cut(true);
    commit(&direct, put("/registry/a", "4")).await;
    let fifth = commit(&direct, put("/registry/a", "5")).await;
    direct.compact(fifth).await.expect("compact");
    cable.set_cut(false);
    loop {
        match next(&mut watch).await {
            Ok(WatchMessage::Progress(told)) => assert!(told < fifth),
            Ok(WatchMessage::Events(events)) => panic!("{events:?} is told, but what was before it is gone"),
            Err(Error::Compacted { oldest, .. }) => {
                assert!(oldest >= fifth);
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let mut watch = store.watch("/registry/", fifth).await.expect("watch");
    let sixth = commit(&direct, put("/registry/a", "6")).await;
    assert_eq!(events(&mut watch, 1).await[0].record.mod_revision, sixth);
}
