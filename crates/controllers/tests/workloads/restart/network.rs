//! Endpoints of services.

use orkd_reconcile::Propagation::Background;
use serde_json::{Value, json};

use super::{Change, Do, Scenario, Until, scenarios};
use crate::world::running;

scenarios! {
    a_service_has_its_endpoints,
    endpoints_that_a_user_wrote_are_mirrored,
}

const SLICES: &str = "discovery.k8s.io/v1:endpointslices";

/// How many endpoints are ready.
fn ready(list: &Value) -> usize {
    let slices = list["items"].as_array().into_iter().flatten();
    let endpoints = slices.flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default());
    endpoints.filter(|e| e["conditions"]["ready"] == true).count()
}

fn a_service_has_its_endpoints() -> Scenario {
    let pod = |name: &'static str| {
        let json = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "i"}]}});
        ("pods", json)
    };
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    Scenario {
        controllers: &["endpointslice-controller", "endpoints-controller"],
        kubelet: |p| {
            let ip = if p["metadata"]["name"] == "a" { "10.42.0.1" } else { "10.42.0.2" };
            let mut status = running(p)?;
            status["podIP"] = ip.into();
            status["podIPs"] = json!([{"ip": ip}]);
            Some(status)
        },
        objects: vec![
            ("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})),
            ("services", service),
            pod("a"),
            pod("b"),
        ],
        story: vec![
            Until(SLICES, |list| ready(list) == 2),
            Do("pods/b", Change::Merge(json!({"metadata": {"labels": {"app": "other"}}}))),
            Until("endpoints/web", |e| e["subsets"][0]["addresses"].as_array().is_some_and(|a| a.len() == 1)),
            Until(SLICES, |list| ready(list) == 1),
        ],
        compared: &[SLICES, "endpoints"],
        ..Scenario::default()
    }
}

fn endpoints_that_a_user_wrote_are_mirrored() -> Scenario {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"ports": [{"port": 80}]}});
    let subsets = |last: &[u8]| {
        let addresses: Vec<Value> = last.iter().map(|n| json!({"ip": format!("192.0.2.{n}")})).collect();
        json!([{"addresses": addresses, "ports": [{"port": 8080}]}])
    };
    let endpoints =
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web"}, "subsets": subsets(&[1, 2])});
    Scenario {
        controllers: &["endpointslice-mirroring-controller"],
        objects: vec![("services", service), ("endpoints", endpoints)],
        story: vec![
            Until(SLICES, |list| ready(list) == 2),
            Do("endpoints/web", Change::Merge(json!({"subsets": subsets(&[1, 2, 3])}))),
            Until(SLICES, |list| ready(list) == 3),
            Do("endpoints/web", Change::Delete(Background)),
            Until(SLICES, |list| list["items"].as_array().is_some_and(Vec::is_empty)),
        ],
        compared: &[SLICES],
        ..Scenario::default()
    }
}
