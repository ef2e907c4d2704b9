//! `cargo bench -p orkd-api`: what the pure steps of a write cost, without a server around them.
//!
//! Nanoseconds depend on the machine; instructions do not. One step by itself, twice, under
//! `valgrind --tool=callgrind` with `ORKD_BENCH_ROUNDS` of, say, 100 and 1,100: the difference is a thousand times the step.

use std::hint::black_box;
use std::time::Instant;

use orkd_api::codec::json::{self, Outline};
use orkd_api::codec::{self, Strictness};
use orkd_api::kind::{Cx, Features, Kind};
use orkd_api::patch::apply;
use orkd_api::schema::{Node, Type};
use orkd_api::validate::meta::{changed_object, new_object};
use serde_json::{Value, json};

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p00001", "namespace": "default", "labels": {"app": "bench", "group": "7"}},
        "spec": {
            "schedulerName": "none", "automountServiceAccountToken": false,
            "containers": [{
                "name": "c", "image": "registry.example/app:1.0", "command": ["/app"], "args": ["--serve"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "ports": [{"containerPort": 8080}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/", "port": 8080}},
            }],
        },
    })
}

const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

fn cx<'a>(ty: Type, manager: &'a str, subresource: Option<&'a str>) -> apply::Cx<'a> {
    let reset_fields = orkd_api::core::pod::Pod.reset_fields(subresource);
    apply::Cx {
        node: Node::of(ty),
        api_version: "v1",
        kind: "Pod",
        manager,
        subresource,
        reset_fields,
        now: NOW,
        versions: None,
    }
}

/// The pod as it is stored, and what a kubelet makes of it.
fn stored(ty: Type) -> (Value, Value) {
    let kind = orkd_api::core::pod::Pod;
    let features = Features::default();
    let circumstances = Cx { now: NOW, subresource: None, user: "u", features: &features };
    let (mut pod, _) = json::decode(pod().to_string().as_bytes(), ty, Strictness::Warn).expect("a pod");
    codec::apply_schema_defaults(&mut pod, ty);
    kind.default(&mut pod);
    apply::update(&cx(ty, "bench", None), None, &mut pod);
    kind.prepare_create(&circumstances, &mut pod);
    pod["metadata"]["uid"] = "0b4ff4a1-9c1e-4c3c-9d0f-4a3e4a8f7a10".into();
    pod["metadata"]["resourceVersion"] = "7".into();
    let mut running = pod.clone();
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "lastProbeTime": null,
        "lastTransitionTime": "2026-11-21T12:00:00Z"})
    };
    running["status"] = json!({
        "phase": "Running", "qosClass": "Burstable", "conditions": conditions.map(condition),
        "hostIP": "192.0.2.7", "hostIPs": [{"ip": "192.0.2.7"}], "podIP": "10.42.0.9", "podIPs": [{"ip": "10.42.0.9"}],
        "startTime": "2026-11-21T12:00:00Z",
        "containerStatuses": [{"name": "c", "ready": true, "restartCount": 0, "started": true, "lastState": {},
            "image": "registry.example/app:1.0", "imageID": "registry.example/app@sha256:4bc6d1f4a3e0c6d8e0b6e5f3a2d1c0b9",
            "containerID": "containerd://9d1f0c7f2f4b6a8e0d2c4b6a8f0e1d3c5b7a9f8e6d4c2b0a1f3e5d7c9b8a6f4e",
            "state": {"running": {"startedAt": "2026-11-21T12:00:00Z"}}}],
    });
    (pod, running)
}

fn main() {
    let rounds: u32 = std::env::var("ORKD_BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let only = std::env::var("ORKD_BENCH_ONLY").unwrap_or_default();
    let step = |name: &str, run: &mut dyn FnMut()| {
        if !name.contains(&only) {
            return;
        }
        let begun = Instant::now();
        (0..rounds).for_each(|_| run());
        println!("{name:<44} {:>8.0} ns", begun.elapsed().as_nanos() as f64 / f64::from(rounds));
    };
    let ty = Type::of_kind("", "v1", "Pod").expect("a type");
    let kind = orkd_api::core::pod::Pod;
    let features = Features::default();
    let circumstances = Cx { now: NOW, subresource: None, user: "u", features: &features };
    let status = Cx { subresource: Some("status"), ..circumstances.clone() };
    let body = pod().to_string();
    let (old, new) = stored(ty);
    let (bytes, running) = (json::to_vec(&old, ty), json::to_vec(&new, ty));
    let (decoded, _) = json::decode(body.as_bytes(), ty, Strictness::Warn).expect("a pod");
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    println!("a pod: {} bytes sent, {} stored, {} running", body.len(), bytes.len(), running.len());

    step("decode what is sent", &mut || drop(black_box(json::decode(body.as_bytes(), ty, Strictness::Warn))));
    step("default", &mut || {
        let mut pod = decoded.clone();
        codec::apply_schema_defaults(&mut pod, ty);
        kind.default(&mut pod);
        black_box(&pod);
    });
    step("copy", &mut || drop(black_box(old.clone())));
    step("managed fields, create", &mut || {
        let mut pod = decoded.clone();
        apply::update(&cx(ty, "bench", None), None, &mut pod);
        black_box(&pod);
    });
    step("managed fields, status", &mut || {
        let mut pod = new.clone();
        apply::update(&cx(ty, "kubelet", Some("status")), Some(&old), &mut pod);
        black_box(&pod);
    });
    step("managed fields, no change", &mut || {
        let mut pod = old.clone();
        apply::update(&cx(ty, "bench", None), Some(&old), &mut pod);
        black_box(&pod);
    });
    step("validate, create", &mut || assert!(black_box(new_object(&kind, &circumstances, &old)).is_empty()));
    step("validate, status", &mut || assert!(black_box(changed_object(&kind, &status, &new, &old)).is_empty()));
    step("warnings", &mut || drop(black_box(kind.warnings(&circumstances, &old, None))));
    step("encode", &mut || drop(black_box(json::to_vec(&old, ty))));
    step("decode what is stored", &mut || drop(black_box(serde_json::from_slice::<Value>(&bytes))));
    step("normalize", &mut || {
        let mut pod = new.clone();
        codec::normalize(&mut pod, ty, Strictness::Warn).expect("normal");
        black_box(&pod);
    });
    step("compare", &mut || assert!(black_box(&new) != black_box(&old)));
    step("bind", &mut || {
        let mut pod = Outline::read(&bytes, ty).expect("an object");
        orkd_api::core::pod::bind(&mut pod, &binding, NOW).expect("bound");
        let mut out = Vec::with_capacity(bytes.len() + 256);
        pod.write(&mut out);
        black_box(out);
    });
}
