//! Role-based access control (`plugin/pkg/auth/authorizer/rbac`): roles and bindings of the watch cache, compiled
//! once and kept up to date by their changes.
//!
//! Aggregated cluster roles carry their rules resolved: a controller writes them.

pub mod escalation;
pub mod index;
pub mod rule;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};

use super::feed::Feed;
use super::{Attributes, Authorizer, Decision, Rules};
use crate::user::UserInfo;
use index::{Index, Source};
use rule::Rule;

/// Authorizes by roles and bindings.
pub struct Rbac {
    index: RwLock<Index>,
    feeds: Mutex<Vec<(Source, Box<dyn Feed>)>>,
}

impl Rbac {
    /// An authorizer that is fed by the four kinds of `rbac.authorization.k8s.io`.
    pub fn new(
        roles: Box<dyn Feed>,
        cluster_roles: Box<dyn Feed>,
        role_bindings: Box<dyn Feed>,
        cluster_role_bindings: Box<dyn Feed>,
    ) -> Self {
        let feeds = vec![
            (Source::Roles, roles),
            (Source::ClusterRoles, cluster_roles),
            (Source::RoleBindings, role_bindings),
            (Source::ClusterRoleBindings, cluster_role_bindings),
        ];
        Rbac { index: RwLock::default(), feeds: Mutex::new(feeds) }
    }

    /// Takes in the changes that are there.
    fn sync(&self) {
        let mut feeds = self.feeds.lock();
        for (source, feed) in feeds.iter_mut() {
            while let Some(change) = feed.ready() {
                self.index.write().apply(*source, change);
            }
        }
    }

    /// The rules of a role, as a binding names it; `None` where there is no such role.
    pub fn role_rules(&self, role: &index::RoleRef) -> Option<std::sync::Arc<[Rule]>> {
        self.sync();
        self.index.read().role(role)
    }

    /// Every rule that holds for a user in a namespace, with the problems found on the way (bindings to roles that do
    /// not exist).
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        self.sync();
        let index = self.index.read();
        let (mut rules, mut problems) = (Vec::new(), Vec::new());
        index.visit(user, namespace, |_, found| {
            match found {
                Ok(rule) => rules.push(rule.clone()),
                Err(problem) => problems.push(problem),
            }
            true
        });
        (rules, problems)
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        self.sync();
        let index = self.index.read();
        let mut problems: Vec<String> = Vec::new();
        let mut allowed: Option<String> = None;
        index.visit(attributes.user, &attributes.request.namespace, |origin, found| {
            match found {
                Ok(rule) if rule.allows(attributes.request) => allowed = Some(format!("RBAC: allowed by {origin}")),
                Ok(_) => {}
                Err(problem) => problems.push(problem),
            }
            allowed.is_none()
        });
        match (allowed, problems.len()) {
            (Some(reason), _) => Decision::Allow(reason),
            (None, 0) => Decision::NoOpinion(String::new()),
            (None, 1) => Decision::NoOpinion(format!("RBAC: {}", problems[0])),
            (None, _) => Decision::NoOpinion(format!("RBAC: [{}]", problems.join(", "))),
        }
    }

    async fn rules(&self, user: &UserInfo, namespace: &str) -> Rules {
        let (rules, problems) = self.rules_for(user, namespace);
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        for rule in rules {
            if !rule.resources.is_empty() {
                resources.push(rule.resource_view());
            }
            if !rule.urls.is_empty() {
                paths.push(rule.path_view());
            }
        }
        let error = match problems.len() {
            0 => String::new(),
            1 => problems[0].clone(),
            _ => format!("[{}]", problems.join(", ")),
        };
        Rules { resources, paths, incomplete: false, error }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::feed::fake::FakeFeed;
    use super::*;
    use crate::route::RequestInfo;

    fn request(verb: &str, namespace: &str, resource: &str, name: &str) -> RequestInfo {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        RequestInfo {
            is_resource: true,
            verb: verb.into(),
            namespace: namespace.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..RequestInfo::default()
        }
    }

    struct World {
        rbac: Rbac,
        feeds: [FakeFeed; 4],
    }

    impl World {
        fn new() -> Self {
            let feeds: [FakeFeed; 4] = std::array::from_fn(|_| FakeFeed::default());
            let [a, b, c, d] = feeds.clone().map(|f| Box::new(f) as Box<dyn Feed>);
            World { rbac: Rbac::new(a, b, c, d), feeds }
        }

        async fn ask(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
            self.rbac.authorize(&Attributes { user, request }).await
        }
    }

    #[tokio::test]
    async fn bindings_grant_roles_in_their_namespace_or_everywhere() {
        let world = World::new();
        let [roles, cluster_roles, role_bindings, cluster_role_bindings] = &world.feeds;
        let read = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/scale"]}]);
        roles.put(json!({"metadata": {"namespace": "a", "name": "r"}, "rules": read}));
        cluster_roles.put(json!({"metadata": {"name": "cr"}, "rules": [
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"]},
            {"verbs": ["get"], "nonResourceURLs": ["/metrics", "/logs/*"]}]}));
        role_bindings
            .put(json!({"metadata": {"namespace": "a", "name": "b"}, "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "ann"}, {"kind": "ServiceAccount", "name": "sa"}]}));
        cluster_role_bindings.put(json!({"metadata": {"name": "cb"}, "roleRef": {"kind": "ClusterRole", "name": "cr"},
            "subjects": [{"kind": "Group", "name": "dev"}]}));
        let (ann, dev) = (UserInfo::new("ann", &[]), UserInfo::new("bob", &["dev"]));
        let sa = UserInfo::service_account("a", "sa");
        let none = Decision::NoOpinion(String::new());
        let by_role = Decision::Allow("RBAC: allowed by RoleBinding \"b/a\" of Role \"r\" to User \"ann\"".into());
        assert_eq!(world.ask(&ann, &request("list", "a", "pods", "")).await, by_role);
        assert_eq!(world.ask(&ann, &request("get", "a", "deployments/scale", "d")).await, by_role);
        assert_eq!(world.ask(&ann, &request("list", "b", "pods", "")).await, none);
        assert_eq!(world.ask(&ann, &request("delete", "a", "pods", "")).await, none);
        assert_eq!(world.ask(&ann, &request("get", "a", "pods/log", "p")).await, none);
        let by_account = "RBAC: allowed by RoleBinding \"b/a\" of Role \"r\" to ServiceAccount \"sa/a\"";
        assert_eq!(world.ask(&sa, &request("get", "a", "pods", "p")).await, Decision::Allow(by_account.into()));
        let by_group = "RBAC: allowed by ClusterRoleBinding \"cb\" of ClusterRole \"cr\" to Group \"dev\"";
        assert_eq!(world.ask(&dev, &request("get", "z", "secrets", "s")).await, Decision::Allow(by_group.into()));
        assert_eq!(world.ask(&dev, &request("get", "z", "secrets", "t")).await, none);
        let path = |p: &str| RequestInfo { verb: "get".into(), path: p.into(), ..RequestInfo::default() };
        assert_eq!(world.ask(&dev, &path("/logs/a/b")).await, Decision::Allow(by_group.into()));
        assert_eq!(world.ask(&dev, &path("/metrics/x")).await, none);

        cluster_roles.delete("cr");
        let missing = "RBAC: clusterrole.rbac.authorization.k8s.io \"cr\" not found";
        let asked = world.ask(&dev, &request("get", "z", "secrets", "s")).await;
        assert_eq!(asked, Decision::NoOpinion(missing.into()));
        role_bindings.reset();
        assert_eq!(world.ask(&ann, &request("list", "a", "pods", "")).await, none);
    }

    #[tokio::test]
    async fn rules_are_listed_for_a_user() {
        let world = World::new();
        let [roles, _, role_bindings, _] = &world.feeds;
        roles.put(json!({"metadata": {"namespace": "a", "name": "r"},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}));
        role_bindings
            .put(json!({"metadata": {"namespace": "a", "name": "b"}, "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "ann"}]}));
        let rules = world.rbac.rules(&UserInfo::new("ann", &[]), "a").await;
        assert_eq!(rules.resources, [json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]})]);
        assert!(world.rbac.rules(&UserInfo::new("ann", &[]), "b").await.resources.is_empty());
    }
}
