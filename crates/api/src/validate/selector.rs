//! Label selectors. Upstream: `ValidateLabelSelector` in `k8s.io/apimachinery/pkg/apis/meta/v1/validation`.

use serde_json::Value;

use super::labels;
use crate::field::ErrorList;
use crate::object::{View, at, list, text};

/// A `metav1.LabelSelector`; nothing is wrong with a missing one.
pub fn label_selector(errs: &mut ErrorList, selector: &View<'_>) {
    labels::labels(errs, &selector.get("matchLabels"));
    for e in selector.items("matchExpressions") {
        if !values_fit_operator(errs, &e) {
            errs.invalid(e.get("operator").path(), e.get("operator").str(), "not a valid selector operator");
        }
        label_and_values(errs, &e);
    }
}

/// Whether the operator of a requirement is known. What is known is told whether it has its values.
pub(crate) fn values_fit_operator(errs: &mut ErrorList, requirement: &View<'_>) -> bool {
    let values = requirement.get("values");
    match requirement.get("operator").str() {
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
        _ => return false,
    }
    true
}

/// The label a requirement is about and the values it names are what labels can be.
pub(crate) fn label_and_values(errs: &mut ErrorList, requirement: &View<'_>) {
    let key = requirement.get("key");
    labels::name(errs, key.str(), key.path());
    for v in requirement.items("values") {
        labels::value(errs, v.str(), v.path());
    }
}

/// Whether a selector has no requirement at all, and so selects everything.
pub fn is_empty(selector: &Value) -> bool {
    at(selector, &["matchLabels"]).as_object().is_none_or(|m| m.is_empty())
        && list(selector, &["matchExpressions"]).is_empty()
}

/// Whether a well-formed selector selects an object with these labels.
pub fn matches(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let pairs = at(selector, &["matchLabels"]).as_object().into_iter().flatten();
    pairs.clone().all(|(key, value)| label(key) == value.as_str())
        && list(selector, &["matchExpressions"]).iter().all(|e| {
            let found = label(text(e, &["key"]));
            let among = |value: &str| list(e, &["values"]).iter().any(|v| v == value);
            match text(e, &["operator"]) {
                "In" => found.is_some_and(among),
                "NotIn" => !found.is_some_and(among),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operators_decide_about_values() {
        let selector = json!({"matchExpressions": [
            {"key": "a", "operator": "In"}, {"key": "a", "operator": "Exists", "values": ["x"]}, {"key": "a", "operator": "?"}]});
        let mut errs = ErrorList::new();
        label_selector(&mut errs, &View::at(crate::field::Path::new("spec"), &selector));
        let texts: Vec<String> = errs.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "spec.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                "spec.matchExpressions[2].operator: Invalid value: \"?\": not a valid selector operator",
            ]
        );
    }

    #[test]
    fn all_requirements_must_hold() {
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["2"]}]});
        assert!(matches(&selector, &json!({"a": "1"})));
        assert!(!matches(&selector, &json!({"a": "1", "b": "2"})));
        assert!(!matches(&selector, &json!({})));
    }
}
