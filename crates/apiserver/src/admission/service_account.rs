//! Every pod runs as a service account and, unless it says no, finds that account's token in the usual place
//! (`plugin/pkg/admission/serviceaccount`).
//!
//! An account annotated `kubernetes.io/enforce-mountable-secrets: "true"` (deprecated, and in force) lets its pods read the
//! secrets that it names, and no others.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orkd_api::status::Status;
use rand::Rng;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request, is_mirror, items, meta};
use crate::authz::node::graph::names_secret;
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
            return Err(request.forbidden(object, &not_found(request.namespace, &name)));
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
        let creates = request.is("", "pods", "") && request.operation == Operation::Create;
        let debugs = request.is("", "pods", "ephemeralcontainers") && request.operation == Operation::Update;
        if !creates && !debugs {
            return Ok(());
        }
        let forbidden = |why: String| request.forbidden(object, &why);
        if creates && is_mirror(object) {
            return mirror(object).map_err(|why| forbidden(why.to_owned()));
        }
        let name = object["spec"]["serviceAccountName"].as_str().unwrap_or_default();
        if name.is_empty() {
            let pod = request.shown_name(object);
            return Err(forbidden(format!("no service account specified for pod {}/{pod}", request.namespace)));
        }
        let Some(account) = self.account(request.namespace, name).await? else {
            return Err(forbidden(not_found(request.namespace, name)));
        };
        let lists = if creates { &CONTAINERS[..2] } else { &CONTAINERS[2..] };
        limited(&object["spec"], &account, lists, creates).map_err(forbidden)
    }
}

fn not_found(namespace: &str, name: &str) -> String {
    format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found")
}

/// What is wrong with the API's picture of a pod that a kubelet runs from a file.
fn mirror(pod: &Value) -> Result<(), &'static str> {
    if pod["spec"]["serviceAccountName"].as_str().is_some_and(|n| !n.is_empty()) {
        return Err("a mirror pod may not reference service accounts");
    }
    if names_secret(pod) {
        return Err("a mirror pod may not reference secrets");
    }
    let token = |v: &Value| items(&v["projected"]["sources"]).iter().any(|s| s["serviceAccountToken"].is_object());
    if items(&pod["spec"]["volumes"]).iter().any(token) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// Lists of containers, and what one of them is called.
const CONTAINERS: [(&str, &str); 3] =
    [("initContainers", "init container"), ("containers", "container"), ("ephemeralContainers", "ephemeral container")];

/// Whether a pod reads secrets that its account names only, where the account wants that (`limitSecretReferences`).
fn limited(spec: &Value, account: &Value, lists: &[(&str, &str)], whole: bool) -> Result<(), String> {
    let wanted = account["metadata"]["annotations"]["kubernetes.io/enforce-mountable-secrets"].as_str();
    if !wanted.is_some_and(|v| matches!(v, "1" | "t" | "T" | "true" | "TRUE" | "True")) {
        return Ok(());
    }
    let of = meta(account, "name");
    let names = |list: &Value, name: &Value| items(list).iter().any(|r| r["name"] == *name);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let check = |secret: &Value, who: String| {
        if secret.is_null() || names(&account["secrets"], secret) {
            return Ok(());
        }
        let secret = text(secret);
        Err(format!(
            "{who} secret.secretName=\"{secret}\" is not allowed because service account {of} does not reference that secret"
        ))
    };
    if whole {
        for volume in items(&spec["volumes"]) {
            check(&volume["secret"]["secretName"], "volume with".into())?;
        }
    }
    for (list, what) in lists {
        for container in items(&spec[*list]) {
            let name = text(&container["name"]);
            for env in items(&container["env"]) {
                let who = format!("{what} {name} with envVar {} referencing", text(&env["name"]));
                check(&env["valueFrom"]["secretKeyRef"]["name"], who)?;
            }
            for from in items(&container["envFrom"]) {
                check(&from["secretRef"]["name"], format!("{what} {name} with envFrom referencing"))?;
            }
        }
    }
    if whole {
        for (i, secret) in items(&spec["imagePullSecrets"]).iter().enumerate() {
            if !names(&account["imagePullSecrets"], &secret["name"]) {
                return Err(format!(
                    "imagePullSecrets[{i}].name=\"{}\" is not allowed because service account {of} does not reference that \
                     imagePullSecret",
                    text(&secret["name"])
                ));
            }
        }
    }
    Ok(())
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

    #[test]
    fn accounts_may_say_which_secrets_their_pods_read() {
        let account = |limits: &str| {
            json!({"metadata": {"name": "a", "annotations": {"kubernetes.io/enforce-mountable-secrets": limits}},
                "secrets": [{"name": "mine"}], "imagePullSecrets": [{"name": "registry"}]})
        };
        let check = |spec: Value, expected: &str| {
            assert_eq!(limited(&spec, &account("false"), &CONTAINERS, true), Ok(()), "{spec}");
            let got = limited(&spec, &account("true"), &CONTAINERS, true).err().unwrap_or_default();
            let because = " is not allowed because service account a does not reference that ";
            assert_eq!(got.replace(because, ": "), expected, "{spec}");
        };
        let env = |secret: &str| json!([{"name": "E", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}]);
        let from = |secret: &str| json!([{"secretRef": {"name": secret}}, {"configMapRef": {"name": "any"}}]);
        check(json!({"volumes": [{"secret": {"secretName": "mine"}}, {"emptyDir": {}}]}), "");
        let volume = "volume with secret.secretName=\"other\": secret";
        check(json!({"volumes": [{"secret": {"secretName": "other"}}]}), volume);
        check(json!({"containers": [{"name": "c", "env": env("mine"), "envFrom": from("mine")}]}), "");
        let variable = "container c with envVar E referencing secret.secretName=\"other\": secret";
        check(json!({"containers": [{"name": "c", "env": env("other")}]}), variable);
        let whole = "init container i with envFrom referencing secret.secretName=\"other\": secret";
        check(json!({"initContainers": [{"name": "i", "envFrom": from("other")}]}), whole);
        let debugger = "ephemeral container d with envVar E referencing secret.secretName=\"other\": secret";
        check(json!({"ephemeralContainers": [{"name": "d", "env": env("other")}]}), debugger);
        check(json!({"imagePullSecrets": [{"name": "registry"}]}), "");
        let pull = "imagePullSecrets[1].name=\"mine\": imagePullSecret";
        check(json!({"imagePullSecrets": [{"name": "registry"}, {"name": "mine"}]}), pull);
    }

    #[test]
    fn mirrors_name_nothing_of_the_cluster() {
        let check = |spec: Value, expected: &str| {
            assert_eq!(mirror(&json!({"spec": spec})).err().unwrap_or_default(), expected, "{spec}");
        };
        check(json!({"containers": [{"name": "c"}], "volumes": [{"configMap": {"name": "m"}}]}), "");
        check(json!({"serviceAccountName": "a"}), "a mirror pod may not reference service accounts");
        for spec in [
            json!({"volumes": [{"secret": {"secretName": "s"}}]}),
            json!({"imagePullSecrets": [{"name": "s"}]}),
            json!({"containers": [{"envFrom": [{"secretRef": {"name": "s"}}]}]}),
        ] {
            check(spec, "a mirror pod may not reference secrets");
        }
        let token = json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]});
        check(token, "a mirror pod may not use ServiceAccountToken volume projections");
    }
}
