//! Admission: each plugin is one file and one line in [`all`]'s list. [`order::ORDER`] says in which order they are
//! called and which of them are on (`pkg/kubeapiserver/options/plugins.go`).

pub mod always;
pub mod always_pull_images;
pub mod anti_affinity;
pub mod certificates;
pub mod claim_resize;
pub mod config;
pub mod default_class;
pub mod default_toleration_seconds;
pub mod deny_external_ips;
pub mod dynamic;
pub mod event_rate_limit;
pub mod extended_resource_toleration;
pub mod limit_ranger;
pub mod namespace_exists;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod order;
pub mod owner_references;
pub mod param_access;
pub mod pod_node_selector;
pub mod pod_security;
pub mod pod_toleration_restriction;
pub mod pod_topology_labels;
pub mod priority;
pub mod resource_quota;
pub mod runtime_class;
pub mod service_account;
pub mod storage_in_use;
pub mod taint_nodes_by_condition;

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use orkd_api::kind::{Kind, ResourceInfo, Scope};
use orkd_api::status::Status;
use serde_json::Value;

use crate::authz::Authorizer;
use crate::authz::feed::Feed;
use crate::lookup::Lookup;
use crate::pipeline::WeakServer;
use crate::user::UserInfo;
use crate::warning::Annotations;

pub use config::PluginConfigs;
pub use dynamic::reinvocation::Reinvocation;

/// The operation under admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed object.
    Update,
    /// An object to be deleted.
    Delete,
    /// A stream: exec, attach, port-forward, proxy.
    Connect,
}

impl Operation {
    /// As rules and requests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// One request under admission (`k8s.io/apiserver/pkg/admission.Attributes`).
pub struct Request<'a> {
    /// What is done.
    pub operation: Operation,
    /// The resource addressed.
    pub resource: &'a ResourceInfo,
    /// Its behaviour.
    pub kind: &'a dyn Kind,
    /// Subresource; empty for the object itself.
    pub subresource: &'a str,
    /// Namespace; empty for cluster-wide.
    pub namespace: &'a str,
    /// Name; may be empty on create with `generateName`.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a UserInfo,
    /// Whether nothing will be stored: side effects are forbidden.
    pub dry_run: bool,
    /// The time.
    pub now: jiff::Timestamp,
    /// The object before; `None` on create.
    pub old: Option<&'a Value>,
    /// The options of the request (`CreateOptions`, `DeleteOptions`, ...), as an object; null without.
    pub options: &'a Value,
    /// Notes for the audit log.
    pub annotations: &'a Annotations,
    /// Whether the mutating phase runs for the second time.
    pub reinvocation: &'a Reinvocation,
}

/// A built-in plugin. Both phases default to letting everything pass. `object` is what will be stored (for a
/// subresource with a body of its own, such as `pods/eviction` or `pods/binding`, that body; null on delete).
#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    /// Upstream's name, such as `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Called once, with the server that the plugin will serve, for plugins that write.
    fn bind(&self, _server: &WeakServer) {}

    /// May change the object. May refuse.
    async fn admit(
        &self,
        _request: &Request<'_>,
        _object: &mut Value,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// May refuse.
    async fn validate(
        &self,
        _request: &Request<'_>,
        _object: &Value,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        Ok(())
    }
}

/// What plugins are made of.
#[derive(Clone)]
pub struct Parts {
    /// Reads objects.
    pub objects: Lookup,
    /// Asked whether a user may approve or sign certificates.
    pub authorizer: Arc<dyn Authorizer>,
    /// What the operator configured of single plugins.
    pub configs: PluginConfigs,
    /// The changes of a resource (group and plural), for plugins that keep what they make of its objects.
    pub feeds: Feeds,
}

/// Gives the changes of a resource.
pub type Feeds = Arc<dyn Fn(&str, &str) -> Box<dyn Feed> + Send + Sync>;

/// Every plugin there is, in the order they are called. The error is for the operator: a configuration that is wrong.
pub fn all(parts: &Parts) -> Result<Vec<Arc<dyn Plugin>>, String> {
    let objects = || Arc::clone(&parts.objects);
    let authorizer = || Arc::clone(&parts.authorizer);
    let config = |name: &str| parts.configs.of(name);
    let mut plugins: Vec<Arc<dyn Plugin>> = vec![
        Arc::new(always::AlwaysAdmit),
        Arc::new(always::AlwaysDeny),
        Arc::new(always_pull_images::AlwaysPullImages),
        Arc::new(anti_affinity::LimitPodHardAntiAffinityTopology),
        Arc::new(certificates::CertificateApproval::new(authorizer())),
        Arc::new(certificates::CertificateSigning::new(authorizer())),
        Arc::new(certificates::CertificateSubjectRestriction),
        Arc::new(claim_resize::PersistentVolumeClaimResize::new(objects())),
        Arc::new(default_class::DefaultIngressClass::new(objects())),
        Arc::new(default_class::DefaultStorageClass::new(objects())),
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds),
        Arc::new(deny_external_ips::DenyServiceExternalIps),
        Arc::new(event_rate_limit::EventRateLimit::new(config("EventRateLimit"))?),
        Arc::new(extended_resource_toleration::ExtendedResourceToleration),
        Arc::new(limit_ranger::LimitRanger::new(objects())),
        Arc::new(namespace_exists::NamespaceAutoProvision::new(objects())),
        Arc::new(namespace_exists::NamespaceExists::new(objects())),
        Arc::new(namespace_lifecycle::NamespaceLifecycle::new(objects())),
        Arc::new(node_restriction::NodeRestriction::new(objects(), authorizer())),
        Arc::new(owner_references::OwnerReferencesPermissionEnforcement::new(authorizer())),
        Arc::new(pod_node_selector::PodNodeSelector::new(objects(), config("PodNodeSelector"))),
        Arc::new(pod_security::PodSecurity::new(objects(), config("PodSecurity"))?),
        Arc::new(pod_toleration_restriction::PodTolerationRestriction::new(
            objects(),
            config("PodTolerationRestriction"),
        )),
        Arc::new(pod_topology_labels::PodTopologyLabels::new(objects())),
        Arc::new(priority::Priority::new(objects())),
        Arc::new(resource_quota::ResourceQuota::new(objects(), config("ResourceQuota"))),
        Arc::new(runtime_class::RuntimeClass::new(objects())),
        Arc::new(service_account::ServiceAccount::new(objects())),
        Arc::new(storage_in_use::StorageObjectInUseProtection),
        Arc::new(taint_nodes_by_condition::TaintNodesByCondition),
        Arc::new(dynamic::mutating_policy::MutatingAdmissionPolicy::new(parts)),
        Arc::new(dynamic::webhook::mutating::MutatingAdmissionWebhook::new(parts)?),
        Arc::new(dynamic::validating_policy::ValidatingAdmissionPolicy::new(parts)),
        Arc::new(dynamic::webhook::validating::ValidatingAdmissionWebhook::new(parts)?),
    ];
    plugins.sort_by_key(|p| order::position(p.name()));
    Ok(plugins)
}

/// The plugins that are on: those that upstream turns on and those enabled, without those disabled.
pub fn selected(parts: &Parts, enable: &[String], disable: &[String]) -> Result<Vec<Arc<dyn Plugin>>, String> {
    order::check_names(enable, disable)?;
    let on = |p: &Arc<dyn Plugin>| order::is_on(p.name(), enable, disable);
    Ok(all(parts)?.into_iter().filter(on).collect())
}

impl Request<'_> {
    /// Whether this is about a resource itself (`subresource` empty) or one of its subresources.
    pub fn is(&self, group: &str, resource: &str, subresource: &str) -> bool {
        self.resource.group == group && self.resource.plural == resource && self.subresource == subresource
    }

    /// The object's name: of the request, or of the body, or its prefix (`admission.NewForbidden`).
    pub fn shown_name<'v>(&'v self, object: &'v Value) -> &'v str {
        let of = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        [self.name, of("name"), of("generateName")].into_iter().find(|n| !n.is_empty()).unwrap_or_default()
    }

    /// The refusal of this request (`admission.NewForbidden`).
    pub fn forbidden(&self, object: &Value, why: &str) -> Status {
        Status::forbidden(&self.resource.group, &self.resource.plural, self.shown_name(object), why)
    }
}

/// A text of the metadata; empty where there is none.
pub(crate) fn meta<'v>(object: &'v Value, field: &str) -> &'v str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The elements of a list; none where there is no list.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The resource of a kind: its plural and whether it lives in a namespace. Without a server, of the kinds built in.
fn mapping(server: &OnceLock<WeakServer>, api_version: &str, kind: &str) -> Option<(String, bool)> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let find = |info: &ResourceInfo| {
        (info.group == group && info.version == version && info.kind == kind)
            .then(|| (info.plural.to_string(), info.scope == Scope::Namespaced))
    };
    match server.get().and_then(WeakServer::upgrade) {
        Some(server) => server.resources().iter().find_map(|r| find(r.info())),
        None => orkd_api::kinds::all().iter().find_map(|k| find(k.info())),
    }
}

/// Whether a pod is the API's picture of one that a kubelet runs from a file.
pub(crate) fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some()
}

#[cfg(test)]
pub(crate) mod testing {
    use orkd_api::kind::Kind;
    use serde_json::Value;

    use super::{Operation, Request};
    use crate::user::UserInfo;

    /// The kind of a resource.
    pub(crate) fn kind(resource: &str) -> Box<dyn Kind> {
        let found = orkd_api::kinds::all().into_iter().find(|k| k.info().plural == resource);
        found.unwrap_or_else(|| panic!("no kind {resource}"))
    }

    /// A request about an object of namespace `default`.
    pub(crate) fn request<'a>(
        kind: &'a dyn Kind,
        operation: Operation,
        subresource: &'a str,
        name: &'a str,
        user: &'a UserInfo,
        old: Option<&'a Value>,
    ) -> Request<'a> {
        let namespaced = kind.info().scope == orkd_api::kind::Scope::Namespaced;
        Request {
            operation,
            resource: kind.info(),
            kind,
            subresource,
            namespace: if namespaced { "default" } else { "" },
            name,
            user,
            dry_run: false,
            now: jiff::Timestamp::UNIX_EPOCH,
            old,
            options: &Value::Null,
            annotations: Box::leak(Box::default()),
            reinvocation: Box::leak(Box::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::Union;
    use crate::lookup::fake::Fake;

    fn parts() -> Parts {
        Parts {
            objects: Fake::with([]).lookup(),
            authorizer: Arc::new(Union::new(Vec::new())),
            configs: PluginConfigs::default(),
            feeds: Arc::new(|_, _| Box::new(crate::authz::feed::Nothing)),
        }
    }

    fn names(enable: &[&str], disable: &[&str]) -> Result<Vec<&'static str>, String> {
        let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        Ok(selected(&parts(), &own(enable), &own(disable))?.iter().map(|p| p.name()).collect())
    }

    #[test]
    fn plugins_have_one_name_each_and_stand_in_upstreams_order() {
        let all: Vec<&str> = all(&parts()).expect("made").iter().map(|p| p.name()).collect();
        let mut unique = all.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), all.len());
        let known: Vec<&str> = order::ORDER.iter().map(|(n, _)| *n).filter(|n| all.contains(n)).collect();
        assert_eq!(known, all, "a plugin is missing in ORDER or stands at the wrong place");
    }

    #[test]
    fn plugins_are_chosen_by_name() {
        let standard = names(&[], &[]).expect("known");
        assert_eq!(standard.first(), Some(&"NamespaceLifecycle"));
        assert_eq!(standard.last(), Some(&"ResourceQuota"));
        assert!(standard.contains(&"PodSecurity") && !standard.contains(&"AlwaysPullImages"));
        let chosen = names(&["AlwaysPullImages"], &["Priority"]).expect("known");
        assert!(chosen.contains(&"AlwaysPullImages") && !chosen.contains(&"Priority"));
        assert_eq!(chosen.len(), standard.len());
        let unknown = names(&["Nope"], &[]).expect_err("unknown");
        assert_eq!(unknown, "enable-admission-plugins plugin \"Nope\" is unknown");
        assert_eq!(names(&[], &["Nope"]).expect_err("unknown"), "disable-admission-plugins plugin \"Nope\" is unknown");
        assert_eq!(
            names(&["Priority"], &["Priority"]).expect_err("both"),
            "[Priority] in enable-admission-plugins and disable-admission-plugins overlapped"
        );
    }
}
