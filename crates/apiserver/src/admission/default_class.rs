//! Claims and ingresses that name no class get the one marked as default
//! (`plugin/pkg/admission/storage/storageclass/setdefault`, `plugin/pkg/admission/network/defaultingressclass`).

use std::sync::Arc;

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request, meta};
use crate::lookup::Lookup;

/// The newest of the classes that carry one of these annotations; of those of one age the first by name.
fn default_of(classes: Vec<Arc<Value>>, annotations: &[&str]) -> Option<String> {
    let marked = |c: &Arc<Value>| annotations.iter().any(|a| c["metadata"]["annotations"][*a] == "true");
    let mut marked: Vec<_> = classes.into_iter().filter(marked).collect();
    marked.sort_by(|a, b| {
        let age = meta(b, "creationTimestamp").cmp(meta(a, "creationTimestamp"));
        age.then_with(|| meta(a, "name").cmp(meta(b, "name")))
    });
    marked.first().map(|c| meta(c, "name").to_owned())
}

/// Sets the class of claims.
pub struct DefaultStorageClass {
    objects: Lookup,
}

impl DefaultStorageClass {
    /// Reads storage classes here.
    pub fn new(objects: Lookup) -> Self {
        DefaultStorageClass { objects }
    }
}

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    async fn admit(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        const ANNOTATIONS: [&str; 2] =
            ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
        let named = object["metadata"]["annotations"].get("volume.beta.kubernetes.io/storage-class").is_some()
            || object["spec"]["storageClassName"].is_string();
        if request.operation != Operation::Create || !request.is("", "persistentvolumeclaims", "") || named {
            return Ok(());
        }
        if let Some(class) = default_of(self.objects.list("storage.k8s.io", "storageclasses", None), &ANNOTATIONS) {
            object["spec"]["storageClassName"] = json!(class);
        }
        Ok(())
    }
}

/// Sets the class of ingresses.
pub struct DefaultIngressClass {
    objects: Lookup,
}

impl DefaultIngressClass {
    /// Reads ingress classes here.
    pub fn new(objects: Lookup) -> Self {
        DefaultIngressClass { objects }
    }
}

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    async fn admit(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let named = object["metadata"]["annotations"].get("kubernetes.io/ingress.class").is_some()
            || object["spec"]["ingressClassName"].is_string();
        if request.operation != Operation::Create || !request.is("networking.k8s.io", "ingresses", "") || named {
            return Ok(());
        }
        let classes = self.objects.list("networking.k8s.io", "ingressclasses", None);
        if let Some(class) = default_of(classes, &["ingressclass.kubernetes.io/is-default-class"]) {
            object["spec"]["ingressClassName"] = json!(class);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_default_wins() {
        let class = |name: &str, made: &str, default: &str| {
            Arc::new(json!({"metadata": {"name": name, "creationTimestamp": made, "annotations": {"d": default}}}))
        };
        let classes = vec![
            class("c", "2026-01-01T00:00:00Z", "true"),
            class("b", "2026-01-02T00:00:00Z", "true"),
            class("a", "2026-01-02T00:00:00Z", "true"),
            class("z", "2026-01-03T00:00:00Z", "false"),
        ];
        assert_eq!(default_of(classes, &["d"]).as_deref(), Some("a"));
        assert_eq!(default_of(Vec::new(), &["d"]), None);
    }
}
