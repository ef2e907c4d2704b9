//! Pod security standards: three levels, three modes, by labels of the namespace
//! (`k8s.io/pod-security-admission`, `plugin/pkg/admission/security/podsecurity`).
//!
//! Pods that violate the enforced level are refused; what violates the levels of the other modes becomes a warning or
//! a note in the audit log. Workloads are checked by their template and never refused. A namespace whose enforced level
//! rises is answered with warnings about the pods that are there.

mod checks;
mod policy;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Request, items, meta};
use crate::lookup::{Lookup, get_fresh};
use policy::{Level, LevelVersion, Policy, Version, of_labels};

/// How many pods of a namespace are looked at when its level rises.
const MAX_PODS: usize = 3000;
/// How long they are looked at.
const POD_CHECK_TIMEOUT: Duration = Duration::from_secs(1);
const ANNOTATION: &str = "pod-security.kubernetes.io/";

/// The plugin.
pub struct PodSecurity {
    objects: Lookup,
    defaults: Policy,
    exempt_users: Vec<String>,
    exempt_namespaces: Vec<String>,
    exempt_runtime_classes: Vec<String>,
}

impl PodSecurity {
    /// Reads namespaces and pods here; `config` is a `PodSecurityConfiguration` or null.
    pub fn new(objects: Lookup, config: &Value) -> Result<Self, String> {
        let wrong = |what: &str, value: &str| format!("PodSecurity: defaults.{what}: Invalid value: {value:?}");
        let mut defaults = Policy::PRIVILEGED;
        let modes = [("enforce", &mut defaults.enforce), ("audit", &mut defaults.audit), ("warn", &mut defaults.warn)];
        for (mode, of) in modes {
            if let Some(text) = config["defaults"][mode].as_str() {
                of.level = Level::parse(text).ok_or_else(|| wrong(mode, text))?;
            }
            let version = format!("{mode}-version");
            if let Some(text) = config["defaults"][&version].as_str() {
                of.version = Version::parse(text).ok_or_else(|| wrong(&version, text))?;
            }
        }
        let exempt = |what: &str| -> Vec<String> {
            items(&config["exemptions"][what]).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        Ok(PodSecurity {
            objects,
            defaults,
            exempt_users: exempt("usernames"),
            exempt_namespaces: exempt("namespaces"),
            exempt_runtime_classes: exempt("runtimeClasses"),
        })
    }

    fn policy(&self, namespace: &Value) -> (Policy, orkd_api::field::ErrorList) {
        of_labels(&namespace["metadata"]["labels"], &self.defaults)
    }

    fn is_exempt_class(&self, spec: &Value) -> bool {
        let class = spec["runtimeClassName"].as_str().filter(|c| !c.is_empty());
        class.is_some_and(|c| self.exempt_runtime_classes.iter().any(|e| e == c))
    }

    fn namespace(&self, request: &Request<'_>, object: &Value, warnings: &mut Vec<String>) -> Result<(), Status> {
        let name = meta(object, "name");
        let (new, errors) = self.policy(object);
        let invalid = || Status::invalid("", "Namespace", name, &errors);
        let exempt = self.exempt_namespaces.iter().any(|n| n == name);
        let exempt_warning = || {
            let quiet = new.is_privileged() || new == self.defaults;
            (exempt && !quiet).then(|| {
                let policy = new.compact();
                format!("namespace {name:?} is exempt from Pod Security, and the policy ({policy}) will be ignored")
            })
        };
        let Some(before) = request.old.filter(|_| request.operation == Operation::Update) else {
            if request.operation == Operation::Create {
                if !errors.is_empty() {
                    return Err(invalid());
                }
                warnings.extend(exempt_warning());
            }
            return Ok(());
        };
        let (old, old_errors) = self.policy(before);
        let texts = |list: &orkd_api::field::ErrorList| list.0.iter().map(ToString::to_string).collect::<Vec<_>>();
        if !errors.is_empty() && texts(&errors) != texts(&old_errors) {
            return Err(invalid());
        }
        let (new_enforce, old_enforce) = (new.enforce, old.enforce);
        if new_enforce == old_enforce || new_enforce.is_privileged() {
            return Ok(());
        }
        if new_enforce.version == old_enforce.version && new_enforce.level <= old_enforce.level {
            return Ok(());
        }
        if exempt {
            warnings.extend(exempt_warning());
            return Ok(());
        }
        warnings.extend(self.existing_pods(name, new_enforce));
        Ok(())
    }

    /// Warnings about pods that are there and violate a level.
    fn existing_pods(&self, namespace: &str, enforce: LevelVersion) -> Vec<String> {
        let pods: Vec<Arc<Value>> = self.objects.list("", "pods", Some(namespace));
        let started = Instant::now();
        let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
        let mut checked = 0;
        for pod in pods.iter().take(MAX_PODS) {
            checked += 1;
            let violations = checks::evaluate(enforce, &pod["metadata"], &pod["spec"]);
            if !self.is_exempt_class(&pod["spec"]) && !violations.is_empty() {
                let name = meta(pod, "name");
                let (first, count) = found.entry(checks::reasons(&violations)).or_insert_with(|| (name.to_owned(), 0));
                if name < first.as_str() {
                    *first = name.to_owned();
                }
                *count += 1;
            }
            if started.elapsed() > POD_CHECK_TIMEOUT {
                break;
            }
        }
        let mut warnings = Vec::new();
        if checked < pods.len() {
            warnings.push(format!(
                "new PodSecurity enforce level only checked against the first {checked} of {} existing pods",
                pods.len()
            ));
        }
        if !found.is_empty() {
            warnings.push(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""
            ));
        }
        let mut lines: Vec<String> = found
            .into_iter()
            .map(|(reason, (name, count))| match count {
                1 => format!("{name}: {reason}"),
                2 => format!("{name} (and 1 other pod): {reason}"),
                _ => format!("{name} (and {} other pods): {reason}", count - 1),
            })
            .collect();
        lines.sort_unstable();
        warnings.extend(lines);
        warnings
    }

    async fn pod_like(
        &self,
        request: &Request<'_>,
        object: &Value,
        sort: Sort,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let note = |key: &str, value: String| request.annotations.add(format!("{ANNOTATION}{key}"), value);
        if self.exempt_namespaces.iter().any(|n| n == request.namespace) {
            note("exempt", "namespace".into());
            return Ok(());
        }
        if self.exempt_users.contains(&request.user.name) {
            note("exempt", "user".into());
            return Ok(());
        }
        let Some(namespace) = get_fresh(&*self.objects, "", "namespaces", "", request.namespace).await? else {
            return Err(Status::internal(format!("failed to lookup namespace {:?}", request.namespace)));
        };
        let (policy, errors) = self.policy(&namespace);
        let enforces = sort == Sort::Pod;
        let quiet = policy.audit.is_privileged() && policy.warn.is_privileged();
        if errors.is_empty() && quiet && (!enforces || policy.enforce.is_privileged()) {
            if enforces {
                note("enforce-policy", LevelVersion::PRIVILEGED.to_string());
            }
            return Ok(());
        }
        let (meta, spec) = match sort {
            Sort::Pod => (&object["metadata"], &object["spec"]),
            Sort::Template(path) => {
                let Some(template) = object.pointer(path).filter(|t| t.is_object()) else { return Ok(()) };
                (&template["metadata"], &template["spec"])
            }
        };
        if enforces
            && request.operation == Operation::Update
            && !request.old.is_some_and(|old| significant(object, old))
        {
            return Ok(());
        }
        if self.is_exempt_class(spec) {
            note("exempt", "runtimeClass".into());
            return Ok(());
        }
        if !errors.is_empty() {
            let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
            let all = if texts.len() == 1 { texts[0].clone() } else { format!("[{}]", texts.join(", ")) };
            note("error", format!("Failed to parse policy: {all}"));
        }
        let violations = |level: LevelVersion| checks::evaluate(level, meta, spec);
        let audited = violations(policy.audit);
        if !audited.is_empty() {
            let text = format!("would violate PodSecurity \"{}\": {}", policy.audit, checks::details(&audited));
            note("audit-violations", text);
        }
        if enforces {
            note("enforce-policy", policy.enforce.to_string());
            let enforced = violations(policy.enforce);
            if !enforced.is_empty() {
                let details = checks::details(&enforced);
                let why = format!("violates PodSecurity \"{}\": {details}", policy.enforce);
                return Err(request.forbidden(object, &why));
            }
        }
        let warned = violations(policy.warn);
        if !warned.is_empty() {
            warnings.push(format!("would violate PodSecurity \"{}\": {}", policy.warn, checks::details(&warned)));
        }
        Ok(())
    }
}

/// Where the pod of an object is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Pod,
    Template(&'static str),
}

fn sort_of(group: &str, resource: &str) -> Option<Sort> {
    match (group, resource) {
        ("", "pods") => Some(Sort::Pod),
        ("", "podtemplates") => Some(Sort::Template("/template")),
        ("batch", "cronjobs") => Some(Sort::Template("/spec/jobTemplate/spec/template")),
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Some(Sort::Template("/spec/template")),
        _ => None,
    }
}

/// Whether an update changes what is checked: images, ephemeral containers, profiles in annotations.
fn significant(new: &Value, old: &Value) -> bool {
    fn annotation<'v>(pod: &'v Value, key: &str) -> Option<&'v Value> {
        pod["metadata"]["annotations"].get(key)
    }
    let differs = |key: &str| annotation(new, key) != annotation(old, key);
    if differs("seccomp.security.alpha.kubernetes.io/pod") {
        return true;
    }
    let changed = |new: &Value, old: &Value| {
        let name = new["name"].as_str().unwrap_or_default();
        new["image"] != old["image"] || differs(&format!("container.seccomp.security.alpha.kubernetes.io/{name}"))
    };
    for list in ["containers", "initContainers"] {
        let (new, old) = (items(&new["spec"][list]), items(&old["spec"][list]));
        if new.len() != old.len() || new.iter().zip(old).any(|(new, old)| changed(new, old)) {
            return true;
        }
    }
    let before = items(&old["spec"]["ephemeralContainers"]);
    items(&new["spec"]["ephemeralContainers"])
        .iter()
        .any(|c| before.iter().find(|b| b["name"] == c["name"]).is_none_or(|b| changed(c, b)))
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, warnings: &mut Vec<String>) -> Result<(), Status> {
        if !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        if request.is("", "namespaces", "") {
            return self.namespace(request, object, warnings);
        }
        let Some(sort) = sort_of(&request.resource.group, &request.resource.plural) else { return Ok(()) };
        let looked_at = match sort {
            Sort::Pod => matches!(request.subresource, "" | "ephemeralcontainers" | "resize"),
            Sort::Template(_) => request.subresource.is_empty(),
        };
        if looked_at { self.pod_like(request, object, sort, warnings).await } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{kind, request};
    use super::*;
    use crate::lookup::fake::Fake;
    use crate::user::UserInfo;

    const HOST: &str = "host namespaces (hostNetwork=true)";

    fn namespace(labels: Value) -> Value {
        let labels = labels.as_object().cloned().unwrap_or_default();
        let labels: serde_json::Map<String, Value> =
            labels.into_iter().map(|(k, v)| (format!("{ANNOTATION}{k}"), v)).collect();
        json!({"metadata": {"name": "default", "labels": labels}})
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "namespace": "default"},
            "spec": {"hostNetwork": true, "containers": [{"name": "a", "image": "i"}]}})
    }

    /// Refusal and warnings of a creation in a namespace with labels.
    async fn create(labels: Value, config: Value, user: &str, resource: &str, object: &Value) -> (String, Vec<String>) {
        let plugin = PodSecurity::new(Fake::with([("namespaces", namespace(labels))]).lookup(), &config);
        let (kind, user) = (kind(resource), UserInfo::new(user, &[]));
        let request = request(&*kind, Operation::Create, "", "", &user, None);
        let mut warnings = Vec::new();
        let done = plugin.expect("a configuration").validate(&request, object, &mut warnings).await;
        (done.err().map(|s| s.message).unwrap_or_default(), warnings)
    }

    #[tokio::test]
    async fn modes_refuse_or_warn() {
        let refused = format!("pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": {HOST}");
        let warned = format!("would violate PodSecurity \"baseline:v1.30\": {HOST}");
        let none = Value::Null;
        let (said, warnings) = create(json!({"enforce": "baseline"}), none.clone(), "u", "pods", &pod()).await;
        assert_eq!((said, warnings.len()), (refused.clone(), 0));
        let labels = json!({"warn": "baseline", "warn-version": "v1.30"});
        let (said, warnings) = create(labels, none.clone(), "u", "pods", &pod()).await;
        assert_eq!((said.as_str(), warnings), ("", vec![warned]));
        let (said, warnings) = create(json!({}), none.clone(), "u", "pods", &pod()).await;
        assert_eq!((said.as_str(), warnings.len()), ("", 0));
        let config = json!({"defaults": {"enforce": "baseline"}});
        assert_eq!(create(json!({}), config, "u", "pods", &pod()).await.0, refused);
        let job = json!({"metadata": {"name": "j"}, "spec": {"template": pod()}});
        let labels = json!({"enforce": "baseline", "warn": "baseline"});
        let (said, warnings) = create(labels, none, "u", "jobs", &job).await;
        let warned = format!("would violate PodSecurity \"baseline:latest\": {HOST}");
        assert_eq!((said.as_str(), warnings), ("", vec![warned]));
    }

    #[tokio::test]
    async fn exemptions_hold() {
        let labels = json!({"enforce": "baseline"});
        let config = json!({"exemptions": {"usernames": ["root"], "runtimeClasses": ["vm"]}});
        assert_eq!(create(labels.clone(), config.clone(), "root", "pods", &pod()).await.0, "");
        assert_ne!(create(labels.clone(), config.clone(), "u", "pods", &pod()).await.0, "");
        let mut own = pod();
        own["spec"]["runtimeClassName"] = json!("vm");
        assert_eq!(create(labels.clone(), config, "u", "pods", &own).await.0, "");
        let config = json!({"exemptions": {"namespaces": ["default"]}});
        assert_eq!(create(labels, config, "u", "pods", &pod()).await.0, "");
    }

    #[tokio::test]
    async fn a_raised_level_warns_about_pods_and_wrong_labels_are_refused() {
        let mut others = [pod(), pod(), pod()];
        others[1]["metadata"]["name"] = json!("o");
        others[2]["metadata"]["name"] = json!("q");
        others[2]["spec"]["hostPID"] = json!(true);
        let fake = Fake::with(others.map(|p| ("pods", p)));
        let plugin = PodSecurity::new(fake.lookup(), &Value::Null).expect("a configuration");
        let (kind, user) = (kind("namespaces"), UserInfo::new("u", &[]));
        let update = async |old: Value, new: Value| {
            let old = namespace(old);
            let request = request(&*kind, Operation::Update, "", "default", &user, Some(&old));
            let mut warnings = Vec::new();
            let done = plugin.validate(&request, &namespace(new), &mut warnings).await;
            (done.err().map(|s| s.message).unwrap_or_default(), warnings)
        };
        let (said, warnings) = update(json!({}), json!({"enforce": "baseline"})).await;
        assert_eq!(said, "");
        assert_eq!(
            warnings,
            [
                "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "o (and 2 other pods): host namespaces",
            ]
        );
        let (_, warnings) = update(json!({"enforce": "restricted"}), json!({"enforce": "baseline"})).await;
        assert!(warnings.is_empty(), "{warnings:?}");
        let (said, _) = update(json!({}), json!({"enforce": "x"})).await;
        assert_eq!(
            said,
            "Namespace \"default\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \
             \"x\": must be one of privileged, baseline, restricted"
        );
        assert_eq!(update(json!({"enforce": "x"}), json!({"enforce": "x"})).await.0, "");
    }

    #[test]
    fn only_what_matters_is_checked_again() {
        let mut new = pod();
        new["metadata"]["labels"] = json!({"a": "b"});
        assert!(!significant(&new, &pod()));
        new["spec"]["containers"][0]["image"] = json!("j");
        assert!(significant(&new, &pod()));
        let mut debugged = pod();
        debugged["spec"]["ephemeralContainers"] = json!([{"name": "d", "image": "x"}]);
        assert!(significant(&debugged, &pod()));
        assert!(!significant(&debugged, &debugged));
    }
}
