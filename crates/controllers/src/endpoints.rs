//! Endpoints: the older form of endpoint slices, one object for each service.
//!
//! Follows `pkg/controller/endpoint`: addresses are ready or not ready, grouped by the ports they share
//! (`RepackSubsets`); at most a thousand, beyond which an annotation says so. Of dual-stack services only the first
//! family is told.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use orkd_base::BoxError;
use orkd_reconcile::{Informer, Key, Meta, ObjectRef, Outcome, Queue, Resource, View, null_default, work};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::endpoint_slice::{HEADLESS, is_headless, selects, subscribe_pods, target_port};
use crate::freshness::Freshness;
use crate::pods;
use crate::views::{Pod, Service, view};
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "endpoints-controller",
    service_account: "endpoint-controller",
    run: |cx| Box::pin(start(cx)),
};

const MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Since 1.33 what this controller writes says so.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

/// An endpoints object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    /// Metadata.
    pub metadata: Meta,
    /// Groups of addresses, as they are.
    #[serde(deserialize_with = "null_default")]
    pub subsets: Vec<Value>,
}
view!(Endpoints, "", "v1", "Endpoints", "endpoints");

async fn start(cx: Cx) -> Result<(), BoxError> {
    let services: Informer<Service> = cx.informers.informer();
    let pods: Informer<Pod> = cx.informers.informer();
    let all: Informer<Endpoints> = cx.informers.informer();
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        services.subscribe(move |event| queue.add(event.key()));
    }
    subscribe_pods(&pods, &services, &queue);
    {
        let queue = queue.clone();
        all.subscribe(move |event| {
            if event.is_deleted() {
                queue.add(event.key());
            }
        });
    }
    services.synced().await;
    pods.synced().await;
    all.synced().await;
    for endpoints in all.list() {
        // What is left of services that went while nobody looked.
        if endpoints.metadata.label(MANAGED_BY) == Some(MANAGER) {
            queue.add(endpoints.metadata.key());
        }
    }
    let freshness = Freshness::default();
    let (cx_ref, services, pods, all, freshness) = (&cx, &services, &pods, &all, &freshness);
    work(queue, 5, cx.stop.clone(), |key| async move {
        let resource = Resource::of::<Endpoints>();
        let target = resource.at(&key.namespace, &key.name);
        let Some(service) = services.get(&key) else {
            freshness.forget(&key);
            // Services take their endpoints with them; leader election records of old are not ours.
            let left =
                all.get(&key).filter(|e| e.metadata.annotation("control-plane.alpha.kubernetes.io/leader").is_none());
            if left.is_some_and(|e| e.metadata.label(MANAGED_BY) == Some(MANAGER)) {
                match cx_ref.api.delete(&target, &Default::default()).await {
                    Err(err) if err.is_not_found() => {}
                    other => other?,
                }
            }
            return Ok(Outcome::Done);
        };
        if service.spec.selector.as_ref().is_none_or(BTreeMap::is_empty) || service.metadata.is_deleting() {
            return Ok(Outcome::Done);
        }
        let mut of_service = pods.list_namespace(&key.namespace);
        of_service.retain(|pod| selects(&service, pod));
        let of_service: Vec<&Pod> = of_service.iter().map(|p| &**p).collect();
        // What is compared must be what we wrote last, or a change back would look as if it were done already
        // (`staleEndpointsTracker`).
        if !freshness.is_fresh(&key, all.seen(), std::iter::empty(), Timestamp::now()) {
            return Ok(Outcome::Requeue);
        }
        let current = all.get(&key);
        let Some(body) = wanted(&service, &of_service, current.as_deref()) else { return Ok(Outcome::Done) };
        let current_uid = current.as_ref().map(|c| c.metadata.uid.clone()).unwrap_or_default();
        let written = match current {
            None => cx_ref.api.create::<Endpoints>(&resource.collection(&key.namespace), &body).await,
            Some(_) => cx_ref.api.update::<Endpoints>(&target, &body).await,
        };
        match written {
            Err(err) if err.has_cause("NamespaceTerminating") => {}
            // The cache is behind our last write; its event does not bring the key back, so we do.
            Err(err) if err.is_conflict() || err.is_already_exists() => return Ok(Outcome::Requeue),
            Err(err) => {
                let (reason, text) = match current_uid.is_empty() {
                    true => ("FailedToCreateEndpoint", format!("Failed to create endpoint for service {key}")),
                    false => ("FailedToUpdateEndpoint", format!("Failed to update endpoint {key}")),
                };
                let meta = Meta { uid: current_uid, ..Meta::default() };
                let about = ObjectRef {
                    namespace: key.namespace.to_string(),
                    name: key.name.to_string(),
                    ..ObjectRef::new(&resource, &meta)
                };
                cx_ref.recorder.warning(&about, reason, format!("{text}: {}", err.message()));
                return Err(err.into());
            }
            Ok(written) => freshness.wrote(&key, written.metadata.rv(), Timestamp::now()),
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// The endpoints as they should be; `None` when they are.
fn wanted(service: &Service, pods: &[&Pod], current: Option<&Endpoints>) -> Option<Value> {
    let (subsets, over) = subsets(service, pods);
    let mut labels = (*service.metadata.labels).clone();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    let mut annotations = current.map(|c| (*c.metadata.annotations).clone()).unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if over {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    if let Some(current) = current
        && current.subsets == subsets
        && *current.metadata.labels == labels
        && *current.metadata.annotations == annotations
    {
        return None;
    }
    let mut metadata = json!({
        "name": &*service.metadata.name, "namespace": &*service.metadata.namespace, "labels": labels,
    });
    if !annotations.is_empty() {
        metadata["annotations"] = json!(annotations);
    }
    if let Some(current) = current {
        metadata["uid"] = current.metadata.uid.as_str().into();
        metadata["resourceVersion"] = current.metadata.resource_version.as_str().into();
    }
    Some(json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets}))
}

/// The groups of addresses, and whether some were left out.
fn subsets(service: &Service, pods: &[&Pod]) -> (Vec<Value>, bool) {
    // Each address with the set of ports it has, ready or not.
    let mut by_address: BTreeMap<(String, String, bool), (Value, BTreeSet<PortKey>)> = BTreeMap::new();
    let mut count = 0;
    for pod in pods {
        if pods::is_terminal(pod) || (pod.metadata.is_deleting() && !service.spec.publish_not_ready_addresses) {
            continue;
        }
        let family_v6 = service.spec.ip_families.first().map_or(service.spec.cluster_ip.contains(':'), |f| f == "IPv6");
        let Some(ip) = pod.status.ips().find(|ip| ip.contains(':') == family_v6) else { continue };
        let ready = service.spec.publish_not_ready_addresses || pods::is_ready(pod);
        let mut address = json!({
            "ip": ip,
            "targetRef": {"kind": "Pod", "namespace": &*pod.metadata.namespace, "name": &*pod.metadata.name,
                "uid": pod.metadata.uid},
        });
        if !pod.spec.node_name.is_empty() {
            address["nodeName"] = pod.spec.node_name.as_str().into();
        }
        if !pod.spec.hostname.is_empty() && *pod.spec.subdomain == *service.metadata.name {
            address["hostname"] = (*pod.spec.hostname).into();
        }
        let ports: BTreeSet<PortKey> = service
            .spec
            .ports
            .iter()
            .filter_map(|port| {
                let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
                Some(PortKey {
                    name: port.name.clone(),
                    port: target_port(pod, port)?,
                    protocol: protocol.to_owned(),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        if ports.is_empty() && !(service.spec.ports.is_empty() && is_headless(service)) {
            continue;
        }
        count += 1;
        by_address.insert((ip.to_owned(), pod.metadata.uid.clone(), ready), (address, ports));
    }
    let over = count > MAX;
    let mut groups: BTreeMap<BTreeSet<PortKey>, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    // Ready ones are told first when there are too many.
    let mut all: Vec<_> = by_address.into_iter().collect();
    all.sort_by_key(|((_, _, ready), _)| !ready);
    all.truncate(MAX);
    all.sort_by(|a, b| a.0.cmp(&b.0));
    for ((_, _, ready), (address, ports)) in all {
        let group = groups.entry(ports).or_default();
        if ready { group.0.push(address) } else { group.1.push(address) }
    }
    let subsets: Vec<Value> = groups
        .into_iter()
        .map(|(ports, (ready, not_ready))| {
            let mut subset = json!({});
            if !ready.is_empty() {
                subset["addresses"] = ready.into();
            }
            if !not_ready.is_empty() {
                subset["notReadyAddresses"] = not_ready.into();
            }
            if !ports.is_empty() {
                subset["ports"] = ports.iter().map(PortKey::json).collect();
            }
            subset
        })
        .collect();
    // As they will be stored, so that what is right is not written again.
    (orkd_api::core::endpoint_subsets::repack(&subsets), over)
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PortKey {
    name: String,
    port: i32,
    protocol: String,
    app_protocol: Option<String>,
}

impl PortKey {
    fn json(&self) -> Value {
        let mut port = json!({"port": self.port, "protocol": self.protocol});
        if !self.name.is_empty() {
            port["name"] = self.name.as_str().into();
        }
        if let Some(protocol) = &self.app_protocol {
            port["appProtocol"] = protocol.as_str().into();
        }
        port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_grouped_by_readiness_and_ports() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n"},
            "spec": {"selector": {"app": "x"}, "clusterIP": "10.43.0.9", "ports": [{"port": 80, "targetPort": 8080}]},
        }))
        .expect("a service");
        let pod = |ip: &str, ready: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": ip, "namespace": "n", "uid": ip}, "spec": {"nodeName": "n1"},
                "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .expect("a pod")
        };
        let (a, b) = (pod("10.0.0.1", "True"), pod("10.0.0.2", "False"));
        let body = wanted(&service, &[&b, &a], None).expect("to be made");
        let address = |ip: &str| {
            json!({"ip": ip, "nodeName": "n1",
                "targetRef": {"kind": "Pod", "namespace": "n", "name": ip, "uid": ip}})
        };
        assert_eq!(
            body["subsets"],
            json!([{"addresses": [address("10.0.0.1")], "notReadyAddresses": [address("10.0.0.2")],
                "ports": [{"port": 8080, "protocol": "TCP"}]}])
        );
        let current: Endpoints = serde_json::from_value(body).expect("endpoints");
        assert_eq!(wanted(&service, &[&b, &a], Some(&current)), None);
    }
}
