//! A pod as cycles see it: what equal pods share is worked out once and kept once.
//!
//! A [`Template`] holds everything plugins judge a pod by; equal ones are interned, so that results for one pod hold
//! for the next of the same workload, and 150,000 pods cost little more than their names. A [`PodInfo`] adds what is
//! the pod's own. It is decoded straight from the API (it is the informer's view): nothing of the spec is kept beside.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use orkd_reconcile::{Key, Meta, Shared, View};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer};

use crate::devices::extended::{Needs, needs};
use crate::model::{
    Condition, Pod, PodAffinityTerm, PodResourceClaim, ResourceClaimStatus, SpreadConstraint, Toleration, Volume,
};
use crate::plugins::node_declared_features::needed;
use crate::requests;
use crate::selector::{NodeTerm, NodeTerms, Selector};

/// A host port: protocol, address, port.
pub type HostPort = (String, String, u16);

/// The node that a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeWishes {
    /// Labels the node must have.
    pub selector: BTreeMap<String, String>,
    /// What the node must be.
    pub required: Option<NodeTerms>,
    /// What the node should be, with weights.
    pub preferred: Vec<(i64, NodeTerm)>,
}

impl NodeWishes {
    /// Whether there is nothing the node must be.
    pub fn is_unconditional(&self) -> bool {
        self.selector.is_empty() && self.required.is_none()
    }

    /// Whether a node is what it must be (`nodeaffinity.GetRequiredNodeAffinity`).
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.selector.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.required.as_ref().is_none_or(|required| required.matches(name, labels))
    }
}

/// Pods of some namespaces that a selector matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodSet {
    /// The namespaces, sorted.
    pub namespaces: Vec<Arc<str>>,
    /// Namespaces with such labels as well.
    pub namespace_selector: Option<Selector>,
    /// The pods.
    pub selector: Selector,
}

impl PodSet {
    /// Whether a pod with this namespace (of these labels) and template is one of them.
    pub fn matches(&self, template: &Body, namespace_labels: &BTreeMap<String, String>) -> bool {
        (self.namespaces.binary_search(&template.namespace).is_ok()
            || self.namespace_selector.as_ref().is_some_and(|s| s.matches(namespace_labels)))
            && self.selector.matches(&template.labels)
    }
}

/// A term of pod affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AffinityTerm {
    /// The pods.
    pub pods: PodSet,
    /// Label that makes the domains.
    pub key: String,
}

impl AffinityTerm {
    fn new(term: &PodAffinityTerm, namespace: &Arc<str>) -> AffinityTerm {
        let mut namespaces: Vec<Arc<str>> = term.namespaces.iter().map(|n| n.as_str().into()).collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.clone());
        }
        namespaces.sort_unstable();
        namespaces.dedup();
        let pods = PodSet {
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(|s| Selector::of(Some(s))),
            selector: Selector::of(term.label_selector.as_ref()),
        };
        AffinityTerm { pods, key: term.topology_key.clone() }
    }
}

/// A spread constraint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    /// The most that domains may differ.
    pub max_skew: i64,
    /// Label that makes the domains.
    pub key: String,
    /// Whether the constraint must hold.
    pub hard: bool,
    /// Which pods of the namespace count.
    pub selector: Selector,
    /// The least number of domains.
    pub min_domains: i64,
    /// Whether only nodes count that the pod may go to by its node affinity.
    pub honor_affinity: bool,
    /// Whether only nodes count whose taints the pod tolerates.
    pub honor_taints: bool,
}

impl Spread {
    pub(crate) fn new(c: &SpreadConstraint, labels: &BTreeMap<String, String>) -> Spread {
        let mut selector = Selector::of(c.label_selector.as_ref());
        if c.label_selector.is_some() {
            for key in &c.match_label_keys {
                if let Some(value) = labels.get(key) {
                    selector = selector.with(key, "In", value);
                }
            }
        }
        Spread {
            max_skew: c.max_skew,
            key: c.topology_key.clone(),
            hard: c.when_unsatisfiable == "DoNotSchedule",
            selector,
            min_domains: c.min_domains.unwrap_or(1),
            honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}

/// A volume, as far as it matters for placement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PodVolume {
    /// A claim, by name.
    Claim(String),
    /// A claim made for the pod, by the name of the volume.
    Ephemeral(String),
    /// A volume of a CSI driver in the pod itself.
    Inline(String),
    /// A disk that only some pods of a node may share.
    Disk(Disk),
}

/// A disk named in a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Disk {
    /// `gcePersistentDisk`.
    Gce(crate::model::GceDisk),
    /// `awsElasticBlockStore`.
    Aws(crate::model::AwsDisk),
    /// `iscsi`.
    Iscsi(crate::model::IscsiDisk),
    /// `rbd`.
    Rbd(crate::model::RbdDisk),
}

impl PodVolume {
    fn of(volume: &Volume) -> Option<PodVolume> {
        if let Some(claim) = &volume.persistent_volume_claim {
            return Some(PodVolume::Claim(claim.claim_name.clone()));
        }
        if volume.ephemeral.is_some() {
            return Some(PodVolume::Ephemeral(volume.name.clone()));
        }
        if let Some(csi) = &volume.csi {
            return Some(PodVolume::Inline(csi.driver.clone()));
        }
        let gce = volume.gce_persistent_disk.clone().map(Disk::Gce);
        let aws = || volume.aws_elastic_block_store.clone().map(Disk::Aws);
        let iscsi = || volume.iscsi.clone().map(Disk::Iscsi);
        let rbd = || volume.rbd.clone().map(Disk::Rbd);
        gce.or_else(aws).or_else(iscsi).or_else(rbd).map(PodVolume::Disk)
    }
}

/// The controller of a pod, for default spreading.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// What equal pods share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Body {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Labels.
    pub labels: Shared<BTreeMap<String, String>>,
    /// Who is to schedule it.
    pub scheduler_name: String,
    /// Priority.
    pub priority: i64,
    /// Whether the pod may preempt others.
    pub may_preempt: bool,
    /// Requests by resource, none of them zero: `cpu` in thousandths, the rest in units.
    pub requests: Vec<(String, i64)>,
    /// Cpu and memory for scoring: what states none counts as something.
    pub scored: (i64, i64),
    /// Host ports.
    pub host_ports: Vec<HostPort>,
    /// The node that it asks for.
    pub node: NodeWishes,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Pods it must be with.
    pub affinity: Vec<AffinityTerm>,
    /// Pods it must not be with.
    pub anti_affinity: Vec<AffinityTerm>,
    /// Pods it should be with (positive weight) or not (negative).
    pub preferred_affinity: Vec<(i64, AffinityTerm)>,
    /// Spread constraints.
    pub spread: Vec<Spread>,
    /// Images of all containers and volumes, with their tags.
    pub images: Vec<String>,
    /// Volumes.
    pub volumes: Vec<PodVolume>,
    /// Claims for devices.
    pub resource_claims: Vec<PodResourceClaim>,
    /// What containers ask for of resources that classes of devices may stand for.
    pub extended: Vec<Needs>,
    /// Features of a kubelet that it needs.
    pub features: Vec<&'static str>,
    /// The controller.
    pub owner: Option<Owner>,
}

impl Body {
    /// What a pod asks of a resource.
    pub fn request(&self, resource: &str) -> i64 {
        self.requests.iter().find(|(r, _)| r == resource).map_or(0, |(_, n)| *n)
    }

    fn new(pod: &Pod) -> Body {
        let spec = &pod.spec;
        let namespace = pod.metadata.namespace.clone();
        let (requests, scored) = requests::of_pod(pod);
        let sidecars = spec.init_containers.iter().filter(|c| requests::is_sidecar(c));
        let host_ports = spec.containers.iter().chain(sidecars).flat_map(|c| &c.ports).filter(|p| p.host_port > 0);
        let or = |text: &str, default: &str| if text.is_empty() { default.into() } else { text.to_owned() };
        let host_ports = host_ports.map(|p| (or(&p.protocol, "TCP"), or(&p.host_ip, "0.0.0.0"), p.host_port)).collect();
        let terms = |terms: &[PodAffinityTerm]| terms.iter().map(|t| AffinityTerm::new(t, &namespace)).collect();
        let affinity = &spec.affinity;
        let preferred = |from: &[crate::model::WeightedPodAffinityTerm], sign: i64| -> Vec<_> {
            from.iter().map(|t| (sign * t.weight, AffinityTerm::new(&t.pod_affinity_term, &namespace))).collect()
        };
        let mut preferred_affinity = preferred(&affinity.pod_affinity.preferred, 1);
        preferred_affinity.extend(preferred(&affinity.pod_anti_affinity.preferred, -1));
        let of_containers = spec.init_containers.iter().chain(&spec.containers).map(|c| &c.image);
        let of_volumes = spec.volumes.iter().filter_map(|v| v.image.as_ref()).map(|i| &i.reference);
        let images = of_containers.chain(of_volumes).map(|image| with_tag(image)).collect();
        let owner = pod.metadata.controller().map(|o| Owner {
            api_version: o.api_version.clone(),
            kind: o.kind.clone(),
            name: o.name.clone(),
        });
        Body {
            labels: pod.metadata.labels.clone(),
            scheduler_name: spec.scheduler_name.clone(),
            priority: spec.priority.unwrap_or(0),
            may_preempt: spec.preemption_policy.as_deref() != Some("Never"),
            requests,
            scored,
            host_ports,
            node: NodeWishes {
                selector: spec.node_selector.clone(),
                required: affinity.node_affinity.required.as_ref().map(NodeTerms::new),
                preferred: (affinity.node_affinity.preferred.iter())
                    .map(|p| (p.weight, NodeTerm::new(&p.preference)))
                    .collect(),
            },
            tolerations: spec.tolerations.clone(),
            affinity: terms(&affinity.pod_affinity.required),
            anti_affinity: terms(&affinity.pod_anti_affinity.required),
            preferred_affinity,
            spread: (spec.topology_spread_constraints.iter()).map(|c| Spread::new(c, &pod.metadata.labels)).collect(),
            images,
            volumes: spec.volumes.iter().filter_map(PodVolume::of).collect(),
            resource_claims: spec.resource_claims.clone(),
            extended: needs(&spec.init_containers, &spec.containers),
            features: needed(spec.containers.iter().chain(&spec.init_containers)),
            owner,
            namespace,
        }
    }
}

/// The name of an image as nodes list it (`normalizedImageName`).
fn with_tag(image: &str) -> String {
    match image.rfind(':') {
        Some(colon) if image.rfind('/').is_none_or(|slash| slash < colon) => image.to_owned(),
        _ => format!("{image}:latest"),
    }
}

/// An interned [`Body`]. Equal templates have one id; an id is never given twice.
#[derive(Debug)]
pub struct Template {
    /// Names the template while the process lives.
    pub id: u64,
    body: Body,
}

impl Deref for Template {
    type Target = Body;
    fn deref(&self) -> &Body {
        &self.body
    }
}

struct Interned(Arc<Template>);

impl Borrow<Body> for Interned {
    fn borrow(&self) -> &Body {
        &self.0.body
    }
}

impl Hash for Interned {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.body.hash(state);
    }
}

impl PartialEq for Interned {
    fn eq(&self, other: &Interned) -> bool {
        self.0.body == other.0.body
    }
}

impl Eq for Interned {}

#[derive(Default)]
struct Interner {
    known: HashSet<Interned>,
    /// Size at which templates that nobody holds are swept out.
    sweep_at: usize,
}

static TEMPLATES: LazyLock<Mutex<Interner>> = LazyLock::new(Default::default);
static NEXT: AtomicU64 = AtomicU64::new(1);

impl Template {
    /// The template of a body.
    pub fn intern(body: Body) -> Arc<Template> {
        let mut interner = TEMPLATES.lock();
        if let Some(known) = interner.known.get(&body) {
            return known.0.clone();
        }
        if interner.known.len() >= interner.sweep_at {
            interner.known.retain(|t| Arc::strong_count(&t.0) > 1);
            interner.sweep_at = (2 * interner.known.len()).max(1024);
        }
        let template = Arc::new(Template { id: NEXT.fetch_add(1, Ordering::Relaxed), body });
        interner.known.insert(Interned(template.clone()));
        template
    }
}

/// What a cycle knows of a pod.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// Metadata; labels, annotations and owners are dropped, the template has what matters of them.
    pub meta: Meta,
    /// What it shares with equal pods.
    pub template: Arc<Template>,
    /// The node; empty while there is none.
    pub node_name: String,
    /// Whether it has ended and holds nothing any more.
    pub has_ended: bool,
    /// What keeps it from being scheduled.
    pub gates: Vec<String>,
    /// The node that preemption makes room on; may be empty.
    pub nominated: String,
    /// When the kubelet took it over.
    pub started: Option<Timestamp>,
    /// The conditions `PodScheduled` and `DisruptionTarget`.
    pub conditions: Vec<Condition>,
    /// Claims for devices that were made for it.
    pub claim_statuses: Vec<ResourceClaimStatus>,
}

impl PodInfo {
    /// Works out a pod.
    pub fn new(pod: Pod) -> PodInfo {
        let template = Template::intern(Body::new(&pod));
        let Pod { mut metadata, spec, status } = pod;
        metadata.labels = Default::default();
        metadata.annotations = Default::default();
        metadata.owner_references = Default::default();
        metadata.finalizers = Default::default();
        metadata.namespace = template.namespace.clone();
        PodInfo {
            meta: metadata,
            template,
            node_name: spec.node_name,
            has_ended: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            gates: spec.scheduling_gates.into_iter().map(|g| g.name).collect(),
            nominated: status.nominated_node_name,
            started: status.start_time,
            conditions: (status.conditions.into_iter())
                .filter(|c| matches!(c.ty.as_str(), "PodScheduled" | "DisruptionTarget"))
                .collect(),
            claim_statuses: status.resource_claim_statuses,
        }
    }

    /// Key.
    pub fn key(&self) -> Key {
        self.meta.key()
    }

    /// UID.
    pub fn uid(&self) -> &str {
        &self.meta.uid
    }

    /// Whether it is on its way out.
    pub fn is_terminating(&self) -> bool {
        self.meta.is_deleting()
    }

    /// A condition.
    pub fn condition(&self, ty: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.ty == ty)
    }

    /// The names of the claims for volumes, in the order of the volumes; whether each was made for the pod.
    pub fn claims(&self) -> impl Iterator<Item = (String, bool)> + '_ {
        self.template.volumes.iter().filter_map(|v| match v {
            PodVolume::Claim(name) => Some((name.clone(), false)),
            PodVolume::Ephemeral(volume) => Some((format!("{}-{volume}", self.meta.name), true)),
            _ => None,
        })
    }
}

impl<'de> Deserialize<'de> for PodInfo {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<PodInfo, D::Error> {
        Pod::deserialize(d).map(PodInfo::new)
    }
}

impl View for PodInfo {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "Pod";
    const PLURAL: &'static str = "pods";
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A pod `name` of the namespace `default` with `labels` and `spec`.
    pub(crate) fn labelled(name: &str, labels: Value, spec: Value) -> Arc<PodInfo> {
        let meta = json!({"name": name, "namespace": "default", "uid": name, "labels": labels});
        from_json(json!({"metadata": meta, "spec": spec}))
    }

    /// A pod `name` of the namespace `default` with `spec`.
    pub(crate) fn pod(name: &str, spec: Value) -> Arc<PodInfo> {
        labelled(name, json!({}), spec)
    }

    pub(crate) fn from_json(pod: Value) -> Arc<PodInfo> {
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn equal_pods_share_a_template() {
        let spec = || json!({"containers": [{"image": "a/b"}], "nodeSelector": {"x": "y"}});
        let (a, b) = (pod("a", spec()), pod("b", spec()));
        assert_eq!(a.template.id, b.template.id);
        assert!(Arc::ptr_eq(&a.template, &b.template));
        let c = labelled("c", json!({"app": "c"}), spec());
        assert_ne!(a.template.id, c.template.id);
        assert_eq!(a.template.images, ["a/b:latest"]);
        let bound = from_json(json!({"metadata": {"name": "d", "namespace": "default", "uid": "d"},
            "spec": {"containers": [{"image": "a/b"}], "nodeSelector": {"x": "y"}, "nodeName": "n"}}));
        assert_eq!(a.template.id, bound.template.id, "where a pod is does not change what it is");
    }

    #[test]
    fn images_get_their_tag() {
        assert_eq!(with_tag("host:5000/a"), "host:5000/a:latest");
        assert_eq!(with_tag("host:5000/a:1"), "host:5000/a:1");
        assert_eq!(with_tag("a@sha256:00"), "a@sha256:00");
        let volumes = json!([{"name": "v", "image": {"reference": "data"}}, {"name": "w", "emptyDir": {}}]);
        let p = pod("p", json!({"containers": [{"image": "a"}], "volumes": volumes}));
        assert_eq!(p.template.images, ["a:latest", "data:latest"], "those of volumes count like those of containers");
    }

    #[test]
    fn affinity_terms_name_their_namespaces() {
        let term = |extra: Value| {
            let mut term = json!({"topologyKey": "k", "labelSelector": {}});
            term.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
            let spec = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
            pod("p", spec).template.affinity[0].pods.clone()
        };
        assert_eq!(term(json!({})).namespaces, ["default".into()]);
        assert_eq!(term(json!({"namespaces": ["b", "a"]})).namespaces, ["a".into(), "b".into()]);
        assert!(term(json!({"namespaceSelector": {}})).namespaces.is_empty());
    }
}
