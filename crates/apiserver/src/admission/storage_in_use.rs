//! Claims, volumes and classes of their attributes stay until nobody uses them any more
//! (`plugin/pkg/admission/storage/storageobjectinuseprotection`): a finalizer, which a controller takes off.

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request, items};

/// The plugin.
pub struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    async fn admit(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let finalizer = match (request.resource.group.as_ref(), request.resource.plural.as_ref()) {
            ("", "persistentvolumes") => "kubernetes.io/pv-protection",
            ("", "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
            ("storage.k8s.io", "volumeattributesclasses") => "kubernetes.io/vac-protection",
            _ => return Ok(()),
        };
        if request.operation != Operation::Create || !request.subresource.is_empty() {
            return Ok(());
        }
        let mut finalizers = items(&object["metadata"]["finalizers"]).to_vec();
        if !finalizers.iter().any(|f| f == finalizer) {
            finalizers.push(json!(finalizer));
            object["metadata"]["finalizers"] = json!(finalizers);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{kind, request};
    use super::*;
    use crate::user::UserInfo;

    #[tokio::test]
    async fn the_finalizer_is_added_once() {
        let user = UserInfo::new("u", &[]);
        for (plural, finalizer) in [
            ("persistentvolumeclaims", "kubernetes.io/pvc-protection"),
            ("persistentvolumes", "kubernetes.io/pv-protection"),
            ("volumeattributesclasses", "kubernetes.io/vac-protection"),
        ] {
            let kind = kind(plural);
            let request = request(&*kind, Operation::Create, "", "", &user, None);
            let mut object = json!({"metadata": {"name": "c"}});
            for _ in 0..2 {
                StorageObjectInUseProtection.admit(&request, &mut object, &mut Vec::new()).await.expect("admitted");
                assert_eq!(object["metadata"]["finalizers"], json!([finalizer]));
            }
        }
    }
}
