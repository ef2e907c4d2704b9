//! Devices on a real node: slices, a claim of a template, the scheduler, the kubelet, and a driver that is played. Whether a
//! container sees a device is the runtime's: containerd gives CDI devices from 1.7 on.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use orkd_tests::cluster::Cluster;
use orkd_tests::{eventually, is_root};
use serde_json::json;

const DRIVER: &str = "gpu.example.com";
const PATIENCE: Duration = Duration::from_secs(60);

/// What a driver was called with: method, and name and uid of each claim.
type Calls = Arc<Mutex<Vec<(String, Vec<(String, String)>)>>>;

/// A field of a message of protocol buffers that has a length.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2];
    let mut length = bytes.len();
    while length > 0x7f {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend(bytes);
    out
}

/// The fields of a message that has none without a length.
fn fields(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    while let [key, rest @ ..] = bytes {
        let (mut length, mut shift, mut rest) = (0usize, 0, rest);
        while let [byte, after @ ..] = rest {
            length |= usize::from(byte & 0x7f) << shift;
            (shift, rest) = (shift + 7, after);
            if byte & 0x80 == 0 {
                break;
            }
        }
        let (value, after) = rest.split_at(length.min(rest.len()));
        all.push((key >> 3, value));
        bytes = after;
    }
    all
}

/// Name and uid of the claims of a call.
fn claims(body: &[u8]) -> Vec<(String, String)> {
    let text = |fields: &[(u8, &[u8])], tag: u8| {
        let found = fields.iter().find(|(t, _)| *t == tag).map(|(_, v)| *v);
        String::from_utf8_lossy(found.unwrap_or_default()).into_owned()
    };
    let of = |claim: &[u8]| {
        let fields = fields(claim);
        (text(&fields, 3), text(&fields, 2))
    };
    fields(body).into_iter().filter(|(tag, _)| *tag == 1).map(|(_, claim)| of(claim)).collect()
}

fn answer(method: &str, body: &[u8]) -> Vec<u8> {
    let each = |value: &[u8]| {
        let entry = |uid: &str| field(1, &[field(1, uid.as_bytes()), field(2, value)].concat());
        claims(body).iter().flat_map(|(_, uid)| entry(uid)).collect()
    };
    match method {
        "GetInfo" => {
            let kind = field(1, b"DRAPlugin");
            [kind, field(2, DRIVER.as_bytes()), field(4, b"v1.DRAPlugin")].concat()
        }
        "NodePrepareResources" => {
            let device = [field(2, b"server"), field(3, b"x"), field(4, b"gpu.example.com/gpu=x")].concat();
            each(&field(1, &device))
        }
        "NodeUnprepareResources" => each(&[]),
        _ => Vec::new(),
    }
}

/// Serves a driver at a socket for as long as the runtime lives.
fn serve(runtime: &tokio::runtime::Runtime, socket: &Path) -> Result<Calls> {
    let calls = Calls::default();
    let noted = calls.clone();
    let listener = {
        let _inside = runtime.enter();
        tokio::net::UnixListener::bind(socket)?
    };
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let noted = noted.clone();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let noted = noted.clone();
                async move {
                    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                    let body = request.into_body().collect().await?.to_bytes();
                    let body = body.get(5..).unwrap_or_default();
                    noted.lock().expect("a lock").push((method.clone(), claims(body)));
                    let answer = answer(&method, body);
                    let length = u32::try_from(answer.len()).unwrap_or(0).to_be_bytes();
                    let frame = [&[0], &length[..], &answer].concat();
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                    let frames: Vec<Result<Frame<Bytes>, Infallible>> =
                        vec![Ok(Frame::data(frame.into())), Ok(Frame::trailers(trailers))];
                    let mut response = http::Response::new(StreamBody::new(futures_util::stream::iter(frames)));
                    let kind = http::HeaderValue::from_static("application/grpc");
                    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
                    Ok::<_, hyper::Error>(response)
                }
            });
            tokio::spawn(async move {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(calls)
}

/// The calls of a method.
fn called(calls: &Calls, method: &str) -> Vec<Vec<(String, String)>> {
    let calls = calls.lock().expect("a lock");
    calls.iter().filter(|(m, _)| m == method).map(|(_, claims)| claims.clone()).collect()
}

#[test]
fn a_driver_prepares_the_devices_of_a_pod_and_takes_them_back() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut cluster = Cluster::node(&[])?;
    let k = cluster.kubectl()?;
    let create = |object: serde_json::Value| k.ok_args(&["create", "-f", "-"], &object.to_string());
    let object = |kind: &str, name: &str, spec: serde_json::Value| json!({"apiVersion": "resource.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let pool = json!({"name": "server", "generation": 1, "resourceSliceCount": 1});
    let slice = json!({"driver": DRIVER, "nodeName": "server", "devices": [{"name": "x"}], "pool": pool});
    create(object("ResourceSlice", "server-gpu", slice))?;
    create(object("DeviceClass", "gpu", json!({})))?;
    let requests = json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}});
    create(object("ResourceClaimTemplate", "gpu", json!({"spec": requests})))?;
    create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user"}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "resourceClaims": [{"name": "dev", "resourceClaimTemplateName": "gpu"}],
        "containers": [{"name": "c", "image": "orkd.local/busybox:latest", "imagePullPolicy": "Never",
            "command": ["sleep", "1000"], "resources": {"claims": [{"name": "dev"}]}}]}}))?;

    // The pod is on its node and waits for the driver.
    let text =
        "Failed to prepare dynamic resources: prepare dynamic resources: DRA driver gpu.example.com is not registered";
    eventually("the event", PATIENCE, || {
        let events =
            k.ok("get events --field-selector reason=FailedPrepareDynamicResources -o jsonpath={.items[*].message}");
        let events = events.map_err(|e| e.to_string())?;
        if events.contains(text) { Ok(()) } else { Err(events) }
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let calls = serve(&runtime, &cluster.machine.path("data/agent/kubelet/plugins_registry/gpu.sock"))?;
    k.ok("wait --for=condition=Ready pod/user --timeout=60s")
        .map_err(|e| e.context(k.ok("describe pod,resourceclaim").unwrap_or_default()))?;
    let claims = k.json("get resourceclaims")?;
    let claim = claims["items"].as_array().and_then(|all| all.first()).context("the claim")?;
    let text = |field: &str| claim["metadata"][field].as_str().unwrap_or_default().to_owned();
    let once = [vec![(text("name"), text("uid"))]];
    assert_eq!(called(&calls, "NodePrepareResources"), once);
    ensure!(called(&calls, "NodeUnprepareResources").is_empty());

    // A kubelet that starts anew takes back what the one before asked for.
    drop(k);
    cluster.kill()?;
    cluster.boot()?;
    let k = cluster.kubectl()?;
    // Nobody is sent to devices of a driver that may not come back; one that does publishes them again.
    eventually("the slices to go", PATIENCE, || {
        let left = k.ok("get resourceslices -o name").map_err(|e| e.to_string())?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })?;
    k.ok("delete pod user --timeout=60s").map_err(|e| e.context(cluster.log()))?;
    assert_eq!(called(&calls, "NodeUnprepareResources"), once);
    assert_eq!(called(&calls, "NodePrepareResources"), once);
    eventually("the claim to go", PATIENCE, || {
        let left = k.ok("get resourceclaims -o name").map_err(|e| e.to_string())?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
}
