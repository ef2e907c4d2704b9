//! `ResourceQuota`. Upstream: `pkg/registry/core/resourcequota/strategy.go`, `ValidateResourceQuota`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, restore, set};
use crate::strategy::reset_spec_or_status;
use crate::table::{age, name};
use crate::validate::pod_spec::resources::amount;

/// The kind `ResourceQuota`.
pub struct ResourceQuota;

impl Kind for ResourceQuota {
    facts!(Facts {
        kind: "ResourceQuota",
        plural: "resourcequotas",
        short_names: &["quota"],
        subresources: &[STATUS],
        columns: &[NAME, ("Request", "string", "", 0), ("Limit", "string", "", 0), AGE],
        ..Facts::namespaced("", "v1")
    });

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({}));
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if cx.subresource == Some("status") {
            restore(new, old, &["spec"]);
        } else {
            restore(new, old, &["status"]);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let spec = View::root(obj).get("spec");
        hard(&mut errs, &spec.get("hard"));
        scopes(&mut errs, &spec);
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(new);
        if cx.subresource == Some("status") {
            for field in ["hard", "used"] {
                hard(&mut errs, &root.get("status").get(field));
            }
            return errs;
        }
        errs.extend(self.validate(cx, new));
        let scopes = root.get("spec").get("scopes");
        let set = |v: &Value| -> std::collections::BTreeSet<String> {
            v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect()
        };
        if set(scopes.value()) != set(at(old, &["spec", "scopes"])) {
            errs.invalid(scopes.path(), scopes.value(), "field is immutable");
        }
        errs
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (resource, most) in at(obj, &["status", "hard"]).as_object().into_iter().flatten() {
            let shown = |v: &Value| v.as_str().map_or_else(|| "0".to_owned(), str::to_owned);
            let text = format!("{resource}: {}/{}", shown(at(obj, &["status", "used", resource])), shown(most));
            if resource.contains("limits") { limits.push(text) } else { requests.push(text) }
        }
        vec![json!(name(obj)), json!(requests.join(", ")), json!(limits.join(", ")), json!(age(obj, now))]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

fn hard(errs: &mut ErrorList, map: &View<'_>) {
    const STANDARD: [&str; 18] = [
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.storage",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "persistentvolumeclaims",
        "configmaps",
        "services.nodeports",
    ];
    for (resource, most) in map.entries() {
        for problem in crate::names::qualified_name(resource) {
            errs.invalid(most.path(), resource, problem);
        }
        let huge = resource.starts_with("requests.hugepages-") || resource.starts_with("hugepages-");
        if !resource.contains('/') && !STANDARD.contains(&resource) && resource != "services.loadbalancers" && !huge {
            errs.invalid(most.path(), resource, "must be a standard resource for quota");
        }
        amount(errs, &most);
        let counted = matches!(
            resource,
            "pods"
                | "resourcequotas"
                | "services"
                | "replicationcontrollers"
                | "secrets"
                | "persistentvolumeclaims"
                | "configmaps"
                | "services.nodeports"
                | "services.loadbalancers"
        );
        if counted && most.str().parse::<crate::quantity::Quantity>().is_ok_and(|q| q.milli_value() % 1000 != 0) {
            errs.invalid(most.path(), most.str(), "must be an integer");
        }
    }
}

fn scopes(errs: &mut ErrorList, spec: &View<'_>) {
    const SCOPES: [&str; 7] = [
        "Terminating",
        "NotTerminating",
        "BestEffort",
        "NotBestEffort",
        "PriorityClass",
        "CrossNamespacePodAffinity",
        "VolumeAttributesClass",
    ];
    let scopes = spec.get("scopes");
    for scope in scopes.strs() {
        if !SCOPES.contains(&scope) {
            errs.invalid(scopes.path(), scopes.value(), "unsupported scope");
        }
    }
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.strs().contains(&a) && scopes.strs().contains(&b) {
            errs.invalid(scopes.path(), scopes.value(), "conflicting scopes");
        }
    }
    for e in spec.get("scopeSelector").items("matchExpressions") {
        let (name, operator, values) = (e.get("scopeName"), e.get("operator"), e.get("values"));
        if !SCOPES.contains(&name.str()) {
            errs.invalid(name.path(), name.str(), "unsupported scope");
        }
        match operator.str() {
            "In" | "NotIn" if values.is_empty() => errs.required(
                values.path(),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errs.invalid(
                values.path(),
                values.value(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errs.invalid(operator.path(), other, "not a valid selector operator"),
        }
    }
}
