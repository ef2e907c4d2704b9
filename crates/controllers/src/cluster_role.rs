//! Cluster roles that are made of others: the rules of all that a role's selectors match.
//!
//! Follows `pkg/controller/clusterroleaggregation`. The rules are applied, so that whoever else has fields of the
//! role keeps them.

use std::sync::Arc;

use orkd_base::BoxError;
use orkd_reconcile::{Informer, Key, LabelSelector, Meta, Outcome, Patch, Queue, Resource, View, null_default, work};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::views::view;
use crate::{ControllerSpec, Cx};

/// Name, and field manager of what is applied.
const NAME: &str = "clusterrole-aggregation-controller";

/// How the list of controllers names it.
pub const SPEC: ControllerSpec =
    ControllerSpec { name: NAME, service_account: "clusterrole-aggregation-controller", run: |cx| Box::pin(start(cx)) };

/// A cluster role.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterRole {
    /// Metadata.
    pub metadata: Meta,
    /// Rules, as they were sent.
    #[serde(deserialize_with = "null_default")]
    pub rules: Vec<Box<RawValue>>,
    /// What the role is made of.
    pub aggregation_rule: Option<AggregationRule>,
}
view!(ClusterRole, "rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", false);

/// What a role is made of.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AggregationRule {
    /// Any of these selects a role.
    #[serde(deserialize_with = "null_default")]
    pub cluster_role_selectors: Vec<LabelSelector>,
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let roles: Informer<ClusterRole> = cx.informers.informer();
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        // Any change may change what is made of it.
        let (queue, roles) = (queue.clone(), roles.clone());
        roles.clone().subscribe(move |event| {
            if event.object().aggregation_rule.is_some() {
                queue.add(event.key());
            }
            let touched = |meta: &Meta| !meta.labels.is_empty();
            let old = event.old().map(|o| &o.metadata);
            if touched(&event.object().metadata) || old.is_some_and(touched) {
                let made = roles.list().into_iter().filter(|r| r.aggregation_rule.is_some());
                made.for_each(|r| queue.add(r.metadata.key()));
            }
        });
    }
    roles.synced().await;
    let (api, roles) = (&cx.api, &roles);
    work(queue, 1, cx.stop, |key| async move {
        let Some(role) = roles.get(&key) else { return Ok(Outcome::Done) };
        let Some(rules) = wanted(&role, &roles.list()) else { return Ok(Outcome::Done) };
        let body = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": &*key.name}, "rules": rules,
        });
        let patch = Patch::Apply { manager: NAME.into(), force: true, body };
        match api.patch::<IgnoredAny>(&Resource::of::<ClusterRole>().at("", &key.name), &patch).await {
            Err(err) if err.is_not_found() => {}
            other => other.map(|_| ())?,
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// The rules a role should have; `None` when it has them.
fn wanted(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<Value>> {
    let aggregation = role.aggregation_rule.as_ref().filter(|_| !role.metadata.is_deleting())?;
    let mut rules: Vec<Value> = Vec::new();
    for selector in &aggregation.cluster_role_selectors {
        // The informer lists by name.
        for other in all.iter().filter(|r| r.metadata.name != role.metadata.name) {
            if !selector.matches(&other.metadata.labels) {
                continue;
            }
            for rule in other.rules.iter().filter_map(|r| serde_json::from_str::<Value>(r.get()).ok()) {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
    }
    let current: Vec<Value> = role.rules.iter().filter_map(|r| serde_json::from_str(r.get()).ok()).collect();
    (current != rules).then_some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_gathered_once() {
        let role = |name: &str, label: &str, rules: Value, selector: Value| -> Arc<ClusterRole> {
            let mut json = json!({"metadata": {"name": name, "labels": {"to": label}}, "rules": rules});
            if !selector.is_null() {
                json["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"to": selector}}]});
            }
            Arc::new(serde_json::from_str(&json.to_string()).expect("a role"))
        };
        let rule = |r: &str| json!({"apiGroups": [""], "resources": [r], "verbs": ["get"]});
        let whole = role("view", "edit", json!([]), json!("view"));
        let parts = [
            role("a", "view", json!([rule("pods"), rule("services")]), Value::Null),
            role("b", "view", json!([rule("services"), rule("nodes")]), Value::Null),
            role("c", "other", json!([rule("secrets")]), Value::Null),
            whole.clone(),
        ];
        let rules = wanted(&whole, &parts).expect("to be made");
        assert_eq!(rules, [rule("pods"), rule("services"), rule("nodes")]);
        let made = role("view", "edit", json!(rules), json!("view"));
        assert_eq!(wanted(&made, &parts), None);
    }
}
