//! Endpoints that users write themselves, mirrored into endpoint slices.
//!
//! Follows `pkg/controller/endpointslicemirroring`: endpoints of services without a selector, unless a label says
//! otherwise; at most a thousand addresses of each group are mirrored.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use orkd_base::BoxError;
use orkd_reconcile::{Informer, Key, ObjectRef, Outcome, Queue, work};
use serde_json::Value;

use crate::endpoint_slice::{
    BY_SERVICE, Conditions, Endpoint, EndpointSlice, MANAGED_BY, Of, Plan, Port, SERVICE_NAME, SKIP_MIRROR, TargetRef,
    add_service_index, plan_slices, write,
};
use crate::endpoints::Endpoints;
use crate::freshness::Freshness;
use crate::owners;
use crate::views::Service;
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "endpointslice-mirroring-controller",
    service_account: "endpointslicemirroring-controller",
    run: |cx| Box::pin(start(cx)),
};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Addresses of one group that are mirrored, all in one slice.
const MAX: usize = 1000;
/// What is not mirrored of annotations: who applied the endpoints, and when their pods changed.
const NOT_MIRRORED: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];

async fn start(cx: Cx) -> Result<(), BoxError> {
    let services: Informer<Service> = cx.informers.informer();
    let all: Informer<Endpoints> = cx.informers.informer();
    let slices: Informer<EndpointSlice> = cx.informers.informer();
    add_service_index(&slices);
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        services.subscribe(move |event| {
            // Only whether there is a selector matters.
            let selects = |s: &Service| s.spec.selector.is_some();
            if event.old().is_none_or(|old| selects(old) != selects(event.object())) {
                queue.add(event.key());
            }
        });
    }
    {
        let queue = queue.clone();
        all.subscribe(move |event| queue.add(event.key()));
    }
    {
        let queue = queue.clone();
        slices.subscribe(move |event| {
            let meta = &event.object().metadata;
            if let Some(service) = meta.label(SERVICE_NAME)
                && meta.label(MANAGED_BY) == Some(MANAGER)
            {
                queue.add(Key::new(&meta.namespace, service));
            }
        });
    }
    services.synced().await;
    all.synced().await;
    slices.synced().await;
    let freshness = Freshness::default();
    let (cx_ref, services, all, slices, freshness) = (&cx, &services, &all, &slices, &freshness);
    work(queue, 5, cx.stop.clone(), |key| async move {
        let seen = slices.seen();
        let existing = slices.by_index(BY_SERVICE, &format!("{MANAGER}/{key}"));
        let alive = existing.iter().filter(|s| !s.metadata.is_deleting()).map(|s| s.metadata.uid.as_str());
        if !freshness.is_fresh(&key, seen, alive, Timestamp::now()) {
            return Ok(Outcome::Done);
        }
        let endpoints = all.get(&key).filter(|e| is_mirrored(e));
        let service = services.get(&key).filter(|s| s.spec.selector.is_none());
        let mut plan = Plan::default();
        match (endpoints, service) {
            (Some(endpoints), Some(_)) if !endpoints.metadata.is_deleting() => {
                let of = Of {
                    namespace: &key.namespace,
                    name: &key.name,
                    labels: labels(&endpoints),
                    annotations: Some(annotations(&endpoints)),
                    owner: owners::controller_ref(&*endpoints),
                    most: MAX,
                };
                let skipped = skipped(&endpoints);
                if skipped > 0 {
                    let text = format!(
                        "A max of {MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} \
                         addresses were skipped"
                    );
                    cx_ref.recorder.warning(&ObjectRef::of(&*endpoints), "TooManyAddressesToMirror", text);
                }
                for family in ["IPv4", "IPv6"] {
                    plan_slices(&of, &existing, family, wanted(&endpoints, family), &mut plan);
                }
            }
            _ => plan.delete = existing.iter().map(|s| (s.metadata.key(), s.metadata.uid.clone())).collect(),
        }
        write(&cx_ref.api, freshness, &key, plan).await?;
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// Whether endpoints are to be mirrored at all.
fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.metadata.label(SKIP_MIRROR) != Some("true")
        && endpoints.metadata.annotation("control-plane.alpha.kubernetes.io/leader").is_none()
}

fn labels(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut labels = (*endpoints.metadata.labels).clone();
    labels.remove("endpoints.kubernetes.io/managed-by");
    labels.insert(SERVICE_NAME.into(), endpoints.metadata.name.to_string());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn annotations(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut annotations = (*endpoints.metadata.annotations).clone();
    annotations.retain(|name, _| !NOT_MIRRORED.contains(&name.as_str()));
    annotations
}

/// How many addresses are too many to be mirrored.
fn skipped(endpoints: &Endpoints) -> usize {
    let count = |subset: &Value| items(&subset["addresses"]).chain(items(&subset["notReadyAddresses"])).count();
    endpoints.subsets.iter().map(|subset| count(subset).saturating_sub(MAX)).sum()
}

/// The endpoints of a family, by ports.
fn wanted(endpoints: &Endpoints, family: &str) -> BTreeMap<Vec<Port>, Vec<Endpoint>> {
    let mut wanted: BTreeMap<Vec<Port>, Vec<Endpoint>> = BTreeMap::new();
    for subset in &endpoints.subsets {
        let mut ports: Vec<Port> = items(&subset["ports"])
            .map(|p| Port {
                name: Some(text(&p["name"]).unwrap_or_default()),
                protocol: Some(text(&p["protocol"]).unwrap_or_else(|| "TCP".into())),
                port: p["port"].as_i64().and_then(|n| i32::try_from(n).ok()),
                app_protocol: text(&p["appProtocol"]),
            })
            .collect();
        ports.sort();
        let ready = items(&subset["addresses"]).map(|a| (a, true));
        let not_ready = items(&subset["notReadyAddresses"]).map(|a| (a, false));
        let mut seen = BTreeSet::new();
        for (address, ready) in ready.chain(not_ready).take(MAX) {
            let Some(ip) = text(&address["ip"]) else { continue };
            if ip.contains(':') != (family == "IPv6") || !seen.insert(ip.clone()) {
                continue;
            }
            let target = &address["targetRef"];
            let endpoint = Endpoint {
                addresses: vec![ip],
                conditions: Conditions { ready: Some(ready), ..Conditions::default() },
                hostname: text(&address["hostname"]),
                target_ref: target.is_object().then(|| TargetRef {
                    kind: text(&target["kind"]).unwrap_or_default(),
                    namespace: text(&target["namespace"]).unwrap_or_default(),
                    name: text(&target["name"]).unwrap_or_default(),
                    uid: text(&target["uid"]).unwrap_or_default(),
                }),
                node_name: text(&address["nodeName"]),
                zone: None,
                hints: None,
            };
            wanted.entry(ports.clone()).or_default().push(endpoint);
        }
    }
    wanted
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn families_and_readiness_are_kept_apart() {
        let endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "n", "labels": {"a": "b"}},
            "subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "notReadyAddresses": [{"ip": "10.0.0.2", "nodeName": "n1"}], "ports": [{"port": 5432}]}],
        }))
        .expect("endpoints");
        let of_family = |family: &str| -> Vec<(String, Option<bool>)> {
            let all = wanted(&endpoints, family).into_values().flatten();
            all.map(|e| (e.addresses[0].clone(), e.conditions.ready)).collect()
        };
        assert_eq!(of_family("IPv4"), [("10.0.0.1".into(), Some(true)), ("10.0.0.2".into(), Some(false))]);
        assert_eq!(of_family("IPv6"), [("fd00::1".into(), Some(true))]);
        assert!(is_mirrored(&endpoints));
        assert_eq!(labels(&endpoints).len(), 3);
    }

    #[test]
    fn a_thousand_addresses_of_a_group_are_mirrored_with_annotations_in_one_slice() {
        let addresses: Vec<Value> = (0..1003).map(|n| json!({"ip": format!("10.0.{}.{}", n / 250, n % 250)})).collect();
        let endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "n", "annotations": {"team": "a", NOT_MIRRORED[0]: "{}"}},
            "subsets": [{"addresses": addresses, "ports": [{"port": 5432}]}],
        }))
        .expect("endpoints");
        assert_eq!(skipped(&endpoints), 3);
        let of = Of {
            namespace: "n",
            name: "db",
            labels: labels(&endpoints),
            annotations: Some(annotations(&endpoints)),
            owner: Value::Null,
            most: MAX,
        };
        let mut plan = Plan::default();
        plan_slices(&of, &[], "IPv4", wanted(&endpoints, "IPv4"), &mut plan);
        let sizes: Vec<usize> = plan.create.iter().map(|s| items(&s["endpoints"]).count()).collect();
        assert_eq!(sizes, [1000]);
        assert_eq!(plan.create[0]["metadata"]["annotations"], json!({"team": "a"}));
    }
}
