//! Sets the default resources of a namespace on its pods and keeps pods and claims within its limits
//! (`plugin/pkg/admission/limitranger`).

use async_trait::async_trait;
use orkd_api::quota::{Amounts, amounts, pod_limits, pod_requests};
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request, items};
use crate::lookup::Lookup;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// The plugin.
pub struct LimitRanger {
    objects: Lookup,
}

impl LimitRanger {
    /// Reads limit ranges here.
    pub fn new(objects: Lookup) -> Self {
        LimitRanger { objects }
    }

    /// The limits of a namespace, one list for each range.
    fn ranges(&self, namespace: &str) -> Vec<Vec<Value>> {
        let ranges = self.objects.list("", "limitranges", Some(namespace));
        ranges.iter().map(|r| items(&r["spec"]["limits"]).to_vec()).collect()
    }
}

/// What is limited: new pods and those being resized, claims. What is being deleted is left alone.
fn is_pod(request: &Request<'_>) -> bool {
    match request.operation {
        Operation::Create => request.is("", "pods", ""),
        Operation::Update => request.is("", "pods", "resize") && !is_deleting(request),
        _ => false,
    }
}

fn is_claim(request: &Request<'_>) -> bool {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    writes && request.is("", "persistentvolumeclaims", "") && !is_deleting(request)
}

fn is_deleting(request: &Request<'_>) -> bool {
    request.old.is_some_and(|old| old["metadata"]["deletionTimestamp"].is_string())
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn admit(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if is_pod(request) {
            for limits in self.ranges(request.namespace) {
                set_defaults(object, limits.iter().filter(|l| l["type"] == "Container"));
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _warnings: &mut Vec<String>) -> Result<(), Status> {
        let (pod, claim) = (is_pod(request), is_claim(request));
        if !pod && !claim {
            return Ok(());
        }
        // The first range that is violated is told, with all its problems.
        for limits in self.ranges(request.namespace) {
            let mut problems = Vec::new();
            for limit in &limits {
                if pod {
                    check_pod(object, limit, &mut problems);
                } else {
                    check_claim(object, limit, &mut problems);
                }
            }
            let mut unique: Vec<String> = Vec::new();
            problems.into_iter().for_each(|p| {
                if !unique.contains(&p) {
                    unique.push(p)
                }
            });
            match unique.as_slice() {
                [] => {}
                [one] => return Err(request.forbidden(object, one)),
                all => return Err(request.forbidden(object, &format!("[{}]", all.join(", ")))),
            }
        }
        Ok(())
    }
}

/// Fills in requests and limits that containers do not state, and notes it on the pod.
fn set_defaults<'l>(pod: &mut Value, limits: impl Iterator<Item = &'l Value>) {
    let (mut requests, mut maxima) = (serde_json::Map::new(), serde_json::Map::new());
    for limit in limits {
        for (from, to) in [("defaultRequest", &mut requests), ("default", &mut maxima)] {
            to.extend(limit[from].as_object().cloned().unwrap_or_default());
        }
    }
    if requests.is_empty() && maxima.is_empty() {
        return;
    }
    let mut notes: Vec<String> = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter(|c| c.is_object()) {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (part, noun, defaults) in [("requests", "request", &requests), ("limits", "limit", &maxima)] {
                let mut set = Vec::new();
                for (resource, amount) in defaults {
                    if container["resources"][part].get(resource).is_none() {
                        container["resources"][part][resource] = amount.clone();
                        set.push(resource.as_str());
                    }
                }
                if !set.is_empty() {
                    set.sort_unstable();
                    notes.push(format!("{} {noun} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        pod["metadata"]["annotations"][ANNOTATION] = json!(format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
}

fn check_pod(pod: &Value, limit: &Value, problems: &mut Vec<String>) {
    let spec = &pod["spec"];
    match limit["type"].as_str() {
        Some("Container") => {
            for container in items(&spec["containers"]).iter().chain(items(&spec["initContainers"])) {
                let of = |part: &str| amounts(&container["resources"][part]);
                check(limit, "Container", &of("requests"), &of("limits"), problems);
            }
        }
        Some("Pod") => {
            // The overhead of a runtime is not the user's doing.
            let mut own = json!({ "spec": spec });
            own["spec"]["overhead"] = Value::Null;
            check(limit, "Pod", &pod_requests(&own), &pod_limits(&own), problems);
        }
        _ => {}
    }
}

fn check(limit: &Value, what: &str, requests: &Amounts, limits: &Amounts, problems: &mut Vec<String>) {
    for (name, least) in amounts(&limit["min"]) {
        let text = format!("minimum {name} usage per {what} is {least}");
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => problems.push(format!("{text}.  No request is specified")),
            (Some(r), _) if *r < least => problems.push(format!("{text}, but request is {r}")),
            (_, Some(l)) if *l < least => problems.push(format!("{text}, but limit is {l}")),
            _ => {}
        }
    }
    for (name, most) in amounts(&limit["max"]) {
        let text = format!("maximum {name} usage per {what} is {most}");
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => problems.push(format!("{text}.  No limit is specified")),
            (_, Some(l)) if *l > most => problems.push(format!("{text}, but limit is {l}")),
            (Some(r), _) if *r > most => problems.push(format!("{text}, but request is {r}")),
            _ => {}
        }
    }
    for (name, ratio) in amounts(&limit["maxLimitRequestRatio"]) {
        let text = format!("{name} max limit to request ratio per {what} is {ratio}");
        let request = requests.get(&name).filter(|r| !r.is_zero());
        let limit = limits.get(&name).filter(|l| !l.is_zero());
        match (request, limit) {
            (None, _) => problems.push(format!("{text}, but no request is specified or request is 0")),
            (_, None) => problems.push(format!("{text}, but no limit is specified or limit is 0")),
            (Some(r), Some(l)) => {
                let provided = l.as_f64() / r.as_f64();
                if provided > ratio.as_f64() {
                    problems.push(format!("{text}, but provided ratio is {provided:.6}"));
                }
            }
        }
    }
}

fn check_claim(claim: &Value, limit: &Value, problems: &mut Vec<String>) {
    const WHAT: &str = "PersistentVolumeClaim";
    if limit["type"] != WHAT {
        return;
    }
    let requests = amounts(&claim["spec"]["resources"]["requests"]);
    for (part, word) in [("min", "minimum"), ("max", "maximum")] {
        for (name, bound) in amounts(&limit[part]) {
            let text = format!("{word} {name} usage per {WHAT} is {bound}");
            match requests.get(&name) {
                None => problems.push(format!("{text}.  No request is specified")),
                Some(r) if (part == "min" && *r < bound) || (part == "max" && *r > bound) => {
                    problems.push(format!("{text}, but request is {r}"));
                }
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_set_and_noted() {
        let limit =
            json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}});
        let mut pod =
            json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]}});
        set_defaults(&mut pod, [&limit].into_iter());
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m"}})
        );
        let note = "LimitRanger plugin set: cpu request for container c; memory limit for container c";
        assert_eq!(pod["metadata"]["annotations"][ANNOTATION], note);
        assert_eq!(pod["spec"].get("initContainers"), None);
    }

    #[test]
    fn bounds_hold_for_containers_and_pods() {
        let check = |limit: Value, expected: &[&str]| {
            let resources = |r: &str, l: &str| json!({"requests": {"cpu": r}, "limits": {"cpu": l}});
            let pod = json!({"spec": {"containers": [{"name": "a", "resources": resources("100m", "1")},
                {"name": "b", "resources": resources("200m", "1")}]}});
            let mut problems = Vec::new();
            check_pod(&pod, &limit, &mut problems);
            assert_eq!(problems, expected);
        };
        check(json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"}}), &[]);
        check(
            json!({"type": "Container", "min": {"cpu": "150m"}}),
            &["minimum cpu usage per Container is 150m, but request is 100m"],
        );
        check(json!({"type": "Pod", "max": {"cpu": "1500m"}}), &["maximum cpu usage per Pod is 1500m, but limit is 2"]);
        check(
            json!({"type": "Pod", "min": {"memory": "1Mi"}}),
            &["minimum memory usage per Pod is 1Mi.  No request is specified"],
        );
        check(
            json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "6"}}),
            &["cpu max limit to request ratio per Container is 6, but provided ratio is 10.000000"],
        );
    }
}
