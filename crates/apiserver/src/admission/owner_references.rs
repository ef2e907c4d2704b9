//! Who makes an object somebody's property must be able to delete it, and who makes an owner wait for it must be able
//! to set the owner's finalizers (`plugin/pkg/admission/gc`).

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Request, items};
use crate::authz::{Attributes, Authorizer, Decision};
use crate::pipeline::WeakServer;
use crate::route::RequestInfo;

/// The plugin.
pub struct OwnerReferencesPermissionEnforcement {
    authorizer: Arc<dyn Authorizer>,
    server: OnceLock<WeakServer>,
}

impl OwnerReferencesPermissionEnforcement {
    /// Asks this authorizer.
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        OwnerReferencesPermissionEnforcement { authorizer, server: OnceLock::new() }
    }

    async fn may(&self, request: &Request<'_>, info: RequestInfo) -> Result<(), String> {
        match self.authorizer.authorize(&Attributes { user: request.user, request: &info }).await {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(reason),
        }
    }
}

fn owners(object: &Value) -> &[Value] {
    items(&object["metadata"]["ownerReferences"])
}

/// References that block and did not before.
fn newly_blocking<'v>(new: &'v Value, old: Option<&Value>) -> Vec<&'v Value> {
    let blocks = |r: &Value| r["blockOwnerDeletion"] == true;
    let before: Vec<&Value> = old.map(owners).unwrap_or_default().iter().filter(|r| blocks(r)).collect();
    owners(new).iter().filter(|r| blocks(r) && !before.iter().any(|b| b["uid"] == r["uid"])).collect()
}

#[async_trait]
impl Plugin for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn bind(&self, server: &WeakServer) {
        // Bound once, see `NamespaceAutoProvision`.
        let _ = self.server.set(server.clone());
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _: &mut Vec<String>) -> Result<(), Status> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let changed = owners(object) != request.old.map(owners).unwrap_or_default();
        if !writes || !changed || request.is("", "pods", "status") {
            return Ok(());
        }
        // Making something and deleting it are one right to its maker.
        if request.operation == Operation::Update {
            let delete = RequestInfo {
                is_resource: true,
                verb: "delete".into(),
                group: request.resource.group.to_string(),
                version: request.resource.version.to_string(),
                namespace: request.namespace.into(),
                resource: request.resource.plural.to_string(),
                subresource: request.subresource.into(),
                name: request.name.into(),
                ..RequestInfo::default()
            };
            if let Err(reason) = self.may(request, delete).await {
                let why = format!("cannot set an ownerRef on a resource you can't delete: {reason}, <nil>");
                return Err(request.forbidden(object, &why));
            }
        }
        for owner in newly_blocking(object, request.old) {
            let text = |f: &str| owner[f].as_str().unwrap_or_default();
            let (api_version, kind) = (text("apiVersion"), text("kind"));
            let Some((plural, namespaced)) = super::mapping(&self.server, api_version, kind) else {
                let why = format!(
                    "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion \
                     {api_version} Kind {kind}: no matches for kind {kind:?} in version {api_version:?}"
                );
                return Err(request.forbidden(object, &why));
            };
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            let update = RequestInfo {
                is_resource: true,
                verb: "update".into(),
                group: group.into(),
                version: version.into(),
                namespace: if namespaced { request.namespace.into() } else { String::new() },
                resource: plural,
                subresource: "finalizers".into(),
                name: text("name").into(),
                ..RequestInfo::default()
            };
            if let Err(reason) = self.may(request, update).await {
                let why = format!(
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers \
                     on: {reason}, <nil>"
                );
                return Err(request.forbidden(object, &why));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{kind, request};
    use super::*;
    use crate::user::UserInfo;

    /// Allows what is listed as `verb resource[/subresource]`.
    struct Allows(&'static [&'static str]);

    #[async_trait]
    impl Authorizer for Allows {
        async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
            let r = attributes.request;
            let sub = if r.subresource.is_empty() { String::new() } else { format!("/{}", r.subresource) };
            let what = format!("{} {}{sub}", r.verb, r.resource);
            if self.0.contains(&what.as_str()) {
                Decision::Allow(String::new())
            } else {
                Decision::NoOpinion("no".into())
            }
        }
    }

    #[tokio::test]
    async fn rights_follow_references() {
        let check = async |allows: &'static [&'static str], blocks: bool, operation, expected: &str| {
            let plugin = OwnerReferencesPermissionEnforcement::new(Arc::new(Allows(allows)));
            let (kind, user) = (kind("pods"), UserInfo::new("u", &[]));
            let old = json!({"metadata": {"name": "p"}});
            let old = (operation == Operation::Update).then_some(&old);
            let request = request(&*kind, operation, "", "p", &user, old);
            let pod = json!({"metadata": {"name": "p", "ownerReferences": [{"apiVersion": "apps/v1",
                "kind": "ReplicaSet", "name": "r", "uid": "u", "blockOwnerDeletion": blocks}]}});
            let done = plugin.validate(&request, &pod, &mut Vec::new()).await;
            let said = done.err().map(|s| s.message).unwrap_or_default();
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{said}");
        };
        check(&["delete pods"], false, Operation::Update, "").await;
        check(&[], false, Operation::Update, "cannot set an ownerRef on a resource you can't delete").await;
        check(&[], false, Operation::Create, "").await;
        let finalizers = "refers to a resource you can't set finalizers on";
        check(&["delete pods"], true, Operation::Update, finalizers).await;
        check(&["delete pods", "update replicasets/finalizers"], true, Operation::Update, "").await;
        check(&[], true, Operation::Create, finalizers).await;
    }
}
