//! Claims grow only while bound, and only where their class lets them
//! (`plugin/pkg/admission/storage/persistentvolume/resize`).

use async_trait::async_trait;
use orkd_api::quota::amounts;
use orkd_api::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::lookup::{Lookup, get_fresh};

/// The plugin.
pub struct PersistentVolumeClaimResize {
    objects: Lookup,
}

impl PersistentVolumeClaimResize {
    /// Reads storage classes here.
    pub fn new(objects: Lookup) -> Self {
        PersistentVolumeClaimResize { objects }
    }
}

/// The class a claim names.
fn class(claim: &Value) -> &str {
    let old = claim["metadata"]["annotations"].get("volume.beta.kubernetes.io/storage-class");
    old.or_else(|| claim["spec"].get("storageClassName")).and_then(Value::as_str).unwrap_or_default()
}

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _: &mut Vec<String>) -> Result<(), Status> {
        let Some(old) = request.old else { return Ok(()) };
        if request.operation != Operation::Update || !request.is("", "persistentvolumeclaims", "") {
            return Ok(());
        }
        let size = |claim: &Value| amounts(&claim["spec"]["resources"]["requests"]).get("storage").copied();
        if size(object).unwrap_or(orkd_api::quantity::Quantity::ZERO)
            <= size(old).unwrap_or(orkd_api::quantity::Quantity::ZERO)
        {
            return Ok(());
        }
        if old["status"]["phase"] != "Bound" {
            return Err(request.forbidden(object, "Only bound persistent volume claims can be expanded"));
        }
        let (name, before) = (class(object), class(old));
        let allowed = if name.is_empty() || name != before {
            false
        } else {
            let class = get_fresh(&*self.objects, "storage.k8s.io", "storageclasses", "", name).await?;
            class.is_some_and(|c| c["allowVolumeExpansion"] == true)
        };
        if !allowed {
            let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc \
                       must support resize";
            return Err(request.forbidden(object, why));
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
    async fn claims_grow_where_they_may() {
        let class = |name: &str, grows: bool| {
            ("storageclasses", json!({"metadata": {"name": name}, "allowVolumeExpansion": grows}))
        };
        let plugin =
            PersistentVolumeClaimResize::new(Fake::with([class("grows", true), class("stays", false)]).lookup());
        let (kind, user) = (kind("persistentvolumeclaims"), UserInfo::new("u", &[]));
        let claim = |class: &str, size: &str, phase: &str| {
            json!({"metadata": {"name": "c"}, "status": {"phase": phase},
                "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}})
        };
        let check = async |class: &str, phase: &str, size: &str| {
            let old = claim(class, "1Gi", phase);
            let request = request(&*kind, Operation::Update, "", "c", &user, Some(&old));
            let done = plugin.validate(&request, &claim(class, size, phase), &mut Vec::new()).await;
            done.map_err(|s| s.message).err().unwrap_or_default()
        };
        assert_eq!(check("grows", "Bound", "2Gi").await, "");
        assert_eq!(check("stays", "Bound", "1Gi").await, "");
        assert!(
            check("grows", "Pending", "2Gi").await.ends_with("Only bound persistent volume claims can be expanded")
        );
        for class in ["stays", "gone", ""] {
            assert!(check(class, "Bound", "2Gi").await.ends_with("must support resize"), "{class}");
        }
    }
}
