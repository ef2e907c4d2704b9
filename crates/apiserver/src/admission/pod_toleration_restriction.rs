//! What the pods of a namespace tolerate by default and at most (`plugin/pkg/admission/podtolerationrestriction`).

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request, items};
use crate::lookup::{Lookup, get_fresh};

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";

/// The plugin.
pub struct PodTolerationRestriction {
    objects: Lookup,
    default: Vec<Value>,
    allowed: Vec<Value>,
}

impl PodTolerationRestriction {
    /// Reads namespaces here; `config` is the plugin's configuration.
    pub fn new(objects: Lookup, config: &Value) -> Self {
        PodTolerationRestriction {
            objects,
            default: items(&config["default"]).to_vec(),
            allowed: items(&config["whitelist"]).to_vec(),
        }
    }

    /// The tolerations in an annotation of the namespace; `None` where it has none.
    async fn of_namespace(&self, request: &Request<'_>, annotation: &str) -> Result<Option<Vec<Value>>, Status> {
        let found = get_fresh(&*self.objects, "", "namespaces", "", request.namespace).await?;
        let Some(namespace) = found else { return Err(Status::not_found("", "namespaces", request.namespace)) };
        let text = namespace["metadata"]["annotations"].get(annotation).and_then(Value::as_str);
        let Some(text) = text else { return Ok(None) };
        if text.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let parsed: Result<Vec<Value>, _> = serde_json::from_str(text);
        parsed.map(Some).map_err(|e| Status::internal(format!("{annotation}: {e}")))
    }
}

fn text<'v>(toleration: &'v Value, field: &str) -> &'v str {
    toleration[field].as_str().unwrap_or_default()
}

fn operator(toleration: &Value) -> &str {
    if text(toleration, "operator") == "Exists" { "Exists" } else { "Equal" }
}

/// Whether `wide` tolerates at least what `narrow` does (`tolerations.isSuperset`).
fn covers(wide: &Value, narrow: &Value) -> bool {
    let same = |f: &str| text(wide, f) == text(narrow, f);
    // A key that is empty with Exists covers all.
    if text(wide, "key").is_empty() && operator(wide) == "Exists" {
        return text(wide, "effect").is_empty() || same("effect");
    }
    if !same("key") || !(text(wide, "effect").is_empty() || same("effect")) {
        return false;
    }
    if text(wide, "effect") == "NoExecute" {
        let seconds = |t: &Value| t["tolerationSeconds"].as_i64();
        let shorter = match (seconds(wide), seconds(narrow)) {
            (Some(_), None) => return false,
            (Some(wide), Some(narrow)) => narrow <= wide,
            (None, _) => true,
        };
        if !shorter {
            return false;
        }
    }
    operator(wide) == "Exists" || (operator(narrow) == "Equal" && same("value"))
}

/// Drops tolerations that another one covers.
fn merge(tolerations: Vec<Value>) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    for (i, toleration) in tolerations.iter().enumerate() {
        let covered = merged.iter().any(|m| covers(m, toleration))
            || tolerations[i + 1..].iter().any(|later| covers(later, toleration) && !covers(toleration, later));
        if !covered {
            merged.push(toleration.clone());
        }
    }
    merged
}

#[async_trait]
impl Plugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Value, _: &mut Vec<String>) -> Result<(), Status> {
        if request.operation != Operation::Create || !request.is("", "pods", "") {
            return Ok(());
        }
        let defaults = self.of_namespace(request, DEFAULTS).await?;
        let mut tolerations = items(&object["spec"]["tolerations"]).to_vec();
        tolerations.extend(defaults.unwrap_or_else(|| self.default.clone()));
        // Pods that ask for memory stay on nodes that run short of it.
        if !orkd_api::quota::is_best_effort(object) {
            tolerations.push(json!({
                "key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule",
            }));
        }
        let merged = merge(tolerations);
        if !merged.is_empty() {
            object["spec"]["tolerations"] = json!(merged);
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _: &mut Vec<String>) -> Result<(), Status> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let tolerations = items(&object["spec"]["tolerations"]);
        if !writes || !request.is("", "pods", "") || tolerations.is_empty() {
            return Ok(());
        }
        let of_namespace = self.of_namespace(request, ALLOWED).await?;
        let allowed = of_namespace.as_ref().unwrap_or(&self.allowed);
        if !allowed.is_empty() && !tolerations.iter().all(|t| allowed.iter().any(|a| covers(a, t))) {
            let why = "pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace \
                       whitelist";
            return Err(Status::new(500, "", why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{kind, request};
    use super::*;
    use crate::lookup::fake::Fake;
    use crate::user::UserInfo;

    #[test]
    fn what_covers_what() {
        let check = |wide: Value, narrow: Value, expected: bool| {
            assert_eq!(covers(&wide, &narrow), expected, "{wide} {narrow}");
        };
        let equal = json!({"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"});
        check(json!({"operator": "Exists"}), equal.clone(), true);
        check(json!({"key": "a", "operator": "Exists"}), equal.clone(), true);
        check(json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}), equal.clone(), false);
        check(equal.clone(), equal.clone(), true);
        check(equal.clone(), json!({"key": "a", "value": "c", "effect": "NoSchedule"}), false);
        let seconds = |n: i64| json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": n});
        check(seconds(10), seconds(5), true);
        check(seconds(5), seconds(10), false);
        assert_eq!(merge(vec![equal.clone(), equal.clone(), json!({"key": "a", "operator": "Exists"})]).len(), 1);
    }

    #[tokio::test]
    async fn defaults_are_added_and_limits_hold() {
        let check = async |annotations: Value, own: Value, expected: Result<usize, ()>| {
            let namespace = json!({"metadata": {"name": "default", "annotations": annotations}});
            let plugin = PodTolerationRestriction::new(Fake::with([("namespaces", namespace)]).lookup(), &Value::Null);
            let (kind, user) = (kind("pods"), UserInfo::new("u", &[]));
            let request = request(&*kind, Operation::Create, "", "p", &user, None);
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"tolerations": own}});
            plugin.admit(&request, &mut pod, &mut Vec::new()).await.expect("admitted");
            let done = plugin.validate(&request, &pod, &mut Vec::new()).await;
            let count = items(&pod["spec"]["tolerations"]).len();
            assert_eq!(done.map(|()| count).map_err(|_| ()), expected, "{pod}");
        };
        let a = r#"[{"key": "a", "operator": "Exists"}]"#;
        check(json!({DEFAULTS: a}), json!([]), Ok(1)).await;
        check(json!({DEFAULTS: a}), json!([{"key": "b", "operator": "Exists"}]), Ok(2)).await;
        check(json!({ALLOWED: a}), json!([{"key": "a", "value": "x"}]), Ok(1)).await;
        check(json!({ALLOWED: a}), json!([{"key": "b", "operator": "Exists"}]), Err(())).await;
    }
}
