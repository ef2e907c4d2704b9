//! Affinity to nodes and pods. Upstream: `validateAffinity`, `ValidateNodeSelector`.

use crate::field::ErrorList;
use crate::object::View;
use crate::validate::{dns_label_at, labels, selector};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// The field `affinity` of a pod spec.
pub fn affinity(errs: &mut ErrorList, v: &View<'_>) {
    let node = v.get("nodeAffinity");
    if node.get(REQUIRED).is_set() {
        node_selector(errs, &node.get(REQUIRED));
    }
    for preferred in node.items(PREFERRED) {
        let weight = preferred.get("weight");
        self::weight(errs, &weight);
        node_selector_term(errs, &preferred.get("preference"), false);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let pods = v.get(field);
        for term in pods.items(REQUIRED) {
            pod_term(errs, &term);
        }
        for weighted in pods.items(PREFERRED) {
            self::weight(errs, &weighted.get("weight"));
            pod_term(errs, &weighted.get("podAffinityTerm"));
        }
    }
}

fn weight(errs: &mut ErrorList, v: &View<'_>) {
    let weight = v.int().unwrap_or_default();
    if !(1..=100).contains(&weight) {
        errs.invalid(v.path(), weight, "must be in the range 1-100");
    }
}

/// A selector of nodes: one term must match.
pub fn node_selector(errs: &mut ErrorList, v: &View<'_>) {
    let terms = v.get("nodeSelectorTerms");
    if terms.is_empty() {
        errs.required(terms.path(), "must have at least one node selector term");
    }
    for term in terms.list() {
        node_selector_term(errs, &term, true);
    }
}

/// Labels of a term that is only preferred are not looked at.
fn node_selector_term(errs: &mut ErrorList, v: &View<'_>, required: bool) {
    for requirement in v.items("matchExpressions") {
        let (key, operator, values) = (requirement.get("key"), requirement.get("operator"), requirement.get("values"));
        match operator.str() {
            "In" | "NotIn" => {
                if values.is_empty() {
                    errs.required(values.path(), "must be specified when `operator` is 'In' or 'NotIn'");
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    errs.forbidden(values.path(), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                }
            }
            "Gt" | "Lt" => {
                if values.len() != 1 {
                    errs.required(values.path(), "must be specified single value when `operator` is 'Lt' or 'Gt'");
                }
            }
            other => errs.invalid(operator.path(), other, "not a valid selector operator"),
        }
        labels::name(errs, key.str(), key.path());
        if required {
            values.list().iter().for_each(|value| labels::value(errs, value.str(), value.path()));
        }
    }
    for requirement in v.items("matchFields") {
        let (key, operator, values) = (requirement.get("key"), requirement.get("operator"), requirement.get("values"));
        match operator.str() {
            "In" | "NotIn" => {
                if values.len() != 1 {
                    errs.required(
                        values.path(),
                        "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                    );
                }
            }
            other => errs.invalid(operator.path(), other, "not a valid selector operator"),
        }
        if key.str() == "metadata.name" {
            for value in values.list() {
                for problem in crate::names::dns_subdomain(value.str(), false) {
                    errs.invalid(value.path(), value.str(), problem);
                }
            }
        } else {
            errs.invalid(key.path(), key.str(), "not a valid field selector key");
        }
    }
}

fn pod_term(errs: &mut ErrorList, term: &View<'_>) {
    selector::label_selector(errs, &term.get("labelSelector"));
    selector::label_selector(errs, &term.get("namespaceSelector"));
    for namespace in term.items("namespaces") {
        let at_term = View::at(term.path().child("namespace"), namespace.value());
        dns_label_at(errs, &at_term);
    }
    label_keys(errs, term);
    let key = term.get("topologyKey");
    if key.str().is_empty() {
        errs.required(key.path(), "can not be empty");
    }
    labels::name(errs, key.str(), key.path());
}

/// Keys whose values the pod's own labels give: well formed, only with a selector, and in one list only.
/// Upstream: `validateMatchLabelKeysAndMismatchLabelKeys`.
fn label_keys(errs: &mut ErrorList, v: &View<'_>) {
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = v.get(field);
        if !keys.is_empty() && !v.get("labelSelector").is_set() {
            errs.forbidden(keys.path(), "must not be specified when labelSelector is not set");
            continue;
        }
        for key in keys.list() {
            labels::name(errs, key.str(), key.path());
        }
    }
    let (a, b) = (v.get("matchLabelKeys"), v.get("mismatchLabelKeys"));
    // The keys have become requirements already: a key that is there once more was in the selector.
    let selector = v.get("labelSelector");
    let mut seen: Vec<&str> = selector.get("matchLabels").entries().iter().map(|(key, _)| *key).collect();
    for expression in selector.items("matchExpressions") {
        let key = expression.get("key").str();
        if let Some(i) = a.strs().iter().position(|k| *k == key)
            && seen.contains(&key)
        {
            errs.invalid(&v.path().index(i), key, "exists in both matchLabelKeys and labelSelector");
        }
        seen.push(key);
    }
    for key in a.list() {
        if b.strs().contains(&key.str()) {
            errs.invalid(key.path(), key.str(), "exists in both matchLabelKeys and mismatchLabelKeys");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::pod_spec::tests::problems;

    #[test]
    fn terms_and_weights_are_checked() {
        assert_eq!(
            problems(json!({"containers": [{"name": "c", "image": "i"}], "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}},
                "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 0, "podAffinityTerm": {"topologyKey": "a"}}]}}})),
            [
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required \
                 value: must have at least one node selector term",
                "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: \
                 0: must be in the range 1-100",
            ]
        );
    }
}
