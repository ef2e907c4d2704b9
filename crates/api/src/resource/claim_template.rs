//! `ResourceClaimTemplate`: claims that are made for each pod.
//!
//! Upstream: `pkg/registry/resource/resourceclaimtemplate/strategy.go`, `ValidateResourceClaimTemplate`.

use serde_json::Value;

use super::request;
use crate::field::ErrorList;
use crate::kind::{Cx, Kind};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, at_mut, same};
use crate::validate::{labels, meta};

/// The kind `ResourceClaimTemplate`.
pub struct ResourceClaimTemplate;

impl Kind for ResourceClaimTemplate {
    facts!(Facts {
        kind: "ResourceClaimTemplate",
        plural: "resourceclaimtemplates",
        columns: &[NAME, AGE],
        ..Facts::namespaced(super::GROUP, "v1")
    });

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = at_mut(obj, &["spec", "spec"]) {
            request::default(spec);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let spec = View::root(obj).get("spec");
        meta::annotations(&mut errs, &spec.dig("metadata.annotations"));
        labels::labels(&mut errs, &spec.dig("metadata.labels"));
        request::claim_spec(&mut errs, &spec.get("spec"));
        errs
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let spec = View::root(new).get("spec");
        if !same(spec.value(), at(old, &["spec"])) {
            errs.invalid(spec.path(), super::shown::template(spec.value()), "field is immutable");
        }
        errs
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    #[test]
    fn a_template_is_a_claim_that_stays() {
        let mut obj = json!({"spec": {"metadata": {"labels": {"a": "-"}},
            "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}}}});
        ResourceClaimTemplate.default(&mut obj);
        assert_eq!(obj["spec"]["spec"]["devices"]["requests"][0]["exactly"]["count"], 1);
        assert!(problems(&ResourceClaimTemplate, &obj)[0].starts_with("spec.metadata.labels: Invalid value: \"-\""));
        let mut new = obj.clone();
        new["spec"]["metadata"] = json!({});
        assert!(problems_of_update(&ResourceClaimTemplate, None, &new, &obj)[0].ends_with("field is immutable"));
    }
}
