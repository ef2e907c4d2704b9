//! Admission: each plugin is one file and one line in [`all`]'s list, which is in upstream's order
//! (`pkg/kubeapiserver/options/plugins.go`, `AllOrderedPlugins`).
//!
//! Not here yet, of those upstream turns on by default: ResourceQuota (it needs its controller), PodSecurity,
//! PersistentVolumeClaimResize, PodTopologyLabels, ClusterTrustBundleAttest, webhooks and the policies in CEL.

pub mod certificates;
pub mod default_class;
pub mod default_toleration_seconds;
pub mod limit_ranger;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod priority;
pub mod runtime_class;
pub mod service_account;
pub mod storage_in_use;
pub mod taint_nodes_by_condition;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use orkd_api::kind::{Kind, ResourceInfo};
use orkd_api::status::Status;
use serde_json::Value;

use crate::authz::Authorizer;
use crate::lookup::Lookup;
use crate::user::UserInfo;

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
}

/// A built-in plugin. Both phases default to letting everything pass. `object` is what will be stored (for a
/// subresource with a body of its own, such as `pods/eviction` or `pods/binding`, that body; null on delete).
#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    /// Upstream's name, such as `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

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
}

/// Every plugin, in the order they are called.
pub fn all(parts: &Parts) -> Vec<Arc<dyn Plugin>> {
    let objects = || Arc::clone(&parts.objects);
    let authorizer = || Arc::clone(&parts.authorizer);
    vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle::new(objects())),
        Arc::new(limit_ranger::LimitRanger::new(objects())),
        Arc::new(service_account::ServiceAccount::new(objects())),
        Arc::new(node_restriction::NodeRestriction::new(objects())),
        Arc::new(taint_nodes_by_condition::TaintNodesByCondition),
        Arc::new(priority::Priority::new(objects())),
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds),
        Arc::new(default_class::DefaultStorageClass::new(objects())),
        Arc::new(storage_in_use::StorageObjectInUseProtection),
        Arc::new(runtime_class::RuntimeClass::new(objects())),
        Arc::new(certificates::CertificateApproval::new(authorizer())),
        Arc::new(certificates::CertificateSigning::new(authorizer())),
        Arc::new(certificates::CertificateSubjectRestriction),
        Arc::new(default_class::DefaultIngressClass::new(objects())),
    ]
}

/// Plugins that are on only where they are enabled by name. StorageObjectInUseProtection, which upstream turns on, puts
/// finalizers on claims and volumes; until the two controllers that take them off are here, nothing could be deleted.
pub const OFF_BY_DEFAULT: [&str; 1] = ["StorageObjectInUseProtection"];

/// The plugins that are on: all but those disabled and those of [`OFF_BY_DEFAULT`] that are not enabled. A name that is
/// not known is an error.
pub fn selected(parts: &Parts, enable: &[String], disable: &[String]) -> Result<Vec<Arc<dyn Plugin>>, String> {
    let plugins = all(parts);
    let known: BTreeSet<&str> = plugins.iter().map(|p| p.name()).collect();
    if let Some(name) = enable.iter().chain(disable).find(|n| !known.contains(n.as_str())) {
        let list = known.into_iter().collect::<Vec<_>>().join(", ");
        return Err(format!("unknown admission plugin {name:?}, known are {list}"));
    }
    if let Some(name) = enable.iter().find(|n| disable.contains(n)) {
        return Err(format!("admission plugin {name:?} is both enabled and disabled"));
    }
    let is_on = |name: &str| !OFF_BY_DEFAULT.contains(&name) || enable.iter().any(|n| n == name);
    Ok(plugins.into_iter().filter(|p| is_on(p.name()) && !disable.iter().any(|d| d == p.name())).collect())
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::Union;
    use crate::lookup::fake::Fake;

    #[test]
    fn plugins_have_one_name_each_and_are_chosen_by_it() {
        let parts = Parts { objects: Fake::with([]).lookup(), authorizer: Arc::new(Union::new(Vec::new())) };
        let names: BTreeSet<&str> = all(&parts).iter().map(|p| p.name()).collect();
        assert_eq!(names.len(), all(&parts).len());
        let text = |n: &str| vec![n.to_owned()];
        let left = selected(&parts, &[], &text("Priority")).expect("known");
        assert!(left.iter().all(|p| p.name() != "Priority"));
        assert_eq!(left.len() + 1 + OFF_BY_DEFAULT.len(), names.len());
        let more = selected(&parts, &text(OFF_BY_DEFAULT[0]), &[]).expect("known");
        assert_eq!(more.len(), names.len());
        assert!(selected(&parts, &text("Nope"), &[]).is_err());
        assert!(selected(&parts, &text("Priority"), &text("Priority")).is_err());
    }
}
