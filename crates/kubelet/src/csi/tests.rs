//! A driver that notes what it is called with.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, Pod, Secret};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use prost::Message;
use serde_json::{Value, json};

use super::proto::{
    Capabilities, Capability, CapabilityRpc, Publish, Rpc, Stage, Unit, VolumeStats, VolumeUsage, VolumeUsages,
};
use super::{Context, Driver, Drivers, Plugin, in_use};
use crate::objects::Objects;
use crate::stats::disk::Filesystem;

/// The calls of a plugin: methods and what they were called with.
pub(crate) type Calls = Arc<Mutex<Vec<(String, Bytes)>>>;

/// Serves every call with an empty message, capabilities and figures aside.
fn serve(socket: &Path) -> Calls {
    serve_with(socket, |method, _| match method {
        "NodeGetCapabilities" => {
            let rpc = CapabilityRpc { kind: Rpc::StageUnstage.into() };
            Capabilities { capabilities: vec![Capability { rpc: Some(rpc) }] }.encode_to_vec()
        }
        "NodeGetVolumeStats" => {
            let usage = |unit: Unit, available, total, used| VolumeUsage { available, total, used, unit: unit.into() };
            let usage = vec![usage(Unit::Bytes, 60, 100, 40), usage(Unit::Inodes, 6, 10, 4)];
            VolumeUsages { usage }.encode_to_vec()
        }
        _ => Vec::new(),
    })
}

/// Serves a plugin at a socket: `answer` says what a method, called with a message, answers.
pub(crate) fn serve_with(socket: &Path, answer: impl Fn(&str, Bytes) -> Vec<u8> + Send + Sync + 'static) -> Calls {
    let (calls, answer) = (Calls::default(), Arc::new(answer));
    let listener = tokio::net::UnixListener::bind(socket).expect("a socket");
    let noted = calls.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (noted, answer) = (noted.clone(), answer.clone());
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (noted, answer) = (noted.clone(), answer.clone());
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.expect("a body").to_bytes().slice(5..);
                    let method = path.rsplit('/').next().unwrap_or("").to_owned();
                    noted.lock().push((method.clone(), body.clone()));
                    let answer = answer(&method, body);
                    let mut frame = vec![0];
                    frame.extend(u32::try_from(answer.len()).unwrap_or(0).to_be_bytes());
                    frame.extend(answer);
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                    let frames: Vec<Result<Frame<Bytes>, Infallible>> =
                        vec![Ok(Frame::data(frame.into())), Ok(Frame::trailers(trailers))];
                    let body = StreamBody::new(futures_util::stream::iter(frames));
                    let response = http::Response::builder().header("content-type", "application/grpc").body(body);
                    Ok::<_, Infallible>(response.expect("a response"))
                }
            });
            tokio::spawn(async move {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    calls
}

struct Cluster {
    driver: Value,
    attachment: Value,
}

#[async_trait]
impl Objects for Cluster {
    async fn config_map(&self, _: &str, _: &str) -> Result<Option<ConfigMap>, String> {
        Ok(None)
    }
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, String> {
        let json = json!({"data": {"key": "c2VjcmV0"}});
        Ok((namespace == "n" && name == "s").then(|| serde_json::from_value(json).expect("a secret")))
    }
    async fn token(&self, _: &Pod, _: &str, _: Option<&str>, _: Duration) -> Result<(String, Timestamp), String> {
        Err("none".into())
    }
    async fn csi_driver(&self, _: &str) -> Result<Option<CSIDriver>, String> {
        Ok(serde_json::from_value(self.driver.clone()).ok())
    }
    async fn attachment(&self, _: &str) -> Result<Option<VolumeAttachment>, String> {
        Ok(serde_json::from_value(self.attachment.clone()).ok())
    }
}

fn pod(uid: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "p", "uid": uid},
        "spec": {"containers": [], "serviceAccountName": "sa"}}))
    .expect("a pod")
}

/// The methods that were called, in order.
pub(crate) fn methods(calls: &Calls) -> Vec<String> {
    calls.lock().iter().map(|(method, _)| method.clone()).collect()
}

#[tokio::test]
async fn a_volume_is_staged_once_and_published_for_each_pod() {
    let dir = tempfile::tempdir().expect("dir");
    let root = dir.path();
    let calls = serve(&root.join("csi.sock"));
    let drivers = Drivers::default();
    let plugin = Plugin::at(&root.join("csi.sock"));
    let capabilities: Capabilities =
        plugin.call("/csi.v1.Node/NodeGetCapabilities", super::proto::Empty {}).await.expect("capabilities");
    assert_eq!(capabilities.capabilities[0].rpc.as_ref().map(CapabilityRpc::kind), Some(Rpc::StageUnstage));
    calls.lock().clear();
    let driver =
        Driver { plugin, socket: root.join("r.sock"), stages: true, groups: false, measures: true, precise: false };
    drivers.0.write().insert("d.example.com".into(), driver);

    let mut cluster = Cluster {
        driver: json!({"metadata": {"name": "d.example.com"}, "spec": {"podInfoOnMount": true}}),
        attachment: json!({"spec": {"attacher": "d", "nodeName": "n1", "source": {}}, "status": {"attached": false}}),
    };
    let pv: PersistentVolume = serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "mountOptions": ["noatime"],
        "csi": {"driver": "d.example.com", "volumeHandle": "h", "volumeAttributes": {"a": "b"},
            "nodePublishSecretRef": {"namespace": "n", "name": "s"}}}}))
    .expect("a volume");
    let source = pv.spec.as_ref().and_then(|s| s.csi.clone()).expect("a source");
    let waits = {
        let cx = Context { root, node: "n1", drivers: &drivers, objects: &cluster };
        cx.persistent(&pod("a"), &pv, &source, false).await
    };
    assert_eq!(waits, Err("volume is not attached yet: ".to_owned()));
    cluster.attachment["status"] = json!({"attached": true, "attachmentMetadata": {"device": "x"}});
    let cx = Context { root, node: "n1", drivers: &drivers, objects: &cluster };
    let target = cx.persistent(&pod("a"), &pv, &source, false).await.expect("mounted");
    assert_eq!(target, root.join("pods/a/volumes/kubernetes.io~csi/pv/mount"));
    cx.persistent(&pod("b"), &pv, &source, true).await.expect("mounted");
    assert_eq!(methods(&calls), ["NodeStageVolume", "NodePublishVolume", "NodeStageVolume", "NodePublishVolume"]);
    let stage = Stage::decode(calls.lock()[0].1.clone()).expect("a call");
    assert_eq!(stage.publish_context.get("device").map(String::as_str), Some("x"));
    assert!(Path::new(&stage.staging_target_path).is_dir());
    let publish = Publish::decode(calls.lock()[3].1.clone()).expect("a call");
    assert!(publish.readonly && publish.staging_target_path == stage.staging_target_path);
    assert_eq!(publish.secrets.get("key").map(String::as_str), Some("secret"));
    assert_eq!(publish.volume_context.get("csi.storage.k8s.io/pod.uid").map(String::as_str), Some("b"));
    assert_eq!(publish.volume_context.get("a").map(String::as_str), Some("b"));
    assert_eq!(in_use(root), ["kubernetes.io/csi/d.example.com^h"]);

    let room = cx.room("d.example.com", "h", &target).await;
    let expected = Filesystem { capacity: 100, available: 60, used: 40, inodes: 10, inodes_free: 6 };
    assert_eq!(room, Some(expected));
    let asked = VolumeStats::decode(calls.lock()[4].1.clone()).expect("a call");
    assert_eq!((asked.volume_id.as_str(), asked.volume_path.as_str()), ("h", target.to_string_lossy().as_ref()));

    // The last pod takes the staged volume along; a second look finds nothing.
    calls.lock().clear();
    cx.take_down("a").await.expect("down");
    assert_eq!(methods(&calls), ["NodeUnpublishVolume"]);
    cx.take_down("b").await.expect("down");
    cx.take_down("b").await.expect("down");
    assert_eq!(methods(&calls), ["NodeUnpublishVolume", "NodeUnpublishVolume", "NodeUnstageVolume"]);
    assert!(in_use(root).is_empty());
}

#[tokio::test]
async fn a_volume_may_live_with_its_pod() {
    let dir = tempfile::tempdir().expect("dir");
    let root = dir.path();
    let calls = serve(&root.join("csi.sock"));
    let drivers = Drivers::default();
    let volume = serde_json::from_value(json!({"name": "v", "csi": {"driver": "d"}})).expect("a volume");
    let mut cluster = Cluster {
        driver: json!({"metadata": {"name": "d"}, "spec": {"volumeLifecycleModes": ["Persistent"]}}),
        attachment: Value::Null,
    };
    {
        let cx = Context { root, node: "n1", drivers: &drivers, objects: &cluster };
        let missing = cx.inline(&pod("a"), &volume).await.expect("a driver's");
        assert_eq!(missing, Err("driver name d not found in the list of registered CSI drivers".to_owned()));
    }
    let plugin = Plugin::at(&root.join("csi.sock"));
    let driver =
        Driver { plugin, socket: root.join("r.sock"), stages: true, groups: false, measures: true, precise: false };
    drivers.0.write().insert("d".into(), driver);
    {
        let cx = Context { root, node: "n1", drivers: &drivers, objects: &cluster };
        let refused = cx.inline(&pod("a"), &volume).await.expect("a driver's");
        assert!(refused.is_err_and(|e| e.contains("\"Ephemeral\" not supported")));
    }
    cluster.driver["spec"] = json!({"volumeLifecycleModes": ["Ephemeral"]});
    let cx = Context { root, node: "n1", drivers: &drivers, objects: &cluster };
    cx.inline(&pod("a"), &volume).await.expect("a driver's").expect("mounted");
    cx.take_down("a").await.expect("down");
    assert_eq!(methods(&calls), ["NodePublishVolume", "NodeUnpublishVolume"]);
    assert!(in_use(root).is_empty(), "what lives with a pod is not attached");
}
