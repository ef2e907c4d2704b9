//! Nothing is made in a namespace that does not exist or is ending, and the namespaces the system needs stay
//! (`k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle`).

use async_trait::async_trait;
use orkd_api::status::{Cause, Status};
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::lookup::Lookup;

/// Namespaces that cannot be deleted.
pub const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The plugin.
pub struct NamespaceLifecycle {
    objects: Lookup,
}

impl NamespaceLifecycle {
    /// Reads namespaces here.
    pub fn new(objects: Lookup) -> Self {
        NamespaceLifecycle { objects }
    }
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    async fn admit(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let about_namespace = request.resource.group.is_empty() && request.resource.plural == "namespaces";
        if about_namespace {
            if request.operation == Operation::Delete && IMMORTAL.contains(&request.name) {
                return Err(request.forbidden(object, "this namespace may not be deleted"));
            }
            return Ok(());
        }
        let review = request.is("authorization.k8s.io", "localsubjectaccessreviews", "");
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if request.namespace.is_empty() || !writes || review {
            return Ok(());
        }
        let name = request.namespace;
        // Every write asks: the namespace is not decoded for it.
        let phase = || self.objects.field("", "namespaces", "", name, "status.phase");
        let mut found = phase();
        if found.is_none() {
            self.objects.fresh().await?;
            found = phase();
        }
        let Some(phase) = found else { return Err(Status::not_found("", "namespaces", name)) };
        if request.operation == Operation::Create && phase == "Terminating" {
            let why = format!("unable to create new content in namespace {name} because it is being terminated");
            let mut status = request.forbidden(object, &why);
            if let Some(details) = &mut status.details {
                details.causes.push(Cause {
                    reason: "NamespaceTerminating".into(),
                    message: format!("namespace {name} is being terminated"),
                    field: "metadata.namespace".into(),
                });
            }
            return Err(status);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{kind, request};
    use super::*;
    use crate::lookup::fake::Fake;
    use crate::user::UserInfo;

    #[tokio::test]
    async fn namespaces_must_exist_and_not_end() {
        let check = async |operation, resource: &str, name: &str, phase: Option<&str>, expected: Option<&str>| {
            let namespace = |p| ("namespaces", json!({"metadata": {"name": "default"}, "status": {"phase": p}}));
            let plugin = NamespaceLifecycle::new(Fake::with(phase.map(namespace)).lookup());
            let (kind, user) = (kind(resource), UserInfo::new("u", &[]));
            let request = request(&*kind, operation, "", name, &user, None);
            let mut object = json!({"metadata": {"name": name}});
            let done = plugin.admit(&request, &mut object, &mut Vec::new()).await;
            assert_eq!(done.err().map(|s| s.message).as_deref(), expected);
        };
        use Operation::{Connect, Create, Delete, Update};
        check(Create, "pods", "p", Some("Active"), None).await;
        check(Create, "pods", "p", None, Some("namespaces \"default\" not found")).await;
        let ending =
            "pods \"p\" is forbidden: unable to create new content in namespace default because it is being terminated";
        check(Create, "pods", "p", Some("Terminating"), Some(ending)).await;
        check(Update, "pods", "p", Some("Terminating"), None).await;
        check(Delete, "pods", "p", None, None).await;
        check(Connect, "pods", "p", None, None).await;
        let immortal = "namespaces \"kube-system\" is forbidden: this namespace may not be deleted";
        check(Delete, "namespaces", "kube-system", None, Some(immortal)).await;
        check(Delete, "namespaces", "mine", None, None).await;
    }
}
