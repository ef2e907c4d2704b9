//! `StorageClass`. Upstream: `pkg/registry/storage/storageclass/strategy.go`, `ValidateStorageClass`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx, MetaPass};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, default_value, text};
use crate::table::age;
use crate::validate::immutable_field;
use crate::validate::pod_spec::warnings::moved;

/// The kind `StorageClass`.
pub struct StorageClass;

impl Kind for StorageClass {
    facts!(Facts {
        kind: "StorageClass",
        plural: "storageclasses",
        short_names: &["sc"],
        columns: &[
            NAME,
            ("Provisioner", "string", "", 0),
            ("ReclaimPolicy", "string", "", 0),
            ("VolumeBindingMode", "string", "", 0),
            ("AllowVolumeExpansion", "string", "", 0),
            AGE
        ],
        ..Facts::cluster("storage.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        default_value(obj, "reclaimPolicy", "Delete");
        default_value(obj, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(obj);
        super::provisioner(&mut errs, &root.get("provisioner"));
        super::parameters(&mut errs, &root.get("parameters"), true);
        let policy = root.get("reclaimPolicy");
        if !matches!(policy.str(), "" | "Delete" | "Retain") {
            errs.not_supported(policy.path(), policy.str(), &["Delete", "Retain"]);
        }
        let mode = root.get("volumeBindingMode");
        if !mode.is_set() {
            errs.required(mode.path(), "");
        } else if !matches!(mode.str(), "Immediate" | "WaitForFirstConsumer") {
            errs.not_supported(mode.path(), mode.str(), &["Immediate", "WaitForFirstConsumer"]);
        }
        topologies(&mut errs, &root.get("allowedTopologies"));
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = self.validate(cx, new);
        let root = View::root(new);
        for (field, detail) in [
            ("parameters", "updates to parameters are forbidden."),
            ("provisioner", "updates to provisioner are forbidden."),
            ("reclaimPolicy", "updates to reclaimPolicy are forbidden."),
        ] {
            if !crate::object::same(root.get(field).value(), at(old, &[field])) {
                errs.forbidden(root.get(field).path(), detail);
            }
        }
        immutable_field(&mut errs, new, old, &["volumeBindingMode"]);
        errs
    }

    fn warnings(&self, _cx: &Cx<'_>, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        for term in View::root(new).items("allowedTopologies") {
            for key in term.items("matchLabelExpressions").iter().map(|expression| expression.get("key")) {
                warnings.extend(moved(key.str()).map(|text| format!("{}: {text}", key.path())));
            }
        }
        warnings
    }

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::New, MetaPass::Changed]
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let annotation = |key: &str| text(obj, &["metadata", "annotations", key]) == "true";
        let default = annotation("storageclass.kubernetes.io/is-default-class")
            || annotation("storageclass.beta.kubernetes.io/is-default-class");
        let name = crate::table::name(obj);
        vec![
            json!(if default { format!("{name} (default)") } else { name.to_owned() }),
            json!(text(obj, &["provisioner"])),
            json!(text(obj, &["reclaimPolicy"])),
            json!(text(obj, &["volumeBindingMode"])),
            json!(at(obj, &["allowVolumeExpansion"]).as_bool().unwrap_or_default()),
            json!(age(obj, now)),
        ]
    }
}

/// Where volumes may lie: each key once in a term, each value once for a key, no term twice.
/// Upstream: `validateAllowedTopologies`, `ValidateTopologySelectorTerm`.
fn topologies<'a>(errs: &mut ErrorList, terms: &View<'a>) {
    // Upstream's list of the terms so far begins with as many empty ones: a term without keys is found in it at once.
    let mut seen: Vec<BTreeMap<&str, BTreeSet<&str>>> = vec![BTreeMap::new(); terms.len()];
    for term in terms.list() {
        let (mut keys, expressions) = (BTreeMap::new(), term.get("matchLabelExpressions"));
        for requirement in expressions.list() {
            let (key, values, mut set) = (requirement.get("key"), requirement.get("values"), BTreeSet::new());
            if values.is_empty() {
                errs.required(values.path(), "");
            }
            for value in values.list() {
                if !set.insert(value.str()) {
                    errs.duplicate(value.path(), value.str());
                }
            }
            crate::validate::labels::name(errs, key.str(), key.path());
            if keys.insert(key.str(), set).is_some() {
                errs.duplicate(key.path(), key.str());
            }
        }
        for _ in seen.iter().filter(|earlier| **earlier == keys) {
            errs.duplicate(expressions.path(), "");
        }
        seen.push(keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems_of_update, with_cx};

    #[test]
    fn no_term_and_no_value_comes_twice() {
        let term = |values: &[&str]| json!({"matchLabelExpressions": [{"key": "zone", "values": values}]});
        let problems = |terms: Value| {
            let mut errs = ErrorList::new();
            topologies(&mut errs, &View::at(crate::field::Path::new("t"), &terms));
            errs.0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(problems(json!([term(&["a"]), term(&["b"])])), [""; 0]);
        assert_eq!(
            problems(json!([term(&["a", "a"]), term(&["a"]), term(&[])])),
            [
                "t[0].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"",
                "t[1].matchLabelExpressions: Duplicate value: \"\"",
                "t[2].matchLabelExpressions[0].values: Required value",
            ]
        );
        assert_eq!(problems(json!([{}])), ["t[0].matchLabelExpressions: Duplicate value: \"\""]);
    }

    #[test]
    fn a_changed_class_is_looked_at_as_a_new_one() {
        let old = json!({"provisioner": "d.io", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"});
        let mut new = old.clone();
        new["reclaimPolicy"] = json!("x");
        new["allowedTopologies"] = json!([{}]);
        assert_eq!(
            problems_of_update(&StorageClass, None, &new, &old),
            [
                "reclaimPolicy: Unsupported value: \"x\": supported values: \"Delete\", \"Retain\"",
                "allowedTopologies[0].matchLabelExpressions: Duplicate value: \"\"",
                "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
            ]
        );
        new["allowedTopologies"] =
            json!([{"matchLabelExpressions": [{"key": "failure-domain.beta.kubernetes.io/zone", "values": ["a"]}]}]);
        assert_eq!(
            with_cx(None, |cx| StorageClass.warnings(cx, &new, Some(&old))),
            ["allowedTopologies[0].matchLabelExpressions[0].key: deprecated since v1.17; use \
                 \"topology.kubernetes.io/zone\" instead"]
        );
    }
}
