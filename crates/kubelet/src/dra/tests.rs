//! A driver that is played: it prepares what it is asked for, except the claims `broken` and `forgotten`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use orkd_reconcile::Api;
use prost::Message;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::claims::ResourceClaim;
use super::proto::{Claims, Device, Prepared, PreparedClaim, Unprepared, UnpreparedClaim};
use super::{Drivers, Manager};
use crate::csi::proto::PluginInfo;
use crate::csi::tests::{Calls, methods, serve_with};
use crate::csi::{self, Known};
use crate::objects::Objects;
use crate::pod;

const DRIVER: &str = "gpu.example.com";

fn driver(socket: &Path) -> Calls {
    serve_with(socket, |method, body| match method {
        "GetInfo" => PluginInfo {
            kind: "DRAPlugin".to_owned(),
            name: DRIVER.to_owned(),
            endpoint: String::new(),
            supported_versions: vec!["v1beta1.DRAPlugin".to_owned(), "v1.DRAPlugin".to_owned()],
        }
        .encode_to_vec(),
        "NodePrepareResources" => {
            let claims = Claims::decode(body).expect("claims").claims.into_iter();
            let prepared = claims.filter(|c| c.name != "forgotten").map(|c| {
                let devices =
                    vec![Device { cdi_device_ids: vec![format!("{DRIVER}/gpu={}", c.name)], ..Device::default() }];
                let error = if c.name == "broken" { "no power".to_owned() } else { String::new() };
                (c.uid, PreparedClaim { devices, error })
            });
            Prepared { claims: prepared.collect() }.encode_to_vec()
        }
        "NodeUnprepareResources" => {
            let claims = Claims::decode(body).expect("claims").claims.into_iter();
            Unprepared { claims: claims.map(|c| (c.uid, UnpreparedClaim::default())).collect() }.encode_to_vec()
        }
        _ => Vec::new(),
    })
}

/// Every claim is there, has a device, and is reserved for `a` and `b`.
struct Claimed;

#[async_trait]
impl Objects for Claimed {
    async fn config_map(&self, _: &str, _: &str) -> Result<Option<ConfigMap>, String> {
        Ok(None)
    }
    async fn secret(&self, _: &str, _: &str) -> Result<Option<Secret>, String> {
        Ok(None)
    }
    async fn token(&self, _: &Pod, _: &str, _: Option<&str>, _: Duration) -> Result<(String, Timestamp), String> {
        Err("none".into())
    }
    async fn resource_claim(&self, namespace: &str, name: &str) -> Result<Option<ResourceClaim>, String> {
        let claim = json!({"metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{name}")}, "status": {
            "reservedFor": [{"uid": "a"}, {"uid": "b"}], "allocation": {"devices": {"results": [{"driver": DRIVER}]}}}});
        Ok((name != "missing").then(|| serde_json::from_value(claim).expect("a claim")))
    }
}

fn user(uid: &str, claim: &str) -> Pod {
    let pod = json!({"metadata": {"namespace": "n", "name": uid, "uid": uid}, "spec": {
        "resourceClaims": [{"name": "dev", "resourceClaimName": claim}],
        "containers": [{"name": "c", "resources": {"claims": [{"name": "dev"}]}}]}});
    serde_json::from_value(pod).expect("a pod")
}

fn registered(socket: &Path) -> Drivers {
    let drivers = Drivers::default();
    drivers.add(DRIVER, socket, socket, &["v1.DRAPlugin".to_owned()]).expect("it is spoken");
    drivers
}

fn devices(manager: &Manager, object: &Pod) -> Vec<String> {
    manager.devices_of(object, &pod::spec(object).containers[0])
}

#[tokio::test]
async fn a_claim_is_prepared_for_its_first_pod_and_taken_back_after_its_last() {
    let dir = tempfile::tempdir().expect("dir");
    let socket = dir.path().join("gpu.sock");
    let calls = driver(&socket);
    let manager = Manager::new(Some(dir.path()), Arc::new(Claimed), registered(&socket));
    let (a, b) = (user("a", "shared"), user("b", "shared"));
    for _ in 0..2 {
        manager.prepare(&a).await.expect("prepared");
        manager.prepare(&b).await.expect("prepared");
    }
    assert_eq!(methods(&calls), ["NodePrepareResources"]);
    let asked = Claims::decode(calls.lock()[0].1.clone()).expect("claims");
    let claim = &asked.claims[0];
    assert_eq!((claim.namespace.as_str(), claim.name.as_str(), claim.uid.as_str()), ("n", "shared", "uid-shared"));
    assert_eq!(devices(&manager, &a), ["gpu.example.com/gpu=shared"]);
    manager.unprepare("a").await.expect("it leaves");
    assert_eq!(methods(&calls), ["NodePrepareResources"]);

    // A kubelet that starts anew knows what to take back.
    let drivers = Drivers::default();
    let again = Manager::new(Some(dir.path()), Arc::new(Claimed), drivers.clone());
    assert_eq!(devices(&again, &b), ["gpu.example.com/gpu=shared"]);
    let why = again.unprepare("b").await.expect_err("the driver is not there yet");
    assert_eq!(why, "unprepare dynamic resources: DRA driver gpu.example.com is not registered");
    drivers.add(DRIVER, &socket, &socket, &["v1.DRAPlugin".to_owned()]).expect("it is spoken");
    again.unprepare("b").await.expect("taken back");
    again.unprepare("b").await.expect("nothing is left");
    assert_eq!(methods(&calls), ["NodePrepareResources", "NodeUnprepareResources"]);
    assert!(devices(&again, &b).is_empty());
}

#[tokio::test]
async fn what_a_driver_does_not_do_is_said() {
    let dir = tempfile::tempdir().expect("dir");
    let socket = dir.path().join("gpu.sock");
    let _calls = driver(&socket);
    let check = async |drivers: Drivers, pod: Pod, expected: &str| {
        let manager = Manager::new(None, Arc::new(Claimed), drivers);
        let why = manager.prepare(&pod).await.expect_err("not prepared");
        assert_eq!(why, format!("prepare dynamic resources: {expected}"));
    };
    let missing = "fetch ResourceClaim missing: resourceclaims.resource.k8s.io \"missing\" not found";
    check(registered(&socket), user("a", "missing"), missing).await;
    let stranger = "pod z (z) is not allowed to use ResourceClaim shared (uid-shared)";
    check(registered(&socket), user("z", "shared"), stranger).await;
    check(Drivers::default(), user("a", "shared"), "DRA driver gpu.example.com is not registered").await;
    let broken = "NodePrepareResources failed for ResourceClaim broken: no power";
    check(registered(&socket), user("a", "broken"), broken).await;
    check(registered(&socket), user("a", "forgotten"), "NodePrepareResources skipped 1 ResourceClaims").await;

    let old = Drivers::default().add(DRIVER, &socket, Path::new("/e"), &["v1alpha3.Node".to_owned()]);
    assert_eq!(
        old.expect_err("not spoken"),
        "invalid supported gRPC versions of DRA driver plugin gpu.example.com at endpoint /e: none of services supported \
         by the plugin ([\"v1alpha3.Node\"]) are supported by the kubelet ([\"v1.DRAPlugin\", \"v1beta1.DRAPlugin\"])"
    );
}

#[tokio::test]
async fn a_driver_registers_by_its_socket_and_is_forgotten_with_it() {
    let dir = tempfile::tempdir().expect("dir");
    let registry = dir.path().join("plugins_registry");
    std::fs::create_dir_all(&registry).expect("a folder");
    let socket = registry.join("gpu.sock");
    let calls = driver(&socket);
    // Nobody is told of a driver of devices: it publishes its slices itself.
    let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| {
        std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>()
    });
    let api = Api::new(kube::Client::new(nobody, "default"), "test");
    let (known, stop) = (Known::default(), CancellationToken::new());
    let running = tokio::spawn(csi::run(api, "n".to_owned(), dir.path().to_owned(), known.clone(), stop.clone()));
    let until = async |there: bool| {
        let seen = async {
            while known.devices.get(DRIVER).is_ok() != there {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), seen).await.unwrap_or_else(|_| panic!("not {there}"));
    };
    until(true).await;
    assert!(known.devices.get(DRIVER).is_ok_and(|d| d.prepare.contains(".v1.")), "the newest service is spoken");
    let told = async {
        while methods(&calls) != ["GetInfo", "NotifyRegistrationStatus"] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("the driver is told");
    std::fs::remove_file(&socket).expect("removed");
    until(false).await;
    stop.cancel();
    running.await.expect("it ends");
}

#[tokio::test(start_paused = true)]
async fn slices_of_drivers_that_are_away_go() {
    let (seen, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(true));
    // The first question is answered with a failure.
    let server = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let code = if fails.swap(false, std::sync::atomic::Ordering::SeqCst) { 500 } else { 200 };
        let _ = seen.send(format!("{} {}", request.method(), request.uri()));
        let answer = http::Response::builder().status(code).body(kube::client::Body::from(b"{}".to_vec()));
        std::future::ready(Ok::<_, std::convert::Infallible>(answer.expect("an answer")))
    });
    let api = Api::new(kube::Client::new(server, "default"), "test");
    let (drivers, stop) = (Drivers::default(), CancellationToken::new());
    let running = tokio::spawn(super::slices::run(api, "n".to_owned(), drivers.clone(), stop.clone()));
    let all = "DELETE /apis/resource.k8s.io/v1/resourceslices?fieldSelector=spec.nodeName%3Dn";
    for _ in 0..2 {
        assert_eq!(asked.recv().await.as_deref(), Some(all), "at the start, until it worked");
    }
    let (old, new) = (Path::new("/old"), Path::new("/new"));
    let add = |socket: &Path| drivers.add(DRIVER, socket, socket, &["v1.DRAPlugin".to_owned()]).expect("it is spoken");
    add(old);
    add(new);
    drivers.remove(old);
    tokio::time::sleep(Duration::from_secs(60)).await;
    drivers.remove(new);
    tokio::time::sleep(Duration::from_secs(20)).await;
    add(old);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(asked.try_recv().is_err(), "it was replaced, and came back in time");
    let left = tokio::time::Instant::now();
    drivers.remove(old);
    assert_eq!(asked.recv().await, Some(format!("{all},spec.driver%3D{DRIVER}")));
    assert!(left.elapsed() >= super::slices::AWAY, "{:?}", left.elapsed());
    stop.cancel();
    running.await.expect("it ends");
}
