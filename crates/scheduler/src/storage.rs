//! Claims, volumes and classes, and what was decided about them and is not written yet.
//!
//! Upstream: `plugins/volumebinding/binder.go`, `assume_cache.go`,
//! `k8s.io/component-helpers/storage/volume/pv_helpers.go`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use orkd_reconcile::{Key, Meta};

use crate::model::{
    Claim, CsiCapacity, CsiDriver, CsiNode, PersistentVolume, StorageClass, TopologyTerm, VolumeAttachment,
};
use crate::pod::PodInfo;
use crate::requests::parse_amount;
use crate::selector::{NodeTerms, Selector};

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The annotation that names the node a volume is to be made for.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// A volume that was chosen for a claim.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The volume.
    pub volume: Arc<PersistentVolume>,
    /// The claim.
    pub claim: Arc<Claim>,
}

/// What a pod's claims come to on a node.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// Claims that get volumes that are there.
    pub bindings: Vec<Binding>,
    /// Claims that volumes are to be made for.
    pub provisions: Vec<Arc<Claim>>,
}

/// The claims of a pod.
#[derive(Clone, Debug, Default)]
pub struct PodClaims {
    /// Bound to a volume.
    pub bound: Vec<Arc<Claim>>,
    /// To be bound when the node is known.
    pub delayed: Vec<Arc<Claim>>,
    /// To be bound by the volume controller before.
    pub immediate: Vec<Arc<Claim>>,
}

/// Why a node's storage will not do.
pub mod reason {
    /// See the text.
    pub const BIND_CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";
    /// See the text.
    pub const NODE_CONFLICT: &str = "node(s) didn't match PersistentVolume's node affinity";
    /// See the text.
    pub const NOT_ENOUGH_SPACE: &str = "node(s) did not have enough free storage";
    /// See the text.
    pub const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
}

#[derive(Debug)]
struct Volume {
    object: Arc<PersistentVolume>,
    required: Option<NodeTerms>,
    size: i64,
}

/// Claims, volumes and classes.
#[derive(Debug, Default)]
pub struct Storage {
    claims: HashMap<Key, Arc<Claim>>,
    volumes: BTreeMap<Arc<str>, Volume>,
    by_class: HashMap<String, BTreeSet<Arc<str>>>,
    /// Storage classes.
    pub classes: HashMap<Arc<str>, Arc<StorageClass>>,
    /// What CSI drivers say of nodes.
    pub csi_nodes: HashMap<Arc<str>, Arc<CsiNode>>,
    /// CSI drivers.
    pub csi_drivers: HashMap<Arc<str>, Arc<CsiDriver>>,
    /// Free capacity.
    pub capacities: HashMap<Key, Arc<CsiCapacity>>,
    /// By node: what is attached there, by name.
    attached: HashMap<String, BTreeMap<Arc<str>, Arc<VolumeAttachment>>>,
    /// By volume: the claim it is to be bound to.
    promised: HashMap<Arc<str>, Key>,
    /// By claim: the node a volume is to be made for.
    selected: HashMap<Key, String>,
    /// By pod: what was decided.
    decisions: HashMap<String, (String, Decision)>,
}

/// The class of a claim (`GetPersistentVolumeClaimClass`).
pub fn class_of_claim(claim: &Claim) -> &str {
    let annotated = claim.metadata.annotation(BETA_CLASS);
    annotated.or(claim.spec.storage_class_name.as_deref()).unwrap_or("")
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    volume.metadata.annotation(BETA_CLASS).unwrap_or(&volume.spec.storage_class_name)
}

/// Whether a claim and its volume are bound to each other.
pub fn is_bound(claim: &Claim) -> bool {
    !claim.spec.volume_name.is_empty() && claim.metadata.annotations.contains_key(BIND_COMPLETED)
}

fn is_for(volume: &PersistentVolume, claim: &Claim) -> bool {
    volume.spec.claim_ref.as_ref().is_some_and(|r| {
        *r.name == *claim.metadata.name
            && *r.namespace == *claim.metadata.namespace
            && (r.uid.is_empty() || r.uid == claim.metadata.uid)
    })
}

fn size_of_claim(claim: &Claim) -> i64 {
    claim.spec.resources.requests.get("storage").map_or(0, |s| parse_amount("storage", s))
}

fn mode(mode: Option<&String>) -> &str {
    mode.map_or("Filesystem", String::as_str)
}

/// Whether a volume can be reached from a node with such labels.
pub fn is_reachable(required: Option<&NodeTerms>, labels: &BTreeMap<String, String>) -> bool {
    required.is_none_or(|r| r.matches("", labels))
}

fn allows(terms: &[TopologyTerm], labels: &BTreeMap<String, String>) -> bool {
    terms.is_empty()
        || terms.iter().any(|t| {
            !t.match_label_expressions.is_empty()
                && t.match_label_expressions.iter().all(|r| labels.get(&r.key).is_some_and(|v| r.values.contains(v)))
        })
}

impl Storage {
    /// Takes over a claim.
    pub fn set_claim(&mut self, claim: &Arc<Claim>) {
        let key = claim.metadata.key();
        // What was written shows, or was undone by whoever makes volumes.
        if self.claims.get(&key).is_some_and(|before| before.metadata.rv() < claim.metadata.rv()) {
            self.selected.remove(&key);
        }
        self.claims.insert(key, claim.clone());
    }

    /// Forgets a claim.
    pub fn remove_claim(&mut self, key: &Key) {
        self.claims.remove(key);
        self.selected.remove(key);
    }

    /// A claim.
    pub fn claim(&self, key: &Key) -> Option<&Arc<Claim>> {
        self.claims.get(key)
    }

    /// Takes over a volume.
    pub fn set_volume(&mut self, volume: &Arc<PersistentVolume>) {
        self.remove_volume(&volume.metadata.name, volume.metadata.rv());
        let name = volume.metadata.name.clone();
        self.by_class.entry(class_of_volume(volume).to_owned()).or_default().insert(name.clone());
        let required = volume.spec.node_affinity.required.as_ref().map(NodeTerms::new);
        let size = volume.spec.capacity.get("storage").map_or(0, |s| parse_amount("storage", s));
        self.volumes.insert(name, Volume { object: volume.clone(), required, size });
    }

    /// Forgets a volume; a promise is kept if what follows is not newer.
    pub fn remove_volume(&mut self, name: &str, version: u64) {
        let Some(old) = self.volumes.remove(name) else { return };
        if version > old.object.metadata.rv() {
            self.promised.remove(name);
        }
        if let Some(names) = self.by_class.get_mut(class_of_volume(&old.object)) {
            names.remove(name);
        }
    }

    /// A volume.
    pub fn volume(&self, name: &str) -> Option<&Arc<PersistentVolume>> {
        self.volumes.get(name).map(|v| &v.object)
    }

    /// Whether a class has volumes wait for the first pod that uses the claim.
    ///
    /// # Errors
    /// There is no such class.
    pub fn waits_for_pod(&self, claim: &Claim) -> Result<bool, String> {
        let class = class_of_claim(claim);
        if class.is_empty() {
            return Ok(false);
        }
        let Some(class) = self.classes.get(class) else {
            return Err(format!("storageclass.storage.k8s.io {class:?} not found"));
        };
        match class.volume_binding_mode.as_deref() {
            Some(mode) => Ok(mode == "WaitForFirstConsumer"),
            None => Err(format!("VolumeBindingMode not set for StorageClass {:?}", &*class.metadata.name)),
        }
    }

    /// The same for the binding of a pod's claims, where a class that is not there makes nothing wait
    /// (`IsDelayBindingMode`).
    fn is_delayed(&self, claim: &Claim) -> Result<bool, String> {
        match self.classes.contains_key(class_of_claim(claim)) {
            true => self.waits_for_pod(claim),
            false => Ok(false),
        }
    }

    /// The claims of a pod; `None` if it has none.
    ///
    /// # Errors
    /// Why they will not do.
    pub fn claims_of(&self, pod: &PodInfo) -> Result<Option<PodClaims>, Unusable> {
        let mut all = PodClaims::default();
        let mut any = false;
        for (name, is_own) in pod.claims() {
            any = true;
            let key = Key { namespace: pod.meta.namespace.clone(), name: name.as_str().into() };
            let refuse = |text: String| Err(Unusable::Refused(text));
            let Some(claim) = self.claims.get(&key) else {
                return refuse(match is_own {
                    true => {
                        format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
                    }
                    false => format!("persistentvolumeclaim {name:?} not found"),
                });
            };
            if claim.status.phase == "Lost" {
                let volume = &claim.spec.volume_name;
                return refuse(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                ));
            }
            if claim.metadata.is_deleting() {
                return refuse(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            if is_own && !is_controlled_by(&claim.metadata, pod) {
                return refuse(format!("PVC {key} was not created for pod {} (pod is not owner)", pod.key()));
            }
            if is_bound(claim) {
                all.bound.push(claim.clone());
            } else if claim.spec.volume_name.is_empty() && self.is_delayed(claim).map_err(Unusable::Failed)? {
                all.delayed.push(claim.clone());
            } else {
                all.immediate.push(claim.clone());
            }
        }
        Ok(any.then_some(all))
    }

    /// What a pod's claims come to on a node (`FindPodVolumes`).
    ///
    /// # Errors
    /// Why the node will not do.
    pub fn decide(
        &self,
        claims: &PodClaims,
        node: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Decision, Vec<&'static str>> {
        let mut reasons = Vec::new();
        for claim in &claims.bound {
            match self.volumes.get(claim.spec.volume_name.as_str()) {
                None => {
                    reasons.push(reason::NO_VOLUME);
                    break;
                }
                Some(volume) if !is_reachable(volume.required.as_ref(), labels) => {
                    reasons.push(reason::NODE_CONFLICT);
                    break;
                }
                Some(_) => {}
            }
        }
        let mut decision = Decision::default();
        match self.decide_delayed(&claims.delayed, node, labels, &mut decision) {
            Ok(()) => {}
            Err(why) => reasons.push(why),
        }
        if reasons.is_empty() { Ok(decision) } else { Err(reasons) }
    }

    fn decide_delayed(
        &self,
        claims: &[Arc<Claim>],
        node: &str,
        labels: &BTreeMap<String, String>,
        decision: &mut Decision,
    ) -> Result<(), &'static str> {
        let mut to_match = Vec::new();
        let mut to_make = Vec::new();
        for claim in claims {
            match self.selected_node(claim) {
                Some(selected) if selected != node => return Err(reason::BIND_CONFLICT),
                Some(_) => to_make.push(claim.clone()),
                None => to_match.push(claim.clone()),
            }
        }
        to_match.sort_by_key(|c| size_of_claim(c));
        let mut chosen: HashSet<Arc<str>> = HashSet::new();
        for claim in to_match {
            match self.matching_volume(&claim, labels, &chosen) {
                Some(volume) => {
                    chosen.insert(volume.metadata.name.clone());
                    decision.bindings.push(Binding { volume, claim });
                }
                None => to_make.push(claim),
            }
        }
        for claim in to_make {
            self.can_make(&claim, labels)?;
            decision.provisions.push(claim);
        }
        Ok(())
    }

    fn selected_node<'a>(&'a self, claim: &'a Claim) -> Option<&'a str> {
        let decided = self.selected.get(&claim.metadata.key()).map(String::as_str);
        decided.or_else(|| claim.metadata.annotation(SELECTED_NODE))
    }

    /// The smallest volume that will do (`FindMatchingVolume`).
    fn matching_volume(
        &self,
        claim: &Claim,
        labels: &BTreeMap<String, String>,
        chosen: &HashSet<Arc<str>>,
    ) -> Option<Arc<PersistentVolume>> {
        let key = claim.metadata.key();
        let wanted = size_of_claim(claim);
        let selector = claim.spec.selector.as_ref().map(|s| Selector::of(Some(s)));
        let mut best: Option<&Volume> = None;
        for name in self.by_class.get(class_of_claim(claim))? {
            let Some(candidate) = self.volumes.get(name) else { continue };
            let volume = &candidate.object;
            let spec = &volume.spec;
            let promised = self.promised.get(name);
            let taken = match promised {
                Some(to) => *to != key,
                None => spec.claim_ref.is_some() && !is_for(volume, claim),
            };
            let attributes = |name: &Option<String>| name.clone().unwrap_or_default();
            if taken
                || chosen.contains(name)
                || candidate.size < wanted
                || mode(spec.volume_mode.as_ref()) != mode(claim.spec.volume_mode.as_ref())
                || attributes(&spec.volume_attributes_class_name)
                    != attributes(&claim.spec.volume_attributes_class_name)
                || volume.metadata.is_deleting()
            {
                continue;
            }
            let reachable = is_reachable(candidate.required.as_ref(), labels);
            if promised.is_some() || spec.claim_ref.is_some() {
                return reachable.then(|| volume.clone());
            }
            if reachable
                && volume.status.phase == "Available"
                && selector.as_ref().is_none_or(|s| s.matches(&volume.metadata.labels))
                && claim.spec.access_modes.iter().all(|m| spec.access_modes.contains(m))
                && best.is_none_or(|b| candidate.size < b.size)
            {
                best = Some(candidate);
            }
        }
        best.map(|b| b.object.clone())
    }

    /// Whether a volume can be made for a claim where a node is (`checkVolumeProvisions`).
    fn can_make(&self, claim: &Claim, labels: &BTreeMap<String, String>) -> Result<(), &'static str> {
        let Some(class) = self.classes.get(class_of_claim(claim)) else { return Err(reason::BIND_CONFLICT) };
        if class.provisioner.is_empty()
            || class.provisioner == NO_PROVISIONER
            || !allows(&class.allowed_topologies, labels)
        {
            return Err(reason::BIND_CONFLICT);
        }
        let checks = self.csi_drivers.get(class.provisioner.as_str()).is_some_and(|d| d.spec.storage_capacity);
        if !checks || !claim.spec.resources.requests.contains_key("storage") {
            return Ok(());
        }
        let wanted = size_of_claim(claim);
        let suffices = |c: &CsiCapacity| {
            let limit = c.maximum_volume_size.as_ref().or(c.capacity.as_ref());
            *c.storage_class_name == *class.metadata.name
                && limit.is_some_and(|l| parse_amount("storage", l) >= wanted)
                && c.node_topology.as_ref().is_some_and(|t| Selector::of(Some(t)).matches(labels))
        };
        match self.capacities.values().any(|c| suffices(c)) {
            true => Ok(()),
            false => Err(reason::NOT_ENOUGH_SPACE),
        }
    }

    /// Holds what was decided for a pod until it is written.
    pub fn assume(&mut self, pod: &PodInfo, node: &str, decision: Decision) {
        for binding in &decision.bindings {
            self.promised.insert(binding.volume.metadata.name.clone(), binding.claim.metadata.key());
        }
        for claim in &decision.provisions {
            self.selected.insert(claim.metadata.key(), node.to_owned());
        }
        self.decisions.insert(pod.uid().to_owned(), (node.to_owned(), decision));
    }

    /// What was decided for a pod.
    pub fn decision(&self, uid: &str) -> Option<&Decision> {
        self.decisions.get(uid).map(|(_, d)| d)
    }

    /// Forgets what was decided; `written` if the API has it.
    pub fn forget(&mut self, uid: &str, written: bool) {
        let Some((_, decision)) = self.decisions.remove(uid) else { return };
        if written {
            return;
        }
        for binding in decision.bindings {
            self.promised.remove(&binding.volume.metadata.name);
        }
        for claim in decision.provisions {
            self.selected.remove(&claim.metadata.key());
        }
    }

    /// Takes over what is attached to a node; the node of an attachment never changes.
    pub fn set_attachment(&mut self, attachment: &Arc<VolumeAttachment>) {
        let on_node = self.attached.entry(attachment.spec.node_name.clone()).or_default();
        on_node.insert(attachment.metadata.name.clone(), attachment.clone());
    }

    /// Forgets what was attached to a node.
    pub fn remove_attachment(&mut self, attachment: &VolumeAttachment) {
        let Some(on_node) = self.attached.get_mut(&attachment.spec.node_name) else { return };
        on_node.remove(&attachment.metadata.name);
        if on_node.is_empty() {
            self.attached.remove(&attachment.spec.node_name);
        }
    }

    /// The CSI drivers and volumes that are attached to a node, whether a pod there uses them or not
    /// (`getNodeVolumeAttachmentInfo`).
    pub fn attached(&self, node: &str) -> impl Iterator<Item = (&str, &str)> {
        let on_node = self.attached.get(node).into_iter().flat_map(BTreeMap::values);
        on_node.filter(|a| !a.spec.attacher.is_empty()).filter_map(|a| {
            let volume = self.volume(a.spec.source.persistent_volume_name.as_deref()?)?;
            Some((a.spec.attacher.as_str(), volume.spec.csi.as_ref()?.volume_handle.as_str()))
        })
    }

    /// The CSI driver and the volume's name there that a claim stands for, however far it has come.
    pub fn csi_volume(&self, claim: &Claim) -> Option<(String, String)> {
        if let Some(volume) = self.volume(&claim.spec.volume_name) {
            return volume.spec.csi.as_ref().map(|c| (c.driver.clone(), c.volume_handle.clone()));
        }
        let class = self.classes.get(class_of_claim(claim))?;
        let known = self.csi_drivers.contains_key(class.provisioner.as_str())
            || self.csi_nodes.values().any(|n| n.spec.drivers.iter().any(|d| d.name == class.provisioner));
        known.then(|| (class.provisioner.clone(), format!("{}-{}", class.provisioner, claim.metadata.key())))
    }
}

/// Why a pod's claims will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// As they are, on no node.
    Refused(String),
    /// It cannot be said.
    Failed(String),
}

/// Whether an object was made for a pod.
pub fn is_controlled_by(meta: &Meta, pod: &PodInfo) -> bool {
    meta.is_controlled_by(pod.uid())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_of_no_known_class_waits_for_no_pod() {
        let mut storage = Storage::default();
        let claim = json!({"metadata": {"name": "c", "namespace": "default"}, "spec": {"storageClassName": "none"}});
        storage.set_claim(&Arc::new(serde_json::from_value(claim).expect("a claim")));
        let volumes = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
        let pod = crate::pod::tests::pod("p", volumes);
        let Ok(Some(claims)) = storage.claims_of(&pod) else { panic!("the pod has a claim that can be read") };
        assert_eq!((claims.immediate.len(), claims.delayed.len()), (1, 0));
    }

    fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).expect("an object"))
    }

    fn volume(name: &str, size: &str, zone: &str) -> Arc<PersistentVolume> {
        object(json!({"metadata": {"name": name}, "status": {"phase": "Available"}, "spec": {
            "storageClassName": "late", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "zone", "operator": "In", "values": [zone]}]}]}}}}))
    }

    fn claim(name: &str, class: &str, bound: &str) -> Arc<Claim> {
        let done = if bound.is_empty() { json!({}) } else { json!({BIND_COMPLETED: "yes"}) };
        object(json!({"metadata": {"name": name, "namespace": "default", "annotations": done}, "spec": {
            "storageClassName": class, "volumeName": bound, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "5Gi"}}}}))
    }

    fn class(name: &str, provisioner: &str, zone: &str) -> (Arc<str>, Arc<StorageClass>) {
        let topologies = json!([{"matchLabelExpressions": [{"key": "zone", "values": [zone]}]}]);
        let class = json!({"metadata": {"name": name}, "provisioner": provisioner,
            "volumeBindingMode": "WaitForFirstConsumer", "allowedTopologies": topologies});
        (name.into(), object(class))
    }

    /// What a pod's claims come to on a node of a zone: volumes and claims to be provided for, or reasons.
    fn decided(storage: &Storage, names: &[&str], zone: &str) -> String {
        let volumes: Vec<_> =
            names.iter().map(|n| json!({"name": n, "persistentVolumeClaim": {"claimName": n}})).collect();
        let pod = crate::pod::tests::pod("p", json!({"volumes": volumes}));
        let Ok(Some(claims)) = storage.claims_of(&pod) else { panic!("the pod has claims") };
        assert!(claims.immediate.is_empty(), "none must be bound before");
        let labels = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        match storage.decide(&claims, "n", &labels) {
            Err(reasons) => reasons.join(", "),
            Ok(d) => {
                let bound =
                    d.bindings.iter().map(|b| format!("{} to {}", b.claim.metadata.name, b.volume.metadata.name));
                let made = d.provisions.iter().map(|c| format!("{} is made", c.metadata.name));
                bound.chain(made).collect::<Vec<_>>().join(", ")
            }
        }
    }

    #[test]
    fn a_claim_that_waited_gets_the_smallest_volume_that_can_be_reached() {
        let mut storage = Storage::default();
        storage.classes.extend([class("late", "kubernetes.io/no-provisioner", "x")]);
        for (name, size, zone) in [("small", "1Gi", "x"), ("big", "9Gi", "x"), ("fit", "5Gi", "x"), ("far", "5Gi", "y")]
        {
            storage.set_volume(&volume(name, size, zone));
        }
        storage.set_claim(&claim("a", "late", ""));
        storage.set_claim(&claim("b", "late", ""));
        assert_eq!(decided(&storage, &["a"], "x"), "a to fit");
        assert_eq!(decided(&storage, &["a", "b"], "x"), "a to fit, b to big", "each gets its own");
        assert_eq!(decided(&storage, &["a"], "z"), reason::BIND_CONFLICT);
        assert_eq!(decided(&storage, &["a", "b"], "y"), reason::BIND_CONFLICT, "there is one");
        let pod = crate::pod::tests::pod("p", json!({}));
        let binding = Binding { volume: volume("fit", "5Gi", "x"), claim: claim("a", "late", "") };
        storage.assume(&pod, "n", Decision { bindings: vec![binding], provisions: vec![] });
        assert_eq!(decided(&storage, &["b"], "x"), "b to big", "what is promised is taken");
        storage.forget(pod.uid(), false);
        assert_eq!(decided(&storage, &["b"], "x"), "b to fit");
    }

    #[test]
    fn a_bound_claim_keeps_its_pod_where_the_volume_is() {
        let mut storage = Storage::default();
        storage.set_volume(&volume("v", "5Gi", "x"));
        storage.set_claim(&claim("a", "late", "v"));
        storage.set_claim(&claim("lost", "late", "gone"));
        assert_eq!(decided(&storage, &["a"], "x"), "");
        assert_eq!(decided(&storage, &["a"], "y"), "node(s) didn't match PersistentVolume's node affinity");
        assert_eq!(
            decided(&storage, &["lost"], "x"),
            "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
        );
    }

    #[test]
    fn a_volume_is_made_where_its_class_allows_and_where_there_is_room() {
        let mut storage = Storage::default();
        storage.classes.extend([class("made", "csi.example.com", "x")]);
        storage.set_claim(&claim("a", "made", ""));
        assert_eq!(decided(&storage, &["a"], "x"), "a is made");
        assert_eq!(decided(&storage, &["a"], "y"), "node(s) didn't find available persistent volumes to bind");
        let driver = json!({"metadata": {"name": "csi.example.com"}, "spec": {"storageCapacity": true}});
        storage.csi_drivers.insert("csi.example.com".into(), object(driver));
        assert_eq!(decided(&storage, &["a"], "x"), "node(s) did not have enough free storage");
        let capacity = |most: Option<&str>| {
            object::<CsiCapacity>(json!({"metadata": {"name": "c", "namespace": "d"}, "storageClassName": "made",
                "capacity": "9Gi", "maximumVolumeSize": most, "nodeTopology": {"matchLabels": {"zone": "x"}}}))
        };
        let key = capacity(None).metadata.key();
        storage.capacities.insert(key.clone(), capacity(None));
        assert_eq!(decided(&storage, &["a"], "x"), "a is made");
        storage.capacities.insert(key, capacity(Some("1Gi")));
        assert_eq!(decided(&storage, &["a"], "x"), "node(s) did not have enough free storage");
    }
}
