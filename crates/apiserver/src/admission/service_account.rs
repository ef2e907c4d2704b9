//! Every pod runs as a service account and, unless it says no, finds that account's token in the usual place
//! (`plugin/pkg/admission/serviceaccount`).
//!
//! Not here: the deprecated annotation `kubernetes.io/enforce-mountable-secrets`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orkd_api::status::Status;
use rand::Rng;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request, is_mirror, items};
use crate::lookup::{Lookup, get_fresh};
use crate::registry::strategy::generate_name;

/// Where containers find the token, the CA and their namespace.
pub const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The token's life that means "keep old clients going": see `rest::token`.
pub const EXPIRATION_SECONDS: i64 = 3607;
const VOLUME_PREFIX: &str = "kube-api-access-";

/// The plugin.
pub struct ServiceAccount {
    objects: Lookup,
}

impl ServiceAccount {
    /// Reads service accounts here.
    pub fn new(objects: Lookup) -> Self {
        ServiceAccount { objects }
    }

    /// The account; the default one is waited for a little, since it is made after its namespace.
    async fn account(&self, namespace: &str, name: &str) -> Result<Option<Arc<Value>>, Status> {
        let attempts = if name == "default" { 10 } else { 1 };
        for attempt in 0..attempts {
            if attempt > 0 {
                let pause = 100 + rand::rng().random_range(0..100);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            let found = get_fresh(&*self.objects, "", "serviceaccounts", namespace, name).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn admit(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is("", "pods", "") || request.operation != Operation::Create || is_mirror(object) {
            return Ok(());
        }
        let name = match object["spec"]["serviceAccountName"].as_str() {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => "default".to_owned(),
        };
        object["spec"]["serviceAccountName"] = json!(name);
        object["spec"]["serviceAccount"] = json!(name);
        let Some(account) = self.account(request.namespace, &name).await? else {
            let why = format!(
                "error looking up service account {}/{name}: serviceaccount {name:?} not found",
                request.namespace
            );
            return Err(request.forbidden(object, &why));
        };
        let automount = |v: &Value| v["automountServiceAccountToken"].as_bool();
        if automount(&object["spec"]).or_else(|| automount(&account)).unwrap_or(true) {
            mount_token(&mut object["spec"]);
        }
        let pull = &account["imagePullSecrets"];
        if items(&object["spec"]["imagePullSecrets"]).is_empty() && !items(pull).is_empty() {
            object["spec"]["imagePullSecrets"] = pull.clone();
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _warnings: &mut Vec<String>) -> Result<(), Status> {
        if !request.is("", "pods", "") || request.operation != Operation::Create || !is_mirror(object) {
            return Ok(());
        }
        if object["spec"]["serviceAccountName"].as_str().is_some_and(|n| !n.is_empty()) {
            return Err(request.forbidden(object, "a mirror pod may not reference service accounts"));
        }
        let volumes = items(&object["spec"]["volumes"]);
        let token = |v: &Value| items(&v["projected"]["sources"]).iter().any(|s| s["serviceAccountToken"].is_object());
        if volumes.iter().any(token) {
            return Err(request.forbidden(object, "a mirror pod may not use ServiceAccountToken volume projections"));
        }
        Ok(())
    }
}

/// Mounts the token in every container that has nothing at its place.
fn mount_token(spec: &mut Value) {
    let existing = items(&spec["volumes"]).iter().find_map(|v| {
        let name = v["name"].as_str()?;
        name.starts_with(VOLUME_PREFIX).then(|| name.to_owned())
    });
    let name = existing.clone().unwrap_or_else(|| generate_name(VOLUME_PREFIX));
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if !container.is_object() || items(&container["volumeMounts"]).iter().any(|m| m["mountPath"] == MOUNT_PATH)
            {
                continue;
            }
            needed = true;
            push(&mut container["volumeMounts"], json!({ "name": name, "readOnly": true, "mountPath": MOUNT_PATH }));
        }
    }
    if needed && existing.is_none() {
        push(&mut spec["volumes"], volume(&name));
    }
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = json!([item]),
    }
}

fn volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                { "serviceAccountToken": { "path": "token", "expirationSeconds": EXPIRATION_SECONDS } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [
                    { "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } },
                ] } },
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{kind, request};
    use super::*;
    use crate::lookup::fake::Fake;
    use crate::user::UserInfo;

    async fn admit(spec: Value, account: Value) -> Result<Value, String> {
        let plugin = ServiceAccount::new(Fake::with([("serviceaccounts", account)]).lookup());
        let (kind, user) = (kind("pods"), UserInfo::new("u", &[]));
        let request = request(&*kind, Operation::Create, "", "", &user, None);
        let mut pod = json!({"metadata": {"name": "x"}, "spec": spec});
        plugin.admit(&request, &mut pod, &mut Vec::new()).await.map_err(|s| s.message)?;
        Ok(pod["spec"].clone())
    }

    fn account() -> Value {
        json!({"metadata": {"namespace": "default", "name": "default"}})
    }

    #[tokio::test]
    async fn pods_get_their_token_as_recorded() {
        let spec = admit(json!({"containers": [{"name": "c"}]}), account()).await.expect("admitted");
        let name = spec["volumes"][0]["name"].as_str().expect("name").to_owned();
        assert!(name.starts_with("kube-api-access-") && name.len() == "kube-api-access-".len() + 5);
        assert_eq!(spec["serviceAccountName"], "default");
        assert_eq!(
            spec["volumes"],
            json!([{"name": name, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"items": [{"key": "ca.crt", "path": "ca.crt"}], "name": "kube-root-ca.crt"}},
            {"downwardAPI": {"items": [{"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                "path": "namespace"}]}}]}}])
        );
        let mounts = json!([{"mountPath": MOUNT_PATH, "name": name, "readOnly": true}]);
        assert_eq!(spec["containers"][0]["volumeMounts"], mounts);
    }

    #[tokio::test]
    async fn what_the_pod_or_account_says_is_kept() {
        let no = admit(json!({"containers": [{"name": "c"}], "automountServiceAccountToken": false}), account()).await;
        assert_eq!(no.expect("admitted").get("volumes"), None);
        let mounted = json!({"containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": MOUNT_PATH}]}]});
        assert_eq!(admit(mounted, account()).await.expect("admitted").get("volumes"), None);
        let mut with_pull = account();
        with_pull["imagePullSecrets"] = json!([{"name": "reg"}]);
        with_pull["automountServiceAccountToken"] = json!(false);
        let spec = admit(json!({"containers": [{"name": "c"}]}), with_pull).await.expect("admitted");
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "reg"}]));
        assert_eq!(spec.get("volumes"), None);
        let missing = admit(json!({"serviceAccountName": "nope"}), account()).await.expect_err("no such account");
        assert_eq!(
            missing,
            "pods \"x\" is forbidden: error looking up service account default/nope: serviceaccount \"nope\" not found"
        );
    }
}
