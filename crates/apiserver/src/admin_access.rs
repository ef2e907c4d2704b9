//! Requests for devices with admin access are for namespaces that are labelled for it
//! (`pkg/registry/resource.AuthorizedForAdmin`).

use async_trait::async_trait;
use orkd_api::field::{ErrorList, Path};
use orkd_api::status::Status;
use serde_json::Value;

use crate::lookup::{self, Lookup};
use crate::registry::hook::Nothing;
use crate::registry::{Finish, Hook, HookContext};

const LABEL: &str = "resource.kubernetes.io/admin-access";

/// The hook of one kind with requests for devices. What they ask for cannot change later.
pub struct AdminAccess {
    /// `ResourceClaim` or `ResourceClaimTemplate`.
    pub kind: &'static str,
    /// Where the spec of the claim lies, as a JSON pointer.
    pub spec: &'static str,
    /// Finds namespaces.
    pub objects: Lookup,
}

impl AdminAccess {
    async fn check(&self, obj: &Value) -> Result<(), Status> {
        let spec = obj.pointer(self.spec).unwrap_or(&Value::Null);
        let requests = spec["devices"]["requests"].as_array().into_iter().flatten();
        if !requests.into_iter().any(|request| request["exactly"]["adminAccess"] == true) {
            return Ok(());
        }
        let text = |field: &str| obj["metadata"][field].as_str().unwrap_or_default();
        let namespace = lookup::get_fresh(&*self.objects, "", "namespaces", "", text("namespace")).await?;
        if namespace.is_some_and(|namespace| namespace["metadata"]["labels"][LABEL] == "true") {
            return Ok(());
        }
        let mut errs = ErrorList::new();
        errs.forbidden(
            &Path::unnamed(),
            format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace"),
        );
        Err(Status::invalid("resource.k8s.io", self.kind, text("name"), &errs))
    }
}

#[async_trait]
impl Hook for AdminAccess {
    async fn begin_create(&self, _cx: &HookContext<'_>, obj: &mut Value) -> Result<Box<dyn Finish>, Status> {
        self.check(obj).await?;
        Ok(Box::new(Nothing))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::lookup::fake::Fake;

    #[tokio::test]
    async fn admin_access_needs_a_label() {
        let objects = Fake::with([
            ("namespaces", json!({"metadata": {"name": "plain"}})),
            ("namespaces", json!({"metadata": {"name": "off", "labels": {LABEL: "false"}}})),
            ("namespaces", json!({"metadata": {"name": "on", "labels": {LABEL: "true"}}})),
        ]);
        let hook = AdminAccess { kind: "ResourceClaim", spec: "/spec", objects: objects.lookup() };
        for (namespace, admin, allowed) in [
            ("plain", json!(false), true),
            ("plain", json!(null), true),
            ("plain", json!(true), false),
            ("off", json!(true), false),
            ("gone", json!(true), false),
            ("on", json!(true), true),
        ] {
            let claim = json!({"metadata": {"name": "c", "namespace": namespace}, "spec": {"devices": {"requests": [
                {"name": "a", "exactly": {}}, {"name": "b", "exactly": {"adminAccess": admin}}]}}});
            let outcome = hook.check(&claim).await;
            assert_eq!(outcome.is_ok(), allowed, "{namespace} {admin}");
            if let Err(status) = outcome {
                assert_eq!(
                    (status.code, status.message.as_str()),
                    (
                        422,
                        "ResourceClaim.resource.k8s.io \"c\" is invalid: []: Forbidden: admin access to devices requires the \
                         `resource.kubernetes.io/admin-access: true` label on the containing namespace"
                    )
                );
            }
        }
        let template = AdminAccess { kind: "ResourceClaimTemplate", spec: "/spec/spec", objects: objects.lookup() };
        let requests = json!({"requests": [{"name": "a", "exactly": {"adminAccess": true}}]});
        let inner = json!({"metadata": {"namespace": "plain"}, "spec": {"spec": {"devices": requests}}});
        assert!(template.check(&inner).await.is_err());
    }
}
