//! Endpoint slices: where the pods of a service are.
//!
//! Follows `pkg/controller/endpointslice` and `k8s.io/endpointslice`: one set of slices for each address family and
//! each set of ports (named target ports may differ from pod to pod), at most a hundred endpoints in a slice,
//! changed slices rewritten and the others left alone. A service without endpoints keeps one empty slice of each
//! family. Pods of nodes that are not there are left out. For whom an endpoint is meant is [`hints`]' to say.
//!
//! Left out: the annotation of the last change's time.

mod hints;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use orkd_base::BoxError;
use orkd_reconcile::{
    Api, Controller, DeleteOptions, EventType, Informer, Key, Meta, ObjectRef, Outcome, Queue, Recorder, Resource,
    Shared, View, null_default, run,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::freshness::Freshness;
use crate::node_lifecycle::{BY_NODE, add_node_index};
use crate::owners;
use crate::pods;
use crate::views::{Node, Pod, Service, ServicePort, view};
use crate::{ControllerSpec, Cx};
use hints::{Hints, Wish};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "endpointslice-controller",
    service_account: "endpointslice-controller",
    run: |cx| Box::pin(start(cx)),
};

/// The most endpoints of a slice.
const MAX: usize = 100;
/// What is told of hints that are gone.
const NO_HINTS: &str = "TopologyAwareHintsDisabled";
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The label of what belongs to a headless service.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
pub(crate) const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Index of slices by who manages them and their service: `MANAGER/NAMESPACE/NAME`.
pub(crate) const BY_SERVICE: &str = "service";

pub(crate) fn add_service_index(slices: &Informer<EndpointSlice>) {
    slices.add_index(BY_SERVICE, |slice| {
        let meta = &slice.metadata;
        match (meta.label(MANAGED_BY), meta.label(SERVICE_NAME)) {
            (Some(manager), Some(service)) => vec![format!("{manager}/{}/{service}", meta.namespace)],
            _ => Vec::new(),
        }
    });
}

/// An endpoint slice; all of it, because it is written back.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Metadata.
    pub metadata: Meta,
    /// Family.
    pub address_type: String,
    /// Endpoints.
    #[serde(deserialize_with = "null_default")]
    pub endpoints: Vec<Endpoint>,
    /// Ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<Port>,
}
view!(EndpointSlice, "discovery.k8s.io", "v1", "EndpointSlice", "endpointslices");

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Addresses: one.
    pub addresses: Vec<String>,
    /// State.
    pub conditions: Conditions,
    /// Host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// The node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The node's zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// For whom it is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<Hints>,
}

/// The state of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Conditions {
    /// Whether it takes traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Whether it could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// Whether it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// What an endpoint is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct TargetRef {
    /// Kind: `Pod`.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Unique id.
    pub uid: String,
}

/// A port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// Name: the service port's.
    pub name: Option<String>,
    /// Protocol.
    pub protocol: Option<String>,
    /// Number on the pods.
    pub port: Option<i32>,
    /// Application protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let services: Informer<Service> = cx.informers.informer();
    let pods: Informer<Pod> = cx.informers.informer();
    let nodes: Informer<Node> = cx.informers.informer();
    let slices: Informer<EndpointSlice> = cx.informers.informer();
    add_service_index(&slices);
    add_node_index(&pods);
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        services.subscribe(move |event| queue.add(event.key()));
    }
    subscribe_pods(&pods, &services, &queue);
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
    subscribe_nodes(&nodes, &pods, &services, &queue);
    cx.informers.synced().await;
    let controller = Slices {
        services,
        pods,
        nodes,
        slices,
        api: cx.api,
        recorder: cx.recorder,
        freshness: Freshness::default(),
        hinted: Mutex::default(),
    };
    run(Arc::new(controller), queue, 5, cx.clock, cx.stop).await;
    Ok(())
}

/// Adds to the queue the services that a changed pod is or was of.
pub(crate) fn subscribe_pods(pods: &Informer<Pod>, services: &Informer<Service>, queue: &Queue<Key>) {
    let (queue, services) = (queue.clone(), services.clone());
    pods.subscribe(move |event| {
        let pod = event.object();
        if event.old().is_some_and(|old| !matters(old, pod)) {
            return;
        }
        for service in services.list_namespace(&pod.metadata.namespace) {
            let of = |p: &Pod| selects(&service, p);
            if of(pod) || event.old().is_some_and(|old| of(old)) {
                queue.add(service.metadata.key());
            }
        }
    });
}

/// Adds to the queue the services of a node's pods when it comes, goes or moves to another zone, and those that are spread
/// over all zones when one has more or fewer processors.
fn subscribe_nodes(nodes: &Informer<Node>, pods: &Informer<Pod>, services: &Informer<Service>, queue: &Queue<Key>) {
    let (queue, pods, services, all) = (queue.clone(), pods.clone(), services.clone(), nodes.clone());
    nodes.subscribe(move |event| {
        if !all.is_synced() {
            // Every service is looked at first anyway.
            return;
        }
        let node = event.object();
        let place = |n: &Node| n.metadata.label(ZONE).map(str::to_owned);
        if event.is_deleted() || event.old().is_none_or(|old| place(old) != place(node)) {
            for pod in pods.by_index(BY_NODE, &node.metadata.name) {
                let of_namespace = services.list_namespace(&pod.metadata.namespace);
                of_namespace.iter().filter(|s| selects(s, &pod)).for_each(|s| queue.add(s.metadata.key()));
            }
        }
        let before = event.old().map(|old| hints::capacity(old));
        if event.is_deleted() || before != Some(hints::capacity(node)) {
            let services = services.list();
            let spread = services.iter().filter(|s| hints::wish(s) == Wish::Proportional);
            spread.for_each(|s| queue.add(s.metadata.key()));
        }
    });
}

/// Whether a change of a pod may change endpoints (`podEndpointsChanged`).
fn matters(old: &Pod, new: &Pod) -> bool {
    fn facts(p: &Pod) -> ([bool; 3], [&str; 3]) {
        let state = [pods::is_ready(p), p.metadata.is_deleting(), pods::is_terminal(p)];
        (state, [&p.spec.hostname, &p.spec.subdomain, &p.spec.node_name])
    }
    let moved = old.status.pod_ip != new.status.pod_ip || old.status.pod_ips != new.status.pod_ips;
    let renamed = old.metadata.labels != new.metadata.labels || old.metadata.uid != new.metadata.uid;
    moved || renamed || facts(old) != facts(new)
}

/// Whether a service selects a pod.
pub(crate) fn selects(service: &Service, pod: &Pod) -> bool {
    service.spec.selector.as_ref().is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(k, v)| pod.metadata.labels.get(k) == Some(v))
    })
}

/// The number of a service's port on a pod (`FindPort`).
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        Value::String(name) => {
            let sidecars = pod.spec.init_containers.iter().filter(|c| c.restart_policy == "Always");
            pod.spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|c| &c.ports)
                .find(|p| p.name == *name && or_tcp(&p.protocol) == or_tcp(&port.protocol))
                .map(|p| p.container_port)
        }
        Value::Number(number) => number.as_i64().and_then(|n| i32::try_from(n).ok()),
        _ => Some(port.port),
    }
}

fn or_tcp(protocol: &str) -> &str {
    if protocol.is_empty() { "TCP" } else { protocol }
}

/// Whether a service has no address of its own.
pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.cluster_ip == "None"
}

struct Slices {
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    api: Api,
    recorder: Recorder,
    freshness: Freshness,
    /// The services whose endpoints were given to zones in proportion.
    hinted: Mutex<HashSet<Key>>,
}

/// What is known of one service.
#[derive(Default)]
pub struct Observed {
    service: Arc<Service>,
    pods: Vec<Arc<Pod>>,
    /// The nodes of its pods that are there, and their zones.
    nodes: BTreeMap<Shared<String>, Option<String>>,
    slices: Vec<Arc<EndpointSlice>>,
    /// The zones' shares in processors, where they matter.
    shares: Option<BTreeMap<String, f64>>,
    /// Whether its endpoints were given to zones in proportion.
    hinted: bool,
}

/// What is to be done for one service.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub(crate) create: Vec<Value>,
    pub(crate) update: Vec<(Key, Value)>,
    pub(crate) delete: Vec<(Key, String)>,
    /// What is told about the service.
    events: Vec<(EventType, &'static str, String)>,
    /// Whether its endpoints are given to zones in proportion now.
    hinted: bool,
}

#[async_trait]
impl Controller for Slices {
    type Key = Key;
    type Observed = Observed;
    type Plan = Plan;

    async fn observe(&self, key: &Key) -> Result<Option<Observed>, BoxError> {
        let Some(service) = self.services.get(key) else {
            self.freshness.forget(key);
            self.hinted.lock().remove(key);
            // What is left of a service is removed by its owner reference.
            return Ok(None);
        };
        if service.spec.selector.as_ref().is_none_or(BTreeMap::is_empty) || service.spec.kind == "ExternalName" {
            return Ok(None);
        }
        let seen = self.slices.seen();
        let slices = self.slices.by_index(BY_SERVICE, &format!("{MANAGER}/{key}"));
        let alive = slices.iter().filter(|s| !s.metadata.is_deleting()).map(|s| s.metadata.uid.as_str());
        if !self.freshness.is_fresh(key, seen, alive, Timestamp::now()) {
            // Our own writes are on their way; their events bring the key back.
            return Ok(None);
        }
        let mut pods = self.pods.list_namespace(&key.namespace);
        pods.retain(|pod| selects(&service, pod));
        let mut nodes = BTreeMap::new();
        for name in pods.iter().map(|p| &p.spec.node_name).collect::<BTreeSet<_>>() {
            if let Some(node) = self.nodes.get_named("", name) {
                nodes.insert(name.clone(), node.metadata.label(ZONE).filter(|z| !z.is_empty()).map(str::to_owned));
            }
        }
        let spread = hints::wish(&service) == Wish::Proportional;
        let shares = if spread { hints::shares(&self.nodes.list()) } else { None };
        let hinted = self.hinted.lock().contains(key);
        Ok(Some(Observed { service, pods, nodes, slices, shares, hinted }))
    }

    fn plan(&self, observed: &Observed, _now: Timestamp) -> Plan {
        plan(observed)
    }

    async fn act(&self, observed: &Observed, plan: Plan) -> Result<Outcome, BoxError> {
        let service = &observed.service;
        let key = service.metadata.key();
        let (events, hinted) = (plan.events.clone(), plan.hinted);
        let result = write(&self.api, &self.freshness, &key, plan).await;
        for (kind, reason, text) in events {
            self.recorder.event(&ObjectRef::of(&**service), kind, reason, text);
        }
        if hinted {
            self.hinted.lock().insert(key);
        } else if observed.hinted {
            self.hinted.lock().remove(&key);
        }
        if let Err(err) = &result {
            let text = format!(
                "Error updating Endpoint Slices for Service {}: {}",
                service.metadata.key(),
                orkd_base::chain(&**err)
            );
            self.recorder.warning(&ObjectRef::of(&**service), "FailedToUpdateEndpointSlices", text);
        }
        result.map(|()| Outcome::Done)
    }
}

/// Writes what a plan says for the service or endpoints of a key.
pub(crate) async fn write(api: &Api, freshness: &Freshness, key: &Key, plan: Plan) -> Result<(), BoxError> {
    let resource = Resource::of::<EndpointSlice>();
    let wrote = |slice: EndpointSlice| freshness.wrote(key, slice.metadata.rv(), Timestamp::now());
    for body in &plan.create {
        match api.create::<EndpointSlice>(&resource.collection(&key.namespace), body).await {
            Ok(slice) => wrote(slice),
            Err(err) if err.has_cause("NamespaceTerminating") => return Ok(()),
            Err(err) => return Err(err.into()),
        }
    }
    for (slice, body) in &plan.update {
        wrote(api.update::<EndpointSlice>(&resource.at(&slice.namespace, &slice.name), body).await?);
    }
    for (slice, uid) in &plan.delete {
        freshness.deleting(key, uid, Timestamp::now());
        let target = resource.at(&slice.namespace, &slice.name);
        match api.delete(&target, &DeleteOptions::default().uid(uid)).await {
            Err(err) if err.is_not_found() || err.is_conflict() => freshness.not_deleted(key, uid),
            Err(err) => {
                freshness.not_deleted(key, uid);
                return Err(err.into());
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

fn plan(observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    if observed.service.metadata.is_deleting() {
        return plan;
    }
    plan.hinted = observed.hinted;
    let families = families(&observed.service);
    for slice in &observed.slices {
        if !families.contains(&slice.address_type) {
            plan.delete.push((slice.metadata.key(), slice.metadata.uid.clone()));
        }
    }
    for family in families {
        plan_family(observed, &family, &mut plan);
    }
    plan
}

/// The families of a service's addresses.
fn families(service: &Service) -> Vec<String> {
    if !service.spec.ip_families.is_empty() {
        return service.spec.ip_families.clone();
    }
    let family = if service.spec.cluster_ip.contains(':') { "IPv6" } else { "IPv4" };
    vec![family.to_owned()]
}

fn plan_family(observed: &Observed, family: &str, plan: &mut Plan) {
    // What there should be, by ports, then by address and pod.
    let mut wanted: BTreeMap<Vec<Port>, Vec<Endpoint>> = BTreeMap::new();
    for pod in &observed.pods {
        if let Some(endpoint) = endpoint(observed, pod, family) {
            wanted.entry(ports(&observed.service, pod)).or_default().push(endpoint);
        }
    }
    if wanted.is_empty() {
        wanted.insert(Vec::new(), Vec::new());
    }
    give_hints(observed, family, &mut wanted, plan);
    let service = &observed.service;
    let of = Of {
        namespace: &service.metadata.namespace,
        name: &service.metadata.name,
        labels: labels(service),
        annotations: None,
        owner: owners::controller_ref(&**service),
        most: MAX,
    };
    plan_slices(&of, &observed.slices, family, wanted, plan);
}

/// Says of the endpoints of one family for whom they are meant.
fn give_hints(observed: &Observed, family: &str, wanted: &mut BTreeMap<Vec<Port>, Vec<Endpoint>>, plan: &mut Plan) {
    let wish = hints::wish(&observed.service);
    let mut all: Vec<&mut Endpoint> = wanted.values_mut().flatten().collect();
    let mut tell =
        |kind, reason, text: &str| plan.events.push((kind, reason, format!("{text}, addressType: {family}")));
    match wish {
        Wish::SameZone | Wish::SameNode => hints::close(&mut all, wish == Wish::SameNode),
        Wish::None => {}
        Wish::Proportional => {
            let slices = observed.slices.iter().filter(|s| s.address_type == family);
            let now: BTreeMap<_, _> = slices.flat_map(|s| &s.endpoints).map(|e| (identity(e), &e.hints)).collect();
            let current = |e: &Endpoint| {
                let zones = now.get(&identity(e)).copied().and_then(|h| h.as_ref()).map(|h| &h.for_zones);
                zones.and_then(|z| z.first()).map(|z| z.name.clone())
            };
            match hints::proportional(&mut all, current, observed.shares.as_ref()) {
                Ok(()) => {
                    if !std::mem::replace(&mut plan.hinted, true) {
                        let text = "Topology Aware Hints has been enabled";
                        tell(EventType::Normal, "TopologyAwareHintsEnabled", text);
                    }
                }
                Err(why) => {
                    all.iter_mut().for_each(|e| e.hints = None);
                    plan.hinted = false;
                    tell(EventType::Warning, NO_HINTS, &why);
                }
            }
            return;
        }
    }
    if std::mem::take(&mut plan.hinted) {
        tell(EventType::Warning, NO_HINTS, "Topology Aware Hints has been disabled");
    }
}

/// Whose slices they are.
pub(crate) struct Of<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) labels: BTreeMap<String, String>,
    /// The slices' annotations; `None` leaves those they have.
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    pub(crate) owner: Value,
    /// The most endpoints of a slice.
    pub(crate) most: usize,
}

impl Of<'_> {
    /// Whether labels and annotations of a slice are right.
    fn fits(&self, slice: &Meta) -> bool {
        *slice.labels == self.labels && self.annotations.as_ref().is_none_or(|a| *slice.annotations == *a)
    }
}

/// What makes two endpoints one.
fn identity(endpoint: &Endpoint) -> (Vec<String>, Option<String>) {
    (endpoint.addresses.clone(), endpoint.target_ref.as_ref().map(|t| t.uid.clone()))
}

/// Brings the slices of one family to what is wanted, with as few changes as can be.
pub(crate) fn plan_slices(
    of: &Of<'_>,
    slices: &[Arc<EndpointSlice>],
    family: &str,
    wanted: BTreeMap<Vec<Port>, Vec<Endpoint>>,
    plan: &mut Plan,
) {
    let mut existing: BTreeMap<Vec<Port>, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in slices.iter().filter(|s| s.address_type == family && !s.metadata.is_deleting()) {
        let mut ports = slice.ports.clone();
        for port in &mut ports {
            // Absent and empty are one.
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".into());
        }
        ports.sort();
        existing.entry(ports).or_default().push(slice);
    }
    let mut spare: Vec<&Arc<EndpointSlice>> = Vec::new();
    for (ports, slices) in &existing {
        if !wanted.contains_key(ports) {
            spare.extend(slices);
        }
    }
    for (ports, endpoints) in wanted {
        let mut slices = existing.remove(&ports).unwrap_or_default();
        slices.sort_by_key(|s| s.metadata.key());
        for (slice, endpoints) in place(&slices, endpoints, of.most) {
            match slice {
                Some(slice) if endpoints.is_empty() && !ports.is_empty() => {
                    plan.delete.push((slice.metadata.key(), slice.metadata.uid.clone()));
                }
                Some(slice) => {
                    if slice.endpoints != endpoints || !of.fits(&slice.metadata) {
                        plan.update.push((slice.metadata.key(), body(of, Some(slice), family, &ports, &endpoints)));
                    }
                }
                None => match spare.pop() {
                    // A slice of ports that are no more takes the new ones.
                    Some(slice) => {
                        plan.update.push((slice.metadata.key(), body(of, Some(slice), family, &ports, &endpoints)));
                    }
                    None => plan.create.push(body(of, None, family, &ports, &endpoints)),
                },
            }
        }
    }
    plan.delete.extend(spare.iter().map(|s| (s.metadata.key(), s.metadata.uid.clone())));
}

/// Spreads endpoints over slices: what is in a slice stays there, new ones fill slices up, the rest goes to new
/// slices (`None`). Without any endpoint one empty slice remains.
fn place<'a>(
    slices: &[&'a Arc<EndpointSlice>],
    endpoints: Vec<Endpoint>,
    most: usize,
) -> Vec<(Option<&'a Arc<EndpointSlice>>, Vec<Endpoint>)> {
    let mut left: BTreeMap<_, Endpoint> = endpoints.into_iter().map(|e| (identity(&e), e)).collect();
    let mut placed: Vec<(Option<&Arc<EndpointSlice>>, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let kept = slice.endpoints.iter().filter_map(|e| left.remove(&identity(e))).take(most).collect();
        placed.push((Some(slice), kept));
    }
    let mut rest = left.into_values();
    // Fullest first, as upstream packs.
    let mut order: Vec<usize> = (0..placed.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(placed[*i].1.len()));
    for i in order {
        let room = most - placed[i].1.len().min(most);
        placed[i].1.extend(rest.by_ref().take(room));
    }
    loop {
        let more: Vec<Endpoint> = rest.by_ref().take(most).collect();
        if more.is_empty() {
            break;
        }
        placed.push((None, more));
    }
    if placed.is_empty() {
        placed.push((None, Vec::new()));
    }
    placed
}

fn endpoint(observed: &Observed, pod: &Pod, family: &str) -> Option<Endpoint> {
    let service = &observed.service;
    if pods::is_terminal(pod) {
        return None;
    }
    let ip = pod.status.ips().find(|ip| ip.contains(':') == (family == "IPv6"))?;
    let serving = pods::is_ready(pod);
    let terminating = pod.metadata.is_deleting();
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    let node = Some(&pod.spec.node_name).filter(|n| !n.is_empty());
    let known = observed.nodes.get(&pod.spec.node_name);
    if known.is_none() && !service.spec.publish_not_ready_addresses {
        // A reference to a node that is not there: its event brings the service back.
        return None;
    }
    let named = !pod.spec.hostname.is_empty() && *pod.spec.subdomain == *service.metadata.name;
    Some(Endpoint {
        addresses: vec![ip.to_owned()],
        conditions: Conditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) },
        hostname: named.then(|| pod.spec.hostname.to_string()),
        target_ref: Some(TargetRef {
            kind: "Pod".into(),
            namespace: pod.metadata.namespace.to_string(),
            name: pod.metadata.name.to_string(),
            uid: pod.metadata.uid.clone(),
        }),
        zone: known.cloned().flatten(),
        node_name: node.map(|n| n.to_string()),
        hints: None,
    })
}

/// The ports of a service as a pod has them, sorted; those that the pod does not have are left out.
fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let mut ports: Vec<Port> = service
        .spec
        .ports
        .iter()
        .filter_map(|port| {
            Some(Port {
                name: Some(port.name.clone()),
                protocol: Some(or_tcp(&port.protocol).to_owned()),
                port: Some(target_port(pod, port)?),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = (*service.metadata.labels).clone();
    for reserved in [SERVICE_NAME, MANAGED_BY, HEADLESS] {
        labels.remove(reserved);
    }
    labels.insert(SERVICE_NAME.into(), service.metadata.name.to_string());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

fn body(
    of: &Of<'_>,
    slice: Option<&Arc<EndpointSlice>>,
    family: &str,
    ports: &[Port],
    endpoints: &[Endpoint],
) -> Value {
    let mut metadata = json!({
        "namespace": of.namespace, "labels": of.labels, "ownerReferences": [of.owner],
        "generateName": format!("{}-", of.name),
    });
    if let Some(slice) = slice {
        let meta = &slice.metadata;
        metadata["name"] = (*meta.name).into();
        metadata["uid"] = meta.uid.as_str().into();
        metadata["resourceVersion"] = meta.resource_version.as_str().into();
    }
    let standing = || slice.map(|s| &*s.metadata.annotations);
    if let Some(annotations) = of.annotations.as_ref().or_else(standing).filter(|a| !a.is_empty()) {
        metadata["annotations"] = json!(annotations);
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": family, "endpoints": endpoints, "ports": ports,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(change: impl FnOnce(&mut Value)) -> Arc<Service> {
        let mut json = json!({
            "metadata": {"namespace": "n", "name": "web", "uid": "s", "labels": {"team": "a"}},
            "spec": {"selector": {"app": "x"}, "clusterIP": "10.43.0.9", "ipFamilies": ["IPv4"],
                "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]},
        });
        change(&mut json);
        Arc::new(serde_json::from_value(json).expect("a service"))
    }

    fn pod(n: usize, change: impl FnOnce(&mut Value)) -> Arc<Pod> {
        let mut json = json!({
            "metadata": {"namespace": "n", "name": format!("p{n}"), "uid": format!("u{n}"), "labels": {"app": "x"}},
            "spec": {"nodeName": "n1", "containers": [
                {"ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": format!("10.42.{}.{}", n / 250, n % 250)}],
                "conditions": [{"type": "Ready", "status": "True"}]},
        });
        change(&mut json);
        Arc::new(serde_json::from_value(json).expect("a pod"))
    }

    fn observed(service: Arc<Service>, pods: Vec<Arc<Pod>>, slices: Vec<Arc<EndpointSlice>>) -> Observed {
        let nodes = BTreeMap::from([("n1".into(), Some("z1".to_owned())), ("n2".into(), Some("z2".to_owned()))]);
        Observed { service, pods, nodes, slices, ..Observed::default() }
    }

    /// What the slices are after a plan: as an API server would keep them.
    fn apply(plan: Plan) -> Vec<Arc<EndpointSlice>> {
        let bodies = plan.create.into_iter().chain(plan.update.into_iter().map(|(_, body)| body));
        bodies
            .enumerate()
            .map(|(i, mut body)| {
                body["metadata"]["name"] = format!("web-{i}").into();
                body["metadata"]["uid"] = format!("slice-{i}").into();
                Arc::new(serde_json::from_value(body).expect("a slice"))
            })
            .collect()
    }

    fn states(slices: &[Arc<EndpointSlice>]) -> Vec<String> {
        let yes = |b: Option<bool>| if b == Some(true) { "y" } else { "n" };
        slices
            .iter()
            .flat_map(|s| &s.endpoints)
            .map(|e| {
                let c = &e.conditions;
                format!("{} {}{}{}", e.addresses[0], yes(c.ready), yes(c.serving), yes(c.terminating))
            })
            .collect()
    }

    #[test]
    fn endpoints_tell_ready_serving_and_terminating() {
        let pods = vec![
            pod(1, |_| {}),
            pod(2, |p| p["status"]["conditions"][0]["status"] = "False".into()),
            pod(3, |p| p["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()),
            pod(4, |p| p["status"]["phase"] = "Succeeded".into()),
            pod(5, |p| p["status"] = json!({"phase": "Pending"})),
        ];
        let slices = apply(plan(&observed(service(|_| {}), pods, vec![])));
        assert_eq!(states(&slices), ["10.42.0.1 yyn", "10.42.0.2 nnn", "10.42.0.3 nyy"]);
        assert_eq!(slices[0].ports[0].port, Some(8080));
        assert_eq!(slices[0].endpoints[0].zone.as_deref(), Some("z1"));
        assert_eq!(slices[0].metadata.label("team"), Some("a"));
    }

    #[test]
    fn what_is_right_is_left_alone() {
        let make = || observed(service(|_| {}), vec![pod(1, |_| {})], vec![]);
        let slices = apply(plan(&make()));
        assert_eq!(plan(&Observed { slices, ..make() }), Plan::default());
    }

    #[test]
    fn slices_hold_a_hundred_and_are_filled_up() {
        let pods: Vec<_> = (0..250).map(|n| pod(n, |_| {})).collect();
        let first = apply(plan(&observed(service(|_| {}), pods.clone(), vec![])));
        assert_eq!(first.iter().map(|s| s.endpoints.len()).collect::<Vec<_>>(), [100, 100, 50]);
        let next = plan(&observed(service(|_| {}), [pods, vec![pod(250, |_| {})]].concat(), first));
        assert_eq!((next.create.len(), next.update.len(), next.delete.len()), (0, 1, 0));
    }

    #[test]
    fn a_service_without_endpoints_keeps_an_empty_slice() {
        let empty = apply(plan(&observed(service(|_| {}), vec![], vec![])));
        assert_eq!((empty.len(), empty[0].endpoints.len(), empty[0].ports.len()), (1, 0, 0));
        assert_eq!(plan(&observed(service(|_| {}), vec![], empty.clone())), Plan::default());
        let filled = plan(&observed(service(|_| {}), vec![pod(1, |_| {})], empty));
        assert_eq!((filled.create.len(), filled.update.len(), filled.delete.len()), (0, 1, 0));
    }

    #[test]
    fn ports_differ_from_pod_to_pod() {
        let other = pod(2, |p| p["spec"]["containers"][0]["ports"][0]["containerPort"] = 9090.into());
        let slices = apply(plan(&observed(service(|_| {}), vec![pod(1, |_| {}), other], vec![])));
        assert_eq!(slices.iter().map(|s| s.ports[0].port).collect::<Vec<_>>(), [Some(8080), Some(9090)]);
    }

    #[test]
    fn headless_services_name_their_pods() {
        let headless = service(|s| {
            s["spec"]["clusterIP"] = "None".into();
            s["spec"]["publishNotReadyAddresses"] = true.into();
        });
        let named = pod(1, |p| {
            p["spec"]["hostname"] = "db-0".into();
            p["spec"]["subdomain"] = "web".into();
            p["status"]["conditions"][0]["status"] = "False".into();
        });
        let slices = apply(plan(&observed(headless, vec![named], vec![])));
        assert_eq!(slices[0].endpoints[0].hostname.as_deref(), Some("db-0"));
        assert_eq!(states(&slices), ["10.42.0.1 ynn"]);
        assert_eq!(slices[0].metadata.label(HEADLESS), Some(""));
    }

    #[test]
    fn pods_of_nodes_that_are_not_there_are_left_out() {
        let lost = || vec![pod(1, |_| {}), pod(2, |p| p["spec"]["nodeName"] = "gone".into())];
        let slices = apply(plan(&observed(service(|_| {}), lost(), vec![])));
        assert_eq!(states(&slices), ["10.42.0.1 yyn"]);
        let all = service(|s| s["spec"]["publishNotReadyAddresses"] = true.into());
        let slices = apply(plan(&observed(all, lost(), vec![])));
        assert_eq!(states(&slices), ["10.42.0.1 yyn", "10.42.0.2 yyn"]);
    }

    #[test]
    fn hints_come_with_the_wish_and_go_with_it() {
        let pods = || vec![pod(1, |_| {}), pod(2, |p| p["spec"]["nodeName"] = "n2".into())];
        let hints = |slices: &[Arc<EndpointSlice>]| -> Vec<Value> {
            slices.iter().flat_map(|s| &s.endpoints).map(|e| json!(e.hints)).collect()
        };
        let near = service(|s| s["spec"]["trafficDistribution"] = "PreferSameNode".into());
        let first = apply(plan(&observed(near.clone(), pods(), vec![])));
        let expected = [
            json!({"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]}),
            json!({"forZones": [{"name": "z2"}], "forNodes": [{"name": "n2"}]}),
        ];
        assert_eq!(hints(&first), expected);
        assert_eq!(plan(&observed(near, pods(), first.clone())), Plan::default());
        let anywhere = plan(&observed(service(|_| {}), pods(), first));
        assert_eq!(hints(&apply(anywhere)), [Value::Null, Value::Null]);
    }

    #[test]
    fn what_becomes_of_proportional_hints_is_told() {
        let spread =
            || service(|s| s["metadata"]["annotations"] = json!({"service.kubernetes.io/topology-mode": "Auto"}));
        let pods = || vec![pod(1, |_| {}), pod(2, |p| p["spec"]["nodeName"] = "n2".into())];
        let shares = || Some(BTreeMap::from([("z1".to_owned(), 0.5), ("z2".to_owned(), 0.5)]));
        let told = |plan: &Plan| plan.events.iter().map(|e| format!("{}: {}", e.1, e.2)).collect::<Vec<_>>();
        let first = plan(&Observed { shares: shares(), ..observed(spread(), pods(), vec![]) });
        assert!(first.hinted);
        let text = "TopologyAwareHintsEnabled: Topology Aware Hints has been enabled, addressType: IPv4";
        assert_eq!(told(&first), [text]);
        let slices = apply(first);
        let on = |service, shares, hinted| Observed { shares, hinted, ..observed(service, pods(), slices.clone()) };
        let again = plan(&on(spread(), shares(), true));
        assert_eq!(again, Plan { hinted: true, ..Plan::default() });
        let blind = plan(&on(spread(), None, true));
        assert!(!blind.hinted && blind.update.len() == 1);
        assert!(told(&blind)[0].starts_with("TopologyAwareHintsDisabled: Insufficient Node information: "));
        let off = plan(&on(service(|_| {}), None, true));
        let text = "TopologyAwareHintsDisabled: Topology Aware Hints has been disabled, addressType: IPv4";
        assert_eq!((told(&off), off.update.len()), (vec![text.to_owned()], 1));
    }
}
