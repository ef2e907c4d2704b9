//! `RuntimeClass`. Upstream: `pkg/registry/node/runtimeclass/strategy.go`, `ValidateRuntimeClass`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx, MetaRules};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, text};
use crate::table::{age, name};
use crate::validate::pod_spec::{resources, scheduling};
use crate::validate::{immutable_field, internal, labels};

/// The kind `RuntimeClass`.
pub struct RuntimeClass;

impl Kind for RuntimeClass {
    facts!(Facts {
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        columns: &[NAME, ("Handler", "string", "", 0), AGE],
        ..Facts::cluster("node.k8s.io", "v1")
    });

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(obj);
        crate::validate::dns_label_at(&mut errs, &root.get("handler"));
        let overhead = root.get("overhead");
        resources::limits_only(&mut errs, &overhead.get("podFixed"), overhead.path());
        labels::labels(&mut errs, &root.dig("scheduling.nodeSelector"));
        let tolerations = root.dig("scheduling.tolerations");
        scheduling::tolerations(&mut errs, &tolerations);
        let mut seen = std::collections::BTreeSet::new();
        for toleration in tolerations.list() {
            if !seen.insert(["key", "operator", "value", "effect"].map(|field| toleration.get(field).str())) {
                errs.duplicate(toleration.path(), internal::shown(internal::TOLERATION, toleration.value()));
            }
        }
        errs
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        immutable_field(&mut errs, new, old, &["handler"]);
        errs
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::Machinery
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        vec![json!(name(obj)), json!(text(obj, &["handler"])), json!(age(obj, now))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    #[test]
    fn a_class_is_checked_where_pods_are() {
        let found = problems(
            &RuntimeClass,
            &json!({"handler": "A", "overhead": {"podFixed": {"cpu": "-1", "x": "1"}}, "scheduling": {"nodeSelector": {"a": "b"},
                "tolerations": [{"key": "k", "operator": "Exists"}, {"key": "k", "operator": "Exists", "tolerationSeconds": 5}]}}),
        );
        assert!(
            found[0].starts_with("handler: Invalid value: \"A\": a lowercase RFC 1123 label must consist"),
            "{found:?}"
        );
        assert_eq!(
            found[1..],
            [
                "overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                "overhead.limits[x]: Invalid value: \"x\": must be a standard resource type or fully qualified",
                "overhead.limits[x]: Invalid value: \"x\": must be a standard resource for containers",
                "scheduling.tolerations[1].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
                "scheduling.tolerations[1]: Duplicate value: {\"Key\":\"k\",\"Operator\":\"Exists\",\"Value\":\"\",\"Effect\":\"\",\
                 \"TolerationSeconds\":5}",
            ]
        );
        assert_eq!(
            problems_of_update(&RuntimeClass, None, &json!({"handler": "b"}), &json!({"handler": "a"})),
            ["handler: Invalid value: \"b\": field is immutable"]
        );
    }
}
