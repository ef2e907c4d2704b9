//! Admission: each plugin is one file and one line in [`all`]'s list, which is in upstream's order
//! (`pkg/kubeapiserver/options/plugins.go`, `AllOrderedPlugins`).

use async_trait::async_trait;
use orkd_api::kind::{Kind, ResourceInfo};
use orkd_api::status::Status;
use serde_json::Value;

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
