//! Conditions as `metav1.Condition`. Upstream: `ValidateConditions` in `k8s.io/apimachinery/pkg/apis/meta/v1/validation`.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

use super::labels;
use crate::field::ErrorList;
use crate::object::View;

/// A list of conditions, each type once.
pub fn conditions(errs: &mut ErrorList, list: &View<'_>) {
    let mut seen = BTreeSet::new();
    for condition in list.list() {
        let ty = condition.get("type");
        if !seen.insert(ty.str()) {
            errs.duplicate(ty.path(), ty.str());
        }
        one(errs, &condition);
    }
}

fn one(errs: &mut ErrorList, v: &View<'_>) {
    static REASON: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$").expect("constant pattern compiles"));
    let (ty, status, reason) = (v.get("type"), v.get("status"), v.get("reason"));
    labels::name(errs, ty.str(), ty.path());
    if !matches!(status.str(), "True" | "False" | "Unknown") {
        errs.not_supported(status.path(), status.str(), &["False", "True", "Unknown"]);
    }
    let generation = v.get("observedGeneration");
    if let Some(n) = generation.int().filter(|n| *n < 0) {
        errs.invalid(generation.path(), n, "must be greater than or equal to zero");
    }
    let time = v.get("lastTransitionTime");
    if time.is_empty() {
        errs.required(time.path(), "must be set");
    }
    if reason.is_empty() {
        errs.required(reason.path(), "must be set");
    } else {
        if !REASON.is_match(reason.str()) {
            errs.invalid(
                reason.path(),
                reason.str(),
                concat!(
                    "a condition reason must start with alphabetic character, optionally followed by a string of \
                     alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' ",
                    "(e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', ",
                    "regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')"
                ),
            );
        }
        if reason.len() > 1024 {
            errs.too_long(reason.path(), 1024);
        }
    }
    if v.get("message").len() > 32 * 1024 {
        errs.too_long(v.get("message").path(), 32 * 1024);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field::Path;
    use crate::validate::testing::texts;

    #[test]
    fn a_condition_is_complete() {
        let good =
            json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T05:45:00Z", "reason": "R"});
        let list = json!([good, good, {"type": "-", "status": "x", "reason": "1", "observedGeneration": -1}]);
        let mut errs = ErrorList::new();
        conditions(&mut errs, &View::at(Path::new("c"), &list));
        let texts = texts(&errs);
        assert_eq!(texts[0], "c[1].type: Duplicate value: \"Ready\"");
        assert!(texts[1].starts_with("c[2].type: Invalid value: \"-\": name part must consist"));
        assert_eq!(
            texts[2..5],
            [
                "c[2].status: Unsupported value: \"x\": supported values: \"False\", \"True\", \"Unknown\"",
                "c[2].observedGeneration: Invalid value: -1: must be greater than or equal to zero",
                "c[2].lastTransitionTime: Required value: must be set",
            ]
        );
        assert!(texts[5].contains("(e.g. 'my_name',  or 'MY_NAME',"), "{}", texts[5]);
    }
}
