//! What a node writes is about itself (`plugin/pkg/admission/noderestriction`).
//!
//! Not here: pod certificate requests (not served).

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Request, certificates, is_mirror, items, meta};
use crate::authz::node::{USER_PREFIX, node_of};
use crate::authz::{Attributes, Authorizer, Decision};
use crate::lookup::{Lookup, get_fresh};
use crate::route::RequestInfo;

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The plugin.
pub struct NodeRestriction {
    objects: Lookup,
    authorizer: Arc<dyn Authorizer>,
}

impl NodeRestriction {
    /// Reads pods and nodes here; asks the authorizer whether a node may have tokens for audiences its pods do not name.
    pub fn new(objects: Lookup, authorizer: Arc<dyn Authorizer>) -> Self {
        NodeRestriction { objects, authorizer }
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Arc<Value>>, String> {
        get_fresh(&*self.objects, "", "pods", namespace, name).await.map_err(|s| s.message)
    }

    async fn check(&self, request: &Request<'_>, object: &Value, node: &str) -> Result<(), String> {
        let resource = (request.resource.group.as_ref(), request.resource.plural.as_ref());
        match (resource, request.subresource) {
            (("", "pods"), "") => self.pods(request, object, node).await,
            (("", "pods"), "status") => pod_status(request, object, node),
            (("", "pods"), "eviction") => self.eviction(request, object, node).await,
            (("", "pods"), other) => {
                Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
            }
            (("", "nodes"), _) => nodes(request, object, node),
            (("", "persistentvolumeclaims"), "status") => claim_status(request, object, node),
            (("resource.k8s.io", "resourceslices"), _) => slice(request, object, node),
            (("", "persistentvolumeclaims"), _) => Err("may only update PVC status".into()),
            (("", "serviceaccounts"), "token") => self.token(request, object).await,
            (("coordination.k8s.io", "leases"), _) => {
                if request.namespace != LEASE_NAMESPACE {
                    return Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
                }
                own_name(request, object, node, "can only access node lease with the same name as the requesting node")
            }
            (("storage.k8s.io", "csinodes"), _) => {
                own_name(request, object, node, "can only access CSINode with the same name as the requesting node")
            }
            (("certificates.k8s.io", "certificatesigningrequests"), "") => csr(request, object),
            _ => Ok(()),
        }
    }

    async fn pods(&self, request: &Request<'_>, object: &Value, node: &str) -> Result<(), String> {
        match request.operation {
            Operation::Create => self.mirror_pod(object, node),
            Operation::Delete => match self.pod(request.namespace, request.name).await? {
                Some(pod) if pod["spec"]["nodeName"] != node => {
                    Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
                }
                _ => Ok(()),
            },
            other => Err(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                word(other)
            )),
        }
    }

    fn mirror_pod(&self, pod: &Value, node: &str) -> Result<(), String> {
        if !is_mirror(pod) {
            return Err(format!(
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
            ));
        }
        let spec = &pod["spec"];
        if spec["nodeName"] != node {
            return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        let owners = items(&pod["metadata"]["ownerReferences"]);
        let itself = format!("node {node:?} can only create pods with an owner reference set to itself");
        let owner = match owners {
            [owner] => owner,
            [] => return Err(itself),
            _ => {
                return Err(format!("node {node:?} can only create pods with a single owner reference set to itself"));
            }
        };
        if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
            return Err(itself);
        }
        if owner["controller"] != true {
            return Err(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
        }
        if owner["blockOwnerDeletion"] == true {
            return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        let known = self.objects.get("", "nodes", "", node);
        let uid = known.as_ref().map(|n| meta(n, "uid")).unwrap_or_default();
        let given = owner["uid"].as_str().unwrap_or_default();
        if uid != given {
            return Err(format!("node {node} UID mismatch: expected {given} got {uid}"));
        }
        let refused = |what: &str| Err(format!("node {node:?} can not create pods that reference {what}"));
        if spec["serviceAccountName"].as_str().is_some_and(|n| !n.is_empty()) {
            return refused("a service account");
        }
        let volumes = items(&spec["volumes"]);
        let sources = || volumes.iter().flat_map(|v| items(&v["projected"]["sources"]));
        let containers =
            || ["containers", "initContainers", "ephemeralContainers"].into_iter().flat_map(|list| items(&spec[list]));
        let env = |reference: &'static str, from: &'static str| {
            containers().any(|c| {
                items(&c["env"]).iter().any(|e| e["valueFrom"][reference].is_object())
                    || items(&c["envFrom"]).iter().any(|e| e[from].is_object())
            })
        };
        let secret = |v: &Value| v["secret"].is_object();
        if volumes.iter().any(secret)
            || sources().any(secret)
            || env("secretKeyRef", "secretRef")
            || !items(&spec["imagePullSecrets"]).is_empty()
        {
            return refused("secrets");
        }
        let map = |v: &Value| v["configMap"].is_object();
        if volumes.iter().any(map) || sources().any(map) || env("configMapKeyRef", "configMapRef") {
            return refused("configmaps");
        }
        if volumes.iter().any(|v| v["persistentVolumeClaim"].is_object()) {
            return refused("persistentvolumeclaims");
        }
        if sources().any(|v| v["serviceAccountToken"].is_object()) {
            return refused("service account tokens");
        }
        if sources().any(|v| v["clusterTrustBundle"].is_object()) {
            return refused("clustertrustbundles");
        }
        if !items(&spec["resourceClaims"]).is_empty() {
            return refused("resourceclaims");
        }
        Ok(())
    }

    async fn eviction(&self, request: &Request<'_>, object: &Value, node: &str) -> Result<(), String> {
        if request.operation != Operation::Create {
            return Err(format!("unexpected operation {}", word(request.operation)));
        }
        let name = request.shown_name(object);
        let wrong = format!("node {node} can only evict pods with spec.nodeName set to itself");
        match self.pod(request.namespace, name).await? {
            Some(pod) if pod["spec"]["nodeName"] == node => Ok(()),
            Some(_) => Err(wrong),
            None => Ok(()),
        }
    }

    /// A node asks for tokens of its pods only, and for the audiences those want.
    async fn token(&self, request: &Request<'_>, object: &Value) -> Result<(), String> {
        if request.operation != Operation::Create {
            return Ok(());
        }
        let reference = &object["spec"]["boundObjectRef"];
        if reference["kind"] != "Pod" || reference["apiVersion"] != "v1" {
            return Err("node requested token not bound to a pod".into());
        }
        let text = |f: &str| reference[f].as_str().unwrap_or_default();
        if text("uid").is_empty() {
            return Err("node requested token with a pod binding without a uid".into());
        }
        let Some(pod) = self.pod(request.namespace, text("name")).await? else {
            return Err(format!("pod {:?} not found", text("name")));
        };
        if meta(&pod, "uid") != text("uid") {
            return Err(format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have \
                 been deleted and then recreated",
                text("uid")
            ));
        }
        if node_of(request.user) != pod["spec"]["nodeName"].as_str() {
            return Err("node requested token bound to a pod scheduled on a different node".into());
        }
        // The request is seen before defaulting: the API server's own audience is named by naming none.
        let audience = match items(&object["spec"]["audiences"]) {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return Err("node may only request 0 or 1 audiences".into()),
        };
        if self.names_audience(&pod, audience) {
            return Ok(());
        }
        let name = if request.name.is_empty() { meta(object, "name") } else { request.name };
        let asked = RequestInfo {
            is_resource: true,
            verb: "request-serviceaccounts-token-audience".into(),
            version: "v1".into(),
            namespace: request.namespace.into(),
            resource: audience.into(),
            name: name.into(),
            ..RequestInfo::default()
        };
        let decision = self.authorizer.authorize(&Attributes { user: request.user, request: &asked }).await;
        if matches!(decision, Decision::Allow(_)) {
            return Ok(());
        }
        Err(format!(
            "audience {audience:?} not found in pod spec volume, {:?} is not authorized to request tokens for this audience",
            request.user.name
        ))
    }

    /// Whether a pod names an audience: in a projected volume, or by the driver of one of its volumes.
    fn names_audience(&self, pod: &Value, audience: &str) -> bool {
        let namespace = meta(pod, "namespace");
        let driver_of = |claim: &str| {
            let claim = self.objects.get("", "persistentvolumeclaims", namespace, claim)?;
            let volume = self.objects.get("", "persistentvolumes", "", claim["spec"]["volumeName"].as_str()?)?;
            volume["spec"]["csi"]["driver"].as_str().map(str::to_owned)
        };
        let driver_names = |driver: Option<String>| {
            let driver = driver.and_then(|d| self.objects.get("storage.k8s.io", "csidrivers", "", &d));
            driver.is_some_and(|d| {
                items(&d["spec"]["tokenRequests"])
                    .iter()
                    .any(|t| t["audience"].as_str().unwrap_or_default() == audience)
            })
        };
        items(&pod["spec"]["volumes"]).iter().any(|volume| {
            let projected = items(&volume["projected"]["sources"]).iter().map(|s| &s["serviceAccountToken"]);
            let mut projected = projected.filter(|t| t.is_object());
            projected.any(|t| t["audience"].as_str().unwrap_or_default() == audience)
                || volume["csi"]["driver"].as_str().is_some_and(|d| driver_names(Some(d.to_owned())))
                || volume["persistentVolumeClaim"]["claimName"].as_str().is_some_and(|c| driver_names(driver_of(c)))
                || (volume["ephemeral"].is_object() && {
                    let name = volume["name"].as_str().unwrap_or_default();
                    driver_names(driver_of(&format!("{}-{name}", meta(pod, "name"))))
                })
        })
    }
}

fn word(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

fn pod_status(request: &Request<'_>, object: &Value, node: &str) -> Result<(), String> {
    if request.operation != Operation::Update {
        return Err(format!("unexpected operation {:?}", word(request.operation)));
    }
    let old = request.old.unwrap_or(&Value::Null);
    if old["spec"]["nodeName"] != node {
        return Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if old["metadata"]["labels"] != object["metadata"]["labels"] {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    for field in ["resourceClaimStatuses", "extendedResourceClaimStatus"] {
        let empty = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
        let (before, after) = (&old["status"][field], &object["status"][field]);
        if before != after && !(empty(before) && empty(after)) {
            return Err(format!("node {node:?} cannot update resource claim statues"));
        }
    }
    Ok(())
}

/// What a node may change of a claim's status: what growing its volume changes.
fn claim_status(request: &Request<'_>, object: &Value, node: &str) -> Result<(), String> {
    if request.operation != Operation::Update {
        return Err(format!("unexpected operation {:?}", word(request.operation)));
    }
    let without = |claim: &Value| {
        let mut claim = claim.clone();
        for (part, fields) in [
            ("metadata", &["resourceVersion", "managedFields"][..]),
            ("status", &["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"]),
        ] {
            if let Some(map) = claim.get_mut(part).and_then(Value::as_object_mut) {
                fields.iter().for_each(|f| drop(map.remove(*f)));
            }
        }
        claim
    };
    if without(request.old.unwrap_or(&Value::Null)) != without(object) {
        return Err(format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
        ));
    }
    Ok(())
}

/// A node makes and deletes slices of its own. Each object of a collection comes by here.
fn slice(request: &Request<'_>, object: &Value, node: &str) -> Result<(), String> {
    let (subject, word) = match request.operation {
        Operation::Create => (object, "create"),
        Operation::Delete => (request.old.unwrap_or(&Value::Null), "delete"),
        Operation::Update | Operation::Connect => return Ok(()),
    };
    if subject["spec"]["nodeName"] == node {
        return Ok(());
    }
    Err(format!("can only {word} ResourceSlice with the same NodeName as the requesting node"))
}

fn nodes(request: &Request<'_>, object: &Value, node: &str) -> Result<(), String> {
    let name = if request.operation == Operation::Create { meta(object, "name") } else { request.name };
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    match request.operation {
        Operation::Create => {
            let forbidden = forbidden_labels(&Value::Null, &object["metadata"]["labels"]);
            if !forbidden.is_empty() {
                return Err(format!("node {node:?} is not allowed to set the following labels: {forbidden}"));
            }
            Ok(())
        }
        Operation::Update => {
            let old = request.old.unwrap_or(&Value::Null);
            let list = |v: &Value, part: &str, field: &str| items(&v[part][field]).to_vec();
            if list(old, "metadata", "ownerReferences") != list(object, "metadata", "ownerReferences") {
                return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            if list(old, "spec", "taints") != list(object, "spec", "taints") {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            let forbidden = forbidden_labels(&old["metadata"]["labels"], &object["metadata"]["labels"]);
            if !forbidden.is_empty() {
                return Err(format!("is not allowed to modify labels: {forbidden}"));
            }
            Ok(())
        }
        Operation::Delete | Operation::Connect => Ok(()),
    }
}

/// Labels that differ and that a kubelet may not set, joined for a text.
fn forbidden_labels(old: &Value, new: &Value) -> String {
    let keys = |v: &Value| v.as_object().map(|m| m.keys().cloned().collect::<BTreeSet<_>>()).unwrap_or_default();
    let all = &keys(old) | &keys(new);
    let bad = all.into_iter().filter(|k| old.get(k) != new.get(k) && !is_kubelet_label(k));
    bad.collect::<Vec<_>>().join(", ")
}

/// Whether a kubelet may set a label on its node: anything outside of the system's domains, and a few in them.
fn is_kubelet_label(key: &str) -> bool {
    const KNOWN: [&str; 11] = [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    ];
    let Some((domain, _)) = key.split_once('/') else { return true };
    let below = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    if below("node-restriction.kubernetes.io") {
        return false;
    }
    if !below("kubernetes.io") && !below("k8s.io") {
        return true;
    }
    KNOWN.contains(&key) || below("kubelet.kubernetes.io") || below("node.kubernetes.io")
}

fn own_name(request: &Request<'_>, object: &Value, node: &str, why: &str) -> Result<(), String> {
    let name = if request.operation == Operation::Create { meta(object, "name") } else { request.name };
    if name == node { Ok(()) } else { Err(why.to_owned()) }
}

fn csr(request: &Request<'_>, object: &Value) -> Result<(), String> {
    const SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
    let signer = object["spec"]["signerName"].as_str().unwrap_or_default();
    if request.operation != Operation::Create || !SIGNERS.contains(&signer) {
        return Ok(());
    }
    let parsed = certificates::parse(object).map_err(|e| format!("unable to parse csr: {e}"))?;
    if parsed.common_name != request.user.name {
        return Err(format!("can only create a node CSR with CN={}", request.user.name));
    }
    Ok(())
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn admit(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let Some(node) = node_of(request.user) else { return Ok(()) };
        if node.is_empty() {
            let why = format!("could not determine node from user {:?}", request.user.name);
            return Err(request.forbidden(object, &why));
        }
        debug_assert!(request.user.name.starts_with(USER_PREFIX));
        self.check(request, object, node).await.map_err(|why| request.forbidden(object, &why))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{kind, request};
    use super::*;
    use crate::lookup::fake::Fake;
    use crate::user::UserInfo;

    async fn ask(
        resource: &str,
        subresource: &str,
        operation: Operation,
        name: &str,
        object: Value,
        old: Option<Value>,
    ) -> Result<(), String> {
        let pod = |name: &str, node: &str| {
            json!({"metadata": {"namespace": "default", "name": name, "uid": format!("u-{name}")},
            "spec": {"nodeName": node, "volumes": [{"projected": {"sources": [{"serviceAccountToken": {}}]}}]}})
        };
        let node = ("nodes", json!({"metadata": {"name": "n1", "uid": "un"}}));
        let objects = Fake::with([("pods", pod("mine", "n1")), ("pods", pod("other", "n2")), node]);
        let plugin = NodeRestriction::new(objects.lookup(), Arc::new(crate::authz::Union::new(Vec::new())));
        let (kind, user) = (kind(resource), UserInfo::new("system:node:n1", &["system:nodes"]));
        let mut request = request(&*kind, operation, subresource, name, &user, old.as_ref());
        if resource == "leases" {
            request.namespace = LEASE_NAMESPACE;
        }
        let mut object = object;
        plugin.admit(&request, &mut object, &mut Vec::new()).await.map_err(|s| s.message)
    }

    #[tokio::test]
    async fn nodes_and_leases() {
        use Operation::{Create, Update};
        let node = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
        assert_eq!(ask("nodes", "", Create, "", node("n1", json!({"kubernetes.io/os": "linux"})), None).await, Ok(()));
        assert!(ask("nodes", "", Create, "", node("n2", json!({})), None).await.is_err());
        let bad = node("n1", json!({"node-restriction.kubernetes.io/a": "1", "a.k8s.io/b": "", "x": "y"}));
        let text = "nodes \"n1\" is forbidden: node \"n1\" is not allowed to set the following labels: a.k8s.io/b, \
                    node-restriction.kubernetes.io/a";
        assert_eq!(ask("nodes", "", Create, "", bad, None).await, Err(text.into()));
        let text = "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\"";
        let other = node("n2", json!({}));
        assert_eq!(ask("nodes", "status", Update, "n2", other.clone(), Some(other)).await, Err(text.into()));
        let tainted = json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "a"}]}});
        assert!(ask("nodes", "", Update, "n1", node("n1", json!({})), Some(tainted)).await.is_err());
        let lease = |name: &str| json!({"metadata": {"name": name}});
        assert_eq!(ask("leases", "", Create, "", lease("n1"), None).await, Ok(()));
        assert!(ask("leases", "", Create, "", lease("n2"), None).await.is_err());
    }

    #[tokio::test]
    async fn pods_and_tokens() {
        use Operation::{Create, Delete, Update};
        let plain = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1"}});
        assert!(ask("pods", "", Create, "", plain.clone(), None).await.is_err());
        let mirror = json!({"metadata": {"name": "p", "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "un", "controller": true}]},
            "spec": {"nodeName": "n1"}});
        assert_eq!(ask("pods", "", Create, "", mirror.clone(), None).await, Ok(()));
        let mut secret = mirror;
        secret["spec"]["volumes"] = json!([{"secret": {}}]);
        assert!(ask("pods", "", Create, "", secret, None).await.is_err());
        assert_eq!(ask("pods", "", Delete, "mine", Value::Null, None).await, Ok(()));
        assert!(ask("pods", "", Delete, "other", Value::Null, None).await.is_err());
        assert_eq!(ask("pods", "status", Update, "p", plain.clone(), Some(plain.clone())).await, Ok(()));
        let elsewhere = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n2"}});
        assert!(ask("pods", "status", Update, "p", plain, Some(elsewhere)).await.is_err());
        let token = |name: &str, uid: &str, audiences: Value| {
            json!({"spec": {"audiences": audiences,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}}})
        };
        let ask_token = async |t: Value| ask("serviceaccounts", "token", Create, "sa", t, None).await;
        assert_eq!(ask_token(token("mine", "u-mine", json!([]))).await, Ok(()));
        assert!(ask_token(token("mine", "u-mine", json!(["other"]))).await.is_err());
        assert!(ask_token(token("mine", "u-x", json!([]))).await.is_err());
        assert!(ask_token(token("other", "u-other", json!([]))).await.is_err());
        assert!(ask_token(json!({"spec": {}})).await.is_err());
        let two = ask_token(token("mine", "u-mine", json!(["", "b"]))).await;
        assert!(two.is_err_and(|why| why.contains("node may only request 0 or 1 audiences")));
        let claims = |name: &str| {
            json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1"},
            "status": {"resourceClaimStatuses": [{"name": name}]}})
        };
        assert!(ask("pods", "status", Update, "p", claims("a"), Some(claims("b"))).await.is_err());
    }

    #[tokio::test]
    async fn claims_grow_and_nothing_else() {
        let claim = |phase: &str, capacity: &str| {
            json!({"metadata": {"name": "c", "resourceVersion": capacity},
            "status": {"phase": phase, "capacity": {"storage": capacity}}})
        };
        let ask = async |new: Value| {
            ask("persistentvolumeclaims", "status", Operation::Update, "c", new, Some(claim("Bound", "1"))).await
        };
        assert_eq!(ask(claim("Bound", "2")).await, Ok(()));
        assert!(ask(claim("Lost", "1")).await.is_err());
    }
}
