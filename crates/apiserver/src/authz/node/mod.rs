//! What kubelets may do (`plugin/pkg/auth/authorizer/node/node_authorizer.go`): a node's user reads what its own
//! pods refer to and nothing else, on top of the fixed rules of the cluster role `system:node`.

pub mod graph;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};

use super::feed::Feed;
use super::rbac::rule::Rule;
use super::{Attributes, Authorizer, Decision, Rules};
use crate::route::RequestInfo;
use crate::selector::FieldSelector;
use crate::user::UserInfo;
use graph::{Graph, Thing};

/// The prefix of a node's user name.
pub const USER_PREFIX: &str = "system:node:";
/// The group of nodes' users.
pub const GROUP: &str = "system:nodes";

/// The node a user is; `None` for users that are no nodes
/// (`pkg/auth/nodeidentifier.defaultNodeIdentifier`).
pub fn node_of(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix(USER_PREFIX)?;
    user.in_group(GROUP).then_some(name)
}

/// Which feed a change came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Pods,
    PersistentVolumes,
    VolumeAttachments,
    ResourceSlices,
}

/// Authorizes nodes.
pub struct NodeAuthorizer {
    rules: Vec<Rule>,
    graph: RwLock<Graph>,
    feeds: Mutex<Vec<(Source, Box<dyn Feed>)>>,
}

impl NodeAuthorizer {
    /// An authorizer that is fed by pods and, where those kinds are served, by persistent volumes and volume
    /// attachments. `rules` are those of the cluster role `system:node`
    /// ([`crate::bootstrap::roles::node_rules`]).
    pub fn new(
        rules: Vec<Rule>,
        pods: Box<dyn Feed>,
        volumes: Option<Box<dyn Feed>>,
        attachments: Option<Box<dyn Feed>>,
    ) -> Self {
        let mut feeds = vec![(Source::Pods, pods)];
        feeds.extend(volumes.map(|f| (Source::PersistentVolumes, f)));
        feeds.extend(attachments.map(|f| (Source::VolumeAttachments, f)));
        NodeAuthorizer { rules, graph: RwLock::default(), feeds: Mutex::new(feeds) }
    }

    /// The same, fed by resource slices as well.
    pub fn with_slices(self, slices: Box<dyn Feed>) -> Self {
        self.feeds.lock().push((Source::ResourceSlices, slices));
        self
    }

    fn sync(&self) {
        let mut feeds = self.feeds.lock();
        for (source, feed) in feeds.iter_mut() {
            while let Some(change) = feed.ready() {
                let mut graph = self.graph.write();
                match source {
                    Source::Pods => graph.pod(change),
                    Source::PersistentVolumes => graph.volume(change),
                    Source::VolumeAttachments => graph.attachment(change),
                    Source::ResourceSlices => graph.slice(change),
                }
            }
        }
    }

    fn decide(&self, node: &str, request: &RequestInfo) -> Decision {
        let no = |why: &str| Decision::NoOpinion(why.to_owned());
        let allow = || Decision::Allow(String::new());
        if !request.is_resource {
            return self.by_role(request);
        }
        let (verb, sub) = (request.verb.as_str(), request.subresource.as_str());
        match (request.group.as_str(), request.resource.as_str()) {
            ("", "secrets") => self.read(node, request, Thing::Secret),
            ("", "configmaps") => self.read(node, request, Thing::ConfigMap),
            ("", "persistentvolumeclaims") if sub == "status" => {
                if !["update", "patch"].contains(&verb) {
                    return no("can only get/update/patch this type");
                }
                self.related(node, request, Thing::Claim)
            }
            ("", "persistentvolumeclaims") => self.get(node, request, Thing::Claim),
            ("", "persistentvolumes") => self.get(node, request, Thing::Volume),
            ("storage.k8s.io", "volumeattachments") => self.get(node, request, Thing::Attachment),
            ("resource.k8s.io", "resourceclaims") => self.get(node, request, Thing::ResourceClaim),
            ("resource.k8s.io", "resourceslices") => {
                if !sub.is_empty() {
                    return no("cannot authorize ResourceSlice subresources");
                }
                match verb {
                    // Whose slice is made is for NodeRestriction to check.
                    "create" => allow(),
                    "get" | "update" | "patch" | "delete" => self.related(node, request, Thing::Slice),
                    "list" | "watch" | "deletecollection" if selects(request, "spec.nodeName", node) => allow(),
                    "list" | "watch" | "deletecollection" => {
                        no("can only list/watch/deletecollection resourceslices with spec.nodeName field selector")
                    }
                    _ => no(
                        "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, \
                             patch, delete, deletecollection",
                    ),
                }
            }
            ("", "serviceaccounts") if sub == "token" => {
                if verb != "create" {
                    return no("can only create tokens for individual service accounts");
                }
                self.related(node, request, Thing::ServiceAccount)
            }
            ("", "serviceaccounts") => self.get(node, request, Thing::ServiceAccount),
            ("coordination.k8s.io", "leases") => {
                if !["get", "create", "update", "patch", "delete"].contains(&verb) {
                    return no("can only get, create, update, patch, or delete a node lease");
                }
                if request.namespace != "kube-node-lease" {
                    return no("can only access leases in the \"kube-node-lease\" system namespace");
                }
                // The name of a new lease is in its body: NodeRestriction checks it.
                if verb != "create" && request.name != node {
                    return no("can only access node lease with the same name as the requesting node");
                }
                allow()
            }
            ("storage.k8s.io", "csinodes") => {
                if !["get", "create", "update", "patch", "delete"].contains(&verb) {
                    return no("can only get, create, update, patch, or delete a CSINode");
                }
                if !sub.is_empty() {
                    return no("cannot authorize CSINode subresources");
                }
                if verb != "create" && request.name != node {
                    return no("can only access CSINode with the same name as the requesting node");
                }
                allow()
            }
            ("", "nodes") => match (sub, verb) {
                // Which node is written is for NodeRestriction to check.
                ("", "create" | "update" | "patch") | ("status", "update" | "patch") => allow(),
                ("", "get" | "list" | "watch") if request.name == node => allow(),
                ("", "get" | "list" | "watch") => Decision::NoOpinion(format!(
                    "node '{node}' cannot read '{}', only its own Node object",
                    request.name
                )),
                _ => no(""),
            },
            ("", "pods") => match (sub, verb) {
                ("", "get") => self.related(node, request, Thing::Pod),
                ("", "list" | "watch") if !request.name.is_empty() && !request.namespace.is_empty() => {
                    self.related(node, request, Thing::Pod)
                }
                ("", "list" | "watch") if selects(request, "spec.nodeName", node) => allow(),
                ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
                ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => allow(),
                _ => no(""),
            },
            _ => self.by_role(request),
        }
    }

    fn by_role(&self, request: &RequestInfo) -> Decision {
        if self.rules.iter().any(|r| r.allows(request)) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        }
    }

    /// Reading an object of a namespace by name.
    fn read(&self, node: &str, request: &RequestInfo, thing: Thing) -> Decision {
        let no = |why: &str| Decision::NoOpinion(why.to_owned());
        if !["get", "list", "watch"].contains(&request.verb.as_str()) {
            return no("can only read resources of this type");
        }
        if !request.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if request.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(node, request, thing)
    }

    fn get(&self, node: &str, request: &RequestInfo, thing: Thing) -> Decision {
        if request.verb != "get" {
            return Decision::NoOpinion("can only get individual resources of this type".into());
        }
        if !request.subresource.is_empty() {
            return Decision::NoOpinion("cannot get subresource".into());
        }
        self.related(node, request, thing)
    }

    fn related(&self, node: &str, request: &RequestInfo, thing: Thing) -> Decision {
        if request.name.is_empty() {
            return Decision::NoOpinion("No Object name found".into());
        }
        if self.graph.read().reaches(node, thing, &request.namespace, &request.name) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(format!("no relationship found between node '{node}' and this object"))
        }
    }
}

/// Whether a request's field selector leaves only objects with this value.
fn selects(request: &RequestInfo, field: &str, value: &str) -> bool {
    let selector = FieldSelector::parse(&request.field_selector).ok();
    selector.as_ref().and_then(|s| s.exact(field)).is_some_and(|found| found == value)
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let Some(node) = node_of(attributes.user) else { return Decision::NoOpinion(String::new()) };
        if node.is_empty() {
            return Decision::NoOpinion(format!("unknown node for user {:?}", attributes.user.name));
        }
        self.sync();
        self.decide(node, attributes.request)
    }

    async fn rules(&self, user: &UserInfo, _namespace: &str) -> Rules {
        if node_of(user).is_none() {
            return Rules::default();
        }
        let error = "node authorizer does not support user rule resolution";
        Rules { incomplete: true, error: error.into(), ..Rules::default() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::feed::fake::FakeFeed;
    use super::*;

    fn request(verb: &str, group: &str, namespace: &str, resource: &str, name: &str) -> RequestInfo {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        RequestInfo {
            is_resource: true,
            verb: verb.into(),
            group: group.into(),
            namespace: namespace.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..RequestInfo::default()
        }
    }

    #[tokio::test]
    async fn a_node_reads_what_its_pods_use_and_no_more() {
        let (pods, volumes) = (FakeFeed::default(), FakeFeed::default());
        let authz = NodeAuthorizer::new(Vec::new(), Box::new(pods.clone()), Some(Box::new(volumes.clone())), None);
        let pod = |node: &str| {
            json!({"metadata": {"namespace": "a", "name": "p"}, "spec": {"nodeName": node,
            "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "env"}}}],
                "envFrom": [{"configMapRef": {"name": "from"}}]}],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "init"}}]}],
            "volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "proj"}}]}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}}]}})
        };
        pods.put(pod("n1"));
        volumes.put(json!({"metadata": {"name": "vol"}, "spec": {"claimRef": {"namespace": "a", "name": "claim"},
            "csi": {"nodePublishSecretRef": {"namespace": "s", "name": "csi"}}}}));
        let (n1, n2) = (UserInfo::new("system:node:n1", &[GROUP]), UserInfo::new("system:node:n2", &[GROUP]));
        let ask = async |user: &UserInfo, r: RequestInfo| {
            matches!(authz.authorize(&Attributes { user, request: &r }).await, Decision::Allow(_))
        };
        for secret in ["pull", "env", "init"] {
            assert!(ask(&n1, request("get", "", "a", "secrets", secret)).await, "{secret}");
            assert!(ask(&n1, request("watch", "", "a", "secrets", secret)).await, "{secret}");
            assert!(!ask(&n2, request("get", "", "a", "secrets", secret)).await, "{secret}");
            assert!(!ask(&n1, request("update", "", "a", "secrets", secret)).await, "{secret}");
        }
        for map in ["from", "proj"] {
            assert!(ask(&n1, request("get", "", "a", "configmaps", map)).await, "{map}");
        }
        assert!(!ask(&n1, request("get", "", "b", "secrets", "pull")).await);
        assert!(!ask(&n1, request("list", "", "a", "secrets", "")).await);
        assert!(ask(&n1, request("get", "", "a", "persistentvolumeclaims", "claim")).await);
        assert!(ask(&n1, request("get", "", "", "persistentvolumes", "vol")).await);
        assert!(ask(&n1, request("get", "", "s", "secrets", "csi")).await);
        assert!(ask(&n1, request("create", "", "a", "serviceaccounts/token", "sa")).await);
        assert!(!ask(&n2, request("create", "", "a", "serviceaccounts/token", "sa")).await);
        assert!(ask(&n1, request("get", "", "a", "pods", "p")).await);
        assert!(!ask(&n2, request("get", "", "a", "pods", "p")).await);
        let own = |node: &str| {
            let field_selector = format!("spec.nodeName={node},status.phase!=Failed");
            RequestInfo { field_selector, ..request("list", "", "", "pods", "") }
        };
        assert!(ask(&n1, own("n1")).await);
        assert!(!ask(&n1, own("n2")).await);
        assert!(!ask(&n1, request("list", "", "", "pods", "")).await);
        assert!(ask(&n1, request("get", "", "", "nodes", "n1")).await);
        assert!(!ask(&n1, request("get", "", "", "nodes", "n2")).await);
        assert!(ask(&n1, request("update", "coordination.k8s.io", "kube-node-lease", "leases", "n1")).await);
        assert!(!ask(&n1, request("update", "coordination.k8s.io", "kube-node-lease", "leases", "n2")).await);
        assert!(!ask(&n1, request("get", "coordination.k8s.io", "kube-system", "leases", "n1")).await);

        pods.put(pod("n2"));
        assert!(!ask(&n1, request("get", "", "a", "secrets", "pull")).await);
        assert!(ask(&n2, request("get", "", "a", "secrets", "pull")).await);
        pods.delete("a/p");
        assert!(!ask(&n2, request("get", "", "a", "secrets", "pull")).await);
        // A name without the group is nobody.
        assert!(!ask(&UserInfo::new("system:node:n1", &[]), request("get", "", "", "nodes", "n1")).await);
    }
}
